"""What a table of receivers allows now: so many attempts at once, so many in a time, and none while its proxy is down.

Owns the counts, which are this process's own: replicas count for themselves. Must not wait: ``bulkhead`` asks before it
has webhooks claimed, and says which attempts begin, are sent and end; the sender says how a proxy does.

A rate is of starts: an attempt counts from when it is sent, however long the receiver then takes. Before that, while
its name is looked up or there is no memory for its body, it has its place in the windows: else all that waited so would
be sent at once.
"""

import sys
from collections.abc import Callable, Sequence

from gateway.core.claims import Lane
from gateway.core.ratelimit import RateLimiter, RateWindow

_MOST = sys.maxsize
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_LAPSES_S = 600.0
"""So long after its pause a proxy that nobody has tried since counts as failing: nothing wants through it any more."""


class ProxyHealth:
    """Whether an egress proxy works: where it does not, one attempt at a time finds out, ever more seldom."""

    def __init__(self) -> None:
        self.failures = 0
        """In a row, those that began before the last one was known left out."""
        self.under_way = 0
        self._retry_at = 0.0

    def failing(self, now_s: float) -> bool:
        """Whether it could not be used when it was tried last, lately."""
        return self.failures > 0 and now_s < self._retry_at + _LAPSES_S

    def room(self, now_s: float) -> int:
        if not self.failures:
            return _MOST
        return int(now_s >= self._retry_at and not self.under_way)

    def pause_s(self, now_s: float) -> float:
        """Return how long it is left alone."""
        return max(0.0, self._retry_at - now_s)

    def works(self) -> None:
        self.failures, self._retry_at = 0, 0.0

    def fails(self, now_s: float) -> float:
        """Hear that it could not be used; return for how long it is left alone."""
        if now_s >= self._retry_at:
            self._retry_at = now_s + min(_FIRST_PAUSE_S * 2**self.failures, _LONGEST_PAUSE_S)
            self.failures = min(self.failures + 1, 30)
        return self.pause_s(now_s)


class Usage:
    """One table's attempts."""

    def __init__(
        self,
        concurrency: int | None,
        windows: Sequence[RateWindow] | None,
        proxy: ProxyHealth | None,
        receiver: str = "",
    ) -> None:
        """``receiver``: what the receiver is called on whose lanes the webhooks are that go by the table."""
        self.receiver = receiver
        self._most = _MOST if concurrency is None else concurrency
        self._limiter = RateLimiter(windows or ())
        self._proxy = proxy
        self._under_way = 0

    def room(self, now_s: float) -> int:
        """Return how many attempts may begin."""
        room = min(self._most - self._under_way, self._limiter.available(now_s))
        return room if self._proxy is None else min(room, self._proxy.room(now_s))

    def more_in_s(self, now_s: float) -> float | None:
        """Return in how long there is room, though no attempt ends; None: there is, or only that makes some."""
        if self._under_way >= self._most or self.room(now_s) > 0:
            return None
        at = self._limiter.next_available(now_s)
        if at is None or (self._proxy is not None and self._proxy.failures and self._proxy.under_way):
            return None
        return max(at - now_s, 0.0 if self._proxy is None else self._proxy.pause_s(now_s))

    def begin(self) -> None:
        self._under_way += 1
        self._limiter.start()
        if self._proxy is not None:
            self._proxy.under_way += 1

    def sends(self, now_s: float) -> bool:
        """Hear that one of those that have begun is sent now; return whether that says when there is room again."""
        self._limiter.end(now_s)
        return self._limiter.longest_s > 0

    def end(self, *, sent: bool) -> None:
        self._under_way -= 1
        if not sent:
            self._limiter.cancel()
        if self._proxy is not None:
            self._proxy.under_way -= 1


class ReceiverLimits:
    """The tables' usage, by receiver: the same for each of its lanes."""

    def __init__(self, monotonic: Callable[[], float], usage_of: Callable[[str], Usage | None]) -> None:
        """``usage_of``: a URL's."""
        self.now_s = monotonic
        self.usage_of = usage_of
        self.any = False
        """Whether there is a table at all."""
        self._all: Sequence[Usage] = ()

    def use(self, usages: Sequence[Usage]) -> None:
        """Take these."""
        self._all, self.any = usages, bool(usages)

    def room(self, lane: Lane) -> int:
        """Return how many attempts a lane may begin, as far as that can be told before its URLs are known.

        A lane may be that of a table which another replica has, or which is there no more: its name is a URL's
        beginning, and goes by a table as any URL does.
        """
        usage = self.usage_of(lane.receiver)
        return _MOST if usage is None else usage.room(self.now_s())

    def begins(self, url: str) -> tuple[bool, Usage | None]:
        """Say whether an attempt may begin, and what it then uses."""
        usage = self.usage_of(url) if self.any else None
        return usage is None or usage.room(self.now_s()) > 0, usage

    def receiver_of(self, url: str, receiver: str) -> str:
        """Return to which receiver's lanes a webhook belongs that is on those of ``receiver``.

        Another's only where a table is about a longer beginning of its URL than all that its lane's name goes by. So it
        goes from shorter names to longer ones: were it otherwise, two replicas whose tables differ, as while they are
        reloaded one by one, would hand it to and fro for as long as both have no room.
        """
        usage = self.usage_of(url)
        return receiver if usage is None or usage is self.usage_of(receiver) else usage.receiver

    @property
    def more_in_s(self) -> float | None:
        """In how long a table has room again, though no attempt ends."""
        now_s = self.now_s()
        return min((s for one in self._all if (s := one.more_in_s(now_s)) is not None), default=None)
