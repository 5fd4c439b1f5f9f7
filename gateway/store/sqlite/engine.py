"""SQLite as the ports use it: their steps in the database's thread, within one transaction.

Owns what an error of SQLite is blamed on. Called by the store's ports; the file, its connection and their turns at it
are ``database.py``'s, the claims of webhooks ``webhookclaims.py``'s.
"""

import sqlite3
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from gateway.core.claims import AttemptRecord, Lane
from gateway.core.errors import StoreError
from gateway.store import rows
from gateway.store.dialect import CreateStatements, DeliverStatements, ReadStatements, SearchStatements, Statements
from gateway.store.engine import Blame, Column, Hints, Lead, Result, Rows, Run, Step, Touched, WebhookClaims, Work
from gateway.store.sqlite import createsql, deliversql, searchsql, sql, statements, watchsql
from gateway.store.sqlite.atonce import fetch
from gateway.store.sqlite.blobs import read_large, write_large
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.webhookclaims import ClaimsInMemory

T = TypeVar("T")

_VALUES_FAULT = (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError)
"""What a write's own values bring about: a constraint, a size, a number, text that is not UTF-8."""


class SqliteEngine:
    """``gateway.store.engine.Engine`` on one SQLite file, which no other process uses."""

    shared = False
    sql: Statements = sql
    deliversql: DeliverStatements = deliversql
    watchsql: ReadStatements = watchsql
    createsql: CreateStatements = createsql
    searchsql: SearchStatements = searchsql

    def __init__(self, database: Database) -> None:
        self._database = database
        self.webhooks: WebhookClaims = ClaimsInMemory(database)
        self.hints: Hints = _NobodyToTell()

    async def read(self, statement: str, parameters: Any = ()) -> list[Any]:
        return await self._database.read(statement, parameters)

    async def large(self, seq: int, column: Column) -> bytes | None:
        async with self._database.reading():
            return await self._database.call(read_large, seq, column)

    def transaction(
        self, make: Callable[[], Work[T]], committed: Callable[[T, bool], None], *, hasty: bool
    ) -> Coroutine[Any, Any, object]:
        def work(db: sqlite3.Connection) -> tuple[T, bool]:
            before = db.total_changes
            return drive(db, make()), db.total_changes > before

        return self._database.transaction(work, lambda done: committed(*done))

    def blame(self, exc: Exception) -> Blame:
        if isinstance(exc, _VALUES_FAULT):
            return Blame.VALUES
        if isinstance(exc, sqlite3.OperationalError) or type(exc) is sqlite3.DatabaseError:
            wrong_statement = getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
            return Blame.DEFECT if wrong_statement else Blame.DATABASES
        return Blame.DATABASES if isinstance(exc, StoreError | OSError | MemoryError) else Blame.DEFECT

    def require(self) -> None:
        self._database.require_file()

    def array(self, values: Sequence[Any]) -> str:
        return rows.array(values)

    def record(self, attempts: Sequence[AttemptRecord]) -> Work[bool]:
        yield from ()
        return False

    def guard(self, leads: Collection[Lead], lock: Sequence[int] = ()) -> Work[Collection[Lead]]:
        yield from ()
        return leads

    def lock(self, seqs: Sequence[int]) -> Work[None]:
        yield from ()

    def lock_all(self, touched: Iterable[Touched]) -> Work[None]:
        yield from ()


def drive(db: sqlite3.Connection, work: Work[T]) -> T:
    """Take a work's steps on a connection, in its thread, and return what it returns."""
    try:
        step = next(work)
        while True:
            step = work.send(_taken(db, step))
    except StopIteration as end:
        done: T = end.value
        return done


def _taken(db: sqlite3.Connection, step: Step) -> Result:
    before = db.total_changes
    found: list[Any] = []
    match step:
        case Rows(statement, its):
            found = statements.run(db, statement, its)
        case Run(statement, parameters):
            found = fetch(db, statement, parameters)
        case _:
            write_large(db, *step)
    return Result(found, db.total_changes - before)


class _NobodyToTell:
    """Hints for replicas, of which there are none."""

    def tasks(self, upstream: str, watchers: str, due_at: int) -> None: ...

    def expiries(self, upstream: str, expires_at: int) -> None: ...

    def lane(self, lane: Lane, due_at: int) -> None: ...

    def emptied(self, lane: Lane) -> None: ...

    def settled(self, seqs: Iterable[int]) -> None: ...
