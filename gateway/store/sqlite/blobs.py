"""Large outcomes and records, written and read without being there several times.

Runs in the database's thread. Called by ``engine.py``.
"""

from collections.abc import Sequence
from sqlite3 import Connection

from gateway.store.engine import Column
from gateway.store.sqlite import sql

_PIECE = 1024 * 1024  # bytes that are written at once


def write_large(db: Connection, seq: int, column: Column, parts: Sequence[bytes]) -> None:
    """Write what was left out of a task's row, where that is still so: as a parameter it is copied several times."""
    if not db.execute(sql.MAKE_ROOM[column], (sum(map(len, parts)), seq)).rowcount:
        return
    with db.blobopen("tasks", column, seq) as blob:
        for part in parts:
            for start in range(0, len(part), _PIECE):
                blob.write(memoryview(part)[start : start + _PIECE])


def read_large(db: Connection, seq: int, column: Column) -> bytes | None:
    """Return a task's outcome or record: with a SELECT it would be there twice for a moment."""
    if not db.execute(sql.SELECT_BYTES[column], (seq,)).fetchall():
        return None
    with db.blobopen("tasks", column, seq, readonly=True) as blob:
        return blob.read()
