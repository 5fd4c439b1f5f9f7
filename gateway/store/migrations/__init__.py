"""The schema, one numbered file a step; the number of the last one is the database's ``user_version``.

A file that has been released is never edited: a change is a new file.
"""
