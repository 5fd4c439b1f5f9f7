"""What happens in one world of replicas: tasks, registrations, readers, and what goes wrong with whom. Data only."""

import random
from dataclasses import dataclass

__all__ = [
    "IN_THE_WAY",
    "LENGTH_S",
    "MOMENTS",
    "OPERATOR",
    "RECEIVERS",
    "RECEIVER_MODES",
    "REPLICAS",
    "UPSTREAM_MODES",
    "WHOEVER",
    "WHO_LEADS",
    "Reader",
    "Registration",
    "Scenario",
    "Trouble",
    "draw",
]

REPLICAS, RECEIVERS = 3, 3
OPERATOR = 9
"""Whoever is told of operator events: the number of the receiver."""
LENGTH_S = 80.0
"""Within so many seconds everything begins; the run goes on until nothing is owed."""
MOMENTS = ("at once", "at once", "attempt", "poll", "BEGIN", "statement", "COMMIT", "claimed")
"""When trouble begins: at once, or as its replica begins an attempt, a poll, a transaction, something in one, its
commit, or that of a claim. And ``event``: as anybody tells the operator."""
WHOEVER, WHO_LEADS = -2, -1
"""In the place of a replica's number: the first that comes to that moment, and the one that leads."""
STORIES = ("stale attempt", "stale leader", "stale leader", "rush")
"""What each scenario drawn has besides: a replica that stands still for longer than its claims, amid attempts that
hang; a leader that does amid what it writes, for longer than its lease; more reads and polls than the key allows."""
KINDS = ("pause", "pause", "pause", "kill", "kill", "refused", "silent", "restart", "clock", "database")
IN_THE_WAY = ("upstream", "database")
"""Kinds of trouble that excuse a read which tells less than it might."""
UPSTREAM_MODES = ("error", "hang", "slow", "throttled", "gone")
RECEIVER_MODES = ("error", "hang", "hang", "slow", "gone for good", "unreachable")


@dataclass(frozen=True)
class Registration:
    """A client that registers with any replica that answers, and tries again until one has told it 201."""

    at_s: float
    task: int
    receiver: int
    timeout_s: int
    patience_s: float


@dataclass(frozen=True)
class Reader:
    """A program that reads a task through any replica; it has created it there before where it ``creates``."""

    at_s: float
    task: int
    every_s: float
    times: int
    creates: bool


@dataclass(frozen=True)
class Trouble:
    """``kind``: one of ``KINDS``, and happens to ``replica``; or who is in a ``mode``: upstream, receiver, operator."""

    at_s: float
    kind: str
    replica: int = 0
    moment: str = "at once"
    seconds: float = 0.0
    mode: str = ""


@dataclass(frozen=True)
class Scenario:
    seed: int
    """Of all latencies and jitter, and of who runs first: how what runs at once interleaves."""
    tasks: tuple[tuple[str, float], ...]
    """How each task ends (success, fail or never), and after how many seconds."""
    registrations: tuple[Registration, ...]
    readers: tuple[Reader, ...]
    troubles: tuple[Trouble, ...]
    honours: bool = True
    """Whether the upstream knows X-Request-ID, and the profile says so."""


def draw(seed: int) -> Scenario:
    """Draw a scenario that is the same for the same seed."""
    rng = random.Random(seed)
    tasks = [
        (rng.choice(("success", "success", "fail", "never")), rng.uniform(0, rng.choice((5, 40))))
        for _ in range(rng.randint(2, 10))
    ]
    registrations = [
        Registration(
            at_s=rng.uniform(0, LENGTH_S * 0.8),
            task=rng.randrange(len(tasks)),
            receiver=rng.randrange(RECEIVERS),
            timeout_s=rng.choice((5, 20, 60)),
            patience_s=rng.choice((0.02, 1.0, 10.0)),
        )
        for _ in range(rng.randint(2, 12))
    ]
    readers = []
    for _ in range(rng.randint(0, 4)):
        creates = rng.random() < 0.4
        tasks.append((rng.choice(("success", "fail")), rng.uniform(0, 40)))
        at_s = rng.uniform(0, LENGTH_S * 0.7)
        for _ in range(rng.randint(1, 3)):
            every_s = rng.choice((0.2, 1.0, 5.0))
            readers.append(Reader(at_s, len(tasks) - 1, every_s, rng.randint(1, 40), creates))
    troubles = [_trouble(rng) for _ in range(rng.randint(3, 14))]
    _tell(rng.choice(STORIES), rng, tasks, registrations, readers, troubles)
    honours = rng.random() < 0.5
    troubles += _unheard(random.Random(f"events of {seed}"))  # so that the seeds of before bring what they brought
    return Scenario(seed, tuple(tasks), tuple(registrations), tuple(readers), tuple(troubles), honours)


def _unheard(rng: random.Random) -> list[Trouble]:
    """Return what comes between the operator and what he is to be told."""
    at_s, receiver = rng.uniform(0, LENGTH_S), rng.randrange(RECEIVERS)
    kind = rng.choice(("pause", "kill", "silent", "refused"))
    return [
        Trouble(at_s, "operator", seconds=rng.uniform(1, 60), mode=rng.choice(RECEIVER_MODES)),
        Trouble(at_s, "receiver", receiver, seconds=rng.uniform(1, 20), mode=rng.choice(("gone for good", "error"))),
        Trouble(at_s + 2.0, kind, WHOEVER, "event", rng.choice((rng.uniform(0.5, 14), rng.uniform(22, 30)))),
    ]


def _tell(
    story: str,
    rng: random.Random,
    tasks: list[tuple[str, float]],
    registrations: list[Registration],
    readers: list[Reader],
    troubles: list[Trouble],
) -> None:
    """Have what chance alone would seldom put together."""
    at_s, first = rng.uniform(0, LENGTH_S / 2), len(tasks)
    if story == "stale attempt":
        tasks += [("success", 0.0)] * 3
        receiver = rng.randrange(RECEIVERS)
        registrations += [Registration(at_s, first + n, receiver, 60, 10.0) for n in range(3)]
        troubles.append(
            Trouble(at_s, "receiver", receiver, seconds=rng.uniform(8, 60), mode=rng.choice(("hang", "slow")))
        )
        moment = rng.choice(("attempt", "attempt", "claimed", "claimed", "statement"))
        troubles.append(Trouble(at_s + 1.0, "pause", WHOEVER, moment, rng.uniform(37, 45)))
    elif story == "stale leader":
        tasks += [("success", rng.uniform(0, 30)) for _ in range(8)]
        registrations += [Registration(at_s + n, first + n, n % RECEIVERS, 60, 10.0) for n in range(8)]
        moment = rng.choice(("BEGIN", "statement", "statement", "poll"))
        troubles.append(Trouble(at_s + rng.uniform(2, 10), "pause", WHO_LEADS, moment, rng.uniform(10, 16)))
    else:
        tasks += [("success", rng.uniform(10, 30)) for _ in range(12)]
        registrations += [Registration(at_s, first + n, n % RECEIVERS, 60, 10.0) for n in range(6)]
        readers += [Reader(at_s + rng.uniform(0, 5), first + 6 + n, 0.5, 20, n < 2) for n in range(6)]


def _trouble(rng: random.Random) -> Trouble:
    at_s = rng.uniform(0, LENGTH_S)
    kind = rng.choice((*KINDS, "upstream", "receiver", "receiver"))
    if kind == "upstream":
        return Trouble(at_s, kind, seconds=rng.uniform(1, 30), mode=rng.choice(UPSTREAM_MODES))
    if kind == "receiver":
        seconds, mode = rng.uniform(1, 40), rng.choice(RECEIVER_MODES)
        return Trouble(at_s, kind, rng.randrange(RECEIVERS), seconds=seconds, mode=mode)
    replica = rng.choice((WHO_LEADS, *range(REPLICAS)))
    seconds = {
        # Shorter and longer than what is reserved of a key, than a lease of polls, and than one of webhooks.
        "pause": lambda: rng.choice((rng.uniform(0.5, 6), rng.uniform(6, 14), rng.uniform(37, 45))),
        "clock": lambda: rng.choice((-3600.0, -5.0, 5.0, 3600.0)),
        "database": lambda: rng.uniform(0.1, 8),
    }.get(kind, lambda: rng.uniform(0.1, 20))()
    return Trouble(at_s, kind, replica, rng.choice(MOMENTS), seconds)
