"""The SQLite store: the ports on one file.

Owns what follows a wall clock that was set. Built by the wiring; called through ``gateway.store.Store``.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from gateway.store import Standing
from gateway.store.engine import Run, Work
from gateway.store.housekeeping import StoreHousekeeping
from gateway.store.sqlite import createsql, sql, watchsql
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.engine import SqliteEngine
from gateway.store.writes import Kind


class SqliteStore(StoreHousekeeping):
    """``gateway.store.Store`` on one SQLite file."""

    shared = False

    def __init__(self, path: Path, *, first_attempt_delay_s: float = 0.0) -> None:
        """Keep everything in ``path``; webhooks fall due ``first_attempt_delay_s`` seconds after their task's end."""
        self.freed = asyncio.Event()
        self._database = Database(path)
        super().__init__(SqliteEngine(self._database), first_attempt_delay_s)
        self._follow_clock = Kind("follow_clock", self._apply_follow_clock, self._clock_followed, alone=True)
        self._kinds.append(self._follow_clock)

    async def open(self) -> None:
        await self._database.open()
        await self._open_ports()

    async def close(self) -> None:
        await self._writer.close()
        await self._database.close()

    @property
    def failing(self) -> str | None:
        return self._database.lost or self._database.failing or self._writer.failing

    @property
    def lost(self) -> str | None:
        return self._database.lost

    async def look(self) -> None:
        await self._database.look()

    # One process has the file: it leads everything, always.

    async def lead(self, name: str, ttl_s: float, *, refused: bool = False) -> int | None:
        return 0

    async def resign(self, name: str) -> None:
        """Nobody else could lead it."""

    async def standing(self, ttl_s: float) -> Standing:
        return Standing(1, frozenset(), frozenset())

    @property
    def set_back_ms(self) -> int:
        return self._database.set_back_ms

    async def follow_clock(self, step_ms: int) -> None:
        await self._writer.submit(self._follow_clock, step_ms)

    def _apply_follow_clock(self, items: Sequence[int]) -> Work[None]:
        moves = (sql.MOVE_TASKS, sql.MOVE_EXPIRIES, sql.MOVE_WEBHOOKS, watchsql.MOVE_WATCHES, createsql.MOVE_CREATES)
        for step_ms in items:
            for statement in moves:
                yield Run(statement, {"step": step_ms})
            yield from self.events.moved(step_ms)

    def _clock_followed(self, items: Sequence[int], _: object) -> None:
        step_ms = sum(items)
        self.outbox.move(step_ms)
        self.tasks.forget_times()

    async def backup(self, target: Path) -> int:
        return await self._database.backup(target)
