"""A gateway before an upstream, over real sockets on both sides, and a client of the calls that it passes on.

Owns its start; called by the tests of the proxy.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request

from tests.running import Running, running

__all__ = ["CREATE", "HOOKS", "RECORD", "TASK", "Stand", "Upstream", "envelope", "stand"]

RECORD = "/api/v1/jobs/recordInfo"
CREATE = "/api/v1/jobs/createTask"
HOOKS = "https://hooks.example.com/in"
TASK = {"model": "m", "input": {"prompt": "A cat"}}


class Stand(Running):
    """One gateway, and a client of it."""

    @property
    def store(self) -> Any:
        return self.gateway.store

    async def read(self, task_id: str) -> httpx.Response:
        return await self.client.get(RECORD, params={"taskId": task_id})

    async def create(self, url: str | None = HOOKS, **headers: str) -> httpx.Response:
        body = TASK if url is None else {**TASK, "callBackUrl": url}
        return await self.client.post(CREATE, json=body, headers=headers)

    async def watch(self, task_id: str) -> None:
        await self.registered(task_id, HOOKS)

    async def callbacks(self) -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = (await self.client.get("/v1/callbacks")).json()["data"]
        return data


@asynccontextmanager
async def stand(folder: Path, upstream_url: str, **environ: str) -> AsyncIterator[Stand]:
    config = folder / "gateway.toml"
    config.write_text('[upstreams.aigptimage]\ncreate_rate = "1000/1"\n')  # the free tier's is one a second
    own = {
        "GATEWAY_CONFIG": str(config),
        "GATEWAY_UPSTREAM_API_KEY": "sk-upstream",
        "GATEWAY_CALLBACK_ALLOW": "hooks.example.com,127.0.0.1",
        "GATEWAY_DRAIN_S": "1",
    }
    async with running(folder, upstream_url, **(own | environ)) as one:
        yield Stand(one.gateway, one.client)


class Upstream:
    """Answers everything alike, once it may, and keeps what it was asked."""

    def __init__(self, status: int = 200, body: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.answer = status, body, headers or {"content-type": "application/json"}
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Event()
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        line = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()}"
        self.requests.append((line, headers, body))
        self.asked.set()
        await self.may_answer.wait()
        status, body, answer_headers = self.answer
        raw = [(name.encode(), value.encode()) for name, value in answer_headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


def envelope(answer: httpx.Response) -> dict[str, Any]:
    """Return an error that has the upstream's shape."""
    told: dict[str, Any] = answer.json()
    assert list(told) == ["code", "msg", "data"]
    assert told["code"] == answer.status_code
    assert told["msg"]
    assert answer.headers["content-type"] == "application/json"
    return told
