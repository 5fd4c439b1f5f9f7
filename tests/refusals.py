"""An upstream that refuses some tasks, or all, in every way that there is, and what became of the key. In virtual time.

Called by the tests of refused tasks and keys.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gateway.config.profile import Profile
from gateway.core.model import Callback, TaskState
from gateway.core.ratelimit import RateWindow
from gateway.upstream.answer import PollResult
from gateway.upstream.api import Upstream
from tests.life import Life, Transport, until
from tests.profiles import SHIPPED
from tests.virtualtime import EPOCH, VirtualClock

__all__ = ["AMPLE", "EACH_WAY", "EVERY_WAY", "NEVER_S", "REFUSALS", "Jobs", "Verdicts", "settled_s"]

AMPLE = (RateWindow(50, 1.0),)
NEVER_S = 1e9


def page(status: int, body: bytes) -> Callable[[Profile], httpx.Response]:
    return lambda _: httpx.Response(status, content=body)


def envelope(status: int, code: int) -> Callable[[Profile], httpx.Response]:
    def answer(profile: Profile) -> httpx.Response:
        told = {} if profile.envelope.code is None else nested(profile.envelope.code, code)
        return httpx.Response(status, json={**told, "detail": "not yours"})

    return answer


def nested(path: str, value: object) -> dict[str, Any]:
    """Return an object that holds the value at this path."""
    for name in reversed(path.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {**one, **other}
    return both | {name: merged(one[name], other[name]) for name in one.keys() & other.keys()}


REFUSALS = {
    "HTTP 401": envelope(401, 401),
    "HTTP 403": envelope(403, 403),
    "a page with 403": page(403, b"<html><title>403 Forbidden</title></html>"),
    "the CDN's block": page(403, b"error code: 1010"),
    "nothing with 401": page(401, b""),
}
IN_THE_ENVELOPE = {"HTTP 200, code 401": envelope(200, 401), "HTTP 200, code 403": envelope(200, 403)}
EVERY_WAY = [
    pytest.param(name, refusal, id=f"{name}: {spelling}")
    for name, profile in SHIPPED.items()
    for spelling, refusal in {**REFUSALS, **(IN_THE_ENVELOPE if profile.envelope.code else {})}.items()
    # What is no profile's own takes the same way through each.
    if name == "aigptimage" or spelling in ("HTTP 403", *IN_THE_ENVELOPE)
]


class Jobs:
    """An upstream whose tasks end at their times, and which refuses some ids."""

    def __init__(
        self, refused: set[str], refusal: Callable[[Profile], httpx.Response], profile: str = "aigptimage"
    ) -> None:
        self.refused = refused
        self.ends_s: dict[str, float] = {}
        self.asked: dict[str, list[float]] = {}
        self.unknown: Callable[[Profile], httpx.Response] = envelope(404, 404)
        self.tells_after_s = 0.05
        self._refusal = refusal
        self._profile = profile = SHIPPED[profile]
        before, _, after = profile.request.status_path.partition("{task_id}")
        self._around = before, after
        transport = Transport(self._answer)
        self.upstream = Upstream(
            profile, transport, VirtualClock(), base_url="https://up.example", api_key="k", name="up"
        )

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        before, after = self._around
        task_id = request.url.raw_path.decode().removeprefix(before).removesuffix(after)
        self.asked.setdefault(task_id, []).append(VirtualClock().monotonic())
        await asyncio.sleep(0.05)
        if task_id in self.refused:
            return self._refusal(self._profile)
        if task_id not in self.ends_s:
            return self.unknown(self._profile)
        await asyncio.sleep(self.tells_after_s - 0.05)
        return httpx.Response(200, json=self._told(task_id))

    def _told(self, task_id: str) -> dict[str, Any]:
        states, fields, code = self._profile.states, self._profile.fields, self._profile.envelope.code
        over = VirtualClock().monotonic() >= self.ends_s[task_id]
        running: Any = 0 if type(states.success[0]) is int else "quite another word"
        told = nested(states.path, states.success[0] if over else running)
        told = merged(told, {} if code is None else nested(code, self._profile.envelope.ok[0]))
        told = merged(told, {} if fields.task_id is None else nested(fields.task_id, task_id))
        return merged(told, nested(states.success_if, {"is": "there"}) if over and states.success_if else {})


class Verdicts:
    """What became of the key with each answer."""

    def __init__(self, life: Life) -> None:
        self.refusals: list[str] = []
        self._key, self._judge = life.key, life.key.judge
        life.key.judge = self._judged  # type: ignore[method-assign]

    def _judged(self, task_id: str, asked_at: float, result: PollResult, **how: bool) -> None:
        self._judge(task_id, asked_at, result, **how)
        if self._key.refusal is not None:
            self.refusals.append(self._key.refusal)


async def settled_s(life: Life, callback: Callback, ended_s: float) -> float:
    """Return how long after its end a task was known to have ended."""

    async def ended() -> bool:
        nonlocal task
        task = (await life.look(callback)).task
        return task.state is TaskState.SUCCESS

    task = callback.task
    await until(ended, limit_s=3000, step_s=1.0)
    assert task.settled_at is not None
    return (task.settled_at - EPOCH) / 1000 - ended_s


# What is told of an id that there is not: 422 as 404, and 400 as 500, are the same word to the key.
EACH_WAY = [
    pytest.param(envelope(status, status), first, id=f"{status} for an id that there is not, {first}")
    for status, firsts in ((400, (True,)), (404, (True, False)), (422, (False,)), (500, (True, False)))
    for first in firsts
]
