"""Real processes over real sockets: a gateway that can be killed, beside a simulated upstream and a receiver."""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.crash.process import LIMIT_S, SECRET, GatewayProcess, environment, run_gateway
from tests.waiting import a_moment


class TestReceiver:
    """Takes webhooks, and verifies each with the reference library before it is counted."""

    __test__ = False

    def __init__(self) -> None:
        self.webhooks: dict[str, list[tuple[dict[str, str], bytes]]] = defaultdict(list)
        self.bad: list[str] = []
        self.url = ""
        self.on_post: Callable[[str], Awaitable[int]] | None = None
        """Called with the webhook-id before the answer; returns the status to answer."""
        self._news = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        try:
            standardwebhooks.Webhook(SECRET).verify(body, headers)
        except standardwebhooks.WebhookVerificationError as exc:
            self.bad.append(str(exc))
        self.webhooks[headers["webhook-id"]].append((headers, body))
        self._news.set()
        status = 204 if self.on_post is None else await self.on_post(headers["webhook-id"])
        await Response(status_code=status)(scope, receive, send)

    async def wait_for(self, callback_ids: set[str]) -> None:
        """Return once each of these webhooks has come at least once."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while not callback_ids <= self.webhooks.keys():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"never came: {callback_ids - self.webhooks.keys()}")

    def event(self, callback_id: str) -> Any:
        return json.loads(self.webhooks[callback_id][-1][1])


class World:
    """The simulated upstream, the receiver, and as many gateway runs on one database as a test wants."""

    def __init__(self, folder: Path, simulator: SimulatedUpstream, upstream_url: str, receiver: TestReceiver) -> None:
        self.folder = folder
        self.simulator = simulator
        self.upstream_url = upstream_url
        self.receiver = receiver
        self.environ = environment(folder / "gateway.db", upstream_url)

    @asynccontextmanager
    async def gateway(
        self, *, ready: bool = True, fresh: bool = False, **environ: str
    ) -> AsyncIterator[GatewayProcess]:
        """Run ``gateway serve`` until the block ends; listening when it begins, where ``ready``.

        ``fresh``: nothing of it is forked, as where its memory is measured.
        """
        async with run_gateway(self.environ | environ, self.folder, ready=ready, fresh=fresh) as gateway:
            yield gateway

    async def register(self, client: httpx.AsyncClient, task_id: str, **members: Any) -> dict[str, Any]:
        """Register the receiver for a task; return the callback."""
        body = {"taskId": task_id, "callbackUrl": f"{self.receiver.url}/hooks", **members}
        response = await client.post("/v1/callbacks", json=body)
        assert response.status_code in (200, 201), response.text
        callback: dict[str, Any] = response.json()
        return callback

    async def becomes(self, client: httpx.AsyncClient, callback_id: str, state: str) -> None:
        """Return once the gateway says that the callback is in this state."""
        async with asyncio.timeout(LIMIT_S):
            while (await client.get(f"/v1/callbacks/{callback_id}")).json()["state"] != state:
                await a_moment()

    async def polled(self, task_id: str) -> None:
        """Return once the upstream has been asked for the task."""
        async with asyncio.timeout(LIMIT_S):
            while not self.simulator.stats.polls.get(task_id):
                await a_moment()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A simulated upstream and a receiver that answer, and a folder for the database."""
    async with AsyncExitStack() as stack:
        simulator = SimulatedUpstream(SystemClock())
        upstream_url = await stack.enter_async_context(serve_simulator(simulator))
        receiver = TestReceiver()
        receiver.url = await stack.enter_async_context(serve_asgi(receiver))
        yield World(tmp_path, simulator, upstream_url, receiver)
        assert receiver.bad == []
