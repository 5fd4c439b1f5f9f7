"""What an attempt that ended at an egress proxy says of its receiver, and how it counts."""

import random

import pytest

from gateway.core.model import Attempt, AttemptResult
from gateway.loops.deliverer import _speaks_for_its_receiver
from gateway.webhook.retry import RetryPolicy


@pytest.mark.parametrize("reason", ["proxy_unreachable", "proxy_auth", "proxy_failed", "proxy_timeout"])
def test_it_says_nothing_of_its_receiver(reason: str) -> None:
    """Neither that it is well nor that it fails: else a proxy's outage would open each receiver's circuit breaker."""
    attempt = Attempt(number=1, started_at=0, duration_ms=1, status_code=None, error="e", result=AttemptResult.RETRY)
    assert _speaks_for_its_receiver(attempt, reason) is None
    assert _speaks_for_its_receiver(attempt, "refused") is False


@pytest.mark.parametrize(("left_alone_s", "delay_s"), [(8.0, 8.0), (None, 5.0)])
def test_what_does_not_count_is_made_again(left_alone_s: float | None, delay_s: float) -> None:
    """Also where the budget has but one attempt left: nobody's webhook is dead of our own proxy."""
    decision = RetryPolicy((0.0, 5.0)).decide(
        2,
        delivered=False,
        status_code=None,
        retry_after_s=left_alone_s,
        rng=random.Random(1),
        counts=False,
    )
    assert (decision.result, decision.delay_s) == (AttemptResult.INTERRUPTED, delay_s)
