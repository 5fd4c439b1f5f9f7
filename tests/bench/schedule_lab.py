"""The schedule laboratory: the gateway's polling policy against others, on virtual time.

Run by ``make bench-schedule``. It learns from 200 tasks of each workload, polls others with the gateway's own code,
prints polls per task and lag (from a task's end to the poll that notices it), draws both in ``schedule.svg``, and
exits with 1 where the policy does not keep what it promises. Seeded: the same figures every time.
"""

import argparse
import heapq
import math
import random
import statistics
import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from gateway.upstream.distribution import Distribution
from gateway.upstream.durations import Durations, of_model
from gateway.upstream.schedule import FLOOR_PRICE_S, PollPrice, PollSchedule

MIN_S, MAX_S = 1.0, 30.0
SCHEDULE = PollSchedule(MIN_S, MAX_S)
TAUGHT = 200
TIE = 1.02
"""For memoryless durations a fixed interval is the best there is: as much as learning from 200 tasks may lose to it."""
PICTURE = Path(__file__).parents[2] / "gateway" / "manual" / "schedule.svg"

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


def two_peaks(rng: random.Random, _: float) -> float:
    return rng.lognormvariate(math.log(12 if rng.random() < 0.5 else 90), 0.15)


def drift(rng: random.Random, progress: float) -> float:
    return rng.lognormvariate(math.log(20 + 40 * progress), 0.35)


WORKLOADS: dict[str, Sampler] = {
    "lognormal, median 32 s, sigma 0.35": lognormal(32, 0.35),
    "two peaks, 12 s and 90 s": two_peaks,
    "long tail, lognormal sigma 1.2": lognormal(32, 1.2),
    "long tail, Pareto 1.5": lambda rng, _: 10 * rng.paretovariate(1.5),
    "uniform, 5 s to 60 s": lambda rng, _: rng.uniform(5, 60),
    "exponential, mean 30 s": lambda rng, _: rng.expovariate(1 / 30),
    "nearly always 30 s": lambda rng, _: max(rng.gauss(30, 0.5), 0.1),
}
LOGNORMAL, TWO_PEAKS = list(WORKLOADS)[:2]
DRIFT = "drift, median 20 s to 60 s"


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


def at_polls(polls: float, run: Callable[[Sequence[float]], Figures], count: int) -> list[float]:
    """Find the prices for ``count`` tasks at which they cost so many polls each: the polls go up in leaps as the price
    falls, so the two prices beside the leap are dealt out in the right proportion.
    """
    low, high = math.log(1e-3), math.log(MAX_S)
    polls_low, polls_high = (run([math.exp(price)] * count).polls for price in (low, high))
    for _ in range(12):
        middle = (low + high) / 2
        reached = run([math.exp(middle)] * count).polls
        if reached > polls:
            low, polls_low = middle, reached
        else:
            high, polls_high = middle, reached
    share = (polls - polls_high) / (polls_low - polls_high) if polls_low > polls > polls_high else 0.0
    golden = (math.sqrt(5) - 1) / 2
    return [math.exp(low if i * golden % 1 < share else high) for i in range(count)]


def tasks(sampler: Sampler, count: int, seed: int) -> list[float]:
    rng = random.Random(seed)
    return [sampler(rng, i / count) for i in range(count)]


def learn(durations_s: Iterable[float]) -> Distribution:
    durations = Durations()
    for duration_s in durations_s:
        durations.ended(of_model("m"), 0.0, duration_s)
    return durations.distribution(of_model("m"), 0.0)


def known(sampler: Sampler, progress: float = 0.0, count: int = 50_000) -> Distribution:
    """The distribution as it is, finely divided: from so many tasks that no more is left to learn."""
    rng = random.Random(77)
    ranked = sorted(sampler(rng, progress) for _ in range(count))
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


def compare(sampler: Sampler, count: int, learners: int) -> dict[str, Figures]:
    """Measure every policy on one workload."""
    durations_s = tasks(sampler, count, 1)
    rows = simple(durations_s)
    polls = rows["every 5 s"].polls
    rows["gateway"], rows["gateway, equal polls"] = learned(sampler, polls, durations_s, learners)
    rows["full knowledge, equal polls"] = equal_polls(polls, [known(sampler)] * count, durations_s, NoJitter())
    return rows


def learned(sampler: Sampler, polls: float, durations_s: Sequence[float], learners: int) -> tuple[Figures, Figures]:
    """Measure the gateway at its own price and at that of so many polls: means over lots of 200 tasks learned from."""
    own, equal = [], []
    for learner in range(learners):
        distribution = learn(tasks(sampler, TAUGHT, 1000 + learner))
        rng = random.Random(learner)
        own.append(measure([policy(distribution, FLOOR_PRICE_S, rng)] * len(durations_s), durations_s))
        equal.append(equal_polls(polls, [distribution] * len(durations_s), durations_s, rng))
    return mean(own), mean(equal)


def simple(durations_s: Sequence[float]) -> dict[str, Figures]:
    rows = {f"every {interval} s": measure_alike(fixed(interval), durations_s) for interval in (2, 5, 10)}
    rows["back-off 1 s … 30 s"] = measure_alike(backoff, durations_s)
    return rows


def compare_drift(count: int) -> dict[str, Figures]:
    """Measure every policy while the durations grow threefold; the gateway learns from each task as it ends."""
    lived = tasks(drift, count, 1)
    durations_s = lived[TAUGHT:]
    rows = simple(durations_s)
    polls = rows["every 5 s"].polls

    durations = Durations()
    estimates = []
    for i, duration_s in enumerate(lived):
        estimates.append(durations.distribution(of_model("m"), i * 5.0))
        durations.ended(of_model("m"), 0.0, duration_s)
    estimates = estimates[TAUGHT:]
    rng = random.Random(1)
    own = [policy(distribution, FLOOR_PRICE_S, rng) for distribution in estimates]
    rows["gateway"] = measure(own, durations_s)
    rows["gateway, equal polls"] = equal_polls(polls, estimates, durations_s, rng)

    truths = [known(drift, step / 20, 10_000) for step in range(21)]
    now = [truths[round(20 * i / count)] for i in range(TAUGHT, count)]
    rows["full knowledge, equal polls"] = equal_polls(polls, now, durations_s, NoJitter())
    return rows


class Watched:
    """A task in the experiment with a short budget."""

    def __init__(self, started_at: float, duration_s: float) -> None:
        self.started_at = started_at
        self.ends_at = started_at + duration_s
        self.last_poll_age_s = 0.0


def round_robin(durations_s: Sequence[float], polls_per_task: float) -> Figures:
    """One task starts each second; the budget goes round all of them in turn."""
    queue: deque[Watched] = deque()
    lags: list[float] = []
    polls = started = slot = 0
    while len(lags) < len(durations_s):
        slot += 1
        now = slot / polls_per_task
        while started < len(durations_s) and started <= now:
            queue.append(Watched(started, durations_s[started]))
            started += 1
        if not queue:
            continue
        task = queue.popleft()
        polls += started < len(durations_s)
        if task.ends_at <= now:
            lags.append(now - task.ends_at)
        else:
            queue.append(task)
    return figures(polls, lags)


def by_value(durations_s: Sequence[float], polls_per_task: float, distribution: Distribution) -> Figures:
    """The same with the gateway's price, schedule, and the due poll first that is worth most."""
    rng = random.Random(5)
    price = PollPrice(MAX_S)
    waiting: list[tuple[float, int, Watched]] = []
    due: list[tuple[float, Watched]] = []
    lags: list[float] = []
    polls = started = slot = 0
    while len(lags) < len(durations_s):
        slot += 1
        now = slot / polls_per_task
        while started < len(durations_s) and started <= now:
            first_s = SCHEDULE.next_delay_s(distribution, 0.0, price.price_s, rng)
            heapq.heappush(waiting, (started + first_s, started, Watched(started, durations_s[started])))
            started += 1
        while waiting and waiting[0][0] <= now:
            due_at, _, task = heapq.heappop(waiting)
            due.append((due_at, task))
        if not due:
            continue
        values = [distribution.expected_unnoticed_s(t.last_poll_age_s, now - t.started_at) for _, t in due]
        due_at, task = due.pop(values.index(max(values)))
        polls += started < len(durations_s)
        price.polled(now, now - due_at, polls_per_task)
        if task.ends_at <= now:
            lags.append(now - task.ends_at)
            continue
        task.last_poll_age_s = now - task.started_at
        delay_s = SCHEDULE.next_delay_s(distribution, task.last_poll_age_s, price.price_s, rng)
        heapq.heappush(waiting, (now + delay_s, slot + len(durations_s), task))
    return figures(polls, lags)


def short_budget(sampler: Sampler, count: int, polls_per_task: float = 2.0) -> tuple[Figures, Figures]:
    durations_s = tasks(sampler, count, 2)
    distribution = learn(tasks(sampler, TAUGHT, 1000))
    return round_robin(durations_s, polls_per_task), by_value(durations_s, polls_per_task, distribution)


SHOWN = (LOGNORMAL, TWO_PEAKS, "long tail, Pareto 1.5", "uniform, 5 s to 60 s")
WIDTH, HEIGHT, MARGIN = 440, 300, 52
POLLS_SHOWN, LAGS_SHOWN = (1.5, 24.0), (0.4, 20.0)
STYLES = {"fixed interval": "#8a8f98", "gateway": "#0a7d4f", "full knowledge": "#d08700"}


def draw(count: int) -> str:
    """Draw lag against polls, both logarithmic, one panel a workload: the lower and the further left, the better."""
    panels = []
    for number, name in enumerate(SHOWN):
        durations_s = tasks(WORKLOADS[name], count, 1)
        distribution, truth = learn(tasks(WORKLOADS[name], TAUGHT, 1000)), known(WORKLOADS[name])
        prices = [FLOOR_PRICE_S * 1.5**step for step in range(-8, 10)]
        curves = {
            "fixed interval": [measure_alike(fixed(1.2**step), durations_s) for step in range(2, 18)],
            "gateway": [measure_alike(policy(distribution, price, NoJitter()), durations_s) for price in prices],
            "full knowledge": [measure_alike(policy(truth, price, NoJitter()), durations_s) for price in prices],
        }
        dots = {f"{step} s": measure_alike(fixed(step), durations_s) for step in (2, 5, 10)}
        dots["back-off"] = measure_alike(backoff, durations_s)
        dots["default"] = measure_alike(policy(distribution, FLOOR_PRICE_S, NoJitter()), durations_s)
        panels.append(panel(name, curves, dots, (number % 2) * WIDTH, 34 + (number // 2) * HEIGHT))
    legend = "".join(
        f'<line x1="{52 + 160 * i}" y1="20" x2="{76 + 160 * i}" y2="20" stroke="{colour}" stroke-width="2.5"/>'
        f'<text x="{82 + 160 * i}" y="24">{name}</text>'
        for i, (name, colour) in enumerate(STYLES.items())
    )
    rows = (len(SHOWN) + 1) // 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {34 + rows * HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#24292f">\n'
        '<title>Mean lag against polls per task</title>\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f"{legend}\n{''.join(panels)}</svg>\n"
    )


def panel(name: str, curves: dict[str, list[Figures]], dots: dict[str, Figures], left: float, top: float) -> str:
    def place(value: float, bounds: tuple[float, float]) -> float:
        return math.log(value / bounds[0]) / math.log(bounds[1] / bounds[0])

    def x(polls: float) -> float:
        return round(left + MARGIN + place(polls, POLLS_SHOWN) * (WIDTH - MARGIN - 16), 1)

    def y(lag_s: float) -> float:
        return round(top + HEIGHT - 44 - place(lag_s, LAGS_SHOWN) * (HEIGHT - 44 - 28), 1)

    def shown(at: Figures) -> bool:
        return POLLS_SHOWN[0] <= at.polls <= POLLS_SHOWN[1] and LAGS_SHOWN[0] <= at.mean_s <= LAGS_SHOWN[1]

    parts = [f'<text x="{left + MARGIN}" y="{top + 18}" font-weight="600">{name}</text>']
    for polls in (2, 5, 10, 20):
        parts.append(f'<path d="M{x(polls)} {y(LAGS_SHOWN[0])}V{y(LAGS_SHOWN[1])}" stroke="#e4e7eb"/>')
        parts.append(f'<text x="{x(polls)}" y="{y(LAGS_SHOWN[0]) + 16}" text-anchor="middle">{polls}</text>')
    for lag in (0.5, 1, 2, 5, 10, 20):
        parts.append(f'<path d="M{x(POLLS_SHOWN[0])} {y(lag)}H{x(POLLS_SHOWN[1])}" stroke="#e4e7eb"/>')
        parts.append(f'<text x="{x(POLLS_SHOWN[0]) - 6}" y="{y(lag) + 4}" text-anchor="end">{lag} s</text>')
    middle = left + (WIDTH + MARGIN) / 2
    parts.append(f'<text x="{middle}" y="{top + HEIGHT - 12}" text-anchor="middle">polls per task → mean lag ↑</text>')
    for label, curve in curves.items():
        points = " ".join(f"{x(at.polls)},{y(at.mean_s)}" for at in curve if shown(at))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{STYLES[label]}" stroke-width="2"/>')
    for label, at in dots.items():
        if shown(at):
            colour = STYLES["gateway" if label == "default" else "fixed interval"]
            parts.append(f'<circle cx="{x(at.polls)}" cy="{y(at.mean_s)}" r="3.5" fill="{colour}"/>')
            parts.append(f'<text x="{x(at.polls) + 6}" y="{y(at.mean_s) - 5}" font-size="11">{label}</text>')
    return "\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=3000, help="tasks per workload")
    parser.add_argument("--learners", type=int, default=8, help="lots of 200 tasks that are learned from")
    parser.add_argument("--svg", type=Path, default=PICTURE)
    options = parser.parse_args()
    results = {}
    for name, sampler in WORKLOADS.items():
        results[name] = compare(sampler, options.tasks, options.learners)
        show(name, results[name])
    results[DRIFT] = compare_drift(1000)
    show(DRIFT, results[DRIFT])

    print("\nA budget of 2 polls per task, many tasks at once                 polls   mean lag        p95    gain")
    short = {name: short_budget(sampler, options.tasks) for name, sampler in WORKLOADS.items()}
    for name, (robin, value) in short.items():
        print(f"  {name:<34} round-robin           {line(robin)}")
        print(f"  {'':<34} gateway               {line(value)}   {robin.mean_s / value.mean_s:4.2f}")
    options.svg.write_text(draw(options.tasks), encoding="utf-8")
    print(f"\nDrawn in {options.svg}\n")

    gains = {name: rows["every 5 s"].mean_s / rows["gateway, equal polls"].mean_s for name, rows in results.items()}
    least = min(gains, key=gains.__getitem__)
    verdicts = [
        (f"equal polls, {LOGNORMAL}: gain over every 5 s", gains[LOGNORMAL], 1.7),
        (f"equal polls, {TWO_PEAKS}: gain over every 5 s", gains[TWO_PEAKS], 1.3),
        (f"equal polls, least gain of all ({least})", gains[least], 1 / TIE),
    ]
    for name in (LOGNORMAL, TWO_PEAKS):
        robin, value = short[name]
        verdicts.append((f"2 polls per task, {name}: gain over round-robin", robin.mean_s / value.mean_s, 1.4))
    for text, reached, wanted in verdicts:
        print(f"{'holds' if reached >= wanted else 'FAILS'}  {reached:5.2f} (at least {wanted:.2f})  {text}")
    return 0 if all(reached >= wanted for _, reached, wanted in verdicts) else 1


def show(name: str, rows: dict[str, Figures]) -> None:
    print(f"\n{name:<34}  polls   mean lag        p95")
    for label, row in rows.items():
        print(f"  {label:<30} {line(row)}", flush=True)


def line(row: Figures) -> str:
    return f"{row.polls:8.2f} {row.mean_s:8.2f} s {row.p95_s:8.2f} s"


if __name__ == "__main__":
    sys.exit(main())
