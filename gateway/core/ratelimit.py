"""How fast to ask: several windows over one key, none of them ever exceeded.

Owns the count; pure: the time is passed in, in seconds of any steady clock. Must not wait or send.

A request counts from the moment it is sent until a window's length after its answer began to come. Whenever between
the two the other side counted it, and however its window is cut, it never sees more than the limit. What becomes of the
answer then, and what that waits for, is nothing of the other side's.

What others send with the same key counts here too, as far as the caller knows of it.

Beside the windows that were configured stand those that the other side has named: a few, for a while, and only where
they are lower. A mistaken or hostile word must neither stop the key for good nor fill the memory.
"""

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Annotated

import msgspec


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
_ROUNDED_S = 1e-6  # (t + length) - length is not always t: rather counted twice than not at all
_SLOTS = 60
"""What outlives the process are counts, of so many parts of the longest window."""


class RateLimiter:
    """Sliding windows over the requests of one key."""

    def __init__(self, windows: Sequence[RateWindow]) -> None:
        self._windows = [_WindowLog(window.limit, window.window_s) for window in windows]
        self._told: list[_WindowLog] = []  # the one whose time is up first comes first
        self._others: list[tuple[float, int]] = []
        self.blocked_until = 0.0
        """Until when the other side asked to be left alone."""
        self._held_until = 0.0
        self.in_flight = 0
        """Requests that were sent, and no answer has begun to come."""

    @property
    def rate_per_s(self) -> float:
        """How many requests the windows allow in the long run."""
        return min((window.limit / window.length_s for window in self._all()), default=math.inf)

    def limited(self, now: float) -> bool:
        """Whether a window holds that the other side has named, or a long pause that it asked for."""
        self._end_told(now)
        return bool(self._told) or self.blocked_until - now > _LONG_PAUSE_S

    def available(self, now: float, *, held: bool = True) -> int:
        """Return how many requests may be sent now; ``held`` False: or could be, but for our own hold."""
        if self.blocked(now) if held else now < self.blocked_until:
            return 0
        return max(0, self.room(now))

    def room(self, now: float) -> int:
        """Return how many more may be in flight than are; below 0 where too many are."""
        self._end_told(now)
        return min((w.limit - w.count(now) - self.in_flight for w in self._all()), default=2**31)

    def used(self, now: float) -> float:
        """Return how much of the limit counts at present, of the window that is fullest; 1 is all of it."""
        return max(((w.count(now) + self.in_flight) / w.limit for w in self._all()), default=0.0)

    def next_available(self, now: float) -> float | None:
        """Return when a request may be sent; None: not before one that is in flight has ended."""
        self._end_told(now)
        at = max(now, self.blocked_until, self._held_until)
        for window in self._all():
            surplus = window.count(now) + self.in_flight - window.limit + 1
            if surplus <= 0:
                continue
            left_at = window.left_at(surplus)
            if left_at is None:
                return None
            at = max(at, min(left_at, window.until))
        return at

    def start(self, count: int = 1) -> None:
        """Count requests that are sent now."""
        self.in_flight += count

    def cancel(self, count: int = 1) -> None:
        """Take back requests that were counted and then not sent."""
        self.in_flight -= count

    def end(self, now: float) -> None:
        """Say that a request's answer has begun to come, or that it has failed."""
        self.in_flight -= 1
        for window in self._all():
            window.leaves_at.append(now + window.length_s)

    def blocked(self, now: float) -> bool:
        """Whether the other side is to be left alone: it asked for that, or we decided so."""
        return now < max(self.blocked_until, self._held_until)

    def block(self, until: float) -> None:
        """Send nothing before ``until``: the other side asked for it."""
        self.blocked_until = max(self.blocked_until, until)

    def hold(self, until: float) -> None:
        """Send nothing before ``until`` either; unlike a block it ends earlier where a later call says so."""
        self._held_until = until

    @property
    def longest_s(self) -> float:
        """For how long a request is remembered."""
        told = (min(window.length_s, _TOLD_S) for window in self._told)
        return max(chain((window.length_s for window in self._windows), told), default=0.0)

    def spent(self, now: float, *, exact: bool = False) -> list[tuple[float, int]]:
        """Return when requests that still count ended, and how many each time; at most ``_SLOTS`` + 1 times.

        The times are rounded up, so that who restores them never counts less: to a part of the longest window. Where it
        is to be ``exact``, to a part of the shortest that they still count in, named ones too; each has so many times.
        """
        windows = sorted(self._all() if exact else self._windows, key=lambda window: window.length_s)
        slots: Counter[float] = Counter()
        since = now
        for window in windows if exact else windows[-1:]:
            window.count(now)
            length_s, slot_s = window.length_s, window.length_s / _SLOTS
            ended = (at - length_s for at in window.leaves_at)
            slots.update(math.ceil(at / slot_s) * slot_s for at in ended if at <= since)
            since = now - length_s + _ROUNDED_S
        return sorted((min(at, now), count) for at, count in slots.items())

    def restore(self, count: int, ended: float) -> None:
        """Count requests that an earlier process sent, the last of them at ``ended``; call in the order of time."""
        for window in self._windows:
            window.leaves_at.extend([ended + window.length_s] * count)

    def count_others(self, ended: Iterable[tuple[float, int]]) -> None:
        """Count what others have sent, in the place of all that was told of them before.

        ``ended``: when how many have ended, or will have.
        """
        self._others = sorted(ended)
        for window in self._all():
            window.count_others(self._others)

    def told(self) -> list[tuple[int, float, float]]:
        """Return the limits that the other side has named: so many in so many seconds, until then."""
        return [(window.limit, window.length_s, window.until) for window in self._told]

    def tighten(self, limit: int, length_s: float, now: float, until: float | None = None) -> bool:
        """Hold to a limit that the other side has named for a while, where it is lower; return whether that is news.

        It counts what is still remembered. ``until``: as it was told to others; then it lasts no longer.
        """
        if limit < 1 or length_s <= 0 or (until is not None and until <= now):
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
        until = now + _TOLD_S if until is None else min(until, now + _TOLD_S)
        window.until = until if news else max(until, window.until)
        rest = [other for other in self._told if other is not held]
        self._told = sorted([*rest[1 - _MOST_TOLD :], window], key=lambda told: told.until)
        return news

    def _counting(self, limit: int, length_s: float, held: "_WindowLog | None") -> "_WindowLog":
        """Return a new window that counts what the one before it remembers, or the longest configured one."""
        added = _WindowLog(limit, length_s, limit)
        added.count_others(self._others)
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
        self._others: deque[tuple[float, int]] = deque()  # when how many of theirs leave
        self._others_count = 0

    def count(self, now: float) -> int:
        """Forget the requests that have left the window; return how many have not."""
        while self.leaves_at and self.leaves_at[0] <= now:
            self.leaves_at.popleft()
        while self._others and self._others[0][0] <= now:
            self._others_count -= self._others.popleft()[1]
        return len(self.leaves_at) + self._others_count

    def count_others(self, ended: Iterable[tuple[float, int]]) -> None:
        """Count these in the place of others' from before; in the order of time."""
        self._others = deque((at + self.length_s, count) for at, count in ended)
        self._others_count = sum(count for _, count in self._others)

    def left_at(self, count: int) -> float | None:
        """Return when so many of those that count will have left; None where so many do not count."""
        if not self._others:
            return self.leaves_at[count - 1] if count <= len(self.leaves_at) else None
        theirs = (at for at, many in self._others for _ in range(many))
        return next(islice(heapq.merge(self.leaves_at, theirs), count - 1, None), None)

    def implies(self, limit: int, length_s: float) -> bool:
        """Whether whoever keeps to this window keeps to that one."""
        return self.limit * math.ceil(length_s / self.length_s) <= limit
