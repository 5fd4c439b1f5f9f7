"""An upstream that answers polls as it is told, for the tests of the poller."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx

from gateway.core.model import Callback, Outcome, TaskState
from gateway.core.ratelimit import RateWindow
from gateway.net.errors import ExchangeFailed
from gateway.upstream.key import NEUTRAL_TASK_ID
from tests.lanes import body_sent, claim_webhooks
from tests.life import Life, Transport
from tests.virtualtime import VirtualClock

__all__ = [
    "DONE",
    "FAST",
    "RUNNING",
    "SUCCESS",
    "Upstream",
    "answer",
    "body_of",
    "done",
    "error",
    "running",
    "said",
    "unreachable",
]


FAST = (RateWindow(1000, 1.0),)
DONE = {"code": 200, "msg": "success", "data": {"taskId": "t", "state": "success", "resultJson": '{"resultUrls":[]}'}}
SUCCESS = Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t"}')
RUNNING = {"code": 200, "msg": "success", "data": {"taskId": "t", "state": "waiting"}}


def answer(status: int, body: object, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, headers=headers, content=body if isinstance(body, bytes) else json.dumps(body))


def error(code: int, msg: str = "m", data: Any = None, **members: Any) -> dict[str, Any]:
    return {"code": code, "msg": msg, "data": data, **members}


class Upstream:
    """Answers from a script, its last word for ever; notes when it was asked about what, or about the neutral task."""

    def __init__(
        self, *script: Callable[[], httpx.Response], neutral: Callable[[], httpx.Response] | None = None
    ) -> None:
        self.script = list(script)
        self.asked: list[tuple[float, str]] = []
        self.probed: list[float] = []
        self._neutral = neutral or (lambda: answer(404, error(404)))
        self.transport = Transport(self._answer)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        task_id = request.url.params["taskId"]
        if task_id == NEUTRAL_TASK_ID:
            self.probed.append(VirtualClock().monotonic())
            await asyncio.sleep(0.01)
            return self._neutral()
        self.asked.append((VirtualClock().monotonic(), task_id))
        await asyncio.sleep(0.01)
        return (self.script.pop(0) if len(self.script) > 1 else self.script[0])()

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.asked]


def unreachable() -> httpx.Response:
    raise ExchangeFailed("refused", "refused", sent=False)


def done() -> httpx.Response:
    return answer(200, DONE)


def running() -> httpx.Response:
    return answer(200, RUNNING)


def said(status: int, body: object, **headers: str) -> Callable[[], httpx.Response]:
    return lambda: answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


async def body_of(life: Life, callback: Callback) -> dict[str, Any]:
    claims, _ = await claim_webhooks(life.store, life.clock.now() + 1, 10)
    (claim,) = [claim for claim in claims if claim.id == callback.id]
    body: dict[str, Any] = json.loads(body_sent(claim))
    return body
