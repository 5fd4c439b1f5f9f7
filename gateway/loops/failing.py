"""Which receivers failed last, how often in a row, and with what: for people to see. And who took a webhook since
somebody asked.

Owns no decision. The bulkhead has a count of its own, which leaves out answers that only speak of one webhook: a
receiver that refuses every signature is well by that. Called by ``deliverer``.
"""

from collections import OrderedDict
from typing import NamedTuple

from gateway.core.claims import Lane
from gateway.core.model import Attempt, AttemptResult

_REMEMBERED = 1000


class Failures(NamedTuple):
    """What became of the last attempts at a receiver."""

    in_a_row: int
    error: str | None
    """Of the last one."""


class Failing:
    """The lanes whose last attempt failed; of too many, the longest unheard of are forgotten."""

    def __init__(self) -> None:
        self.lanes: OrderedDict[Lane, Failures] = OrderedDict()
        self.took: set[Lane] | None = None
        """Who took a webhook, for whoever put the set there and empties it; None: nobody asks."""

    def hear(self, lane: Lane, attempt: Attempt) -> None:
        """Hear how an attempt ended."""
        before = self.lanes.pop(lane, None)
        if attempt.result is AttemptResult.DELIVERED:
            if self.took is not None:
                self.took.add(lane)
            return
        self.lanes[lane] = Failures(1 if before is None else before.in_a_row + 1, attempt.error)
        if len(self.lanes) > _REMEMBERED:
            self.lanes.popitem(last=False)
