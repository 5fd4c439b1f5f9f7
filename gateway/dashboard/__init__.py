"""The pages that a browser shows: the dashboard at ``/``, over the registry port and the facts it is handed alone."""
