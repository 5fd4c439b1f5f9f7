"""PostgreSQL as the ports use it: their steps on a connection, each write guarded by who leads.

Owns what SQLite need not do: the guard of leaders and the locks of tasks. Called by the store's ports; the connections
are ``database.py``'s, the claims of webhooks ``webhookleases.py``'s, what replicas tell one another ``hints.py``'s.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from gateway.store.dialect import CreateStatements, ReadStatements, SearchStatements, Statements
from gateway.store.engine import Blame, Column, Hints, Lead, Read, Rows, Run, Touched, WebhookClaims, Work
from gateway.store.postgres import createsql, leadsql, searchsql, sql, watchsql
from gateway.store.postgres.database import PostgresDatabase

__all__ = ["POLLS", "PostgresEngine"]

T = TypeVar("T")

POLLS = "polls:"
"""What the name of a lead begins with whose holder polls an upstream."""


class PostgresEngine:
    """``gateway.store.engine.Engine`` on a database that other replicas use as well."""

    shared = True
    sql: Statements = sql
    watchsql: ReadStatements = watchsql
    createsql: CreateStatements = createsql
    searchsql: SearchStatements = searchsql

    def __init__(self, database: PostgresDatabase, webhooks: WebhookClaims, hints: Hints) -> None:
        self._database = database
        self.webhooks = webhooks
        self.hints = hints

    async def read(self, statement: str, parameters: Any = ()) -> list[Any]:
        return await self._database.read(statement, parameters)

    def reading(self) -> AbstractAsyncContextManager[Read]:
        return self._database.reading()

    async def large(self, seq: int, column: Column) -> bytes | None:
        return await self._database.large(seq, column)

    async def transaction(self, make: Callable[[], Work[T]]) -> tuple[T, bool]:
        return await self._database.transaction(make)

    def blame(self, exc: Exception) -> Blame:
        return self._database.blame(exc)

    def require(self) -> None:
        self._database.require()

    def array(self, values: Sequence[Any]) -> Sequence[Any]:
        return values

    def guard(self, leads: Collection[Lead]) -> Work[Collection[Lead]]:
        held = yield Rows(leadsql.GUARD_LEADS, [(f"{POLLS}{upstream}", epoch) for upstream, epoch in leads])
        names = {name for (name,) in held.rows}
        return {(upstream, epoch) for upstream, epoch in leads if f"{POLLS}{upstream}" in names}

    def lock(self, seqs: Sequence[int]) -> Work[None]:
        yield Rows(sql.LOCK_TASKS, [(seq,) for seq in seqs])

    def lock_all(self, touched: Collection[Touched]) -> Work[None]:
        seqs = [seq for one in touched for seq in one.seqs]
        tasks = [name for one in touched for name in one.tasks]
        upstreams, task_ids = [upstream for upstream, _ in tasks], [task_id for _, task_id in tasks]
        yield Run(sql.LOCK_ALL, (seqs, upstreams, task_ids, [name for one in touched for name in one.callbacks]))
