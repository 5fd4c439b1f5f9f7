"""When a task is polled next, and what a poll costs."""

import math
import random

import pytest

from gateway.upstream.distribution import Distribution
from gateway.upstream.durations import Durations, of_model
from gateway.upstream.schedule import FLOOR_PRICE_S, PollPrice, PollSchedule
from tests.bench import schedule_lab as lab

SCHEDULE = PollSchedule(1.0, 30.0)


def taught(*durations_s: float) -> Distribution:
    durations = Durations()
    for duration_s in durations_s:
        durations.ended(of_model("m"), 0.0, duration_s)
    return durations.distribution(of_model("m"), 0.0)


def exponential(mean_s: float) -> Distribution:
    ages = [mean_s * step / 100 for step in range(1000)]
    return Distribution(ages, [math.exp(-age / mean_s) for age in ages])


def delay(distribution: Distribution, age_s: float, price_s: float = FLOOR_PRICE_S) -> float:
    return SCHEDULE.next_delay_s(distribution, age_s, price_s, lab.NoJitter())


@pytest.mark.parametrize("price_s", [1e-4, FLOOR_PRICE_S, 3.75, 1e4])
@pytest.mark.parametrize("age_s", [-5.0, 0.0, 0.3, 29.9, 31.0, 75.0, 1e7])
def test_delay_is_within_the_bounds(age_s: float, price_s: float) -> None:
    """Whatever the age and the price, no sooner than min_s and no later than max_s."""
    rng = random.Random(1)
    for distribution in (taught(), taught(0.0), taught(*[30.0] * 100), taught(1e6)):
        for _ in range(20):
            assert 1.0 <= SCHEDULE.next_delay_s(distribution, age_s, price_s, rng) <= 30.0


@pytest.mark.parametrize("bounds", [(0.05, 0.2), (5.0, 5.0), (1.0, 3600.0)])
def test_any_bounds_work(bounds: tuple[float, float]) -> None:
    """Narrow, equal or very wide bounds are kept, with durations far above and far below them."""
    schedule = PollSchedule(*bounds)
    for distribution in (taught(*[0.1] * 50), taught(*[5000.0] * 50)):
        for age_s in (0.0, 0.09, 1.0, 4990.0):
            assert bounds[0] <= schedule.next_delay_s(distribution, age_s, 0.25, random.Random(1)) <= bounds[1]


def test_task_that_outlives_everything_is_asked_about_at_the_upper_bound() -> None:
    """Past all that was seen it is max_s, for ever."""
    distribution = taught(*lab.tasks(lab.lognormal(32, 0.35), 200, 1))
    for age_s in (distribution.end_s, 1000.0, 1e6):
        assert SCHEDULE.next_delay_s(distribution, age_s, FLOOR_PRICE_S, random.Random(1)) == 30.0


def test_first_poll_waits_until_it_can_pay() -> None:
    """Tasks that take 30 s, give or take half a second, are first asked about at 30 s."""
    rng = random.Random(2)
    distribution = taught(*[rng.gauss(30, 0.5) for _ in range(200)])
    assert 29 <= SCHEDULE.next_delay_s(distribution, 0.0, FLOOR_PRICE_S, rng) <= 30


def test_valley_between_two_peaks_is_left_alone() -> None:
    """A task that has outlived the peak at 12 s is left alone for max_s, and polled often around 90 s."""
    distribution = taught(*lab.tasks(lab.two_peaks, 200, 3))
    assert delay(distribution, 24.0) > 25
    assert delay(distribution, 90.0) < 5


@pytest.mark.parametrize("price_s", [0.1, 0.5, 2.0])
def test_memoryless_durations_get_the_known_optimum(price_s: float) -> None:
    """For exponential durations a fixed interval is best, that of least (price + interval) / (1 - e^(-interval/mean)).

    That is the cost of a task, but for a constant: each poll ends the matter with probability 1 - e^(-interval/mean).
    """
    mean_s = 40.0
    best_s = min(
        (step / 100 for step in range(100, 3000)),
        key=lambda interval_s: (price_s + interval_s) / -math.expm1(-interval_s / mean_s),
    )
    for age_s in (0.0, 13.0, 60.0):
        assert delay(exponential(mean_s), age_s, price_s) == pytest.approx(best_s, rel=0.15)


def test_dearer_polls_are_fewer() -> None:
    """A higher price never makes for more polls over a task's life."""
    distribution = taught(*lab.tasks(lab.lognormal(32, 0.35), 200, 1))
    durations_s = lab.tasks(lab.lognormal(32, 0.35), 500, 2)
    polls = [
        lab.measure_alike(lab.policy(distribution, price_s, lab.NoJitter()), durations_s).polls
        for price_s in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    ]
    assert polls == sorted(polls, reverse=True)
    assert polls[0] > 2.5 * polls[-1]


def test_same_seed_gives_the_same_delay_and_another_does_not() -> None:
    """All chance comes from the source passed in; it moves the delay by no more than an eighth of min_s."""
    distribution = taught()
    delays = [SCHEDULE.next_delay_s(distribution, 20.0, FLOOR_PRICE_S, random.Random(seed)) for seed in (1, 1, 2)]
    assert delays[0] == delays[1] != delays[2]
    assert max(delays) - min(delays) <= 0.25


def test_failed_polls_back_off_within_the_bounds() -> None:
    """min_s doubled for each failure in a row, at most a tenth more, never over max_s."""
    rng = random.Random(1)
    for failures, least_s in ((1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0)):
        assert least_s <= SCHEDULE.failed_delay_s(failures, 30.0, rng) <= least_s * 1.1
    assert SCHEDULE.failed_delay_s(5, 30.0, rng) == 30.0
    assert SCHEDULE.failed_delay_s(10_000, 300.0, rng) == 300.0


def run_price(price: PollPrice, seconds: int, tasks: int, budget_per_s: float, at_s: int = 0) -> tuple[float, float]:
    """Poll so many memoryless tasks for ever, never over the budget; return polls/s and lateness of the second half."""
    distribution, rng = exponential(30.0), random.Random(1)
    due = [at_s + rng.random() for _ in range(tasks)]
    polls, late = 0, []
    for slot in range(round(seconds * budget_per_s)):
        now = at_s + slot / budget_per_s
        first = min(range(tasks), key=due.__getitem__)
        if due[first] > now:
            continue
        if now >= at_s + seconds / 2:
            polls += 1
            late.append(now - due[first])
        price.polled(now, now - due[first], budget_per_s)
        due[first] = now + SCHEDULE.next_delay_s(distribution, rng.uniform(0, 60), price.price_s, rng)
    return polls / (seconds / 2), sum(late) / len(late)


def test_ample_budget_leaves_the_price_at_its_floor() -> None:
    """Few tasks and much budget: the floor keeps the polls to what is worth it."""
    price = PollPrice(30.0)
    rate_per_s, _ = run_price(price, 600, tasks=10, budget_per_s=10.0)
    assert price.price_s == FLOOR_PRICE_S
    assert not price.short
    assert rate_per_s < 4


@pytest.mark.parametrize("budget_per_s", [0.5, 1.0, 5.0])
def test_short_budget_raises_the_price_until_the_polls_fit(budget_per_s: float) -> None:
    """Twice as much demand as budget: the polls settle at nine tenths of it, and none waits long."""
    tasks = round(budget_per_s * 8)
    rate_per_s, late_s = run_price(PollPrice(30.0), 1800, tasks, budget_per_s)
    assert 0.8 * budget_per_s < rate_per_s < 0.95 * budget_per_s
    assert late_s < 2 / budget_per_s


def test_price_is_bounded_and_falls_back_when_the_rush_is_over() -> None:
    """A thousand tasks too many: an eighth of max_s, no more; once they are gone, the floor again, by itself."""
    price = PollPrice(30.0)
    run_price(price, 900, tasks=1000, budget_per_s=1.0)
    assert price.price_s == pytest.approx(30 / 8, rel=0.05)
    assert price.short
    run_price(price, 900, tasks=1, budget_per_s=1.0, at_s=900)
    assert price.price_s == FLOOR_PRICE_S


def test_one_very_late_poll_does_not_throw_the_price() -> None:
    """A poll that is an hour late, because the gateway was down, moves the price by little."""
    price = PollPrice(30.0)
    for now in range(0, 300, 5):
        price.polled(float(now), 0.0, 1.0)
    price.polled(301.0, 3600.0, 1.0)
    price.polled(302.0, 0.0, 1.0)
    assert price.price_s < 1.3 * FLOOR_PRICE_S


def test_price_survives_a_clock_that_stands_still() -> None:
    """Many polls at one instant are many polls, not a division by nothing."""
    price = PollPrice(30.0)
    for _ in range(100):
        price.polled(5.0, 0.0, 1.0)
    price.polled(6.0, 0.0, 1.0)
    assert price.price_s >= FLOOR_PRICE_S


@pytest.mark.parametrize(
    ("name", "gain"),
    [(lab.LOGNORMAL, 1.7), (lab.TWO_PEAKS, 1.3), *((name, 1 / lab.TIE) for name in list(lab.WORKLOADS)[2:])],
)
def test_at_equal_polls_the_lag_is_below_that_of_a_fixed_interval(name: str, gain: float) -> None:
    """After 200 tasks, with as many polls as every 5 s makes: the promise of the laboratory, in short."""
    sampler = lab.WORKLOADS[name]
    count, learners = (1500, 6) if name == lab.LOGNORMAL else (500, 3)  # the gain nearest to its promise: less chance
    durations_s = lab.tasks(sampler, count, 1)
    fixed = lab.measure_alike(lab.fixed(5.0), durations_s)
    _, learned = lab.learned(sampler, fixed.polls, durations_s, learners)
    assert learned.polls <= fixed.polls * 1.02
    assert fixed.mean_s / learned.mean_s >= gain


@pytest.mark.parametrize("name", [lab.LOGNORMAL, lab.TWO_PEAKS])
def test_short_budget_is_spent_better_than_in_turn(name: str) -> None:
    """Two polls per task in all: the most valuable first has at most 1/1.4 of round-robin's lag."""
    robin, value = lab.short_budget(lab.WORKLOADS[name], 800)
    assert value.polls <= robin.polls
    assert robin.mean_s / value.mean_s >= 1.4
