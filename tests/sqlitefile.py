"""What the tests of SQLite's store have in common: its file, as it is, as a kill leaves it and damaged."""

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path

import aiosqlite
import pytest

from gateway.core.claims import AttemptRecord, DueCallback
from gateway.core.errors import StoreUnusable
from gateway.core.ids import new_callback_id
from gateway.core.model import Attempt, AttemptResult, NewCallback, Outcome, Settlement, TaskState
from gateway.store.sqlite.store import SqliteStore
from tests.storing import NOW

__all__ = [
    "connection",
    "count_steps",
    "damage",
    "failed",
    "files",
    "killed_copy",
    "new",
    "opened",
    "overwrite",
    "settled",
    "size_of",
    "unusable",
]

_numbers = count()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def new(**changes: object) -> NewCallback:
    given = {
        "id": new_callback_id(NOW),
        "client": "ann",
        "upstream": "up",
        "task_id": f"task-{next(_numbers)}",
        "url": "https://app.example.com/hooks",
        "metadata": b"{}",
        "timeout_s": 3600,
        "created_at": NOW,
        "first_poll_at": NOW,
    }
    return NewCallback(**{**given, **changes})  # type: ignore[arg-type]


def connection(store: SqliteStore) -> aiosqlite.Connection:
    return store._database._connection


async def unusable(path: Path) -> str:
    """Return why the store cannot be opened."""
    store = SqliteStore(path)
    try:
        with pytest.raises(StoreUnusable) as caught:
            await store.open()
    finally:
        await store.close()  # safe all the same
    in_use = "in use by another process" in caught.value.message  # which may end; all else is for somebody to mend
    assert caught.value.exit_code == (1 if in_use else 2)
    return caught.value.message


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def size_of(path: Path) -> int:
    return path.stat().st_size


async def killed_copy(path: Path, *changes: str) -> Path:
    """Make a store, change it, and return a copy of its files as a kill leaves them: the last writes beside it."""
    copy = path.parent / "killed" / path.name
    copy.parent.mkdir()
    async with opened(path) as store:
        await store.registry.register([new() for _ in range(200)])
        await store._database.read("PRAGMA wal_checkpoint(TRUNCATE)")
        store._database._watch.emptied(size_of(path))
        await store.registry.register([new()])
        for change in changes:
            await store._database.read(change)
        for file in path.parent.glob("gateway.db*"):
            shutil.copy(file, copy.parent)
    assert (copy.parent / "gateway.db-wal").stat().st_size > 0
    return copy


def damage(path: Path, table: str) -> None:
    """Overwrite the page that a table or index begins on."""
    with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as db:
        ((page,),) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,))
        ((size,),) = db.execute("PRAGMA page_size")
    content = path.read_bytes()
    overwrite(path, content[: (page - 1) * size] + b"\xff" * size + content[page * size :])


async def settled(store: SqliteStore, callback: NewCallback, at: int = NOW) -> None:
    """Register a callback, and settle its task: its webhook is due."""
    (made,) = await store.registry.register([callback])
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    seq = made.callback.task.seq
    await store.tasks.settle(Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=at, polls=1))


def failed(due: DueCallback, next_attempt_at: int) -> AttemptRecord:
    attempt = Attempt(
        number=due.attempts + 1,
        started_at=NOW,
        duration_ms=1,
        status_code=500,
        error="500",
        result=AttemptResult.RETRY,
    )
    return AttemptRecord(claim=due, attempt=attempt, next_attempt_at=next_attempt_at)


def count_steps(store: SqliteStore) -> Callable[[], int]:
    """Return what tells how many of SQLite's steps have been taken since it was last asked, in hundreds."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 100

    def taken() -> int:
        nonlocal steps
        before, steps = steps, 0
        return before

    connection(store)._conn.set_progress_handler(count, 100)
    return taken
