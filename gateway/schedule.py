"""When to poll a task next.

Owns the policy; pure: the age of the task and the random source are passed in. Called by the poller.

A running task of age ``a`` is asked about again after ``a / 6`` seconds, within the configured bounds: a result is then
noticed at most a sixth of its age late, whatever the model's speed, for a number of polls that grows with the
logarithm of the age. A poll that failed waits ``min_s`` doubled for each failure in a row. Up to a tenth is added at
random, so that tasks which were registered together drift apart.
"""

import random

import msgspec

__all__ = ["PollSchedule"]


class PollSchedule(msgspec.Struct, frozen=True):
    """The bounds, in seconds, of the time between two polls of one task."""

    min_s: float
    max_s: float

    def running_delay_s(self, age_s: float, rng: random.Random) -> float:
        """Return how long to wait after an answer that said "still running"."""
        return self._bounded(age_s / 6, rng)

    def failed_delay_s(self, failures: int, rng: random.Random) -> float:
        """Return how long to wait after the ``failures``-th poll in a row without a usable answer (from 1)."""
        return self._bounded(self.min_s * 2 ** min(failures, 20), rng)

    def _bounded(self, delay_s: float, rng: random.Random) -> float:
        bounded = min(max(delay_s, self.min_s), self.max_s)
        return min(bounded * (1 + rng.random() / 10), self.max_s) if bounded < self.max_s else bounded
