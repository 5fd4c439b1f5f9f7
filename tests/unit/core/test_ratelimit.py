"""The rate limit, held against a server that counts for itself."""

import copy
import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.ratelimit import RateLimiter, RateWindow

Latency = Callable[[], tuple[float, float]]
"""Gives how long a request travels until the server counts it, and then how long its answer takes."""


def run_client(
    limiter: RateLimiter,
    latency: Latency,
    requests: int,
    idle: Callable[[], float] = lambda: 0.0,
    watch: Callable[[RateLimiter, float], None] = lambda limiter, now: None,
) -> list[float]:
    """Send as fast as the limiter lets; return when the server counted each request, in order of sending."""
    now = 0.0
    counted: list[float] = []
    in_flight: list[float] = []
    rounds = 0
    while len(counted) < requests:
        rounds += 1
        assert rounds <= 10 * requests, "the limiter names instants at which nothing is allowed"
        watch(limiter, now)
        for _ in range(limiter.available(now)):
            there, back = latency()
            limiter.start()
            counted.append(now + there)
            heapq.heappush(in_flight, now + there + back)
        watch(limiter, now)
        at = limiter.next_available(now)
        wake_at = math.inf if at is None else at
        if in_flight and in_flight[0] <= wake_at:
            now = max(now, heapq.heappop(in_flight))
            limiter.end(now)
        else:
            assert math.isfinite(wake_at), "nothing is in flight, and nothing will ever be allowed"
            now = wake_at
        now += idle()
        while in_flight and in_flight[0] <= now:
            heapq.heappop(in_flight)
            limiter.end(now)
    return counted


def most_in_any_span(counted: Sequence[float], length_s: float) -> int:
    """Count as a sliding window does: those in the ``length_s`` seconds up to each request."""
    return max(sum(1 for at in counted if end - length_s < at <= end) for end in counted)


def most_in_a_fixed_window(counted: Sequence[float], length_s: float, phase_s: float) -> int:
    """Count as a fixed window does: it starts anew every ``length_s`` seconds."""
    return max(Counter(math.floor((at - phase_s) / length_s) for at in counted).values())


# Multiples of 1/64 s add and subtract exactly, so that the server needs no tolerance.
lengths = st.integers(1, 640).map(lambda n: n / 64)
windows = st.lists(st.builds(RateWindow, limit=st.integers(1, 6), window_s=lengths), min_size=1, max_size=3)


@given(
    limits=windows,
    seed=st.integers(),
    slowest=st.integers(0, 320),
    idlest=st.integers(0, 64),
    phase=st.integers(0, 640),
)
@settings(max_examples=300)
def test_no_window_is_ever_exceeded(limits: list[RateWindow], seed: int, slowest: int, idlest: int, phase: int) -> None:
    """However long requests travel and however the server cuts its windows, it never counts more than the limit."""
    rng = random.Random(seed)
    counted = run_client(
        RateLimiter(limits),
        lambda: (rng.randint(0, slowest) / 64, rng.randint(0, slowest) / 64),
        requests=60,
        idle=lambda: rng.choice([0, 0, rng.randint(0, idlest)]) / 64,
    )
    for window in limits:
        assert most_in_any_span(counted, window.window_s) <= window.limit
        assert most_in_a_fixed_window(counted, window.window_s, phase / 64) <= window.limit


def check_truthful(limiter: RateLimiter, now: float) -> None:
    """Hold ``next_available`` against what ``available`` says then, and just before."""
    at = limiter.next_available(now)
    if at is None:
        assert copy.deepcopy(limiter).available(now + 1e12) == 0
        return
    assert at >= now
    assert copy.deepcopy(limiter).available(at) > 0
    if at > now:
        assert copy.deepcopy(limiter).available(math.nextafter(at, -math.inf)) == 0


@given(
    limits=st.lists(
        st.builds(RateWindow, limit=st.integers(1, 6), window_s=st.floats(0.001, 90)), min_size=1, max_size=3
    ),
    seed=st.integers(),
    blocks=st.lists(st.floats(0, 200), max_size=2),
)
def test_next_available_is_truthful(limits: list[RateWindow], seed: int, blocks: list[float]) -> None:
    """A request is allowed at the very instant that was named and not before; None means that only an end helps."""
    rng = random.Random(seed)
    limiter = RateLimiter(limits)
    for until in blocks:
        limiter.block(until)
    run_client(limiter, lambda: (rng.random(), rng.random() * 3), requests=25, watch=check_truthful)


def test_a_window_is_used_in_full() -> None:
    """The limit is a limit, not a tenth of it: with no latency every window is filled."""
    counted = run_client(RateLimiter([RateWindow(2, 1.0)]), lambda: (0.0, 0.0), requests=8)
    assert counted == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_narrower_window_counts_at_each_moment() -> None:
    """With two windows, the short one spaces the requests until the long one is full."""
    limiter = RateLimiter([RateWindow(2, 1.0), RateWindow(5, 60.0)])
    assert run_client(limiter, lambda: (0.0, 0.0), requests=9) == [0, 0, 1, 1, 2, 60, 60, 61, 61]


def test_a_request_counts_until_a_window_after_its_answer() -> None:
    """The server may have counted a request as late as it answered: its place is free a whole window after that."""
    limiter = RateLimiter([RateWindow(1, 1.0)])
    limiter.start()
    assert limiter.available(100.0) == 0
    assert limiter.next_available(100.0) is None
    limiter.end(100.0)
    assert limiter.available(100.5) == 0
    assert limiter.next_available(100.5) == 101.0
    assert limiter.available(101.0) == 1


def test_what_is_available_shrinks_with_each_start() -> None:
    """Requests in flight take their places at once."""
    limiter = RateLimiter([RateWindow(3, 1.0), RateWindow(10, 60.0)])
    seen = []
    for _ in range(4):
        seen.append(limiter.available(0.0))
        limiter.start()
    assert seen == [3, 2, 1, 0]
    assert limiter.available(0.0) == 0


@pytest.mark.parametrize(("now", "allowed"), [(0.0, 0), (29.9, 0), (30.0, 2), (31.0, 2)])
def test_a_block_holds_until_its_instant(now: float, allowed: int) -> None:
    """When the other side asks for a pause, nothing is sent before its end."""
    limiter = RateLimiter([RateWindow(2, 1.0)])
    limiter.block(30.0)
    assert limiter.available(now) == allowed
    assert limiter.next_available(now) == max(now, 30.0)


def test_a_hold_is_ours_to_end() -> None:
    """The last one counts, and it neither lifts nor outlasts what the other side asked for."""
    limiter = RateLimiter([])
    limiter.hold(30.0)
    assert (limiter.available(29.0), limiter.next_available(29.0), limiter.blocked(29.0)) == (0, 30.0, True)
    limiter.block(10.0)
    limiter.hold(5.0)
    assert (limiter.available(9.0), limiter.next_available(9.0)) == (0, 10.0)
    assert limiter.available(10.0) > 0


def test_a_shorter_block_does_not_lift_a_longer() -> None:
    """Of several pauses the longest holds."""
    limiter = RateLimiter([RateWindow(2, 1.0)])
    limiter.block(30.0)
    limiter.block(10.0)
    assert limiter.available(20.0) == 0
    assert limiter.next_available(0.0) == 30.0


def test_without_windows_nothing_is_held_back() -> None:
    """No configured window means no limit."""
    limiter = RateLimiter([])
    for _ in range(1000):
        limiter.start()
    assert limiter.available(0.0) > 1000
    assert limiter.next_available(0.0) == 0.0


def test_more_in_a_window_than_its_limit() -> None:
    """Where more was sent than the window allows, the next request waits until enough of it has left, not the first."""
    limiter = RateLimiter([RateWindow(2, 10.0)])
    for ended in (1.0, 2.0, 3.0, 4.0):
        limiter.start()
        limiter.end(ended)
    assert limiter.next_available(5.0) == 13.0
    assert limiter.available(12.9) == 0
    assert limiter.available(13.0) == 1


# What the other side names.

FREE = (RateWindow(2, 1.0), RateWindow(60, 60.0))


def test_a_named_limit_holds_for_an_hour_after_it_was_named_last() -> None:
    """A wrong word does not stop the key for a day; a lower tier says it again."""
    limiter = RateLimiter(FREE)
    assert limiter.tighten(1, 86_400.0, 0.0)
    limiter.start()
    assert limiter.available(0.0) == 0
    limiter.end(0.0)
    assert (limiter.available(3599.9), limiter.next_available(10.0), limiter.limited(3599.9)) == (0, 3600.0, True)
    assert not limiter.tighten(1, 86_400.0, 1000.0)  # no news
    assert (limiter.next_available(3600.0), limiter.limited(3600.0)) == (4600.0, True)
    assert (limiter.available(4600.0), limiter.limited(4600.0)) == (2, False)
    assert limiter.rate_per_s == 1.0


@pytest.mark.parametrize(
    ("limit", "length_s"),
    [
        *((2, 1.0), (3, 1.0), (60, 60.0), (61, 60.0), (600, 60.0), (120, 61.0), (3600, 3600.0), (10**9 - 1, 86_400.0)),
        *((2, 0.5), (60, 0.001), (0, 60.0), (-1, 60.0), (1, 0.0), (1, -1.0)),
    ],
)
def test_a_named_limit_that_is_no_lower_is_none(limit: int, length_s: float) -> None:
    """What the configured windows keep to anyway changes nothing, nor does nonsense."""
    limiter = RateLimiter(FREE)
    assert not limiter.tighten(limit, length_s, 0.0)
    assert (limiter.limited(0.0), limiter.rate_per_s) == (False, 1.0)


def test_a_named_limit_becomes_lower_and_not_higher() -> None:
    """Within its hour; what the window has counted it still counts, also what the configured ones have forgotten."""
    limiter = RateLimiter(FREE)
    assert limiter.tighten(30, 600.0, 0.0)
    for at in (0.0, 1.0, 2.0):
        limiter.start()
        limiter.end(at)
    assert not limiter.tighten(40, 600.0, 300.0)
    assert limiter.available(300.0) == 2
    assert limiter.tighten(4, 600.0, 300.0)
    assert limiter.available(300.0) == 1


def test_few_named_windows_hold_and_little_is_remembered_of_them() -> None:
    """Another length in each 429, for ever, and limits without end: neither memory nor time grows with them."""
    limiter = RateLimiter([RateWindow(1_000_000, 1.0)])
    for number in range(300):
        limiter.tighten(900_000 - number, 1.0 + number, 0.0)
        limiter.start(50)
        for _ in range(50):
            limiter.end(0.001 * number)
    assert len(limiter._told) == 3
    assert max(len(window.leaves_at) for window in limiter._told) <= 10_000


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_named_window_counts_as_if_it_had_always_been_there(data: st.DataObject) -> None:
    """Whatever was in flight or over its limit when it came: no request is let go too early, or kept without need."""
    limit, length_s = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([3.0, 7.0, 11.0]))
    limiter, ends, now = RateLimiter([RateWindow(6, 4.0)]), [], 0.0
    named = False
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
        if not named and data.draw(st.booleans()):
            # Where the configured window has forgotten what the named one would count, that is not known.
            ends = [end for end in ends if end > now - 4.0]
            named = limiter.tighten(limit, length_s, now)
        elif limiter.in_flight and data.draw(st.booleans()):
            limiter.end(now)
            ends.append(now)
        elif limiter.available(now):
            limiter.start()
        if named:
            counted = sum(end > now - length_s for end in ends) + limiter.in_flight
            wide = 6 - sum(end > now - 4.0 for end in ends) - limiter.in_flight
            assert limiter.available(now) == max(0, min(limit - counted, wide))


def test_a_long_pause_is_a_limit_too() -> None:
    """Of a minute and more: short ones come and go."""
    limiter = RateLimiter(FREE)
    limiter.block(61.0)
    assert (limiter.limited(0.0), limiter.limited(1.0)) == (True, False)


def test_how_much_is_used_is_told_of_the_fullest_window() -> None:
    """What is in flight counts, what has left the window does not; without limits nothing is ever used."""
    limiter = RateLimiter([RateWindow(2, 1.0), RateWindow(10, 60.0)])
    assert limiter.used(0.0) == 0
    limiter.start()
    assert limiter.used(0.0) == 0.5
    limiter.end(0.0)
    assert limiter.used(0.5) == 0.5
    assert limiter.used(2.0) == 0.1
    assert RateLimiter([]).used(0.0) == 0
