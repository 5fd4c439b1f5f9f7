"""What happens in one simulated run: tasks, registrations, and what goes wrong when. Data only.

A scenario is drawn from a seed, or by hypothesis, which can shrink it; both play the same way.
"""

import random
from dataclasses import dataclass

__all__ = [
    "ASKS",
    "CLOCK_STEPS_S",
    "IN_THE_WAY",
    "LENGTH_S",
    "MOMENTS",
    "RECEIVERS",
    "RECEIVER_MODES",
    "UPSTREAM_MODES",
    "WHEN",
    "Event",
    "Reader",
    "Registration",
    "Scenario",
    "draw",
]

UPSTREAM_MODES = (
    "ok",
    "error",
    "hang",
    "slow",
    "late",
    "flaky",
    "throttled",
    "refused",
    "unpaid",
    "garbage",
    "gone",
    "unknown",
    "unsure",
    "two-faced",
    "another's",
    "picky",
    "strict",
    "blind",
    "overtaken",
)
RECEIVER_MODES = (
    "ok",
    "error",
    "hang",
    "slow",
    "unreliable",
    "gone for good",
    "busy",
    "unreachable",
    "redirect",
    "out of files",
)
ASKS = ("cancel", "redeliver", "redeliver dead")
MOMENTS = ("attempt", "recording", "poll")
"""When the next attempt is under way, as one is answered, when the next poll is under way."""
WHEN = ("at once", "again", *MOMENTS)
"""When a client asks, and about which callback: at once, about any; about the one it asked about last; or at such a
moment, about the attempt's own, or one of the polled task's."""
STORIES = ("last poll", "outage", "unknown", "gone", "cut short")
"""What each scenario drawn has besides: a task that ends in the middle of its last poll, one whose time passes in an
outage, one that is not known for long, a receiver that wants no more and is asked again, an attempt cut short."""
RECEIVERS = 3
IN_THE_WAY = ("upstream", "disk", "clock")
"""Kinds of events that excuse a read which tells less than it might."""
CLOCK_STEPS_S = (-3600.0, -5.0, 5.0, 3600.0)
LENGTH_S = 600.0
"""Within so many seconds everything begins; afterwards all is well, and the run goes on until nothing is owed."""


@dataclass(frozen=True)
class Registration:
    """A client that registers, and tries again until it has its answer."""

    at_s: float
    task: int
    receiver: int
    timeout_s: int
    patience_s: float
    """After so long without an answer it gives up this try: its write may have happened all the same."""


@dataclass(frozen=True)
class Reader:
    """A program that reads a task by the upstream's own call, and has created it before where it ``creates``."""

    at_s: float
    task: int
    every_s: float
    times: int
    creates: bool = False
    receiver: int | None = None
    """Where the webhook goes that its create asks for."""
    patience_s: float = 30.0


@dataclass(frozen=True)
class Event:
    """``kind``: kill, restart, clock, disk, upstream, receiver, or one of ``ASKS``; the rest is what it is about."""

    at_s: float
    kind: str
    what: str = ""
    number: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Scenario:
    seed: int
    """Of all latencies and jitter: how what runs at once interleaves."""
    tasks: tuple[tuple[str, float], ...]
    """How each task ends (success, fail or never), and after how many seconds."""
    registrations: tuple[Registration, ...]
    events: tuple[Event, ...]
    readers: tuple[Reader, ...] = ()
    honours: bool = True
    """Whether the upstream knows X-Request-ID, and the profile says so."""


def draw(seed: int) -> Scenario:
    """Draw a scenario that is the same for the same seed."""
    rng = random.Random(seed)
    tasks = [
        (rng.choice(("success", "success", "fail", "never")), rng.uniform(0, rng.choice((20, 120))))
        for _ in range(rng.randint(1, 8))
    ]
    registrations = [
        Registration(
            at_s=rng.uniform(0, LENGTH_S / 2),
            task=rng.randrange(len(tasks)),
            receiver=rng.randrange(RECEIVERS),
            timeout_s=rng.choice((1, 30, 300, 3600)),
            patience_s=rng.choice((0.01, 1.0, 30.0)),
        )
        for _ in range(rng.randint(1, 14))
    ]
    events = [_event(rng) for _ in range(rng.randint(0, 20))]
    begun_s, number = rng.uniform(0, LENGTH_S / 2), rng.randrange(RECEIVERS)
    story = rng.choice(STORIES)
    tasks.append((rng.choice(("success", "fail")), rng.uniform(35, 60) if story == "last poll" else 0.0))
    timeout_s = 1 if story in ("last poll", "outage") else 600
    registrations.append(Registration(begun_s, len(tasks) - 1, number, timeout_s, patience_s=30.0))
    events += _story(story, begun_s, number, rng)
    readers = _readers(tasks, registrations, rng)
    others = random.Random(f"others of {seed}")  # so that the seeds of before bring what they brought
    if readers and others.random() < 0.5:
        events.append(Event(others.uniform(0, LENGTH_S / 2), "upstream", "overtaken", seconds=others.uniform(60, 300)))
    if rng.random() < 0.3:  # where nothing stands in the way of reads their laws have no excuse
        events = [event for event in events if event.kind not in IN_THE_WAY]
    return Scenario(seed, tuple(tasks), tuple(registrations), tuple(events), readers, honours=others.random() < 0.5)


def _readers(
    tasks: list[tuple[str, float]], registrations: list[Registration], rng: random.Random
) -> tuple[Reader, ...]:
    """Return programs that read tasks of their own, some of which callbacks wait for as well."""
    readers = []
    for _ in range(rng.randint(0, 3)):
        creates = rng.random() < 0.4
        tasks.append(
            (rng.choice(("success", "fail") if creates else ("success", "fail", "never")), rng.uniform(0, 120))
        )
        task, begun_s = len(tasks) - 1, rng.uniform(0, LENGTH_S / 2)
        if not creates and rng.random() < 0.6:
            at_s, timeout_s = begun_s + rng.uniform(-20, 100), rng.choice((30, 300, 3600))
            registrations.append(Registration(max(at_s, 0.0), task, rng.randrange(RECEIVERS), timeout_s, 30.0))
        receiver = rng.choice((None, rng.randrange(RECEIVERS))) if creates else None
        for _ in range(rng.randint(1, 3)):
            every_s, patience_s = rng.choice((0.3, 2.0, 5.0, 70.0)), rng.choice((1.0, 30.0, 30.0))
            at_s, times = begun_s + rng.uniform(0, 40), rng.randint(1, 60)
            readers.append(Reader(at_s, task, every_s, times, creates, receiver, patience_s))
    return tuple(readers)


def _story(story: str, begun_s: float, receiver: int, rng: random.Random) -> list[Event]:
    """Return the events around a registration, one after the other as chance alone would seldom have them."""
    if story == "last poll":
        return [Event(begun_s - 0.1, "upstream", "late", seconds=100.0)]
    if story == "outage":
        return [Event(begun_s - 0.1, "upstream", rng.choice(("error", "gone", "refused")), seconds=250.0)]
    if story == "unknown":
        return [Event(begun_s - 0.1, "upstream", rng.choice(("unsure", "two-faced")), seconds=300.0)]
    mood = "gone for good" if story == "gone" else "hang"
    unwell = Event(begun_s, "receiver", mood, receiver, seconds=60.0)
    later_s = begun_s + rng.uniform(2, 12)
    if story == "gone":
        return [unwell, Event(later_s, "redeliver dead", "at once", rng.randrange(14))]
    return [unwell, Event(later_s, "restart", seconds=rng.uniform(0.1, 2))]


def _event(rng: random.Random) -> Event:
    at_s = rng.uniform(0, LENGTH_S)
    kind = rng.choice(
        ("kill", "restart", "clock", "disk", "upstream", "upstream", "receiver", "receiver", *ASKS, *ASKS)
    )
    if kind == "clock":
        return Event(at_s, kind, seconds=rng.choice(CLOCK_STEPS_S))
    if kind == "upstream":
        return Event(
            at_s, kind, rng.choice((*UPSTREAM_MODES[:-1], "slow", "late", "late", "flaky")), seconds=rng.uniform(1, 300)
        )
    if kind == "receiver":
        return Event(at_s, kind, rng.choice(RECEIVER_MODES), rng.randrange(RECEIVERS), rng.uniform(1, 400))
    if kind in ASKS:
        return Event(at_s, kind, rng.choice(WHEN), rng.randrange(14))
    if kind in ("kill", "restart"):
        return Event(at_s, kind, rng.choice(("at once", *MOMENTS)), seconds=rng.uniform(0.1, 20))
    return Event(at_s, kind, seconds=rng.uniform(0.1, 20))
