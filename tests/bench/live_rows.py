"""The rows of the live laboratory: what is played, what each is compared with, and what must come of it.

Owns the scenarios and the promises; ``live_lab`` plays them. Printed by ``schedule_lab``. Every poll counts, the one at
age 0 too. Beside each stand, at as many polls:

- a fixed interval for all of its tasks, its first poll after one interval;
- *known before*: the gateway's schedule with what the tasks that taught had said, and no more;
- *full knowledge*: the gateway's schedule with the true distribution.
"""

import logging
import math
import os
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import NamedTuple

import structlog

from gateway.core.ratelimit import RateWindow
from gateway.upstream.distribution import Distribution
from tests.bench.live_lab import Job, Orders, measured, play
from tests.bench.policies import (
    TAUGHT,
    Figures,
    NoJitter,
    figures,
    learn,
    measure_alike,
    policy,
    prices_for,
    round_robin,
    survival_of,
)

__all__ = [
    "SCENARIOS",
    "Compared",
    "Row",
    "Scenario",
    "compare",
    "compared",
    "heading",
    "judge",
    "orders_of",
    "rows",
    "show",
    "verdicts",
]

MEASURED = 500
BURST_S, STEADY_S = 0.02, 2.0
"""Between two registrations."""
_STEPS = 8
"""In so many steps a truth that drifts is known."""
_TRUTH_OF = 40_000

Verdict = tuple[str, float, float]
"""What was promised, in words, what came of it, and how much that must be."""
Fate = tuple[str, float, bool]
"""A task's model, how long it takes (s), and whether it fails."""
Draw = Callable[[random.Random, float], Fate]
"""Draws one, from a random source and how much of the scenario is over (0 to 1)."""


class Promise(NamedTuple):
    least: float
    of: str = "fixed"
    """What the live lag is compared with: a field of ``Compared``."""


class Scenario(NamedTuple):
    draw: Draw
    promises: tuple[Promise, ...]
    taught: int = TAUGHT
    teacher: Draw | None = None
    """Draws what is taught, where that is something else."""
    every_s: float = BURST_S
    steady: bool = False
    """Whether what is measured follows on what has taught, at the same pace."""
    told: bool = False
    rate: tuple[RateWindow, ...] = ()
    restart_s: float | None = None


class Compared(NamedTuple):
    """One run, and what it is compared with at as many polls."""

    live: Figures
    fixed: Figures
    before: Figures | None
    truth: Figures | None

    def ratio(self, of: str) -> float:
        other: Figures | None = getattr(self, of)
        return math.nan if other is None else other.mean_s / self.live.mean_s


def _lognormal(median_s: float, sigma: float) -> Callable[[random.Random], float]:
    return lambda rng: rng.lognormvariate(math.log(median_s), sigma)


def one_peak(rng: random.Random, _: float) -> Fate:
    return "m", _lognormal(32, 0.35)(rng), False


def two_peaks(rng: random.Random, _: float) -> Fate:
    return "m", _lognormal(12, 0.25)(rng) if rng.random() < 0.6 else _lognormal(90, 0.3)(rng), False


def memoryless(rng: random.Random, _: float) -> Fate:
    return "m", rng.expovariate(1 / 30), False


def drifting(rng: random.Random, progress: float) -> Fate:
    return "m", _lognormal(20 + 40 * progress, 0.35)(rng), False


def three_models(rng: random.Random, _: float) -> Fate:
    model, median_s, sigma = rng.choice((("quick", 8, 0.25), ("m", 32, 0.35), ("slow", 120, 0.3)))
    return model, _lognormal(median_s, sigma)(rng), False


def refused_prompts(rng: random.Random, _: float) -> Fate:
    return ("m", _lognormal(2, 0.2)(rng), True) if rng.random() < 0.3 else one_peak(rng, _)


def another_model(rng: random.Random, _: float) -> Fate:
    return "another", _lognormal(90, 0.3)(rng), False


SCENARIOS: Mapping[str, Scenario] = {
    "burst, one peak": Scenario(one_peak, (Promise(1.6),)),
    "burst, two peaks": Scenario(two_peaks, (Promise(1.3), Promise(0.95, "before"))),
    "burst, one peak, model given": Scenario(one_peak, (Promise(1.8),), told=True),
    "burst, two peaks, model given": Scenario(two_peaks, (Promise(1.5),), told=True),
    "first burst of a fresh gateway": Scenario(one_peak, (Promise(1.0),), taught=0),
    "first burst of a new model": Scenario(one_peak, (Promise(1.0),), teacher=another_model),
    "first burst of a new model, model given": Scenario(one_peak, (Promise(1.0),), teacher=another_model, told=True),
    "burst, memoryless": Scenario(memoryless, (Promise(0.97),)),
    "steady, memoryless": Scenario(memoryless, (Promise(0.97),), every_s=STEADY_S, steady=True),
    "steady, mixed models": Scenario(three_models, (Promise(1.7),), every_s=STEADY_S, steady=True),
    # Three times as fast as in the laboratory's own row, and its poll at age 0 counts: 1.57 with what was learned from
    # the ended alone.
    "drift, median 20 s to 60 s": Scenario(drifting, (Promise(1.57),), every_s=STEADY_S, steady=True),
    "2 polls a task": Scenario(one_peak, (Promise(1.9),), every_s=1.0, steady=True, rate=(RateWindow(2, 1.0),)),
    "burst, two peaks, restart amid": Scenario(two_peaks, (Promise(1.0),), restart_s=20.0),
    "burst, three models": Scenario(three_models, (Promise(1.0),)),
    "burst, 30 % refused in 2 s": Scenario(refused_prompts, (Promise(1.0),)),
}


def compare(name: str, seed: int, share: float = 1.0) -> Compared:
    """Play one scenario once, and find what it is compared with; ``share``: with so much of its tasks."""
    orders = orders_of(name, seed, share=share)
    return compared(name, orders, measured(play(orders, seed)))


def orders_of(name: str, seed: int, *, taught_every_s: float = 1.0, share: float = 1.0) -> Orders:
    """Draw a scenario's tasks."""
    scenario = SCENARIOS[name]
    rng = random.Random(f"{name} {seed}")
    teach, count = round(scenario.taught * share), round(MEASURED * share)
    whole = teach + count if scenario.steady else count

    def lot(draw: Draw, first: int, size: int, every_s: float) -> Iterator[Job]:
        for number in range(size):
            model, duration_s, fails = draw(rng, (first + number) / whole)
            yield Job((number + scenario.steady) * every_s, duration_s, model, fails)

    pace_s = scenario.every_s if scenario.steady else taught_every_s
    return Orders(
        list(lot(scenario.teacher or scenario.draw, 0, teach, pace_s)),
        list(lot(scenario.draw, whole - count, count, scenario.every_s)),
        waits=not scenario.steady,
        told=scenario.told,
        rate=scenario.rate,
        restart_s=scenario.restart_s,
    )


def compared(name: str, orders: Orders, live: Figures) -> Compared:
    """Find what a scenario's figures are compared with."""
    scenario, taught, tasks = SCENARIOS[name], orders.taught, orders.measured
    if scenario.rate:
        per_task = scenario.rate[0].limit / scenario.rate[0].window_s * scenario.every_s
        robin = round_robin([task.duration_s for task in (*taught, *tasks)], per_task, len(taught))
        return Compared(live, robin, None, None)
    fixed = at_fixed_interval([task.duration_s for task in tasks], live.polls)
    before = None
    if taught and scenario.teacher is None:
        lots = defaultdict(list)
        for task in taught:
            lots[task.model].append(task.duration_s)
        known = {model: learn(lot) for model, lot in lots.items()}
        before = at_equal_polls(live.polls, [known[task.model] for task in tasks], tasks)
    true = [_true(name, i * _STEPS // len(tasks), task.model) for i, task in enumerate(tasks)]
    return Compared(live, fixed, before, at_equal_polls(live.polls, true, tasks))


@cache
def _truths(name: str, step: int) -> Mapping[str, Distribution]:
    """Return how long each model's tasks take at this step of a scenario, as it is."""
    scenario, rng = SCENARIOS[name], random.Random(77)
    skipped = scenario.taught if scenario.steady else 0
    progress = (skipped + step / _STEPS * MEASURED) / (skipped + MEASURED)
    lots = defaultdict(list)
    for _ in range(_TRUTH_OF):
        model, duration_s, _ = scenario.draw(rng, progress)
        lots[model].append(duration_s)
    return {model: survival_of(lot) for model, lot in lots.items()}


def _true(name: str, step: int, model: str) -> Distribution:
    return _truths(name, step if SCENARIOS[name].draw is drifting else 0)[model]


def at_fixed_interval(durations_s: Sequence[float], polls: float) -> Figures:
    """Measure the interval that takes so many polls a task."""

    def run(interval_s: float) -> Figures:
        needed = [math.ceil(duration_s / interval_s) for duration_s in durations_s]
        lags = [times * interval_s - duration_s for times, duration_s in zip(needed, durations_s, strict=True)]
        return figures(sum(needed), lags)

    low, high = math.log(0.01), math.log(1000.0)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if run(math.exp(middle)).polls > polls else (low, middle)
    return run(math.exp(low))


def at_equal_polls(polls: float, known: Sequence[Distribution], tasks: Sequence[Job]) -> Figures:
    """Measure the gateway's schedule, with what is known of each task, at the prices of so many polls a task."""
    lots: dict[Distribution, list[float]] = defaultdict(list)
    for distribution, task in zip(known, tasks, strict=True):
        lots[distribution].append(task.duration_s)

    def run(price_s: float) -> Figures:
        parts = [(measure_alike(policy(d, price_s, NoJitter()), lot), len(lot)) for d, lot in lots.items()]
        return Figures(*(sum(part[i] * size for part, size in parts) / len(tasks) for i in range(3)))

    low, high, share = prices_for(polls, lambda price_s: run(price_s).polls, 7)
    dear, cheap = run(high), run(low)
    return Figures(*(share * a + (1 - share) * b for a, b in zip(cheap, dear, strict=True)))


class Row(NamedTuple):
    """A scenario over all seeds."""

    name: str
    runs: list[Compared]

    def mean(self, of: str) -> Figures | None:
        found = [figures for run in self.runs if (figures := getattr(run, of)) is not None]
        return Figures(*(statistics.fmean(column) for column in zip(*found, strict=True))) if found else None


def rows(seeds: int, only: Sequence[str] = ()) -> Iterator[Row]:
    """Play the scenarios, each for as many seeds, on every core."""
    names = [name for name in SCENARIOS if not only or any(word in name for word in only)]
    with ProcessPoolExecutor(os.cpu_count(), initializer=_be_quiet) as pool:
        runs = {name: [pool.submit(compare, name, seed) for seed in range(1, seeds + 1)] for name in names}
        for name in names:
            yield Row(name, [run.result() for run in runs[name]])


def _be_quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def heading(seeds: int) -> str:
    """Return what stands above the rows."""
    others = "fixed interval           known before             full knowledge"
    above = f"Every poll counted; means of {seeds} seeds,"
    return (
        f"{above:<67}at as many polls, and their lag over the live one: mean (least)\n"
        f"{'played live':<40}  polls mean lag       p95    {others}"
    )


def show(row: Row) -> str:
    """Return a row in print: what was measured, and the ratios' means over all seeds, with the least."""
    live = row.mean("live")
    assert live is not None
    text = f"{row.name:<40}{live.polls:7.2f}{live.mean_s:7.2f} s{live.p95_s:8.2f} s"
    for of in _OTHERS:
        other = row.mean(of)
        if other is None:
            text += f"{'-':>25}"
        else:
            ratios = [run.ratio(of) for run in row.runs]
            text += f"{other.mean_s:9.2f} s {statistics.fmean(ratios):5.2f} ({min(ratios):4.2f})"
    return text


def verdicts(row: Row) -> Iterator[Verdict]:
    """Yield what is promised of a row: the mean of its seeds has to keep it.

    The least stands beside it: which 500 tasks a seed draws moves full knowledge's own gain by a tenth.
    """
    for wanted, of in SCENARIOS[row.name].promises:
        ratios = [run.ratio(of) for run in row.runs]
        text = f"live, {row.name}: {_OTHERS[of]}; the mean of {len(ratios)} seeds, the least is {min(ratios):.2f}"
        yield text, statistics.fmean(ratios), wanted


def judge(verdicts: Sequence[Verdict]) -> int:
    """Print the verdicts; return the exit status."""
    for text, reached, wanted in verdicts:
        print(f"{'holds' if reached >= wanted else 'FAILS'}  {reached:5.2f} (at least {wanted:.2f})  {text}")
    return 0 if all(reached >= wanted for _, reached, wanted in verdicts) else 1


_OTHERS = {
    "fixed": "gain over a fixed interval",
    "before": "against what was known before",
    "truth": "against full knowledge",
}
