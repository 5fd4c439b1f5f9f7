"""What hostile clients cost a whole gateway process."""

import asyncio
import re
import resource
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gateway import app

MB = 1_000_000


def peak_bytes(pid: int) -> int:
    """Return the most memory that the process has ever had resident."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("resident memory is read from /proc")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found is not None
    return int(found[1]) * 1024


async def test_a_header_of_100_mb_costs_no_memory(world: Any) -> None:
    """The client is told 431, the process grows by less than 5 MB, and other clients are served meanwhile."""
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        await client.get("/healthz")
        before = peak_bytes(gateway.process.pid)
        address = urlsplit(gateway.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: ")
        answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        for _ in range(100):
            writer.write(b"h" * MB)
            await writer.drain()
        assert (await answer).startswith(b"HTTP/1.1 431 ")
        assert (await client.get("/healthz")).status_code == 200
        assert peak_bytes(gateway.process.pid) - before < 5 * MB
        writer.transport.abort()
        assert await gateway.stop() == 0


UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised_to", "connections"),
    [
        (1024, UNLIMITED, 4672, 4096),
        (1024, 1 << 20, 4672, 4096),
        (1024, 4096, 4096, 3520),
        (256, 256, 256, 64),
        (1 << 20, 1 << 20, None, 4096),
        (UNLIMITED, UNLIMITED, None, 4096),
    ],
)
def test_connections_are_limited_to_what_open_files_allow(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised_to: int | None, connections: int
) -> None:
    """The process takes the open files it needs where it may, and clients never get the last of them."""
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: taken.append(limits))
    assert app._connection_limit() == connections
    assert taken == ([] if raised_to is None else [(raised_to, hard)])
