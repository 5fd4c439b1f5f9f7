"""PostgreSQL as the ports use it: their steps on a connection, each write guarded by who leads.

Owns what SQLite need not do: the guard of leaders and the locks of tasks. Called by the store's ports; the connections
are ``database.py``'s, the claims of webhooks ``webhookleases.py``'s, what replicas tell one another ``hints.py``'s.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from gateway.core.claims import AttemptRecord
from gateway.store import rows
from gateway.store.dialect import CreateStatements, DeliverStatements, ReadStatements, SearchStatements, Statements
from gateway.store.engine import Blame, Column, Hints, Lead, Rows, Run, Touched, WebhookClaims, Work
from gateway.store.postgres import createsql, deliversql, leadsql, locksql, searchsql, sql, watchsql
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.errors import blame

T = TypeVar("T")

POLLS = "polls:"
"""What the name of a lead begins with whose holder polls an upstream."""


class PostgresEngine:
    """``gateway.store.engine.Engine`` on a database that other replicas use as well."""

    shared = True
    sql: Statements = sql
    deliversql: DeliverStatements = deliversql
    watchsql: ReadStatements = watchsql
    createsql: CreateStatements = createsql
    searchsql: SearchStatements = searchsql

    def __init__(self, database: PostgresDatabase, webhooks: WebhookClaims, hints: Hints) -> None:
        self._database = database
        self.webhooks = webhooks
        self.hints = hints

    async def read(self, statement: str, parameters: Any = ()) -> list[Any]:
        return await self._database.read(statement, parameters)

    async def large(self, seq: int, column: Column) -> bytes | None:
        return await self._database.large(seq, column)

    async def transaction(
        self, make: Callable[[], Work[T]], committed: Callable[[T, bool], None], *, hasty: bool
    ) -> None:
        committed(*await self._database.transaction(make, hasty=hasty))

    def blame(self, exc: Exception) -> Blame:
        return blame(exc)

    def require(self) -> None:
        self._database.require()

    def array(self, values: Sequence[Any]) -> Sequence[Any]:
        return values

    def record(self, attempts: Sequence[AttemptRecord]) -> Work[bool]:
        done = yield Rows(deliversql.RECORD_UNFENCED, rows.recorded_whole(attempts))
        return done.count == len(attempts)

    def guard(self, leads: Collection[Lead], lock: Sequence[int] = ()) -> Work[Collection[Lead]]:
        names, epochs = [f"{POLLS}{upstream}" for upstream, _ in leads], [epoch for _, epoch in leads]
        if lock:
            held = yield Run(locksql.GUARD_AND_LOCK, (names, epochs, lock))
        else:
            held = yield Run(leadsql.GUARD_LEADS, (names, epochs))
        led = {name for (name,) in held.rows}
        return {(upstream, epoch) for upstream, epoch in leads if f"{POLLS}{upstream}" in led}

    def lock(self, seqs: Sequence[int]) -> Work[None]:
        yield Rows(locksql.LOCK_TASKS, [(seq,) for seq in seqs])

    def lock_all(self, touched: Iterable[Touched]) -> Work[None]:
        touched = list(touched)
        by_task = [one for one in touched if one.seqs or one.tasks or one.callbacks]
        callbacks = [name for one in by_task for name in one.callbacks]
        # Whoever comes first keeps to the order by itself, where nobody else touches tasks.
        if by_task and (len(by_task) > 1 or by_task[0] is not touched[0]):
            seqs = [seq for one in by_task for seq in one.seqs]
            tasks = [name for one in by_task for name in one.tasks]
            upstreams, task_ids = [upstream for upstream, _ in tasks], [task_id for _, task_id in tasks]
            yield Run(locksql.LOCK_ALL, (seqs, upstreams, task_ids, callbacks))
            # What is new is locked by being inserted: by one statement, whose order is that of the names, and before
            # anything else but tasks is.
            makers = [one.new for one in by_task if one.new is not None]
            if len(makers) > 1 or (makers and touched[: len(by_task)] != by_task):
                yield Rows(sql.INSERT_TASKS, [row for make in makers for row in make()])
        by_webhook = [one.webhooks for one in touched if one.webhooks]
        if len(callbacks) > 1 or (callbacks and by_webhook) or len(by_webhook) > 1:
            yield Run(locksql.LOCK_CALLBACKS, ([seq for seqs in by_webhook for seq in seqs], callbacks))
