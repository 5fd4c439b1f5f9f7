"""How many requests each client may make: its ``rate`` windows, counted in memory.

A restart forgets the count: it protects this process, nothing that anyone pays for. Called by the token check.
"""

import math
from collections.abc import Mapping, Sequence

from gateway.core.clock import Clock
from gateway.core.errors import RateLimited
from gateway.core.ratelimit import RateLimiter, RateWindow

__all__ = ["ClientLimits"]


class ClientLimits:
    """One limiter for each client that has ``windows``; the others are not limited."""

    def __init__(self, windows: Mapping[str, Sequence[RateWindow]], clock: Clock) -> None:
        self._windows: Mapping[str, Sequence[RateWindow]] = {}
        self._limiters: dict[str, RateLimiter] = {}
        self._clock = clock
        self.replace(windows)

    def replace(self, windows: Mapping[str, Sequence[RateWindow]]) -> None:
        """Take others from now on; who keeps its windows keeps its count."""
        kept = {client for client, its in windows.items() if self._windows.get(client) == its}
        limiters = {client: RateLimiter(its) for client, its in windows.items() if client not in kept}
        self._limiters = limiters | {client: self._limiters[client] for client in kept}
        self._windows = dict(windows)

    def count(self, client: str) -> None:
        """Count one request; raise RateLimited, and count nothing, where there is no room for it."""
        limiter = self._limiters.get(client)
        if limiter is None:
            return
        now = self._clock.monotonic()
        if limiter.available(now) <= 0:
            at = limiter.next_available(now)
            wait_s = 1.0 if at is None else at - now  # None cannot be: nothing is ever in flight
            retry_after_s = max(1, math.ceil(wait_s))
            raise RateLimited(
                f"This client has used up its rate; try again in {retry_after_s} s.", retry_after_s=retry_after_s
            )
        # A request counts when it comes, however long it is held.
        limiter.start()
        limiter.end(now)
