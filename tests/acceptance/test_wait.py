"""`gateway register --wait`: what it shows, when it ends and with what."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commandline import command, on_terminal, start


@pytest.mark.parametrize(("task", "code"), [("sim-success-300-w", 0), ("sim-fail-300-w", 1)])
async def test_it_ends_once_the_webhook_is_delivered(world: Any, tmp_path: Path, task: str, code: int) -> None:
    """With 0 where the task succeeded, so that a script may go on; a line for each change, and the callback."""
    async with world.gateway() as gateway:
        hooks = f"{world.receiver.url}/hooks"
        done = await command("register", task, hooks, "--wait", "--url", gateway.url, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (code, "")
        first, *_ = lines = done.stdout.splitlines()
        assert first.startswith("waiting for 0 s; task waiting, ")
        assert any(line.startswith("delivered for") for line in lines)
        assert "\x1b" not in done.stdout
        again = await command("register", task, hooks, "--wait", "--json", "--url", gateway.url, cwd=tmp_path)
        assert (again.returncode, json.loads(again.stdout)["state"]) == (code, "delivered")
        assert await gateway.stop() == 0


async def test_a_webhook_that_is_given_up_is_a_failure(world: Any, tmp_path: Path) -> None:
    """It says what the receiver answered."""

    async def gone(_: str) -> int:
        return 410

    world.receiver.on_post = gone
    async with world.gateway() as gateway:
        hooks = f"{world.receiver.url}/hooks"
        done = await command("register", "sim-success-1-d", hooks, "--wait", "--url", gateway.url, cwd=tmp_path)
        assert done.returncode == 1
        assert "dead for" in done.stdout
        assert "answered 410" in done.stdout
        assert await gateway.stop() == 0


async def test_ctrl_c_leaves_the_registration(world: Any, tmp_path: Path) -> None:
    """And says so, and how to go on."""
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        words = ("register", "sim-never-0-c", f"{world.receiver.url}/hooks", "--wait", "--url", gateway.url)
        process = await start(*words, cwd=tmp_path)
        assert process.stdout is not None
        assert b"waiting" in await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, told = await process.communicate()
        (callback,) = (await client.get("/v1/callbacks")).json()["data"]
        assert (process.returncode, callback["state"]) == (130, "waiting")
        assert told.decode().startswith(f"{callback['id']} stays registered")
        assert await gateway.stop() == 0


async def test_on_a_terminal_it_is_one_line(world: Any, tmp_path: Path) -> None:
    """Written over each second, and never wider than the terminal."""
    async with world.gateway() as gateway:
        words = ("register", "sim-success-2500-t", f"{world.receiver.url}/hooks", "--wait", "--url", gateway.url)

        def look() -> tuple[int, str]:
            with on_terminal(*words, cwd=tmp_path, columns=50) as shown:
                return shown.ended(), shown.shown

        code, text = await asyncio.to_thread(look)
        assert code == 0
        first = text.partition("\n")[0].rstrip("\r").split("\r")
        assert len(first) >= 3, "it was written over"
        assert all(len(line.removesuffix("\x1b[K")) < 50 for line in first)
        assert await gateway.stop() == 0


async def test_it_outlasts_a_restart_of_the_gateway(world: Any, tmp_path: Path) -> None:
    """A gateway that does not answer is asked again, and the line says what is wrong meanwhile."""
    async with world.gateway() as gateway:
        port = gateway.url.rpartition(":")[2]
        words = ("register", "sim-success-3000-r", f"{world.receiver.url}/hooks", "--wait", "--url", gateway.url)
        process = await start(*words, cwd=tmp_path)
        assert process.stdout is not None
        assert b"waiting" in await process.stdout.readline()
        await gateway.kill()
    async with world.gateway(GATEWAY_PORT=port) as gateway:
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed
        assert b"delivered for" in printed
        assert await gateway.stop() == 0
