"""The connections to one PostgreSQL database: made when needed, kept, and made anew when it has gone and come back.

Owns which connection does what, when a lost one is tried again, and what is known of the database's health. Called
by the store's ports as the larger part of ``gateway.store.engine.Engine``.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import asyncpg
import structlog

from gateway.core.errors import StoreError, StoreUnsure, StoreUnusable
from gateway.store.engine import Blame, Column, Work
from gateway.store.postgres import schema
from gateway.store.postgres.errors import (
    FAILURES,
    FOR_EVERYBODY,
    blame,
    explain,
    is_about_no_row,
    is_lost,
    is_to_be_repeated,
    needs_another_server,
    without_values,
)
from gateway.store.postgres.session import Backend, Session, connect
from gateway.store.postgres.sql import SELECT_LARGE
from gateway.store.postgres.url import Servers

T = TypeVar("T")

_log = structlog.get_logger()

_READERS = 4
_TRIES = 4
"""Of a transaction that others' locks undo, or whose connection is gone before it commits."""
_AGAIN_S = 0.02  # before such a try, doubled each time, more or less
_PLACE_LIMIT_S = 5.0
"""So long one waits for a connection that others use."""
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.05, 0.25
"""Between two attempts to connect: all replicas meet a server that has just come back; their clients wait for it."""
_OPENING_S = 0.5


class Connections:
    """Those that do the same, so many at most: each is one caller's at a time."""

    def __init__(self, most: int) -> None:
        self.free: list[Session] = []
        self.in_use: set[Session] = set()
        self._places = asyncio.Semaphore(most)

    async def take(self, connect: Callable[[], Awaitable[Session]]) -> Session:
        """Return a connection, where need be a new one. Raises StoreError where others use all of them for long."""
        if self._places.locked():
            try:
                async with asyncio.timeout(_PLACE_LIMIT_S):
                    await self._places.acquire()
            except TimeoutError:
                raise StoreError("All connections to the database are in use.", reason="slow") from None
        else:
            await self._places.acquire()
        try:
            while self.free and not self.free[-1].usable:
                self.free.pop().drop()
            session = self.free.pop() if self.free else await connect()
        except BaseException:
            self._places.release()
            raise
        self.in_use.add(session)
        return session

    def give_back(self, session: Session, *, keep: bool) -> None:
        """Have the connection used by others, or let it go: also where it is in the middle of something."""
        self.in_use.discard(session)
        if keep and session.usable:
            self.free.append(session)
        else:
            session.drop()
        self._places.release()


class PostgresDatabase:
    """One PostgreSQL database."""

    def __init__(
        self, servers: Servers, *, settings: Mapping[str, str] | None = None, patience_s: float = 30.0
    ) -> None:
        """Keep where it is; nothing is opened. ``settings`` are each session's, of PostgreSQL's names.

        A database that is not there yet is waited for, at the opening, for ``patience_s`` seconds.
        """
        self._servers = servers
        self._settings = dict(settings or {})
        self._patience_s = patience_s
        self._writers, self._claimers, self._leaders = Connections(1), Connections(1), Connections(1)
        self._readers = Connections(_READERS)
        self._pools = (self._writers, self._claimers, self._leaders, self._readers)
        self._first: str | None = None  # the host that was the right one last
        self._open = False
        self._ready = False  # the schema is there, too
        # Since the last connection that could be made: the error, and when to try again.
        self._refusal: StoreError | None = None
        self._connecting = 0
        self._again_at = 0.0
        self._backoff_s = _FIRST_BACKOFF_S
        self._read_trouble: StoreError | None = None
        self._write_trouble: StoreError | None = None
        self.pooled = False
        """Whether a pooler is in between, as the last connection has shown: then nothing can be listened to."""
        self.met_another = asyncio.Event()
        """Set when what answers may be another server than before, or the same one after a restart."""

    async def open(self) -> None:
        """Connect, and bring the schema up to date. Raises StoreUnusable, or StoreError where waiting was no use."""
        for problem in self._servers.problems():
            raise StoreUnusable(f"GATEWAY_DATABASE_URL: {problem}")
        self._open = True
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_s
        while True:
            try:
                await self._upgrade()
            except StoreUnusable:
                await self.close()
                raise
            except StoreError as exc:
                if loop.time() >= until:
                    await self.close()
                    raise
                _log.warning("store.waiting", error=exc.message)
                await asyncio.sleep(_OPENING_S)
            else:
                self._ready = True
                return

    async def close(self) -> None:
        """Let all connections go. Safe when it is not open."""
        self._open = self._ready = False
        for pool in self._pools:
            for connection in pool.in_use:
                connection.drop()
            free, pool.free = pool.free, []
            await asyncio.gather(*(session.close() for session in free))

    @property
    def failing(self) -> str | None:
        """Why the last write or read failed; None where all is well."""
        trouble = self._write_trouble or self._read_trouble
        return None if trouble is None else trouble.message

    @property
    def lost(self) -> str | None:
        """What is wrong, in words for everybody; None where all is well."""
        trouble = self._write_trouble or self._read_trouble
        return None if trouble is None else FOR_EVERYBODY[trouble.reason]

    def require(self) -> None:
        """Raise StoreError where the last write failed in a way that the next one will, too."""
        if self._write_trouble is not None and self._write_trouble.reason != "slow":
            raise StoreError(self._write_trouble.message, reason=self._write_trouble.reason)

    async def transaction(self, make: Callable[[], Work[T]], *, hasty: bool = False) -> tuple[T, bool]:
        """Do work within one transaction; return what it returned once that is durable, and whether it wrote anything.

        What is in the way for a moment is tried again; ``hasty``: what others have locked is waited for for a moment
        only. Raises StoreError where the database fails, with nothing done, or, StoreUnsure, with nobody knowing.
        """
        self._require_ready()
        try:
            done = await self._repeat(self._writers, lambda session: session.transaction(make(), hasty=hasty))
        except Exception as exc:
            if blame(exc) is not Blame.DATABASES:
                raise
            raise self._trouble("_write_trouble", exc) from exc
        if done[1]:
            self._well("_write_trouble")
        return done

    async def read(self, statement: str, parameters: Any = ()) -> list[Any]:
        """Run one statement that changes nothing, and return its rows. Raises StoreError."""
        self._require_ready()
        try:
            rows = await self._repeat(self._readers, lambda session: session.read(statement, parameters))
        except (StoreError, *FAILURES) as exc:
            if is_about_no_row(exc):
                return []  # whoever asks for that may do so: it is no trouble of the database's
            raise self._trouble("_read_trouble", exc) from exc
        self._well("_read_trouble")
        return rows

    async def write(
        self, statement: str, parameters: Any = (), *, always: bool = True, lead: bool = False
    ) -> list[Any]:
        """Run one statement by itself that changes something, and return its rows, on a connection that claims share.

        ``always``: it does; else that it is done does not show that the database can be written to. ``lead``: on the
        connection that leadership has of its own, which would end while a renewal waits for claims. It may be done
        twice, where the connection breaks. Raises StoreError: nobody knows whether it is done.
        """
        self._require_ready()
        pool = self._leaders if lead else self._claimers
        try:
            rows = await self._repeat(pool, lambda session: session.read(statement, parameters))
        except (StoreError, *FAILURES) as exc:
            if blame(exc) is Blame.LOCKS:
                raise
            raise self._trouble("_write_trouble", exc) from exc
        if always:
            self._well("_write_trouble")
        return rows

    async def large(self, seq: int, column: Column) -> bytes | None:
        """Return a value that may be large; None where there is none. Raises StoreError."""
        rows = await self.read(SELECT_LARGE[column], (seq,))
        return rows[0][0] if rows else None

    async def dedicated(self) -> Session:
        """Return a connection of its caller's own, who lets it go. Raises StoreError."""
        return await self._connect()

    async def _upgrade(self) -> None:
        async def act(session: Session) -> tuple[schema.SchemaVersion, Backend]:
            return await schema.upgrade(session, schema.migrations()), session.server

        found, server = await self._repeat(self._writers, act)
        if not server.durable:
            _log.warning(
                "store.not_durable", advice="fsync is off on this server: a power loss loses what it confirmed"
            )
        _log.info("store.opened", server=server.address, pooled=self.pooled, schema=found.version)

    async def _repeat(self, pool: Connections, act: Callable[[Session], Awaitable[T]]) -> T:
        """Do something on one of the connections, again where it was not done and may be at once."""
        pause_s = _AGAIN_S
        for left in reversed(range(_TRIES)):
            session = await pool.take(self._connect)
            try:
                return await act(session)
            except asyncio.CancelledError:
                session.drop()  # in the middle of something
                raise
            except FAILURES as exc:
                if isinstance(exc, OSError | asyncpg.InternalClientError) or needs_another_server(exc):
                    session.drop()
                if needs_another_server(exc):
                    self._leave()
                self._raise_for_good(without_values(exc), session, left)
            finally:
                pool.give_back(session, keep=self._open and session.server.address == self._first)
            await asyncio.sleep(pause_s * (0.5 + secrets.randbelow(1000) / 1000))
            pause_s *= 2
        raise AssertionError

    def _raise_for_good(self, exc: Exception, session: Session, left: int) -> None:
        """Raise what a failure comes to, unless it is to be tried again."""
        if session.committing:
            error = explain(exc)
            words = f"{error.message} Nobody knows whether what was to be stored is."
            raise StoreUnsure(words, reason=error.reason) from exc
        lost = is_lost(exc) and not isinstance(exc, TimeoutError)
        if not left or not (is_to_be_repeated(exc) or (lost and left == _TRIES - 1)):
            if blame(exc) in (Blame.DATABASES, Blame.LOCKS):
                raise explain(exc, standby=session.server.standby) from exc
            raise exc

    def _require_ready(self, *, opening: bool = False) -> None:
        if not (self._ready or (opening and self._open)):
            raise StoreError("The store is closed: the gateway is starting or shutting down.")

    async def _connect(self) -> Session:
        self._require_ready(opening=True)
        loop = asyncio.get_running_loop()
        if self._refusal is not None and (self._connecting or loop.time() < self._again_at):
            raise explain(self._refusal)
        self._connecting += 1
        try:
            connection = await connect(self._servers, self._settings, self._first)
        except StoreError as exc:
            if self._refusal is None:
                _log.error("store.unreachable", error=exc.message, reason=exc.reason)
            self._refusal = exc
            self._again_at = loop.time() + self._backoff_s * (0.5 + secrets.randbelow(1000) / 1000)
            self._backoff_s = min(self._backoff_s * 2, _MAX_BACKOFF_S)
            raise
        finally:
            self._connecting -= 1
        if self._refusal is not None or connection.server.address != self._first is not None:
            _log.warning("store.reconnected", server=connection.server.address, before=self._first)
            self.met_another.set()
        self._refusal, self._backoff_s = None, _FIRST_BACKOFF_S
        self._first, self.pooled = connection.server.address, connection.server.pooled
        return connection

    def _leave(self) -> None:
        """Use none of the connections any more: the server that they are to stops, or takes no writes."""
        for pool in self._pools:
            while pool.free:
                pool.free.pop().drop()

    def _trouble(self, kind: str, exc: Exception) -> StoreError:
        error = explain(exc)
        if getattr(self, kind) is None and self._refusal is None and self._open:
            _log.error("store.failing", error=error.message, reason=error.reason)
        setattr(self, kind, error)
        return error

    def _well(self, kind: str) -> None:
        if getattr(self, kind) is not None:
            _log.info("store.recovered")
            setattr(self, kind, None)
