"""What the poller and the deliverer share: the work that a loop has in flight, and when it comes round next."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from gateway.clock import Clock, wait_for_event

__all__ = ["Agenda", "InFlight"]

_log = structlog.get_logger()

_NEVER = 2**62


class Agenda:
    """When a loop comes round next: at the time it planned, or sooner where something falls due before that."""

    def __init__(self, wake: asyncio.Event, clock: Clock) -> None:
        self._wake = wake
        self._clock = clock
        self._planned_at = _NEVER

    async def wait(self, timeout_s: float) -> None:
        """Return after ``timeout_s`` seconds, or once ``wake`` is set."""
        self._planned_at = self._clock.now() + round(timeout_s * 1000)
        await wait_for_event(self._wake, timeout_s)
        # From here on the loop looks: what falls due meanwhile must bring it round once more.
        self._planned_at = _NEVER
        self._wake.clear()

    def due_at(self, at: int | None) -> None:
        """Say that something falls due at ``at``."""
        if at is not None and at < self._planned_at:
            self._wake.set()


class InFlight:
    """At most ``limit`` running coroutines; ``wake`` is set when one ends while there was no room for another."""

    def __init__(self, limit: int, wake: asyncio.Event) -> None:
        self._limit = limit
        self._wake = wake
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def free(self) -> int:
        """How many more may start."""
        return self._limit - len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def drain(self, timeout_s: float) -> None:
        """Wait ``timeout_s`` seconds for what runs, cancel what is left, and return when all of it has ended."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    def _ended(self, task: asyncio.Task[None]) -> None:
        was_full = self.free == 0
        self._tasks.discard(task)
        if was_full:
            self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Claims are given back by the work itself; this is a defect, and must be seen.
            _log.error("inflight.failed", task=task.get_name(), exc_info=error)
