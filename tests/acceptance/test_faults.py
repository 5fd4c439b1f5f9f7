"""What a gateway process makes of a machine that fails it: no file left to open, and a database that is damaged."""

import asyncio
import re
import resource
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.serve.asgi import serve_asgi

LIMIT_S = 20


def lowest_free_file(pid: int) -> int:
    """Return the number that the next file gets which the process opens."""
    folder = Path(f"/proc/{pid}/fd")
    if not folder.exists() or not hasattr(resource, "prlimit"):
        pytest.skip("the open files of another process are read from /proc, and limited by prlimit")
    taken = {int(entry.name) for entry in folder.iterdir()}
    return next(number for number in range(len(taken) + 1) if number not in taken)


async def test_a_process_that_is_out_of_files(world: Any) -> None:
    """Clients that are connected are served, no receiver is blamed, and all goes on once files can be opened again."""
    posts: list[str] = []

    async def other_receiver(scope: Any, receive: Any, send: Any) -> None:
        posts.append(dict(scope["headers"])[b"webhook-id"].decode())
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve_asgi(other_receiver))
        gateway = await stack.enter_async_context(world.gateway())
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=gateway.url, trust_env=False))
        first = await world.register(client, "sim-success-0-first")
        await world.becomes(client, first["id"], "delivered")
        pid = gateway.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free_file(pid), limits[1]))
        # Its task has ended: nothing is asked of the upstream.
        second = await world.register(client, "sim-success-0-first", callbackUrl=f"{url}/hook")
        not_made = await gateway.event("attempt.not_made")
        assert "Too many open files" in not_made["error"]
        held = (await client.get(f"/v1/callbacks/{second['id']}")).json()
        assert (held["state"], held["attempts"], held["lastError"]) == ("pending", 0, None)
        assert (await client.get("/healthz")).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert 'gateway_attempts_total{result="not_made"} 1.0' in metrics
        shown = dict(re.findall(r"^(process_\w+) (\S+)$", metrics, re.MULTILINE))
        assert float(shown["process_open_fds"]) / float(shown["process_max_fds"]) > 0.9  # GatewayFilesRunOut
        assert float(shown["process_start_time_seconds"]) > 0  # GatewayMetricsGone is no alert of this
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        await world.becomes(client, second["id"], "delivered")
        assert posts == [second["id"]]
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as another:
            delivered = (await another.get(f"/v1/callbacks/{second['id']}")).json()
        assert delivered["attempts"] == 1
        assert await gateway.stop() == 0


async def test_a_damaged_database_ends_the_start(world: Any) -> None:
    """The process says what to do and exits with 2; not a byte of the file or beside it is changed."""
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        for number in range(50):
            await world.register(client, f"sim-never-0-{number}")
        assert await gateway.stop() == 0
    path = world.folder / "gateway.db"
    content = path.read_bytes()
    middle = len(content) // 4096 // 2 * 4096
    path.write_bytes(content[:middle] + b"\xff" * 4096 + content[middle + 4096 :])
    before = {file.name: file.read_bytes() for file in world.folder.iterdir()}
    async with world.gateway(ready=False) as gateway, asyncio.timeout(LIMIT_S):
        assert await gateway.ended() == 2
    last = gateway.text[-1].strip()
    assert last.startswith(f"{path} is damaged (")
    assert last.endswith("it was not repaired. Restore a backup, or set it aside and start anew.")
    assert {file.name: file.read_bytes() for file in world.folder.iterdir()} == before


async def test_a_start_that_meets_a_defect_ends(world: Any) -> None:
    """With the exception, and with status 1: a process that stays and serves nobody would not be started again."""
    async with world.gateway() as gateway:
        assert await gateway.stop() == 0
    with closing(sqlite3.connect(world.folder / "gateway.db")) as db:
        db.execute("INSERT INTO meta VALUES ('queries:aigptimage', x'00')")
        db.commit()
    async with world.gateway(ready=False) as gateway, asyncio.timeout(LIMIT_S):
        assert await gateway.ended() == 1
    assert "DecodeError" in gateway.text[-1]
