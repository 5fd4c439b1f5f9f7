"""Answers that wait for room in memory hold no place in their key's rate limit: a whole gateway before an upstream."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from starlette.requests import Request

from gateway.serve.asgi import serve_asgi
from tests.running import Running, running
from tests.waiting import until

CREATE = "/api/v1/jobs/createTask"
READ = "/api/v1/jobs/recordInfo?taskId="
PASSED = "/api/v1/chat/credit?taskId="
LARGE, SMALL = "200000-large", "10-small"


class Upstream:
    """Answers everything with as much as the task's id says, of a task that has ended."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        task_id = json.loads(body)["model"] if body else parse_qs(scope["query_string"].decode())["taskId"][0]
        result = json.dumps({"image": "x" * int(task_id.split("-")[0])})
        answer = {"code": 200, "data": {"taskId": task_id, "state": "success", "resultJson": result}}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


@asynccontextmanager
async def stand(folder: Path) -> AsyncIterator[Running]:
    """Run a gateway whose key has one request a second of each kind."""
    config = folder / "gateway.toml"
    config.write_text('[upstreams.kie]\ncreate_rate = "1/1"\n')
    environ = {"GATEWAY_CONFIG": str(config), "GATEWAY_UPSTREAM": "kie", "GATEWAY_UPSTREAM_RATE": "1/1"}
    async with serve_asgi(Upstream()) as url, running(folder, url, **environ) as one:
        yield one


@asynccontextmanager
async def full(one: Running) -> AsyncIterator[None]:
    """Have somebody else hold all the room until the block ends."""
    memory, end = one.gateway.memory, asyncio.Event()

    async def hold() -> None:
        await memory.hold(memory.limit, "another")
        await end.wait()

    holds = asyncio.create_task(hold())
    await until(lambda: memory.used >= 1)
    yield
    end.set()
    await holds


async def read(one: Running, task_id: str) -> str:
    return (await one.client.get(READ + task_id)).raise_for_status().text


async def passed(one: Running, task_id: str) -> str:
    return (await one.client.get(PASSED + task_id)).raise_for_status().text


async def create(one: Running, task_id: str) -> str:
    return (await one.client.post(CREATE, json={"model": task_id, "input": {}})).raise_for_status().text


async def poll(one: Running, task_id: str) -> str:
    callback_id = await one.registered(task_id, "http://127.0.0.1:9/hook")
    await one.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["state"] != "waiting")
    return (await one.client.get(f"/v1/tasks/{task_id}")).raise_for_status().text


@pytest.mark.parametrize("ask", [poll, read, create, passed])
async def test_a_small_answer_comes_while_a_large_one_waits_for_room(
    tmp_path: Path, ask: Callable[[Running, str], Awaitable[str]]
) -> None:
    """Even where the key's rate limit has room for one request alone, and the large one's wait has no end."""
    async with stand(tmp_path) as one:
        async with full(one):
            large = asyncio.ensure_future(ask(one, LARGE))
            await until(lambda: bool(one.gateway.memory._waiting))
            assert len(await ask(one, SMALL)) < 1000
            assert not large.done()
        assert len(await large) > 200_000
