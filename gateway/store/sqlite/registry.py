"""What the API reads and changes: registrations, callbacks and their attempts, tasks, and the counts of all.

Owns what each of these writes does. Called through ``gateway.store.Registry``; tells the two queues what is due.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from sqlite3 import Connection
from typing import Any

from msgspec import convert

from gateway.core.errors import StoreError, StorePartly
from gateway.core.model import (
    Attempt,
    Backlog,
    Callback,
    CallbackState,
    Format,
    Lane,
    NewCallback,
    Registration,
    Task,
)
from gateway.core.reads import PollAgain, ReadTask, ReadWatch
from gateway.core.urls import receiver_of
from gateway.store import Turn
from gateway.store.dialect import Counted
from gateway.store.sqlite import outcomes, rows, sql, statements
from gateway.store.sqlite.creates import SqliteCreates
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.outbox import SqliteOutbox
from gateway.store.sqlite.tasks import SqliteTaskQueue
from gateway.store.sqlite.writer import Kind, Writer

__all__ = ["SqliteRegistry"]

_REDELIVERED_AT_ONCE = 100  # dead callbacks: a few milliseconds, after which others write
_PART = 2000  # rows that are counted at once: a millisecond at most

_Watched = tuple[int, str, str, int]
"""A task's seq, its upstream, who watches it and when its next poll is due."""


class SqliteRegistry(SqliteCreates):
    """``gateway.store.Registry`` on one SQLite file."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        tasks: SqliteTaskQueue,
        outbox: SqliteOutbox,
        first_attempt_delay_ms: int,
    ) -> None:
        """Tell these of what falls due; a webhook does so that long after its task's end."""
        self.register_kind = Kind("register", self._apply_register, self._registered)
        super().__init__(database, writer, self.register_kind)
        self._tasks = tasks
        self._outbox = outbox
        self._first_attempt_delay_ms = first_attempt_delay_ms
        self.cancel_kind = Kind("cancel", self._apply_cancel)
        self.redeliver_kind = Kind("redeliver", self._apply_redeliver, self._redelivered)
        self.redeliver_dead_kind = Kind("redeliver_dead", self._apply_redeliver_dead, self._redelivered)

    async def register(self, new: Sequence[NewCallback]) -> list[Registration]:
        registrations: list[Registration]
        registrations, _ = await self._writer.submit(self.register_kind, new, len(new))
        return registrations

    def _apply_register(
        self, db: Connection, items: Sequence[Sequence[NewCallback]]
    ) -> list[tuple[list[Registration], list[_Watched]]]:
        """Return what became of each item's registrations, and which tasks further clients watch now."""
        new = [callback for item in items for callback in item]
        inserted = statements.run(db, sql.INSERT_TASKS, rows.new_tasks(new))
        task_seqs = {(upstream, task_id): seq for upstream, task_id, seq in inserted}
        seqs = dict(statements.run(db, sql.INSERT_CALLBACKS, rows.new_callbacks(new)))
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
        for c in new:
            if c.model is not None and found[c.id].task.model is None:
                db.execute(sql.NAME_MODEL, rows.named(found[c.id].task, c.model))
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
            if new.format is Format.RECORD:
                db.execute(sql.OWE_RECORD, (task.seq,))
        else:
            db.execute(sql.REVIVE_TASK, {"seq": task.seq, "client": new.client, "now": new.created_at})
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
                self._outbox.note(Lane(callback.client, receiver_of(callback.url)), callback.next_attempt_at)
        for (upstream, client), due_at in polls.items():
            self._tasks.note(upstream, client, min(due_at))
        for watched in (one for _, joined in results for one in joined):
            self._tasks.moved(*watched)
        for upstream, expires_at in expiries.items():
            self._tasks.registered(upstream, expires_at)

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
            whose = rows.first_column(await self._database.read(sql.SELECT_CLIENTS))
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
        return convert(await self._database.read(sql.SELECT_ATTEMPTS, (found[0][0],)), list[Attempt])

    async def get_task(self, client: str | None, task_id: str) -> Task | None:
        found = await self._database.read(sql.SELECT_TASK, {"client": client, "task_id": task_id})
        return convert(found[0], Task) if found else None

    async def outcome(self, seq: int) -> bytes | None:
        async with self._database.reading():
            return await self._database.call(outcomes.read_large, seq, "outcome")

    async def proxied_task(self, upstream: str, task_id: str) -> ReadTask | None:
        return await self._tasks.watches.task(upstream, task_id)

    async def record(self, seq: int) -> bytes | None:
        async with self._database.reading():
            return await self._database.call(outcomes.read_large, seq, "record")

    async def watch(self, wish: ReadWatch) -> int | None:
        return await self._tasks.watches.watch(wish)

    async def poll_again(self, wish: PollAgain) -> None:
        await self._tasks.watches.poll_again(wish)

    async def wait_settled(self, seq: int, timeout_s: float) -> None:
        await self._tasks.wait_settled(seq, timeout_s)

    async def cancel(self, client: str | None, callback_id: str, now: int) -> CallbackState | None:
        state: CallbackState | None = await self._writer.submit(self.cancel_kind, (client, callback_id, now))
        return state

    def _apply_cancel(self, db: Connection, items: Sequence[tuple[str | None, str, int]]) -> list[CallbackState | None]:
        states: list[CallbackState | None] = []
        for client, callback_id, now in items:
            found = db.execute(sql.SELECT_STATE, {"id": callback_id, "client": client}).fetchall()
            for seq, task_seq, _ in found:
                db.execute(sql.CANCEL_CALLBACK, (now, seq))
                db.execute(sql.IDLE_TASK, {"seq": task_seq, "now": now})
            states.append(CallbackState(found[0][2]) if found else None)
        return states

    async def redeliver(self, client: str | None, callback_id: str, now: int) -> CallbackState | None:
        state: CallbackState | None
        state, _ = await self._writer.submit(self.redeliver_kind, {"client": client, "id": callback_id, "now": now})
        return state

    def _apply_redeliver(
        self, db: Connection, items: Sequence[dict[str, Any]]
    ) -> list[tuple[CallbackState | None, list[Lane]]]:
        results: list[tuple[CallbackState | None, list[Lane]]] = []
        for item in items:
            found = db.execute(sql.SELECT_STATE, item).fetchall()
            lanes: list[Lane] = []
            for seq, _, _ in found:
                lanes += map(Lane._make, db.execute(sql.REDELIVER_CALLBACK, {**item, "seq": seq}))
            results.append((CallbackState(found[0][2]) if found else None, lanes))
        return results

    def _redelivered(self, items: Sequence[dict[str, Any]], results: Sequence[tuple[object, Sequence[Lane]]]) -> None:
        for item, (_, lanes) in zip(items, results, strict=True):
            for lane in set(lanes):
                self._outbox.note(lane, item["now"])

    async def redeliver_dead(
        self, client: str | None, since: int, until: int, now: int, turn: Turn = nullcontext
    ) -> int:
        whose = [client] if client is not None else rows.first_column(await self._database.read(sql.SELECT_CLIENTS))
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
        return len((await self._writer.submit(self.redeliver_dead_kind, item, _REDELIVERED_AT_ONCE))[1])

    def _apply_redeliver_dead(self, db: Connection, items: Sequence[dict[str, Any]]) -> list[tuple[None, list[Lane]]]:
        return [(None, [Lane(*row) for row in db.execute(sql.REDELIVER_DEAD, item)]) for item in items]

    async def count_callbacks(self) -> dict[CallbackState, int]:
        return {CallbackState(state): count for state, count in await self._database.read(sql.COUNT_CALLBACKS)}

    async def tasks_of_others(self, upstreams: Collection[str]) -> dict[str, int]:
        names = rows.first_column(await self._database.read(sql.SELECT_POLLED_UPSTREAMS))
        counts = {}
        for name in names:
            if name not in upstreams:
                ((counts[name],),) = await self._database.read(sql.COUNT_POLLED_TASKS, (name,))
        return counts

    async def backlog(self) -> Backlog:
        waiting = await self._counts(sql.COUNT_WAITING)
        pending, oldest_due_at = (await self._counts(sql.COUNT_PENDING)).get("", (0, None))
        dead, _ = (await self._counts(sql.COUNT_DEAD)).get("", (0, None))
        return Backlog(waiting=waiting, pending=pending, oldest_due_at=oldest_due_at, dead=dead)

    async def _counts(self, counted: Counted) -> dict[str, tuple[int, int]]:
        """Return by label how many there are, and their earliest instant; writes have their turn in between.

        Of more than one part, what moves while it is counted may be missed or counted twice.
        """
        counts: dict[str, tuple[int, int]] = {}
        after: Any = counted.start
        while after is not None:
            async with self._database.reading():
                found, after = await self._database.call(_part, counted, after)
            for label, count, earliest in found:
                counted_before, earliest_before = counts.get(label, (0, earliest))
                counts[label] = counted_before + count, min(earliest_before, earliest)
        return counts

    async def secret_key(self) -> bytes:
        ((key,),) = await self._database.read(sql.SELECT_META, ("secret_key",))
        return bytes(key)


def _registered_callbacks(db: Connection, new: Sequence[NewCallback]) -> dict[str, Callback]:
    """Return the callback that stands for each of these registrations, by the id that was made for it."""
    found = [rows.callback(row) for row in statements.run(db, sql.SELECT_REGISTERED, rows.wanted(new))]
    return {c.id: callback for c, callback in zip(new, found, strict=True)}


def _part(db: Connection, counted: Counted, after: Any) -> tuple[list[tuple[str, int, int]], Any]:
    found = db.execute(counted.part, (*after, _PART)).fetchall()
    more = sum(count for _, count, _ in found) == _PART
    return found, db.execute(counted.end, (*after, _PART)).fetchone() if more else None
