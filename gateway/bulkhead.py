"""Who may have how many attempts in flight, so that one bad receiver delays nobody else.

Owns the counts; pure. Asked by the deliverer for each webhook that it could claim.

- A receiver (scheme, host and port) gets a place while it holds fewer than are free in all (a dynamic threshold:
  Choudhury & Hahne 1998). One alone gets half of all places; however many hang, each further one finds half of the
  rest.
- A receiver that failed ``_OPENS_AFTER`` times in a row gets one place, as a probe, until an attempt succeeds.
- Retries together hold at most three quarters of the places: the rest is for first attempts.
"""

from collections import Counter, OrderedDict

__all__ = ["Bulkhead"]

_OPENS_AFTER = 5
_RETRY_SHARE = 0.75
_REMEMBERED = 10_000  # receivers whose failures are counted; of more, the longest unheard of are forgotten


class Bulkhead:
    """``limit`` places for attempts."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_flight: Counter[str] = Counter()
        self._total = 0
        self._retries = 0
        self._failures: OrderedDict[str, int] = OrderedDict()
        self.refused = False
        """Whether a place was refused since this was last set to False: then the next free one has a taker."""

    @property
    def free(self) -> int:
        """How many places are free."""
        return self._limit - self._total

    @property
    def retries(self) -> bool:
        """Whether retries may have places."""
        return self._retries < self._limit * _RETRY_SHARE

    def held(self, receiver: str) -> int:
        """Return how many places this receiver has."""
        return self._in_flight.get(receiver, 0)

    def room(self, receiver: str) -> int:
        """Return how many places this receiver may have at the moment, its retries where ``retries``."""
        held = self._in_flight.get(receiver, 0)
        # Each place that it takes is one less that is free.
        share = 1 - held if self._failures.get(receiver, 0) >= _OPENS_AFTER else (self.free - held + 1) // 2
        if share <= 0:
            self.refused = True
        return max(share, 0)

    def admit(self, receiver: str, *, retry: bool) -> bool:
        """Take a place for an attempt, or say no: to this receiver, or to retries."""
        if self.room(receiver) <= 0 or (retry and not self.retries):
            self.refused = True
            return False
        self._in_flight[receiver] += 1
        self._total += 1
        self._retries += retry
        return True

    def ended(self, receiver: str, *, retry: bool, delivered: bool | None) -> None:
        """Give the place back; ``delivered`` is None for an attempt that says nothing about its receiver."""
        self._total -= 1
        self._retries -= retry
        self._in_flight[receiver] -= 1
        if not self._in_flight[receiver]:
            del self._in_flight[receiver]
        if delivered:
            self._failures.pop(receiver, None)
        elif delivered is False:
            self._failures[receiver] = self._failures.get(receiver, 0) + 1
            self._failures.move_to_end(receiver)
            if len(self._failures) > _REMEMBERED:
                self._failures.popitem(last=False)
