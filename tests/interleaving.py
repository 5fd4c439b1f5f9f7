"""Two transactions on PostgreSQL, statement by statement: one is stopped anywhere for some statements of the other.

Who waits for the other's lock is passed over until he goes on. No clock decides anything: whether a statement waits is
asked of the server.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from gateway.core.claims import AttemptRecord, Lane
from gateway.store.engine import Blame, Engine, Lead, Rows, Touched, Work
from gateway.store.housekeeping import StoreHousekeeping
from gateway.store.postgres import createsql, deliversql, leadsql, locksql, sql, watchsql
from gateway.store.postgres.engine import PostgresEngine
from gateway.store.postgres.schema import migrations, upgrade
from gateway.store.postgres.session import Session, connect
from gateway.store.postgres.url import Servers

__all__ = ["Ports", "World", "group_commit", "guarded", "ports"]

Ports = StoreHousekeeping

_TABLES = ("attempts", "callbacks", "tasks", "creates", "leads")
_TO_ITS_END = 1000
_NOTICED_S = 0.002  # a statement takes less, but for one that waits


class World:
    """A database with two replicas' connections, and one that looks on."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._one, self._other, self._looker = sessions

    @classmethod
    @asynccontextmanager
    async def on(cls, url: str) -> AsyncIterator["World"]:
        sessions = [await connect(Servers(url, None), sql.PLANNER) for _ in range(3)]
        await upgrade(sessions[0], migrations())
        try:
            yield cls(sessions)
        finally:
            for session in sessions:
                await session.close()

    async def empty(self) -> None:
        # To truncate a table makes its files anew, which takes longer than what follows.
        await self._looker.raw.execute("; ".join(f"DELETE FROM {table}" for table in _TABLES))

    async def do(self, work: Work[Any]) -> Any:
        """Do work in a transaction of its own."""
        return (await self._looker.transaction(work))[0]

    async def look(self, statement: str, *parameters: Any) -> list[Any]:
        return await self._looker.read(statement, parameters)

    async def read(self, statement: str, parameters: Any) -> list[Any]:
        return await self._looker.read(statement, parameters)

    async def interleave(
        self, one: Work[Any], other: Work[Any], steps: int, others: int
    ) -> tuple[list[Any], bool, bool]:
        """Take steps of one, then some of the other, then the first to its end, then the second.

        Return what both have returned, and whether each had as many steps to take.
        """
        first, second = _Side(self._one, one), _Side(self._other, other)
        enough = await self._advance(first, steps), await self._advance(second, others)
        while not (first.done and second.done):
            await self._advance(first, _TO_ITS_END)
            await self._advance(second, _TO_ITS_END)
        return [first.result, second.result], *enough

    async def _advance(self, side: "_Side", steps: int) -> bool:
        """Take so many steps; False where it waits or is done before that."""
        for _ in range(steps):
            if not await self._goes_on(side) or side.done:
                return False
            side.begin_step()
        return await self._goes_on(side)

    async def _goes_on(self, side: "_Side") -> bool:
        """Wait until the step that was begun is done; False where it waits for the other side."""
        while side.step is not None:
            done, _ = await asyncio.wait({side.step}, timeout=_NOTICED_S)
            if done:
                side.end_step()
            elif (await self.look("SELECT cardinality(pg_blocking_pids($1)) > 0", side.pid))[0][0]:
                return False
        return True


class _Side:
    """A transaction on its connection."""

    def __init__(self, session: Session, work: Work[Any]) -> None:
        self.pid = session.raw.get_server_pid()
        self.step: asyncio.Task[None] | None = None
        self.done = False
        self.result: Any = None
        self._session = session
        self._work = work
        self._begun = False
        self._last: Any = None

    def begin_step(self) -> None:
        self.step = asyncio.create_task(self._take_step())

    def end_step(self) -> None:
        assert self.step is not None
        self.step.result()
        self.step = None

    async def _take_step(self) -> None:
        if not self._begun:
            await self._session.raw.execute("BEGIN")
            self._begun = True
        try:
            self._last = await self._session._take(self._work.send(self._last))
        except StopIteration as end:
            await self._session.raw.execute("COMMIT")
            self.done, self.result = True, end.value


def ports() -> StoreHousekeeping:
    """Return the ports, whose kinds' work can be driven by itself."""
    return StoreHousekeeping(cast(Engine, _Engine()), 0.0)


async def group_commit(writes: Callable[[Ports], Sequence[Coroutine[Any, Any, Any]]]) -> Work[Any]:
    """Return the work of the one transaction that a replica's writer makes of these, which wait at the same time."""
    engine = _Engine()
    its = StoreHousekeeping(cast(Engine, engine), 0.0)
    its._writer.start()
    waiting = [asyncio.create_task(write) for write in writes(its)]
    await engine.begun.wait()
    assert its._writer._task is not None
    for task in (*waiting, its._writer._task):
        task.cancel()
    await asyncio.wait([*waiting, its._writer._task])
    return engine.work[0]


class _Engine:
    """What the ports' work needs of an engine that is shared."""

    shared = False  # so that everything is led
    sql, deliversql, watchsql, createsql = sql, deliversql, watchsql, createsql
    webhooks = None

    @property
    def hints(self) -> "_Engine":
        return self

    def lane(self, lane: Lane, due_at: int) -> None: ...

    def emptied(self, lane: Lane) -> None: ...

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.work: list[Work[Any]] = []
        """What the writer would do in its first transaction."""

    async def transaction(
        self, make: Callable[[], Work[Any]], committed: Callable[[Any, bool], None], *, hasty: bool = False
    ) -> None:
        self.work.append(make())
        self.begun.set()
        await asyncio.get_running_loop().create_future()

    def blame(self, exc: Exception) -> Blame:
        raise AssertionError

    def array(self, values: Sequence[Any]) -> list[Any]:
        return [*values]

    def record(self, attempts: Sequence[AttemptRecord]) -> Work[bool]:
        return PostgresEngine.record(cast(PostgresEngine, self), attempts)

    def guard(self, leads: Iterable[Lead], lock: Sequence[int] = ()) -> Work[Iterable[Lead]]:
        yield from self.lock(lock)
        return leads

    def lock(self, seqs: Sequence[int]) -> Work[None]:
        yield Rows(locksql.LOCK_TASKS, [(seq,) for seq in seqs])

    def lock_all(self, touched: Iterable[Touched]) -> Work[None]:
        return PostgresEngine.lock_all(cast(PostgresEngine, self), touched)


def guarded(name: str, epoch: int, work: Work[Any]) -> Work[Any]:
    """Do work only while that lead goes on; return None where it does not."""
    if (yield Rows(leadsql.GUARD_LEADS, [(name, epoch)])).rows:
        return (yield from work)
    return None
