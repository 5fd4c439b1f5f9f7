"""One connection to PostgreSQL: made, told its limits, and driven through a transaction's steps.

Owns what stands around each statement: time limits, prepared statements, named parameters, and what of it a pooler that
hands out its servers by the transaction cannot keep. Called by ``database``.
"""

import asyncio
import itertools
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar

import asyncpg
import msgspec

from gateway.config.databaseurl import where
from gateway.core.errors import StoreError, StoreUnsure, StoreUnusable
from gateway.store.engine import Result, Rows, Run, Step, Work
from gateway.store.postgres.errors import FAILURES, explain
from gateway.store.postgres.sql import WRITE_LARGE
from gateway.store.postgres.url import Servers

T = TypeVar("T")

COMMAND_LIMIT_S = 8.0
"""Without an answer for so long a connection is given up: the server's own limits come first, unless it is gone."""
_CONNECT_LIMIT_S = 3.0
"""For each host, until it has answered a question: one that swallows all packets must not keep the others from being
tried, and a pooler lets one in and has no server."""
_LIMITS = {
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    # Of a process that is stopped within a transaction: until then its locks keep the others from writing.
    "idle_in_transaction_session_timeout": "5s",
    "synchronous_commit": "on",
}
_HASTY = "; SET LOCAL lock_timeout = '200ms'"
"""Where it is known that somebody holds a lock. Other replicas hold theirs for one commit."""
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 11_000}
_OLDEST = 140_000
_LOOK = """
SELECT pg_backend_pid(), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
    current_setting('synchronous_commit'), current_setting('server_encoding'),
    CAST(current_setting('server_version_num') AS integer), current_setting('fsync') = 'on'
"""
_NAME = re.compile(r"'(?:[^']|'')*'|::|:([a-z_]+)")
_COUNT = re.compile(r"(?:INSERT \d+|UPDATE|DELETE|MERGE) (\d+)")


class Backend(msgspec.Struct, frozen=True):
    """What is known of the server at the other end."""

    address: str
    pooled: bool
    """Whether a pooler is in between, so that the next transaction may be another server's."""
    standby: bool
    read_only: bool
    durable: bool
    """Whether it writes its log through to the disk at all."""


class Session:
    """One connection, for one caller at a time."""

    def __init__(self, raw: "asyncpg.Connection[Any]", server: Backend, begin: str) -> None:
        self.raw = raw
        self.server = server
        self.committing = False
        """Whether the answer to a commit has been missed: nobody knows whether that is done."""
        self._begin = begin
        self._prepared: dict[str, asyncpg.prepared_stmt.PreparedStatement[Any]] = {}
        self._names = itertools.count()
        self._unconfirmed: str | None = None
        raw.add_log_listener(self._hear)

    @property
    def usable(self) -> bool:
        return not (self.committing or self.raw.is_closed() or self.raw.is_in_transaction())

    async def read(self, statement: str, parameters: Any = ()) -> list[Any]:
        """Run one statement by itself, and return its rows as tuples."""
        if not self.server.pooled:
            return (await self._run(statement, parameters)).rows
        # A statement is prepared and run in two messages, between which a pooler may change the server.
        await self.raw.execute(self._begin)
        try:
            rows = (await self._run(statement, parameters)).rows
        except BaseException:
            await self._roll_back()
            raise
        await self.raw.execute("COMMIT")
        return rows

    async def transaction(self, work: Work[T], *, hasty: bool = False) -> tuple[T, bool]:
        """Take the steps of work within one transaction; return what it returned, and whether it wrote anything.

        ``hasty``: wait for what others have locked for a moment only.
        """
        wrote = False
        await self.raw.execute(self._begin + _HASTY if hasty else self._begin)
        try:
            try:
                step = next(work)
                while True:
                    result = await self._take(step)
                    wrote = wrote or result.count > 0
                    step = work.send(result)
            except StopIteration as end:
                done: T = end.value
            await self._commit()
        except BaseException:
            work.close()
            await self._roll_back()
            raise
        return done, wrote

    async def listen(self, channel: str, hear: Callable[[Any, int, str, Any], None]) -> None:
        """Have whatever is told on a channel heard, for as long as the connection lasts. Raises StoreError."""
        try:
            await self.raw.add_listener(channel, hear)
        except FAILURES as exc:
            raise explain(exc) from exc

    async def value(self, statement: str, *parameters: Any) -> Any:
        """Return the first row's first value; None where there is no row. Within a transaction."""
        rows = (await self._run(statement, parameters)).rows
        return rows[0][0] if rows else None

    async def close(self) -> None:
        with suppress(*FAILURES):
            await self.raw.close(timeout=1)

    def drop(self) -> None:
        """Let it go at once, whatever it is at."""
        self.raw.terminate()

    async def _take(self, step: Step) -> Result:
        if isinstance(step, Rows):
            if not step.rows:
                return Result([], 0)
            return await self._run(step.statement, [*map(_array, zip(*step.rows, strict=True))])
        if isinstance(step, Run):
            return await self._run(step.statement, step.parameters)
        return await self._run(WRITE_LARGE[step.column], (step.seq, b"".join(step.parts)))

    async def _run(self, statement: str, parameters: Any) -> Result:
        prepared = self._prepared.get(statement)
        if prepared is None:
            # A pooler's next server does not know a name that another one was told. Elsewhere one is needed: what has
            # none is parsed, and planned, with each run.
            name = "" if self.server.pooled else f"gateway_{next(self._names)}"
            prepared = await self.raw.prepare(_numbered(statement)[0], name=name)
            if not self.server.pooled:
                self._prepared[statement] = prepared
        if isinstance(parameters, Mapping):
            parameters = [parameters[name] for name in _numbered(statement)[1]]
        try:
            rows = [tuple(row) for row in await prepared.fetch(*parameters)]
        except (asyncpg.InvalidCachedStatementError, asyncpg.InvalidSQLStatementNameError):
            self._prepared.clear()  # a migration has changed what they return, or somebody has done away with them
            raise
        counted = _COUNT.fullmatch(prepared.get_statusmsg())
        return Result(rows, int(counted[1]) if counted else 0)

    async def _commit(self) -> None:
        self._unconfirmed = None
        self.committing = True
        status = await self.raw.execute("COMMIT")
        self.committing = False
        if self._unconfirmed is not None:
            raise StoreUnsure(
                f"The database's standby does not confirm ({self._unconfirmed}). "
                "What was to be stored is, and is lost where the standby is promoted.",
                reason="slow",
            )
        if status != "COMMIT":
            raise StoreError(f"The database has undone the transaction ({status}).")

    async def _roll_back(self) -> None:
        """Give the transaction up; where even that fails, the connection is not usable any more."""
        if self.committing or self.raw.is_closed() or not self.raw.is_in_transaction():
            return
        try:
            await self.raw.execute("ROLLBACK")
        except FAILURES:
            self.drop()

    def _hear(self, _: object, message: Any) -> None:
        # A commit that its time limit ends while it waits for the standby is answered with COMMIT all the same.
        if self.committing and message.severity_en == "WARNING":
            self._unconfirmed = message.message


async def connect(servers: Servers, settings: Mapping[str, str], first: str | None = None) -> Session:
    """Connect to the first host that answers and is what the URL asks for; ``first`` is asked before the others.

    Raises StoreError that tells of each host, with the reason that says most.
    """
    failed: list[tuple[str, StoreError]] = []
    for host, port in sorted(servers.hosts, key=lambda address: where(*address) != first):
        address = where(host, port)
        try:
            async with asyncio.timeout(_CONNECT_LIMIT_S):
                return await _connect_to(servers, host, port, settings)
        except (*FAILURES, StoreError) as exc:
            failed.append((address, explain(exc, connecting=True)))
    telling = ("refused", "read_only", "promoted", "restarting", "full", "slow", "unreachable", None)
    _, worst = min(failed, key=lambda failure: telling.index(failure[1].reason))
    raise type(worst)(" ".join(f"{at}: {error.message}" for at, error in failed), reason=worst.reason)


async def _connect_to(servers: Servers, host: str, port: int, settings: Mapping[str, str]) -> Session:
    raw = await asyncpg.connect(
        **servers.arguments(host, port),
        timeout=2 * _CONNECT_LIMIT_S,  # in vain: the caller's is first
        command_timeout=COMMAND_LIMIT_S,
        statement_cache_size=0,  # kept here, as it has to be known of each what it changed
    )
    try:
        _keep_alive(raw)
        # All in one transaction: a pooler may change the server after it.
        await raw.execute("BEGIN")
        prepared = await raw.prepare(_LOOK, name="")
        pid, standby, read_only, synchronous, encoding, version, durable = (await prepared.fetch())[0]
        await raw.execute("COMMIT")
        server = Backend(where(host, port), pid != raw.get_server_pid(), standby, read_only, durable)
        _check(server, servers.target, encoding, version)
        limits = {**_LIMITS, **settings}
        if synchronous != "off":
            del limits["synchronous_commit"]  # remote_apply, say, is more than we ask for
        if server.pooled:
            local = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in limits.items())
            return Session(raw, server, f"BEGIN ISOLATION LEVEL READ COMMITTED; {local}")
        await raw.execute("; ".join(f"SET {name} = '{value}'" for name, value in limits.items()))
        return Session(raw, server, "BEGIN ISOLATION LEVEL READ COMMITTED")
    except BaseException:
        raw.terminate()
        raise


def _check(server: Backend, target: str, encoding: str, version: int) -> None:
    if version < _OLDEST:
        raise StoreUnusable(
            f"PostgreSQL {version // 10_000} is too old: the gateway needs 14 or newer.", reason="refused"
        )
    if encoding != "UTF8":
        raise StoreUnusable(f"The database's encoding is {encoding}: CREATE DATABASE … ENCODING UTF8", reason="refused")
    if server.standby and target != "any":
        raise StoreError("It is a standby.", reason="promoted")
    if server.read_only and target == "read-write":
        raise StoreError("It is read-only.", reason="read_only")


def _keep_alive(raw: "asyncpg.Connection[Any]") -> None:
    """Have the system notice that the other end is gone, also where nothing is asked."""
    # asyncpg has no public name for it.
    found: socket.socket | None = raw._transport.get_extra_info("socket")  # noqa: SLF001
    if found is None or found.family == getattr(socket, "AF_UNIX", None):
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if (option := getattr(socket, name, None)) is not None:
            found.setsockopt(socket.IPPROTO_TCP, option, value)


def _array(column: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a column's array: an empty one where it is nothing but NULL, as unnest() fills it up with that.

    Nine of the columns of a life's statements are mostly such, and asyncpg takes 0.2 us for each element.
    """
    return () if column[0] is None and column.count(None) == len(column) else column


@lru_cache(maxsize=1024)
def _numbered(statement: str) -> tuple[str, list[str]]:
    """Return a statement with ``$1`` in the place of its first ``:name``, and the names."""
    names: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        return f"${names.setdefault(found[1], len(names) + 1)}"

    text = _NAME.sub(number, statement)
    return (text, list(names)) if names else (statement, [])
