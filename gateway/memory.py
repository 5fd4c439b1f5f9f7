"""How much of what is large is in memory at once: answers, webhooks, requests and their answers, in one budget.

Owns the count, who waits for room, and the one thread in which what is large is read and made; knows nothing of what it
counts. What is small is not counted: it is bounded by the number of its connections and places, and is most there is.
Used by the upstream client, the deliverer and the API.

An asyncio task holds what it was given until it ends, however that comes, and until the thread has done what it wanted
done: nothing is given back too early, or never.
"""

import asyncio
import gc
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

__all__ = ["SMALL", "Memory"]

T = TypeVar("T")

SMALL = 64 * 1024
"""Bytes up to which nothing is counted."""


class Memory:
    """``limit`` bytes.

    Owners (a client, a receiver, an upstream) take turns, and one owner's come in their order: whoever waits for much
    is not passed by those who want little, and one with hundreds that wait holds up nobody. One owner has at most half
    while others wait: it may be slow, and the rest goes on.

    More than the limit is given where otherwise nobody would go on: to the first in the row, while everybody who
    holds anything waits for more. So what is larger than the limit passes alone, and nobody waits for ever. And more
    than half is given to an owner where else none of its own would go on.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._total = 0
        self._busy: Counter[str | None] = Counter()  # of an owner's, and of the total, what those hold who do not wait
        self._shares: dict[asyncio.Task[Any], _Share] = {}
        self._owned: Counter[str] = Counter()
        self._waiting: dict[str, deque[_Share]] = {}  # of each owner who waits
        self._turn = 0  # of the last that was given anything
        self._thread: ThreadPoolExecutor | None = None

    async def hold(self, size: int, owner: str) -> None:
        """Wait for room for so many bytes, those that the calling task holds already included; it has one owner."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it runs this
        share = self._shares.get(task)
        if share is None:
            share = self._shares[task] = _Share(owner)
            task.add_done_callback(self._ended)
        if size <= share.held:
            return
        share.more = size - share.held
        share.room = asyncio.get_running_loop().create_future()
        self._wait(share)
        try:
            self._give()
            await share.room
        finally:
            if share in self._waiting.get(share.owner, ()):  # it was cancelled
                self._wait_no_more(share)
                self._goes_on(share, share.held)
                self._give()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Say that the calling task goes on only after another one, which may want room itself."""
        task = asyncio.current_task()
        share = None if task is None else self._shares.get(task)
        if share is None:
            yield
            return
        self._goes_on(share, -share.held)
        self._give()
        try:
            yield
        finally:
            self._goes_on(share, share.held)

    async def work(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function on something large where it holds up nobody; one at a time, each for its whole cost."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="large")
        work = self._thread.submit(_uncollected, function, *args)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and (share := self._shares.get(task)) is not None:
                share.left = work
            raise

    def close(self) -> None:
        """End the thread once its work is done."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _wait(self, share: "_Share") -> None:
        queue = self._waiting.setdefault(share.owner, deque())
        # One turn after its owner's last; a newcomer's is the next, behind those of others who came before it.
        share.turn = (queue[-1].turn if queue else self._turn) + 1
        queue.append(share)
        self._goes_on(share, -share.held)

    def _wait_no_more(self, share: "_Share") -> None:
        queue = self._waiting[share.owner]
        queue.remove(share)
        if not queue:
            del self._waiting[share.owner]

    def _give(self) -> None:
        while (share := self._next()) is not None:
            self._wait_no_more(share)
            self._turn = max(self._turn, share.turn)
            self._count(share, share.more)
            self._goes_on(share, share.held)
            if not share.room.done():
                share.room.set_result(None)

    def _next(self) -> "_Share | None":
        """Return who is given its room now."""
        # Of each owner the first; of equal turns that of the owner who has waited for longer.
        for share in sorted((queue[0] for queue in self._waiting.values()), key=_turn_of):
            if not self._busy[None]:
                return share  # else nobody goes on
            # First, as nobody behind it is to wait for what is short for its owner alone.
            if self._busy[share.owner] and self._owned[share.owner] + share.more > self.limit // 2:
                continue
            return share if self._total + share.more <= self.limit else None
        return None

    def _ended(self, task: asyncio.Task[Any]) -> None:
        share = self._shares.pop(task)
        if share.left is None or share.left.done():
            self._give_back(share)
        else:
            left = asyncio.wrap_future(share.left, loop=task.get_loop())
            left.add_done_callback(partial(self._worked, share))

    def _worked(self, share: "_Share", left: "asyncio.Future[Any]") -> None:
        if not left.cancelled():
            left.exception()  # nobody else would take it
        self._give_back(share)

    def _give_back(self, share: "_Share") -> None:
        self._goes_on(share, -share.held)
        self._count(share, -share.held)
        self._give()

    def _goes_on(self, share: "_Share", size: int) -> None:
        """Count so much of a share as held by somebody who waits for nothing."""
        for whose in (None, share.owner):
            self._busy[whose] += size
            if not self._busy[whose]:
                del self._busy[whose]

    def _count(self, share: "_Share", more: int) -> None:
        share.held += more
        self._total += more
        self._owned[share.owner] += more
        if not self._owned[share.owner]:
            del self._owned[share.owner]


class _Share:
    """What one asyncio task holds, and what more it waits for."""

    room: "asyncio.Future[None]"

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.held = 0
        self.more = 0
        self.turn = 0
        self.left: Future[Any] | None = None
        """What it was cancelled in, which the thread goes on with all the same."""


def _uncollected(function: Callable[..., T], *args: Any) -> T:
    """Run a function without the garbage collector, which would look through all that there is for what this makes."""
    gc.disable()
    try:
        return function(*args)
    finally:
        gc.enable()


def _turn_of(share: _Share) -> int:
    return share.turn
