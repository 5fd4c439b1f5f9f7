"""Retention: removes callbacks that ended long ago, and tasks that no callback is left for; looks after the store.

Owns when; the store owns how. Run by the supervisor.
"""

import asyncio

import structlog

from gateway.core.clock import Clock
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.store import Housekeeping

__all__ = ["Janitor"]

_log = structlog.get_logger()

_EVERY_S = 600.0
_BATCH = 500
_DAY_MS = 86_400_000
_DEAD_FACTOR = 3  # dead letters are kept three times as long: somebody may yet redeliver them


class Janitor:
    """The loop that deletes."""

    name = "janitor"

    def __init__(self, housekeeping: Housekeeping, clock: Clock, retention_days: float) -> None:
        self._housekeeping = housekeeping
        self._clock = clock
        self._retention_ms = round(retention_days * _DAY_MS)
        self._next = clock.monotonic()

    async def run_once(self) -> float:
        """Delete one batch, if it is time; return the seconds until the next one."""
        await self._housekeeping.look()
        if self._housekeeping.failing is not None:
            # Nobody else may write while the gateway is not ready: find out whether it works again.
            await self._housekeeping.probe()
            await self._housekeeping.load("probe")
        if self._clock.monotonic() < self._next:
            return HEARTBEAT_S
        now = self._clock.now()
        count = await self._housekeeping.prune(
            now - self._retention_ms, now - _DEAD_FACTOR * self._retention_ms, _BATCH
        )
        if count:
            _log.info("callbacks.pruned", count=count)
        if count < _BATCH:
            self._next = self._clock.monotonic() + _EVERY_S
        return 0.0 if count == _BATCH else HEARTBEAT_S

    async def wait(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def drain(self, timeout_s: float) -> None:
        """Nothing is in flight between two batches."""
