"""A real gateway, and receivers that hang by the hundred: who waits for them."""

import asyncio
import hashlib
import re
from contextlib import suppress
from typing import Any

import httpx
import pytest

from gateway.simulator import Plan
from tests.crash.process import LIMIT_S

CROWD = 300


@pytest.mark.parametrize("clients", [1, 20])
async def test_hundreds_of_receivers_that_hang_hold_up_no_other(world: Any, clients: int) -> None:
    """New receivers' webhooks arrive before the first of those that hang has failed, due before these or after.

    Whether they are the same client's, or another's than all of these.
    """
    arrived: set[str] = set()

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        arrived.update(re.findall(r"(?i)webhook-id: (\S+)", head.decode()))
        writer.write(b"HTTP/1.1 204 OK\r\nConnection: close\r\n\r\n")
        writer.close()

    tokens = [] if clients == 1 else [f"token-{number}" for number in range(clients + 1)]
    path = world.folder / "gateway.toml"
    path.write_text(
        "".join(
            f'[clients.c{number}]\ntoken_hash = "sha256:{hashlib.sha256(token.encode()).hexdigest()}"\n'
            for number, token in enumerate(tokens)
        )
    )
    authorized = [{"authorization": f"Bearer {token}"} for token in tokens] or [{}]
    hangs = await asyncio.start_server(hang, "0.0.0.0", 0, backlog=1024)
    takes = await asyncio.start_server(take, "0.0.0.0", 0)
    port, here = (server.sockets[0].getsockname()[1] for server in (hangs, takes))
    urls = [f"http://127.1.{number // 250}.{number % 250 + 1}:{port}/" for number in range(CROWD)]
    settings = {"GATEWAY_CALLBACK_ALLOW": "127.0.0.0/8", "GATEWAY_CONFIG": str(path), "GATEWAY_RETRY_SCHEDULE": "0,600"}
    world.simulator.add_task("crowd", Plan(duration_s=0))
    async with (
        world.gateway(**settings) as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=30) as client,
    ):

        async def owe(whose: int, *urls: str) -> list[str]:
            batch = {"callbacks": [{"taskId": "crowd", "callbackUrl": url} for url in urls]}
            answer = await client.post("/v1/callbacks/batch", json=batch, headers=authorized[whose])
            return [item["callback"]["id"] for item in answer.json()["data"]]

        mine = await owe(-1, f"http://127.2.0.1:{here}/")
        for number in range(clients):
            await owe(number, *urls[number::clients])
        mine += await owe(-1, f"http://127.2.0.2:{here}/", f"http://127.2.0.3:{here}/")
        async with asyncio.timeout(LIMIT_S):
            while not arrived >= {*mine}:
                await client.get("/healthz")
        assert not [line for line in gateway.logged("attempt.finished") if line["result"] == "retry"]
        await gateway.kill()
    for server in (hangs, takes):
        server.close()
        await server.wait_closed()
