"""From what was seen to a distribution.

Owns the estimate; pure. Called by ``gateway.upstream.durations``.

**Survival** is the product-limit estimate (Kaplan & Meier 1958), S(t) = Π (1 - d/n) over the bins up to t, with n at
risk in each and d ending there: tasks that still run lower the hazard of the ages they have reached, and say nothing of
later ones.

**Smoothing.** The mass by which S falls in a bin is spread evenly over an interval of *logarithmic* time as wide as the
way to its k-th neighbour (nearest-neighbour kernels: Loftsgaarden & Quesenberry 1965; Breiman, Meisel & Purcell 1977).
A narrow peak so stays narrow, and two peaks keep the valley between them, without a word about the shape. The longest
tenth is too few for that and is taken for exponential, with the rate of those that end per second at risk; and so is
the whole, where that is credible: for durations without memory a fixed interval is the best there is, and only the
noise of the estimate could make a worse one.

**What was not seen.** In each step the hazard is the mean of that of the tasks and that of made-up ones (the bases),
each counted with how many are at risk. So where few have come yet, as in the middle of a burst, what is expected
anyway decides.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from gateway.upstream.distribution import Distribution
from gateway.upstream.sightings import RATIO, Sightings, bin_end_s, bin_of

_NARROWEST: Final = 0.01
_WIDEST: Final = 0.7
"""Bounds of a kernel's half-width, in logarithmic time: 1 % and a factor of two."""
_NEIGHBOURS: Final = 2.0
"""k is this times the root of the number of those that ended."""
_LILLIEFORS: Final = 1.06
"""The critical distance from an exponential with the same mean, times the root of the number of durations (1969)."""
_MOST_RUNNING: Final = 0.5
_TAIL_SHARE: Final = 0.1
_TAIL_FROM_TASKS: Final = 20
_TAIL_TASKS: Final = 2
_TAIL_END_TASKS: Final = 0.01
_LEAST_SURVIVAL: Final = 1e-9
_LEAST_RISK: Final = 1e-3
_MASS_POINTS: Final = 80
_TIME_RATIO: Final = 1.08

Bases = Sequence[tuple[Distribution, float]]
"""What is expected anyway, and how many tasks it counts for."""


class _Deaths(NamedTuple):
    """Those that ended in one bin."""

    log_age: float
    mass: float
    """The share of all tasks that they stand for."""
    tasks: float


class _Spread(NamedTuple):
    """A sum of kernels: where it bends, in logarithmic time, and its mass and count up to each of these points."""

    edges: list[float]
    masses: list[float]
    counts: list[float]

    def at(self, age_s: float) -> tuple[float, float]:
        """Return both up to an age above 0."""
        edges, masses, counts = self
        log_age = math.log(age_s)
        i = bisect_right(edges, log_age)
        if i == 0:
            return 0.0, 0.0
        if i == len(edges):
            return masses[-1], counts[-1]
        share = (log_age - edges[i - 1]) / (edges[i] - edges[i - 1])
        return masses[i - 1] + share * (masses[i] - masses[i - 1]), counts[i - 1] + share * (counts[i] - counts[i - 1])


class _Tail(NamedTuple):
    """From where the longest tenth is taken for exponential, with which mean, and how many get there."""

    from_s: float = math.inf
    mean_s: float = 1.0
    at_risk: float = 0.0
    survival: float = 1.0


def estimate(seen: Sightings, bases: Bases) -> Distribution:
    """Mix what was seen with the weighted ``bases``; some 150 points, in about 2 ms."""
    at_risk, ended = seen.counts()
    survival = _product_limit(at_risk, ended)
    deaths = [
        _Deaths(_log_age(i), before - after, count)
        for i, (count, (before, after)) in enumerate(zip(ended, pairwise(survival), strict=True))
        if count > 0 and before > after
    ]
    spread = _kernel_sum(deaths)
    # Those whose ends have faded say no more of the form than if they had never been.
    tasks = seen.ended if sum(ended) >= _TAIL_FROM_TASKS / 2 else 0
    tail = _memoryless(at_risk, ended, survival, tasks) or _tail(at_risk, ended, survival, tasks)
    gone = list(accumulate(ended, initial=0.0))
    base_total = sum(weight for _, weight in bases)

    reached_s = bin_end_s(max((i for i, count in enumerate(at_risk) if count > _LEAST_RISK), default=0))
    end_s = _end_s(bases, base_total)
    if tail.at_risk > 0:
        end_s = max(reached_s, tail.from_s + tail.mean_s * math.log(max(tail.at_risk / _TAIL_END_TASKS, 1.0)))
    elif at_risk:
        end_s = max(end_s, 2 * reached_s)

    def real(age_s: float) -> tuple[float, float]:
        """Return the survival and how many are at risk."""
        if age_s >= tail.from_s:
            left = math.exp((tail.from_s - age_s) / tail.mean_s)
            return tail.survival * left, tail.at_risk * left
        if not at_risk or age_s <= 0:
            return 1.0, at_risk[0] if at_risk else 0.0
        i = min(bin_of(age_s), len(at_risk))
        running = at_risk[i] if i < len(at_risk) else 0.0
        mass, count = spread.at(age_s)
        # Those that ended are taken from it where the kernels have them end.
        running += gone[i] - count
        return 1 - mass, max(running, 0.0)

    ages = _grid(spread, end_s)
    points = [1.0]
    known, running = real(0.0)
    expected = 1.0
    for age, outlive in zip(ages[1:], _outlive(bases, ages[1:]), strict=True):
        next_known, next_running = real(age)
        next_expected = outlive / base_total
        made_up = base_total * expected
        hazard = (running * _fall(known, next_known) + made_up * _fall(expected, next_expected)) / (running + made_up)
        points.append(max(points[-1] * (1 - hazard), _LEAST_SURVIVAL))
        known, running, expected = next_known, next_running, next_expected
    return Distribution(ages, points)


def _product_limit(at_risk: Sequence[float], ended: Sequence[float]) -> list[float]:
    """Return the share that outlives each bin, the first item being that of all."""
    survival = [1.0]
    for running, ends in zip(at_risk, ended, strict=True):
        hazard = min(ends / running, 1.0) if running > _LEAST_RISK else 0.0
        survival.append(survival[-1] * (1 - hazard))
    return survival


def _memoryless(
    at_risk: Sequence[float], ended: Sequence[float], survival: Sequence[float], tasks: int
) -> _Tail | None:
    """Return the whole as a tail where an exponential distribution is credible by Lilliefors' test at 5 %.

    While most are still running it is not asked: the first few ends fit into any distribution.
    """
    if tasks < _TAIL_FROM_TASKS or survival[-1] > _MOST_RUNNING:
        return None
    mean_s = _mean_s(at_risk, ended, 0)
    distance = max(abs(left - math.exp(-bin_end_s(i) / mean_s)) for i, left in enumerate(survival[1:]))
    effective = min(tasks, 2 * max(at_risk))
    return _Tail(0.0, mean_s, at_risk[0]) if distance * math.sqrt(effective) < _LILLIEFORS else None


def _tail(at_risk: Sequence[float], ended: Sequence[float], survival: Sequence[float], tasks: int) -> _Tail:
    """Return from where on the longest tenth of those that ended is, if that much has been seen."""
    if tasks < _TAIL_FROM_TASKS:
        return _Tail()
    gone = list(accumulate(ended))
    first = bisect_right(gone, (1 - _TAIL_SHARE) * gone[-1]) + 1
    if gone[-1] - gone[first - 1] < _TAIL_TASKS:
        return _Tail()
    from_s = bin_end_s(first - 1)
    mean_s = max(_mean_s(at_risk, ended, first), _NARROWEST * from_s)
    return _Tail(from_s, mean_s, at_risk[first], survival[first])


def _mean_s(at_risk: Sequence[float], ended: Sequence[float], first: int) -> float:
    """Return how many seconds at risk there were for each end, from a bin on."""
    seconds = sum(
        (running - ends / 2) * (bin_end_s(i) - (bin_end_s(i - 1) if i else 0.0))
        for i, (running, ends) in enumerate(zip(at_risk[first:], ended[first:], strict=True), first)
    )
    return seconds / sum(ended[first:])


def _kernel_sum(deaths: Sequence[_Deaths]) -> _Spread:
    """Spread the deaths, youngest first, over their kernels."""
    places = list(accumulate((one.tasks for one in deaths), initial=0.0))
    k = max(2.0, _NEIGHBOURS * math.sqrt(places[-1]))
    bends: list[tuple[float, float, float]] = []
    for i, one in enumerate(deaths):
        # The middle one of them is k away from the last of those that the interval has to one side.
        middle = places[i] + one.tasks / 2
        below = bisect_right(places, middle - k) - 1
        above = bisect_right(places, middle + k) - 1
        half = min(
            one.log_age - deaths[below].log_age if below >= 0 else math.inf,
            deaths[above].log_age - one.log_age if above < len(deaths) else math.inf,
        )
        half = min(max(half, _NARROWEST), _WIDEST)
        mass, count = one.mass / (2 * half), one.tasks / (2 * half)
        bends += [(one.log_age - half, mass, count), (one.log_age + half, -mass, -count)]
    bends.sort()
    spread = _Spread([], [], [])
    mass = count = mass_slope = count_slope = 0.0
    for at, more_mass, more_count in bends:
        edges = spread.edges
        if not edges or at > edges[-1]:
            if edges:
                mass += mass_slope * (at - edges[-1])
                count += count_slope * (at - edges[-1])
            edges.append(at)
            spread.masses.append(mass)
            spread.counts.append(count)
        mass_slope += more_mass
        count_slope += more_count
    return spread


def _grid(spread: _Spread, end_s: float) -> list[float]:
    """Choose the ages: close together where much of the mass is, and never far apart for their size."""
    ages = {0.0, end_s}
    age = min(math.exp(spread.edges[0]), 1.0) if spread.edges else 1.0
    while age < end_s:
        ages.add(age)
        age *= _TIME_RATIO
    wanted = 0.0
    for edge, mass in zip(spread.edges, spread.masses, strict=True):
        if mass >= wanted:
            ages.add(min(math.exp(edge), end_s))
            wanted = mass + spread.masses[-1] / _MASS_POINTS
    grid = sorted(ages)
    return [at for i, at in enumerate(grid) if i == 0 or i == len(grid) - 1 or at - grid[i - 1] > 1e-4 * at]


def _end_s(bases: Bases, total: float) -> float:
    """Return the age that an eighth of the bases' tasks outlive, or the last that they tell of."""
    ages = sorted({age for base, _ in bases for age in base.ages_s})
    passed = (age for age, outlive in zip(ages, _outlive(bases, ages), strict=True) if outlive <= total / 8)
    return next(passed, ages[-1])


def _outlive(bases: Bases, ages_s: Sequence[float]) -> list[float]:
    """Return how many of the bases' tasks outlive each of these ages."""
    tasks = [0.0] * len(ages_s)
    for base, weight in bases:
        tasks = [others + weight * share for others, share in zip(tasks, base.at(ages_s)[0], strict=True)]
    return tasks


def _fall(before: float, after: float) -> float:
    return min(max(1 - after / before, 0.0), 1.0) if before > _LEAST_SURVIVAL else 0.0


def _log_age(number: int) -> float:
    """Return the logarithm of the age in a bin's middle."""
    return math.log(bin_end_s(number)) - RATIO / 2
