"""What a hanging receiver costs another one: its delivery times alone, and beside 500 webhooks that get no answer.

Part of ``make bench``. One ``gateway serve``, a simulated upstream, and two receivers on loopback; the figure is the
time from the task's settling to the webhook's arrival, and the ratio of its 99th percentiles in one run.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from gateway.asgi_server import serve_asgi
from gateway.clock import SystemClock
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator

LIMIT_S = 60
HANGING = 500


class Receiver:
    """Answers at once, or never; notes how long after its task's end each webhook came."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.took_ms: list[float] = []
        self.connected = 0
        self.news = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.connected += 1
        self.news.set()
        if not self.answers:
            await receive()  # until the gateway gives up
            return
        settled = datetime.fromisoformat(json.loads(body)["timestamp"]).timestamp() * 1000
        self.took_ms.append(SystemClock().now() - settled)
        self.news.set()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def measure(count: int) -> dict[str, float]:
    """Deliver so many webhooks alone, then as many beside ones that hang."""
    return asyncio.run(_measure(count))


async def _measure(count: int) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        simulator = SimulatedUpstream(SystemClock())
        upstream_url = await stack.enter_async_context(serve_simulator(simulator))
        works, hangs = Receiver(answers=True), Receiver(answers=False)
        works_url = await stack.enter_async_context(serve_asgi(works))
        hangs_url = await stack.enter_async_context(serve_asgi(hangs))
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        environ |= {
            "GATEWAY_PORT": "0",
            "GATEWAY_DATABASE_URL": f"sqlite:///{Path(folder) / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": upstream_url,
            "GATEWAY_UPSTREAM_RATE": "10000/1",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
            "GATEWAY_LOG_FORMAT": "json",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve"), env=environ, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        try:
            url = json.loads(await process.stderr.readline())["url"]
            drain = asyncio.create_task(_read_away(process.stderr))
            async with httpx.AsyncClient(base_url=url, timeout=LIMIT_S) as client:
                alone = await _deliver(client, works, works_url, count, "alone")
                await _register(client, hangs_url, HANGING, "hangs")
                await _until(hangs, lambda: hangs.connected >= 100)
                beside = await _deliver(client, works, works_url, count, "beside")
        finally:
            process.kill()
            await process.wait()
            await drain
    # Below a millisecond the clock's own steps would be the ratio.
    return {"alone_ms": _p99(alone), "beside_ms": _p99(beside), "ratio": _p99(beside) / max(_p99(alone), 1)}


async def _deliver(client: httpx.AsyncClient, works: Receiver, url: str, count: int, name: str) -> list[float]:
    works.took_ms.clear()
    for number in range(count):
        await _register(client, url, 1, f"{name}{number}")
        await _until(works, lambda expected=number + 1: len(works.took_ms) >= expected)
    return list(works.took_ms)


async def _register(client: httpx.AsyncClient, url: str, count: int, name: str) -> None:
    callbacks = [{"taskId": f"sim-success-0-{name}-{n}", "callbackUrl": f"{url}/hook"} for n in range(count)]
    answer = await client.post("/v1/callbacks/batch", json={"callbacks": callbacks})
    assert all(item["status"] == 201 for item in answer.json()["data"]), answer.text[:300]


async def _until(receiver: Receiver, condition: Any) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            receiver.news.clear()
            await receiver.news.wait()


async def _read_away(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]
