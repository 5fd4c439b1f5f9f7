"""Everything around the gateway in one simulated run: the upstream, the receivers, the wall clock, and their moods.

Owns what truly happened: when each task ended, which attempts came, and what each was answered.
"""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from tests.simulation.scenario import RECEIVERS, Scenario
from tests.virtualtime import VirtualClock

__all__ = ["ShiftedClock", "World"]

FOREVER_S = 1e9


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
class World:
    scenario: Scenario
    clock: ShiftedClock
    rng: random.Random
    upstream: Mood = field(default_factory=Mood)
    receivers: list[Mood] = field(default_factory=lambda: [Mood() for _ in range(RECEIVERS)])
    started: dict[str, float] = field(default_factory=dict)
    """When each task that was registered began, on the monotonic clock."""
    bodies: defaultdict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    taken: Counter[str] = field(default_factory=Counter)
    """How often a webhook-id was answered with 2xx."""
    final: set[str] = field(default_factory=set)
    """Webhook-ids that were answered 410."""
    running: set[str] = field(default_factory=set)
    attempts: Counter[str] = field(default_factory=Counter)
    at_attempt: Callable[[str, bytes], None] = lambda webhook_id, body: None
    """Asked at the beginning of each attempt."""

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

    async def poll(self, request: httpx.Request) -> httpx.Response:
        """Answer for the upstream."""
        await self._travel()
        mood = self._mood(self.upstream)
        if mood == "hang":
            await asyncio.sleep(FOREVER_S)
        if mood == "slow":
            await asyncio.sleep(self.rng.uniform(5, 40))
        if mood == "gone":
            raise httpx.ConnectError("refused")
        answer = self._answer(mood, request.url.params["taskId"])
        await self._travel()
        return answer

    def _answer(self, mood: str, task_id: str) -> httpx.Response:
        if mood == "error":
            return httpx.Response(500, json={"code": 500, "msg": "oops", "data": None})
        if mood == "throttled":
            data = {"retryAfter": 17, "limit": 60, "windowSeconds": 60}
            return httpx.Response(429, json={"code": 429, "msg": "slow down", "data": data})
        if mood == "refused":
            return httpx.Response(401, json={"code": 401, "msg": "key", "data": None})
        if mood == "garbage":
            return httpx.Response(200, content=b"<html>")
        if mood == "unknown" or task_id not in self.started:
            return httpx.Response(404, json={"code": 404, "msg": "no such task", "data": None})
        state = self.truth(task_id)
        result = '{"resultUrls":["https://cdn.example.com/x.png"]}' if state == "success" else None
        data = {"taskId": task_id, "model": "m", "state": state, "param": "{}", "resultJson": result}
        return httpx.Response(200, json={"code": 200, "msg": "success", "data": data})

    async def receive(self, request: httpx.Request) -> httpx.Response:
        """Answer for a receiver."""
        webhook_id, body = request.headers["webhook-id"], request.content
        self.at_attempt(webhook_id, body)
        self.bodies[webhook_id].add(body)
        self.attempts[webhook_id] += 1
        self.running.add(webhook_id)
        try:
            await self._travel()
            mood = self._mood(self.receivers[int(request.url.host[len("receiver-")])])
            if mood == "hang":
                await asyncio.sleep(FOREVER_S)
            if mood == "slow":
                await asyncio.sleep(self.rng.uniform(1, 14))
            if mood == "unreachable":
                raise httpx.ConnectError("no route")
            answer = self._word(mood)
            if answer.is_success:
                self.taken[webhook_id] += 1
            if answer.status_code == 410:
                self.final.add(webhook_id)
            await self._travel()
            return answer
        finally:
            self.running.discard(webhook_id)

    def _word(self, mood: str) -> httpx.Response:
        if mood == "busy":
            return httpx.Response(429, headers={"retry-after": "60"})
        return httpx.Response({"error": 500, "gone for good": 410, "redirect": 302}.get(mood, 204))

    def _mood(self, mood: Mood) -> str:
        return mood.name if self.clock.monotonic() < mood.until_s else "ok"

    async def _travel(self) -> None:
        await asyncio.sleep(self.rng.choice((0.0, 0.001, 0.05, 0.3)))


def told(body: bytes) -> tuple[str, str, str | None]:
    """Return what a webhook says: the task, its state, and for an abandoned one the reason."""
    data = json.loads(body)["data"]
    return data["taskId"], data["state"], data.get("reason")
