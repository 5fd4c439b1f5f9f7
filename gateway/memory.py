"""How much of what is large is in memory at once: answers, webhooks, requests and their answers, in one budget.

Owns the count, who waits for room, and the one thread in which what is large is read and made; knows nothing of what it
counts. What is small is not counted: it is bounded by the number of its connections and places, and is most there is.
Used by the upstream client, the deliverer and the API.

An asyncio task holds what it was given until it ends, however that comes: nothing is given back too early, or never.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["SMALL", "Memory"]

T = TypeVar("T")

SMALL = 64 * 1024
"""Bytes up to which nothing is counted."""


class Memory:
    """``limit`` bytes.

    Owners (a client, a receiver, an upstream) take turns, and one owner's come in their order: whoever waits for much
    is not passed by those who want little, and one with hundreds that wait holds up nobody. One owner has at most half
    while others wait: it may be slow, and the rest goes on. A single one of its own that takes more than half has it
    all the same, once nothing else of the owner's is under way.

    More than the limit is given where otherwise nobody would go on: to the first in the row, while everybody who
    holds anything waits for more. So what is larger than the limit passes alone, and nobody waits for ever.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._total = 0
        self._idle = 0  # of the total, what those hold who wait
        self._shares: dict[asyncio.Task[Any], _Share] = {}
        self._owned: Counter[str] = Counter()
        self._idle_of: Counter[str] = Counter()  # of what an owner has, the same
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
                self._give()

    async def work(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function on something large where it holds up nobody; one at a time, each for its whole cost."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="large")
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def close(self) -> None:
        """End the thread once its work is done."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _wait(self, share: "_Share") -> None:
        queue = self._waiting.setdefault(share.owner, deque())
        # One turn after its owner's last; a newcomer's is the next, behind those of others who came before it.
        share.turn = (queue[-1].turn if queue else self._turn) + 1
        queue.append(share)
        self._count_idle(share, share.held)

    def _wait_no_more(self, share: "_Share") -> None:
        queue = self._waiting[share.owner]
        queue.remove(share)
        if not queue:
            del self._waiting[share.owner]
        self._count_idle(share, -share.held)

    def _give(self) -> None:
        while (share := self._next()) is not None:
            self._wait_no_more(share)
            self._turn = max(self._turn, share.turn)
            self._count(share, share.more)
            if not share.room.done():
                share.room.set_result(None)

    def _next(self) -> "_Share | None":
        """Return who is given its room now."""
        # Of each owner the first; of equal turns that of the owner who has waited for longer.
        for share in sorted((queue[0] for queue in self._waiting.values()), key=_turn_of):
            if self._total <= self._idle:
                return share  # else nobody goes on
            owned = self._owned[share.owner]
            if owned > self._idle_of[share.owner] and owned + share.more > self.limit // 2:
                continue  # until what it has under way has ended
            return share if self._total + share.more <= self.limit else None
        return None

    def _ended(self, task: asyncio.Task[Any]) -> None:
        share = self._shares.pop(task)
        self._count(share, -share.held)
        self._give()

    def _count(self, share: "_Share", more: int) -> None:
        share.held += more
        self._total += more
        self._owned[share.owner] += more
        if not self._owned[share.owner]:
            del self._owned[share.owner]

    def _count_idle(self, share: "_Share", more: int) -> None:
        self._idle += more
        self._idle_of[share.owner] += more
        if not self._idle_of[share.owner]:
            del self._idle_of[share.owner]


class _Share:
    """What one asyncio task holds, and what more it waits for."""

    room: "asyncio.Future[None]"

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.held = 0
        self.more = 0
        self.turn = 0


def _turn_of(share: _Share) -> int:
    return share.turn
