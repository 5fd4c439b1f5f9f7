"""Which tasks are due, and which of them are claimed: by upstream, and by the clients that watch them.

Owns the claims, in memory, and when the first unclaimed task of each group falls due, so that a claim asks only for
those of which something is. Whose turn it is, and which task is the most urgent, is for the caller to say. Called by
``tasks.py``.

A group is what the same clients watch of one upstream: a task that two of them watch waits behind neither's others.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable

from gateway.core.model import DueTask, PollRecord
from gateway.store import Rank
from gateway.store.sqlite import rows, sql
from gateway.store.sqlite.database import Database
from gateway.upstream.turns import Rotation

__all__ = ["DueTasks"]

_CANDIDATES = 1000  # due tasks that are ranked, where more are due than may be polled
_RANKED_MS = 1000  # for how long a ranking holds: the tasks in it have been due for longer than it matters


class DueTasks:
    """The due and the claimed tasks of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._groups: defaultdict[str, dict[str, _Group]] = defaultdict(dict)  # per upstream, by who watches
        self._claimed: dict[int, _Group] = {}
        self._told: dict[str, int | None] = {}  # per upstream, what its poller last heard
        self._events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def event(self, upstream: str) -> asyncio.Event:
        """Return what is set where a task may be due earlier than its poller knows."""
        return self._events[upstream]

    @property
    def claimed(self) -> int:
        """How many are claimed."""
        return len(self._claimed)

    async def open(self) -> None:
        """Find out who watches what. Raises StoreError."""
        upstream = watchers = ""
        while found := await self._database.read(sql.SELECT_NEXT_WATCHERS, (upstream, watchers)):
            ((upstream, watchers, due_at),) = found
            self.note(upstream, watchers, due_at)

    def note(self, upstream: str, watchers: str, due_at: int) -> None:
        """Hear that a task falls due then, or later than that."""
        self._group(upstream, watchers).note(due_at)

    def moved(self, seq: int, upstream: str, watchers: str, due_at: int) -> None:
        """Hear that others watch a task from now on."""
        self.note(upstream, watchers, due_at)
        if seq in self._claimed:
            self._end(seq)
            self._begin(seq, self._group(upstream, watchers))

    def forget_times(self) -> None:
        """Know nothing of when tasks are due: whatever is may be so earlier now."""
        self._told.clear()
        for upstream, groups in self._groups.items():
            for group in groups.values():
                group.due_at = 0
                group.ranked = None
            self._events[upstream].set()

    async def claim(
        self, upstream: str, now: int, limit: int, rank: Rank | None, rotation: Rotation | None, places: int | None
    ) -> tuple[list[DueTask], int | None]:
        """As ``TaskQueue.claim``."""
        claims: list[DueTask] = []

        def room(group: _Group) -> int:
            """Return how many more of this group's may be claimed, one after the other."""
            if places is None:
                return limit + 1  # they are not what is short
            return max(0, (places - len(claims) - len(group.claimed) + 1) // 2)

        # Reading until the claims are made: what another call claims, or a commit gives back, is seen whole or not.
        async with self._database.reading():
            self._database.require_file()
            groups = self._groups[upstream]
            names = [name for name, group in groups.items() if group.is_due(now) and (room(group) or not limit)]
            names = names if rotation is None else rotation.order(names)
            while names:
                share = max(1, (limit - len(claims)) // len(names))
                for name in names:
                    group_room = room(groups[name])
                    wanted = min(share, limit - len(claims), group_room)
                    if limit and not wanted:
                        continue  # where none may be claimed they are looked at: when the next is due is to be told
                    # What only waits for a place of its own group's has nothing to be urgent for.
                    found = await self._take(groups[name], now, wanted, rank if wanted < group_room else None)
                    claims += found
                    if found and rotation is not None:
                        rotation.served(name)
                more = len(claims) < limit
                names = [name for name in names if more and groups[name].is_due(now) and room(groups[name])]
            for name in [name for name, group in groups.items() if group.is_empty]:
                del groups[name]
            some_free = places is None or places > len(claims)
            waiting = [group for group in groups.values() if not limit or not some_free or room(group)]
            next_due_at = min((group.due_at for group in waiting if group.due_at is not None), default=None)
            self._told[upstream] = next_due_at
            return claims, next_due_at

    async def claim_new(self, upstream: str, since: int, now: int, rotation: Rotation | None) -> list[DueTask]:
        """As ``TaskQueue.claim_new``."""
        async with self._database.reading():
            self._database.require_file()
            about = upstream, since, now, rows.array(list(self._claimed))
            found = [rows.due_task(row) for row in await self._database.rows(sql.SELECT_NEW_TASKS, about)]
            if rotation is not None and found:
                name = rotation.order(task.watchers for task in found)[0]
                rotation.served(name)
                found = [task for task in found if task.watchers == name]
            for task in found[:1]:
                group = self._group(upstream, task.watchers)
                self._begin(task.seq, group)
                group.ranked = None
            return found[:1]

    def release(self, claim: DueTask) -> None:
        """As ``TaskQueue.release``."""
        group = self._end(claim.seq)
        if group is not None:
            group.note(claim.due_at)
        self._events[claim.upstream].set()

    def rescheduled(self, records: Iterable[PollRecord]) -> None:
        """End the claims of tasks that are due again then."""
        for record in records:
            group = self._end(record.seq)
            if group is None:
                continue  # it has settled meanwhile
            group.note(record.next_poll_at)
            # While it was claimed, its poller was told of later ones only.
            told = self._told.get(group.upstream)
            if told is None or record.next_poll_at < told:
                self._events[group.upstream].set()

    def settled(self, seq: int) -> None:
        """End the claim of a task that has ended."""
        self._end(seq)

    async def _take(self, group: "_Group", now: int, limit: int, rank: Rank | None) -> list[DueTask]:
        ranked = group.ranked
        if rank is None or ranked is None or not ranked.serves(now, limit):
            group.ranked = None
            # Forgotten meanwhile: what a claim that is given back during the query notes must not be overwritten.
            later, group.due_at = group.due_at, None
            try:
                due, later = await self._due(group, now, limit)
                if rank is not None and later is not None and later <= now:
                    candidates, _ = await self._due(group, now, _CANDIDATES)
                    later = candidates[0].due_at if candidates else now
                    ranked = group.ranked = _Ranked(candidates, rank, now)
                else:
                    ranked = None
            finally:
                if later is not None:
                    group.note(later)
        # An order may be out of date: somebody else may have claimed a task of it, for whom it is by now.
        taken = due if ranked is None else [task for task in ranked.take(limit) if task.seq not in self._claimed]
        for task in taken:
            self._begin(task.seq, group)
        return taken

    async def _due(self, group: "_Group", now: int, limit: int) -> tuple[list[DueTask], int | None]:
        """Return unclaimed due tasks, the longest due first, and when the one after them is due.

        One that was claimed when others watched it is this group's from now on: it is polled once all the same.
        """
        about = group.upstream, group.watchers, rows.array(list(group.claimed)), limit + 1
        due: list[DueTask] = []
        for place, row in enumerate(await self._database.rows(sql.SELECT_DUE_TASKS, about)):
            task = rows.due_task(row)
            if task.due_at > now or place == limit:
                return due, task.due_at
            if self._end(task.seq) is None:
                due.append(task)
            else:
                self._begin(task.seq, group)
        return due, None

    def _group(self, upstream: str, watchers: str) -> "_Group":
        groups = self._groups[upstream]
        group = groups.get(watchers)
        if group is None:
            group = groups[watchers] = _Group(upstream, watchers)
        return group

    def _begin(self, seq: int, group: "_Group") -> None:
        self._claimed[seq] = group
        group.claimed.add(seq)

    def _end(self, seq: int) -> "_Group | None":
        group = self._claimed.pop(seq, None)
        if group is not None:
            group.claimed.discard(seq)
        return group


class _Group:
    """What the same clients watch of one upstream."""

    __slots__ = ("claimed", "due_at", "ranked", "upstream", "watchers")

    def __init__(self, upstream: str, watchers: str) -> None:
        self.upstream = upstream
        self.watchers = watchers
        self.claimed: set[int] = set()
        self.due_at: int | None = None
        """When its first unclaimed task is due, or earlier than that; None where it has none."""
        self.ranked: _Ranked | None = None

    def note(self, due_at: int) -> None:
        if self.due_at is None or due_at < self.due_at:
            self.due_at = due_at

    def is_due(self, now: int) -> bool:
        return self.due_at is not None and self.due_at <= now

    @property
    def is_empty(self) -> bool:
        return self.due_at is None and not self.claimed


class _Ranked:
    """Due tasks in the order in which a short budget polls them; made anew every second, as it takes milliseconds."""

    def __init__(self, due: list[DueTask], rank: Rank, now: int) -> None:
        self._due = sorted(due, key=rank)  # the most urgent last
        self._made_at = now

    def serves(self, now: int, limit: int) -> bool:
        return 0 <= now - self._made_at < _RANKED_MS and len(self._due) > limit

    def take(self, limit: int) -> list[DueTask]:
        if limit == 0:
            return []
        taken = self._due[-limit:]
        del self._due[-limit:]
        taken.reverse()
        return taken
