"""When each task of one upstream is polled: what has been learned, the schedule and the price, put together.

Owns that combination. ``gateway.loops`` tells it what every poll found and asks it when the next one is due;
the API asks it when a new task's first poll is.

The price is that of the clients who watch a task: it keeps each one's polls within its fair share of the budget, which
is what the others leave of it, and at least an equal part. So a client with thousands of tasks has them polled more
seldom, and nobody else's are.
"""

import math
import random
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from gateway.core.claims import DueTask
from gateway.core.clock import Clock
from gateway.core.pollhistory import Why
from gateway.upstream.answer import PollResult
from gateway.upstream.distribution import Distribution
from gateway.upstream.durations import of_client, of_model
from gateway.upstream.learned import Learned
from gateway.upstream.schedule import PollPrice, PollSchedule

_WELL_KNOWN = 8
"""Of a model so many of whose tasks were seen, the schedule rests on what was learned alone."""
_EXPLORING_SHARE = 0.1
_EXPLORING_S = 1.0
_EXPLORED_AT_ONCE = 4
"""Tasks of which nothing is known are asked about at once with that share of the budget, and that seldom; and so many
where none was for a while."""
_TOGETHER_MS = 100
_LATE_TASKS = 8
"""Over so many of a client's last tasks, or so, it is counted which part had ended when they were registered."""
_LATE_MS = 5_000
_MOST_HALVINGS = 8
_COSTLY_MAX_S = 3600.0
_SELDOM_SHARE = 0.1
_SELDOM_MAX_S = (300.0, 3600.0)
"""Tasks that are refused alone come to be asked about this seldom: while they are few, and however many they are."""
_MOST_PRICES = 1000
_ACTIVE_PER_S = 1e-3
"""Whoever asks for fewer polls per second than this needs no part of the budget kept."""
_CLOCK_ANSWERS = 16
_CLOCK_MS = 60_000
"""The upstream's clock is taken for right where one of so many answers told of a task that was new when registered."""
_EARLY_MS = 5_000  # so far its clock may be ahead beside
_ZONE_STEP_MS = 15 * 60_000
_ZONES_APART_MS = 26 * 3_600_000
"""Zones differ by quarters of an hour, from -12 to +14 hours (IANA time zone database)."""


class Planned(NamedTuple):
    """When a task's next poll is due, and why then."""

    at: int
    why: Why

    def not_before(self, at: int) -> "Planned":
        """Return what it is where the upstream asked to be left alone until then."""
        return self if at <= self.at else Planned(at, Why.TOLD)


class Timetable:
    """Durations, schedule and price of one key's tasks."""

    def __init__(
        self, schedule: PollSchedule, budget_per_s: float, clock: Clock, rng: random.Random, learned: Learned
    ) -> None:
        """``budget_per_s``: polls per second that the key's windows allow in the long run."""
        self._schedule = schedule
        self._budget_per_s = self._most_per_s = budget_per_s
        self._clock = clock
        self._rng = rng
        self._learned = learned
        self._durations = learned.durations
        self._explored_until = -math.inf
        self._late: dict[str, float] = {}  # by client
        self._prices: dict[str, PollPrice] = {}  # by who watches
        self._together_from, self._jitter_s = 0, 0.0
        self._first: tuple[object, int] | None = None  # the last one's: of whom, and when
        self._behind_ms: deque[int] = deque(maxlen=_CLOCK_ANSWERS)
        self._off_ms = 0

    async def restore(self) -> None:
        """Take up what an earlier process learned. Raises StoreError."""
        await self._learned.restore()

    async def follow(self) -> None:
        """Take over from time to time what the replica that polls has learned. Raises StoreError."""
        await self._learned.follow(self._clock.monotonic())

    async def save(self, *, now: bool = False) -> None:
        """Keep what was learned, where it is time to, or ``now``. Raises StoreError."""
        await self._learned.save(self._clock.monotonic(), now=now)

    def learned(self, most: int, model: str | None = None) -> Iterator[tuple[str, str, int, Distribution]]:
        """Yield what is known of each kind of tasks, the ``most`` that were seen last, or of one model's.

        ``model`` or ``client``, its name, how many of it have been seen to end, and how long they take.
        """
        wanted = None if model is None else of_model(model)
        streams = [one for one in self._durations.each() if wanted in (None, one[-1])]
        for kind, name, ended, stream in streams[-most:]:
            yield kind, name, ended, self._durations.distribution(stream, self._clock.monotonic())

    def first_poll_at(self, now: int, watchers: str, model: str | None, *, new: bool = False) -> int:
        """Return when to ask for the first time about a task that is registered now; ``new``: it was created just now.

        At the best time for one of its model that begins now; without one, for those that this client registers. At
        once where too many of these had ended when they were registered; and where nothing is known of them, as the
        answer tells the model and the age, and whether there is such a task: but of many that come together only few.
        """
        whose = now, watchers, model, new
        if self._first is not None and self._first[0] == whose:  # those of a batch are all alike
            return self._first[1]
        price = self._price(watchers)
        own = of_client(watchers)
        known = self._durations.known(own)
        if not (new or known or model is not None or price.short) and self._may_explore():
            return now
        stream = of_model(model) if new or model is not None else own
        distribution = self._durations.distribution(stream, self._clock.monotonic())
        delay_s = self._schedule.first_delay_s(distribution, price.price_s, self._first_jitter_s(now))
        delay_ms = round(delay_s * 1000)
        at = now if not new and self._late.get(watchers, 0.0) * delay_ms > price.price_s * 1000 else now + delay_ms
        self._first = whose, at
        return at

    def running(self, task: DueTask, model: str | None, began_at: int, now: int) -> Planned:
        """Learn that a task still ran when it was polled now; return when to ask again."""
        age_s = max(now - began_at, 0) / 1000
        stream = of_model(model)
        self._durations.alive(stream, _seen_s(task, began_at), age_s)
        for client in task.watchers.split(","):
            watched_s = (now - task.created_at) / 1000
            self._durations.alive(of_client(client), _seen_s(task, task.created_at), watched_s)
        price = self._price(task.watchers)
        distribution = self._durations.distribution(stream, self._clock.monotonic())
        delay_s = self._schedule.next_delay_s(distribution, age_s, price.price_s, self._rng)
        why = Why.SHORT if price.short else Why.LEARNED
        if age_s >= distribution.end_s:
            why = Why.OUTLIVED
        if self._durations.begun(stream) <= _WELL_KNOWN and not price.short:
            # The prior is a guess, and a wrong one would be paid with lag: explore, in steps that grow with the age.
            step_s = max(self._schedule.min_s, age_s / 2)
            if step_s < delay_s:
                delay_s, why = step_s, Why.EXPLORING
        return Planned(now + round(delay_s * 1000), why)

    def ended(self, task: DueTask, model: str | None, began_at: int, duration_s: float, *, told: bool) -> None:
        """Learn how long a task took; ``told``: by the upstream's word, and not as the middle of when it was not seen.

        Not where it ended while its polls failed: that others ran on then is not heard. Nor where it was old when it
        was registered and had ended by its first poll, and nobody tells when.
        """
        seen_s = _seen_s(task, began_at)
        if task.failures and duration_s < seen_s:
            return
        if not told and not seen_s and began_at < task.created_at - _LATE_MS:
            return
        self._durations.ended(of_model(model), seen_s, duration_s)
        watched_s = (began_at - task.created_at) / 1000 + duration_s
        for client in task.watchers.split(","):
            self._durations.ended(of_client(client), _seen_s(task, task.created_at), watched_s)
            share = self._late.pop(client, 0.0)
            self._late[client] = share + ((watched_s <= 0) - share) / _LATE_TASKS
            if len(self._late) > _MOST_PRICES:
                del self._late[next(iter(self._late))]

    def created(self, told_at: int, watched_from: int) -> None:
        """Learn how far the upstream's clock is off, from when a task was created, by its word, and watched."""
        if told_at <= watched_from:
            self._behind_ms.append(watched_from - told_at)
            least_ms = min(self._behind_ms)
            self._off_ms = least_ms if _is_a_clocks(least_ms) else 0

    def began_at(self, told_at: int | None, watched_from: int) -> int:
        """Return when a task began to run, where the upstream says when it was created, or does not.

        A clock or a zone may be off, and every task would be taken for too young or too old. None is watched before it
        was created; and where all of the last ones were old when they were registered, and the newest by what a clock
        or a zone makes, it is that. Otherwise they were registered late, and had ended perhaps.
        """
        return watched_from if told_at is None else min(told_at + self._off_ms, watched_from)

    def failed_poll_at(
        self, failures: int, retry_after_s: float | None, now: int, *, costly: bool = False, seldom: int = 0
    ) -> Planned:
        """Return when to ask again after the ``failures``-th poll in a row without a usable answer.

        ``costly``: each try is, as one that downloads what is too large: then it may be an hour.
        ``seldom``: how many tasks the upstream refuses or denies while it answers for others, this one included; 0: it
        is none of them.
        """
        max_s = max(_COSTLY_MAX_S, self._schedule.max_s) if costly else self._schedule.max_s
        if seldom:
            # However many there are, they leave nine tenths of the budget to the others.
            share_s = seldom / (_SELDOM_SHARE * self._budget_per_s)
            max_s = max(max_s, min(max(share_s, _SELDOM_MAX_S[0]), _SELDOM_MAX_S[1]))
        why = Why.SELDOM if seldom else Why.COSTLY if costly else Why.BACKOFF
        planned = Planned(now + round(self._schedule.failed_delay_s(failures, max_s, self._rng) * 1000), why)
        return planned.not_before(now + round((retry_after_s or 0.0) * 1000))

    def urgency(self, task: DueTask) -> float:
        """Return the seconds for which this task is expected to have gone unnoticed: the most urgent comes first.

        They count half for each poll in a row that brought nothing: whoever was refused ten times will be again.
        """
        stream, began_at = of_model(task.model), self.began_at(task.born_at, task.created_at)
        if task.model is None and task.born_at is None:  # nobody has told what it is: as what its client registers
            stream = of_client(task.watchers.partition(",")[0])
        distribution = self._durations.distribution(stream, self._clock.monotonic())
        age_s = (self._clock.now() - began_at) / 1000
        last_s = 0.0 if task.last_polled_at is None else (task.last_polled_at - began_at) / 1000
        unnoticed_s = distribution.expected_unnoticed_s(max(last_s, 0.0), max(age_s, 0.0))
        return unnoticed_s / (1 << min(task.failures, _MOST_HALVINGS))

    def polled(self, task: DueTask, now: int) -> None:
        """Count a poll that starts now."""
        steady = self._clock.monotonic()
        share_per_s = self._budget_per_s if len(self._prices) < 2 else self._share_per_s(task.watchers, steady)
        self._price(task.watchers).polled(steady, (now - task.due_at) / 1000, share_per_s)

    def limit_budget(self, per_s: float) -> None:
        """Reckon with so many polls per second, where that is fewer: the upstream's own limit, while it is in force."""
        self._budget_per_s = min(self._most_per_s, per_s)

    def _price(self, watchers: str) -> PollPrice:
        price = self._prices.get(watchers)
        if price is None:
            if len(self._prices) >= _MOST_PRICES:
                del self._prices[next(iter(self._prices))]
            price = self._prices[watchers] = PollPrice(self._schedule.max_s)
        return price

    def _share_per_s(self, watchers: str, steady: float) -> float:
        demands = [price.demand_per_s(steady) for name, price in self._prices.items() if name != watchers]
        active = [demand for demand in demands if demand > _ACTIVE_PER_S]
        return max(self._budget_per_s / (len(active) + 1), self._budget_per_s - sum(active))

    def _may_explore(self) -> bool:
        """Whether there may be a poll again that only tells what a task is; count it."""
        steady = self._clock.monotonic()
        apart_s = max(_EXPLORING_S, 1 / (_EXPLORING_SHARE * self._budget_per_s))
        if self._explored_until > steady + (_EXPLORED_AT_ONCE - 1) * apart_s:
            return False
        self._explored_until = max(self._explored_until, steady) + apart_s
        return True

    def _first_jitter_s(self, now: int) -> float:
        """Return the jitter of a first poll, which those that are registered together share.

        Their polls then lie in the order in which they came. In an index in which 500 rows lay anyhow, a hundred pages
        were written for them, and batches took twice as long.
        """
        if not 0 <= now - self._together_from < _TOGETHER_MS:
            self._together_from = now
            self._jitter_s = self._schedule.jitter_s(self._rng)
        return self._jitter_s


def _is_a_clocks(behind_ms: int) -> bool:
    """Whether a clock may be so far behind, give or take what a new task's registration takes, or a zone puts it so."""
    if behind_ms <= _ZONE_STEP_MS:
        return behind_ms > _CLOCK_MS
    return behind_ms <= _ZONES_APART_MS + _CLOCK_MS and (behind_ms + _EARLY_MS) % _ZONE_STEP_MS < _CLOCK_MS + _EARLY_MS


def _seen_s(task: DueTask, began_at: int) -> float:
    """Return at which age a task was polled last, 0 where no poll has told of it: to there it is counted."""
    if task.last_polled_at is None or task.polls == task.failures:
        return 0.0
    return max(task.last_polled_at - began_at, 0) / 1000


def took_s(claim: DueTask, result: PollResult, began_at: int, now: int) -> float:
    """Return how long a task took: what the upstream says, else half way between the last two polls."""
    if result.duration_s is not None:
        return result.duration_s
    last_at = max(claim.last_polled_at or began_at, began_at)
    return max((last_at + now) / 2 - began_at, 0.0) / 1000
