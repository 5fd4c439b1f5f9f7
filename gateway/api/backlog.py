"""Keeps the metrics of what waits up to date, whoever may ask for them and however often.

Owns how often it is counted: ``/metrics`` needs no token, and counting a million rows takes a while. Called by
``operations``.
"""

import asyncio
import math

from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.model import Backlog
from gateway.core.telemetry import Metrics
from gateway.store import Registry

__all__ = ["BacklogMetrics"]

_PAUSE = 20
"""After counting, for so many times as long as that took nobody counts again."""
_PATIENCE_S = 1.0
"""Who asks while it is counted for longer than this gets the figures of before."""


class BacklogMetrics:
    """The gauges that are counted in the store."""

    def __init__(self, registry: Registry, clock: Clock, metrics: Metrics) -> None:
        self._registry = registry
        self._clock = clock
        self._metrics = metrics
        self._counting: asyncio.Task[None] | None = None
        self._not_before = -math.inf
        self._last: Backlog | None = None
        self._upstreams: set[str] = set()

    async def refresh(self) -> None:
        """Set them to what waits now, or waited a moment ago; within a second. Where the store fails they stay."""
        if self._counting is None and self._clock.monotonic() >= self._not_before:
            self._counting = asyncio.create_task(self._count(), name="backlog")
        if self._counting is not None:
            await asyncio.wait((self._counting,), timeout=_PATIENCE_S)
        if self._last is not None:
            self._set(self._last)

    async def _count(self) -> None:
        began = self._clock.monotonic()
        try:
            self._last = await self._registry.backlog()
        except StoreError:
            pass  # gateway_ready tells of it
        finally:
            ended = self._clock.monotonic()
            self._not_before = ended + _PAUSE * (ended - began)
            self._counting = None

    def _set(self, backlog: Backlog) -> None:
        now = self._clock.now()

        def late_s(since: int | None) -> float:
            return 0.0 if since is None else max(0, now - since) / 1000

        self._metrics.pending.set(backlog.pending)
        self._metrics.oldest_due_seconds.set(late_s(backlog.oldest_due_at))
        self._metrics.dead.set(backlog.dead)
        self._upstreams.update(backlog.waiting)
        for upstream in self._upstreams:
            count, next_poll_at = backlog.waiting.get(upstream, (0, None))
            self._metrics.waiting.labels(upstream).set(count)
            self._metrics.poll_overdue_seconds.labels(upstream).set(late_s(next_poll_at))
