"""What ``/metrics`` shows: the gauges of what waits, and the text, made once for all who ask at the same time.

Owns how often each is made, as nobody needs a token to ask: counting a million rows takes a while, and to write out
every metric takes milliseconds. Called by ``operations``.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Iterator

from gateway.core.claims import Lane
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.model import Backlog
from gateway.core.telemetry import Metrics
from gateway.store import Registry

_PAUSE = 20
"""For so many times as long as the last count or text took, there is no other: who asks for a text waits for it."""
_MAX_PAUSE_S = 1.0
"""… before a text."""
_TURN_S = 0.001
"""So long families are written before others have their turn: all of them take ten milliseconds and more."""
_MOST_WAITING = 64
"""Requests that wait for the next text, each with its connection; one more gets the last text, a second old or two."""
_PATIENCE_S = 1.0
"""Who asks while it is counted for longer than this gets the figures of before."""


class BacklogMetrics:
    """The gauges that are counted in the store."""

    def __init__(
        self, registry: Registry, clock: Clock, metrics: Metrics, paused: Callable[[], Awaitable[Collection[Lane]]]
    ) -> None:
        """``paused``: the lanes of which nothing is late. Raises StoreError where nobody knows them yet."""
        self._registry = registry
        self._paused = paused
        self._clock = clock
        self._metrics = metrics
        self._counting: asyncio.Task[None] | None = None
        self._not_before = -math.inf
        self._last: Backlog | None = None
        self._upstreams: set[str] = set()

    async def refresh(self) -> Backlog | None:
        """Set them to what waits now, or waited a moment ago, and return that; within a second.

        Where the store fails they stay. None: nothing has been counted yet.
        """
        if self._counting is None and self._clock.monotonic() >= self._not_before:
            self._counting = asyncio.create_task(self._count(), name="backlog")
        if self._counting is not None:
            await asyncio.wait((self._counting,), timeout=_PATIENCE_S)
        if self._last is not None:
            self._set(self._last)
        return self._last

    async def _count(self) -> None:
        began = self._clock.monotonic()
        try:
            self._last = await self._registry.backlog(await self._paused())
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


class Scrapes:
    """Makes the text: ``refresh`` brings the metrics up to date, ``render`` writes them out, part by part."""

    def __init__(
        self, clock: Clock, refresh: Callable[[], Awaitable[object]], render: Callable[[], Iterator[bytes]]
    ) -> None:
        self._clock = clock
        self._refresh = refresh
        self._render = render
        self._next: asyncio.Task[bytes] | None = None
        self._making = asyncio.Lock()
        self._last = b""
        self._waiting = 0
        self._not_before = -math.inf

    async def text(self) -> bytes:
        """Return a text that was made after this call; with very many who ask, the one before."""
        if self._waiting >= _MOST_WAITING and self._last:
            return self._last
        if self._next is None:
            self._next = asyncio.create_task(self._make(), name="metrics")
        self._waiting += 1
        try:
            return await asyncio.shield(self._next)
        finally:
            self._waiting -= 1

    async def _make(self) -> bytes:
        async with self._making:
            try:
                pause_s = self._not_before - self._clock.monotonic()
                if pause_s > 0:
                    await asyncio.sleep(pause_s)
                await self._refresh()
            finally:
                self._next = None  # who asks from here on gets the next one
            self._last = text = await self._written()
            return text

    async def _written(self) -> bytes:
        spent_s, began = 0.0, self._clock.monotonic()
        parts: list[bytes] = []
        for part in self._render():
            parts.append(part)
            took_s = self._clock.monotonic() - began
            if took_s >= _TURN_S:
                spent_s += took_s
                await asyncio.sleep(0)
                began = self._clock.monotonic()
        ended = self._clock.monotonic()
        self._not_before = ended + min(_PAUSE * (spent_s + ended - began), _MAX_PAUSE_S)
        return b"".join(parts)
