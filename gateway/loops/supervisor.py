"""Starts the loops, restarts those that fail, and drains them at the end.

Owns the loops' lives and their heartbeats, the gateway's health; knows nothing of what they do. Built by ``app``.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.telemetry import Metrics
from gateway.loops.clocksteps import ClockSteps

_log = structlog.get_logger()

HEARTBEAT_S = 10.0
"""A loop with nothing to do comes round at least this often, in seconds."""

_STALE_AFTER_S = 3 * HEARTBEAT_S
_MAX_BACKOFF_S = 30.0
_MAX_STORE_BACKOFF_S = 5.0


class Loop(Protocol):
    """What the supervisor needs of a loop."""

    name: str

    async def run_once(self) -> float:
        """Do what is due; return in how many seconds to come round again at the latest."""

    async def wait(self, timeout_s: float) -> None:
        """Return after ``timeout_s`` seconds, or as soon as something may be due."""

    async def drain(self, timeout_s: float) -> None:
        """Finish what is in flight within ``timeout_s`` seconds, then stop the rest."""


class Supervisor:
    """Runs each loop in a task of its own."""

    def __init__(self, loops: Sequence[Loop], clock: Clock, metrics: Metrics, rounds: ClockSteps | None = None) -> None:
        self._loops = tuple(loops)
        self._rounds = rounds
        self._clock = clock
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._beats: dict[str, float] = {}
        self._failing: set[str] = set()

    def start(self) -> None:
        for loop in self._loops:
            self._beats[loop.name] = self._clock.monotonic()
            self._metrics.loop_restarts.labels(loop.name)  # stands at 0 from the start
            self._tasks.append(asyncio.create_task(self._run(loop), name=f"loop-{loop.name}"))

    def problem(self) -> str | None:
        """Return which loop makes no progress; None while all do. Public: why stands in the log."""
        now = self._clock.monotonic()
        for loop in self._loops:
            if loop.name in self._failing:
                return f"the {loop.name} keeps failing"
            if loop.name in self._beats and now - self._beats[loop.name] > _STALE_AFTER_S:
                return f"the {loop.name} has made no progress for {now - self._beats[loop.name]:.0f} s"
        return None

    async def drain(self, timeout_s: float) -> None:
        """Stop claiming at once; give what is in flight ``timeout_s`` seconds."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        drained = await asyncio.gather(*(loop.drain(timeout_s) for loop in self._loops), return_exceptions=True)
        for loop, error in zip(self._loops, drained, strict=True):
            if isinstance(error, BaseException):
                _log.error("loop.drain_failed", loop=loop.name, exc_info=error)

    async def _round(self, loop: Loop) -> float:
        if self._rounds is None:
            return await loop.run_once()
        await self._rounds.begin_round()
        try:
            return await loop.run_once()
        finally:
            self._rounds.end_round()

    async def _run(self, loop: Loop) -> None:
        backoff_s = 0.5
        while True:
            self._beats[loop.name] = self._clock.monotonic()
            try:
                wait_s = await self._round(loop)
                self._failing.discard(loop.name)
                backoff_s = 0.5
                await loop.wait(min(wait_s, HEARTBEAT_S))
            except StoreError as exc:
                # The store's trouble, which it reports itself; a restart of the process would not mend it.
                _log.warning("loop.store_failed", loop=loop.name, error=exc.message, again_in_s=backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, _MAX_STORE_BACKOFF_S)
            except Exception:  # noqa: BLE001 - a loop's top: whatever fails, the loop comes round again
                self._failing.add(loop.name)
                self._metrics.loop_restarts.labels(loop.name).inc()
                _log.exception("loop.failed", loop=loop.name, restart_in_s=backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
