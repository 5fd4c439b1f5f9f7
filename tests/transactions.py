"""What a store's writer commits: kept and not written, and made to fail; for its tests."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from gateway.core.errors import StoreLocked
from gateway.store.engine import Blame, Run, Work
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.engine import SqliteEngine, drive

__all__ = ["Transactions", "blame", "no_locks", "others_blame"]

engine = SqliteEngine(Database(Path("unused")))
blame, no_locks = engine.blame, engine.lock_all


class Transactions:
    """Runs what the writer commits; ``failing`` are raised first instead, one each, as soon as ``go_on`` is set."""

    def __init__(self, *failing: Exception) -> None:
        self.batches: list[Sequence[Any]] = []
        self.hasty: list[bool] = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self._failing = list(failing)

    async def __call__(
        self, make: Callable[[], Work[Any]], committed: Callable[[Any, bool], None], *, hasty: bool = False
    ) -> None:
        self.begun.set()
        self.hasty.append(hasty)
        if self._failing:
            failing = self._failing.pop(0)
            await self.go_on.wait()
            raise failing
        with closing(sqlite3.connect(":memory:")) as db:
            db.execute("CREATE TABLE written (item)")
            before = db.total_changes
            committed(drive(db, make()), db.total_changes > before)

    def apply(self, items: Sequence[Any]) -> Work[Sequence[Any]]:
        if items != ["nothing"]:
            yield Run("INSERT INTO written VALUES (1)")
        self.batches.append(list(items))
        return items


def others_blame(exc: Exception) -> Blame:
    return Blame.LOCKS if isinstance(exc, StoreLocked) else blame(exc)
