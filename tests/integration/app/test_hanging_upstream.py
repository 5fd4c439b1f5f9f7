"""An upstream that never answers: another one's polls, creates and reads go on as if it were not there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from gateway.app.build import MOST_CONNECTIONS, build, own_files
from gateway.app.gateway import Gateway
from gateway.config.load import load
from gateway.core.clock import SystemClock
from gateway.loops.poller import MOST_POLLS
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.upstream.turns import MOST_UNDER_WAY
from tests.integration.app.test_clients import Hooks
from tests.integration.conftest import RawServer
from tests.waiting import until

LIMIT_S = 20
CREATE = "/api/v1/jobs/createTask"


class Stand:
    """A gateway with a sound upstream, the default one, and one that hangs."""

    gateway: Gateway
    client: httpx.AsyncClient
    hanging: RawServer
    hooks: Hooks

    async def register(self, task_id: str, upstream: str) -> None:
        body = {"taskId": task_id, "callbackUrl": self.hooks.url, "upstream": upstream}
        assert (await self.client.post("/v1/callbacks", json=body)).status_code == 201

    async def hang(self) -> None:
        """Have as many polls of one client hang as may."""
        body = [{"taskId": f"t{number}", "callbackUrl": self.hooks.url, "upstream": "hanging"} for number in range(200)]
        assert (await self.client.post("/v1/callbacks/batch", json={"callbacks": body})).status_code == 200
        await until(lambda: self.hanging.connections >= MOST_POLLS // 2)


@pytest.fixture
async def stand(tmp_path: Path, raw_server: Callable[..., Awaitable[RawServer]]) -> AsyncIterator[Stand]:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with AsyncExitStack() as stack:
        made = Stand()
        made.hanging = await raw_server(never)
        url = await stack.enter_async_context(serve_simulator(SimulatedUpstream(SystemClock())))
        made.hooks = Hooks()
        made.hooks.url = await stack.enter_async_context(serve_asgi(made.hooks))
        path = tmp_path / "gateway.toml"
        path.write_text(
            f'[upstreams.hanging]\nprofile = "aigptimage"\nurl = "{made.hanging.url("")}"\nrate = "1000/1"\n'
        )
        environ = {
            "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": url,
            "GATEWAY_UPSTREAM_RATE": "100/1",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
            "GATEWAY_POLL_MIN_S": "0.05",
            "GATEWAY_DRAIN_S": "0.2",
        }
        made.gateway = build(load(environ, path), SystemClock())
        stack.push_async_callback(made.gateway.close)
        await made.gateway.start()
        stack.push_async_callback(made.gateway.drain)
        transport = httpx.ASGITransport(made.gateway)
        made.client = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=LIMIT_S)
        )
        yield made


async def test_an_upstream_that_hangs_holds_up_no_other(stand: Stand) -> None:
    """With every place of the one taken, the other's polls, creates and reads come at once: its places are its own."""
    await stand.hang()
    async with asyncio.timeout(LIMIT_S):  # far less than a poll that hangs may take
        created = await stand.client.post(CREATE, json={"model": "m", "input": {}, "callBackUrl": stand.hooks.url})
        assert created.status_code == 200
        task_id = created.json()["data"]["taskId"]
        read = await stand.client.get("/api/v1/jobs/recordInfo", params={"taskId": f"{task_id}x"})
        assert read.status_code in (200, 404, 422)
        await stand.register("sim-success-0-mine", "aigptimage")
        await stand.hooks.first()
    assert stand.hanging.connections == MOST_POLLS // 2
    assert (await stand.client.get("/readyz")).status_code == 200


async def test_a_pool_has_a_connection_for_each_request_that_there_may_be() -> None:
    """Nobody waits for one: neither polls for creates that hang, nor creates for polls; and the files are counted."""
    assert MOST_CONNECTIONS == MOST_POLLS + 2 * MOST_UNDER_WAY
    assert own_files(3) - own_files(1) >= 2 * MOST_CONNECTIONS


async def test_the_drain_is_as_long_as_is_allowed(stand: Stand) -> None:
    """Polls that hang are cut off when its time is up; nothing about their tasks is lost."""
    await stand.hang()
    async with asyncio.timeout(LIMIT_S):
        await stand.gateway.drain()
    listed = await stand.client.get("/v1/callbacks?state=waiting&limit=200")
    assert len(listed.json()["data"]) == 200
