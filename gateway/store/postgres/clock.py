"""The database's clock, which all replicas go by: a ``SteeredClock`` is told of it now and then.

Owns how it is read and how often. What replicas compare with one another, leases and claims, is compared in SQL and
never by this. Called by the store, which measures once before anything is due, and keeps ``run`` running.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from gateway.core.clock import STEP_MS, SteeredClock, wait_for_event
from gateway.core.errors import StoreError

_log = structlog.get_logger()

_NOW = "SELECT gateway_now()"
_SAMPLES = 5
"""Readings of which the quickest counts: what the others took longer, they waited somewhere."""
_EVERY_S = 30.0
_AGAIN_S = 1.0
_ROUNDED_MS = 1.0  # the database tells whole milliseconds


class DatabaseClock:
    """Keeps one clock in step with the database's."""

    def __init__(
        self, read: Callable[[str], Awaitable[list[Any]]], clock: SteeredClock, met_another: asyncio.Event
    ) -> None:
        """``met_another`` is set when the database may be another server's, whose clock is another one."""
        self._read = read
        self._clock = clock
        self._met_another = met_another

    async def measure(self, *, first: bool = False) -> None:
        """Read the database's clock, and steer by it. Raises StoreError."""
        readings = []
        for _ in range(_SAMPLES):
            before = self._clock.monotonic()
            ((now,),) = await self._read(_NOW)
            after = self._clock.monotonic()
            readings.append((after - before, now, (before + after) / 2))
        took_s, now, at = min(readings)
        late_ms = now - self._clock.steered_to(at)
        if first or abs(late_ms) > took_s * 500 + _ROUNDED_MS:  # else it may be right as it is
            late_ms = self._clock.steer(now, at, at_once=first)
        if abs(late_ms) > STEP_MS:
            _log.warning("clock.differs", by_s=round(late_ms / 1000, 1))

    async def run(self) -> None:
        """Measure every half minute, and whenever another server may have been met."""
        wait_s = _EVERY_S
        while True:
            await wait_for_event(self._met_another, wait_s)
            self._met_another.clear()
            try:
                await self.measure()
                wait_s = _EVERY_S
            except StoreError:  # the store tells of itself
                wait_s = _AGAIN_S
