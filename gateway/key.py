"""One key of one upstream: how much it may still ask, and whether the upstream accepts it.

Owns the key's fate. The poller and the proxy spend from the same budgets; every answer is judged here, so that what
one of them learns (a 429, a refusal) holds for both. Sends nothing itself.

A restart must not forget what was spent: before requests are sent a small number of them is reserved durably, and
after a start every reserved request counts as sent. So a window is not exceeded even by a gateway that is killed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from gateway.clock import Clock, wait_for_event
from gateway.config import RateWindow
from gateway.outcome import PollKind, PollResult
from gateway.ratelimit import RateLimiter

__all__ = ["Budget", "Key"]

_log = structlog.get_logger()

_CHUNKS = 20  # reservations per longest window at most: so many more writes, and at most 1/20 of it lost to a crash
_POLLS_PER_READ = 3  # while clients' reads wait for their turn, every fourth request is one of them
_PROBE_S = (30.0, 60.0, 120.0, 300.0)
"""Pauses between probes of a refused key, in seconds."""
_THROTTLED_S = 5.0
"""The pause after a 429 that does not say how long."""

Load = Callable[[], Awaitable[bytes | None]]
Save = Callable[[bytes], Awaitable[None]]


class Budget:
    """The requests of one kind that a key may make; ``save`` keeps what must outlive the process, ``load`` has it."""

    def __init__(self, windows: Sequence[RateWindow], clock: Clock, load: Load, save: Save) -> None:
        self._load = load
        self._limiter = RateLimiter(windows)
        self._clock = clock
        self._save = save
        self._longest_ms = round(max((window.window_s for window in windows), default=0.0) * 1000)
        self._chunk = max(1, min((window.limit for window in windows), default=1) // _CHUNKS)
        self._limited = bool(windows)
        self._reserved: list[tuple[int, int]] = []  # when (ms), and for how many requests
        self._left = 0
        self._reads_waiting = 0
        self._polls_since_read = 0
        self._changed = asyncio.Event()

    async def restore(self) -> None:
        """Count what an earlier process had reserved as sent, as late as it can have been. Raises StoreError."""
        saved = await self._load()
        if saved is None:
            return
        reserved = msgspec.json.decode(saved, type=list[tuple[int, int]])
        now, steady = self._clock.now(), self._clock.monotonic()
        # One reservation was spent before the next was made; the last one perhaps only just now.
        spent_until = [at for at, _ in reserved[1:]] + [now]
        for (_, count), at in zip(reserved, spent_until, strict=True):
            self._limiter.restore(count, steady - max(0, now - at) / 1000)
        self._reserved = [(min(at, now), count) for (_, count), at in zip(reserved, spent_until, strict=True)]

    def available(self) -> int:
        """Return how many requests may be sent now."""
        return self._limiter.available(self._clock.monotonic())

    def available_for_polls(self) -> int:
        """Return the same for polls, which leave a share to clients' reads while those wait."""
        available = self.available()
        if self._reads_waiting and self._polls_since_read >= _POLLS_PER_READ:
            available -= 1
        return available

    def next_available_s(self) -> float | None:
        """Return in how many seconds a request may be sent; None: not before one in flight has ended."""
        steady = self._clock.monotonic()
        at = self._limiter.next_available(steady)
        return None if at is None else max(at - steady, 0.0)

    def take(self, count: int) -> None:
        """Count requests as sent from now on: nobody else gets their places while the caller prepares them."""
        self._polls_since_read += count
        self._limiter.start(count)

    def give_back(self, count: int) -> None:
        """Return places that were taken and not used."""
        self._limiter.cancel(count)
        self._changed.set()

    async def reserve(self, count: int) -> None:
        """Make requests that were taken survive a crash as sent. Raises StoreError: then they may not be sent."""
        if not self._limited:
            return
        covered = min(self._left, count)
        self._left -= covered
        missing = count - covered
        if missing == 0:
            return
        now = self._clock.now()
        reserved = max(missing, self._chunk)
        # A reservation may have been spent until the next one was made: only that tells when it can be forgotten.
        while len(self._reserved) > 1 and self._reserved[1][0] <= now - self._longest_ms:
            del self._reserved[0]
        self._reserved.append((now, reserved))
        await self._save(msgspec.json.encode(self._reserved))
        self._left += reserved - missing

    def end(self) -> None:
        """Say that a request has been answered, or has failed."""
        self._limiter.end(self._clock.monotonic())
        self._changed.set()

    @property
    def blocked(self) -> bool:
        """Whether a pause is in force."""
        return self._limiter.blocked(self._clock.monotonic())

    def block(self, pause_s: float) -> None:
        """Send nothing for so long."""
        self._limiter.block(self._clock.monotonic() + pause_s)

    def tighten(self, limit: int, window_s: float) -> bool:
        """Adopt a limit that the upstream names, where it is lower than the one in force; return whether it was."""
        return self._limiter.tighten(limit, window_s)

    async def acquire(self, timeout_s: float) -> float | None:
        """Wait for a client's turn and count its request; or return in how many seconds to come again.

        Raises StoreError.
        """
        deadline = self._clock.monotonic() + timeout_s
        self._reads_waiting += 1
        try:
            while self.available() <= 0:
                wait_s = self.next_available_s()
                left_s = deadline - self._clock.monotonic()
                if left_s <= 0 or (wait_s is not None and wait_s > left_s):
                    return max(wait_s or 0.0, 1.0)
                self._changed.clear()
                await wait_for_event(self._changed, left_s if wait_s is None else max(wait_s, 0.001))
            self.take(1)
            self._polls_since_read = 0
            try:
                await self.reserve(1)
            except BaseException:
                self.give_back(1)
                raise
            return None
        finally:
            self._reads_waiting -= 1


class Key:
    """The budgets of one key, and the upstream's word on it."""

    def __init__(self, upstream: str, queries: Budget, creates: Budget) -> None:
        self._upstream = upstream
        self.queries = queries
        self.creates = creates
        self.refusal: str | None = None
        """Why the upstream refuses the key; None while it does not."""
        self._probes = 0

    async def restore(self) -> None:
        """Take up what an earlier process spent. Raises StoreError."""
        await self.queries.restore()
        await self.creates.restore()

    def judge(self, result: PollResult) -> None:
        """Learn from an answer to a query."""
        if result.kind is PollKind.KEY_REFUSED:
            if self.refusal is not None and self.queries.blocked:
                return  # sent before the pause began: the same news
            self.queries.block(_PROBE_S[min(self._probes, len(_PROBE_S) - 1)])
            self._probes += 1
            if self.refusal is None:
                _log.error("upstream.key_refused", upstream=self._upstream, error=result.error)
            self.refusal = result.error
            return
        if result.kind is PollKind.THROTTLED:
            self.queries.block(result.retry_after_s or _THROTTLED_S)
            told = result.told_window
            if told is not None and self.queries.tighten(*told):
                _log.warning("upstream.limit_adopted", upstream=self._upstream, limit=told[0], window_s=told[1])
        if result.kind is not PollKind.UNREACHABLE and self.refusal is not None:
            _log.info("upstream.key_accepted", upstream=self._upstream)
            self.refusal = None
            self._probes = 0
