"""Everything around the gateway in one simulated run: the upstream, the receivers, the wall clock, and their moods.

Owns what truly happened: when each task ended, which polls and attempts came, and what each was answered.
"""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from gateway.net.errors import ExchangeFailed
from tests.simulation.scenario import IN_THE_WAY, RECEIVERS, Scenario
from tests.simulation.telling import Paid, Telling
from tests.virtualtime import VirtualClock

__all__ = ["Attempt", "Mood", "Poll", "Seen", "ShiftedClock", "World"]

FOREVER_S = 1e9
DISK_TROUBLE_S = 30.0
REFUSALS = ((401, 401), (403, 403), (200, 401), (200, 403))
"""By HTTP status and by the envelope's own code: both say that the key is refused."""
MIXED = {
    "flaky": ("ok", "error", "slow", "slow", "gone", "another's"),
    "late": ("late", "late error"),
    "unsure": ("unknown", "unknown", "error"),
    "overtaken": ("ok", "ok", "old news"),
    "unreliable": ("ok", "error", "hang", "slow", "unreachable", "busy"),
}
"""Moods that are another one with each request."""
ASIDE = ((429, "60", 60.0), (429, "2", 2.0), (503, "400", 400.0), (500, "400", None), (429, "soon", None))
"""How a busy receiver answers: the status, ``Retry-After``, and how long that asks for, where it counts."""


class ShiftedClock(VirtualClock):
    """A wall clock that is set now and then; the monotonic one is not."""

    def __init__(self) -> None:
        super().__init__()
        self.shift_ms = 0

    def now(self) -> int:
        return super().now() + self.shift_ms


@dataclass
class Mood:
    """How somebody answers until its time is over."""

    name: str = "ok"
    until_s: float = 0.0


@dataclass
class Seen:
    """One request of the gateway's, as the world saw it."""

    life: int
    """Which of the gateway's lives made it."""
    begun_s: float
    begun_at: int
    """By the gateway's own clock."""
    ended_s: float | None = None
    ended_at: int = 0
    recorded: bool = False
    """Whether the store has it."""


@dataclass
class Attempt(Seen):
    receiver: int = 0
    client: str = ""
    """Whose webhook it is."""
    said: int | None = None
    """What the receiver answered, whether or not that arrived."""
    status: int | None = None
    """What arrived of it."""
    retry_after_s: float | None = None
    """How long the receiver asked to be left alone, where that counts."""
    gone_wrong: bool = False
    """No connection was to be had."""
    not_made: bool = False
    """The gateway's machine had no open file for it."""
    claims: set[tuple[int, int]] = field(default_factory=set)
    """The redeliveries and the used budget that it may have been claimed with."""

    @property
    def failed(self) -> bool | None:
        """Whether it says that the receiver is unwell; None: only that this webhook was wrong for it."""
        if self.status is None or self.status >= 500 or self.status in (408, 429):
            return True
        return False if 200 <= self.status < 300 else None

    def cut_short(self, limit_s: float) -> bool:
        """Whether the gateway's end cut it short, and not its time limit."""
        return not self.gone_wrong and self.status is None and (self.ended_s or 0.0) - self.begun_s < limit_s


@dataclass
class Poll(Seen):
    kind: str = "nothing"
    """What arrived: running, ended, not known, throttled, refused, unpaid, or nothing usable."""
    state: str | None = None
    """The task's state, where the upstream told it."""
    retry_after_s: float = 0.0
    forwarded: bool = False
    """Whether it is a client's read."""
    probes: bool = False
    """Whether it asks about the key by itself, and not about a task that is due."""
    failures: set[int] = field(default_factory=set)
    """How many failures in a row it may have been claimed with."""

    @property
    def saw_a_step(self) -> bool:
        """Whether the gateway's clock was set while it was under way: it was claimed by another one."""
        took_s = (self.ended_s or self.begun_s) - self.begun_s
        return abs(self.ended_at - self.begun_at - took_s * 1000) > 60_000


@dataclass
class World:
    scenario: Scenario
    clock: ShiftedClock
    rng: random.Random
    upstream: Mood = field(default_factory=Mood)
    receivers: list[Mood] = field(default_factory=lambda: [Mood() for _ in range(RECEIVERS)])
    started: dict[str, float] = field(default_factory=dict)
    """When each task that was registered began, on the monotonic clock."""
    slews: list[tuple[float, float]] = field(default_factory=list)
    """When the wall clock was put right by so little that nobody is to notice, and by how many seconds."""
    disk_broken_until_s: float = -1e9
    steps: list[float] = field(default_factory=list)
    """When it was set at all."""
    life: int = 0
    now: Callable[[], int] = lambda: 0
    """The gateway's own clock in this life."""
    attempts: defaultdict[str, list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    """Of each webhook-id, in order."""
    polls: defaultdict[str, list[Poll]] = field(default_factory=lambda: defaultdict(list))
    """Of each task id, in order; those that ask about the key by themselves are not among them."""
    at_attempt: Callable[[str, Attempt, httpx.Request], None] = lambda webhook_id, attempt, request: None
    """Asked at the beginning of each attempt."""
    at_poll: Callable[[str, Poll], None] = lambda task_id, poll: None
    """Asked at the beginning of each poll."""
    at_answer: Callable[[str, Poll], None] = lambda task_id, poll: None
    """Told as each poll has its answer, or has failed."""
    made: set[str] = field(default_factory=set)
    """The tasks whose creates were answered."""
    telling: Telling = field(default_factory=Telling)
    forwarded: defaultdict[str, list[Poll]] = field(default_factory=lambda: defaultdict(list))
    """Of each task id, the clients' reads that were forwarded, in order."""
    waiting: dict[str, list[asyncio.Future[str]]] = field(default_factory=lambda: defaultdict(list))
    """Who waits for the next attempt or poll, and is told its webhook-id or task."""

    def __post_init__(self) -> None:
        self.paid = Paid(honours=self.scenario.honours)
        self._chance = random.Random(f"answers of {self.scenario.seed}")

    @property
    def read(self) -> set[str]:
        """The tasks that are read by the upstream's own call, or created by it."""
        return {f"task-{reader.task}" for reader in self.scenario.readers}

    @property
    def was_always_well(self) -> bool:
        """Whether neither the upstream, the disk nor a clock ever stood in the way of a watch."""
        return all(event.kind not in IN_THE_WAY for event in self.scenario.events)

    def monotonic(self) -> float:
        """Return the steady clock: with ``now`` the world is the gateway's clock too, in whichever life it is."""
        return self.clock.monotonic()

    async def next(self, what: str) -> str:
        """Return with the beginning of the next attempt (its webhook-id) or poll (its task), or as one is answered."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waiting[what].append(future)
        return await future

    def begin(self, task: int) -> str:
        """Return the id of a task, which begins to run when it is first registered."""
        task_id = f"task-{task}"
        self.started.setdefault(task_id, self.clock.monotonic())
        return task_id

    def truth(self, task_id: str) -> str:
        """Return the task's state as the upstream knows it."""
        end, after_s = self.scenario.tasks[int(task_id.removeprefix("task-"))]
        over = end != "never" and self.clock.monotonic() >= self.started[task_id] + after_s
        return end if over else "waiting"

    @property
    def disk_is_well(self) -> bool:
        """Whether it was for so long that nothing waits to be recorded any more."""
        return self.clock.monotonic() > self.disk_broken_until_s + DISK_TROUBLE_S

    def clock_was_set(self, seconds: float) -> None:
        """Note that somebody has set the wall clock."""
        self.steps.append(self.clock.monotonic())
        if abs(seconds) < 10:
            self.slews.append((self.clock.monotonic(), seconds))

    def slewed_ms(self, since_s: float) -> float:
        """Return by how much at most the wall clock was put right in silence since then."""
        return sum(abs(by_s) * 1000 for at_s, by_s in self.slews if at_s >= since_s)

    async def poll(self, request: httpx.Request) -> httpx.Response:
        """Answer for the upstream."""
        if request.method == "POST":
            return await self._create(request)
        task_id = request.url.params["taskId"]
        poll = Poll(self.life, self.clock.monotonic(), self.now())
        task = asyncio.current_task()
        name = "" if task is None else task.get_name()
        poll.probes, poll.forwarded = name == "poll-probe", name.startswith("proxy-")
        self.at_poll(task_id, poll)
        if poll.forwarded:
            self.forwarded[task_id].append(poll)
        elif not poll.probes:
            self.polls[task_id].append(poll)
        if not poll.forwarded:
            self._tell("poll", task_id)
        try:
            return await self._polled(task_id, poll)
        finally:
            self.at_answer(task_id, poll)

    async def _create(self, request: httpx.Request) -> httpx.Response:
        number, request_id = json.loads(request.content)["input"]["task"], request.headers["x-request-id"]
        await self._travel()
        mood = self._mood(self.upstream)
        if mood in ("hang", "slow", "late"):
            await asyncio.sleep(self.rng.uniform(5, 40))
        fails = mood in ("error", "late error", "gone", "throttled", "refused", "unpaid", "garbage")
        if not fails or self._chance.random() < 0.5:  # it may have made the task all the same
            task_id = self.begin(number)
            self.paid.create(number, request_id)
        await self._travel()
        return _envelope(500, 500) if fails else _envelope(200, 200, {"taskId": task_id})

    async def _polled(self, task_id: str, poll: Poll) -> httpx.Response:
        with self._under_way(poll):
            await self._travel()
            mood = self._mood(self.upstream)
            if mood == "hang":
                await asyncio.sleep(FOREVER_S)
            if mood == "slow":
                await asyncio.sleep(self.rng.uniform(5, 40))
            if mood in ("late", "late error"):
                await asyncio.sleep(self.rng.uniform(15, 29))
            if mood == "gone":
                raise ExchangeFailed("refused", "refused", sent=False)
            answer, kind, state, retry_after_s = self._answer(mood, task_id)
            if mood == "old news":
                await asyncio.sleep(self.rng.uniform(5, 25))
            await self._travel()
            poll.kind, poll.state, poll.retry_after_s = kind, state, retry_after_s
        return answer

    def _answer(self, mood: str, task_id: str) -> tuple[httpx.Response, str, str | None, float]:
        if mood == "two-faced":
            mood = "refused" if int(task_id[-1], 36) % 2 else "unknown"
        if (mood in ("picky", "strict") and task_id == "task-0") or (mood == "strict" and task_id not in self.started):
            mood = "refused"
        if mood == "blind":  # it looks for the task before it looks at the key
            code = self.rng.choice((404, 422, 500)) if task_id not in self.started else None
            mood = "refused" if code is None else "error" if code == 500 else "unknown"
        if mood in ("error", "late error"):
            return _envelope(500, 500), "nothing", None, 0.0
        if mood == "throttled":
            data = {"retryAfter": 17, "limit": 20, "windowSeconds": 60}
            return _envelope(429, 429, data), "throttled", None, 17.0
        if mood == "refused":
            return _envelope(*self.rng.choice(REFUSALS)), "refused", None, 0.0
        if mood == "unpaid":
            return _envelope(402, 402), "unpaid", None, 0.0
        if mood == "garbage":
            return httpx.Response(200, content=b"<html>"), "nothing", None, 0.0
        if mood == "unknown" or task_id not in self.started:
            return _envelope(404, 404), "not known", None, 0.0
        if mood == "another's":
            return _envelope(200, 200, self.told("another", "success")), "nothing", None, 0.0
        state = self.truth(task_id)
        kind = "running" if state == "waiting" else "ended"
        return _envelope(200, 200, self.told(task_id, state)), kind, state, 0.0

    def told(self, task_id: str, state: str) -> dict[str, Any]:
        """Return what the upstream tells of a task in this state."""
        result = f'{{"resultUrls":["https://cdn.example.com/{task_id}.png"]}}' if state == "success" else None
        told: dict[str, Any] = {"progress": round(self.clock.monotonic() * 1000)} if task_id in self.read else {}
        told |= {"taskId": task_id, "model": "m", "state": state, "param": "{}", "resultJson": result}
        told |= {"failCode": 400, "failMsg": f"{task_id} failed"} if state == "fail" else {}
        self.telling.says(task_id, told)
        return told

    async def receive(self, request: httpx.Request) -> httpx.Response:
        """Answer for a receiver."""
        webhook_id, number = request.headers["webhook-id"], int(request.url.host[len("receiver-")])
        attempt = Attempt(self.life, self.clock.monotonic(), self.now(), receiver=number)
        self.at_attempt(webhook_id, attempt, request)
        self.attempts[webhook_id].append(attempt)
        self._tell("attempt", webhook_id)
        with self._under_way(attempt):
            await self._travel()
            mood = self._mood(self.receivers[number])
            if mood == "hang":
                await asyncio.sleep(FOREVER_S)
            if mood == "slow":
                await asyncio.sleep(self.rng.uniform(1, 14))
            attempt.gone_wrong = mood in ("unreachable", "out of files")
            if mood == "unreachable":
                raise ExchangeFailed("no route", "refused", sent=False)
            if mood == "out of files":
                attempt.not_made = True
                raise ExchangeFailed("no file", "resources", sent=False)
            answer, retry_after_s = self._word(mood)
            attempt.said = answer.status_code
            await self._travel()
            attempt.status, attempt.retry_after_s = answer.status_code, retry_after_s
        self._tell("recording", webhook_id)
        return answer

    def _word(self, mood: str) -> tuple[httpx.Response, float | None]:
        if mood == "busy":
            status, retry_after, counts_s = self.rng.choice(ASIDE)
            return httpx.Response(status, headers={"retry-after": retry_after}), counts_s
        return httpx.Response({"error": 500, "gone for good": 410, "redirect": 302}.get(mood, 204)), None

    @contextmanager
    def _under_way(self, seen: Seen) -> Iterator[None]:
        try:
            yield
        finally:
            seen.ended_s, seen.ended_at = self.clock.monotonic(), self.now()

    def _tell(self, what: str, about: str) -> None:
        for future in self.waiting.pop(what, ()):
            if not future.done():
                future.set_result(about)

    def _mood(self, mood: Mood) -> str:
        name = mood.name if self.clock.monotonic() < mood.until_s else "ok"
        return self.rng.choice(MIXED.get(name, (name,)))

    async def _travel(self) -> None:
        await asyncio.sleep(self.rng.choice((0.0, 0.001, 0.05, 0.3)))


def _envelope(status: int, code: int, data: dict[str, Any] | None = None) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "msg": "so it is", "data": data})
