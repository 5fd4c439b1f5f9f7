"""A look into a database file before anything is opened: how many callbacks it holds.

Changes nothing, and says nothing of a file that it cannot read: what is wrong with that is told where it is opened.
Called by ``preflight``.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from gateway.model import CallbackState
from gateway.store import sql

__all__ = ["count_callbacks"]


def count_callbacks(path: Path) -> dict[CallbackState, int]:
    """Return how many callbacks are in each state; none where there is no file, or none that can be read."""
    if not path.is_file():
        return {}
    wal, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    # Only what a killed process left behind is read beside the file, by an index that nobody who runs on it needs.
    left = wal.exists() and wal.stat().st_size > 0
    made = left and not index.exists()
    how = "mode=ro" if left else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=0)) as db:
            return {CallbackState(state): count for state, count in db.execute(sql.COUNT_CALLBACKS)}
    except (sqlite3.Error, ValueError):
        return {}
    finally:
        if made:
            index.unlink(missing_ok=True)
