"""How fast to ask: several windows over one key, none of them ever exceeded.

Owns the count; pure: the time is passed in, in seconds of any steady clock. Must not wait or send. Called by
``gateway.upstream.budget`` for requests to an upstream, and by ``gateway.api.auth`` for those of a client.

A request counts from the moment it is sent until a window's length after its answer came. Whenever between the two
the other side counted it, and however its window is cut, it never sees more than the limit.

Beside the windows that were configured stand those that the other side has named: a few, for a while, and only where
they are lower. A mistaken or hostile word must neither stop the key for good nor fill the memory.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Annotated

import msgspec

__all__ = ["RateLimiter", "RateWindow"]


class RateWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most ``limit`` requests in any ``window_s`` seconds: in a profile ``{ limit = 60, window_s = 60 }``."""

    limit: Annotated[int, msgspec.Meta(ge=1)]
    window_s: Annotated[float, msgspec.Meta(gt=0)]


_MOST_TOLD = 3
"""So many named windows hold at once: the one named last takes the place of the one whose time is up first."""
_TOLD_S = 3600.0
"""For so long a window holds after it was named; a lower tier's next 429 names it again."""
_MOST_COUNTED = 10_000
"""A named window of more requests is kept to as a shorter one of the same rate: so no more are remembered."""
_LONG_PAUSE_S = 60.0
_SLOTS = 60
"""What outlives the process are counts, of so many parts of the longest window."""


class RateLimiter:
    """Sliding windows over the requests of one key."""

    def __init__(self, windows: Sequence[RateWindow]) -> None:
        self._windows = [_WindowLog(window.limit, window.window_s) for window in windows]
        self._told: list[_WindowLog] = []  # the one whose time is up first comes first
        self._blocked_until = 0.0
        self._held_until = 0.0
        self.in_flight = 0
        """Requests that were sent and have not been answered."""

    @property
    def rate_per_s(self) -> float:
        """How many requests the windows allow in the long run."""
        return min((window.limit / window.length_s for window in self._all()), default=math.inf)

    def limited(self, now: float) -> bool:
        """Whether a window holds that the other side has named, or a long pause that it asked for."""
        self._end_told(now)
        return bool(self._told) or self._blocked_until - now > _LONG_PAUSE_S

    def available(self, now: float, *, held: bool = True) -> int:
        """Return how many requests may be sent now; ``held`` False: or could be, but for our own hold."""
        if self.blocked(now) if held else now < self._blocked_until:
            return 0
        self._end_told(now)
        return max(0, min((w.limit - w.count(now) - self.in_flight for w in self._all()), default=2**31))

    def used(self, now: float) -> float:
        """Return how much of the limit counts at present, of the window that is fullest; 1 is all of it."""
        return max(((w.count(now) + self.in_flight) / w.limit for w in self._all()), default=0.0)

    def next_available(self, now: float) -> float | None:
        """Return when a request may be sent; None: not before one that is in flight has ended."""
        self._end_told(now)
        at = max(now, self._blocked_until, self._held_until)
        for window in self._all():
            surplus = window.count(now) + self.in_flight - window.limit + 1
            if surplus > len(window.leaves_at):
                return None
            if surplus > 0:
                at = max(at, min(window.leaves_at[surplus - 1], window.until))
        return at

    def start(self, count: int = 1) -> None:
        """Count requests that are sent now."""
        self.in_flight += count

    def cancel(self, count: int = 1) -> None:
        """Take back requests that were counted and then not sent."""
        self.in_flight -= count

    def end(self, now: float) -> None:
        """Say that a request has been answered, or has failed."""
        self.in_flight -= 1
        for window in self._all():
            window.leaves_at.append(now + window.length_s)

    def blocked(self, now: float) -> bool:
        """Whether the other side is to be left alone: it asked for that, or we decided so."""
        return now < max(self._blocked_until, self._held_until)

    def block(self, until: float) -> None:
        """Send nothing before ``until``: the other side asked for it."""
        self._blocked_until = max(self._blocked_until, until)

    def hold(self, until: float) -> None:
        """Send nothing before ``until`` either; unlike a block it ends earlier where a later call says so."""
        self._held_until = until

    def spent(self, now: float) -> list[tuple[float, int]]:
        """Return when requests that still count ended, and how many each time; at most ``_SLOTS`` + 1 times.

        The times are rounded up, so that who restores them never counts less.
        """
        window = max(self._windows, key=lambda window: window.length_s)
        slot_s = window.length_s / _SLOTS
        window.count(now)
        slots = Counter(math.ceil((at - window.length_s) / slot_s) for at in window.leaves_at)
        return [(min(slot * slot_s, now), count) for slot, count in slots.items()]

    def restore(self, count: int, ended: float) -> None:
        """Count requests that an earlier process sent, the last of them at ``ended``; call in the order of time."""
        for window in self._windows:
            window.leaves_at.extend([ended + window.length_s] * count)

    def tighten(self, limit: int, length_s: float, now: float) -> bool:
        """Hold to a limit that the other side has named for a while, where it is lower; return whether that is news.

        It counts what is still remembered.
        """
        if limit < 1 or length_s <= 0:
            return False
        share = max(1.0, limit / _MOST_COUNTED)
        limit, length_s = int(limit / share), length_s / share
        self._end_told(now)
        held = next((window for window in self._told if window.length_s == length_s), None)
        if held is not None and limit == held.limit:
            window, news = held, False
        elif any(window.implies(limit, length_s) for window in self._all()):
            return False
        else:
            window, news = self._counting(limit, length_s, held), True
        window.until = now + _TOLD_S
        self._told = [*[other for other in self._told if other is not held][1 - _MOST_TOLD :], window]
        return news

    def _counting(self, limit: int, length_s: float, held: "_WindowLog | None") -> "_WindowLog":
        """Return a new window that counts what the one before it remembers, or the longest configured one."""
        added = _WindowLog(limit, length_s, limit)
        if held is not None:
            added.leaves_at.extend(held.leaves_at)
        elif self._windows:
            longest = max(self._windows, key=lambda window: window.length_s)
            added.leaves_at.extend(at - longest.length_s + length_s for at in longest.leaves_at)
        return added

    def _all(self) -> "Iterable[_WindowLog]":
        return chain(self._windows, self._told) if self._told else self._windows

    def _end_told(self, now: float) -> None:
        while self._told and self._told[0].until <= now:
            del self._told[0]


class _WindowLog:
    """What one sliding window counts."""

    until = math.inf
    """When it holds no longer."""

    def __init__(self, limit: int, length_s: float, remembered: int | None = None) -> None:
        """``remembered``: of how many requests at most; the limit of them is enough, as the others free no place."""
        self.limit = limit
        self.length_s = length_s
        # Kept as the instant itself: (t + length) - length is not always t, so that next_available would be untrue.
        self.leaves_at: deque[float] = deque(maxlen=remembered)

    def count(self, now: float) -> int:
        """Forget the requests that have left the window; return how many have not."""
        while self.leaves_at and self.leaves_at[0] <= now:
            self.leaves_at.popleft()
        return len(self.leaves_at)

    def implies(self, limit: int, length_s: float) -> bool:
        """Whether whoever keeps to this window keeps to that one."""
        return self.limit * math.ceil(length_s / self.length_s) <= limit
