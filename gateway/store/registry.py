"""What the API reads and changes: registrations, callbacks and their attempts, tasks, and the counts of all.

Owns what each of these writes does. Called through ``gateway.store.Registry``; tells the two queues what is due.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from msgspec import convert

from gateway.core import pollhistory
from gateway.core.claims import Lane
from gateway.core.errors import StoreError, StorePartly
from gateway.core.model import Attempt, Backlog, Callback, CallbackState, Format, NewCallback, Registration, Task
from gateway.core.pausing import holds_back
from gateway.core.pollhistory import PastPoll
from gateway.core.reads import PollAgain, ReadTask, ReadWatch, Watched
from gateway.core.search import Sought
from gateway.store import Turn, rows
from gateway.store.creates import StoreCreates, registered_for
from gateway.store.dialect import Counted
from gateway.store.engine import Engine, Rows, Run, Touched, Work
from gateway.store.outbox import StoreOutbox
from gateway.store.searching import StoreSearch
from gateway.store.tasks import StoreTasks
from gateway.store.writer import Writer
from gateway.store.writes import Kind

_REDELIVERED_AT_ONCE = 100  # dead callbacks: a few milliseconds, after which others write
_MOST_OF_OTHERS = 10_000  # tasks of an upstream that is not configured: a start is not to wait until more are counted
_MOST_ATTEMPTS = 200  # told of one callback: a client may redeliver it as often as it likes
_PART = 2000  # rows that are counted at once: a millisecond at most

_Watched = tuple[int, str, str, int]
"""A task's seq, its upstream, who watches it and when its next poll is due."""


class StoreRegistry(StoreCreates, StoreSearch):
    """``gateway.store.Registry`` on an engine."""

    def __init__(
        self,
        engine: Engine,
        writer: Writer,
        tasks: StoreTasks,
        outbox: StoreOutbox,
        first_attempt_delay_ms: int,
    ) -> None:
        """Tell these of what falls due; a webhook does so that long after its task's end."""
        self.register_kind = Kind("register", self._apply_register, self._registered, _registered_for)
        super().__init__(engine, writer, self.register_kind)
        self._tasks = tasks
        self._outbox = outbox
        self._first_attempt_delay_ms = first_attempt_delay_ms
        self.cancel_kind = Kind("cancel", self._apply_cancel, touches=_cancelled, singly=True)
        self.redeliver_kind = Kind("redeliver", self._apply_redeliver, self._redelivered, _redelivered_of, singly=True)
        self.redeliver_dead_kind = Kind("redeliver_dead", self._apply_redeliver_dead, self._redelivered, apart=True)

    async def register(self, new: Sequence[NewCallback]) -> list[Registration]:
        registrations: list[Registration]
        registrations, _ = await self._writer.submit(self.register_kind, new, sum(one.weight for one in new))
        return registrations

    def _apply_register(
        self, items: Sequence[Sequence[NewCallback]]
    ) -> Work[list[tuple[list[Registration], list[_Watched]]]]:
        """Return what became of each item's registrations, and which tasks further clients watch now."""
        sql = self._sql
        new = [callback for item in items for callback in item]
        inserted = (yield Rows(sql.INSERT_TASKS, rows.new_tasks(new))).rows
        task_seqs = {(upstream, task_id): seq for upstream, task_id, seq in inserted}
        seqs = dict((yield Rows(sql.INSERT_CALLBACKS, rows.new_callbacks(new))).rows)
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
            found |= yield from self._registered_callbacks(others)
        created = [c for c in others if c.id in seqs]
        joining += [(c, found[c.id].task.seq) for c in created]
        changed: list[NewCallback] = []
        for c in created:
            late = yield from self._joins_late(c, found[c.id].task)
            changed += [c] if late else []
        joined: dict[str, _Watched] = {}
        for c, seq in joining:
            about = {"seq": seq, "client": c.client, "first_poll_at": c.first_poll_at}
            for watched in (yield Run(sql.WATCH_TASK, about)).rows:
                joined[c.id] = watched
                changed.append(c)
        for c in new:
            if c.model is not None and found[c.id].task.model is None:
                yield Run(sql.NAME_MODEL, rows.named(found[c.id].task, c.model))
                changed.append(c)
        if changed:
            found |= yield from self._registered_callbacks(changed)
        return [
            (
                [Registration(callback=found[c.id], created=c.id in seqs) for c in item],
                [joined[c.id] for c in item if c.id in joined],
            )
            for item in items
        ]

    def _registered_callbacks(self, new: Sequence[NewCallback]) -> Work[dict[str, Callback]]:
        """Return the callback that stands for each of these registrations, by the id that was made for it."""
        found = (yield Rows(self._sql.SELECT_REGISTERED, rows.wanted(new))).rows
        return {c.id: rows.callback(row) for c, row in zip(new, found, strict=True)}

    def _joins_late(self, new: NewCallback, task: Task) -> Work[bool]:
        """Catch up a new callback whose task has settled or is no longer polled; return whether it changed."""
        if task.next_poll_at is not None:
            return False
        sql = self._sql
        if task.state.terminal:
            yield Run(sql.OWE_WEBHOOK, {"id": new.id, "deliver_at": new.created_at + self._first_attempt_delay_ms})
            if new.format is Format.RECORD:
                yield Run(sql.OWE_RECORD, (task.seq,))
        else:
            yield Run(sql.REVIVE_TASK, {"seq": task.seq, "client": new.client, "now": new.created_at})
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
                self._outbox.tell(Lane(callback.client, callback.receiver), callback.next_attempt_at)
        for (upstream, client), due_at in polls.items():
            self._tasks.tell(upstream, client, min(due_at))
        for watched in (one for _, joined in results for one in joined):
            self._tasks.moved(*watched)
        for upstream, expires_at in expiries.items():
            self._tasks.tell_expiry(upstream, min(expires_at))

    async def get_callback(self, client: str | None, callback_id: str) -> Callback | None:
        found = await self._engine.read(self._sql.SELECT_CALLBACK, {"id": callback_id, "client": client})
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
            whose = rows.first_column(await self._engine.read(self._sql.SELECT_CLIENTS))
        statement = self._sql.select_callbacks(state=state, by_task=by_task, every_client=whose == [None])
        before = rows.FOREVER if before_seq is None else before_seq
        found: list[Any] = []
        for one in whose:
            about = {"client": one, "task_id": task_id, "before": before, "limit": limit}
            found += await self._engine.read(statement, about)
        callbacks = sorted(map(rows.callback, found), key=lambda callback: callback.seq, reverse=True)
        return callbacks[:limit]

    async def list_attempts(self, client: str | None, callback_id: str) -> list[Attempt] | None:
        found = await self._engine.read(self._sql.SELECT_STATE, {"id": callback_id, "client": client})
        if not found:
            return None
        newest_first = await self._engine.read(self._sql.SELECT_ATTEMPTS, (found[0][0], _MOST_ATTEMPTS))
        return convert(newest_first[::-1], list[Attempt])

    async def polls(self, task: Task) -> list[PastPoll]:
        found = await self._engine.read(self._engine.searchsql.SELECT_POLL_LOG, (task.seq,))
        return list(pollhistory.read(found[0][0], task.polls)) if found else []

    async def get_task(self, client: str | None, task_id: str) -> Task | None:
        found = await self._engine.read(self._sql.SELECT_TASK, {"client": client, "task_id": task_id})
        return convert(found[0], Task) if found else None

    async def outcome(self, seq: int) -> bytes | None:
        return await self._engine.large(seq, "outcome")

    async def proxied_task(self, upstream: str, task_id: str) -> ReadTask | None:
        return await self._tasks.watches.task(upstream, task_id)

    async def record(self, seq: int) -> bytes | None:
        return await self._engine.large(seq, "record")

    async def watch(self, wish: ReadWatch) -> Watched | None:
        return await self._tasks.watches.watch(wish)

    async def poll_again(self, wish: PollAgain) -> None:
        await self._tasks.watches.poll_again(wish)

    async def wait_settled(self, seq: int, timeout_s: float) -> None:
        await self._tasks.wait_settled(seq, timeout_s)

    async def cancel(self, client: str | None, callback_id: str, now: int) -> CallbackState | None:
        state: CallbackState | None = await self._writer.submit(self.cancel_kind, (client, callback_id, now))
        return state

    def _apply_cancel(self, items: Sequence[tuple[str | None, str, int]]) -> Work[list[CallbackState | None]]:
        sql = self._sql
        states: list[CallbackState | None] = []
        for client, callback_id, now in items:
            found = (yield Run(sql.LOCK_STATE, {"id": callback_id, "client": client})).rows
            for seq, task_seq, *_ in found:
                yield Run(sql.CANCEL_CALLBACK, (now, seq))
                yield Rows(sql.IDLE_TASKS, [(task_seq, now)])
            states.append(CallbackState(found[0][2]) if found else None)
        return states

    async def redeliver(self, client: str | None, callback_id: str, now: int) -> tuple[CallbackState, Callback] | None:
        found: tuple[CallbackState, Callback] | None
        about = {"client": client, "id": callback_id, "now": now}
        found, _ = await self._writer.submit(self.redeliver_kind, about)
        return found

    def _apply_redeliver(
        self, items: Sequence[dict[str, Any]]
    ) -> Work[list[tuple[tuple[CallbackState, Callback] | None, list[Lane]]]]:
        sql = self._sql
        results: list[tuple[tuple[CallbackState, Callback] | None, list[Lane]]] = []
        for item in items:
            lanes: list[Lane] = []
            redelivered = None
            about, died = {"id": item["id"], "client": item["client"]}, item.get("died")
            for seq, _, state, ended_at in (yield Run(sql.LOCK_STATE, about)).rows:
                if died is not None and not (state == CallbackState.DEAD and ended_at in died):
                    continue  # it was read as dead, and somebody has redelivered it since
                lanes += map(Lane._make, (yield Run(sql.REDELIVER_CALLBACK, {"now": item["now"], "seq": seq})).rows)
                (row,) = (yield Run(sql.SELECT_CALLBACK, about)).rows
                redelivered = CallbackState(state), rows.callback(row)
            results.append((redelivered, lanes))
        return results

    def _redelivered(self, items: Sequence[dict[str, Any]], results: Sequence[tuple[object, Sequence[Lane]]]) -> None:
        for item, (_, lanes) in zip(items, results, strict=True):
            for lane in set(lanes):
                self._outbox.tell(lane, item["now"])

    async def redeliver_dead(
        self,
        client: str | None,
        since: int,
        until: int,
        now: int,
        turn: Turn = nullcontext,
        receiver: Sought | None = None,
    ) -> int:
        # What dies again meanwhile is not meant: else a receiver that answers 410 would keep this going for ever.
        about = {"since": since, "until": min(until, now + 1), "now": now, "limit": _REDELIVERED_AT_ONCE}
        parts = self._of_all(client, about, turn) if receiver is None else self._of_some(client, about, turn, receiver)
        count = 0
        try:
            async for some in parts:
                count += some
        except StoreError as exc:
            if not count:
                raise
            done = f"{count} are redelivered; send the same request again for the rest."
            raise StorePartly(f"The database cannot be used at the moment: {done}") from exc
        return count

    async def _of_all(self, client: str | None, about: Mapping[str, int], turn: Turn) -> AsyncIterator[int]:
        for one in await self._clients(client):
            some = _REDELIVERED_AT_ONCE
            while some == _REDELIVERED_AT_ONCE:
                async with turn():
                    some = await self._redeliver_some(one, about)
                yield some

    async def _of_some(
        self, client: str | None, about: Mapping[str, int], turn: Turn, receiver: Sought
    ) -> AsyncIterator[int]:
        """Redeliver those of receivers that are meant: they are few, and no index has them."""
        async for ids in self._dead_of(client, about["since"], about["until"], receiver, turn):
            for start in range(0, len(ids), _REDELIVERED_AT_ONCE):
                some = ids[start : start + _REDELIVERED_AT_ONCE]  # these share a transaction
                async with turn():
                    done = await asyncio.gather(*(self._redeliver_dead_one(client, one, about) for one in some))
                yield sum(done)

    async def _redeliver_dead_one(self, client: str | None, callback_id: str, about: Mapping[str, int]) -> bool:
        """Redeliver a callback that is dead still, and has not died again since; return whether it was."""
        died = range(about["since"], about["until"])
        item = {"client": client, "id": callback_id, "now": about["now"], "died": died}
        found, _ = await self._writer.submit(self.redeliver_kind, item)
        return found is not None

    async def _redeliver_some(self, client: str, about: Mapping[str, int]) -> int:
        item = {**about, "client": client}
        return len((await self._writer.submit(self.redeliver_dead_kind, item, _REDELIVERED_AT_ONCE))[1])

    def _apply_redeliver_dead(self, items: Sequence[dict[str, Any]]) -> Work[list[tuple[None, list[Lane]]]]:
        results = []
        for item in items:
            done = yield Run(self._sql.REDELIVER_DEAD, item)
            results.append((None, [Lane(*row) for row in done.rows]))
        return results

    async def count_callbacks(self) -> dict[CallbackState, int]:
        return {CallbackState(state): count for state, count in await self._engine.read(self._sql.COUNT_CALLBACKS)}

    async def tasks_of_others(self, upstreams: Collection[str]) -> dict[str, int]:
        names = rows.first_column(await self._engine.read(self._sql.SELECT_POLLED_UPSTREAMS))
        counts = {}
        for name in names:
            if name not in upstreams:
                about = name, _MOST_OF_OTHERS
                ((counts[name],),) = await self._engine.read(self._sql.COUNT_POLLED_TASKS, about)
        return counts

    async def backlog(self, paused: Collection[Lane] = ()) -> Backlog:
        waiting = await self._counts(self._sql.COUNT_WAITING)
        held = set(paused)
        counted = self._sql.COUNT_PENDING_LANES if held else self._sql.COUNT_PENDING

        def whether_held(lane: str) -> str:
            return "held" if lane and holds_back(held, Lane(*lane.split("\n"))) else ""

        owed = await self._counts(counted, whether_held)
        pending = sum(count for count, _ in owed.values())
        _, oldest_due_at = owed.get("", (0, None))
        dead, _ = (await self._counts(self._sql.COUNT_DEAD)).get("", (0, None))
        return Backlog(waiting=waiting, pending=pending, oldest_due_at=oldest_due_at, dead=dead)

    async def _counts(self, counted: Counted, name: Callable[[str], str] = str) -> dict[str, tuple[int, int]]:
        """Return by name of their label how many there are, and the earliest instant; writes have their turn meanwhile.

        Of more than one part, what moves while it is counted may be missed or counted twice.
        """
        counts: dict[str, tuple[int, int]] = {}
        after: Any = counted.start
        while after is not None:
            found = await self._engine.read(counted.part, (*after, _PART))
            more = sum(count for _, count, _ in found) == _PART
            # Of a part that was the last one some may have gone since: then nothing follows it.
            ends = await self._engine.read(counted.end, (*after, _PART)) if more else []
            after = ends[0] if ends else None
            for label, count, earliest in found:
                named = name(label)
                counted_before, earliest_before = counts.get(named, (0, earliest))
                counts[named] = counted_before + count, min(earliest_before, earliest)
        return counts

    async def secret_key(self) -> bytes:
        ((key,),) = await self._engine.read(self._sql.SELECT_META, ("secret_key",))
        return bytes(key)


def _registered_for(items: Sequence[Sequence[NewCallback]]) -> Touched:
    return registered_for([one for item in items for one in item])


def _cancelled(items: Sequence[tuple[str | None, str, int]]) -> Touched:
    return Touched(callbacks=[callback_id for _, callback_id, _ in items])


def _redelivered_of(items: Sequence[dict[str, Any]]) -> Touched:
    return Touched(callbacks=[item["id"] for item in items])
