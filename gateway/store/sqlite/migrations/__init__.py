"""The schema, one numbered file a step; the number of the last one is the database's ``user_version``.

A database gets the files whose numbers are above its own. A file that has been released is never edited: a change is a
new file. The numbers 2 to 4 were given to other files once, and 2 even to two: 0005 takes whatever these have made.
"""
