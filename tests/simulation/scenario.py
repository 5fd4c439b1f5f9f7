"""What happens in one simulated run: tasks, registrations, and what goes wrong when. Data only.

A scenario is drawn from a seed, or by hypothesis, which can shrink it; both play the same way.
"""

import random
from dataclasses import dataclass

__all__ = [
    "ASKS",
    "CLOCK_STEPS_S",
    "LENGTH_S",
    "RECEIVERS",
    "RECEIVER_MODES",
    "UPSTREAM_MODES",
    "WHEN",
    "Event",
    "Registration",
    "Scenario",
    "draw",
]

UPSTREAM_MODES = (
    "ok",
    "error",
    "hang",
    "slow",
    "flaky",
    "throttled",
    "refused",
    "unpaid",
    "garbage",
    "gone",
    "unknown",
    "unsure",
    "another's",
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
WHEN = ("at once", "again", "attempt", "recording", "poll")
"""When a client asks, and about which callback: at once, about any; about the one it asked about last; while the next
attempt is under way, or as it is answered, about its own; while the next poll is under way, about one of its task's."""
RECEIVERS = 3
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


def draw(seed: int) -> Scenario:
    """Draw a scenario that is the same for the same seed."""
    rng = random.Random(seed)
    tasks = tuple(
        (rng.choice(("success", "success", "fail", "never")), rng.uniform(0, rng.choice((20, 120))))
        for _ in range(rng.randint(1, 8))
    )
    registrations = tuple(
        Registration(
            at_s=rng.uniform(0, LENGTH_S / 2),
            task=rng.randrange(len(tasks)),
            receiver=rng.randrange(RECEIVERS),
            timeout_s=rng.choice((1, 30, 300, 3600)),
            patience_s=rng.choice((0.01, 1.0, 30.0)),
        )
        for _ in range(rng.randint(1, 14))
    )
    return Scenario(seed, tasks, registrations, tuple(_event(rng) for _ in range(rng.randint(0, 20))))


def _event(rng: random.Random) -> Event:
    at_s = rng.uniform(0, LENGTH_S)
    kind = rng.choice(
        ("kill", "restart", "clock", "disk", "upstream", "upstream", "receiver", "receiver", *ASKS, *ASKS)
    )
    if kind == "clock":
        return Event(at_s, kind, seconds=rng.choice(CLOCK_STEPS_S))
    if kind == "upstream":
        return Event(at_s, kind, rng.choice((*UPSTREAM_MODES, "slow", "slow", "flaky")), seconds=rng.uniform(1, 300))
    if kind == "receiver":
        return Event(at_s, kind, rng.choice(RECEIVER_MODES), rng.randrange(RECEIVERS), rng.uniform(1, 400))
    if kind in ASKS:
        return Event(at_s, kind, rng.choice(WHEN), rng.randrange(14))
    return Event(at_s, kind, seconds=rng.uniform(0.1, 20))
