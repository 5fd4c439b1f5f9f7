"""The SQLite store: every write grouped with those that wait beside it, every claim in this process's memory.

Owns what each write does and in which order, the claims, and who is woken afterwards. The statements stand in
``sql.py``, the connection in ``database.py``, the mapping of rows in ``rows.py``. Called by the API and the loops
through ``gateway.store.Store``.

A claim is an entry in a set of this process, made from committed rows and ended once its write is committed: a crash
leaves nothing to repair.
"""

import asyncio
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from gateway.core.errors import StoreError, StorePartly
from gateway.core.memory import SMALL
from gateway.core.model import (
    Attempt,
    AttemptRecord,
    AttemptResult,
    Backlog,
    Callback,
    CallbackState,
    DueCallback,
    DueTask,
    ExpiredTask,
    Lane,
    NewCallback,
    PollRecord,
    Registration,
    Settlement,
    Task,
    receiver_of,
)
from gateway.store import Rank, Turn
from gateway.store.sqlite import rows, sql
from gateway.store.sqlite.backlog import count_backlog
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.duetasks import DueTasks
from gateway.store.sqlite.lanes import LanesDue
from gateway.store.sqlite.writer import Kind, Writer
from gateway.upstream.durations import MAX_MODELS, WINDOW
from gateway.upstream.turns import Rotation
from gateway.webhook.bulkhead import Bulkhead, Share

__all__ = ["SqliteStore"]

_PART_BYTES = 256 * 1024
_PIECE = 1024 * 1024  # bytes of an outcome that are written at once
_REDELIVERED_AT_ONCE = 100  # dead callbacks: a few milliseconds, after which others write

_Learned = tuple[rows.Duration, tuple[str, str] | None]
"""A duration, and the upstream's model whose durations are forgotten for it."""

_Watched = tuple[int, str, str, int]
"""A task's seq, its upstream, who watches it and when its next poll is due."""


class SqliteStore:
    """``gateway.store.Store`` on one SQLite file."""

    def __init__(self, path: Path, *, first_attempt_delay_s: float = 0.0) -> None:
        """Keep everything in ``path``; webhooks fall due ``first_attempt_delay_s`` seconds after their task's end."""
        self._database = Database(path)
        self._first_attempt_delay_ms = round(first_attempt_delay_s * 1000)
        self._due_tasks = DueTasks(self._database)
        self._claimed_callbacks: defaultdict[Lane, set[int]] = defaultdict(set)
        self._lanes = LanesDue()
        self._no_expiry_before: defaultdict[str, int] = defaultdict(int)  # per upstream, its callbacks' first at most
        self._rings: defaultdict[str, _Rings] = defaultdict(_Rings)  # per upstream
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
        self._forget_models = Kind("forget_models", self._apply_forget_models)
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
                self._forget_models,
                self._follow_clock,
            ),
            self._database.transaction,
        )

    def tasks_due(self, upstream: str) -> asyncio.Event:
        return self._due_tasks.event(upstream)

    async def open(self) -> None:
        await self._database.open()
        for client, receiver, due_at in await self._database.read(sql.SELECT_LANES):
            self._lanes.note(Lane(client, receiver), due_at)
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
                [joined[c.id] for c in item if c.id in joined],
            )
            for item in items
        ]

    def _joins_late(self, db: Connection, new: NewCallback, task: Task) -> bool:
        """Catch up a new callback whose task has settled or is no longer polled; return whether it changed."""
        if task.next_poll_at is not None:
            return False
        if task.state.terminal:
            db.execute(sql.OWE_WEBHOOK, {"id": new.id, "deliver_at": new.created_at + self._first_attempt_delay_ms})
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
                self._webhook_due(Lane(callback.client, receiver_of(callback.url)), callback.next_attempt_at)
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

    async def outcome(self, seq: int) -> bytes | None:
        async with self._database.reading():
            return await self._database.call(_read_outcome, seq)

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
    ) -> list[tuple[CallbackState | None, list[Lane]]]:
        results: list[tuple[CallbackState | None, list[Lane]]] = []
        for client, callback_id, now in items:
            found = db.execute(sql.SELECT_STATE, {"id": callback_id, "client": client}).fetchall()
            lanes: list[Lane] = []
            for seq, _, _ in found:
                lanes += map(Lane._make, db.execute(sql.REDELIVER_CALLBACK, {"seq": seq, "now": now}))
            results.append((CallbackState(found[0][2]) if found else None, lanes))
        return results

    def _redelivered(
        self, items: Sequence[tuple[str | None, str, int]], results: Sequence[tuple[object, Sequence[Lane]]]
    ) -> None:
        for (_, _, now), (_, lanes) in zip(items, results, strict=True):
            for lane in lanes:
                self._webhook_due(lane, now)

    async def redeliver_dead(
        self, client: str | None, since: int, until: int, now: int, turn: Turn = nullcontext
    ) -> int:
        whose = [client] if client is not None else _first_column(await self._database.read(sql.SELECT_CLIENTS))
        # What dies again meanwhile is not meant: else a receiver that answers 410 would keep this going for ever.
        about = {"since": since, "until": min(until, now + 1), "now": now, "limit": _REDELIVERED_AT_ONCE}
        count = 0
        for one in whose:
            more = True
            while more:
                try:
                    async with turn():
                        some = await self._redeliver_some(one, about)
                except StoreError as exc:
                    if not count:
                        raise
                    done = f"{count} are redelivered; send the same request again for the rest."
                    raise StorePartly(f"The database cannot be used at the moment: {done}") from exc
                count += some
                more = some == _REDELIVERED_AT_ONCE
        return count

    async def _redeliver_some(self, client: str, about: Mapping[str, int]) -> int:
        item = {**about, "client": client}
        return len(await self._writer.submit(self._redeliver_dead, item, _REDELIVERED_AT_ONCE))

    def _apply_redeliver_dead(self, db: Connection, items: Sequence[dict[str, Any]]) -> list[list[Lane]]:
        return [[Lane(*row) for row in db.execute(sql.REDELIVER_DEAD, item)] for item in items]

    def _dead_redelivered(self, items: Sequence[dict[str, Any]], results: Sequence[Sequence[Lane]]) -> None:
        for item, lanes in zip(items, results, strict=True):
            for lane in set(lanes):
                self._webhook_due(lane, item["now"])

    # Polling

    async def claim_tasks(
        self,
        upstream: str,
        now: int,
        limit: int,
        rank: Rank | None = None,
        rotation: Rotation | None = None,
        places: int | None = None,
    ) -> tuple[list[DueTask], int | None]:
        return await self._due_tasks.claim(upstream, now, limit, rank, rotation, places)

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
        duration_ms, ring = settlement.duration_ms, self._rings[settlement.upstream]
        learned = None if duration_ms is None else ring.learn(settlement, duration_ms)
        owed: list[tuple[str, Lane]] = await self._writer.submit(self._settle, (settlement, learned))
        return [callback_id for callback_id, _ in owed]

    def _apply_settle(
        self, db: Connection, items: Sequence[tuple[Settlement, "_Learned | None"]]
    ) -> list[list[tuple[str, Lane]]]:
        """Return the id and the lane of each webhook that is owed now, where its settlement stands."""
        # Whoever settled a task first has settled it.
        ends = list({item.seq: item for item, _ in reversed(items) if item.expired_by is None}.values())
        expiries = [item for item, _ in items if item.expired_by is not None]
        owed: defaultdict[tuple[int, bool], list[tuple[str, Lane]]] = defaultdict(list)
        # The upstream's word first: a time-out of some of the same task's callbacks must not end it as abandoned.
        for settled in (*_in_parts(ends), *_in_parts(expiries)):
            expired = settled[0].expired_by is not None
            its = rows.owed(settled, self._first_attempt_delay_ms)
            for seq, callback_id, client, receiver in _over_rows(db, sql.OWE_WEBHOOKS, its):
                owed[seq, expired].append((callback_id, Lane(client, receiver)))
            _over_rows(db, sql.SETTLE_TASKS, rows.settled(settled))
            for one in settled:
                if len(one.outcome.data) > SMALL:
                    _write_outcome(db, one.seq, one.outcome.data)
        if learned := [one for _, one in items if one is not None]:
            _over_rows(db, sql.INSERT_DURATIONS, rows.durations([duration for duration, _ in learned]))
            db.executemany(sql.FORGET_MODEL, [forgotten for _, forgotten in learned if forgotten is not None])
        # Each webhook is told of once.
        return [owed.pop((item.seq, item.expired_by is not None), []) for item, _ in items]

    def _settled(
        self, items: Sequence[tuple[Settlement, object]], results: Sequence[Sequence[tuple[str, Lane]]]
    ) -> None:
        for item, _ in items:
            # A settlement by time-out claims nothing: the task may be being polled.
            if item.expired_by is None:
                self._due_tasks.settled(item.seq)
            for future in self._settle_waiters.pop(item.seq, ()):
                future.set_result(None)
        earliest = min(item.settled_at for item, _ in items) + self._first_attempt_delay_ms
        for lane in {lane for owed in results for _, lane in owed}:
            self._webhook_due(lane, earliest)

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
        models = _first_column(await self._database.read(sql.SELECT_MODELS, (upstream,)))
        kept, forgotten = models[:MAX_MODELS], models[MAX_MODELS:]
        if forgotten:
            await self._writer.submit(self._forget_models, (upstream, forgotten), len(forgotten))
        found = await self._database.read(sql.SELECT_DURATIONS, (upstream, rows.array(kept)))
        self._rings[upstream].restore((model, slot, seq) for model, slot, seq, _ in found)
        return [(model or None, duration_ms) for model, _, _, duration_ms in found]

    def _apply_forget_models(self, db: Connection, items: Sequence[tuple[str, Sequence[str]]]) -> list[None]:
        db.executemany(sql.FORGET_MODEL, [(upstream, model) for upstream, models in items for model in models])
        return [None] * len(items)

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
            asked = self._shares(now, limit, bulkhead)
            claimed = [frozenset(self._claimed_callbacks.get(share.lane, ())) for share in asked]
            try:
                found, later = await self._database.call(_due_callbacks, now, asked, claimed)
            except BaseException:
                for share in asked:
                    self._lanes.note(share.lane, now)
                raise
            counts = Counter(callback.lane for callback in found)
            for share, at in zip(asked, later, strict=True):
                exhausted = counts[share.lane] < share.room
                if bulkhead is not None and at is not None and at <= now and exhausted:
                    # Whatever is still due are retries, which were not even asked for.
                    bulkhead.wait_for_retries(share.lane)
                elif at is not None:
                    self._lanes.note(share.lane, at)
            claims: list[DueCallback] = []
            for callback in found:
                if bulkhead is None or bulkhead.admit(callback):
                    self._claimed_callbacks[callback.lane].add(callback.seq)
                    claims.append(callback)
                else:
                    self._lanes.note(callback.lane, callback.due_at)
            if bulkhead is not None and bulkhead.in_line and len(claims) < sum(share.room for share in asked):
                return claims, now  # others may have the places that these had no webhooks for
            return claims, self._lanes.next_due_at

    def _shares(self, now: int, limit: int, bulkhead: Bulkhead | None) -> list[Share]:
        due = self._lanes.take(now)
        if bulkhead is not None:
            for lane in due:
                bulkhead.wait(lane)
            return bulkhead.shares(limit)
        for lane in due[limit:]:
            self._lanes.note(lane, now)
        return [Share(lane, max(1, limit // len(due)), True) for lane in due[:limit]]

    async def body(self, claim: DueCallback) -> bytes | None:
        async with self._database.reading():
            return await self._database.call(_body, claim)

    def release_callback(self, claim: DueCallback) -> None:
        self._end_claim(claim)
        self._webhook_due(claim.lane, 0)  # as in _recorded

    def _end_claim(self, claim: DueCallback) -> None:
        lane = claim.lane
        claimed = self._claimed_callbacks[lane]
        claimed.discard(claim.seq)
        if not claimed:
            del self._claimed_callbacks[lane]

    def _webhook_due(self, lane: Lane, due_at: int) -> None:
        self._lanes.note(lane, due_at)
        self.callbacks_due.set()

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
                self._webhook_due(item.claim.lane, 0)

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
        self._lanes.move(step_ms)
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
    db: Connection, now: int, asked: Sequence[Share], claimed: Sequence[Collection[int]]
) -> tuple[list[DueCallback], list[int | None]]:
    """Return due webhooks of the lanes, the first ones first, and when the next one of each lane falls due.

    ``claimed``: of each lane, which ones are claimed already.
    """
    found: list[int] = []
    later: list[int | None] = []
    for share, known in zip(asked, claimed, strict=True):
        limit = share.room + len(known)
        waiting = db.execute(sql.SELECT_NEXT_DUE, (*share.lane, limit + 1)).fetchall()
        if share.retries:
            due = [seq for seq, at in waiting if at <= now and seq not in known]
        else:
            due = [seq for (seq,) in db.execute(sql.SELECT_FIRST_ATTEMPTS_DUE, (*share.lane, now, limit))]
            due = [seq for seq in due if seq not in known]
        due = due[: share.room]
        taken = {*known, *due}
        later.append(next((at for seq, at in waiting if seq not in taken), None))
        found += due
    claimable = db.execute(sql.SELECT_DUE_CALLBACKS, (rows.array(found),)) if found else ()
    return [rows.due_callback(row) for row in claimable], later


def _body(db: Connection, claim: DueCallback) -> bytes | None:
    for task_seq, stored, *parts in db.execute(sql.SELECT_BODY, (claim.seq,)).fetchall():
        return rows.body(claim.id, [stored, None if stored else _read_outcome(db, task_seq), *parts])
    return None


class _Rings:
    """Where each model's next duration goes, of one upstream and the models that ended a task last."""

    def __init__(self) -> None:
        self._next: OrderedDict[str, int] = OrderedDict()  # the model heard of the longest ago first
        self._seq = 0

    def restore(self, stored: Iterable[tuple[str, int, int]]) -> None:
        """Take up what is stored: model, slot and seq, the oldest first."""
        for model, slot, seq in stored:
            self._next[model] = slot + 1
            self._next.move_to_end(model)
            self._seq = max(seq, self._seq)

    def learn(self, settlement: Settlement, duration_ms: int) -> _Learned:
        """Return the duration's row, and the model that is forgotten for it."""
        model = settlement.model or ""
        slot = self._next.get(model, 0) % WINDOW
        self._next[model] = slot + 1
        self._next.move_to_end(model)
        self._seq += 1
        forgotten = self._next.popitem(last=False)[0] if len(self._next) > MAX_MODELS else None
        upstream = settlement.upstream
        return (upstream, model, slot, self._seq, duration_ms), None if forgotten is None else (upstream, forgotten)


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


def _write_outcome(db: Connection, seq: int, outcome: bytes) -> None:
    """Write what was left out of a task's settlement, where that stands: as a parameter it is copied several times."""
    if not db.execute(sql.MAKE_ROOM_FOR_OUTCOME, (len(outcome), seq)).rowcount:
        return
    with db.blobopen("tasks", "outcome", seq) as blob, memoryview(outcome) as view:
        for start in range(0, len(outcome), _PIECE):
            blob.write(view[start : start + _PIECE])


def _read_outcome(db: Connection, seq: int) -> bytes | None:
    """Return a task's outcome: with a SELECT it would be there twice for a moment."""
    if not db.execute(sql.SELECT_OUTCOME_BYTES, (seq,)).fetchall():
        return None
    with db.blobopen("tasks", "outcome", seq, readonly=True) as blob:
        return blob.read()


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
