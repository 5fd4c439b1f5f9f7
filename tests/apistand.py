"""A gateway in this process over its real store and a simulated upstream, and a client of its API.

Called by the tests of the API.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from gateway.app.build import build
from gateway.config.load import load
from gateway.core.clock import SystemClock
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.life import teach

__all__ = ["HOOKS", "PROBLEM", "SLOW", "body", "gateway_client"]

HOOKS = "https://hooks.example.com/in"
PROBLEM = "application/problem+json"
SLOW = "slow"
"""A model whose tasks take 25 s."""


async def gateway_client(tmp_path: Path, **environ: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serve_simulator(SimulatedUpstream(SystemClock())) as upstream_url:
        settings = load(
            {
                "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path / 'gateway.db'}",
                "GATEWAY_UPSTREAM_URL": upstream_url,
                # Names do not resolve in these tests: what an entry names may be registered.
                "GATEWAY_CALLBACK_ALLOW": "hooks.example.com,127.0.0.1",
                **environ,
            }
        )
        gateway = build(settings, SystemClock())
        await gateway.start()
        for watch in gateway.watches:
            teach(watch.timetable, SLOW, [25.0] * 20)
        try:
            transport = httpx.ASGITransport(gateway)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                yield client
        finally:
            await gateway.drain()
            await gateway.close()


def body(**members: Any) -> dict[str, Any]:
    return {"taskId": "sim-never-0-a", "callbackUrl": HOOKS, **members}
