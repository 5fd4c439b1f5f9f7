"""What goes wrong around a whole gateway, over real sockets and on a real file: nothing is lost, all goes on by itself.

What a receiver can do wrong stands in ``tests/acceptance/test_receivers.py``.
"""

import asyncio
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from gateway.app import build
from gateway.core.clock import SystemClock
from gateway.core.errors import StoreUnusable
from gateway.loops.janitor import Janitor
from gateway.net.resolver import Resolver
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.simulator.scenario import Plan
from gateway.upstream.api import Upstream
from tests.nameserver import NO_SUCH_NAME, SERVER_FAILURE, serve_names
from tests.running import LIMIT_S, Running, running

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OK = b"HTTP/1.1 200 OK\r\n"
RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # SO_LINGER with no time: closing sends a reset
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Hooks:
    """A receiver that takes every webhook, and keeps it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.events.append(await Request(scope, receive).json())
        await Response(status_code=204)(scope, receive, send)


@pytest.fixture(autouse=True)
def on_ready_files() -> None:
    """Make each file as a gateway does."""


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    receiver = Hooks()
    async with serve_asgi(receiver) as url:
        receiver.url = f"{url}/hook"
        yield receiver


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream has less time for an answer than it usually has."""
    monkeypatch.setattr(build, "Upstream", partial(Upstream, timeout_s=0.2))


# The upstream


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say of the task "t" that it has succeeded."""
    data = {"taskId": "t", "state": "success", "resultJson": '{"resultUrls":["https://cdn.example.com/a.png"]}'}
    body = json.dumps({"code": 200, "msg": "success", "data": data}).encode()
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()


def sends(start: bytes, piece: bytes = b"", *, every_s: float | None = None) -> Handler:
    """Write the start, then the piece again and again, and wait for the gateway to go."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(start)
        while every_s is not None:
            await writer.drain()
            await asyncio.sleep(every_s)  # what a slow upstream is
            writer.write(piece)
        await reader.read()

    return handle


def resets_after(start: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(start)
        await writer.drain()
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()

    return handle


async def closes_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


LATE, ALIEN = "did not answer within 0.2 s", "not valid HTTP/1.1"
GONE, CUT = "The upstream could not be reached: ", "The upstream gave no answer: "

UPSTREAMS: list[tuple[str, Handler | None, str]] = [
    ("refuses", None, GONE),
    ("never answers", sends(b""), LATE),
    ("drips its head", sends(b"HTTP/1.1 200 O", b"K", every_s=0.05), LATE),
    ("drips its body", sends(OK + b"content-length: 60\r\n\r\n", b"x", every_s=0.05), LATE),
    ("closes at once", closes_at_once, CUT),
    ("resets within its head", resets_after(OK), CUT),
    ("resets within its body", resets_after(OK + b'content-length: 99\r\n\r\n{"code":200,"data":{"state":"fail'), CUT),
    ("speaks SSH", sends(b"SSH-2.0-OpenSSH_9.6\r\n"), ALIEN),
    ("sends endless headers", sends(OK, b"x: y\r\n" * 1000, every_s=0), ALIEN),
    ("sends one endless header", sends(OK + b"x: ", b"y" * 10_000, every_s=0), ALIEN),
]


@pytest.mark.parametrize(("handler", "words"), [row[1:] for row in UPSTREAMS], ids=[row[0] for row in UPSTREAMS])
async def test_what_a_broken_upstream_comes_to(
    handler: Handler | None,
    words: str,
    impatient: None,
    hooks: Hooks,
    raw_server: Callable[..., Awaitable[Any]],
    tmp_path: Path,
) -> None:
    """No fault ends a task or is anybody's failure: it is polled again, and delivered once the upstream is well."""
    well = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert handler is not None
        await (answers if well.is_set() else handler)(reader, writer)

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{held.getsockname()[1]}" if handler is None else (await raw_server(upstream)).url("")
        async with running(tmp_path, url) as gateway:
            callback_id = await gateway.registered("t", hooks.url)
            path = f"/v1/callbacks/{callback_id}"
            answer = await gateway.becomes(path, lambda answer: words in (answer.json()["task"]["lastError"] or ""))
            assert (answer.json()["state"], answer.json()["task"]["state"]) == ("waiting", "waiting")
            for probe in ("/healthz", "/readyz"):
                assert (await gateway.client.get(probe)).status_code == 200
            well.set()
            if handler is None:
                held.close()
                await raw_server(answers, port=httpx.URL(url).port)
            callback = await gateway.delivered(callback_id)
            assert callback["attempts"] == 1
    assert [(event["type"], event["data"]["taskId"]) for event in hooks.events] == [("task.succeeded", "t")]


# The receiver, and names


async def test_a_receiver_that_refuses_gets_its_webhook_when_it_listens(hooks: Hooks, tmp_path: Path) -> None:
    """Each refused connection is a failed attempt that says so; the first one that is taken delivers."""
    async with serve_simulator(SimulatedUpstream(SystemClock())) as upstream_url:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
            async with running(tmp_path, upstream_url) as gateway:
                callback_id = await gateway.registered("sim-success-0-t", f"http://127.0.0.1:{port}/hook")
                path = f"/v1/callbacks/{callback_id}/attempts"
                tried = await gateway.becomes(path, lambda answer: len(answer.json()["data"]) >= 2)
                assert {(a["result"], a["statusCode"]) for a in tried.json()["data"]} == {("retry", None)}
                assert all("could not be reached" in a["error"] for a in tried.json()["data"])
                held.close()
                async with serve_asgi(hooks, port=port):
                    await gateway.delivered(callback_id)
    assert len(hooks.events) == 1


async def test_names_that_do_not_resolve_and_then_do(
    hooks: Hooks, raw_server: Callable[..., Awaitable[Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The upstream's and a receiver's: polled and tried again meanwhile, found within seconds, and nothing is lost."""
    upstream = await raw_server(answers)
    port = httpx.URL(hooks.url).port
    async with serve_names(up_test=SERVER_FAILURE, hooks_test=NO_SUCH_NAME) as names:
        monkeypatch.setattr(build, "Resolver", partial(Resolver, nameservers=[names.address]))
        url = f"http://up.test:{upstream.port}"
        async with running(tmp_path, url, GATEWAY_CALLBACK_ALLOW="hooks.test,127.0.0.1") as gateway:
            callback_id = await gateway.registered("t", f"http://hooks.test:{port}/hook")
            path = f"/v1/callbacks/{callback_id}"
            await gateway.becomes(path, lambda answer: "up.test" in (answer.json()["task"]["lastError"] or ""))
            assert upstream.connections == 0
            names.names["up.test"] = ["127.0.0.1"]
            failed = await gateway.becomes(path, lambda answer: answer.json()["attempts"] >= 2)
            assert "hooks.test" in failed.json()["lastError"]
            assert (failed.json()["state"], failed.json()["task"]["state"]) == ("pending", "success")
            assert not hooks.events
            names.names["hooks.test"] = ["127.0.0.1"]
            await gateway.delivered(callback_id)
    assert len(hooks.events) == 1


# The disk and the file


class Disk:
    """A place for the database that can be filled up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gateway: Running

    async def fill(self) -> None:
        raise NotImplementedError

    async def free(self) -> None:
        raise NotImplementedError


class SmallDisk(Disk):
    """A file system of its own, of a few megabytes."""

    async def fill(self) -> None:
        await asyncio.to_thread(self._fill)

    def _fill(self) -> None:
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            size = 65536
            while size:
                try:
                    filler.write(bytes(size))
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise
                    size //= 2

    async def free(self) -> None:
        (self.folder / "filler").unlink()


class FullAtTheCheckpoint(SmallDisk):
    """One with room for the write-ahead log, and for half of what is then put from it into the file."""

    LEFT = 1_500_000  # bytes, beside the log that SQLite lets grow to 1,000 pages

    def _fill(self) -> None:
        log = (self.folder / "gateway.db-wal").stat().st_size
        room = os.statvfs(self.folder)
        size = room.f_bavail * room.f_frsize - (4_200_000 - log) - self.LEFT
        (self.folder / "filler").write_bytes(bytes(size))


class PageLimit(Disk):
    """SQLite's own limit on the file's size: what it does at the limit is what it does on a full disk."""

    async def fill(self) -> None:
        database = self.gateway.gateway.store._database
        ((pages,),) = await database.read("PRAGMA page_count")
        await database.read(f"PRAGMA max_page_count = {pages}")

    async def free(self) -> None:
        await self.gateway.gateway.store._database.read("PRAGMA max_page_count = 1000000")


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a small file system; skip where this user may not."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        reason = made.stderr.strip() if made.returncode else ""
    except OSError as exc:
        reason = str(exc)
    if reason:
        pytest.skip(f"a small file system cannot be mounted here ({reason}): only the page limit stands in for it")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, 4):
        yield SmallDisk(folder)


@pytest.fixture
def full_at_the_checkpoint(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, 8):
        yield FullAtTheCheckpoint(folder)


@pytest.fixture
def page_limit(tmp_path: Path) -> PageLimit:
    return PageLimit(tmp_path)


@pytest.mark.parametrize("kind", ["small_disk", "full_at_the_checkpoint", "page_limit"])
async def test_a_full_disk(
    kind: str, hooks: Hooks, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with Retry-After and no false 201 while it is full; with room again everything goes on by itself."""
    # Where small writes still found room it is full until none has failed for so long.
    monkeypatch.setattr("gateway.store.writer._STEADY_S", 0.5)
    disk: Disk = request.getfixturevalue(kind)
    simulator = SimulatedUpstream(SystemClock())
    simulator.add_task("waits", Plan(duration_s=10_000))
    metadata = {"note": "x" * 7000}
    async with serve_simulator(simulator) as upstream_url:
        async with running(disk.folder, upstream_url) as gateway:
            disk.gateway = gateway
            waits = await gateway.registered("waits", hooks.url)
            await disk.fill()
            taken: list[str] = []
            refused: httpx.Response | None = None
            for number in range(2000):  # what fits into the pages that the file has already
                answer = await gateway.register(f"sim-never-0-{number}", hooks.url, metadata=metadata)
                if answer.status_code != 201:
                    refused = answer
                    break
                taken.append(answer.json()["id"])
            assert refused is not None
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            # A poll that fits into a page may be stored at any moment, and is a write that succeeds.
            full = "the store is failing: its disk is full"
            if kind == "small_disk":
                metrics = (await gateway.client.get("/metrics")).text
                (free,) = re.findall(r"^gateway_disk_free_ratio (\S+)$", metrics, re.MULTILINE)
                assert float(free) < 0.1  # GatewayDiskNearlyFull
            for probe, word in (("/readyz", full), ("/metrics", "gateway_ready 0.0")):
                async with asyncio.timeout(LIMIT_S):
                    while word not in (await gateway.client.get(probe)).text:
                        assert (await gateway.register("refused", hooks.url, metadata=metadata)).status_code == 503
            assert (await gateway.client.get("/healthz")).status_code == 200
            assert (await gateway.client.get(f"/v1/callbacks/{waits}")).json()["state"] == "waiting"
            for task_id in ("refused", f"sim-never-0-{len(taken)}"):
                listed = await gateway.client.get("/v1/callbacks", params={"taskId": task_id})
                assert listed.json()["data"] == []

            simulator.add_task("waits", Plan(duration_s=0))
            await disk.free()
            await gateway.delivered(waits)
            await gateway.becomes("/readyz", lambda answer: answer.status_code == 200)
            taken.append(await gateway.registered("sim-never-0-again", hooks.url))
        async with running(disk.folder, upstream_url) as gateway:
            for callback_id in (waits, *taken):
                assert (await gateway.client.get(f"/v1/callbacks/{callback_id}")).status_code == 200


async def test_a_disk_that_was_full_and_nothing_to_do(
    hooks: Hooks, page_limit: PageLimit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody writes while the gateway is not ready: it finds out by itself that there is room again."""
    monkeypatch.setattr("gateway.loops.supervisor.HEARTBEAT_S", 0.1)
    async with running(page_limit.folder, "http://127.0.0.1:9") as gateway:
        page_limit.gateway = gateway
        await page_limit.fill()
        metadata = {"note": "x" * 7000}
        async with asyncio.timeout(LIMIT_S):
            while (await gateway.client.get("/readyz")).status_code == 200:
                answer = await gateway.register("t", hooks.url, metadata=metadata)
                if answer.status_code == 201:
                    await gateway.client.delete(answer.headers["location"])
        await page_limit.free()
        await gateway.becomes("/readyz", lambda answer: answer.status_code == 200)


async def test_a_start_on_a_full_disk(small_disk: SmallDisk) -> None:
    """A file that is there opens, a killed process's too: what it owes can be sent.

    A new one is refused, with what to do, while it is full.
    """
    folder = small_disk.folder
    killed, other = (
        {"GATEWAY_DATABASE_URL": f"sqlite:///{folder / name}", "GATEWAY_WEBHOOK_SECRET": SECRET}
        for name in ("killed.db", "other.db")
    )
    async with running(folder, "http://127.0.0.1:9") as gateway:
        await gateway.registered("t", "http://127.0.0.1:9/hook")
        for suffix in ("", "-wal"):
            shutil.copy(folder / f"gateway.db{suffix}", folder / f"killed.db{suffix}")
    await small_disk.fill()
    for which in ({}, killed):
        async with running(folder, "http://127.0.0.1:9", **which) as gateway:
            assert (await gateway.client.get("/healthz")).status_code == 200
            listed = (await gateway.client.get("/v1/callbacks")).json()["data"]
            assert [callback["taskId"] for callback in listed] == ["t"]
    with pytest.raises(StoreUnusable, match=r"is full .*Free some space"):
        async with running(folder, "http://127.0.0.1:9", **other):
            pass
    await small_disk.free()
    async with running(folder, "http://127.0.0.1:9", **other) as gateway:
        assert (await gateway.client.get("/readyz")).status_code == 200


async def test_a_damaged_page_that_is_met_while_running(
    hooks: Hooks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What needs it is 503, the rest goes on, and readiness stays red: an operator has to act, not a supervisor."""
    monkeypatch.setattr("gateway.store.sqlite.database._CHECKED_BYTES", 0)
    async with serve_simulator(SimulatedUpstream(SystemClock())) as upstream_url:
        async with running(tmp_path, upstream_url) as gateway:
            callback_id = await gateway.registered("sim-never-0-a", hooks.url)
            ((page,),) = await gateway.gateway.store._database.read(
                "SELECT rootpage FROM sqlite_schema WHERE name = 'attempts'"
            )
        content = bytearray((tmp_path / "gateway.db").read_bytes())
        content[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
        (tmp_path / "gateway.db").write_bytes(content)
        async with running(tmp_path, upstream_url) as gateway:
            assert (await gateway.client.get("/readyz")).status_code == 200
            refused = await gateway.client.get(f"/v1/callbacks/{callback_id}/attempts")
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            await gateway.registered("sim-never-0-b", hooks.url)
            ready = await gateway.client.get("/readyz")
            assert (ready.status_code, "the store is failing" in ready.json()["detail"]) == (503, True)
            assert (await gateway.client.get("/healthz")).status_code == 200


class FastClock(SystemClock):
    """The machine's, an hour fast."""

    def now(self) -> int:
        return super().now() + 3_600_000


async def test_a_clock_that_is_set_back_while_the_gateway_is_down(hooks: Hooks, tmp_path: Path) -> None:
    """What was due by the old time does not wait for an hour."""
    simulator = SimulatedUpstream(SystemClock())
    simulator.add_task("t", Plan(duration_s=10_000))
    async with serve_simulator(simulator) as upstream_url:
        async with running(tmp_path, upstream_url, FastClock()) as gateway:
            callback_id = await gateway.registered("t", hooks.url)
            await gateway.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["task"]["polls"])
        simulator.add_task("t", Plan(duration_s=0))
        path = tmp_path / "gateway.db"
        written_ns = path.stat().st_mtime_ns + 3_600 * 10**9
        os.utime(path, ns=(written_ns, written_ns))
        async with running(tmp_path, upstream_url) as gateway:
            await gateway.delivered(callback_id)


# The gateway's own loops


async def test_a_loop_that_raises(hooks: Hooks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """/healthz and /readyz name it while it fails, the alarm metric counts, the others work; it recovers by itself."""
    real, broken = Janitor.run_once, True
    began_at: list[float] = []

    async def run_once(self: Janitor) -> float:
        began_at.append(time.monotonic())
        if broken:
            raise RuntimeError("a defect")
        return await real(self)

    monkeypatch.setattr(Janitor, "run_once", run_once)
    async with (
        serve_simulator(SimulatedUpstream(SystemClock())) as upstream_url,
        running(tmp_path, upstream_url) as gateway,
    ):
        for probe in ("/healthz", "/readyz"):
            answer = await gateway.becomes(probe, lambda answer: answer.status_code == 503)
            assert "the janitor keeps failing" in answer.json()["detail"]
            assert "a defect" not in answer.text
        await gateway.delivered(await gateway.registered("sim-success-0-t", hooks.url))
        counted = re.compile(r'^gateway_loop_restarts_total\{loop="janitor"\} (.+)$', re.MULTILINE)
        metrics = await gateway.becomes("/metrics", lambda answer: float(counted.findall(answer.text)[0]) >= 3)
        assert 'gateway_loop_restarts_total{loop="deliverer"} 0.0' in metrics.text
        pauses = [later - earlier for earlier, later in pairwise(began_at)]
        assert all(pause >= 0.5 * 2**number - 0.05 for number, pause in enumerate(pauses)), "0.5 s, then ever longer"
        broken = False
        for probe in ("/healthz", "/readyz"):
            await gateway.becomes(probe, lambda answer: answer.status_code == 200)
