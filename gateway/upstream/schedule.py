"""When to poll a task next, and what a poll may cost.

Owns the policy; pure: age, time and random source are passed in. Must neither learn how long tasks take
(``gateway.upstream.durations``) nor keep to a limit (``gateway.core.ratelimit``). Called by
``gateway.upstream.timetable``.

**The schedule.** Let D be how long a task takes, S(t) = P(D > t). Polls at the ages t1 < t2 < … notice its end at the
first of them that is not before D; the time between is its lag. What is minimised is

    E[lag] + price · E[polls],

with the ``price`` in seconds of lag that one poll is worth: one number for all tasks of a key, so that every poll is
spent where it saves most, whatever the model. With W(a) the least cost to come from age a on, times S(a), the next
poll after a is at the age b that attains

    W(a) = min { price · S(a) + ∫ₐᵇ (S(a) - S(x)) dx + W(b)  :  min_s <= b - a <= max_s },

solved backwards from the age that outlives all that was seen; from there on a task is asked about after half of its
age, at most every ``max_s``.

Sources: Barlow, Hunter & Proschan, "Optimum checking procedures" (1963) for the cost and its recursion; Keller,
"Optimum checking schedules for systems subject to random failure" (1974) for the approximation by a density of polls,
n(t) = √(h(t) / (2 · price)), where h is the hazard. The density says here only how finely the ages are divided: as a
schedule of its own it is within 5 % of this one for a single peak, but at equal polls had 1.7 times its lag for two.

**The price.** An ample budget is not burnt for nothing: the price does not fall below ``FLOOR_PRICE_S``, at which a
task costs about as many polls as a fixed interval of 5 s would. A short budget raises it, see ``PollPrice``; where more
is due all the same than may be sent, the next poll goes to the task with the most expected unnoticed time
(``Distribution.expected_unnoticed_s``). For a steady hazard h and the best interval √(2 · price / h) that time is the
price itself: both rules say the same.
"""

import math
import random
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise, repeat
from operator import add, mul
from typing import Final

import msgspec

from gateway.upstream.distribution import Distribution

FLOOR_PRICE_S: Final = 0.25
_BUDGET_SHARE: Final = 0.9
"""How much of the budget the price aims to use; the rest takes up what chance adds."""
_CEILING_SHARE: Final = 1 / 8
_RUNG: Final = 1.1
"""Prices are rounded to powers of this, so that a schedule is made once for many polls; costs 0.1 % of the optimum."""
_SMOOTH_S: Final = 30.0
_SMOOTH_POLLS: Final = 20.0
_AGES_PER_POLL: Final = 6
_AGE_RATIO: Final = 1 / 300
"""Ages need not lie closer together than this share of themselves: bounds their number, one outlier or not."""
_JITTER: Final = 0.125
"""Of ``min_s``, up or down: tasks that were registered together drift apart, and no peak is missed for it."""


class PollSchedule(msgspec.Struct, frozen=True):
    """The bounds, in seconds, of the time between two polls of one task."""

    min_s: float
    max_s: float

    def next_delay_s(self, distribution: Distribution, age_s: float, price_s: float, rng: random.Random) -> float:
        """Return how long to wait after an answer that said "still running", or, at age 0, before the first poll.

        Takes microseconds; some milliseconds where the distribution or the price is new.
        """
        age_s = max(age_s, 0.0)
        if age_s >= distribution.end_s:
            # It has outlived all that was seen: wait for half of its age, as far as the bounds allow.
            return self._bounded(age_s / 2)
        delay_s = _solution(distribution, price_s, self.min_s, self.max_s).next_age_s(age_s) - age_s
        return self._bounded(delay_s + self.jitter_s(rng))

    def first_delay_s(self, distribution: Distribution, price_s: float, jitter_s: float) -> float:
        """Return how long to wait before a task's first poll; ``jitter_s`` is what ``jitter_s`` has drawn."""
        first_age_s = _solution(distribution, price_s, self.min_s, self.max_s).first_age_s
        return self._bounded(first_age_s + jitter_s)

    def jitter_s(self, rng: random.Random) -> float:
        """Draw by how much a poll is put off, or comes before its best time."""
        return self.min_s * _JITTER * rng.uniform(-1, 1)

    def failed_delay_s(self, failures: int, max_s: float, rng: random.Random) -> float:
        """Return how long to wait after the ``failures``-th poll in a row without a usable answer (from 1).

        ``min_s`` doubled for each failure, with up to a tenth added; at most ``max_s``.
        """
        return min(self.min_s * 2.0 ** min(failures, 20) * (1 + rng.random() / 10), max_s)

    def _bounded(self, delay_s: float) -> float:
        return min(max(delay_s, self.min_s), self.max_s)


class PollPrice:
    """What a poll costs, in seconds of lag, so that one key's polls stay within nine tenths of their budget.

    Told of every poll, it compares the demand, in polls per second,

        demand = rate · (1 + lateness / T),

    with nine tenths of the budget, and moves the price by their quotient x: d ln(price) / dt = ln(x) / T. Rate and
    lateness (of a poll's start after it was due) are averages over the last T seconds, and rate · lateness is the
    backlog (Little's law), so that no count of the tasks, watched or due, is needed. The demand falls with the root of
    the price, which makes this a stable control. T is 30 s, or twenty polls' time where the budget is smaller. Where
    nothing is late and polls are few, the price falls to its floor by itself.

    It does not rise above an eighth of ``max_s``. There the demand hardly falls any further, because ``max_s`` bounds
    the delays; the limit is for the rate limiter to keep, and in the laboratory the order by expected unnoticed time
    then makes more of the budget than a still higher price does.
    """

    def __init__(self, max_s: float) -> None:
        """Start at the floor. ``max_s`` is the schedule's."""
        self._headroom = max(math.log(max_s * _CEILING_SHARE / FLOOR_PRICE_S), 0.0)
        self._log = 0.0
        self.price_s = FLOOR_PRICE_S
        """The present price, for ``PollSchedule.next_delay_s``."""
        self._rate_per_s = 0.0
        self._late_s = 0.0
        self._span_s = _SMOOTH_S
        self._at_s: float | None = None

    @property
    def short(self) -> bool:
        """Whether the budget is short: polls cost more than the floor."""
        return self.price_s > FLOOR_PRICE_S

    def demand_per_s(self, now_s: float) -> float:
        """Return how many polls per second are asked for, late ones included, as far as the last ones tell."""
        if self._at_s is None:
            return 0.0
        kept = math.exp(-max(now_s - self._at_s, 0.0) / self._span_s)
        return self._rate_per_s * kept * (1 + self._late_s / self._span_s)

    def polled(self, now_s: float, late_s: float, budget_per_s: float) -> None:
        """Count a poll that starts now (any steady clock), ``late_s`` after it was due; O(1).

        ``budget_per_s`` is what the key's windows leave for polls in the long run: the least of limit / window.
        """
        span_s = self._span_s = max(_SMOOTH_S, _SMOOTH_POLLS / budget_per_s)
        elapsed_s = 0.0 if self._at_s is None else max(now_s - self._at_s, 0.0)
        self._at_s = now_s
        if elapsed_s > 0:
            # Bounded, so that one long pause or one very late poll does not throw the price from end to end.
            demand = self._rate_per_s * (1 + self._late_s / span_s)
            pressure = min(max(math.log(max(demand, 1e-9) / (_BUDGET_SHARE * budget_per_s)), -2.0), 2.0)
            self._log = min(max(self._log + pressure * elapsed_s / span_s, 0.0), self._headroom)
            self.price_s = FLOOR_PRICE_S * _RUNG ** round(self._log / math.log(_RUNG))
        kept = math.exp(-elapsed_s / span_s)
        self._rate_per_s = self._rate_per_s * kept + 1 / span_s
        share = min(1.0, 1 / (self._rate_per_s * span_s))
        self._late_s += (max(late_s, 0.0) - self._late_s) * share


class _Solution:
    """The solved recursion for one distribution and price."""

    __slots__ = ("_ages_s", "_distribution", "_max_s", "_min_s", "_rest_s", "first_age_s")

    def __init__(self, distribution: Distribution, price_s: float, min_s: float, max_s: float) -> None:
        self._distribution = distribution
        self._min_s = min_s
        self._max_s = max_s
        ages = array("d", _ages_s(distribution, price_s, min_s, max_s))
        last = len(ages) - 1
        # Past the end polls are max_s apart: the lag is half of that, and each max_s that is left on average is a poll.
        ages.extend(distribution.end_s + max_s * quarter / 4 for quarter in range(1, 5))
        after_s = price_s * (1 + distribution.end_s / max_s) + max_s / 2
        alive, area = distribution.at(ages)
        # With A the integral of S, the minimum over b is that of S(a) · b + (W(b) - A(b)): this is the bracket.
        rest = array("d", (s * after_s - a for s, a in zip(alive, area, strict=True)))
        stop = len(ages)
        for i in range(last - 1, -1, -1):
            start = bisect_left(ages, ages[i] + min_s, i + 1)
            while stop - 1 > start and ages[stop - 1] > ages[i] + max_s:
                stop -= 1
            least = min(map(add, map(mul, repeat(alive[i]), ages[start:stop]), rest[start:stop]))
            rest[i] = alive[i] * (price_s - ages[i]) + least
        self._ages_s = ages
        self._rest_s = rest
        self.first_age_s = self.next_age_s(0.0)
        """That of the best first poll, which every registration asks for."""

    def next_age_s(self, age_s: float) -> float:
        """Return the age of the best next poll after ``age_s``, which need not be one of its own ages."""
        alive = self._distribution.survival_at(age_s)
        first, last = age_s + self._min_s, age_s + self._max_s
        start, stop = bisect_left(self._ages_s, first), bisect_right(self._ages_s, last)
        best_s = min(first, last, key=lambda at: alive * at + self._rest_at_s(at))
        costs = list(map(add, map(mul, repeat(alive), self._ages_s[start:stop]), self._rest_s[start:stop]))
        if costs and min(costs) <= alive * best_s + self._rest_at_s(best_s):
            best_s = self._ages_s[start + costs.index(min(costs))]
        return best_s

    def _rest_at_s(self, age_s: float) -> float:
        i = min(bisect_right(self._ages_s, age_s), len(self._ages_s) - 1)
        share = (age_s - self._ages_s[i - 1]) / (self._ages_s[i] - self._ages_s[i - 1])
        return self._rest_s[i - 1] + share * (self._rest_s[i] - self._rest_s[i - 1])


_solution = lru_cache(maxsize=256)(_Solution)


def _ages_s(distribution: Distribution, price_s: float, min_s: float, max_s: float) -> Iterator[float]:
    """Yield the ages between which the schedule chooses: a fraction of Keller's interval apart."""
    yield 0.0
    points = zip(distribution.ages_s, distribution.survival, strict=True)
    for (t0, s0), (t1, s1) in pairwise(points):
        hazard = 2 * (s0 - s1) / ((t1 - t0) * (s0 + s1))
        apart_s = math.sqrt(2 * price_s / hazard) / _AGES_PER_POLL if hazard > 0 else math.inf
        apart_s = max(min(max(apart_s, min_s / 4), max_s / 8), t0 * _AGE_RATIO)
        parts = math.ceil((t1 - t0) / apart_s)
        yield from (t0 + (t1 - t0) * part / parts for part in range(1, parts + 1))
