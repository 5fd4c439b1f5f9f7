"""The only reader of the machine's clocks.

Owns what an instant is: whole milliseconds since the Unix epoch (UTC), in names that end in ``_at``; spans are seconds,
in names that end in ``_s``. Whoever needs the time is handed a ``Clock``, so that tests can own it.
"""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

__all__ = ["STEP_MS", "Clock", "FollowingClock", "SystemClock", "from_iso", "to_iso", "wait_for_event"]

# Where there is one that goes on while the machine sleeps: that is time that passes, not a clock that is set.
_STEADY: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
STEP_MS = 10_000
"""A step of the wall clock up to this is followed silently."""


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> int:
        """Return the wall clock in milliseconds since the epoch; it may jump."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary start; never runs backwards."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.clock_gettime(_STEADY)


class FollowingClock:
    """A clock whose wall clock goes on as before when the machine's is set, until it is told to follow.

    So whoever keeps instants can move them first: times of the one and of the other clock never meet.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_ms = clock.now() - round(clock.monotonic() * 1000)

    def now(self) -> int:
        now = self._clock.now()
        return now - self._step_ms(now)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def step_ms(self) -> int:
        """Return by how much the machine's wall clock was set and not followed, in milliseconds; 0 up to 10 s."""
        return self._step_ms(self._clock.now())

    def follow(self, step_ms: int) -> None:
        """Show that much more from now on."""
        self._ahead_ms += step_ms

    def _step_ms(self, now: int) -> int:
        moved_ms = now - round(self._clock.monotonic() * 1000) - self._ahead_ms
        if abs(moved_ms) > STEP_MS:
            return moved_ms
        self._ahead_ms += moved_ms
        return 0


@lru_cache(maxsize=1024)  # the same few again and again: what is registered together, and shown in several members
def to_iso(at: int) -> str:
    """Format an instant as RFC 3339 in UTC with milliseconds: ``2026-11-23T10:00:00.000Z``."""
    seconds, millis = divmod(at, 1000)
    return f"{_to_second(seconds)}.{millis:03d}Z"


@lru_cache(maxsize=1024)  # most instants that are shown lie within a few seconds
def _to_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def from_iso(text: str) -> int:
    """Parse an ISO 8601 instant with a zone, RFC 3339's form included, to milliseconds since the epoch.

    Raises ValueError for anything else, a missing zone included: a guess would be wrong by hours.
    """
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        raise ValueError("needs a zone, for example 2026-11-23T10:00:00Z")
    return round(parsed.timestamp() * 1000)


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set or ``timeout_s`` seconds have passed, whichever is first."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(timeout_s, 0)):
            await event.wait()
