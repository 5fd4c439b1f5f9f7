"""The PostgreSQL store: the ports of one replica among others on a shared database.

Owns who leads, as its rows say, and what is heard of other replicas. Built by the wiring; called through
``gateway.store.Store``. Backups, and clocks that are set, are not its own: ``pg_dump`` makes the ones, and the
database's clock is everybody's.
"""

import asyncio
from contextlib import suppress
from pathlib import Path

from gateway.core.clock import SteeredClock
from gateway.core.errors import StoreError
from gateway.store import Standing
from gateway.store.housekeeping import StoreHousekeeping
from gateway.store.postgres import leadsql
from gateway.store.postgres.clock import DatabaseClock
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.engine import PostgresEngine
from gateway.store.postgres.hints import Hearing, ReplicaHints
from gateway.store.postgres.sql import PLANNER
from gateway.store.postgres.url import Servers
from gateway.store.postgres.webhookleases import WebhookLeases

_REPLICA = "replica:"
_LEAVE_S = 2.0
"""So long the end waits at most for its last word to be written."""


class PostgresStore(StoreHousekeeping):
    """``gateway.store.Store`` on one PostgreSQL database."""

    shared = True
    set_back_ms = 0

    def __init__(
        self,
        servers: Servers,
        *,
        replica: str,
        clock: SteeredClock,
        attempt_s: float = 15.0,
        first_attempt_delay_s: float = 0.0,
    ) -> None:
        """Be one ``replica``, whose name no other has; an attempt takes ``attempt_s`` seconds at most.

        ``clock`` is kept in step with the database's, from the opening on.
        """
        self._database = PostgresDatabase(servers, settings=PLANNER)
        self._clock = DatabaseClock(self._database.read, clock, self._database.met_another)
        self._keeping_time: asyncio.Task[None] | None = None
        self.freed = asyncio.Event()
        self._replica = replica
        claims = WebhookLeases(self._database, clock, attempt_s)
        self._hints = ReplicaHints(self._database, replica)
        super().__init__(PostgresEngine(self._database, claims, self._hints), first_attempt_delay_s)
        claims.writer = self._writer
        self._kinds.append(claims.release_kind)

    async def open(self) -> None:
        await self._database.open()
        try:
            await self._clock.measure(first=True)
            await self._open_ports()
        except BaseException:
            await self._database.close()
            raise
        self._keeping_time = asyncio.create_task(self._clock.run(), name="store-clock")
        self._hints.start(
            Hearing(
                task=self._hear_task,
                expiry=self.tasks.note_expiry,
                lane=self.outbox.note,
                settled=self.tasks.note_settled,
                freed=self.freed.set,
                look=self._look_again,
            )
        )

    def _hear_task(self, upstream: str, watchers: str, due_at: int) -> None:
        if self.tasks.leads(upstream):
            self.tasks.note(upstream, watchers, due_at)
            self.tasks.due(upstream).set()

    async def _look_again(self) -> None:
        await self.tasks.look_again()
        await self.outbox.look_again()

    async def close(self) -> None:
        if self._keeping_time is not None:
            self._keeping_time.cancel()
            await asyncio.wait((self._keeping_time,))
        await self._writer.close()
        await self._hints.close()
        await self._leave()
        await self._database.close()

    async def _leave(self) -> None:
        """Have the others know at once that this replica is no more, and ``gateway copy-database`` too."""
        with suppress(StoreError, TimeoutError):  # then they find out by its time
            async with asyncio.timeout(_LEAVE_S):
                await self._database.write(leadsql.LEAVE, {"holder": self._replica}, lead=True)

    @property
    def failing(self) -> str | None:
        return self._database.failing or self._writer.failing

    @property
    def lost(self) -> str | None:
        return self._database.lost

    async def look(self) -> None:
        await self._database.read("SELECT 1")

    # Who leads.

    async def lead(self, name: str, ttl_s: float, *, refused: bool = False) -> int | None:
        about = {"name": name, "holder": self._replica, "ttl_ms": round(ttl_s * 1000), "refused": refused}
        found = await self._database.write(leadsql.TAKE_LEAD, about, lead=True)
        return found[0][0] if found else None

    async def resign(self, name: str) -> None:
        await self._database.write(leadsql.RESIGN_LEAD, {"name": name, "holder": self._replica}, lead=True)
        self._hints.freed()

    async def standing(self, ttl_s: float) -> Standing:
        about = {"holder": self._replica, "ttl_ms": round(ttl_s * 1000)}
        found = await self._database.write(leadsql.STAND, about, lead=True)
        names = {name for name, _ in found}
        replicas = {name for name in names if name.startswith(_REPLICA)}
        self._hints.alone = len(replicas) < 2
        refused = frozenset(name for name, is_refused in found if is_refused)
        return Standing(len(replicas), frozenset(names - replicas), refused)

    # What is not its own.

    async def follow_clock(self, step_ms: int) -> None:
        """The database's clock is everybody's."""

    async def backup(self, target: Path) -> int:
        raise StoreError("A PostgreSQL database is backed up with pg_dump, or as its operator does it.")
