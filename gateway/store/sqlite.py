"""The SQLite store: one connection, one process, every write grouped with those that wait beside it.

Owns the connection, the claims and the mapping of rows; its statements stand in ``sql.py``. Called by the API and the
loops through ``gateway.store.Store``.

One connection, because SQLite 3.7.0 to 3.51.2 can lose a WAL reset with two; ``locking_mode=EXCLUSIVE`` keeps a second
gateway off the file. Two coroutines on one connection share its transaction, so a lock is held around each
transaction and each read. A claim is an entry in a set of this process: a crash leaves nothing to repair.
"""

import asyncio
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import aiosqlite
import msgspec

from gateway.errors import StoreError, StoreUnusable
from gateway.model import (
    Attempt,
    AttemptRecord,
    AttemptResult,
    Callback,
    CallbackState,
    DueCallback,
    DueTask,
    ExpiredTask,
    NewCallback,
    Outcome,
    PollRecord,
    Registration,
    Settlement,
    Task,
    TaskState,
)
from gateway.payload import body_template
from gateway.store import sql
from gateway.store.writer import Kind, Writer

__all__ = ["SqliteStore"]

_APPLICATION_ID = 0x57484757  # "WHGW": tells our files from other SQLite databases
_FOREVER = 2**62
_NEXT_STATE = {
    AttemptResult.DELIVERED: CallbackState.DELIVERED,
    AttemptResult.RETRY: CallbackState.PENDING,
    AttemptResult.DEAD: CallbackState.DEAD,
    AttemptResult.INTERRUPTED: CallbackState.PENDING,
}


class SqliteStore:
    """``gateway.store.Store`` on one SQLite file."""

    def __init__(self, path: Path, *, first_attempt_delay_s: float = 0.0) -> None:
        """Keep everything in ``path``; webhooks fall due ``first_attempt_delay_s`` seconds after their task's end."""
        self._path = path
        self._first_attempt_delay_ms = round(first_attempt_delay_s * 1000)
        self._lock = asyncio.Lock()
        self._db: aiosqlite.Connection | None = None
        self._claimed_tasks: set[int] = set()
        self._claimed_callbacks: set[int] = set()
        self._settle_waiters: dict[int, set[asyncio.Future[None]]] = {}
        self._tasks_due: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.callbacks_due = asyncio.Event()
        # The order in which kinds are applied within one transaction: settling before registering means that a
        # callback which arrives with its task's end becomes pending at once.
        self._settle = Kind("settle", self._apply_settle, self._settled)
        self._register = Kind("register", self._apply_register, self._registered)
        self._reschedule = Kind("reschedule", self._apply_reschedule, self._rescheduled)
        self._poll_now = Kind("poll_now", self._apply_poll_now)
        self._record = Kind("record_attempt", self._apply_record, self._recorded)
        self._cancel = Kind("cancel", self._apply_cancel)
        self._redeliver = Kind("redeliver", self._apply_redeliver)
        self._redeliver_dead = Kind("redeliver_dead", self._apply_redeliver_dead)
        self._prune = Kind("prune", self._apply_prune)
        self._writer = Writer(
            (
                self._settle,
                self._register,
                self._reschedule,
                self._poll_now,
                self._record,
                self._cancel,
                self._redeliver,
                self._redeliver_dead,
                self._prune,
            ),
            self._transaction,
        )

    def tasks_due(self, upstream: str) -> asyncio.Event:
        return self._tasks_due[upstream]

    async def open(self) -> None:
        try:
            # isolation_level None: transactions begin and end only where this file says so.
            self._db = await aiosqlite.connect(self._path, isolation_level=None, timeout=1.0)
            await self._prepare()
        except sqlite3.Error as exc:
            await self._close_connection()
            raise StoreUnusable(_explain(exc, self._path)) from exc
        except StoreUnusable:
            await self._close_connection()
            raise
        self._writer.start()

    async def close(self) -> None:
        await self._writer.close()
        await self._close_connection()

    async def _close_connection(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                await self._db.close()
            self._db = None

    @property
    def failing(self) -> str | None:
        return self._writer.failing

    async def _prepare(self) -> None:
        # Exclusive before WAL: then the WAL index is kept in memory and no second process can open the file.
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "temp_store = MEMORY",
            "cache_size = -16384",
        ):
            await self._rows(f"PRAGMA {pragma}")
        ((application,),) = await self._rows("PRAGMA application_id")
        ((version,),) = await self._rows("PRAGMA user_version")
        ((tables,),) = await self._rows("SELECT count(*) FROM sqlite_schema")
        if application != _APPLICATION_ID and tables:
            raise StoreUnusable(
                f"{self._path} is a database of another program; it was not touched. "
                "Set GATEWAY_DATABASE_URL to a file of the gateway's own."
            )
        migrations = _migrations()
        if version > len(migrations):
            raise StoreUnusable(
                f"{self._path} was written by a newer gateway (schema {version}, this one knows {len(migrations)}); "
                "it was not touched. Start that version, or restore a backup made before the upgrade."
            )
        for number, script in enumerate(migrations[version:], version + 1):
            await self._connection.executescript(
                f"BEGIN IMMEDIATE;\nPRAGMA application_id = {_APPLICATION_ID};\n{script}\n"
                f"PRAGMA user_version = {number};\nCOMMIT;"
            )
        # Takes the exclusive lock now, and shows that the file can be written.
        async with self._transaction():
            await self._connection.execute(sql.INSERT_META, ("secret_key", secrets.token_bytes(32)))

    @property
    def _connection(self) -> aiosqlite.Connection:
        if self._db is None:
            raise StoreError("The store is closed: the gateway is starting or shutting down.")
        return self._db

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        async with self._lock:
            db = self._connection
            await db.execute("BEGIN IMMEDIATE")
            try:
                yield
                await db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # some errors have already rolled it back
                    await db.execute("ROLLBACK")
                raise

    async def _rows(self, statement: str, parameters: Any = ()) -> list[Any]:
        return list(await self._connection.execute_fetchall(statement, parameters))

    async def _read(self, statement: str, parameters: Any = ()) -> list[Any]:
        """Read outside of any transaction: never rows that might yet be rolled back."""
        async with self._lock:
            try:
                return await self._rows(statement, parameters)
            except sqlite3.Error as exc:
                raise StoreError(f"The database could not be read ({exc}).") from exc

    async def _many(self, statement: str, parameters: Iterable[Any]) -> None:
        await self._connection.executemany(statement, parameters)

    async def secret_key(self) -> bytes:
        ((key,),) = await self._read(sql.SELECT_META, ("secret_key",))
        return bytes(key)

    # Registering

    async def register(self, new: Sequence[NewCallback]) -> list[Registration]:
        registrations: list[Registration] = await self._writer.submit(self._register, new)
        return registrations

    async def _apply_register(self, items: Sequence[Sequence[NewCallback]]) -> list[list[Registration]]:
        new = [callback for item in items for callback in item]
        await self._many(sql.INSERT_TASK, [(c.upstream, c.task_id, c.created_at, c.first_poll_at) for c in new])
        await self._many(
            sql.INSERT_CALLBACK,
            [
                {
                    "id": c.id,
                    "client": c.client,
                    "upstream": c.upstream,
                    "task_id": c.task_id,
                    "url": c.url,
                    "metadata": c.metadata,
                    "timeout_s": c.timeout_s,
                    "created_at": c.created_at,
                    "expires_at": c.expires_at,
                }
                for c in new
            ],
        )
        found = await self._registered_callbacks(new)
        stale = [c for c, callback in zip(new, found, strict=True) if await self._joins_late(c, callback)]
        if stale:
            refreshed = await self._registered_callbacks(stale)
            by_id = {callback.id: callback for callback in refreshed}
            found = [by_id.get(callback.id, callback) for callback in found]
        registrations = iter(
            [
                Registration(callback=callback, created=callback.id == c.id)
                for c, callback in zip(new, found, strict=True)
            ]
        )
        return [[next(registrations) for _ in item] for item in items]

    async def _registered_callbacks(self, new: Sequence[NewCallback]) -> list[Callback]:
        wanted = msgspec.json.encode([(c.upstream, c.task_id, c.client, c.url) for c in new]).decode()
        return [_callback(row) for row in await self._rows(sql.SELECT_REGISTERED, (wanted,))]

    async def _joins_late(self, new: NewCallback, callback: Callback) -> bool:
        """Catch up a new callback whose task has settled or is no longer polled; return whether it changed."""
        task = callback.task
        if callback.id != new.id or callback.state is not CallbackState.WAITING or task.next_poll_at is not None:
            return False
        if task.state.terminal:
            ((state, data, settled_at),) = await self._rows(sql.SELECT_OUTCOME, (task.seq,))
            template = body_template(Outcome(state=TaskState(state), data=data), settled_at)
            await self._connection.execute(
                sql.OWE_WEBHOOK,
                {
                    "id": new.id,
                    "deliver_at": new.created_at + self._first_attempt_delay_ms,
                    "head": template.head,
                    "middle": template.middle,
                    "tail": template.tail,
                },
            )
        else:
            await self._connection.execute(sql.REVIVE_TASK, (new.first_poll_at, task.seq))
        return True

    def _registered(self, items: Sequence[Sequence[NewCallback]]) -> None:
        for upstream in {callback.upstream for item in items for callback in item}:
            self._tasks_due[upstream].set()
        self.callbacks_due.set()

    # Reading for the API

    async def get_callback(self, client: str, callback_id: str) -> Callback | None:
        rows = await self._read(sql.SELECT_CALLBACK, (callback_id, client))
        return _callback(rows[0]) if rows else None

    async def list_callbacks(
        self, client: str, *, state: CallbackState | None, task_id: str | None, before_seq: int | None, limit: int
    ) -> list[Callback]:
        rows = await self._read(
            sql.select_callbacks(state=state, by_task=task_id is not None),
            {
                "client": client,
                "task_id": task_id,
                "before": _FOREVER if before_seq is None else before_seq,
                "limit": limit,
            },
        )
        return [_callback(row) for row in rows]

    async def list_attempts(self, client: str, callback_id: str) -> list[Attempt] | None:
        found = await self._read(sql.SELECT_STATE, (callback_id, client))
        if not found:
            return None
        rows = await self._read(sql.SELECT_ATTEMPTS, (found[0][0],))
        return [
            Attempt(
                number=number,
                started_at=started_at,
                duration_ms=duration_ms,
                status_code=status_code,
                error=error,
                result=AttemptResult(result),
            )
            for number, started_at, duration_ms, status_code, error, result in rows
        ]

    async def get_task(self, client: str, task_id: str) -> Task | None:
        rows = await self._read(sql.SELECT_TASK, {"client": client, "task_id": task_id})
        return _task(rows[0]) if rows else None

    async def wait_settled(self, seq: int, timeout_s: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._settle_waiters.setdefault(seq, set())
        waiters.add(future)
        try:
            await asyncio.wait((future,), timeout=timeout_s)
        finally:
            waiters.discard(future)
            if not waiters and self._settle_waiters.get(seq) is waiters:
                del self._settle_waiters[seq]

    # Changing for the API

    async def cancel(self, client: str, callback_id: str, now: int) -> CallbackState | None:
        state: CallbackState | None = await self._writer.submit(self._cancel, (client, callback_id, now))
        return state

    async def _apply_cancel(self, items: Sequence[tuple[str, str, int]]) -> list[CallbackState | None]:
        found: list[CallbackState | None] = []
        for client, callback_id, now in items:
            rows = await self._rows(sql.SELECT_STATE, (callback_id, client))
            for seq, task_seq, _ in rows:
                await self._connection.execute(sql.CANCEL_CALLBACK, (now, seq))
                await self._connection.execute(sql.IDLE_TASK, {"seq": task_seq})
            found.append(CallbackState(rows[0][2]) if rows else None)
        return found

    async def redeliver(self, client: str, callback_id: str, now: int) -> CallbackState | None:
        state: CallbackState | None = await self._writer.submit(self._redeliver, (client, callback_id, now))
        self.callbacks_due.set()
        return state

    async def _apply_redeliver(self, items: Sequence[tuple[str, str, int]]) -> list[CallbackState | None]:
        found: list[CallbackState | None] = []
        for client, callback_id, now in items:
            rows = await self._rows(sql.SELECT_STATE, (callback_id, client))
            for seq, _, _ in rows:
                await self._connection.execute(sql.REDELIVER_CALLBACK, {"seq": seq, "now": now})
            found.append(CallbackState(rows[0][2]) if rows else None)
        return found

    async def redeliver_dead(self, client: str, since: int, until: int, now: int) -> int:
        count: int = await self._writer.submit(
            self._redeliver_dead, {"client": client, "since": since, "until": until, "now": now}
        )
        self.callbacks_due.set()
        return count

    async def _apply_redeliver_dead(self, items: Sequence[dict[str, Any]]) -> list[int]:
        return [(await self._connection.execute(sql.REDELIVER_DEAD, item)).rowcount for item in items]

    # Polling

    async def claim_tasks(self, upstream: str, now: int, limit: int) -> tuple[list[DueTask], int | None]:
        async with self._lock:
            # Claimed rows may stand first: ask for as many more, and for one that says when to come back.
            rows = await self._rows(sql.SELECT_DUE_TASKS, (upstream, limit + len(self._claimed_tasks) + 1))
            claims: list[DueTask] = []
            for seq, name, task_id, created_at, polls, failures, next_poll_at in rows:
                if seq in self._claimed_tasks:
                    continue
                if next_poll_at > now or len(claims) == limit:
                    return claims, next_poll_at
                self._claimed_tasks.add(seq)
                claims.append(
                    DueTask(
                        seq=seq, upstream=name, task_id=task_id, created_at=created_at, polls=polls, failures=failures
                    )
                )
            return claims, None

    def release_task(self, claim: DueTask) -> None:
        self._claimed_tasks.discard(claim.seq)
        self._tasks_due[claim.upstream].set()

    async def reschedule(self, record: PollRecord) -> None:
        await self._writer.submit(self._reschedule, record)

    async def _apply_reschedule(self, items: Sequence[PollRecord]) -> list[None]:
        await self._many(sql.RESCHEDULE_TASK, [msgspec.structs.asdict(item) for item in items])
        return [None] * len(items)

    def _rescheduled(self, items: Sequence[PollRecord]) -> None:
        self._claimed_tasks.difference_update(item.seq for item in items)

    async def settle(self, settlement: Settlement) -> None:
        await self._writer.submit(self._settle, settlement)

    async def _apply_settle(self, items: Sequence[Settlement]) -> list[None]:
        parameters = []
        for item in items:
            template = body_template(item.outcome, item.settled_at)
            parameters.append(
                {
                    "seq": item.seq,
                    "state": item.outcome.state.value,
                    "outcome": item.outcome.data,
                    "settled_at": item.settled_at,
                    "deliver_at": item.settled_at + self._first_attempt_delay_ms,
                    "polls": item.polls,
                    "expired_by": _FOREVER if item.expired_by is None else item.expired_by,
                    "head": template.head,
                    "middle": template.middle,
                    "tail": template.tail,
                }
            )
        await self._many(sql.OWE_WEBHOOKS, parameters)
        await self._many(sql.SETTLE_TASK, parameters)
        return [None] * len(items)

    def _settled(self, items: Sequence[Settlement]) -> None:
        for item in items:
            # A settlement by time-out claims nothing: the task may be being polled.
            if item.expired_by is None:
                self._claimed_tasks.discard(item.seq)
            for future in self._settle_waiters.pop(item.seq, ()):
                if not future.done():
                    future.set_result(None)
        self.callbacks_due.set()

    async def expired_tasks(self, upstream: str, now: int, limit: int) -> tuple[list[ExpiredTask], int | None]:
        rows = await self._read(sql.SELECT_EXPIRED, (now, upstream, limit))
        ((next_expiry_at,),) = await self._read(sql.SELECT_NEXT_EXPIRY, (now,))
        expired = [
            ExpiredTask(seq=seq, task_id=task_id, expires_at=expires_at, last_polled_at=last_polled_at)
            for seq, task_id, expires_at, last_polled_at in rows
        ]
        return expired, next_expiry_at

    async def poll_now(self, seqs: Sequence[int], now: int) -> None:
        await self._writer.submit(self._poll_now, (seqs, now))

    async def _apply_poll_now(self, items: Sequence[tuple[Sequence[int], int]]) -> list[None]:
        await self._many(sql.POLL_NOW, [(now, seq) for seqs, now in items for seq in seqs])
        return [None] * len(items)

    # Delivering

    async def claim_callbacks(self, now: int, limit: int) -> tuple[list[DueCallback], int | None]:
        async with self._lock:
            rows = await self._rows(sql.SELECT_DUE_CALLBACKS, (limit + len(self._claimed_callbacks) + 1,))
            claims: list[DueCallback] = []
            for seq, callback_id, client, url, body, attempts, budget_used, redeliveries, due_at in rows:
                if seq in self._claimed_callbacks:
                    continue
                if due_at > now or len(claims) == limit:
                    return claims, due_at
                self._claimed_callbacks.add(seq)
                claims.append(
                    DueCallback(
                        seq=seq,
                        id=callback_id,
                        client=client,
                        url=url,
                        body=body,
                        attempts=attempts,
                        budget_used=budget_used,
                        redeliveries=redeliveries,
                        due_at=due_at,
                    )
                )
            return claims, None

    def release_callback(self, seq: int) -> None:
        self._claimed_callbacks.discard(seq)
        self.callbacks_due.set()

    async def record_attempt(self, record: AttemptRecord) -> None:
        await self._writer.submit(self._record, record)

    async def _apply_record(self, items: Sequence[AttemptRecord]) -> list[None]:
        parameters = []
        for item in items:
            attempt = item.attempt
            parameters.append(
                {
                    "seq": item.claim.seq,
                    "number": attempt.number,
                    "started_at": attempt.started_at,
                    "duration_ms": attempt.duration_ms,
                    "status_code": attempt.status_code,
                    "error": attempt.error,
                    "result": attempt.result.value,
                    "state": _NEXT_STATE[attempt.result].value,
                    "counts": int(attempt.result is not AttemptResult.INTERRUPTED),
                    "next_attempt_at": item.next_attempt_at,
                    "ended_at": attempt.started_at + attempt.duration_ms,
                    "redeliveries": item.claim.redeliveries,
                }
            )
        await self._many(sql.INSERT_ATTEMPT, parameters)
        await self._many(sql.RECORD_ATTEMPT, parameters)
        await self._many(sql.COUNT_ATTEMPT, parameters)
        return [None] * len(items)

    def _recorded(self, items: Sequence[AttemptRecord]) -> None:
        self._claimed_callbacks.difference_update(item.claim.seq for item in items)

    # Keeping house

    async def prune(self, ended_before: int, dead_before: int, limit: int) -> int:
        count: int = await self._writer.submit(
            self._prune, {"ended_before": ended_before, "dead_before": dead_before, "limit": limit}
        )
        return count

    async def _apply_prune(self, items: Sequence[dict[str, int]]) -> list[int]:
        counts = []
        for item in items:
            rows = await self._rows(sql.PRUNE_CALLBACKS, item)
            await self._many(sql.PRUNE_TASK, [{"seq": task_seq} for (task_seq,) in rows])
            counts.append(len(rows))
        return counts

    async def backlog(self) -> tuple[int, int | None]:
        ((count, oldest),) = await self._read(sql.SELECT_BACKLOG)
        return count, oldest


def _callback(row: Any) -> Callback:
    (
        seq,
        callback_id,
        client,
        url,
        metadata,
        timeout_s,
        state,
        created_at,
        expires_at,
        attempts,
        next_attempt_at,
        delivered_at,
        last_error,
        *task,
    ) = row
    return Callback(
        seq=seq,
        id=callback_id,
        client=client,
        url=url,
        metadata=metadata,
        timeout_s=timeout_s,
        state=CallbackState(state),
        created_at=created_at,
        expires_at=expires_at,
        attempts=attempts,
        next_attempt_at=next_attempt_at,
        delivered_at=delivered_at,
        last_error=last_error,
        task=_task((*task, None)),
    )


def _task(row: Any) -> Task:
    (
        seq,
        upstream,
        task_id,
        state,
        polls,
        created_at,
        last_polled_at,
        next_poll_at,
        last_error,
        settled_at,
        outcome,
    ) = row
    return Task(
        seq=seq,
        upstream=upstream,
        task_id=task_id,
        state=TaskState(state),
        polls=polls,
        created_at=created_at,
        last_polled_at=last_polled_at,
        next_poll_at=next_poll_at,
        last_error=last_error,
        settled_at=settled_at,
        outcome=outcome,
    )


def _migrations() -> list[str]:
    folder = resources.files("gateway.store.migrations")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [file.read_text(encoding="utf-8") for file in files]


def _explain(exc: sqlite3.Error, path: Path) -> str:
    match getattr(exc, "sqlite_errorname", "").split("_")[:2]:
        case ["SQLITE", "BUSY"]:
            return f"{path} is in use by another process, perhaps a second gateway. Stop it, or use another file."
        case ["SQLITE", "CANTOPEN"]:
            return f"{path} cannot be opened: create its folder and let this user write there ({exc})."
        case ["SQLITE", "READONLY"]:
            return f"{path} cannot be written: let this user write the file and its folder ({exc})."
        case ["SQLITE", "NOTADB"]:
            return f"{path} is not an SQLite database; it was not touched. Set GATEWAY_DATABASE_URL to another file."
        case ["SQLITE", "CORRUPT"]:
            return f"{path} is damaged ({exc}); it was not repaired. Restore a backup, or set it aside and start anew."
        case ["SQLITE", "FULL"]:
            return f"The disk that holds {path} is full ({exc}). Free some space and start again."
        case _:
            return f"{path} cannot be used: {exc}."
