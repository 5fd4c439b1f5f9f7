"""The manual at ``/manual``: the pages of the folder ``manual`` of this package, and every call of the API."""
