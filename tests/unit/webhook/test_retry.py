"""When a webhook is tried again, and when no more."""

import math
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import AttemptResult
from gateway.core.retryafter import parse_retry_after
from gateway.webhook.retry import RETRY_AFTER_CAP_S, Decision, RetryPolicy, at_least_each

DAY_S = 86_400.0
DEFAULT = RetryPolicy((0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400))

schedules = st.lists(st.floats(0, 1e6), min_size=1, max_size=12).map(tuple).map(RetryPolicy)
retry_afters = st.none() | st.floats(min_value=0, allow_nan=False)
failures = st.none() | st.sampled_from([301, 400, 404, 429, 500, 503])
rngs = st.integers().map(random.Random)


def decide(
    policy: RetryPolicy,
    budget_used: int,
    *,
    delivered: bool = False,
    status_code: int | None = 500,
    retry_after_s: float | None = None,
    rng: random.Random | None = None,
) -> Decision:
    return policy.decide(
        budget_used,
        delivered=delivered,
        status_code=status_code,
        retry_after_s=retry_after_s,
        rng=rng or random.Random(1),
    )


def test_the_default_schedule_step_by_step() -> None:
    """The wait after the n-th attempt is the schedule's next entry and up to a tenth; after the tenth it is dead."""
    for used, scheduled_s in enumerate(DEFAULT.schedule_s[1:], start=1):
        decision = decide(DEFAULT, used)
        assert decision.result is AttemptResult.RETRY
        assert decision.delay_s is not None
        assert scheduled_s <= decision.delay_s <= scheduled_s * 1.1
    assert decide(DEFAULT, 10) == Decision(AttemptResult.DEAD, None)


@given(policy=schedules, status_code=failures, rng=rngs)
def test_the_length_of_the_schedule_is_the_budget(
    policy: RetryPolicy, status_code: int | None, rng: random.Random
) -> None:
    """A receiver that always fails gets exactly as many attempts as the schedule is long."""
    attempts = 1
    while decide(policy, attempts, status_code=status_code, rng=rng).result is AttemptResult.RETRY:
        attempts += 1
    assert attempts == len(policy.schedule_s)


@given(policy=schedules, data=st.data(), rng=rngs)
def test_jitter_is_added_within_a_tenth(policy: RetryPolicy, data: st.DataObject, rng: random.Random) -> None:
    """A wait is never shorter than the schedule says, and at most a tenth longer."""
    used = data.draw(st.integers(1, len(policy.schedule_s)))
    decision = decide(policy, used, rng=rng)
    if used == len(policy.schedule_s):
        assert decision == Decision(AttemptResult.DEAD, None)
        return
    assert decision.delay_s is not None
    assert policy.schedule_s[used] <= decision.delay_s <= policy.schedule_s[used] * 1.1


def test_jitter_spreads() -> None:
    """Receivers that failed together are not tried together: the waits cover the tenth."""
    rng = random.Random(1)
    delays = [decide(DEFAULT, 2, rng=rng).delay_s or 0 for _ in range(200)]
    assert len(set(delays)) == 200
    assert min(delays) < 300 + 3
    assert max(delays) > 330 - 3


@given(policy=schedules, data=st.data(), retry_after_s=retry_afters, seed=st.integers())
def test_retry_after_only_puts_off(
    policy: RetryPolicy, data: st.DataObject, retry_after_s: float | None, seed: int
) -> None:
    """Retry-After never brings an attempt forward, is kept to, and puts it off by at most a day."""
    used = data.draw(st.integers(1, len(policy.schedule_s)))
    without = decide(policy, used, status_code=429, rng=random.Random(seed))
    decision = decide(policy, used, status_code=429, retry_after_s=retry_after_s, rng=random.Random(seed))
    assert decision.result is without.result
    if without.delay_s is None:
        assert decision.delay_s is None
        return
    assert decision.delay_s == max(without.delay_s, min(retry_after_s or 0, DAY_S))


@pytest.mark.parametrize(
    ("used", "retry_after_s", "least_s", "most_s"),
    [
        (1, 0.0, 5, 5.5),
        (1, 3.0, 5, 5.5),
        (1, 120.0, 120, 120),
        (1, DAY_S + 1, DAY_S, DAY_S),
        (1, float("inf"), DAY_S, DAY_S),
        (9, 1.0, DAY_S, DAY_S * 1.1),
    ],
)
def test_retry_after_examples(used: int, retry_after_s: float, least_s: float, most_s: float) -> None:
    """What a receiver asks for, against what the schedule says."""
    delay_s = decide(DEFAULT, used, status_code=503, retry_after_s=retry_after_s).delay_s
    assert delay_s is not None
    assert least_s <= delay_s <= most_s


def test_the_cap_is_a_day() -> None:
    """The documented bound of Retry-After."""
    assert RETRY_AFTER_CAP_S == DAY_S


@pytest.mark.parametrize("used", [1, 5, 10, 11])
@pytest.mark.parametrize("retry_after_s", [None, 60.0])
def test_410_is_final(used: int, retry_after_s: float | None) -> None:
    """A receiver that says 410 gets no further attempt, whatever budget is left."""
    assert decide(DEFAULT, used, status_code=410, retry_after_s=retry_after_s) == Decision(AttemptResult.DEAD, None)


@pytest.mark.parametrize("used", [1, 10, 11])
@pytest.mark.parametrize("status_code", [200, 202, 204, 299])
def test_a_delivery_ends_it(used: int, status_code: int) -> None:
    """A delivered webhook is delivered, also by the last attempt, and has no next one."""
    decision = decide(DEFAULT, used, delivered=True, status_code=status_code, retry_after_s=5.0)
    assert decision == Decision(AttemptResult.DELIVERED, None)


@pytest.mark.parametrize("status_code", [200, 301, 400, 401, 404, 429, 500, 503, None])
def test_everything_else_is_tried_again(status_code: int | None) -> None:
    """A redirect, a client error, a server error, no answer and a 200 that was cut short are all tried again."""
    assert decide(DEFAULT, 1, status_code=status_code).result is AttemptResult.RETRY


def test_a_smaller_schedule_after_a_restart() -> None:
    """A callback that has used more than a newly configured budget is dead at its next failure, not an error."""
    assert decide(RetryPolicy((0, 5)), 7) == Decision(AttemptResult.DEAD, None)


NOW = 1_795_428_000_000  # Mon, 23 Nov 2026 10:00:00 GMT


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 120 ", 120.0),
        ("\t120 ", 120.0),
        ("0120", 120.0),
        ("9999999999", 9_999_999_999.0),
        ("99999999999", 99_999_999_999.0),
        ("9" * 5000, math.inf),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("12, 13", 13.0),
        ("13,12", 13.0),
        ("soon, 7, -1", 7.0),
        ("7, Mon, 23 Nov 2026 10:01:30 GMT", 90.0),
        ("Mon, 23 Nov 2026 10:01:30 GMT, Mon, 23 Nov 2026 10:00:30 GMT", 90.0),
        ("Mon, 23 Nov 2026 09:00:00 GMT, 7", 7.0),
        ("Mon, 23 Nov 2026 10:01:30 GMT", 90.0),
        ("Monday, 23-Nov-26 10:01:30 GMT", 90.0),
        ("Mon Nov 23 10:01:30 2026", 90.0),
        ("Mon, 23 Nov 2026 11:01:30 +0100", 90.0),
        ("mon, 23 nov 2026 10:01:30 gmt", 90.0),
        ("Mon, 23 Nov 2026 10:01:30 UTC", 90.0),
        ("Mon, 23 Nov 2026 10:01:30 Z", 90.0),
        ("Mon, 23 Nov 2026 05:01:30 EST", 90.0),
        ("Mon, 23-Nov-2026 10:01:30 GMT", 90.0),
        ("Mon 23 Nov 2026 10:01:30 GMT", 90.0),
        ("23 Nov 2026 10:01:30 GMT", 90.0),
        ("Mon, 23 Nov 2026 10:00:00 GMT", 0.0),
        ("Mon, 23 Nov 2026 09:59:59 GMT", None),
        ("", None),
        ("-1", None),
        ("-1.5", None),
        ("+1", None),
        ("1.5.2", None),
        (".", None),
        (",", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("soon", None),
        ("\u0663", None),
        ("Mon, 99 Nov 2026 10:00:00 GMT", None),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_reading_retry_after(value: str | None, wait_s: float | None) -> None:
    """Retry-After is seconds or an HTTP date in any of its three forms, as people write them; of several the longest.

    Anything else, or the past, is none.
    """
    assert parse_retry_after(value, NOW) == wait_s


@given(
    value=st.text() | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,9} [A-Z][a-z]{2} [0-9]{1,9} [0-9:]{1,9} [+-][0-9]{1,9}")
)
def test_reading_retry_after_never_raises(value: str) -> None:
    """No header value raises, and a wait is never negative."""
    wait_s = parse_retry_after(value, NOW)
    assert wait_s is None or wait_s >= 0


def test_a_date_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the standard has it, wherever this machine stands."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert parse_retry_after("Thu, 01 Jan 1970 00:10:00 -0000", 540_000) == 60.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_schedule_with_attempts_in_between() -> None:
    """What is waited for is the same in all, and each wait of the schedule ends with an attempt as before."""
    made = at_least_each(1800, DEFAULT.schedule_s)
    assert made[:6] == (0, 5, 300, 1800, 1800, 1800)
    assert max(made) == 1800
    ends = {sum(made[:number]) for number in range(1, len(made) + 1)}
    assert {sum(DEFAULT.schedule_s[:number]) for number in range(1, 11)} <= ends
    assert sum(made) == sum(DEFAULT.schedule_s)
    assert at_least_each(1800, (0,)) == (0,)
