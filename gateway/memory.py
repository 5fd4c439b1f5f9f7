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

    First come, first served: whoever waits for much is not passed by those who want little. One owner (a client, a
    receiver, an upstream) has at most half while others wait: it may be slow, and the rest goes on.

    More than the limit is given where otherwise nobody would go on: to the first in the row, while everybody who
    holds anything waits for more. So what is larger than the limit passes alone, and nobody waits for ever.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._total = 0
        self._idle = 0  # of the total, what those hold who wait
        self._shares: dict[asyncio.Task[Any], _Share] = {}
        self._owned: Counter[str] = Counter()
        self._waiting: deque[_Share] = deque()
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
        self._waiting.append(share)
        self._idle += share.held
        try:
            self._give()
            await share.room
        finally:
            if share in self._waiting:  # it was cancelled
                self._waiting.remove(share)
                self._idle -= share.held
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

    def _give(self) -> None:
        for share in list(self._waiting):
            if self._total > self._idle:  # else nobody goes on
                if self._total + share.more > self.limit:
                    return
                owned = self._owned[share.owner]
                if owned and owned + share.more > self.limit // 2:
                    continue
            self._waiting.remove(share)
            self._idle -= share.held
            self._count(share, share.more)
            if not share.room.done():
                share.room.set_result(None)

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


class _Share:
    """What one asyncio task holds, and what more it waits for."""

    room: "asyncio.Future[None]"

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.held = 0
        self.more = 0
