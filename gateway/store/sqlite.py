"""The SQLite store: every write grouped with those that wait beside it, every claim in this process's memory.

Owns what each write does and in which order, the claims, and who is woken afterwards. The statements stand in
``sql.py``, the connection in ``database.py``, the mapping of rows in ``rows.py``. Called by the API and the loops
through ``gateway.store.Store``.

A claim is an entry in a set of this process, made from committed rows and ended once its write is committed: a crash
leaves nothing to repair.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from gateway.bulkhead import Bulkhead
from gateway.model import (
    Attempt,
    AttemptRecord,
    AttemptResult,
    Backlog,
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
    receiver_of,
)
from gateway.payload import body_template
from gateway.store import Rank, rows, sql
from gateway.store.backlog import count_backlog
from gateway.store.database import Database
from gateway.store.duetasks import DueTasks
from gateway.store.writer import Kind, Writer
from gateway.turns import Rotation

__all__ = ["SqliteStore"]

_PART_BYTES = 256 * 1024
_DURATIONS_KEPT = 256  # per model

_Watched = tuple[int, str, str, int]
"""A task's seq, its upstream, who watches it and when its next poll is due."""


class SqliteStore:
    """``gateway.store.Store`` on one SQLite file."""

    def __init__(self, path: Path, *, first_attempt_delay_s: float = 0.0) -> None:
        """Keep everything in ``path``; webhooks fall due ``first_attempt_delay_s`` seconds after their task's end."""
        self._database = Database(path)
        self._first_attempt_delay_ms = round(first_attempt_delay_s * 1000)
        self._due_tasks = DueTasks(self._database)
        self._claimed_callbacks: defaultdict[str, set[int]] = defaultdict(set)  # per receiver
        # Per receiver, when its first unclaimed webhook falls due, or earlier than that; of those that have one.
        self._receivers_due: dict[str, int] = {}
        self._only_retries: set[str] = set()  # of these, while retries are to wait, nothing else is due
        self._no_expiry_before: defaultdict[str, int] = defaultdict(int)  # per upstream, its callbacks' first at most
        self._duration_seqs: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._settle_waiters: dict[int, set[asyncio.Future[None]]] = {}
        self.callbacks_due = asyncio.Event()
        # The order in which kinds are applied within one transaction: settling before registering means that a
        # callback which arrives with its task's end becomes pending at once.
        self._settle = Kind("settle", self._apply_settle, self._settled)
        self._register = Kind("register", self._apply_register, self._registered)
        self._reschedule = Kind("reschedule", self._apply_reschedule, self._rescheduled)
        self._poll_now = Kind("poll_now", self._apply_poll_now, self._polls_advanced)
        self._record = Kind("record_attempt", self._apply_record, self._recorded)
        self._cancel = Kind("cancel", self._apply_cancel)
        self._redeliver = Kind("redeliver", self._apply_redeliver, self._redelivered)
        self._redeliver_dead = Kind("redeliver_dead", self._apply_redeliver_dead, self._dead_redelivered)
        self._prune = Kind("prune", self._apply_prune)
        self._save = Kind("save", self._apply_save)
        self._follow_clock = Kind("follow_clock", self._apply_follow_clock, self._clock_followed, alone=True)
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
                self._follow_clock,
            ),
            self._database.transaction,
        )

    def tasks_due(self, upstream: str) -> asyncio.Event:
        return self._due_tasks.event(upstream)

    async def open(self) -> None:
        await self._database.open()
        self._receivers_due = dict(await self._database.read(sql.SELECT_RECEIVERS))
        await self._due_tasks.open()
        self._writer.start()

    async def close(self) -> None:
        await self._writer.close()
        await self._database.close()

    @property
    def failing(self) -> str | None:
        return self._database.lost or self._database.failing or self._writer.failing

    @property
    def lost(self) -> str | None:
        return self._database.lost

    async def look(self) -> None:
        await self._database.look()

    async def secret_key(self) -> bytes:
        ((key,),) = await self._database.read(sql.SELECT_META, ("secret_key",))
        return bytes(key)

    # Registering

    async def register(self, new: Sequence[NewCallback]) -> list[Registration]:
        registrations: list[Registration]
        registrations, _ = await self._writer.submit(self._register, new, len(new))
        return registrations

    def _apply_register(
        self, db: Connection, items: Sequence[Sequence[NewCallback]]
    ) -> list[tuple[list[Registration], list[_Watched]]]:
        """Return what became of each item's registrations, and which tasks further clients watch now."""
        new = [callback for item in items for callback in item]
        inserted = _over_rows(db, sql.INSERT_TASKS, rows.new_tasks(new))
        task_seqs = {(upstream, task_id): seq for upstream, task_id, seq in inserted}
        seqs = dict(_over_rows(db, sql.INSERT_CALLBACKS, rows.new_callbacks(new)))
        first: dict[tuple[str, str], NewCallback] = {}
        found: dict[str, Callback] = {}
        joining: list[tuple[NewCallback, int]] = []
        for c in new:
            task = c.upstream, c.task_id
            if c.id in seqs and task in task_seqs:
                found[c.id] = rows.created_callback(c, seqs[c.id], first.setdefault(task, c), task_seqs[task])
                if first[task].client != c.client:
                    joining.append((c, task_seqs[task]))
        # What stood before, and what joins a task that did, is looked at.
        if others := [c for c in new if c.id not in found]:
            found |= _registered_callbacks(db, others)
        created = [c for c in others if c.id in seqs]
        joining += [(c, found[c.id].task.seq) for c in created]
        changed = [c for c in created if self._joins_late(db, c, found[c.id].task)]
        joined: dict[str, _Watched] = {}
        for c, seq in joining:
            for watched in db.execute(
                sql.WATCH_TASK, {"seq": seq, "client": c.client, "first_poll_at": c.first_poll_at}
            ):
                joined[c.id] = watched
                changed.append(c)
        if changed:
            found |= _registered_callbacks(db, changed)
        return [
            (
                [Registration(callback=found[c.id], created=c.id in seqs) for c in item],
                [joined[c.id] for c in item if c.id in joined] if joined else [],
            )
            for item in items
        ]

    def _joins_late(self, db: Connection, new: NewCallback, task: Task) -> bool:
        """Catch up a new callback whose task has settled or is no longer polled; return whether it changed."""
        if task.next_poll_at is not None:
            return False
        if task.state.terminal:
            ((state, data, settled_at),) = db.execute(sql.SELECT_OUTCOME, (task.seq,)).fetchall()
            template = body_template(Outcome(state=TaskState(state), data=data), settled_at)
            webhook = rows.webhook_parameters(template, new.created_at + self._first_attempt_delay_ms)
            db.execute(sql.OWE_WEBHOOK, {"id": new.id, **webhook})
        else:
            about = {"seq": task.seq, "client": new.client, "now": new.created_at, "first_poll_at": new.first_poll_at}
            db.execute(sql.REVIVE_TASK, about)
        return True

    def _registered(
        self, _: Sequence[Any], results: Sequence[tuple[Sequence[Registration], Sequence[_Watched]]]
    ) -> None:
        expiries: defaultdict[str, list[int]] = defaultdict(list)
        polls: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for callback in (one.callback for result, _ in results for one in result if one.created):
            task = callback.task
            expiries[task.upstream].append(callback.expires_at)
            if task.next_poll_at is not None:
                polls[task.upstream, callback.client].append(task.next_poll_at)
            if callback.next_attempt_at is not None:
                self._webhook_due(receiver_of(callback.url), callback.next_attempt_at)
        for (upstream, client), due_at in polls.items():
            self._due_tasks.note(upstream, client, min(due_at))
        for watched in (one for _, joined in results for one in joined):
            self._due_tasks.moved(*watched)
        for upstream, expires_at in expiries.items():
            self._due_tasks.event(upstream).set()
            self._no_expiry_before[upstream] = min(self._no_expiry_before[upstream], *expires_at)

    # Reading for the API

    async def get_callback(self, client: str | None, callback_id: str) -> Callback | None:
        found = await self._database.read(sql.SELECT_CALLBACK, {"id": callback_id, "client": client})
        return rows.callback(found[0]) if found else None

    async def list_callbacks(
        self,
        client: str | None,
        *,
        state: CallbackState | None,
        task_id: str | None,
        before_seq: int | None,
        limit: int,
    ) -> list[Callback]:
        by_task = task_id is not None
        whose: list[str | None] = [client]
        if client is None and state is not None and not by_task:
            whose = _first_column(await self._database.read(sql.SELECT_CLIENTS))
        statement = sql.select_callbacks(state=state, by_task=by_task, every_client=whose == [None])
        before = rows.FOREVER if before_seq is None else before_seq
        found: list[Any] = []
        for one in whose:
            about = {"client": one, "task_id": task_id, "before": before, "limit": limit}
            found += await self._database.read(statement, about)
        callbacks = sorted(map(rows.callback, found), key=lambda callback: callback.seq, reverse=True)
        return callbacks[:limit]

    async def list_attempts(self, client: str | None, callback_id: str) -> list[Attempt] | None:
        found = await self._database.read(sql.SELECT_STATE, {"id": callback_id, "client": client})
        if not found:
            return None
        return [rows.attempt(row) for row in await self._database.read(sql.SELECT_ATTEMPTS, (found[0][0],))]

    async def get_task(self, client: str | None, task_id: str) -> Task | None:
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

    async def cancel(self, client: str | None, callback_id: str, now: int) -> CallbackState | None:
        state: CallbackState | None = await self._writer.submit(self._cancel, (client, callback_id, now))
        return state

    def _apply_cancel(self, db: Connection, items: Sequence[tuple[str | None, str, int]]) -> list[CallbackState | None]:
        states: list[CallbackState | None] = []
        for client, callback_id, now in items:
            found = db.execute(sql.SELECT_STATE, {"id": callback_id, "client": client}).fetchall()
            for seq, task_seq, _ in found:
                db.execute(sql.CANCEL_CALLBACK, (now, seq))
                db.execute(sql.IDLE_TASK, {"seq": task_seq})
            states.append(CallbackState(found[0][2]) if found else None)
        return states

    async def redeliver(self, client: str | None, callback_id: str, now: int) -> CallbackState | None:
        state: CallbackState | None
        state, _ = await self._writer.submit(self._redeliver, (client, callback_id, now))
        return state

    def _apply_redeliver(
        self, db: Connection, items: Sequence[tuple[str | None, str, int]]
    ) -> list[tuple[CallbackState | None, list[str]]]:
        results: list[tuple[CallbackState | None, list[str]]] = []
        for client, callback_id, now in items:
            found = db.execute(sql.SELECT_STATE, {"id": callback_id, "client": client}).fetchall()
            receivers: list[str] = []
            for seq, _, _ in found:
                receivers += _first_column(db.execute(sql.REDELIVER_CALLBACK, {"seq": seq, "now": now}))
            results.append((CallbackState(found[0][2]) if found else None, receivers))
        return results

    def _redelivered(
        self, items: Sequence[tuple[str | None, str, int]], results: Sequence[tuple[object, Sequence[str]]]
    ) -> None:
        for (_, _, now), (_, receivers) in zip(items, results, strict=True):
            for receiver in receivers:
                self._webhook_due(receiver, now)

    async def redeliver_dead(self, client: str | None, since: int, until: int, now: int) -> int:
        receivers: list[str] = await self._writer.submit(
            self._redeliver_dead, {"client": client, "since": since, "until": until, "now": now}
        )
        return len(receivers)

    def _apply_redeliver_dead(self, db: Connection, items: Sequence[dict[str, Any]]) -> list[list[str]]:
        results: list[list[str]] = []
        for item in items:
            everybody = _first_column(db.execute(sql.SELECT_CLIENTS)) if item["client"] is None else [item["client"]]
            found = [db.execute(sql.REDELIVER_DEAD, {**item, "client": client}).fetchall() for client in everybody]
            results.append([receiver for its in found for receiver in _first_column(its)])
        return results

    def _dead_redelivered(self, items: Sequence[dict[str, Any]], results: Sequence[Sequence[str]]) -> None:
        for item, receivers in zip(items, results, strict=True):
            for receiver in set(receivers):
                self._webhook_due(receiver, item["now"])

    # Polling

    async def claim_tasks(
        self, upstream: str, now: int, limit: int, rank: Rank | None = None, rotation: Rotation | None = None
    ) -> tuple[list[DueTask], int | None]:
        return await self._due_tasks.claim(upstream, now, limit, rank, rotation)

    async def claim_new_task(
        self, upstream: str, since: int, now: int, rotation: Rotation | None = None
    ) -> list[DueTask]:
        return await self._due_tasks.claim_new(upstream, since, now, rotation)

    def release_task(self, claim: DueTask) -> None:
        self._due_tasks.release(claim)

    async def reschedule(self, record: PollRecord) -> None:
        await self._writer.submit(self._reschedule, record)

    def _apply_reschedule(self, db: Connection, items: Sequence[PollRecord]) -> list[None]:
        _over_rows(db, sql.RESCHEDULE_TASKS, rows.polls(items))
        return [None] * len(items)

    def _rescheduled(self, items: Sequence[PollRecord], _: object) -> None:
        self._due_tasks.rescheduled(items)

    async def settle(self, settlement: Settlement) -> list[str]:
        owed: list[tuple[str, str]] = await self._writer.submit(self._settle, (settlement, self._duration(settlement)))
        return [callback_id for callback_id, _ in owed]

    def _duration(self, settlement: Settlement) -> rows.Duration | None:
        if settlement.duration_ms is None:
            return None
        model = settlement.model or ""
        seq = self._duration_seqs[settlement.upstream, model] = self._duration_seqs[settlement.upstream, model] + 1
        return settlement.upstream, model, seq % _DURATIONS_KEPT, seq, settlement.duration_ms

    def _apply_settle(
        self, db: Connection, items: Sequence[tuple[Settlement, rows.Duration | None]]
    ) -> list[list[tuple[str, str]]]:
        """Return the id and the receiver of each webhook that is owed now, where its settlement stands."""
        # Whoever settled a task first has settled it.
        ends = list({item.seq: item for item, _ in reversed(items) if item.expired_by is None}.values())
        expiries = [item for item, _ in items if item.expired_by is not None]
        owed: defaultdict[tuple[int, bool], list[tuple[str, str]]] = defaultdict(list)
        # The upstream's word first: a time-out of some of the same task's callbacks must not end it as abandoned.
        for settled in (*_in_parts(ends), *_in_parts(expiries)):
            expired = settled[0].expired_by is not None
            for seq, *webhook in _over_rows(db, sql.OWE_WEBHOOKS, rows.owed(settled, self._first_attempt_delay_ms)):
                owed[seq, expired].append(tuple(webhook))
            _over_rows(db, sql.SETTLE_TASKS, rows.settled(settled))
        if learned := [duration for _, duration in items if duration is not None]:
            _over_rows(db, sql.INSERT_DURATIONS, rows.durations(learned))
        # Each webhook is told of once.
        return [owed.pop((item.seq, item.expired_by is not None), []) for item, _ in items]

    def _settled(
        self, items: Sequence[tuple[Settlement, object]], results: Sequence[Sequence[tuple[str, str]]]
    ) -> None:
        for item, _ in items:
            # A settlement by time-out claims nothing: the task may be being polled.
            if item.expired_by is None:
                self._due_tasks.settled(item.seq)
            for future in self._settle_waiters.pop(item.seq, ()):
                future.set_result(None)
        earliest = min(item.settled_at for item, _ in items) + self._first_attempt_delay_ms
        for receiver in {receiver for owed in results for _, receiver in owed}:
            self._webhook_due(receiver, earliest)

    async def expired_tasks(self, upstream: str, now: int, limit: int) -> tuple[list[ExpiredTask], int | None]:
        before = self._no_expiry_before[upstream]
        if now < before:
            return [], before
        # Whatever is registered from here on lowers it; a read that fails has found nothing out.
        self._no_expiry_before[upstream] = rows.FOREVER
        again_at = [before]
        try:
            async with self._database.reading():
                found = await self._database.rows(sql.SELECT_EXPIRED, (before, now, upstream, limit))
                ((next_expiry_at,),) = await self._database.rows(sql.SELECT_NEXT_EXPIRY, (now,))
            expired = [rows.expired_task(row) for row in found]
            # Expired ones stay so until they are settled: they are asked for again.
            again_at = [task.expires_at for task in expired]
            again_at += [] if next_expiry_at is None else [next_expiry_at]
        finally:
            self._no_expiry_before[upstream] = min([self._no_expiry_before[upstream], *again_at])
        return expired, next_expiry_at

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

    def _apply_save(self, db: Connection, items: Sequence[tuple[str, bytes]]) -> list[None]:
        db.executemany(sql.UPSERT_META, items)
        return [None] * len(items)

    async def poll_now(self, seqs: Sequence[int], now: int) -> None:
        await self._writer.submit(self._poll_now, (seqs, now))

    def _apply_poll_now(
        self, db: Connection, items: Sequence[tuple[Sequence[int], int]]
    ) -> list[list[tuple[str, str, int]]]:
        return [[row for seq in seqs for row in db.execute(sql.POLL_NOW, (now, seq)).fetchall()] for seqs, now in items]

    def _polls_advanced(self, _: object, results: Sequence[Sequence[tuple[str, str, int]]]) -> None:
        for row in (row for result in results for row in result):
            self._due_tasks.note(*row)

    # Delivering

    async def claim_callbacks(
        self, now: int, limit: int, bulkhead: Bulkhead | None = None
    ) -> tuple[list[DueCallback], int | None]:
        # Reading until the claims are made: what another call claims, or a commit gives back, is seen whole or not.
        async with self._database.reading():
            self._database.require_file()
            # Whoever has the fewest places comes first, then whoever waits longest, each with a share of the places.
            retries = bulkhead is None or bulkhead.retries
            if retries:
                self._only_retries.clear()
            due = sorted(
                (0 if bulkhead is None else bulkhead.held(receiver), at, receiver)
                for receiver, at in self._receivers_due.items()
                if at <= now and receiver not in self._only_retries
            )
            share = max(1, limit // max(1, len(due)))
            rooms = [(to, share if bulkhead is None else min(share, bulkhead.room(to))) for _, _, to in due]
            refused = {receiver for receiver, room in rooms if not room}
            with_room = [(to, room) for to, room in rooms if room]
            asked = [(to, room, list(self._claimed_callbacks.get(to, ()))) for to, room in with_room[:limit]]
            # Taken out meanwhile: what a claim that is given back during the query notes here must not be overwritten.
            before = {receiver: self._receivers_due.pop(receiver) for receiver, _, _ in asked}
            later: dict[str, int | None] = {}
            try:
                found, later = await self._database.call(_due_callbacks, now, retries, asked)
            finally:
                for receiver, due_at in (before | later).items():
                    if due_at is not None:
                        self._note_due(receiver, due_at)
            if bulkhead is not None:
                # Whatever is still due where there was room for more are retries, which were not even asked for: not
                # again before there is a place for one, or a first attempt.
                still_due = {receiver for receiver, at in later.items() if at is not None and at <= now}
                self._only_retries |= still_due & _exhausted(found, asked)
                refused |= self._only_retries
                bulkhead.refused = bulkhead.refused or bool(self._only_retries)
            claims: list[DueCallback] = []
            for callback in found:
                receiver = callback.receiver
                if bulkhead is None or bulkhead.admit(receiver, retry=callback.retry):
                    self._claimed_callbacks[receiver].add(callback.seq)
                    claims.append(callback)
                else:
                    refused.add(receiver)
                    self._note_due(receiver, callback.due_at)
            times = [at for receiver, at in self._receivers_due.items() if receiver not in refused]
            return claims, min(times, default=None)

    def release_callback(self, claim: DueCallback) -> None:
        self._end_claim(claim)
        self._webhook_due(claim.receiver, 0)  # as in _recorded

    def _end_claim(self, claim: DueCallback) -> None:
        claimed = self._claimed_callbacks[claim.receiver]
        claimed.discard(claim.seq)
        if not claimed:
            del self._claimed_callbacks[claim.receiver]

    def _webhook_due(self, receiver: str, due_at: int) -> None:
        self._only_retries.discard(receiver)
        self._note_due(receiver, due_at)
        self.callbacks_due.set()

    def _note_due(self, receiver: str, due_at: int) -> None:
        self._receivers_due[receiver] = min(self._receivers_due.get(receiver, due_at), due_at)

    async def record_attempt(self, record: AttemptRecord) -> None:
        await self._writer.submit(self._record, record)

    def _apply_record(self, db: Connection, items: Sequence[AttemptRecord]) -> list[None]:
        _over_rows(db, sql.INSERT_ATTEMPTS, rows.attempts(items))
        _over_rows(db, sql.RECORD_ATTEMPTS, rows.recorded(items))
        _over_rows(db, sql.COUNT_ATTEMPTS, rows.counted(items))
        return [None] * len(items)

    def _recorded(self, items: Sequence[AttemptRecord], _: object) -> None:
        for item in items:
            self._end_claim(item.claim)
            if item.attempt.result is not AttemptResult.DELIVERED:
                # It was passed over while it was claimed. When it is due is for a look to find out: a redelivery may
                # have made it due at once, and the wall clock may have been set.
                self._webhook_due(item.claim.receiver, 0)

    # Following the clock

    @property
    def set_back_ms(self) -> int:
        return self._database.set_back_ms

    async def follow_clock(self, step_ms: int) -> None:
        await self._writer.submit(self._follow_clock, step_ms)

    def _apply_follow_clock(self, db: Connection, items: Sequence[int]) -> list[None]:
        for step_ms in items:
            for statement in (sql.MOVE_TASKS, sql.MOVE_EXPIRIES, sql.MOVE_WEBHOOKS):
                db.execute(statement, {"step": step_ms})
        return [None] * len(items)

    def _clock_followed(self, items: Sequence[int], _: object) -> None:
        step_ms = sum(items)
        self._receivers_due = {receiver: at + step_ms for receiver, at in self._receivers_due.items()}
        self._only_retries.clear()
        self._no_expiry_before.clear()
        self.callbacks_due.set()
        self._due_tasks.forget_times()

    # Keeping house

    async def prune(self, ended_before: int, dead_before: int, limit: int) -> int:
        count: int = await self._writer.submit(
            self._prune, {"ended_before": ended_before, "dead_before": dead_before, "limit": limit}
        )
        return count

    def _apply_prune(self, db: Connection, items: Sequence[dict[str, int]]) -> list[int]:
        counts = []
        for item in items:
            deleted = db.execute(sql.PRUNE_CALLBACKS, item).fetchall()
            db.executemany(sql.PRUNE_TASK, [{"seq": task_seq} for (task_seq,) in deleted])
            counts.append(len(deleted))
        return counts

    async def backup(self, target: Path) -> int:
        return await self._database.backup(target)

    async def count_callbacks(self) -> dict[CallbackState, int]:
        return {CallbackState(state): count for state, count in await self._database.read(sql.COUNT_CALLBACKS)}

    async def tasks_of_others(self, upstreams: Collection[str]) -> dict[str, int]:
        names = _first_column(await self._database.read(sql.SELECT_POLLED_UPSTREAMS))
        counts = {}
        for name in names:
            if name not in upstreams:
                ((counts[name],),) = await self._database.read(sql.COUNT_POLLED_TASKS, (name,))
        return counts

    async def backlog(self) -> Backlog:
        return await count_backlog(self._database)


def _due_callbacks(
    db: Connection, now: int, retries: bool, asked: Sequence[tuple[str, int, list[int]]]
) -> tuple[list[DueCallback], dict[str, int | None]]:
    """Return due webhooks of the receivers, the first ones' first, and when the next of each one asked falls due.

    ``asked``: receiver, how many of its webhooks at most, and which ones are claimed already.
    """
    found: list[DueCallback] = []
    later: dict[str, int | None] = {}
    for receiver, room, claimed in asked:
        about = {"receiver": receiver, "now": now, "limit": room, "claimed": rows.array(claimed), "retries": retries}
        its = [rows.due_callback(row) for row in db.execute(sql.SELECT_DUE_CALLBACKS, about)]
        found += its
        about["claimed"] = rows.array([*claimed, *(callback.seq for callback in its)])
        later[receiver] = next((at for (at,) in db.execute(sql.SELECT_NEXT_DUE, about)), None)
    return sorted(found, key=lambda callback: callback.due_at), later


def _exhausted(found: Sequence[DueCallback], asked: Sequence[tuple[str, int, list[int]]]) -> set[str]:
    """Return the receivers of which fewer webhooks were found than they had room for."""
    counts = Counter(callback.receiver for callback in found)
    return {receiver for receiver, room, _ in asked if counts[receiver] < room}


def _in_parts(settlements: Sequence[Settlement]) -> Iterator[list[Settlement]]:
    """Yield them in parts whose outcomes have a bounded size: a statement keeps what was last bound to it."""
    part: list[Settlement] = []
    size = 0
    for settlement in settlements:
        if part and size + len(settlement.outcome.data) > _PART_BYTES:
            yield part
            part, size = [], 0
        part.append(settlement)
        size += len(settlement.outcome.data)
    if part:
        yield part


def _registered_callbacks(db: Connection, new: Sequence[NewCallback]) -> dict[str, Callback]:
    """Return the callback that stands for each of these registrations, by the id that was made for it."""
    found = [rows.callback(row) for row in _over_rows(db, sql.SELECT_REGISTERED, rows.wanted(new))]
    return {c.id: callback for c, callback in zip(new, found, strict=True)}


def _over_rows(db: Connection, statement: str, its_rows: rows.Rows) -> list[Any]:
    found: list[Any] = []
    for text, parameters in sql.over_rows(statement, its_rows):
        found += db.execute(text, parameters).fetchall()
    return found


def _first_column(found: Iterable[Any]) -> list[Any]:
    return [row[0] for row in found]
