"""The connection to one SQLite file: opened, checked, brought up to date, and one statement at a time.

Owns the pragmas, the migrations and transactions; knows no table but ``meta``. Called by the engine. Nothing is
written once ``filewatch`` has found the file gone.

One connection, because SQLite 3.7.0 to 3.51.2 can lose a WAL reset with two; ``locking_mode=EXCLUSIVE`` keeps a second
gateway off the file. Two coroutines on one connection share its transaction, so each transaction is one call in the
connection's thread, and so is each statement that reads.
"""

import asyncio
import os
import secrets
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import structlog

from gateway.core import private
from gateway.core.errors import StoreError, StoreInUse, StoreUnusable
from gateway.store.sqlite import backupfile, databasefile, sql
from gateway.store.sqlite.atonce import fetch
from gateway.store.sqlite.connectionlock import ConnectionLock
from gateway.store.sqlite.databasefile import beside, damaged, error_name, explain, was_not_closed, written_ahead_ms
from gateway.store.sqlite.filewatch import ADVICE, CHANGES, FileWatch

T = TypeVar("T")

_log = structlog.get_logger()

_STATEMENTS_KEPT = 256  # compiled ones: those over rows are made in nine sizes each
_READS_AT_ONCE = 8
"""So many wait in the thread's row at most, as a write waits for them: most take a tenth of a millisecond, lists a
few."""
_LOCK_WAIT_S = 1.0  # how long another process may hold the file before it is refused
_BACKUP_PAGES = 256  # copied while nobody reads or writes: about a millisecond
_BACKUP_SYNC = 64  # so often is that much of a backup put on disk: what is left for the end cannot be given up
_SIZE = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
_CLOSED = "The store is closed: the gateway is starting or shutting down."
_CHECKED_BYTES = 256 * 1024 * 1024
"""Up to this size a file is checked whole at the start: 0.6 s were measured for it, and a restart is not to last."""


class Database:
    """One SQLite file, which no other process can use meanwhile."""

    def __init__(self, path: Path) -> None:
        """Keep the path; nothing is opened."""
        self._path = path
        self._lock = ConnectionLock()
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)
        self._db: aiosqlite.Connection | None = None
        self._ready = False  # the schema is there, too
        self._damaged = False
        self._answers = 0  # how often the database has been asked
        self._watch = FileWatch(path)
        self.lost: str | None = None
        """What has become of the file, in words for everybody; None while it is what was opened."""
        self.failing: str | None = None
        """Why the last read failed; damage to the file, once met, until the process ends; None while all is well."""
        self.set_back_ms = 0
        """By how many milliseconds the clock was set back between the last write and the opening, as far as known."""

    async def open(self) -> None:
        """Open the file, or make it, and bring its schema up to date. Raises StoreUnusable, and lets it go again."""
        databasefile.check_library()
        try:
            with suppress(OSError):  # it is there, or what follows says what is wrong
                os.close(private.create(self._path))
            # A file that cannot be opened would leave aiosqlite's thread behind: find out without it.
            sqlite3.connect(self._path).close()
            self.set_back_ms = written_ahead_ms(self._path)
            if was_not_closed(self._path):
                await self._look_without_writing()
            # isolation_level None: transactions begin and end only where this file says so.
            # Backups use it from a thread of their own, while they hold the lock.
            self._db = await aiosqlite.connect(
                self._path,
                isolation_level=None,
                timeout=_LOCK_WAIT_S,
                check_same_thread=False,
                cached_statements=_STATEMENTS_KEPT,
            )
            await self._prepare()
            self._ready = True
        except sqlite3.Error as exc:
            await self.close()
            kind, _ = error_name(exc)
            raise (StoreInUse if kind == "BUSY" else StoreUnusable)(explain(exc, self._path)) from exc
        except OSError as exc:  # what had just been opened is not there any more
            await self.close()
            raise StoreUnusable(f"{self._path} cannot be used: {exc}.") from exc
        except StoreUnusable:
            await self.close()
            raise

    async def close(self) -> None:
        """Let the file go once the read or transaction that runs has ended. Safe when it is not open."""
        async with self._lock.alone():
            db, self._db = self._db, None
            self._ready = False
            self._watch.close()
            if db is not None:
                with suppress(sqlite3.Error):
                    await db.close()

    def transaction(
        self, work: Callable[[sqlite3.Connection], T], committed: Callable[[T], None] | None = None
    ) -> Coroutine[Any, Any, T]:
        """Run ``work`` in the database's thread within one transaction; return its result once that is durable.

        It is begun at once, where nobody is alone with the file, and is to be awaited whatever comes. ``committed`` is
        called with the result in the event loop, a turn of that before who awaits it goes on. Rolled back where
        ``work`` or the commit raises. Nobody else reads or writes meanwhile. Raises StoreError, and does nothing, where
        the file is not the one that was opened.
        """
        if self._db is None or not self._lock.share_at_once():
            return self._transaction_in_turn(work, committed)
        return self._begun(work, committed)

    async def _transaction_in_turn(
        self, work: Callable[[sqlite3.Connection], T], committed: Callable[[T], None] | None
    ) -> T:
        await self._lock.begin_share()
        return await self._begun(work, committed)

    def _begun(
        self, work: Callable[[sqlite3.Connection], T], committed: Callable[[T], None] | None
    ) -> Coroutine[Any, Any, T]:
        """Begin a transaction, with a share of the connection that ends with it, or with the wait for it."""
        done: list[T] = []
        loop = asyncio.get_running_loop()
        tell = committed and (lambda result: loop.call_soon_threadsafe(committed, result))
        try:
            problem = self._posted(self._watched_transaction, work, done, tell)
        except BaseException:
            self._lock.end_share()
            raise
        problem.add_done_callback(lambda _: self._lock.end_share())
        return self._transacted(problem, done)

    async def _transacted(self, problem: "asyncio.Future[str | None]", done: list[T]) -> T:
        try:
            self._note_lost(await problem)
        except sqlite3.DatabaseError as exc:
            self._note_damage(exc)
            raise
        self._answers += 1
        self.require_file()
        return done[0]

    async def look(self) -> None:
        """See whether the file is still there, and the one that was opened. Raises StoreError: it is not."""
        async with self._sharing():
            self._note_lost(await self.call(self._problem))
        self.require_file()

    def require_file(self) -> None:
        """Raise StoreError where the last look found that the file is not the one that was opened."""
        if self.lost is not None:
            raise StoreError(f"{self.lost[0].upper()}{self.lost[1:]}.")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Keep a place among those who read, for ``rows`` and ``call``. Raises StoreError.

        Each call sees what is committed when it begins, and writes have their turn between two.
        """
        self._require_ready()
        async with self._reads, self._sharing():
            answers = self._answers
            try:
                yield
            except sqlite3.Error as exc:
                if not self._note_damage(exc):
                    self.failing = f"the last read failed: {exc}"
                raise StoreError(f"The database could not be read ({exc}).") from exc
            else:
                if self._answers > answers and not self._damaged:
                    self.failing = None

    def _require_ready(self) -> None:
        if not self._ready:
            raise StoreError(_CLOSED)

    async def read(self, statement: str, parameters: Any = ()) -> list[Any]:
        """Run one statement that changes nothing, and return its rows. Raises StoreError."""
        async with self.reading():
            return await self.rows(statement, parameters)

    async def rows(self, statement: str, parameters: Any = ()) -> list[Any]:
        """Run one statement while reading, and return its rows."""
        return await self.call(fetch, statement, parameters)

    @asynccontextmanager
    async def _sharing(self) -> AsyncIterator[None]:
        await self._lock.begin_share()
        try:
            yield
        finally:
            self._lock.end_share()

    async def call(self, work: Callable[..., T], *args: Any) -> T:
        """Run ``work`` in the database's thread while reading; nobody else reads or writes meanwhile."""
        result = await self._posted(work, *args)
        self._answers += 1
        return result

    def _posted(self, work: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        """Have the database's thread run ``work`` after what it was given before."""
        # aiosqlite has no public name for it. Statement by statement through its public methods, a transaction took
        # ten journeys to the thread and back, each of them a wait for the interpreter's lock.
        connection = self._connection
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        connection._tx.put_nowait((result, partial(work, connection._conn, *args)))  # noqa: SLF001
        return result

    async def backup(self, target: Path) -> int:
        """Copy the database into a file, in the place of what was there; return its size in bytes.

        Reads and writes go on: they have their turn after every few pages, and what they change is in the copy too. It
        is checked and durable before it takes its name. Raises StoreError: what was there is there still.
        """
        part = target.with_name(target.name + ".part")
        try:
            try:
                await self._copy(part)
                await backupfile.check(part)
                return await backupfile.in_thread(backupfile.put_in_place, part, target)
            finally:
                await backupfile.in_thread(partial(part.unlink, missing_ok=True))  # of a large file it takes a while
        except (sqlite3.Error, OSError) as exc:
            raise StoreError(f"The database could not be copied to {target} ({exc}).") from exc

    async def _copy(self, part: Path) -> None:
        loop = asyncio.get_running_loop()
        connection = self._connection
        given_up = threading.Event()
        turns = count(1)

        async def give_way(turn: int) -> None:
            self._lock.end_alone()
            try:
                if turn % _BACKUP_SYNC == 0:
                    await loop.run_in_executor(None, backupfile.sync, part)
            finally:
                await self._lock.begin_alone()  # after all who wait
            if given_up.is_set() or self._db is not connection:
                raise StoreError("The gateway is shutting down.")

        def after_pages(_status: int, _remaining: int, _total: int) -> None:
            asyncio.run_coroutine_threadsafe(give_way(next(turns)), loop).result()

        def copy() -> None:
            part.unlink(missing_ok=True)
            os.close(private.create(part))
            with closing(sqlite3.connect(part, isolation_level=None)) as db:
                # It is synced in the end; until then it may be lost.
                db.execute("PRAGMA journal_mode = OFF")
                db.execute("PRAGMA synchronous = OFF")
                connection._conn.backup(db, pages=_BACKUP_PAGES, progress=after_pages)  # noqa: SLF001 - as in call

        async with self._lock.alone():
            await backupfile.in_thread(copy, give_up=given_up.set)

    @property
    def _connection(self) -> aiosqlite.Connection:
        if self._db is None:
            raise StoreError(_CLOSED)
        return self._db

    async def _look_without_writing(self) -> None:
        """Refuse what is to be refused through a connection that cannot write.

        Another one that is closed puts the rest of a killed process's work into the file, though it was refused.
        """
        with databasefile.read_only(self._path) as uri:
            self._db = await aiosqlite.connect(uri, uri=True, isolation_level=None, timeout=_LOCK_WAIT_S)
            try:
                await self._inspect()
            except sqlite3.OperationalError as exc:
                # On a full disk there is no room for the index that only this connection needs: do without the look.
                if error_name(exc) != ("IOERR", "SHMSIZE"):
                    raise
            finally:
                await self.close()

    async def _inspect(self) -> int:
        """Return the file's schema, 0 for a new one. Raises StoreUnusable for a file that this gateway cannot use."""
        ((application, version, tables),) = await self.rows(databasefile.VERSION)
        databasefile.check_version(self._path, application, version, tables)
        ((size,),) = await self.rows(_SIZE)
        if size <= _CHECKED_BYTES:
            ((found,),) = await self.rows(databasefile.QUICK_CHECK)
            if found != "ok":
                raise StoreUnusable(damaged(self._path, " ".join(found.split())))
        return int(version)

    async def _prepare(self) -> None:
        # Exclusive before anything reads: then the WAL index is kept in memory and no second process gets in.
        await self.rows("PRAGMA locking_mode = EXCLUSIVE")
        version = await self._inspect()
        # Only now that the file is known to be ours: its mode is changed, and the journal mode is written into it. What
        # SQLite makes beside it gets its mode.
        for suffix in ("", "-wal", "-shm", "-journal"):
            private.tighten(beside(self._path, suffix))
        await self.call(_set_up)
        for number, script in databasefile.migrations(after=version).items():
            await self._connection.executescript(
                f"BEGIN IMMEDIATE;\nPRAGMA application_id = {databasefile.APPLICATION_ID};\n{script}\n"
                f"PRAGMA user_version = {number};\nCOMMIT;"
            )
        await self.rows("PRAGMA foreign_keys = ON")
        # Takes the exclusive lock now, and shows that the file can be written.
        await self.call(_transaction, lambda db: db.execute(sql.INSERT_META, ("secret_key", secrets.token_bytes(32))))
        await self.call(self._watch.begin)

    def _watched_transaction(
        self,
        db: sqlite3.Connection,
        work: Callable[[sqlite3.Connection], T],
        done: list[T],
        tell: Callable[[T], object] | None,
    ) -> str | None:
        """Run a transaction, keep and tell its result; or return what has become of the file, with nothing done."""
        problem = self._problem(db)
        if problem is None:
            try:
                done.append(_transaction(db, work))
            finally:
                self._watch.wrote()
            if tell is not None:
                tell(done[0])
        return problem

    def _problem(self, db: sqlite3.Connection) -> str | None:
        problem = self._watch.problem()
        if problem is None:
            return self._watch.read_only()
        if self.lost is None and problem not in CHANGES:
            # What was promised goes from the log into the file itself, which may be found again; and a log that another
            # gateway would take for that of a new file at this path is left with nothing in it.
            with suppress(sqlite3.Error):
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                ((size,),) = db.execute(_SIZE)
                self._watch.emptied(size)
        return problem

    def _note_lost(self, problem: str | None) -> None:
        known, self.lost = self.lost, problem
        if problem == known:
            return
        if problem is None:
            _log.warning("store.file_back", path=str(self._path))
        else:
            _log.error("store.file_lost", path=str(self._path), error=problem, advice=ADVICE.get(problem))

    def _note_damage(self, exc: sqlite3.Error) -> bool:
        """Whether the error says that the file is damaged. Said once, and from then on the store is failing."""
        kind, _ = error_name(exc)
        if kind not in ("CORRUPT", "NOTADB"):
            return False
        known, self._damaged = self._damaged, True
        self.failing = f"the file is damaged: {exc}"
        if not known:
            _log.error("store.damaged", path=str(self._path), error=str(exc), advice=explain(exc, self._path))
        return True


def _set_up(db: sqlite3.Connection) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "temp_store = MEMORY", "cache_size = -16384"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    # Off, also where SQLite has them on by itself: a migration that makes a table anew drops the old one, and each row
    # that refers to it would go too.
    db.execute("PRAGMA foreign_keys = OFF")


def _transaction(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    db.execute("BEGIN IMMEDIATE")
    try:
        result = work(db)
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # some errors have already rolled it back
            db.execute("ROLLBACK")
        raise
    return result
