"""Everything around the replicas of one world: the upstream, the receivers, their moods, and each machine's clock.

Owns what truly happened: which requests came from whom, when, and what each was answered.
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
from tests.simulation.replicas.loops import Time
from tests.simulation.replicas.scenario import IN_THE_WAY, OPERATOR, RECEIVERS, Scenario
from tests.simulation.telling import Paid, Telling
from tests.virtualtime import EPOCH

__all__ = ["Asked", "Attempt", "MachineClock", "Mood", "World"]


class MachineClock:
    """The clocks of one machine: neither shows the database's time."""

    def __init__(self, time: Time, rng: random.Random) -> None:
        self._time = time
        self._started_s = rng.uniform(0, 1e6)
        self.set_by_ms = round(rng.choice((0.0, rng.gauss(0, 100), rng.gauss(0, 1e6))))

    def now(self) -> int:
        return EPOCH + int(self._time.now_s * 1000) + self.set_by_ms

    def monotonic(self) -> float:
        return self._started_s + self._time.now_s


@dataclass
class Mood:
    """How somebody answers until its time is over."""

    name: str = "ok"
    until_s: float = 0.0


@dataclass
class Asked:
    """One request to the upstream."""

    life: str
    """Whose it is: one life of one replica."""
    task_id: str
    kind: str
    """``poll``, ``probe``, ``read`` or ``create``."""
    begun_s: float
    arrived_s: float
    ended_s: float | None = None


@dataclass
class Attempt:
    """One request to a receiver, or to whoever is told of operator events."""

    life: str
    webhook_id: str
    begun_s: float
    body: bytes
    ended_s: float | None = None
    said: int | None = None
    """What the receiver answered, whether or not that arrived."""
    status: int | None = None
    """What arrived of it."""


@dataclass
class World:
    scenario: Scenario
    time: Time
    rng: random.Random
    upstream: Mood = field(default_factory=Mood)
    receivers: list[Mood] = field(default_factory=lambda: [Mood() for _ in range(RECEIVERS)])
    operator: Mood = field(default_factory=Mood)
    started: dict[str, float] = field(default_factory=dict)
    """When each task began."""
    asked: list[Asked] = field(default_factory=list)
    attempts: defaultdict[str, list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    """Of each webhook-id, in order."""
    events: defaultdict[str, list[Attempt]] = field(default_factory=lambda: defaultdict(list))
    """The same of each operator event's."""
    telling: Telling = field(default_factory=Telling)
    at: Callable[[str, str], None] = lambda life, moment: None
    """Told as a life begins a poll, an attempt, or one at an event."""
    at_poll: Callable[[Asked], None] = lambda asked: None
    at_attempt: Callable[[Attempt], None] = lambda attempt: None
    at_event: Callable[[Attempt], None] = lambda attempt: None

    def __post_init__(self) -> None:
        self.paid = Paid(honours=self.scenario.honours)
        self._read = {f"task-{reader.task}" for reader in self.scenario.readers}

    @property
    def was_always_well(self) -> bool:
        """Whether neither the upstream nor the database ever stood in the way of a read."""
        return all(trouble.kind not in IN_THE_WAY for trouble in self.scenario.troubles)

    def now(self) -> int:
        """Return the true time, which is the database's."""
        return EPOCH + int(self.time.now_s * 1000)

    def begin(self, task: int) -> str:
        """Return the id of a task, which runs from its first registration or its create on."""
        task_id = f"task-{task}"
        self.started.setdefault(task_id, self.time.now_s)
        return task_id

    def truth(self, task_id: str) -> str:
        """Return the task's state as the upstream knows it."""
        end, after_s = self.scenario.tasks[int(task_id.removeprefix("task-"))]
        over = end != "never" and self.time.now_s >= self.started[task_id] + after_s
        return end if over else "waiting"

    async def ask(self, life: str, request: httpx.Request) -> httpx.Response:
        """Answer for the upstream."""
        creates = request.method == "POST"
        task_id = "" if creates else request.url.params["taskId"]
        task = asyncio.current_task()
        name = "" if task is None else task.get_name()
        kind = "read" if name.startswith("proxy-") else "probe" if name == "poll-probe" else "poll"
        kind = "create" if creates else kind
        travel_s = self._travel_s()
        asked = Asked(life, task_id, kind, self.time.now_s, self.time.now_s + travel_s)
        self.at_poll(asked)
        self.asked.append(asked)
        if kind == "poll":
            self.at(life, "poll")
        with self._under_way(asked):
            await asyncio.sleep(travel_s)
            mood = self._mood(self.upstream)
            if mood == "hang":
                await asyncio.sleep(3600)
            if mood == "slow":
                await asyncio.sleep(self.rng.uniform(5, 40))
            if mood == "gone":
                raise ExchangeFailed("refused", "refused", sent=False)
            answer = self._answer(mood, task_id, request)
            await asyncio.sleep(self._travel_s())
        return answer

    def _answer(self, mood: str, task_id: str, request: httpx.Request) -> httpx.Response:
        if mood == "throttled":
            return _envelope(429, 429, {"retryAfter": 7, "limit": 20, "windowSeconds": 60})
        made = None
        if not task_id and (mood != "error" or self.rng.random() < 0.5):  # it may have made the task all the same
            number = json.loads(request.content)["input"]["task"]
            made = self.begin(number)
            self.paid.create(number, request.headers["x-request-id"])
        if mood == "error":
            return _envelope(500, 500)
        if made is not None:
            return _envelope(200, 200, {"taskId": made})
        if task_id not in self.started:
            return _envelope(404, 404)
        word = told(task_id, self.truth(task_id))
        if task_id in self._read:
            word = {"progress": round(self.time.now_s * 1000)} | word
            self.telling.says(task_id, word)
        return _envelope(200, 200, word)

    async def receive(self, life: str, request: httpx.Request) -> httpx.Response:
        """Answer for a receiver."""
        number = int(request.url.host.rpartition(".")[2])
        attempt = Attempt(life, request.headers["webhook-id"], self.time.now_s, request.content)
        if number == OPERATOR:
            self.at_event(attempt)
            self.events[attempt.webhook_id].append(attempt)
            self.at(life, "event")
        else:
            self.at_attempt(attempt)
            self.attempts[attempt.webhook_id].append(attempt)
            self.at(life, "attempt")
        with self._under_way(attempt):
            await asyncio.sleep(self._travel_s())
            mood = self._mood(self.operator if number == OPERATOR else self.receivers[number - 1])
            if mood == "hang":
                await asyncio.sleep(3600)
            if mood == "slow":
                await asyncio.sleep(self.rng.uniform(1, 5))
            if mood == "unreachable":
                raise ExchangeFailed("no route", "refused", sent=False)
            attempt.said = {"error": 500, "gone for good": 410}.get(mood, 204)
            await asyncio.sleep(self._travel_s())
            attempt.status = attempt.said
        return httpx.Response(attempt.said)

    @contextmanager
    def _under_way(self, seen: Asked | Attempt) -> Iterator[None]:
        try:
            yield
        finally:
            seen.ended_s = self.time.now_s

    def _mood(self, mood: Mood) -> str:
        return mood.name if self.time.now_s < mood.until_s else "ok"

    def _travel_s(self) -> float:
        return self.rng.choice((0.0, 0.001, 0.05, 0.3))


def told(task_id: str, state: str) -> dict[str, Any]:
    """Return what the upstream tells of a task in this state."""
    result = f'{{"resultUrls":["https://cdn.example.com/{task_id}.png"]}}' if state == "success" else None
    about = {"taskId": task_id, "model": "m", "state": state, "param": "{}", "resultJson": result}
    return about | {"failCode": 400, "failMsg": f"{task_id} failed"} if state == "fail" else about


def _envelope(status: int, code: int, data: dict[str, Any] | None = None) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "msg": "so it is", "data": data})
