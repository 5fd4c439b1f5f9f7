"""What the proxy's readers wait for: tasks that are polled until nobody has read them for a while.

Owns what each of these writes does, how many tasks readers may have polled at once, and when the next of them has lost
its readers. Called by the store's ports; tells ``duetasks.py`` what is due.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import convert
from msgspec.structs import asdict

from gateway.core.errors import StoreLocked
from gateway.core.memory import SMALL
from gateway.core.reads import PollAgain, ReadTask, ReadWatch, Watched
from gateway.store import rows
from gateway.store.duetasks import DueTasks
from gateway.store.engine import Column, Engine, Rows, Run, Touched, Work, Write
from gateway.store.writer import Writer
from gateway.store.writes import Kind

_MOST_READ = 200_000
"""Tasks that are kept for readers at once."""
_PART = 4
"""A client may have so many times as many as there are places left: four of five alone, and two have as many each."""
_AT_ONCE = 100  # tasks whose readers have gone, after which others write: 500 took up to 40 ms under attack
_LOCKED_PAUSE_MS = round(StoreLocked.longest_pause_s * 1000 / 4)

_Watched = tuple[int, str, str, int]
"""A task's seq, its upstream, who watches it and when its next poll is due."""


class _Unwatched(NamedTuple):
    """What was done for tasks whose readers have gone."""

    last: tuple[int, int]
    """The last one that was seen to, in the order of the index."""
    next_at: int
    """When the next one loses its readers."""
    left: int
    """How many are no longer kept for readers: callbacks wait for them."""


class Watches:
    """Readers' part of ``gateway.store.Registry``, ``TaskQueue`` and ``Housekeeping``, on an engine."""

    def __init__(self, engine: Engine, writer: Writer, due: DueTasks) -> None:
        self._engine = engine
        self._sql = engine.sql
        self._watchsql = engine.watchsql
        self._writer = writer
        self._due = due
        self._at_most: int | None = None  # so many are kept for readers, or fewer; None: not counted
        self._at_most_for: dict[str, int] = {}  # … and for a client; counted only where places are few
        self._counted: set[str] = set()  # of these, the ones that were counted since some have gone
        self._counting = asyncio.Lock()
        self._gone_at = 0  # when the first may have lost its readers
        self._locked_until = 0  # so long those whose readers have gone are left alone, as others have locked one
        self._unwatching = asyncio.Lock()
        self._gone = (0, 0)  # the last one that has been seen to, in the order of the index
        self.watch_kind = Kind("watch", self._apply_watch, self._watched, _to_be_read)
        self.poll_again_kind = Kind("poll_again", self._apply_poll_again, self._polled_again, _named, singly=True)
        self.unwatch_kind = Kind("unwatch", self._apply_unwatch, self._unwatched, apart=True)
        self.prune_kind = Kind("prune_reads", self._apply_prune, apart=True)

    async def task(self, upstream: str, task_id: str) -> ReadTask | None:
        """As ``Registry.proxied_task``."""
        found = await self._engine.read(self._watchsql.SELECT_READ_TASK, (task_id, upstream))
        return rows.read_task(found[0]) if found else None

    async def watch(self, wish: ReadWatch) -> Watched | None:
        """As ``Registry.watch``."""
        if wish.begins and not await self._has_place(wish.client):
            return None
        watched: tuple[_Watched, bool] | None = await self._writer.submit(self.watch_kind, wish)
        return Watched(None, wish.told) if watched is None else Watched(watched[0][0], watched[1])

    async def _has_place(self, client: str) -> bool:
        """Whether one more task may be kept for a client: who has many leaves places to the others."""
        while (has_place := self._knows_of_place(client)) is None:
            async with self._counting:  # one look is for all who ask meanwhile
                if self._at_most is None:
                    ((self._at_most,),) = await self._engine.read(self._watchsql.COUNT_READ_TASKS)
                elif self._knows_of_place(client) is None:
                    ((own,),) = await self._engine.read(self._watchsql.COUNT_READ_TASKS_FOR, (client,))
                    self._at_most_for[client] = own
                    self._counted.add(client)
        return has_place

    def _knows_of_place(self, client: str) -> bool | None:
        """Return the same as far as that is known without counting."""
        if self._at_most is None:
            return None
        most = _PART * (_MOST_READ - self._at_most)
        if self._at_most < most:
            return True  # nearly always: even if all are this one's
        its = self._at_most_for.get(client)
        if its is None or (its >= most and client not in self._counted):
            return None  # since its count some have gone, which may be its own
        return its < most

    def _apply_watch(self, items: Sequence[ReadWatch]) -> Work[list[tuple[_Watched, bool] | None]]:
        """Return with each that is watched whether its record was overtaken."""
        watched: dict[tuple[str, str], tuple[_Watched, int]] = {}
        parts = [part for wishes in _each_task_once(items) for part in rows.parts(wishes, rows.record_size)]
        if len(parts) > 1:
            yield from self._engine.lock_all(map(_to_be_read, parts))
        for part in parts:
            done = yield Rows(self._watchsql.WATCH_READ_TASKS, rows.read_watches(part))
            for task_id, *about, told_at in done.rows:
                watched[about[1], task_id] = convert(about, _Watched), told_at
            for wish in part:
                one = watched.get((wish.upstream, wish.task_id))
                if one is not None and wish.record is not None:
                    yield from write_large(one[0][0], "record", (wish.record,))
        found = [watched.get((item.upstream, item.task_id)) for item in items]
        return [
            None if one is None else (one[0], item.told and item.record is not None and one[1] != item.at)
            for item, one in zip(items, found, strict=True)
        ]

    async def poll_again(self, wish: PollAgain) -> None:
        """As ``Registry.poll_again``."""
        await self._writer.submit(self.poll_again_kind, wish)

    def _apply_poll_again(self, items: Sequence[PollAgain]) -> Work[list[_Watched | None]]:
        found: list[_Watched | None] = []
        for item in items:
            about = asdict(item) | {"now": item.at, "record": rows.small_record(item.record)}
            told = (yield Run(self._watchsql.POLL_AGAIN, about)).rows
            found.append(convert(told[0], _Watched) if told else None)
            if told and item.record is not None:
                yield from write_large(told[0][0], "record", (item.record,))
        return found

    def _polled_again(self, items: Sequence[PollAgain], results: Sequence[_Watched | None]) -> None:
        for item, task in zip(items, results, strict=True):
            if task is None:
                continue
            self._due.tell(*task[1:])
            self._due.due(item.upstream).set()
            if item.record is not None:
                self._gone_at = min(self._gone_at, item.read_until)
                if self._at_most is not None:
                    self._at_most += 1

    def write_record(self, seq: int, record: bytes) -> Work[None]:
        """Write a poll's record where it is large, for a task that still runs."""
        if len(record) > SMALL and (yield Run(self._watchsql.SELECT_RUNNING, (seq,))).rows:
            yield Write(seq, "record", (record,))

    def _watched(self, items: Sequence[ReadWatch], results: Sequence[tuple[_Watched, bool] | None]) -> None:
        for item, result in zip(items, results, strict=True):
            if result is None:
                continue
            watched, _ = result
            self._gone_at = min(self._gone_at, item.read_until)
            self._due.moved(*watched)
            if watched[-1] == item.next_poll_at:  # else others waited for it
                self._due.due(item.upstream).set()
            if item.begins and self._at_most is not None:
                self._at_most += 1
            if item.begins and item.client in self._at_most_for:
                self._at_most_for[item.client] += 1

    async def unwatch(self, now: int) -> int:
        """As ``TaskQueue.unwatch``."""
        async with self._unwatching:  # each upstream's poller asks, and one look is for all of them
            if now >= max(self._gone_at, self._locked_until):
                try:
                    await self._writer.submit(self.unwatch_kind, now, _AT_ONCE)
                except StoreLocked:  # no poll of another waits for that
                    self._locked_until = now + _LOCKED_PAUSE_MS
        return max(self._gone_at, self._locked_until)

    def _apply_unwatch(self, items: Sequence[int]) -> Work[list[_Unwatched]]:
        (now,), left = items, 0  # one look at a time
        gone = (yield Run(self._watchsql.SELECT_UNREAD, (now, *self._gone, _AT_ONCE))).rows
        if gone:
            yield from self._engine.lock([seq for _, seq in gone])
            yield Rows(self._sql.IDLE_TASKS, [(seq, now) for _, seq in gone])
            left = (yield Rows(self._watchsql.LEAVE_TASKS, [(seq, now) for _, seq in gone])).count
        if len(gone) == _AT_ONCE:
            return [_Unwatched(gone[-1], now, left)]
        ((next_at,),) = (yield Run(self._watchsql.SELECT_NEXT_UNREAD, (now,))).rows
        return [_Unwatched((now, rows.FOREVER), rows.FOREVER if next_at is None else next_at, left)]

    def _unwatched(self, _: object, results: Sequence[_Unwatched]) -> None:
        self._gone, self._gone_at, left = results[0]
        if self._at_most is not None:
            self._at_most -= left
        if left:
            self._counted.clear()

    def look_again(self) -> None:
        """Know nothing that is true only where no other process writes."""
        self._gone_at = 0
        self._at_most = None
        self._at_most_for.clear()

    def forget_times(self) -> None:
        """Know nothing of when readers have gone: the clock was set."""
        self._gone, self._gone_at, self._locked_until = (0, 0), 0, 0

    async def prune(self, now: int, read_before: int, limit: int) -> int:
        """As ``Housekeeping.prune_reads``."""
        count: int = await self._writer.submit(self.prune_kind, (now, read_before, limit), limit)
        if count:
            self._at_most = None
            self._counted.clear()
        return count

    def _apply_prune(self, items: Sequence[tuple[int, int, int]]) -> Work[list[int]]:
        counts = []
        for now, read_before, limit in items:
            seqs = (yield Run(self._watchsql.SELECT_LONG_UNREAD, (read_before, limit))).rows
            if seqs:
                yield from self._engine.lock([seq for (seq,) in seqs])
                yield Rows(self._watchsql.END_WATCHES, [(seq, read_before) for (seq,) in seqs])
                yield Rows(self._sql.IDLE_TASKS, [(seq, now) for (seq,) in seqs])
                yield Rows(self._sql.PRUNE_TASKS, seqs)
            counts.append(len(seqs))
        return counts


def _named(items: Sequence[PollAgain]) -> Touched:
    return Touched(tasks=[(item.upstream, item.task_id) for item in items])


def _to_be_read(items: Sequence[ReadWatch]) -> Touched:
    return Touched(tasks=[(item.upstream, item.task_id) for item in items], new=lambda: rows.watched_tasks(items))


def _each_task_once(wishes: Sequence[ReadWatch]) -> list[list[ReadWatch]]:
    """Return the wishes in their order, in as many lists as it takes: a statement may not meet a task twice."""
    turns: defaultdict[int, list[ReadWatch]] = defaultdict(list)
    turn_of: Counter[tuple[str, str]] = Counter()
    for wish in wishes:
        task = wish.upstream, wish.task_id
        turns[turn_of[task]].append(wish)
        turn_of.update((task,))
    return [*turns.values()]


def write_large(seq: int, column: Column, parts: Sequence[bytes]) -> Work[None]:
    """Write what a statement's row has left empty, as ``rows`` does with what is large."""
    if sum(map(len, parts)) > SMALL:
        yield Write(seq, column, parts)
