"""A whole gateway in this process, over real sockets and on a real file, and a client of it.

Owns its start and its end. Called by the integration tests.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app.build import build
from gateway.app.gateway import Gateway
from gateway.config.load import load
from gateway.core.clock import Clock, SystemClock
from gateway.serve.asgi import serve_asgi
from tests.waiting import LIMIT_S, a_moment

__all__ = ["LIMIT_S", "Running", "running"]


class Running:
    """A gateway that serves, and its client."""

    def __init__(self, gateway: Gateway, client: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.client = client

    @property
    def url(self) -> str:
        return str(self.client.base_url)

    async def register(self, task_id: str, url: str, **members: Any) -> httpx.Response:
        return await self.client.post("/v1/callbacks", json={"taskId": task_id, "callbackUrl": url, **members})

    async def registered(self, task_id: str, url: str) -> str:
        answer = await self.register(task_id, url)
        assert answer.status_code == 201, answer.text
        callback_id: str = answer.json()["id"]
        return callback_id

    async def becomes(self, path: str, condition: Callable[[Any], bool]) -> Any:
        """Return what a path answers once the condition holds of it."""
        last = None
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    last = await self.client.get(path)
                    if condition(last):
                        return last
                    await a_moment()
        except TimeoutError:
            pytest.fail(f"{path} still answers {last and last.text}")

    async def delivered(self, callback_id: str) -> Any:
        path = f"/v1/callbacks/{callback_id}"
        return (await self.becomes(path, lambda answer: answer.json()["state"] == "delivered")).json()


@asynccontextmanager
async def running(
    folder: Path, upstream_url: str, clock: Clock | None = None, **environ: str
) -> AsyncIterator[Running]:
    """Run a gateway in a hurry until the block ends, on ``gateway.db`` in the folder."""
    settings = load(
        {
            "GATEWAY_DATABASE_URL": f"sqlite:///{folder / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": upstream_url,
            "GATEWAY_UPSTREAM_RATE": "1000/1",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
            "GATEWAY_POLL_MIN_S": "0.05",
            "GATEWAY_POLL_MAX_S": "0.2",
            "GATEWAY_RETRY_SCHEDULE": "0" + ",0.1" * 99,
            "GATEWAY_DRAIN_S": "0.1",
            **environ,
        }
    )
    gateway = build(settings, clock or SystemClock(), environ)
    try:
        await gateway.start()
        async with (
            serve_asgi(gateway) as url,
            # To verify nothing spares it the reading of all root certificates, which takes longer than most tests.
            httpx.AsyncClient(base_url=url, timeout=LIMIT_S, trust_env=False, verify=False) as client,
        ):
            yield Running(gateway, client)
    finally:
        await gateway.drain()
        await gateway.close()
