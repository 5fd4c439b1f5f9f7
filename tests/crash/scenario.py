"""What a run of the crash harness does: registrations, kills and shutdowns, all drawn from one seed.

Pure: the same seed and numbers give the same scenario. Moments are counts of what has been observed (answers, polls,
webhooks), so that a replay cuts in at the same place on a faster or slower machine; only the few milliseconds after
such a moment, and a kill during the start, are measured in time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

__all__ = ["EXTRA_POINTS", "NAMED_POINTS", "Item", "Kill", "Round", "Stop", "items", "kills", "shutdowns"]

NAMED_POINTS = ("registered", "polled", "settled", "answered")
"""Where losing something is easiest; ``killable`` says what each one is."""

EXTRA_POINTS = ("uncommitted", "recorded")

Moment = Literal["answer", "poll", "webhook", "batch"]
"""A registration answered, a poll arrived at the upstream, a webhook arrived at the receiver, a batch begun."""

# How a receiver behaves towards one callback, and how often. What ends dead, and when, stands in ``Item.ends``.
_MANNERS = {"ok": 80, "twice500": 5, "slow": 8, "always500": 2, "gone": 5}
_BIG = "é" * 1000  # a row that does not fit into one page with the next


@dataclass(frozen=True)
class Item:
    """One callback to register: its key is in its URL, which is how the receiver knows it again."""

    key: int
    round: int
    """In which it is registered first; each has its own receiver, which others make due again only much later."""
    task_id: str
    manner: str
    metadata: dict[str, Any] | None
    timeout_s: int | None
    again: bool
    """Whether the client asks again where no answer came; the others never learn what became of it."""

    @property
    def is_record(self) -> bool:
        """Whether it asks for the upstream's own body: tasks are shared, so some come before and some after its end."""
        return self.key % 3 == 2

    @property
    def path(self) -> str:
        return f"/{self.manner}/{self.key}"

    @property
    def ends(self) -> str:
        """The state that this callback has to end in."""
        return "dead" if self.manner in ("always500", "gone") else "delivered"

    @property
    def failing(self) -> bool:
        """Whether it is for the receiver that fails much: how slowly that one is tried holds nobody else up."""
        return self.manner in ("twice500", "always500")

    def request(self, url: str) -> dict[str, Any]:
        """Return the body that registers it."""
        request: dict[str, Any] = {"taskId": self.task_id, "callbackUrl": url}
        if self.metadata is not None:
            request["metadata"] = self.metadata
        if self.timeout_s is not None:
            request["timeoutSeconds"] = self.timeout_s
        if self.is_record:
            request["format"] = "record"
        return request


@dataclass(frozen=True)
class Kill:
    """At the ``nth`` passage of a named point, or ``lag_s`` after the ``nth`` observed event, or during the start."""

    at: str
    nth: int = 1
    lag_s: float = 0.0
    share: float = 0.0
    """Of the time that starting takes; only where ``at`` is start."""

    @property
    def named(self) -> bool:
        return self.at in NAMED_POINTS + EXTRA_POINTS

    def __str__(self) -> str:
        if self.named:
            return f"{self.at}:{self.nth}"
        if self.at == "start":
            return f"start·{self.share:.2f}"
        return f"{self.at}:{self.nth}+{self.lag_s * 1000:.0f}ms"


@dataclass(frozen=True)
class Stop:
    """SIGTERM once ``nth`` events were observed, with these at work."""

    at: Moment
    nth: int
    receiver_hangs: bool
    upstream_hangs: bool
    lag_s: float = 0.0


@dataclass(frozen=True)
class Round:
    """One life of the gateway process: what is asked of it, in this order, and how it ends."""

    requests: list[list[Item]]
    """Lists of one go to ``/v1/callbacks``, longer ones to its batch."""
    repeats: list[int]
    """Keys of earlier items, registered once more: an answered one has to be there still."""
    end: Kill | Stop
    hung_tasks: frozenset[str] = frozenset()


def kills(seed: int, cycles: int, *, named_share: float = 0.5) -> list[Round]:
    """Draw a scenario with each named point at least once, and about ``named_share`` of all kills at one."""
    rng = Random(seed)
    points = NAMED_POINTS + EXTRA_POINTS
    each = max(1, round(cycles * named_share / len(points)))
    drawn = [_named_kill(rng, point) for point in points for _ in range(each)]
    drawn += [_random_kill(rng) for _ in range(cycles - len(drawn))]
    rng.shuffle(drawn)
    maker = _Items(rng)
    return [Round(maker.requests(), maker.repeats(), kill) for kill in drawn]


def shutdowns(seed: int, runs: int) -> list[Round]:
    """Draw a scenario of SIGTERMs under load; the first one has everything at once."""
    rng = Random(seed)
    maker = _Items(rng)
    rounds = []
    for number in range(runs):
        hangs, upstream_hangs, batch = (number == 0 or rng.random() < share for share in (0.6, 0.5, 0.6))
        at: Moment = rng.choice(("answer", "poll", "webhook"))
        stop = Stop(at, rng.randint(3, 25), hangs, upstream_hangs)
        requests = maker.requests(hanging=6 if hangs else 0)
        tasks = [item.task_id for request in requests for item in request]
        hung = frozenset(rng.sample(tasks, 4)) if upstream_hangs else frozenset()
        if batch:
            requests = [request for request in requests if len(request) == 1]
            requests.insert(7, [maker.item() for _ in range(300)])
            stop = Stop("batch", 1, hangs, upstream_hangs, lag_s=rng.random() * 0.05)
        rounds.append(Round(requests, maker.repeats(), stop, hung))
    return rounds


def items(seed: int) -> Iterator[list[Item]]:
    """Draw what clients go on asking for, without an end: one at a time for the most part, some as a batch."""
    maker = _Items(Random(seed), round=0)
    while True:
        size = 1 if maker.rng.random() < 0.9 else maker.rng.randint(2, 8)
        yield [maker.item() for _ in range(size)]


def _named_kill(rng: Random, point: str) -> Kill:
    # Fewer passages than a round has for certain.
    return Kill(point, nth=rng.randint(1, 10))


def _random_kill(rng: Random) -> Kill:
    if rng.random() < 0.15:
        return Kill("start", share=rng.random())
    at, most = rng.choice((("answer", 25), ("poll", 60), ("webhook", 150)))
    return Kill(at, nth=rng.randint(1, most), lag_s=rng.choice((0.0, rng.random() * 0.05)))


@dataclass
class _Items:
    """Makes items; tasks of earlier rounds are shared too, whatever has become of them."""

    rng: Random
    made: int = 0
    round: int = -1
    tasks: list[str] = field(default_factory=list)

    def requests(self, *, hanging: int = 0) -> list[list[Item]]:
        self.round += 1
        sizes = [1] * 14 + [self.rng.randint(2, 14) for _ in range(2)]
        self.rng.shuffle(sizes)
        requests = [[self.item() for _ in range(size)] for size in sizes]
        return [[self.item(manner="hang")] for _ in range(hanging)] + requests

    def repeats(self) -> list[int]:
        return self.rng.sample(range(self.made), min(3, self.made))

    def item(self, manner: str | None = None) -> Item:
        rng = self.rng
        self.made += 1
        if manner is None:
            (manner,) = rng.choices(list(_MANNERS), list(_MANNERS.values()))
        timeout_s = None
        lot = rng.random()
        if lot < 0.03 and manner != "hang":
            task_id, timeout_s = f"sim-never-{self.made}", 1
        elif lot < 0.25 and self.tasks:
            task_id = rng.choice(self.tasks[-30:])
        else:
            outcome = "fail" if rng.random() < 0.25 else "success"
            duration_ms = 0 if manner == "hang" else rng.choice((0, 0, rng.randrange(400)))
            task_id = f"sim-{outcome}-{duration_ms}-{self.made}"
            self.tasks.append(task_id)
        metadata = rng.choice((None, {"order": self.made}, {"order": self.made, "note": _BIG[: rng.randrange(1000)]}))
        return Item(self.made - 1, self.round, task_id, manner, metadata, timeout_s, again=rng.random() < 0.8)
