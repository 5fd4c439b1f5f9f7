"""What hostile clients cost a whole gateway process."""

import asyncio
import http.client
import json
import re
import resource
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.config.tokens import hash_line
from gateway.serve import process
from tests.crash.process import LIMIT_S, run_gateway
from tests.waiting import until

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
    async with world.gateway(fresh=True) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
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


TOKEN = "t" * 32
JSON = {"content-type": "application/json"}
KNOWN = {"authorization": f"Bearer {TOKEN}"}
CLOSE = {"connection": "close"}


def post(url: str, size: int, headers: dict[str, str], *, chunked: bool) -> tuple[int, str | None, Any]:
    """Send a whole body before reading, as http.client does; return the status, the content type and the document."""
    address = urlsplit(url)
    assert address.hostname is not None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    try:
        body: Any = (bytes(MB // 10) for _ in range(size * 10 // MB)) if chunked else bytes(size)
        connection.request("POST", "/v1/callbacks", body, headers, encode_chunked=chunked)
        answer = connection.getresponse()
        return answer.status, answer.headers["content-type"], json.loads(answer.read())
    finally:
        connection.close()


REFUSALS = [
    (JSON | KNOWN, 413, "too_large"),
    (JSON, 401, "unauthorized"),
    (JSON | CLOSE, 401, "unauthorized"),
    (KNOWN, 415, "unsupported_media_type"),
    (KNOWN | CLOSE, 415, "unsupported_media_type"),
]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_refused_body_leaves_its_answer_readable(world: Any, chunked: bool) -> None:
    """A client that reads once it has sent 30 or 60 MB sees why they were refused, every time, at no cost of memory."""
    framing = {"transfer-encoding": "chunked"} if chunked else {}
    async with world.gateway(fresh=True, GATEWAY_TOKEN=TOKEN) as gateway:
        await asyncio.to_thread(post, gateway.url, 1000, JSON | KNOWN, chunked=False)
        before = peak_bytes(gateway.process.pid)
        for headers, status, code in REFUSALS:
            for size in (30 * MB, 60 * MB) * 2:
                got = await asyncio.to_thread(post, gateway.url, size, headers | framing, chunked=chunked)
                assert (got[0], got[1], got[2]["code"]) == (status, "application/problem+json", code), headers
            assert peak_bytes(gateway.process.pid) - before < 10 * MB, headers
        assert await gateway.stop() == 0


async def test_bodies_that_nobody_reads_are_not_kept(world: Any) -> None:
    """A connection that stays open after a refusal does not hold what it had sent until then."""
    async with world.gateway(fresh=True, GATEWAY_TOKEN=TOKEN) as gateway:
        address = urlsplit(gateway.url)
        before = peak_bytes(gateway.process.pid)
        writers = []
        for _ in range(200):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writers.append(writer)
            writer.write(b"POST /v1/callbacks HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + bytes(250_000))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 401 ")
        assert peak_bytes(gateway.process.pid) - before < 10 * MB
        for writer in writers:
            writer.transport.abort()
        assert await gateway.stop() == 0


UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "raised_to", "connections"),
    [
        (1024, UNLIMITED, 4736, 4096),
        (1024, 1 << 20, 4736, 4096),
        (1024, 4096, 4096, 3456),
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
    assert process._connection_limit(576) == connections
    assert taken == ([] if raised_to is None else [(raised_to, hard)])


HELD = b"GET /v1/tasks/sim-never-0-held?wait=60 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n\r\n"


async def test_requests_of_one_client_that_are_held_leave_connections_to_others(world: Any) -> None:
    """With 256 open files there are 64: of these it has 56, and 503 with Retry-After beyond, until one has gone."""
    others = "u" * 32
    path = world.folder / "gateway.toml"
    path.write_text(f'[clients.inn]\ntoken_hash = "{hash_line(others)}"\n')
    environ = world.environ | {"GATEWAY_TOKEN": TOKEN, "GATEWAY_CONFIG": str(path)}
    limited = ("tests.fewfiles", "256")
    async with (
        asyncio.timeout(2 * LIMIT_S),
        run_gateway(environ, world.folder, module=limited) as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False, headers={"connection": "close"}) as client,
    ):
        client.headers.update(KNOWN)
        await world.register(client, "sim-never-0-held")
        address = urlsplit(gateway.url)

        async def ask() -> tuple[asyncio.StreamWriter, asyncio.Task[bytes]]:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(HELD % TOKEN.encode())
            return writer, asyncio.create_task(reader.readuntil(b"}"))

        asked = [await ask() for _ in range(64)]
        await until(lambda: sum(answer.done() for _, answer in asked) == 8)
        for head, _, body in (answer.result().partition(b"\r\n\r\n") for _, answer in asked if answer.done()):
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in head
            assert (json.loads(body)["code"], b"application/problem+json" in head) == ("unavailable", True)
        assert (await client.get("/v1/callbacks")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        other = await client.get("/v1/callbacks", headers={"authorization": f"Bearer {others}"})
        assert other.status_code == 200
        held = [writer for writer, answer in asked if not answer.done()]
        assert len(held) == 56
        held[0].transport.abort()
        await until(lambda: is_answered(client))
        for writer, answer in asked:
            answer.cancel()
            writer.transport.abort()
        await gateway.kill()


async def is_answered(client: httpx.AsyncClient) -> bool:
    return (await client.get("/v1/callbacks")).status_code == 200
