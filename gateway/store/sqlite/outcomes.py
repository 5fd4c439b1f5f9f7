"""Large outcomes, written and read without being there several times.

Runs in the database's thread. Called by ``registry.py``, ``tasks.py`` and ``outbox.py``.
"""

from sqlite3 import Connection

from gateway.store.sqlite import sql

__all__ = ["read_outcome", "write_outcome"]

_PIECE = 1024 * 1024  # bytes of an outcome that are written at once


def write_outcome(db: Connection, seq: int, outcome: bytes) -> None:
    """Write what was left out of a task's settlement, where that stands: as a parameter it is copied several times."""
    if not db.execute(sql.MAKE_ROOM_FOR_OUTCOME, (len(outcome), seq)).rowcount:
        return
    with db.blobopen("tasks", "outcome", seq) as blob, memoryview(outcome) as view:
        for start in range(0, len(outcome), _PIECE):
            blob.write(view[start : start + _PIECE])


def read_outcome(db: Connection, seq: int) -> bytes | None:
    """Return a task's outcome: with a SELECT it would be there twice for a moment."""
    if not db.execute(sql.SELECT_OUTCOME_BYTES, (seq,)).fetchall():
        return None
    with db.blobopen("tasks", "outcome", seq, readonly=True) as blob:
        return blob.read()
