"""How much of what is large is in memory at once: answers, webhooks, requests and their answers, in one budget.

Owns the count, who waits for room, and the one thread in which what is large is read and made. What is small is not
counted: most is, and the number of connections and places bounds it. Called by whoever reads or makes what is large.

An asyncio task holds what it was given until it ends, however it does, and until the thread has done its work: nothing
is given back too early, or never. What it needs no longer it may give back before.
"""

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

T = TypeVar("T")

SMALL = 64 * 1024
"""Bytes up to which nothing is counted."""
_EIGHTHS = (8, 4, 3, 2)
"""Of the limit: what all have; a client or an upstream; a client's requests, its webhooks, or its tasks' answers of one
upstream; and a receiver."""
_TURN_S = 0.0005
_Group = tuple[str, ...]
"""An owner, or all whose names begin so; ``()``: everybody."""


class Memory:
    """``limit`` bytes.

    Clients and upstreams take turns; within an upstream the clients whose tasks are asked about, within a client its
    requests and its webhooks do, and within these its receivers. What then is of one owner comes in its order, but for
    those who hold a part of what they need: who has the most is first, so that it ends before the others go on. Whoever
    waits for much is not passed by those who want little, and a client with hundreds of tasks, receivers or requests
    holds up nobody.

    A client has at most half, its requests and its webhooks together, as has an upstream; its requests, its webhooks,
    or its tasks' answers three eighths; a receiver a quarter. Each may be slow, and the rest goes on: others beside a
    client, its requests beside its webhooks. Two that are slow may hold all of it between them: a third is among the
    next when they give something back.

    More than the limit is given where otherwise nobody would go on: to the first in the row, while everybody who
    holds anything waits for more. So what is larger than the limit passes alone, and nobody waits for ever. And more
    than its part is given to each of these where else none of its own would go on.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._holders: dict[asyncio.Task[Any] | None, _Holder] = {}
        self._held: Counter[_Group] = Counter()
        self._busy: Counter[_Group] = Counter()  # of that, what those hold who do not wait
        self._waiting: dict[_Group, dict[_Group | _Holder, None]] = {}  # of each group, in the order of their turns
        self._thread: ThreadPoolExecutor | None = None

    @property
    def used(self) -> float:
        """Which part of the limit is held, 1 being all of it; more where something larger passes alone."""
        return self._held[()] / self.limit

    async def hold(self, size: int, *owner: str) -> None:
        """Wait for room for so many bytes, those that the calling task holds already included; it has one owner.

        ``owner``: from the outside in, as ``client ann``, ``webhooks``, the receiver.
        """
        if (holder := self._wanting(size, owner)) is not None:
            try:
                await holder.room
            finally:
                self._want_no_more(holder)

    def hold_now(self, size: int, *owner: str) -> bool:
        """As ``hold``, where that would wait for nobody; False: it would, or the calling task holds something already.

        While it asked for more, that would count as held by somebody who waits, and others get more than there is.
        """
        holder = self._holders.get(asyncio.current_task())
        if holder is not None and holder.held:
            return size <= holder.held
        holder = self._wanting(size, owner)
        if holder is None:
            return True
        self._want_no_more(holder)
        return holder.room.done()

    def waits(self, *owner: str) -> bool:
        """Whether somebody of this owner's waits for room."""
        return owner in self._waiting

    def keep(self, size: int) -> None:
        """Give back what the calling task holds beyond so many bytes."""
        holder = self._holders.get(asyncio.current_task())
        if holder is not None and size < holder.held:
            self._goes_on(holder, size - holder.held)
            self._count(holder, size - holder.held)
            self._give()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Say that the calling task goes on only after another one, which may want room itself."""
        holder = self._holders.get(asyncio.current_task())
        if holder is None:
            yield
            return
        self._goes_on(holder, -holder.held)
        self._give()
        try:
            yield
        finally:
            self._goes_on(holder, holder.held)

    async def work(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function on something large where it holds up nobody; one at a time, each for its whole cost."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="large")
        work = self._thread.submit(_beside, function, *args)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if (holder := self._holders.get(asyncio.current_task())) is not None:
                holder.left = work
            raise

    def close(self) -> None:
        """End the thread once its work is done."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _wanting(self, size: int, owner: _Group) -> "_Holder | None":
        """Have the calling task want room, which it may have been given by now; None: it has that much already."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs this
        holder = self._holders.get(task)
        if holder is None:
            holder = self._holders[task] = _Holder(owner)
            task.add_done_callback(self._ended)
        if size <= holder.held:
            return None
        holder.more = size - holder.held
        holder.room = asyncio.get_running_loop().create_future()
        self._wait(holder)
        self._give()
        return holder

    def _want_no_more(self, holder: "_Holder") -> None:
        """Have it wait no longer, where it does."""
        if holder in self._waiting.get(holder.owner, ()):
            self._wait_no_more(holder)
            self._goes_on(holder, holder.held)
            self._give()

    def _wait(self, holder: "_Holder") -> None:
        for group, member in holder.places:
            self._waiting.setdefault(group, {}).setdefault(member)
        if holder.held:
            # Else room beyond a part would go from one to the next, until each of them held nearly all that it needs.
            self._waiting[holder.owner] = dict.fromkeys(sorted(self._waiting[holder.owner], key=_most_first))
        self._goes_on(holder, -holder.held)

    def _wait_no_more(self, holder: "_Holder") -> None:
        for group, member in reversed(holder.places):
            del self._waiting[group][member]
            if self._waiting[group]:
                return
            del self._waiting[group]

    def _give(self) -> None:
        while (holder := self._next(())) is not None:
            self._wait_no_more(holder)
            for group, member in holder.places:
                members = self._waiting.get(group, {})
                if member in members:  # the rest of it comes after all that wait by now
                    members[member] = members.pop(member)
            self._count(holder, holder.more)
            self._goes_on(holder, holder.held)
            if not holder.room.done():
                holder.room.set_result(None)

    def _next(self, group: _Group) -> "_Holder | None":
        """Return who of a group is given its room now."""
        for member in self._waiting.get(group, ()):
            holder = member if isinstance(member, _Holder) else self._next(member)
            if holder is not None:  # None: only its own part is short, for which those behind it need not wait
                return holder if self._has_room(group, holder.more) else None
        return None

    def _has_room(self, group: _Group, more: int) -> bool:
        if not self._busy[group]:
            return True  # else none of its own goes on
        return self._held[group] + more <= self.limit * _EIGHTHS[len(group)] // 8

    def _ended(self, task: asyncio.Task[Any]) -> None:
        holder = self._holders.pop(task)
        if holder.left is None or holder.left.done():
            self._give_back(holder)
        else:
            left = asyncio.wrap_future(holder.left, loop=task.get_loop())
            left.add_done_callback(partial(self._worked, holder))

    def _worked(self, holder: "_Holder", left: "asyncio.Future[Any]") -> None:
        if not left.cancelled():
            left.exception()  # nobody else would take it
        self._give_back(holder)

    def _give_back(self, holder: "_Holder") -> None:
        self._goes_on(holder, -holder.held)
        self._count(holder, -holder.held)
        self._give()

    def _goes_on(self, holder: "_Holder", size: int) -> None:
        """Count so much of what a holder has as held by somebody who waits for nothing."""
        _add(self._busy, holder, size)

    def _count(self, holder: "_Holder", more: int) -> None:
        holder.held += more
        _add(self._held, holder, more)


class _Holder:
    """What one asyncio task holds, and what more it waits for."""

    room: "asyncio.Future[None]"

    def __init__(self, owner: _Group) -> None:
        self.owner = owner
        self.groups = [owner[:depth] for depth in range(len(owner) + 1)]  # the largest first
        self.held = 0
        self.more = 0
        self.left: Future[Any] | None = None
        """What it was cancelled in, which the thread goes on with all the same."""

    @property
    def places(self) -> "list[tuple[_Group, _Group | _Holder]]":
        """Where it waits: in each group the next smaller one does for it, in the smallest itself."""
        return [*pairwise(self.groups), (self.owner, self)]


def _most_first(member: "_Group | _Holder") -> int:
    return -member.held if isinstance(member, _Holder) else 0


def _add(counts: Counter[_Group], holder: _Holder, size: int) -> None:
    for group in holder.groups:
        counts[group] += size
        if not counts[group]:
            del counts[group]


def _beside(function: Callable[..., T], *args: Any) -> T:
    """Run a function in a thread beside the event loop's, which it holds up as little as can be.

    Without the garbage collector, which would look through all that there is for what this makes. And the loop has its
    turn within half a millisecond: else it waits for longer each time that it has had nothing to do.
    """
    usual_s = sys.getswitchinterval()  # one at a time runs beside
    sys.setswitchinterval(min(_TURN_S, usual_s))
    gc.disable()
    try:
        return function(*args)
    finally:
        gc.enable()
        sys.setswitchinterval(usual_s)
