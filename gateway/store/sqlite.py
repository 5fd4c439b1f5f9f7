"""The SQLite store: every write grouped with those that wait beside it, every claim in this process's memory.

Owns what each write does and in which order, the claims, and who is woken afterwards. The statements stand in
``sql.py``, the connection in ``database.py``, the mapping of rows in ``rows.py``. Called by the API and the loops
through ``gateway.store.Store``.

A claim is an entry in a set of this process, made from committed rows and ended once its write is committed: a crash
leaves nothing to repair.
"""

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.bulkhead import Bulkhead
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
from gateway.store import Rank, rows, sql
from gateway.store.database import Database
from gateway.store.writer import Kind, Writer

__all__ = ["SqliteStore"]

_CANDIDATES = 2000  # due tasks that are ranked, where more are due than may be polled
_DURATIONS_KEPT = 256  # per model


class SqliteStore:
    """``gateway.store.Store`` on one SQLite file."""

    def __init__(self, path: Path, *, first_attempt_delay_s: float = 0.0) -> None:
        """Keep everything in ``path``; webhooks fall due ``first_attempt_delay_s`` seconds after their task's end."""
        self._database = Database(path)
        self._first_attempt_delay_ms = round(first_attempt_delay_s * 1000)
        self._claimed_tasks: dict[int, str] = {}  # and the upstream of each
        self._claimed_callbacks: set[int] = set()
        self._next_poll_told: dict[str, int | None] = {}  # per upstream, what its poller last heard
        self._duration_seqs: defaultdict[tuple[str, str], int] = defaultdict(int)
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
        self._redeliver = Kind("redeliver", self._apply_redeliver, self._redelivered)
        self._redeliver_dead = Kind("redeliver_dead", self._apply_redeliver_dead, self._redelivered)
        self._prune = Kind("prune", self._apply_prune)
        self._save = Kind("save", self._apply_save)
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
                self._save,
            ),
            self._database.transaction,
        )

    def tasks_due(self, upstream: str) -> asyncio.Event:
        return self._tasks_due[upstream]

    async def open(self) -> None:
        await self._database.open()
        self._writer.start()

    async def close(self) -> None:
        await self._writer.close()
        await self._database.close()

    @property
    def failing(self) -> str | None:
        return self._writer.failing

    async def secret_key(self) -> bytes:
        ((key,),) = await self._database.read(sql.SELECT_META, ("secret_key",))
        return bytes(key)

    # Registering

    async def register(self, new: Sequence[NewCallback]) -> list[Registration]:
        registrations: list[Registration] = await self._writer.submit(self._register, new)
        return registrations

    async def _apply_register(self, items: Sequence[Sequence[NewCallback]]) -> list[list[Registration]]:
        new = [callback for item in items for callback in item]
        parameters = [rows.new_callback_parameters(callback) for callback in new]
        await self._database.many(sql.INSERT_TASK, parameters)
        await self._database.many(sql.INSERT_CALLBACK, parameters)
        found = await self._registered_callbacks(new)
        late = [c for c, callback in zip(new, found, strict=True) if await self._joins_late(c, callback)]
        if late:
            by_id = {callback.id: callback for callback in await self._registered_callbacks(late)}
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
        return [rows.callback(row) for row in await self._database.rows(sql.SELECT_REGISTERED, (wanted,))]

    async def _joins_late(self, new: NewCallback, callback: Callback) -> bool:
        """Catch up a new callback whose task has settled or is no longer polled; return whether it changed."""
        task = callback.task
        if callback.id != new.id or callback.state is not CallbackState.WAITING or task.next_poll_at is not None:
            return False
        if task.state.terminal:
            ((state, data, settled_at),) = await self._database.rows(sql.SELECT_OUTCOME, (task.seq,))
            template = body_template(Outcome(state=TaskState(state), data=data), settled_at)
            webhook = rows.webhook_parameters(template, new.created_at + self._first_attempt_delay_ms)
            await self._database.run(sql.OWE_WEBHOOK, {"id": new.id, **webhook})
        else:
            await self._database.run(
                sql.REVIVE_TASK, {"now": new.created_at, "first_poll_at": new.first_poll_at, "seq": task.seq}
            )
        return True

    def _registered(self, items: Sequence[Sequence[NewCallback]]) -> None:
        for upstream in {callback.upstream for item in items for callback in item}:
            self._tasks_due[upstream].set()
        self.callbacks_due.set()

    # Reading for the API

    async def get_callback(self, client: str, callback_id: str) -> Callback | None:
        found = await self._database.read(sql.SELECT_CALLBACK, (callback_id, client))
        return rows.callback(found[0]) if found else None

    async def list_callbacks(
        self, client: str, *, state: CallbackState | None, task_id: str | None, before_seq: int | None, limit: int
    ) -> list[Callback]:
        found = await self._database.read(
            sql.select_callbacks(state=state, by_task=task_id is not None),
            {
                "client": client,
                "task_id": task_id,
                "before": rows.FOREVER if before_seq is None else before_seq,
                "limit": limit,
            },
        )
        return [rows.callback(row) for row in found]

    async def list_attempts(self, client: str, callback_id: str) -> list[Attempt] | None:
        found = await self._database.read(sql.SELECT_STATE, (callback_id, client))
        if not found:
            return None
        return [rows.attempt(row) for row in await self._database.read(sql.SELECT_ATTEMPTS, (found[0][0],))]

    async def get_task(self, client: str, task_id: str) -> Task | None:
        found = await self._database.read(sql.SELECT_TASK, {"client": client, "task_id": task_id})
        return rows.task(found[0]) if found else None

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
        states: list[CallbackState | None] = []
        for client, callback_id, now in items:
            found = await self._database.rows(sql.SELECT_STATE, (callback_id, client))
            for seq, task_seq, _ in found:
                await self._database.run(sql.CANCEL_CALLBACK, (now, seq))
                await self._database.run(sql.IDLE_TASK, {"seq": task_seq})
            states.append(CallbackState(found[0][2]) if found else None)
        return states

    async def redeliver(self, client: str, callback_id: str, now: int) -> CallbackState | None:
        state: CallbackState | None = await self._writer.submit(self._redeliver, (client, callback_id, now))
        return state

    async def _apply_redeliver(self, items: Sequence[tuple[str, str, int]]) -> list[CallbackState | None]:
        states: list[CallbackState | None] = []
        for client, callback_id, now in items:
            found = await self._database.rows(sql.SELECT_STATE, (callback_id, client))
            for seq, _, _ in found:
                await self._database.run(sql.REDELIVER_CALLBACK, {"seq": seq, "now": now})
            states.append(CallbackState(found[0][2]) if found else None)
        return states

    async def redeliver_dead(self, client: str, since: int, until: int, now: int) -> int:
        count: int = await self._writer.submit(
            self._redeliver_dead, {"client": client, "since": since, "until": until, "now": now}
        )
        return count

    async def _apply_redeliver_dead(self, items: Sequence[dict[str, Any]]) -> list[int]:
        return [await self._database.run(sql.REDELIVER_DEAD, item) for item in items]

    def _redelivered(self, _: Sequence[Any]) -> None:
        self.callbacks_due.set()

    # Polling

    async def claim_tasks(
        self, upstream: str, now: int, limit: int, rank: Rank | None = None
    ) -> tuple[list[DueTask], int | None]:
        # Reading until the claims are made: what another call claims, or a commit gives back, is seen whole or not.
        async with self._database.reading():
            due, next_due_at = await self._due_tasks(upstream, now, limit)
            if rank is not None and len(due) == limit and next_due_at is not None and next_due_at <= now:
                candidates, later = await self._due_tasks(upstream, now, _CANDIDATES)
                due = heapq.nlargest(limit, candidates, key=rank)
                next_due_at = now if len(candidates) > limit else later
            for task in due:
                self._claimed_tasks[task.seq] = upstream
            self._next_poll_told[upstream] = next_due_at
            return due, next_due_at

    async def _due_tasks(self, upstream: str, now: int, limit: int) -> tuple[list[DueTask], int | None]:
        """Return unclaimed due tasks, the longest due first, and when the one after them is due."""
        claimed = msgspec.json.encode(list(self._claimed_tasks)).decode()
        found = await self._database.rows(sql.SELECT_DUE_TASKS, (upstream, claimed, limit + 1))
        due: list[DueTask] = []
        for row in found:
            task = rows.due_task(row)
            if task.due_at > now or len(due) == limit:
                return due, task.due_at
            due.append(task)
        return due, None

    def release_task(self, claim: DueTask) -> None:
        self._claimed_tasks.pop(claim.seq, None)
        self._tasks_due[claim.upstream].set()

    async def reschedule(self, record: PollRecord) -> None:
        await self._writer.submit(self._reschedule, record)

    async def _apply_reschedule(self, items: Sequence[PollRecord]) -> list[None]:
        await self._database.many(sql.RESCHEDULE_TASK, [msgspec.structs.asdict(item) for item in items])
        return [None] * len(items)

    def _rescheduled(self, items: Sequence[PollRecord]) -> None:
        for item in items:
            upstream = self._claimed_tasks.pop(item.seq, None)
            if upstream is None:
                continue
            # While it was claimed, its poller was told of later ones only.
            told = self._next_poll_told.get(upstream)
            if told is None or item.next_poll_at < told:
                self._tasks_due[upstream].set()

    async def settle(self, settlement: Settlement) -> None:
        await self._writer.submit(self._settle, settlement)

    async def _apply_settle(self, items: Sequence[Settlement]) -> list[None]:
        ends = [item for item in items if item.expired_by is None]
        expiries = [item for item in items if item.expired_by is not None]
        # The upstream's word first: a time-out of some of the same task's callbacks must not end it as abandoned.
        for settlements in filter(None, (ends, expiries)):
            parameters = [rows.settlement_parameters(item, self._first_attempt_delay_ms) for item in settlements]
            await self._database.many(sql.OWE_WEBHOOKS, parameters)
            await self._database.many(sql.SETTLE_TASK, parameters)
        if durations := [self._duration(item) for item in ends if item.duration_ms is not None]:
            await self._database.many(sql.INSERT_DURATION, durations)
        return [None] * len(items)

    def _duration(self, settlement: Settlement) -> dict[str, Any]:
        model = settlement.model or ""
        seq = self._duration_seqs[settlement.upstream, model] = self._duration_seqs[settlement.upstream, model] + 1
        return {
            "upstream": settlement.upstream,
            "model": model,
            "slot": seq % _DURATIONS_KEPT,
            "seq": seq,
            "duration_ms": settlement.duration_ms,
        }

    def _settled(self, items: Sequence[Settlement]) -> None:
        for item in items:
            # A settlement by time-out claims nothing: the task may be being polled.
            if item.expired_by is None:
                self._claimed_tasks.pop(item.seq, None)
            for future in self._settle_waiters.pop(item.seq, ()):
                if not future.done():
                    future.set_result(None)
        self.callbacks_due.set()

    async def expired_tasks(self, upstream: str, now: int, limit: int) -> tuple[list[ExpiredTask], int | None]:
        found = await self._database.read(sql.SELECT_EXPIRED, (now, upstream, limit))
        ((next_expiry_at,),) = await self._database.read(sql.SELECT_NEXT_EXPIRY, (now,))
        return [rows.expired_task(row) for row in found], next_expiry_at

    async def durations(self, upstream: str) -> list[tuple[str | None, int]]:
        found = await self._database.read(sql.SELECT_DURATIONS, (upstream,))
        for model, seq, _ in found:
            self._duration_seqs[upstream, model] = max(seq, self._duration_seqs[upstream, model])
        return [(model or None, duration_ms) for model, _, duration_ms in found]

    async def load(self, key: str) -> bytes | None:
        found = await self._database.read(sql.SELECT_META, (key,))
        return bytes(found[0][0]) if found else None

    async def save(self, key: str, value: bytes) -> None:
        await self._writer.submit(self._save, (key, value))

    async def _apply_save(self, items: Sequence[tuple[str, bytes]]) -> list[None]:
        await self._database.many(sql.UPSERT_META, items)
        return [None] * len(items)

    async def poll_now(self, seqs: Sequence[int], now: int) -> None:
        await self._writer.submit(self._poll_now, (seqs, now))

    async def _apply_poll_now(self, items: Sequence[tuple[Sequence[int], int]]) -> list[None]:
        await self._database.many(sql.POLL_NOW, [(now, seq) for seqs, now in items for seq in seqs])
        return [None] * len(items)

    # Delivering

    async def claim_callbacks(
        self, now: int, limit: int, bulkhead: Bulkhead | None = None
    ) -> tuple[list[DueCallback], int | None]:
        claims: list[DueCallback] = []
        try:
            return claims, await self._claim_callbacks(now, limit, bulkhead, claims)
        except BaseException:
            # A later query of the same claim failed: what the first ones claimed must not stay so for ever.
            for callback in claims:
                self._claimed_callbacks.discard(callback.seq)
                if bulkhead is not None:
                    bulkhead.ended(callback.receiver, retry=callback.retry, delivered=None)
            raise

    async def _claim_callbacks(
        self, now: int, limit: int, bulkhead: Bulkhead | None, claims: list[DueCallback]
    ) -> int | None:
        """Add to ``claims``; return when the next unclaimed webhook will be due that was not refused."""
        refused: set[str] = set()
        retries = True
        # As in claim_tasks.
        async with self._database.reading():
            while True:
                parameters = {
                    "claimed": msgspec.json.encode(list(self._claimed_callbacks)).decode(),
                    "refused": msgspec.json.encode(list(refused)).decode(),
                    "retries": retries,
                    "limit": limit + 1,
                }
                found = await self._database.rows(sql.SELECT_DUE_CALLBACKS, parameters)
                passed_over = False
                for row in found:
                    callback = rows.due_callback(row)
                    if callback.due_at > now or len(claims) == limit:
                        return callback.due_at
                    if callback.receiver in refused or (callback.retry and not retries):
                        continue
                    if bulkhead is not None and not bulkhead.admit(callback.receiver, retry=callback.retry):
                        passed_over = True
                        if callback.retry and bulkhead.retries_full:
                            retries = False
                        else:
                            refused.add(callback.receiver)
                        continue
                    self._claimed_callbacks.add(callback.seq)
                    claims.append(callback)
                if not passed_over or len(found) <= limit:
                    return None

    def release_callback(self, seq: int) -> None:
        self._claimed_callbacks.discard(seq)
        self.callbacks_due.set()

    async def record_attempt(self, record: AttemptRecord) -> None:
        await self._writer.submit(self._record, record)

    async def _apply_record(self, items: Sequence[AttemptRecord]) -> list[None]:
        parameters = [rows.attempt_parameters(item) for item in items]
        await self._database.many(sql.INSERT_ATTEMPT, parameters)
        await self._database.many(sql.RECORD_ATTEMPT, parameters)
        await self._database.many(sql.COUNT_ATTEMPT, parameters)
        return [None] * len(items)

    def _recorded(self, items: Sequence[AttemptRecord]) -> None:
        self._claimed_callbacks.difference_update(item.claim.seq for item in items)
        # While it was claimed the deliverer did not hear of it; a redelivery meanwhile may have made it due at once.
        if any(item.attempt.result is not AttemptResult.DELIVERED for item in items):
            self.callbacks_due.set()

    # Keeping house

    async def prune(self, ended_before: int, dead_before: int, limit: int) -> int:
        count: int = await self._writer.submit(
            self._prune, {"ended_before": ended_before, "dead_before": dead_before, "limit": limit}
        )
        return count

    async def _apply_prune(self, items: Sequence[dict[str, int]]) -> list[int]:
        counts = []
        for item in items:
            deleted = await self._database.rows(sql.PRUNE_CALLBACKS, item)
            await self._database.many(sql.PRUNE_TASK, [{"seq": task_seq} for (task_seq,) in deleted])
            counts.append(len(deleted))
        return counts

    async def backlog(self) -> tuple[int, int | None]:
        ((count, oldest),) = await self._database.read(sql.SELECT_BACKLOG)
        return count, oldest
