"""Which tasks are due, and which of them are claimed: by upstream, and by the clients that watch them.

Owns the claims, in memory, and when the first unclaimed task of each group (see ``DueGroup``) falls due, so that only
those are asked for of which something is; and which upstreams' polls this process leads. Writes nothing. Whose turn it
is, and which task is the most urgent, is for the caller to say. Called through ``gateway.store.TaskQueue``, the rest of
which is in ``tasks.py``.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import convert

from gateway.core.claims import DueGroup, DueTask
from gateway.store.engine import Engine, Lead, Work

_ALWAYS: Lead = ("", 0)  # no other process can


class DueTasks:
    """What ``gateway.store.TaskQueue`` tells and claims."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sql = engine.sql
        self._shared = engine.shared
        self._epochs: dict[str, int] = {}  # of the upstreams whose polls it leads, where others may
        # Per upstream, by who watches.
        self._groups: dict[str, dict[str, _WatchedTasks]] = defaultdict(lambda: defaultdict(_WatchedTasks))
        self._claimed: dict[int, _WatchedTasks] = {}
        self._events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._looks: dict[int, set[int]] = {}  # of each that is under way, which claims have ended since it began
        self._looking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # two at once would forget a note

    def due(self, upstream: str) -> asyncio.Event:
        return self._events[upstream]

    async def open(self) -> None:
        """Find out who watches what, where no other process can lead. Raises StoreError."""
        upstream = watchers = ""
        while not self._shared and (found := await self._after(upstream, watchers)):
            upstream, watchers = self._note_all(found)

    async def gained(self, upstream: str, epoch: int) -> None:
        if not self._shared:
            return  # ``open`` has found out
        self._epochs[upstream] = epoch  # from here on what is committed is noted
        try:
            await self._look_at(upstream)
        except BaseException:
            self.lost(upstream)
            raise

    def lost(self, upstream: str) -> None:
        if self._shared:
            self._epochs.pop(upstream, None)
            for group in self._groups.pop(upstream, {}).values():
                for seq in group.claimed:
                    del self._claimed[seq]

    async def look_again(self) -> None:
        """Find out anew what is due of the upstreams that this process leads. Raises StoreError."""
        for upstream in list(self._epochs):
            await self._look_at(upstream)
            self._events[upstream].set()

    async def _look_at(self, upstream: str) -> None:
        watchers = ""
        while (found := await self._after(upstream, watchers)) and found[0][0] == upstream:
            _, watchers = self._note_all(found)

    async def _after(self, upstream: str, watchers: str) -> list[tuple[str, str, int]]:
        """Return the next groups, and when the first task of each is due, claimed or not; none after the last one."""
        return await self._engine.read(self._sql.SELECT_NEXT_WATCHERS, (upstream, watchers))

    def _note_all(self, found: Sequence[tuple[str, str, int]]) -> tuple[str, str]:
        """Hear of these groups, and return the last one."""
        for group in found:
            self.note(*group)
        return found[-1][:2]

    def leads(self, upstream: str) -> bool:
        """Whether this process leads an upstream's polls."""
        return not self._shared or upstream in self._epochs

    def lead(self, upstream: str) -> Lead | None:
        """Return under what a task of this upstream may be written; None: another process may lead its polls."""
        if not self._shared:
            return _ALWAYS
        epoch = self._epochs.get(upstream)
        return None if epoch is None else (upstream, epoch)

    def led(self, items: Sequence[tuple[Lead, object]], lock: Sequence[int] = ()) -> Work[list[bool]]:
        """Return of each item whether its lead goes on until the transaction ends; ``lock`` these tasks, too."""
        held = yield from self._engine.guard({lead for lead, _ in items}, lock)
        return [lead in held for lead, _ in items]

    def note(self, upstream: str, watchers: str, due_at: int) -> None:
        """Hear that a task falls due then, or later than that."""
        if self.leads(upstream):
            self._groups[upstream][watchers].note(due_at)

    def tell(self, upstream: str, watchers: str, due_at: int) -> None:
        """As ``note``, of what this process has changed: whoever leads is told."""
        self.note(upstream, watchers, due_at)
        self._engine.hints.tasks(upstream, watchers, due_at)

    def moved(self, seq: int, upstream: str, watchers: str, due_at: int) -> None:
        """As ``tell``, of a task that others watch from now on."""
        self.tell(upstream, watchers, due_at)
        if seq in self._claimed:
            self._end(seq)
            self._begin(seq, self._groups[upstream][watchers])

    def forget_times(self) -> None:
        """Know nothing of when tasks are due: whatever is may be so earlier now."""
        for upstream, groups in self._groups.items():
            for group in groups.values():
                group.note(0)
            self._events[upstream].set()

    async def waiting(self, upstream: str, now: int) -> tuple[list[DueGroup], int | None]:
        self._engine.require()
        groups = self._groups[upstream]  # none where another process leads
        due: list[DueGroup] = []
        next_due_at = None
        for watchers, group in list(groups.items()):
            due_at = group.due_at
            if due_at is None:
                if not group.claimed:
                    del groups[watchers]
            elif due_at <= now:
                due.append(DueGroup(watchers, due_at, len(group.claimed)))
            else:
                next_due_at = _earlier(next_due_at, due_at)
        return due, next_due_at

    async def longest_due(self, upstream: str, watchers: str, now: int, limit: int) -> tuple[list[DueTask], int | None]:
        async with self._looking[upstream]:
            self._engine.require()
            if not self.leads(upstream):
                return [], None
            group = self._groups[upstream][watchers]
            since = group.due_at or 0
            group.noted = None  # what is given back during the query must not be overwritten
            about = upstream, watchers, since, self._engine.array(list(group.claimed)), limit + 1
            due: list[DueTask] = []
            next_due_at = None
            with self._ends_meanwhile() as ended:
                found = await self._engine.read(self._sql.SELECT_DUE_TASKS, about)
            for place, row in enumerate(found):
                task = convert(row, DueTask)
                if task.due_at > now or place == limit:
                    next_due_at = task.due_at
                    break
                if task.seq in ended:
                    continue
                if self._end(task.seq) is None:
                    due.append(task)
                else:
                    # It was claimed when others watched it, and is this group's from now on.
                    self._begin(task.seq, group)
            group.read(due, next_due_at)
            return due, next_due_at

    async def never_polled(self, upstream: str, since: int, now: int) -> list[DueTask]:
        self._engine.require()
        if not self.leads(upstream):
            return []
        about = upstream, since, now, self._engine.array(list(self._claimed))
        with self._ends_meanwhile() as ended:
            found = await self._engine.read(self._sql.SELECT_NEW_TASKS, about)
        return [task for task in convert(found, list[DueTask]) if task.seq not in ended]

    async def claim(self, tasks: Sequence[DueTask]) -> list[DueTask]:
        self._engine.require()
        free = [task for task in tasks if task.seq not in self._claimed and self.leads(task.upstream)]
        for task in free:
            self._begin(task.seq, self._groups[task.upstream][task.watchers])
        return free

    async def release(self, claims: Sequence[DueTask]) -> None:
        for claim in claims:
            group = self._end(claim.seq)
            if group is not None:
                group.note(claim.due_at)
            self._events[claim.upstream].set()

    @contextmanager
    def _ends_meanwhile(self) -> Iterator[set[int]]:
        """Lend the tasks whose claims end meanwhile: what is read of them may be older than what they noted then."""
        ended: set[int] = set()
        self._looks[id(ended)] = ended
        try:
            yield ended
        finally:
            del self._looks[id(ended)]

    def _begin(self, seq: int, group: "_WatchedTasks") -> None:
        self._claimed[seq] = group
        group.begin(seq)

    def _end(self, seq: int) -> "_WatchedTasks | None":
        group = self._claimed.pop(seq, None)
        if group is not None:
            group.claimed.discard(seq)
            for ended in self._looks.values():
                ended.add(seq)
        return group


class _WatchedTasks:
    """What the same clients watch of one upstream."""

    __slots__ = ("_ahead", "_others_at", "claimed", "noted")

    def __init__(self) -> None:
        self.claimed: set[int] = set()
        self.noted: int | None = None
        """The earliest that was noted since this was cleared."""
        self._ahead: dict[int, int] = {}  # those that were read last and are unclaimed: when each is due
        self._others_at: int | None = None  # when the first unclaimed one of all others is, or earlier

    @property
    def due_at(self) -> int | None:
        """When its first unclaimed task is due, or earlier than that; None where it has none."""
        if not self._ahead:
            return self._others_at
        return _earlier(self._others_at, next(iter(self._ahead.values())))

    def note(self, due_at: int) -> None:
        """Hear that one of its tasks is due then, or later than that."""
        self.noted = _earlier(self.noted, due_at)
        self._others_at = _earlier(self._others_at, due_at)

    def read(self, due: Iterable[DueTask], next_due_at: int | None) -> None:
        """Know its longest due ones, and when the one after them is due."""
        self._ahead = {task.seq: task.due_at for task in due}
        self._others_at = self.noted if next_due_at is None else _earlier(self.noted, next_due_at)

    def begin(self, seq: int) -> None:
        """Hear that one of its tasks is claimed."""
        self.claimed.add(seq)
        self._ahead.pop(seq, None)


def _earlier(known: int | None, at: int) -> int:
    return at if known is None or at < known else known
