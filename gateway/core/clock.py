"""The only reader of the machine's clocks.

Owns what an instant is: whole milliseconds since the Unix epoch (UTC), in names that end in ``_at``; spans are seconds,
in names that end in ``_s``. Whoever needs the time is handed a ``Clock``, so that tests can own it.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

# Where there is one that goes on while the machine sleeps: that is time that passes, not a clock that is set.
_STEADY: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
STEP_MS = 10_000
"""A step of the wall clock up to this is followed silently."""
_STEERING_MS_PER_S = 500
"""So much a clock that is steered gains or loses."""
_FRACTION_MS = 0.001  # what a float of milliseconds since the epoch may lack
_LEAP_MS = 1000
_FIRST, _END = -62_135_596_800_000, 253_402_300_800_000  # of the years 1 to 9999
"""What it is behind by more than that, it has at once: time may pass in leaps."""


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

    monotonic = staticmethod(partial(time.clock_gettime, _STEADY))


class FollowingClock:
    """A clock whose wall clock goes on as before when the machine's is set, until it is told to follow.

    So whoever keeps instants can move them first: times of the one and of the other clock never meet.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.monotonic: Callable[[], float] = clock.monotonic  # itself: one task's life asks for it two dozen times
        self._ahead_ms = clock.now() - round(clock.monotonic() * 1000)

    def now(self) -> int:
        now = self._clock.now()
        return now - self._step_ms(now)

    def step_ms(self) -> int:
        """Return by how much the machine's wall clock was set and not followed, in milliseconds; 0 up to 10 s."""
        return self._step_ms(self._clock.now())

    def follow(self, step_ms: int) -> None:
        """Show that much more from now on."""
        self._ahead_ms += step_ms

    def _step_ms(self, now: int) -> int:
        moved_ms = now - round(self.monotonic() * 1000) - self._ahead_ms
        if -STEP_MS <= moved_ms <= STEP_MS:
            self._ahead_ms += moved_ms
            return 0
        return moved_ms


class SteeredClock:
    """A clock that shows another one's time, of which it is told now and then; in between it goes by the machine's.

    It never runs back: where it is ahead it goes slower until the other one has caught up.
    """

    def __init__(self, clock: Clock) -> None:
        """Begin with the machine's time."""
        self._clock = clock
        self._steered_at = clock.monotonic()
        self._ahead_ms = self._wanted_ms = clock.now() - self._steered_at * 1000

    def now(self) -> int:
        at = self._clock.monotonic()
        if self._ahead_ms != self._wanted_ms:
            self._approach(at)
        return int(at * 1000 + self._ahead_ms + _FRACTION_MS)

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def steer(self, now: float, at: float, *, at_once: bool = False) -> float:
        """Show from now on what the other clock does, which was at ``now`` when the monotonic one was ``at``.

        Return by how many milliseconds that is later than what would have been shown. ``at_once``: also if that is
        earlier; only before anybody has asked.
        """
        self._approach(self._clock.monotonic())
        self._wanted_ms = now - at * 1000
        late_ms = self._wanted_ms - self._ahead_ms
        if at_once or late_ms > _LEAP_MS:
            self._ahead_ms = self._wanted_ms
        return late_ms

    def steered_to(self, at: float) -> float:
        """Return what it is to show, to fractions, when the monotonic clock is ``at``."""
        return at * 1000 + self._wanted_ms

    def _approach(self, at: float) -> None:
        room_ms = (at - self._steered_at) * _STEERING_MS_PER_S
        self._steered_at = at
        self._ahead_ms += max(-room_ms, min(room_ms, self._wanted_ms - self._ahead_ms))


class Moment(NamedTuple):
    """One instant, by both clocks."""

    at: int
    steady: float

    @classmethod
    def of(cls, clock: Clock) -> "Moment":
        """Return the one that it is."""
        return cls(clock.now(), clock.monotonic())


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

    Raises ValueError for anything else, a missing zone included: a guess would be wrong by hours. And for what lies
    outside the years 1 to 9999 in UTC, which ``to_iso`` cannot write.
    """
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        raise ValueError("needs a zone, for example 2026-11-23T10:00:00Z")
    at = round(parsed.timestamp() * 1000)
    if not _FIRST <= at < _END:
        raise ValueError("needs a year from 1 to 9999")
    return at


async def wait_for_event(event: asyncio.Event, timeout_s: float) -> None:
    """Return when the event is set or ``timeout_s`` seconds have passed, whichever is first."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(timeout_s, 0)):
            await event.wait()
