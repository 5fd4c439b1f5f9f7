"""What the schedule laboratories share: workloads, simple policies, the gateway's own, and how each is measured.

Pure: no loop, no store. Called by ``schedule_lab``, which polls with what is known, and ``live_rows``, which compares
with what the live system does.
"""

import math
import random
import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from gateway.upstream.distribution import Distribution
from gateway.upstream.durations import Durations, of_model
from gateway.upstream.schedule import PollSchedule

MIN_S, MAX_S = 1.0, 30.0
SCHEDULE = PollSchedule(MIN_S, MAX_S)
TAUGHT = 200

Sampler = Callable[[random.Random, float], float]
"""A duration in seconds, from a random source and how much of the experiment is over (0 to 1)."""
Plan = Callable[[float], float]
"""The time until the next poll, from the age at this one."""


class Figures(NamedTuple):
    polls: float
    mean_s: float
    p95_s: float


def lognormal(median_s: float, sigma: float) -> Sampler:
    return lambda rng, _: rng.lognormvariate(math.log(median_s), sigma)


class NoJitter(random.Random):
    """For the search for a price, which wants the same answer twice."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def fixed(interval_s: float) -> Plan:
    return lambda _: interval_s


def backoff(age_s: float) -> float:
    """1 s, doubled each time, up to 30 s: polls at the ages 1, 3, 7, 15, 31, 61 …"""
    return min(age_s + 1, MAX_S)


def policy(distribution: Distribution, price_s: float, rng: random.Random) -> Plan:
    return lambda age_s: SCHEDULE.next_delay_s(distribution, age_s, price_s, rng)


def measure(plans: Iterable[Plan], durations_s: Sequence[float]) -> Figures:
    """Poll each task by its plan until its end is noticed."""
    polls = 0
    lags = []
    for plan, duration_s in zip(plans, durations_s, strict=True):
        age_s = 0.0
        while age_s < duration_s:
            age_s += plan(age_s)
            polls += 1
        lags.append(age_s - duration_s)
    return figures(polls, lags)


def measure_alike(plan: Plan, durations_s: Sequence[float]) -> Figures:
    """Do the same for a plan without chance, whose polls come at the same ages for every task: much faster."""
    ages = [plan(0.0)]
    while ages[-1] < max(durations_s):
        ages.append(ages[-1] + plan(ages[-1]))
    at = [bisect_left(ages, duration_s) for duration_s in durations_s]
    return figures(sum(at) + len(at), [ages[i] - duration_s for i, duration_s in zip(at, durations_s, strict=True)])


def figures(polls: int, lags_s: list[float]) -> Figures:
    lags_s.sort()
    return Figures(polls / len(lags_s), statistics.fmean(lags_s), lags_s[int(0.95 * len(lags_s))])


def mean(results: Sequence[Figures]) -> Figures:
    return Figures(*(statistics.fmean(column) for column in zip(*results, strict=True)))


def prices_for(polls: float, run: Callable[[float], float], halvings: int = 12) -> tuple[float, float, float]:
    """Find the prices at which tasks cost so many polls each: the polls go up in leaps as the price falls, so these are
    the two beside the leap, and the share of tasks that must have the lower one. ``run`` counts the polls at a price.
    """
    low, high = math.log(1e-3), math.log(MAX_S)
    polls_low, polls_high = run(math.exp(low)), run(math.exp(high))
    for _ in range(halvings):
        middle = (low + high) / 2
        reached = run(math.exp(middle))
        if reached > polls:
            low, polls_low = middle, reached
        else:
            high, polls_high = middle, reached
    share = (polls - polls_high) / (polls_low - polls_high) if polls_low > polls > polls_high else 0.0
    return math.exp(low), math.exp(high), share


def at_polls(polls: float, run: Callable[[Sequence[float]], Figures], count: int) -> list[float]:
    """Deal out to ``count`` tasks the two prices at which they cost so many polls each, in the right proportion."""
    low, high, share = prices_for(polls, lambda price_s: run([price_s] * count).polls)
    golden = (math.sqrt(5) - 1) / 2
    return [low if i * golden % 1 < share else high for i in range(count)]


def tasks(sampler: Sampler, count: int, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [sampler(rng, i / count) for i in range(count)]


def learn(durations_s: Iterable[float]) -> Distribution:
    durations = Durations()
    for duration_s in durations_s:
        durations.ended(of_model("m"), 0.0, duration_s)
    return durations.distribution(of_model("m"), 0.0)


def known(sampler: Sampler, progress: float = 0.0, count: int = 50_000) -> Distribution:
    """The distribution as it is: from so many tasks that no more is left to learn."""
    rng = random.Random(77)
    return survival_of([sampler(rng, progress) for _ in range(count)])


def survival_of(durations_s: Iterable[float]) -> Distribution:
    """The distribution of very many durations, finely divided."""
    ranked = sorted(durations_s)
    count = len(ranked)
    last = ranked[int(count * 0.9995)]
    ages = sorted({0.0, *(last * i / 1000 for i in range(1, 1001)), *ranked[: int(count * 0.999) : count // 500]})
    return Distribution(ages, [max(1 - bisect_left(ranked, age) / count, 1e-9) for age in ages])


def equal_polls(
    polls: float, distributions: Sequence[Distribution], durations_s: Sequence[float], rng: random.Random
) -> Figures:
    """Measure the gateway's schedule, with what is known of each task, at the price of so many polls."""

    def run(prices: Sequence[float], rng: random.Random) -> Figures:
        plans = (policy(known, price_s, rng) for known, price_s in zip(distributions, prices, strict=True))
        return measure(plans, durations_s)

    def search(prices: Sequence[float]) -> Figures:
        if len(set(distributions)) == 1:
            return measure_alike(policy(distributions[0], prices[0], NoJitter()), durations_s)
        return run(prices, NoJitter())

    return run(at_polls(polls, search, len(durations_s)), rng)


class Watched:
    """A task in the experiment with a short budget."""

    def __init__(self, started_at: float, duration_s: float) -> None:
        self.started_at = started_at
        self.ends_at = started_at + duration_s
        self.last_poll_age_s = 0.0


def round_robin(durations_s: Sequence[float], polls_per_task: float, uncounted: int = 0) -> Figures:
    """One task starts each second; the budget goes round all of them in turn. The first ``uncounted`` do not count."""
    queue: deque[Watched] = deque()
    lags: list[float] = []
    polls = started = slot = 0
    while queue or started < len(durations_s):
        slot += 1
        now = slot / polls_per_task
        while started < len(durations_s) and started <= now:
            queue.append(Watched(started, durations_s[started]))
            started += 1
        if not queue:
            continue
        task = queue.popleft()
        counts = task.started_at >= uncounted
        polls += counts and started < len(durations_s)
        if task.ends_at > now:
            queue.append(task)
        elif counts:
            lags.append(now - task.ends_at)
    return figures(polls, lags)
