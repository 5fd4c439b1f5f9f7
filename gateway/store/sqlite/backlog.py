"""Counts what waits, without holding up who writes.

Owns how large the parts are in which it is counted; the statements stand in ``sql.py``. Called by ``registry.py``.

Where all of it is one part, the counts are exact. Of more, what moves while it is counted may be missed or counted
twice.
"""

from sqlite3 import Connection
from typing import Any

from gateway.core.model import Backlog
from gateway.store.sqlite import sql
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.statements import Counted

__all__ = ["count_backlog"]

_PART = 2000  # rows: a millisecond at most


async def count_backlog(database: Database) -> Backlog:
    """Count, a part after the other; writes have their turn in between. Raises StoreError."""
    waiting = await _counts(database, sql.COUNT_WAITING)
    pending, oldest_due_at = (await _counts(database, sql.COUNT_PENDING)).get("", (0, None))
    dead, _ = (await _counts(database, sql.COUNT_DEAD)).get("", (0, None))
    return Backlog(waiting=waiting, pending=pending, oldest_due_at=oldest_due_at, dead=dead)


async def _counts(database: Database, counted: Counted) -> dict[str, tuple[int, int]]:
    """Return by label how many there are, and their earliest instant."""
    counts: dict[str, tuple[int, int]] = {}
    after: Any = counted.start
    while after is not None:
        async with database.reading():
            found, after = await database.call(_part, counted, after)
        for label, count, earliest in found:
            counted_before, earliest_before = counts.get(label, (0, earliest))
            counts[label] = counted_before + count, min(earliest_before, earliest)
    return counts


def _part(db: Connection, counted: Counted, after: Any) -> tuple[list[tuple[str, int, int]], Any]:
    found = db.execute(counted.part, (*after, _PART)).fetchall()
    more = sum(count for _, count, _ in found) == _PART
    return found, db.execute(counted.end, (*after, _PART)).fetchone() if more else None
