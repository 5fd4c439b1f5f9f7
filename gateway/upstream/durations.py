"""How long tasks take: learned per model from those that have ended.

Owns the estimate; pure: the time is passed in. Must not decide when to poll (``gateway.upstream.schedule``). Called by
``gateway.upstream.timetable``, which reports each ended task and asks for the distribution of the next one.

**Learning.** A model keeps its last ``KEPT_DURATIONS``; a duration weighs half as much as one ``HALF_LIFE`` tasks
later, so that drift is followed. Each is spread evenly over an interval of *logarithmic* time as wide as the way to its
k-th neighbour (nearest-neighbour kernels: Loftsgaarden & Quesenberry 1965; Breiman, Meisel & Purcell 1977). A narrow
peak so stays narrow, and two peaks keep the valley between them, without a word about the shape. The longest tenth is
too few for that and is taken for exponential; and so is the whole, where that is credible: for durations without memory
a fixed interval is the best there is, and only the noise of the estimate could make a worse one.

**Prior.** The durations are mixed with ``PRIOR_TASKS`` made-up ones: one half from what the upstream's models take
together, one half from a broad lognormal (median 30 s, a factor 3.3 up or down for one standard deviation). They are
all there is for a model never seen, and are outweighed after a handful of tasks.

**Cost.** A distribution is some 150 points, made on demand in about 2 ms, and made anew only when a good part of what
it rests on is new, and then not within ``REBUILD_S``. Of more models than ``KEPT_MODELS`` the longest unheard of are
forgotten.
"""

import math
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import mul
from typing import Final

from gateway.core.model import KEPT_DURATIONS, KEPT_MODELS

__all__ = ["Distribution", "Durations"]

HALF_LIFE: Final = 128
PRIOR_TASKS: Final = 2.0
REBUILD_S: Final = 10.0
_EAGER_TASKS: Final = 64
"""Up to this many tasks seen, each one changes the picture: ``REBUILD_S`` does not apply."""
_SHORTEST_S: Final = 0.05
_LONGEST_S: Final = 2_592_000.0
"""The longest a callback may wait; anything beyond is a mistake of a clock."""
_NARROWEST: Final = 0.01
_WIDEST: Final = 0.7
"""Bounds of a kernel's half-width, in logarithmic time: 1 % and a factor of two."""
_NEIGHBOURS: Final = 2.5
"""k is this times the root of the number of durations."""
_LILLIEFORS: Final = 1.06
"""The critical distance from an exponential with the same mean, times the root of the number of durations (1969)."""
_TAIL_SHARE: Final = 0.1
_TAIL_FROM_TASKS: Final = 20
_TAIL_END_TASKS: Final = 0.01
_LEAST_SURVIVAL: Final = 1e-9
_MASS_POINTS: Final = 80
_TIME_RATIO: Final = 1.08


class Distribution:
    """The distribution of a duration: its survival function, linear between points and exponential after the last.

    Immutable, and equal only to itself, so that what is computed from it can be kept by its identity.
    """

    __slots__ = ("ages_s", "area_s", "end_s", "survival")

    def __init__(self, ages_s: Sequence[float], survival: Sequence[float]) -> None:
        """Take ages (s, ascending from 0) and the share of tasks that take longer than each, from 1 and never 0."""
        self.ages_s = tuple(ages_s)
        self.survival = tuple(survival)
        steps = (
            (t1 - t0) * (s0 + s1) / 2
            for t0, t1, s0, s1 in zip(self.ages_s, self.ages_s[1:], self.survival, self.survival[1:], strict=False)
        )
        self.area_s = tuple(accumulate(steps, initial=0.0))
        """The integral of the survival function from 0 to each age."""
        self.end_s = self.ages_s[-1]
        """A task older than this has outlived all that was seen."""

    def survival_at(self, age_s: float) -> float:
        """Return the share of tasks that take longer than ``age_s``."""
        if age_s >= self.end_s:
            return max(self.survival[-1] * math.exp((self.end_s - age_s) / self.end_s), 1e-300)
        return self._within(max(age_s, 0.0))[0]

    def area_at_s(self, age_s: float) -> float:
        """Return the integral of the survival function from 0 to ``age_s``: the mean of min(duration, age)."""
        if age_s >= self.end_s:
            return self.area_s[-1] - self.survival[-1] * self.end_s * math.expm1((self.end_s - age_s) / self.end_s)
        return self._within(max(age_s, 0.0))[1]

    def expected_unnoticed_s(self, last_poll_age_s: float, age_s: float) -> float:
        """Return E[(age - D)+ | D > last_poll_age], D the duration: what a poll now is worth, in seconds of lag.

        It ranks tasks where the budget is short: the most valuable poll comes first. Where nothing has been heard of a
        task yet, ``last_poll_age_s`` is 0.
        """
        if age_s <= last_poll_age_s:
            return 0.0
        alive = self.survival_at(last_poll_age_s)
        return (age_s - last_poll_age_s) - (self.area_at_s(age_s) - self.area_at_s(last_poll_age_s)) / alive

    def _within(self, age_s: float) -> tuple[float, float]:
        i = bisect_right(self.ages_s, age_s)
        t0, t1, s0, s1 = self.ages_s[i - 1], self.ages_s[i], self.survival[i - 1], self.survival[i]
        survival = s0 + (s1 - s0) * (age_s - t0) / (t1 - t0)
        return survival, self.area_s[i - 1] + (age_s - t0) * (s0 + survival) / 2


class Durations:
    """What is known of the durations of one upstream's tasks. About 10 kB a model at most."""

    def __init__(self) -> None:
        self._models: OrderedDict[str | None, _Samples] = OrderedDict()
        self._pool = _Samples()
        self._unknown = _Samples()

    def observe(self, model: str | None, duration_s: float) -> None:
        """Learn from one ended task, in microseconds; at a start, from the stored ones, newest last.

        ``None`` stands for a task whose model is not known, and its duration for the time from its registration: what
        the first poll needs. It does not count towards the models' pool.
        """
        if not math.isfinite(duration_s) or duration_s > _LONGEST_S:
            return
        duration_s = max(duration_s, _SHORTEST_S)
        self._window(model).add(duration_s)
        if model is not None:
            self._pool.add(duration_s)

    def seen(self, model: str | None) -> int:
        """Return how many tasks of a model have been learned from."""
        window = self._models.get(model)
        return 0 if window is None else window.seen

    def distribution(self, model: str | None, now_s: float) -> Distribution:
        """Return the present estimate for a model, known or not; ``now_s`` is any steady clock, in seconds."""
        window = self._models.get(model)
        if window is None:
            # Shared: asking must neither make a model known nor push another one out; names come from outside.
            window = self._unknown
            window.seen = self._pool.seen
        if not window.stale(now_s):
            return window.distribution
        pool = self._pool
        if pool.stale(now_s):
            pool.rebuild([(_PRIOR, PRIOR_TASKS)], now_s)
        window.rebuild([(pool.distribution, PRIOR_TASKS / 2), (_PRIOR, PRIOR_TASKS / 2)], now_s)
        return window.distribution

    def _window(self, model: str | None) -> "_Samples":
        window = self._models.get(model)
        if window is None:
            window = self._models[model] = _Samples()
            if len(self._models) > KEPT_MODELS:
                self._models.popitem(last=False)
        else:
            self._models.move_to_end(model)
        return window


class _Samples:
    """The last durations of one model, and the distribution that was made of them."""

    __slots__ = ("_built_s", "_built_seen", "_durations_s", "distribution", "seen")

    def __init__(self) -> None:
        self._durations_s: deque[float] = deque(maxlen=KEPT_DURATIONS)
        self.seen = 0
        self._built_seen = -1
        self._built_s = 0.0
        self.distribution = _PRIOR

    def add(self, duration_s: float) -> None:
        self._durations_s.append(duration_s)
        self.seen += 1

    def stale(self, now_s: float) -> bool:
        if self._built_seen < 0:
            return True
        new = self.seen - self._built_seen
        return new > len(self._durations_s) // 8 and (
            self._built_seen < _EAGER_TASKS or now_s - self._built_s >= REBUILD_S
        )

    def rebuild(self, bases: Sequence[tuple[Distribution, float]], now_s: float) -> None:
        self.distribution = _estimate(self._durations_s, bases)
        self._built_seen, self._built_s = self.seen, now_s


def _estimate(durations_s: Iterable[float], bases: Sequence[tuple[Distribution, float]]) -> Distribution:
    """Mix the kernels of the durations (newest last) with the weighted ``bases``."""
    samples = list(durations_s)
    decay = 0.5 ** (1 / HALF_LIFE)
    weights = [decay**age for age in range(len(samples) - 1, -1, -1)]
    edges, masses = _kernel_sum([math.log(sample) for sample in samples], weights)
    seen = masses[-1] if masses else 0.0
    tail_from_s, tail_mean_s = _tail(samples, weights)
    tail_mass = seen - _mass_at(edges, masses, tail_from_s) if len(samples) >= _TAIL_FROM_TASKS else 0.0
    # Few tasks seen: as far as the bases reach. Else as far as the tail does: were it cut at the longest, the one task
    # in many that takes longer would be noticed so late as to spoil the mean.
    end_s = _end_s(bases)
    if tail_mass > 0:
        end_s = max(max(samples), tail_from_s + tail_mean_s * math.log(tail_mass / _TAIL_END_TASKS))
    elif samples:
        end_s = max(end_s, 2 * max(samples))
    total = seen + sum(weight for _, weight in bases)
    mean_s = _memoryless_mean_s(samples, weights)
    ages = _grid(edges, masses, end_s)
    survival = [1.0]
    for age in ages[1:]:
        if mean_s is not None:
            left = seen * math.exp(-age / mean_s)
        elif age > tail_from_s:
            left = tail_mass * math.exp((tail_from_s - age) / tail_mean_s)
        else:
            left = seen - _mass_at(edges, masses, age)
        left += sum(weight * base.survival_at(age) for base, weight in bases)
        survival.append(min(max(left / total, _LEAST_SURVIVAL), survival[-1]))
    return Distribution(ages, survival)


def _memoryless_mean_s(samples: list[float], weights: list[float]) -> float | None:
    """Return the mean where an exponential distribution is credible by Lilliefors' test at 5 %, else None."""
    if len(samples) < _TAIL_FROM_TASKS:
        return None
    total = sum(weights)
    mean_s = sum(map(mul, weights, samples)) / total
    below = distance = 0.0
    for sample, weight in sorted(zip(samples, weights, strict=True)):
        expected = -math.expm1(-sample / mean_s)
        distance = max(distance, expected - below)
        below += weight / total
        distance = max(distance, below - expected)
    effective = total**2 / sum(map(mul, weights, weights))
    return mean_s if distance * math.sqrt(effective) < _LILLIEFORS else None


def _tail(samples: list[float], weights: list[float]) -> tuple[float, float]:
    """Return where the longest tenth begins, and by how much it lasts longer on average, both in seconds."""
    if len(samples) < _TAIL_FROM_TASKS:
        return math.inf, 1.0
    wanted = _TAIL_SHARE * sum(weights)
    mass = moment = 0.0
    for sample, weight in sorted(zip(samples, weights, strict=True), reverse=True):
        mass += weight
        moment += weight * sample
        if mass >= wanted:
            break
    return sample, max(moment / mass - sample, _NARROWEST * sample)


def _mass_at(edges: list[float], masses: list[float], age_s: float) -> float:
    """Return the kernels' mass up to an age above 0."""
    log_age = math.log(age_s)
    i = bisect_right(edges, log_age)
    if i == 0:
        return 0.0
    if i == len(edges):
        return masses[-1]
    share = (log_age - edges[i - 1]) / (edges[i] - edges[i - 1])
    return masses[i - 1] + share * (masses[i] - masses[i - 1])


def _kernel_sum(logs: list[float], weights: list[float]) -> tuple[list[float], list[float]]:
    """Return where the kernels' summed distribution bends, ascending, and its mass up to each of these points."""
    n = len(logs)
    order = sorted(range(n), key=logs.__getitem__)
    ranked = [logs[i] for i in order]
    k = max(2, round(_NEIGHBOURS * math.sqrt(n)))
    bends: list[tuple[float, float]] = []
    for rank, sample in enumerate(order):
        at = ranked[rank]
        below = at - ranked[rank - k] if rank >= k else math.inf
        above = ranked[rank + k] - at if rank + k < n else math.inf
        half = min(max(min(below, above), _NARROWEST), _WIDEST)
        slope = weights[sample] / (2 * half)
        bends += [(at - half, slope), (at + half, -slope)]
    bends.sort()
    edges: list[float] = []
    masses: list[float] = []
    slope = mass = 0.0
    for at, change in bends:
        if edges and at > edges[-1]:
            mass += slope * (at - edges[-1])
        if not edges or at > edges[-1]:
            edges.append(at)
            masses.append(mass)
        else:
            masses[-1] = mass
        slope += change
    return edges, masses


def _grid(edges: list[float], masses: list[float], end_s: float) -> list[float]:
    """Choose the ages: close together where much of the mass is, and never far apart for their size."""
    ages = {0.0, end_s}
    age = min(math.exp(edges[0]), 1.0) if edges else 1.0
    while age < end_s:
        ages.add(age)
        age *= _TIME_RATIO
    wanted = 0.0
    for edge, mass in zip(edges, masses, strict=True):
        if mass >= wanted:
            ages.add(min(math.exp(edge), end_s))
            wanted = mass + masses[-1] / _MASS_POINTS
    grid = sorted(ages)
    return [at for i, at in enumerate(grid) if i == 0 or i == len(grid) - 1 or at - grid[i - 1] > 1e-4 * at]


def _end_s(bases: Sequence[tuple[Distribution, float]]) -> float:
    """Return the age that an eighth of the bases' tasks outlive."""
    limit = sum(weight for _, weight in bases) / 8
    ages = sorted({age for base, _ in bases for age in base.ages_s})
    return next(age for age in ages if sum(weight * base.survival_at(age) for base, weight in bases) <= limit)


def _lognormal(median_s: float, sigma: float) -> Distribution:
    ages = [0.0] + [median_s * math.exp(sigma * z / 10) for z in range(-30, 31)]
    return Distribution(ages, [1.0] + [math.erfc(z / 10 / math.sqrt(2)) / 2 for z in range(-30, 31)])


_PRIOR: Final = _lognormal(30.0, 1.2)
