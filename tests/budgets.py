"""Budgets of a key in virtual time, what they save, and requests in their places, as tests send them."""

import asyncio
from collections.abc import Sequence

from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.ratelimit import RateWindow
from gateway.upstream.budget import Budget
from gateway.upstream.turns import Waiter
from tests.virtualtime import VirtualClock

__all__ = ["FREE", "Disk", "answered", "budget", "poll_now"]


FREE = (RateWindow(2, 1.0), RateWindow(60, 60.0))


class Disk:
    """What is saved; slow and failing on demand."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.writes = self.loads = 0
        self.delay_s = 0.0
        self.broken = False

    async def load(self) -> bytes | None:
        self.loads += 1
        return self.value

    async def swap(self, old: bytes | None, new: bytes) -> bool:
        self.writes += 1
        await asyncio.sleep(self.delay_s / 2)
        if self.broken:
            raise StoreError("full")
        swapped = self.value == old
        self.value = new if swapped else self.value
        await asyncio.sleep(self.delay_s / 2)
        return swapped


def budget(windows: Sequence[RateWindow] = FREE, disk: Disk | None = None, clock: Clock | None = None) -> Budget:
    disk = disk or Disk()
    return Budget(windows, clock or VirtualClock(), disk.load, disk.swap)


def answered(of: Budget, waiter: Waiter | None = None) -> None:
    """Send a request in a place that was taken, and have it answered at once."""
    with of.sending(waiter):
        pass


async def poll_now(of: Budget, count: int = 1) -> None:
    """Take places as the poller does, and answer at once."""
    assert of.available_for_polls() >= count
    of.take(count)
    await of.reserve(count)
    of.polls_sent(count)
    for _ in range(count):
        answered(of)
