"""The real PostgreSQL of simulated worlds: its clock is the world's, and each change of a row leaves a line.

Owns the server's connections, of which each is lent to one of a process, and what waits there for a lock: that is asked
of the server, so that it does not depend on how fast this machine is. Used by ``driver``; made once, emptied for each
world.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import asyncpg
import msgspec

from gateway.store.postgres import schema
from gateway.store.postgres.session import connect
from gateway.store.postgres.sql import PLANNER
from gateway.store.postgres.url import Servers
from tests.postgres import OWNER, Server, from_wheel, running

_connect_to_postgres = asyncpg.connect  # worlds take its place

__all__ = ["Backend", "Change", "Cluster", "Settle", "serving"]

Settle = Callable[[Any, BaseException | None], None]

_SERVER = {
    "autovacuum": "off",
    "deadlock_timeout": "1h",  # found here
    "synchronous_commit": "off",
    "max_connections": "100",
}
_SOON_S = 0.02
"""An answer that takes longer may be waiting for a lock."""
_TABLES = "tasks, callbacks, attempts, creates, leads, changes"
_PREPARE = """
GRANT EXECUTE ON FUNCTION pg_read_file(text) TO gateway;
CREATE OR REPLACE FUNCTION gateway_now() RETURNS bigint LANGUAGE sql RETURN CAST(pg_read_file('world_now') AS bigint);
CREATE TABLE changes (
    n bigserial PRIMARY KEY, replica text, at bigint, relation text, before jsonb, after jsonb);
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO changes (replica, at, relation, before, after) VALUES (
        current_setting('world.replica', true), gateway_now(), TG_TABLE_NAME,
        CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) - ARRAY['body', 'metadata', 'outcome', 'record'] END,
        to_jsonb(NEW) - ARRAY['body', 'metadata', 'outcome', 'record']);
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON callbacks FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER note AFTER INSERT OR UPDATE ON attempts FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER note AFTER INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER note AFTER INSERT OR UPDATE ON meta FOR EACH ROW WHEN (NEW.key = 'events')
    EXECUTE FUNCTION note_change();
CREATE TRIGGER made AFTER INSERT ON leads FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER taken AFTER UPDATE ON leads FOR EACH ROW WHEN (OLD.epoch <> NEW.epoch) EXECUTE FUNCTION note_change();
GRANT ALL ON ALL TABLES IN SCHEMA public TO gateway;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO gateway;
"""


class Change(msgspec.Struct, frozen=True):
    """What one statement made of one row, in the order in which that was done."""

    replica: str
    """Who did it: one life of a process."""
    at: int
    relation: str
    before: dict[str, Any] | None
    after: dict[str, Any]


class Backend:
    """One connection to the real server."""

    def __init__(self, raw: "asyncpg.Connection[Any]") -> None:
        self.raw = raw
        self.pid = raw.get_server_pid()
        self.waits: tuple[asyncio.Task[Any], Settle] | None = None
        """What waits here for a lock."""
        self._prepared: dict[str, Any] = {}

    @property
    def is_in_transaction(self) -> bool:
        return self.waits is not None or self.raw.is_in_transaction()

    async def execute(self, sql: str) -> str:
        return await self.raw.execute(sql)

    async def fetch(self, statement: str, parameters: tuple[Any, ...]) -> tuple[list[Any], str]:
        prepared = self._prepared.get(statement)
        if prepared is None:
            prepared = self._prepared[statement] = await self.raw.prepare(statement)
        rows = await prepared.fetch(*parameters)
        return rows, prepared.get_statusmsg()


class Cluster:
    """The server, and who waits in it."""

    def __init__(self, server: Server) -> None:
        self.url = server.url()
        self._server = server
        self._loop = asyncio.SelectorEventLoop()
        self._free: list[Backend] = []
        self._all: list[Backend] = []
        self._waiting: list[Backend] = []
        self._now = os.open(server.data / "world_now", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        self._shown = 0
        self.now: Callable[[], int] = lambda: 0
        """The database's clock."""
        self._watcher: asyncpg.Connection[Any]
        self._meta: list[Any] = []

    def open(self) -> None:
        os.pwrite(self._now, b"1700000000000", 0)
        self._do(self._open())

    async def _open(self) -> None:
        servers = Servers(self.url)
        session = await connect(servers, PLANNER)
        await schema.upgrade(session, schema.migrations())
        await session.close()
        self._server.execute(_PREPARE, "gateway")
        self._watcher = await asyncpg.connect(self._server.url(user="postgres"))
        self._meta = [tuple(row) for row in await self._watcher.fetch("SELECT key, value FROM meta")]

    def close(self) -> None:
        for backend in self._all:
            backend.raw.terminate()
        self._watcher.terminate()
        self._do(asyncio.sleep(0))
        self._loop.close()
        os.close(self._now)

    def empty(self) -> None:
        """Begin a new world."""
        for backend in self._all:
            if backend not in self._free:
                self.free(backend)

        async def clear() -> None:
            await self._watcher.execute(f"TRUNCATE {_TABLES} RESTART IDENTITY; DELETE FROM meta")
            await self._watcher.executemany("INSERT INTO meta (key, value) VALUES ($1, $2)", self._meta)

        self._do(clear())

    def changes(self) -> list[Change]:
        """Return what was done in this world."""
        rows = self.query("SELECT replica, at, relation, before, after FROM changes ORDER BY n")
        return [Change(r, at, t, b and msgspec.json.decode(b), msgspec.json.decode(a)) for r, at, t, b, a in rows]

    def query(self, sql: str) -> list[Any]:
        rows: list[Any] = self._do(self._watcher.fetch(sql))
        return rows

    # What is done on a connection

    def take(self, name: str, settle: Settle) -> None:
        """Lend a connection to somebody of that name."""
        if not self._free:
            self._free.append(Backend(self._do(self._connect())))
            self._all.append(self._free[-1])
        backend = self._free.pop()
        self._do(backend.fetch("SELECT set_config('world.replica', $1, false)", (name,)))
        settle(backend, None)

    async def _connect(self) -> "asyncpg.Connection[Any]":
        folder, port = str(self._server.folder), self._server.port
        return await _connect_to_postgres(
            host=folder, port=port, user=OWNER, database=OWNER, statement_cache_size=0, server_settings=PLANNER
        )

    def run(self, backend: Backend, act: Callable[[], Awaitable[Any]], settle: Settle) -> None:
        """Do something, and tell what came of it; not yet, where it waits for a lock."""
        self._show_time()
        task = self._loop.create_task(_call(act))
        if self._ends(backend, task):
            _tell(task, settle)
        else:
            backend.waits = task, settle
            self._waiting.append(backend)
            if self._is_in_a_circle(backend):
                self._give_up(backend, asyncpg.exceptions.DeadlockDetectedError("deadlock detected"))
        self._look_at_waiting()

    def give_up_lock(self, backend: Backend) -> None:
        """Let a lock that is waited for be; nothing where none is."""
        if backend.waits is not None:
            self._give_up(backend, asyncpg.exceptions.LockNotAvailableError("canceling statement due to lock timeout"))

    def roll_back(self, backend: Backend) -> None:
        """End a transaction, as the end of its connection does."""
        if backend.waits is not None:
            self._give_up(backend, asyncpg.exceptions.ConnectionDoesNotExistError("connection was closed"))
        if backend.raw.is_in_transaction():
            self._do(backend.raw.execute("ROLLBACK"))
            self._look_at_waiting()

    def free(self, backend: Backend) -> None:
        """Take a connection back."""
        self.roll_back(backend)
        if backend not in self._free:
            self._free.append(backend)

    def _give_up(self, backend: Backend, error: Exception) -> None:
        assert backend.waits is not None
        task, settle = backend.waits
        backend.waits = None
        self._waiting.remove(backend)
        while not task.done():
            self._do(self._watcher.fetch("SELECT pg_cancel_backend($1)", backend.pid))
            self._turn(task)
        if task.exception() is None:
            _tell(task, settle)
        else:
            settle(None, error)

    def _look_at_waiting(self) -> None:
        """See whose lock has been let go, until nobody's is."""
        again = bool(self._waiting)
        while again:
            again = False
            for backend in tuple(self._waiting):
                if backend.waits is not None and self._ends(backend, backend.waits[0]):
                    task, settle = backend.waits
                    backend.waits = None
                    self._waiting.remove(backend)
                    _tell(task, settle)
                    again = True

    def _ends(self, backend: Backend, task: "asyncio.Task[Any]") -> bool:
        """Go on with something until it is done, or waits for a lock; return whether it is done."""
        if backend.waits is None:
            self._turn(task)
        while not task.done():
            if self._blockers(backend):
                return False
            self._turn(task)
        return True

    def _blockers(self, backend: Backend) -> list[int]:
        pids: list[int] = self._do(self._watcher.fetchval("SELECT pg_blocking_pids($1)", backend.pid))
        return pids

    def _is_in_a_circle(self, backend: Backend) -> bool:
        by_pid = {one.pid: one for one in self._waiting}
        seen: set[int] = set()
        ahead = list(self._blockers(backend))
        while ahead:
            pid = ahead.pop()
            if pid == backend.pid:
                return True
            if pid in by_pid and pid not in seen:
                seen.add(pid)
                ahead += self._blockers(by_pid[pid])
        return False

    def _show_time(self) -> None:
        now = self.now()
        if now != self._shown:
            self._shown = now
            os.pwrite(self._now, str(now).encode(), 0)

    def _turn(self, task: "asyncio.Task[Any]") -> None:
        """Run until it is done, or for a moment; it may be less."""
        if task.done():
            return
        timer = self._loop.call_later(_SOON_S, self._loop.stop)
        task.add_done_callback(self._stop)
        self._loop.run_forever()
        timer.cancel()
        task.remove_done_callback(self._stop)

    def _stop(self, _: "asyncio.Task[Any]") -> None:
        self._loop.stop()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        task = self._loop.create_task(work)
        while not task.done():
            self._turn(task)
        return task.result()


async def _call(act: Callable[[], Awaitable[Any]]) -> Any:
    return await act()


def _tell(task: "asyncio.Task[Any]", settle: Settle) -> None:
    error = task.exception()
    settle(None if error else task.result(), error)


@contextmanager
def serving() -> Iterator[Cluster]:
    """Run a server for simulated worlds until the block ends. Raises NotAvailable."""
    with running(from_wheel(), **_SERVER) as server:
        cluster = Cluster(server)
        cluster.open()
        try:
            yield cluster
        finally:
            with suppress(OSError):
                cluster.close()
