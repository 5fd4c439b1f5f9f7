"""The columns that types are read from, as SQLite's statements name them, and lists of such rows in one step.

Owns no statement; ``sql.py``, ``searchsql.py`` and ``watchsql.py`` have them.
"""

from gateway.core.claims import DueTask
from gateway.core.model import Callback, Task
from gateway.store.sqlite.atonce import at_once

_OF_CALLBACK = [name for name in Callback.__struct_fields__ if name != "task"]
_OF_TASK = [name for name in Task.__struct_fields__ if name not in ("outcome", "outcome_bytes")]

CALLBACK = ", ".join(f"c.{name}" for name in _OF_CALLBACK)
TASK = ", ".join(f"t.{name}" for name in _OF_TASK)
"""Without the outcome, which may be large."""
DUE_TASK = ", ".join(DueTask.__struct_fields__[1:]).replace("due_at", "next_poll_at")
"""After its seq."""


def callbacks_at_once(statement: str) -> str:
    """Have a statement return CALLBACK and TASK of many."""
    return at_once(statement, len(_OF_CALLBACK) + len(_OF_TASK), _OF_CALLBACK.index("metadata"))


def tasks_at_once(statement: str) -> str:
    """Have a statement return TASK of many."""
    return at_once(statement, len(_OF_TASK))


def due_tasks_at_once(statement: str) -> str:
    """Have a statement return a seq and DUE_TASK of many."""
    return at_once(statement, len(DueTask.__struct_fields__))
