"""When to try a webhook again, and when to stop.

Owns the retry schedule and the rules that a receiver's answer sets; pure: the random source is passed in.
"""

import math
import random
from collections.abc import Iterator, Sequence

import msgspec

from gateway.core.model import AttemptResult

RETRY_AFTER_CAP_S = 86_400.0
"""A receiver can put the next attempt off by at most a day."""

_NOT_COUNTED_S = 5.0
_JITTER = 0.1  # added at most, as a share of the wait: receivers that failed together are not tried together


class Decision(msgspec.Struct, frozen=True):
    """What an attempt came to, and how long to wait before the next one (None: there is none)."""

    result: AttemptResult
    delay_s: float | None


class RetryPolicy(msgspec.Struct, frozen=True):
    """``schedule_s``: seconds before each attempt; its length is the number of attempts."""

    schedule_s: tuple[float, ...]

    def decide(
        self,
        budget_used: int,
        *,
        delivered: bool,
        status_code: int | None,
        retry_after_s: float | None,
        rng: random.Random,
        counts: bool = True,
    ) -> Decision:
        """Decide after an attempt; ``budget_used`` counts it and those before it.

        410 is final (Standard Webhooks: the receiver wants no more). ``Retry-After`` never brings an attempt
        forward, and puts it off by at most ``RETRY_AFTER_CAP_S``. What does not count uses nothing of the budget.
        """
        if delivered:
            return Decision(AttemptResult.DELIVERED, None)
        if not counts:
            return Decision(AttemptResult.INTERRUPTED, _NOT_COUNTED_S if retry_after_s is None else retry_after_s)
        if status_code == 410 or budget_used >= len(self.schedule_s):
            return Decision(AttemptResult.DEAD, None)
        scheduled_s = self.schedule_s[budget_used]
        delay_s = scheduled_s + scheduled_s * _JITTER * rng.random()
        if retry_after_s is not None:
            delay_s = max(delay_s, min(retry_after_s, RETRY_AFTER_CAP_S))
        return Decision(AttemptResult.RETRY, delay_s)


def at_least_each(most_s: float, schedule_s: Sequence[float]) -> tuple[float, ...]:
    """Return a schedule that takes as long, in which no wait is longer than so many seconds."""

    def shorter() -> Iterator[float]:
        for wait_s in schedule_s:
            parts = max(1, math.ceil(wait_s / most_s))
            yield from [wait_s / parts] * parts

    return tuple(shorter())
