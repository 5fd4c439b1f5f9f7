"""What happens to a gateway whose log breaks, in real processes: log lines are lost, and nothing else.

The log's reader dies or stops reading, its disk fills up and empties, its file is closed before the start, or shares a
full disk with the database.
"""

import asyncio
import json
import os
import resource
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.crash.process import LIMIT_S, environment
from tests.waiting import until

ROOT = Path(__file__).parents[2]
WEBHOOKS = 100
LONG = "x" * 200  # 200 lines about tasks of such names do not fit into a pipe
FULL = pytest.param(
    ">/dev/full 2>&1",
    marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full"),
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Serving:
    """A gateway whose standard files are what the test says, and a client of it."""

    def __init__(self, process: asyncio.subprocess.Process, client: httpx.AsyncClient) -> None:
        self.process = process
        self.client = client

    async def answers(self, path: str, status: int) -> httpx.Response:
        """Return the first answer with this status."""

        async def found() -> httpx.Response | None:
            assert self.process.returncode is None, f"it ended with {self.process.returncode}"
            with suppress(httpx.TransportError):
                answer = await self.client.get(path)
                return answer if answer.status_code == status else None
            return None

        answer: httpx.Response = await until(found, LIMIT_S)
        return answer

    async def metric(self, name: str) -> float:
        text = (await self.client.get("/metrics")).text
        return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT_S):
            return await self.process.wait()


@asynccontextmanager
async def serving(world: Any, redirection: str = "", **files: Any) -> AsyncIterator[Serving]:
    """Run ``gateway serve`` with a shell's redirection until the block ends."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    own = environment(world.folder / "gateway.db", world.upstream_url) | {"GATEWAY_PORT": str(port)}
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" -m gateway serve {redirection}', sys.executable),
        cwd=world.folder,
        env=kept | {"PYTHONPATH": str(ROOT)} | own,
        **{"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.DEVNULL, **files},
    )
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            timeout=LIMIT_S,
            trust_env=False,
            limits=httpx.Limits(max_connections=20),
        ) as client:
            running = Serving(process, client)
            await running.answers("/readyz", 200)
            yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def registered(world: Any, gateway: Serving, count: int) -> list[str]:
    """Register callbacks for so many tasks that end at once, one by one, many at the same time; return their ids."""
    answers = await asyncio.gather(
        *(world.register(gateway.client, f"sim-success-0-{number}-{LONG}") for number in range(count))
    )
    return [answer["id"] for answer in answers]


async def delivered(gateway: Serving, count: int) -> None:
    """Return once so many callbacks are delivered, and none waits."""

    async def listed() -> bool:
        answer = await gateway.client.get("/v1/callbacks?state=delivered&limit=200")
        return len(answer.json()["data"]) == count

    await until(listed, LIMIT_S)


class Log:
    """Where standard error goes, how it breaks, and whether it mends."""

    async def breaks(self, gateway: Serving) -> None:
        raise NotImplementedError

    async def mends(self) -> None:
        pass

    def close(self) -> None:
        pass


class Pipe(Log):
    def __init__(self, *, reader_dies: bool) -> None:
        self._reader, self.file = os.pipe()
        self._dies = reader_dies

    async def breaks(self, gateway: Serving) -> None:
        os.close(self.file)
        if self._dies:
            os.close(self._reader)

    def close(self) -> None:
        if not self._dies:
            os.close(self._reader)


class FullDisk(Log):
    """A file at the end of the room that files have; the database is far from it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "gateway.log"
        self._path.touch()
        os.truncate(self._path, 1 << 30)
        self.file = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        self._mended = False

    async def breaks(self, gateway: Serving) -> None:
        os.close(self.file)
        _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
        # In the middle of a line.
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, ((1 << 30) + 5000, hard))

    async def mends(self) -> None:
        os.truncate(self._path, 0)
        self._mended = True

    def events(self) -> list[dict[str, Any]]:
        assert self._mended
        return [json.loads(line) for line in self._path.read_text().splitlines() if line]


LOGS: dict[str, Callable[[Path], Any]] = {
    "its reader dies": lambda _: Pipe(reader_dies=True),
    "its reader stops reading": lambda _: Pipe(reader_dies=False),
    "its disk fills up and empties": FullDisk,
}


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process is limited by prlimit")
@pytest.mark.parametrize("name", LOGS)
async def test_webhooks_under_load_while_the_log_breaks(name: str, world: Any) -> None:
    """A hundred webhooks: each is sent once and recorded once, and none is sent again after a restart."""
    log = LOGS[name](world.folder)
    half_way = asyncio.Event()

    async def on_post(_: str) -> int:
        if len(world.receiver.webhooks) >= WEBHOOKS // 2:
            half_way.set()
        return 204

    world.receiver.on_post = on_post
    async with serving(world, stderr=log.file) as gateway:
        await log.breaks(gateway)
        registering = asyncio.create_task(registered(world, gateway, WEBHOOKS))
        async with asyncio.timeout(LIMIT_S):
            await half_way.wait()
        await log.mends()
        ids = await registering
        await world.receiver.wait_for(set(ids))
        await delivered(gateway, WEBHOOKS)
        if name != "its reader stops reading":  # it has room for so many lines
            assert await gateway.metric("gateway_log_lines_lost_total") > 0
        assert (await gateway.client.get("/healthz")).status_code == 200
        assert await gateway.stop() == 0
    log.close()
    if isinstance(log, FullDisk):
        events = [event["event"] for event in log.events()]
        assert {"log.lines_lost", "attempt.finished", "gateway.stopped"} <= set(events)
    async with serving(world) as gateway:
        await registered(world, gateway, WEBHOOKS)
        await delivered(gateway, WEBHOOKS)
        for callback_id in ids:
            attempts = (await gateway.client.get(f"/v1/callbacks/{callback_id}/attempts")).json()["data"]
            assert [attempt["result"] for attempt in attempts] == ["delivered"]
        assert await gateway.stop() == 0
    assert {callback_id: len(posts) for callback_id, posts in world.receiver.webhooks.items()} == dict.fromkeys(ids, 1)


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", FULL])
async def test_standard_files_that_are_closed_or_full(redirection: str, world: Any) -> None:
    """It serves, nothing but the database's own bytes is in the database, and SIGTERM ends it with 0.

    A log that was closed from the start is as ``/dev/null``: no line counts as lost.
    """
    async with serving(world, redirection) as gateway:
        ids = await registered(world, gateway, 3)
        await world.receiver.wait_for(set(ids))
        await delivered(gateway, 3)
        if "full" not in redirection:
            assert await gateway.metric("gateway_log_lines_lost_total") == 0
        assert await gateway.stop() == 0
    with closing(sqlite3.connect(world.folder / "gateway.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM attempts WHERE result = 'delivered'").fetchall() == [(3,)]


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", FULL])
async def test_the_exit_code_does_not_depend_on_a_log(redirection: str, world: Any) -> None:
    """A start that is refused ends with 2, also where nobody can be told why."""
    (world.folder / "gateway.db").write_bytes(b"not a database" * 1000)
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" -m gateway serve {redirection}', sys.executable),
        cwd=world.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **world.environ},
        stdin=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(LIMIT_S):
        assert await process.wait() == 2


@pytest.mark.parametrize(("port", "status"), [("0", 0), ("none", 2)])
async def test_every_command_does_without_standard_files(port: str, status: int, tmp_path: Path) -> None:
    """Its exit code tells what came of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$0" -m gateway check-config <&- >&- 2>&-', sys.executable),
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": str(ROOT), "GATEWAY_PORT": port, "GATEWAY_UPSTREAM_API_KEY": "key"},
    )
    async with asyncio.timeout(LIMIT_S):
        assert await process.wait() == status


async def test_the_simulated_upstream_does_without_standard_files_too() -> None:
    """It serves, and SIGTERM ends it with 0."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'exec "$0" -m gateway simulate --port {port} <&- >&- 2>&-', sys.executable), cwd=ROOT
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await Serving(process, client).answers("/api/v1/jobs/recordInfo?taskId=sim-never-0-a", 200)
            assert await Serving(process, client).stop() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process is limited by prlimit")
async def test_a_full_disk_that_holds_both_the_log_and_the_database(world: Any) -> None:
    """A registration is answered with 503, all goes on once there is room, and SIGTERM ends it, full or not."""
    log_path = world.folder / "gateway.log"
    with log_path.open("ab") as log:
        async with serving(world, stderr=log.fileno()) as gateway:
            pid = gateway.process.pid
            room = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, room[1]))
            body = {"taskId": "sim-success-0-full", "callbackUrl": f"{world.receiver.url}/hook"}
            refused = await gateway.client.post("/v1/callbacks", json=body)
            assert refused.status_code == 503
            assert refused.json()["code"] == "unavailable"
            assert int(refused.headers["retry-after"]) > 0
            await gateway.answers("/readyz", 503)
            async with asyncio.timeout(LIMIT_S):
                while not await gateway.metric("gateway_log_lines_lost_total"):
                    await gateway.answers("/healthz", 200)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, room)
            callback = await world.register(gateway.client, "sim-success-0-full")
            await world.receiver.wait_for({callback["id"]})
            await delivered(gateway, 1)
            async with asyncio.timeout(LIMIT_S):
                while "log.lines_lost" not in log_path.read_text():
                    await gateway.answers("/healthz", 200)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, room[1]))
            assert (await gateway.client.post("/v1/callbacks", json=body | {"taskId": "more"})).status_code == 503
            assert await gateway.stop() == 0
    async with serving(world) as gateway:
        await delivered(gateway, 1)
        assert await gateway.stop() == 0
    assert len(world.receiver.webhooks[callback["id"]]) == 1
