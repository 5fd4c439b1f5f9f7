"""What stands between a simulated process and the real PostgreSQL: connections that time passes on, and that break.

Owns the place of ``asyncpg.connect``. Each statement is run to its end while the virtual time stands still, one after
the other, so that the same seed meets the same rows; one that waits for another's lock is left waiting until that is
gone. The server's own time limits are played here, in virtual time.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from gateway.store.postgres import leadsql
from gateway.store.postgres.deliversql import CLAIM_WEBHOOKS
from gateway.store.postgres.session import COMMAND_LIMIT_S, _numbered
from tests.simulation.replicas.cluster import Backend, Cluster, Settle
from tests.simulation.replicas.loops import ProcessLoop, Time

__all__ = ["Link", "Network"]

T = TypeVar("T")

_LOCK_LIMIT_S = 2.0
_IDLE_LIMIT_S = 5.0
_TAKE_LEAD, _TAKES = _numbered(leadsql.TAKE_LEAD)
_RESIGN_LEAD, _RESIGNS = _numbered(leadsql.RESIGN_LEAD)


class Link:
    """One process's way to the database."""

    def __init__(self, name: str, loop: ProcessLoop) -> None:
        self.name = name
        self.loop = loop
        self.cut = ""
        """``refused``, or ``silent``: nothing arrives, and nobody says so."""
        self.connections: set[Connection] = set()
        self.at: Callable[[str], None] = lambda moment: None
        """Told of what it begins: BEGIN, a statement within, COMMIT; or that it has claimed webhooks."""


class Network:
    """All ways to the database, and who leads as it has told them."""

    def __init__(self, time: Time, cluster: Cluster, rng: random.Random, home: ProcessLoop) -> None:
        self.time = time
        self.cluster = cluster
        self.rng = rng
        self.home = home
        self.links: dict[ProcessLoop, Link] = {}
        self.leads: dict[str, tuple[str, float]] = {}
        """By name, who leads and until when."""
        self.led_s = 0.0
        """When somebody led polls last, or went on with it."""
        self.claims: dict[str, tuple[str, int]] = {}
        """By webhook-id, who has claimed it and until when, by the database's clock."""
        self.statements = 0
        self.slow_until_s = -1.0

    def link(self, name: str, loop: ProcessLoop) -> Link:
        self.links[loop] = Link(name, loop)
        return self.links[loop]

    def cut(self, link: Link, how: str) -> None:
        """Cut a way, or mend it."""
        link.cut = how
        if how == "refused":
            self.lose(link)

    def lose(self, link: Link) -> None:
        """Let all its connections go."""
        for connection in [*link.connections]:
            connection.lose()

    def ended(self, link: Link) -> None:
        """Hear that a process is gone."""
        link.cut = ""
        for connection in [*link.connections]:
            connection.terminate()
        self.links.pop(link.loop, None)

    async def connect(self, *_: object, **__: object) -> "Connection":
        """Take the place of ``asyncpg.connect``."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ProcessLoop)
        link = self.links.get(loop)
        await self.travel()
        if link is None or link.cut == "refused":
            raise ConnectionRefusedError(111, "Connection refused")
        while link.cut:  # noqa: ASYNC110 - a network tells nobody that it is whole again
            await asyncio.sleep(0.5)
        future: asyncio.Future[Backend] = loop.create_future()
        self.time.work.append(lambda: self.cluster.take(link.name, _into(future)))
        return Connection(self, link, await future)

    async def travel(self) -> None:
        slow = self.time.now_s < self.slow_until_s
        for_s = self.rng.choice((0.3, 1.0, 3.0) if slow else (0.0, 0.0, 0.0, 0.001, 0.01))
        if for_s:
            await asyncio.sleep(for_s)

    def notify(self, payload: str) -> None:
        """Tell all who listen."""
        for link in self.links.values():
            for connection in link.connections:
                if connection.hears is not None and not link.cut:
                    delay_s = self.rng.choice((0.0, 0.001, 0.05, 0.3))
                    link.loop.call_later(delay_s, connection.hears, connection, 0, "gateway", payload)

    def note(self, link: Link, statement: str, parameters: tuple[Any, ...], rows: list[Any]) -> None:
        """Learn who leads, and who has claimed what."""
        if statement == _TAKE_LEAD and rows:
            about = dict(zip(_TAKES, parameters, strict=True))
            self.leads[about["name"]] = link.name, self.time.now_s + about["ttl_ms"] / 1000
            self.led_s = self.time.now_s if about["name"].startswith("polls:") else self.led_s
        elif statement == CLAIM_WEBHOOKS:
            until = self.cluster.now() + parameters[-1]
            self.claims |= {row[1]: (link.name, until) for row in rows if row[1] is not None}
        elif statement == _RESIGN_LEAD:
            name = dict(zip(_RESIGNS, parameters, strict=True))["name"]
            if self.leads.get(name, ("",))[0] == link.name:
                del self.leads[name]


class _Socketless:
    def get_extra_info(self, _: str) -> None:
        """It has no socket."""


class Connection:
    """What the store uses of ``asyncpg.Connection``."""

    _transport = _Socketless()

    def __init__(self, network: Network, link: Link, backend: Backend) -> None:
        self._network = network
        self._link = link
        self._backend = backend
        self._closed = self._lost = False
        self._waits: asyncio.Future[Any] | None = None
        self._ended: Exception | None = None  # why the server has ended it
        self._idle: asyncio.TimerHandle | None = None
        self._listeners: list[Callable[[Any], None]] = []
        self.hears: Callable[..., None] | None = None
        link.connections.add(self)

    # Statements

    async def execute(self, sql: str) -> str:
        if sql.startswith("SET "):
            return "SET"  # the limits are played here, the planner's settings stand from the start
        word = sql.partition(" ")[0]
        if word in ("BEGIN", "COMMIT"):
            self._link.at(word)
        status: str = await self._do(lambda: self._backend.execute(sql))
        return status

    async def prepare(self, statement: str, *, name: str | None = None) -> "Prepared":
        return Prepared(self, statement)

    async def fetch(self, statement: str, parameters: tuple[Any, ...]) -> tuple[list[Any], str]:
        if statement.startswith("SELECT pg_notify"):
            await self._go()
            self._network.notify(parameters[1])
            return [], "SELECT 1"

        if self.is_in_transaction() and self._network.rng.random() < 0.3:
            self._link.at("statement")

        async def fetch() -> tuple[list[Any], str]:
            rows, status = await self._backend.fetch(statement, parameters)
            self._network.note(self._link, statement, parameters, rows)
            return rows, status

        rows, status = await self._do(fetch)
        if statement == CLAIM_WEBHOOKS and any(row[1] is not None for row in rows):
            self._link.at("claimed")
        return rows, status

    async def _do(self, act: Callable[[], Awaitable[T]]) -> T:
        """Go to the server, have something done, and come back."""
        await self._go()
        if self._ended is not None:
            ended = self._ended
            self.lose()
            raise ended
        self._network.statements += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._waits = future = self._link.loop.create_future()
        work = self._network.time.work
        work.append(lambda: self._closed or self._network.cluster.run(self._backend, act, self._done(future)))
        try:
            done: T = await future
        finally:
            self._waits = None
        await self._go()
        return done

    def _done(self, future: "asyncio.Future[Any]") -> Settle:
        limit = self._network.home.call_later(_LOCK_LIMIT_S, self._give_up_lock)
        into = _into(future)

        def done(result: Any, error: BaseException | None) -> None:
            limit.cancel()
            if self._backend.is_in_transaction and not self._closed:
                self._idle = self._network.home.call_later(_IDLE_LIMIT_S, self._end_idle)
            into(result, error)

        return done

    def _give_up_lock(self) -> None:
        if not self._closed:
            self._network.time.work.append(lambda: self._network.cluster.give_up_lock(self._backend))

    def _end_idle(self) -> None:
        if not self._closed:
            self._ended = asyncpg.exceptions.IdleInTransactionSessionTimeoutError("idle in a transaction")
            self._network.time.work.append(lambda: self._network.cluster.roll_back(self._backend))

    async def _go(self) -> None:
        """Travel one way. Raises where the other end is not reached."""
        self._alive()
        await self._network.travel()
        until = self._network.time.now_s + COMMAND_LIMIT_S
        while self._link.cut == "silent" and not self._lost:
            if self._network.time.now_s >= until:
                raise TimeoutError
            await asyncio.sleep(0.5)
        self._alive()

    def _alive(self) -> None:
        if self._lost:
            raise _lost()
        if self._closed:
            raise asyncpg.InterfaceError("connection is closed")

    # Its life

    def lose(self) -> None:
        """Have the other end gone."""
        if self._closed:
            return
        self._lost = True
        for listener in self._listeners:
            self._link.loop.call_soon(listener, self)
        if self._waits is not None and not self._waits.done():
            self._waits.set_exception(_lost())
        self.terminate()

    def terminate(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
        self._link.connections.discard(self)
        cluster, work, backend = self._network.cluster, self._network.time.work, self._backend
        if self._link.cut == "silent" and backend.is_in_transaction:
            # The server does not hear of it: the locks stay for a while.
            self._network.home.call_later(_IDLE_LIMIT_S, lambda: work.append(lambda: cluster.free(backend)))
        else:
            work.append(lambda: cluster.free(backend))

    async def close(self, *, timeout: float | None = None) -> None:
        self.terminate()

    def is_closed(self) -> bool:
        return self._closed

    def is_in_transaction(self) -> bool:
        return not self._closed and self._backend.is_in_transaction

    def get_server_pid(self) -> int:
        return self._backend.pid

    def add_log_listener(self, _: object) -> None:
        """The server warns of nothing here."""

    def add_termination_listener(self, listener: Callable[[Any], None]) -> None:
        self._listeners.append(listener)

    async def add_listener(self, _: str, hear: Callable[..., None]) -> None:
        await self._go()
        self.hears = hear


class Prepared:
    """What the store uses of a prepared statement."""

    def __init__(self, connection: Connection, statement: str) -> None:
        self._connection = connection
        self._statement = statement
        self._status = ""

    async def fetch(self, *parameters: Any) -> list[Any]:
        rows, self._status = await self._connection.fetch(self._statement, parameters)
        return rows

    def get_statusmsg(self) -> str:
        return self._status


def _lost() -> Exception:
    return asyncpg.exceptions.ConnectionDoesNotExistError("connection was closed in the middle of operation")


def _into(future: "asyncio.Future[Any]") -> Settle:
    def settle(result: Any, error: BaseException | None) -> None:
        if future.done() or future.get_loop().is_closed():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    return settle
