"""The schedule laboratory: the gateway's polling policy against others, on virtual time.

Run by ``make bench-schedule``. It learns from 200 tasks of each workload, polls others with the gateway's own code,
prints polls per task and lag (from a task's end to the poll that notices it), draws both in ``schedule.svg``; then it
prints the rows of the live system (``live_rows``). It exits with 1 where the policy does not keep what it promises.
Seeded: the same figures every time.
"""

import argparse
import heapq
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.upstream.distribution import Distribution
from gateway.upstream.durations import Durations, of_model
from gateway.upstream.schedule import FLOOR_PRICE_S, PollPrice
from tests.bench import live_rows
from tests.bench.policies import (
    MAX_S,
    SCHEDULE,
    TAUGHT,
    Figures,
    NoJitter,
    Sampler,
    Watched,
    backoff,
    equal_polls,
    figures,
    fixed,
    known,
    learn,
    lognormal,
    mean,
    measure,
    measure_alike,
    policy,
    round_robin,
    tasks,
)
from tests.bench.schedule_picture import page, panel

TIE = 1.02
"""For memoryless durations a fixed interval is the best there is: as much as learning from 200 tasks may lose to it."""
PICTURE = Path(__file__).parents[2] / "gateway" / "manual" / "schedule.svg"


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
        panels.append(panel(name, curves, dots, number))
    return page(panels)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=3000, help="tasks per workload")
    parser.add_argument("--learners", type=int, default=8, help="lots of 200 tasks that are learned from")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each live scenario")
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="only live scenarios whose names have these in them")
    parser.add_argument("--svg", type=Path, default=PICTURE)
    options = parser.parse_args()
    verdicts = [] if options.only else known_durations(options.tasks, options.learners, options.svg)
    print(f"\n{live_rows.heading(options.seeds)}")
    for row in live_rows.rows(options.seeds, options.only or ()):
        print(live_rows.show(row), flush=True)
        verdicts += live_rows.verdicts(row)
    print()
    return live_rows.judge(verdicts)


def known_durations(count: int, learners: int, svg: Path) -> list[tuple[str, float, float]]:
    """Print how the policies compare where the durations are known before, and draw it; return the verdicts."""
    results = {}
    for name, sampler in WORKLOADS.items():
        results[name] = compare(sampler, count, learners)
        show(name, results[name])
    results[DRIFT] = compare_drift(1000)
    show(DRIFT, results[DRIFT])

    print("\nA budget of 2 polls per task, many tasks at once                 polls   mean lag        p95    gain")
    short = {name: short_budget(sampler, count) for name, sampler in WORKLOADS.items()}
    for name, (robin, value) in short.items():
        print(f"  {name:<34} round-robin           {line(robin)}")
        print(f"  {'':<34} gateway               {line(value)}   {robin.mean_s / value.mean_s:4.2f}")
    svg.write_text(draw(count), encoding="utf-8")
    print(f"\nDrawn in {svg}")

    gains = {name: rows["every 5 s"].mean_s / rows["gateway, equal polls"].mean_s for name, rows in results.items()}
    least = min(gains, key=gains.__getitem__)
    verdicts = [
        (f"equal polls, {LOGNORMAL}: gain over every 5 s", gains[LOGNORMAL], 1.7),
        (f"equal polls, {TWO_PEAKS}: gain over every 5 s", gains[TWO_PEAKS], 1.3),
        (f"equal polls, {DRIFT}: gain over every 5 s", gains[DRIFT], 1.8),
        (f"equal polls, least gain of all ({least})", gains[least], 1 / TIE),
    ]
    for name in (LOGNORMAL, TWO_PEAKS):
        robin, value = short[name]
        verdicts.append((f"2 polls per task, {name}: gain over round-robin", robin.mean_s / value.mean_s, 1.4))
    return verdicts


def show(name: str, rows: dict[str, Figures]) -> None:
    print(f"\n{name:<34}  polls   mean lag        p95")
    for label, row in rows.items():
        print(f"  {label:<30} {line(row)}", flush=True)


def line(row: Figures) -> str:
    return f"{row.polls:8.2f} {row.mean_s:8.2f} s {row.p95_s:8.2f} s"


if __name__ == "__main__":
    sys.exit(main())
