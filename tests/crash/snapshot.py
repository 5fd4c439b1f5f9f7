"""What a database holds at one moment, for the checker: read from a copy of SQLite's file, or from PostgreSQL.

Owns the questions; judges nothing but whether the file is whole. Called by the checkers.
"""

import asyncio
import hashlib
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg

from gateway.store.rows import body as body_of
from gateway.webhook.body import webhook_body

__all__ = ["Snapshot", "copy_of", "of_file", "of_postgres"]

_CALLBACKS = """
SELECT c.id, c.state, c.url, c.attempts, c.budget_used, c.next_attempt_at, c.metadata, c.timeout_s, c.format,
    t.task_id, t.state AS task_state, t.next_poll_at, t.settled_at,
    CASE WHEN length(c.body) = 0 AND c.format = 'record' AND length(t.record) > 0 THEN t.record ELSE c.body END AS body,
    CASE WHEN length(c.body) = 0 AND NOT (c.format = 'record' AND length(t.record) > 0) THEN t.outcome END AS outcome
FROM callbacks AS c JOIN tasks AS t ON t.seq = c.task_seq
"""
# The end of a task and what is owed for it are one transaction: nothing is polled that nobody waits for.
_POLLED_FOR_NOBODY = """
SELECT task_id FROM tasks AS t WHERE next_poll_at IS NOT NULL AND read_until IS NULL
AND NOT EXISTS (SELECT 1 FROM callbacks WHERE task_seq = t.seq AND state = 'waiting')
"""
_ATTEMPTS = """
SELECT c.id, a.number, a.started_at, a.status_code, a.result
FROM attempts AS a JOIN callbacks AS c ON c.seq = a.callback_seq ORDER BY c.id, a.number
"""


class Snapshot:
    """Rows by the callback's id; both engines' rows are read by name."""

    def __init__(
        self, callbacks: Iterable[Any] = (), attempts: Iterable[Any] = (), polled_for_nobody: Iterable[Any] = ()
    ) -> None:
        self.callbacks: dict[str, Any] = {row["id"]: row for row in callbacks}
        self.attempts: dict[str, list[Any]] = {}
        self.bodies: dict[str, bytes] = {}
        """Hashes."""
        self.wrong = [f"{row['task_id']} is polled, and nobody waits for it" for row in polled_for_nobody]
        """What no moment may show."""
        for row in attempts:
            self.attempts.setdefault(row["id"], []).append(row)
        for callback_id, row in self.callbacks.items():
            parts = [row[name] for name in ("body", "outcome", "task_state", "settled_at", "metadata", "format")]
            if (owed := body_of(*parts)) is not None:
                self.bodies[callback_id] = hashlib.sha256(webhook_body(callback_id, owed)).digest()


def of_file(copy: Path) -> Snapshot:
    """Read a copy of SQLite's file, and whether it is whole. Raises sqlite3.DatabaseError."""
    if not copy.exists():
        return Snapshot()  # killed before there was a file
    with closing(sqlite3.connect(copy)) as db:
        db.row_factory = sqlite3.Row
        wrong = []
        for pragma in ("integrity_check", "foreign_key_check"):
            found = [tuple(row) for row in db.execute(f"PRAGMA {pragma}")]
            if found not in ([("ok",)], []):
                wrong.append(f"{pragma}: {found[:3]}")
        if not db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'attempts'").fetchone()[0]:
            snapshot = Snapshot()  # killed before the schema was committed, whole or not at all
        else:
            snapshot = Snapshot(*(db.execute(sql).fetchall() for sql in (_CALLBACKS, _ATTEMPTS, _POLLED_FOR_NOBODY)))
        snapshot.wrong += wrong
        return snapshot


async def of_postgres(connection: "asyncpg.Connection[Any]") -> Snapshot:
    """Read one moment of PostgreSQL's, whoever writes meanwhile."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        found = [await connection.fetch(sql) for sql in (_CALLBACKS, _ATTEMPTS, _POLLED_FOR_NOBODY)]
    return await asyncio.to_thread(Snapshot, *found)


def copy_of(database: Path, folder: Path) -> Path:
    """Copy a database that no process has open; return where the copy is, if there was one."""
    # With locking_mode=EXCLUSIVE there is no -shm file: two are all.
    copy = folder / "copy.db"
    for suffix in ("", "-wal", "-shm", "-journal"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
        if (file := database.with_name(database.name + suffix)).exists():
            shutil.copyfile(file, copy.with_name(copy.name + suffix))
    return copy
