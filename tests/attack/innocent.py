"""The innocent client: it works at a steady pace while others attack, and remembers what it was promised.

Owns its requests, its receiver and its ledger; judges nothing but what a webhook shows by itself. Each of its lives is
a task of its own, so that a slow one holds up no other; a request that fails is never repeated, but told.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import standardwebhooks

from gateway.serve.asgi import serve_asgi
from tests.attack.gateway import GOOD_UPSTREAM, SECRET, token_of

__all__ = ["NAME", "Innocent", "working"]

NAME = "innocent"
_LIFE_S = 0.2  # from one life's start to the next one's
_TASK_MS = 300
_PATIENCE_S = 60.0
_LONG_POLL_S = 20


@dataclass
class _Promise:
    """One webhook that it is owed."""

    what: str
    began: float
    task_id: str = ""
    """Unknown until a create is answered."""
    prompt: str = ""


class Innocent:
    """One client with its own token and its own receiver."""

    def __init__(self) -> None:
        self.phase = "calm"
        self.seconds: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        """By phase and by what took so long."""
        self.promised: dict[int, _Promise] = {}
        """By the order's number, which its webhook's URL and metadata hold."""
        self.arrived: dict[int, int] = {}
        self.wrong: list[str] = []
        """Webhooks and answers that are not what they must be."""
        self.failed: list[str] = []
        """Requests that were refused or not answered."""
        self.receiver_url = ""
        self._orders = 0
        self._news = asyncio.Event()
        self._lives: set[asyncio.Task[None]] = set()
        self._webhook = standardwebhooks.Webhook(SECRET)
        self._client: httpx.AsyncClient | None = None

    @property
    def lost(self) -> list[str]:
        return [
            f"order {order} ({promise.what}, {promise.task_id})"
            for order, promise in self.promised.items()
            if order not in self.arrived
        ]

    async def work(self, url: str) -> None:
        """Begin lives until cancelled; those that have begun go on."""
        headers = {"authorization": f"Bearer {token_of(NAME)}"}
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
        self._client = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=_PATIENCE_S, limits=limits, trust_env=False
        )
        kinds = (
            self._single,
            self._single,
            self._create,
            self._batch,
            self._single,
            self._wait,
            self._list,
            self._create,
        )
        number = 0
        while True:
            began = time.monotonic()
            life = asyncio.create_task(kinds[number % len(kinds)](), name=f"life-{number}")
            self._lives.add(life)
            life.add_done_callback(self._ended)
            number += 1
            await asyncio.sleep(max(0.0, began + _LIFE_S - time.monotonic()))

    def _ended(self, life: asyncio.Task[None]) -> None:
        self._lives.discard(life)
        self._news.set()
        if not life.cancelled() and (error := life.exception()) is not None:
            self.failed.append(f"{life.get_name()}: {error!r}")

    async def finish(self, limit_s: float) -> None:
        """Wait for what has begun and for what is owed, but no longer than that."""
        try:
            async with asyncio.timeout(limit_s):
                while self._lives or self.lost:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        for life in self._lives:
            life.cancel()
        if self._client is not None:
            await self._client.aclose()

    # What it does

    async def _single(self) -> int:
        order = self._promise("registered", f"sim-success-{_TASK_MS}-single-{self._orders}")
        answer = await self._asked("registering", "POST", "/v1/callbacks", json=self._wish(order))
        if answer is None:
            del self.promised[order]  # nothing was promised
        return order

    async def _batch(self) -> None:
        orders = [
            self._promise("registered in a batch", f"sim-success-{_TASK_MS}-batch-{self._orders}") for _ in range(5)
        ]
        wishes = [self._wish(order) for order in orders]
        answer = await self._asked("registering a batch", "POST", "/v1/callbacks/batch", json={"callbacks": wishes})
        items = [] if answer is None else answer["data"]
        for order, item in zip(orders, items or [{"status": 0}] * len(orders), strict=True):
            if item["status"] not in (200, 201):
                del self.promised[order]
                if items:
                    self.failed.append(f"an item of a batch: {item}")

    async def _create(self) -> None:
        order = self._promise("created", "", prompt=f"order {self._orders}")
        body = {
            "model": "gpt-image-2-text-to-image",
            "input": {"prompt": self.promised[order].prompt},
            "callBackUrl": f"{self.receiver_url}/{order}",
        }
        headers = {"x-request-id": f"order-{order}"}
        answer = await self._asked("creating", "POST", "/api/v1/jobs/createTask", json=body, headers=headers)
        if answer is None:
            del self.promised[order]
        else:
            self.promised[order].task_id = answer["data"]["taskId"]

    async def _wait(self) -> None:
        order = await self._single()
        if order not in self.promised:
            return
        task_id = self.promised[order].task_id
        task = await self._asked("", "GET", f"/v1/tasks/{task_id}?wait={_LONG_POLL_S}")
        if task is not None and task["state"] not in ("success", "waiting"):
            self.wrong.append(f"{task_id} is told to be {task['state']}")

    async def _list(self) -> None:
        page = await self._asked("listing", "GET", "/v1/callbacks?limit=50")
        for callback in [] if page is None else page["data"]:
            if not callback["callbackUrl"].startswith(self.receiver_url):
                self.wrong.append(f"it was shown another client's {callback['id']}")

    def _promise(self, what: str, task_id: str, prompt: str = "") -> int:
        order = self._orders
        self._orders += 1
        self.promised[order] = _Promise(what, time.monotonic(), task_id, prompt)
        return order

    def _wish(self, order: int) -> dict[str, Any]:
        return {
            "taskId": self.promised[order].task_id,
            "callbackUrl": f"{self.receiver_url}/{order}",
            "metadata": {"order": order},
            "upstream": GOOD_UPSTREAM,
        }

    async def _asked(self, what: str, method: str, path: str, **members: Any) -> Any:
        """Return the answer's JSON; None where there is none that is good, which is taken down."""
        assert self._client is not None
        phase, began = self.phase, time.monotonic()
        try:
            answer = await self._client.request(method, path, **members)
        except httpx.HTTPError as exc:
            self.failed.append(f"{method} {path}: {exc!r} after {time.monotonic() - began:.1f} s")
            return None
        if what:
            self.seconds[phase][what].append(time.monotonic() - began)
        if not answer.is_success:
            self.failed.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
            return None
        return answer.json()

    # What it receives

    async def receive(self, scope: Any, receive: Any, send: Any) -> None:
        """The receiver, an ASGI application."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        self._arrived(scope["path"], {name.decode(): value.decode() for name, value in scope["headers"]}, body)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _arrived(self, path: str, headers: dict[str, str], body: bytes) -> None:
        now, now_s = time.monotonic(), time.time()
        try:
            event = self._webhook.verify(body, headers)
            order = int(path[1:])
            promise = self.promised[order]
            self.arrived[order] = self.arrived.get(order, 0) + 1
            self._news.set()
            self._check(order, promise, event)
        except (standardwebhooks.WebhookVerificationError, LookupError, ValueError, TypeError) as exc:
            self.wrong.append(f"{path}: {exc!r}")
            return
        if self.arrived[order] > 1:
            return
        self.seconds[self.phase]["a whole life"].append(now - promise.began)
        if (settled_s := _seconds(event.get("timestamp"))) is not None:
            self.seconds[self.phase]["notice to delivery"].append(max(now_s - settled_s, 0.0))

    def _check(self, order: int, promise: _Promise, event: Any) -> None:
        data = event["data"]
        if promise.task_id and data["taskId"] != promise.task_id:
            self.wrong.append(f"order {order} is {promise.task_id}, and was told of {data['taskId']}")
        if data["state"] != "success":
            self.wrong.append(f"order {order} is told to be {data['state']}")
        if promise.what == "created":
            if promise.prompt not in json.dumps(data.get("param")):
                self.wrong.append(f"order {order} was told of somebody else's task")
        elif data["metadata"] != {"order": order}:
            self.wrong.append(f"order {order} has the metadata {data['metadata']}")


def _seconds(instant: Any) -> float | None:
    """Return an instant of a webhook as seconds since the epoch; None where its format has none."""
    if not isinstance(instant, str):
        return None
    return datetime.fromisoformat(instant).timestamp()


@asynccontextmanager
async def working() -> AsyncIterator[Innocent]:
    """Serve its receiver until the block ends."""
    innocent = Innocent()
    async with serve_asgi(innocent.receive) as url:
        innocent.receiver_url = url
        yield innocent
