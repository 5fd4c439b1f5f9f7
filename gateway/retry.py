"""When to try a webhook again, and when to stop.

Owns the retry schedule and the rules that a receiver's answer sets; pure: the random source is passed in. Called by
the deliverer after every attempt; the edges read the header that asks for a pause here.
"""

import random
import re
from datetime import UTC
from email.utils import parsedate_to_datetime

import msgspec

from gateway.model import AttemptResult

__all__ = ["RETRY_AFTER_CAP_S", "Decision", "RetryPolicy", "parse_retry_after", "parse_seconds"]

RETRY_AFTER_CAP_S = 86_400.0
"""A receiver can put the next attempt off by at most a day."""

_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", re.ASCII)
_LONGEST = 1000  # characters that are looked at: a header may have thousands of commas
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
    ) -> Decision:
        """Decide after an attempt; ``budget_used`` counts it and those before it.

        410 is final (Standard Webhooks: the receiver wants no more). ``Retry-After`` never brings an attempt
        forward, and puts it off by at most ``RETRY_AFTER_CAP_S``.
        """
        if delivered:
            return Decision(AttemptResult.DELIVERED, None)
        if status_code == 410 or budget_used >= len(self.schedule_s):
            return Decision(AttemptResult.DEAD, None)
        scheduled_s = self.schedule_s[budget_used]
        delay_s = scheduled_s + scheduled_s * _JITTER * rng.random()
        if retry_after_s is not None:
            delay_s = max(delay_s, min(retry_after_s, RETRY_AFTER_CAP_S))
        return Decision(AttemptResult.RETRY, delay_s)


def parse_retry_after(value: str | None, now: int) -> float | None:
    """Read Retry-After, RFC 9110 §10.2.3: seconds or an HTTP date; None for anything else, or for the past.

    Of a header that came several times, its values joined by commas, the longest wait counts: each part asks for at
    least that. Unbounded: whoever waits knows for how long at most.
    """
    if value is None:
        return None
    # A date's comma stands behind its day of the week, which nobody needs.
    waits = [wait_s for part in value[:_LONGEST].split(",") if (wait_s := _wait_s(part.strip(), now)) is not None]
    return max(waits, default=None)


def parse_seconds(value: str) -> float | None:
    """Read seconds, also with decimals; None for anything else."""
    return float(value) if _SECONDS.fullmatch(value) else None


def _wait_s(value: str, now: int) -> float | None:
    seconds = parse_seconds(value)
    if seconds is not None:
        return seconds
    try:
        at = parsedate_to_datetime(value)
        delay_s = at.replace(tzinfo=at.tzinfo or UTC).timestamp() - now / 1000
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return delay_s if delay_s >= 0 else None
