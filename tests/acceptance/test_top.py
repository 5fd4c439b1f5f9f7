"""`gateway top` on a real terminal, and for scripts."""

import asyncio
import json
import re
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commandline import command, on_terminal
from tests.waiting import a_moment

CLIENT, OPERATOR = "t0ken-of-the-one-client", "t0ken-of-the-operator"


@pytest.fixture
async def watched(world: Any) -> Any:
    """A gateway with a receiver in trouble, whose answer would clear a terminal."""

    async def in_trouble(_: str) -> int:
        return 500

    world.receiver.on_post = in_trouble
    tokens = {"GATEWAY_TOKEN": CLIENT, "GATEWAY_OPERATOR_TOKEN": OPERATOR, "GATEWAY_RETRY_SCHEDULE": "0,300"}
    headers = {"authorization": f"Bearer {CLIENT}"}
    async with world.gateway(**tokens) as gateway, httpx.AsyncClient(base_url=gateway.url, headers=headers) as client:
        callback = await world.register(client, "sim-success-1-top")
        await world.register(client, "sim-never-0-top")
        path = f"/v1/callbacks/{callback['id']}/attempts"
        while not (await client.get(path)).json()["data"]:
            await a_moment()
        yield gateway
        assert await gateway.stop() == 0


async def test_it_is_drawn_anew_until_q(watched: Any, tmp_path: Path) -> None:
    """On the terminal's other screen, fitted to its size, which may change; the terminal is as before at the end."""

    def look() -> tuple[int, str]:
        words = ("top", "--interval", "0.2", "--url", watched.url, "--token", OPERATOR)
        with on_terminal(*words, cwd=tmp_path, columns=100, lines=24) as shown:
            first = shown.until("RECEIVER IN TROUBLE")
            assert "\x1b[?1049h" in first
            shown.until(r"\x1b\[H")
            shown.resize(40, 10)
            small = shown.until(r"lines more\x1b\[K\x1b\[J")
            drawing = small.rpartition("lines more")[0].rpartition("\x1b[H")[2].partition("\x1b[J")[0]
            assert all(len(re.sub(r"\x1b\[K|\r", "", line)) <= 40 for line in drawing.split("\n"))
            assert len(drawing.split("\n")) == 10
            shown.type("q")
            return shown.ended(), shown.shown

    code, text = await asyncio.to_thread(look)
    assert code == 0
    assert "\x1b[2J" not in text, "no clearing, which flickers"
    assert text.endswith("\x1b[?25h\x1b[?1049l")
    assert "answered 500" in text
    assert "ready" in text


async def test_ctrl_c_ends_it_with_0(watched: Any, tmp_path: Path) -> None:
    """As it is meant to end; the terminal is as before."""

    def look() -> tuple[int, str]:
        with on_terminal("top", "--url", watched.url, "--token", CLIENT, cwd=tmp_path) as shown:
            shown.until("webhooks")
            shown.type("\x03")
            return shown.ended(), shown.shown

    code, text = await asyncio.to_thread(look)
    assert (code, text.endswith("\x1b[?1049l"), "Traceback" in text) == (0, True, False), text


async def test_for_scripts(watched: Any, tmp_path: Path) -> None:
    """Once, as text or as JSON; without a token all but the receivers is told."""
    at = ("--url", watched.url)
    told = json.loads((await command("top", "--json", "--token", OPERATOR, *at, cwd=tmp_path)).stdout)
    assert (told["ready"], told["owed"]) == (True, 1)
    (receiver,) = told["receivers"]
    assert (receiver["owed"], "answered 500" in receiver["lastError"]) == (1, True)
    assert told["upstreams"][0]["watched"] == 1
    by_setting = await command(
        "top", "--json", cwd=tmp_path, GATEWAY_URL=watched.url, GATEWAY_OPERATOR_TOKEN=OPERATOR, GATEWAY_TOKEN="other"
    )
    assert json.loads(by_setting.stdout)["receivers"] == told["receivers"]
    without = await command("top", "--once", *at, cwd=tmp_path)
    assert (without.returncode, "\x1b" in without.stdout) == (0, False)
    assert "1 owed" in without.stdout
    assert "Of receivers nothing can be told: Send the gateway's token" in without.stdout


async def test_a_gateway_that_is_gone_is_told_and_looked_for_again(world: Any, tmp_path: Path) -> None:
    """It goes on when the gateway does; once, it is exit code 3."""
    async with world.gateway() as gateway:
        port = gateway.url.rpartition(":")[2]

        def look() -> int:
            with on_terminal("top", "--interval", "0.2", "--url", gateway.url, cwd=tmp_path) as shown:
                shown.until("webhooks")
                asyncio.run_coroutine_threadsafe(gateway.kill(), loop).result(20)
                shown.until("NO ANSWER")
                begun.set()
                shown.until(r"q ends(?:(?!NO ANSWER)[\s\S])*webhooks(?:(?!NO ANSWER)[\s\S])*\x1b\[J")
                shown.type("q")
                return shown.ended()

        loop, begun = asyncio.get_running_loop(), threading.Event()
        looking = asyncio.create_task(asyncio.to_thread(look))
        await asyncio.to_thread(begun.wait, 40)
    async with world.gateway(GATEWAY_PORT=port) as gateway:
        assert await looking == 0
        assert await gateway.stop() == 0
    gone = await command("top", "--once", "--url", f"http://127.0.0.1:{port}", cwd=tmp_path)
    assert gone.returncode == 3
