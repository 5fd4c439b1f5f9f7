"""The distribution of a task's duration, as a survival function.

Owns its form and its integrals; pure. Made by ``gateway.upstream.estimate``, asked by ``gateway.upstream.schedule``.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final


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

    def at(self, ages_s: Sequence[float]) -> tuple[list[float], list[float]]:
        """Return the survival at each of ``ages_s`` (s, ascending from 0 or later), and its integral up to there."""
        alive, area = [], []
        inside = bisect_left(ages_s, self.end_s)
        i, t1 = 0, 0.0
        for age_s in ages_s[:inside]:
            while t1 <= age_s:
                i += 1
                t0, t1, s0, s1 = self.ages_s[i - 1], self.ages_s[i], self.survival[i - 1], self.survival[i]
            survival = s0 + (s1 - s0) * (age_s - t0) / (t1 - t0)
            alive.append(survival)
            area.append(self.area_s[i - 1] + (age_s - t0) * (s0 + survival) / 2)
        alive += map(self.survival_at, ages_s[inside:])
        area += map(self.area_at_s, ages_s[inside:])
        return alive, area

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


def _lognormal(median_s: float, sigma: float) -> Distribution:
    ages = [0.0] + [median_s * math.exp(sigma * z / 10) for z in range(-30, 31)]
    return Distribution(ages, [1.0] + [math.erfc(z / 10 / math.sqrt(2)) / 2 for z in range(-30, 31)])


PRIOR: Final = _lognormal(30.0, 1.2)
"""What is taken for credible where nothing was seen: seconds as well as minutes."""
