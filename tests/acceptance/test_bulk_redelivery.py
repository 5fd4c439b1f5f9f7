"""`gateway redeliver`: of one callback, and of all that are dead."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commandline import LIMIT_S, command, on_terminal
from tests.waiting import a_moment

COUNT = 230


async def dead(client: httpx.AsyncClient) -> int:
    answer = await client.post("/v1/redeliveries", json={"state": "dead", "dryRun": True})
    count: int = answer.json()["count"]
    return count


async def becomes(client: httpx.AsyncClient, count: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while await dead(client) != count:
            pass


async def test_all_that_died_lately(world: Any, tmp_path: Path) -> None:
    """They are counted, asked about and redelivered; those of another receiver or of before are not."""
    answers = {"now": 410}

    async def on_post(_: str) -> int:
        return answers["now"]

    world.receiver.on_post = on_post
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url, timeout=LIMIT_S) as client:
        at = ("--url", gateway.url)
        tasks = [{"taskId": f"sim-success-1-{n}", "callbackUrl": f"{world.receiver.url}/hooks"} for n in range(COUNT)]
        await client.post("/v1/callbacks/batch", json={"callbacks": tasks})
        await becomes(client, COUNT)
        answers["now"] = 204
        all_dead = ("redeliver", "--state", "dead", *at)
        unasked = await command(*all_dead, "--since", "2h", cwd=tmp_path)
        assert unasked.returncode == 2
        assert f"{COUNT} dead callbacks: give --yes" in unasked.stderr
        for which in (
            ("--receiver", "https://other.example.com/hooks"),
            ("--receiver", f"{world.receiver.url}/other"),
            ("--until", "1h"),
            ("--since", "2099-01-01T00:00:00Z", "--until", "2099-01-02T00:00:00Z"),
        ):
            none = await command(*all_dead, *which, "--yes", cwd=tmp_path)
            assert (none.returncode, none.stdout) == (0, "No dead callback is among those.\n"), none.stderr
        assert await dead(client) == COUNT

        def answer(key: str) -> tuple[int, str]:
            with on_terminal(*all_dead, "--receiver", f"{world.receiver.url}/hooks/", cwd=tmp_path) as shown:
                shown.until(r"\[y/N\]")
                shown.type(f"{key}\n")
                return shown.ended(), shown.shown

        code, text = await asyncio.to_thread(answer, "n")
        assert (code, await dead(client)) == (130, COUNT)
        assert f"Redeliver {COUNT} dead callbacks?" in text
        code, text = await asyncio.to_thread(answer, "y")
        assert (code, f"{COUNT}/{COUNT}" in text, f"{COUNT} are due again" in text) == (0, True, True), text
        await becomes(client, 0)
        async with asyncio.timeout(LIMIT_S):
            while len((await client.get("/v1/callbacks?state=delivered&limit=200")).json()["data"]) < 200:
                await a_moment()
        assert await gateway.stop() == 0


async def test_for_scripts(world: Any, tmp_path: Path) -> None:
    """--json is the count alone; without a filter all that are dead are meant."""

    async def on_post(_: str) -> int:
        return 410

    world.receiver.on_post = on_post
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        await world.register(client, "sim-success-1-x")
        await becomes(client, 1)
        done = await command("redeliver", "--state", "dead", "--yes", "--json", "--url", gateway.url, cwd=tmp_path)
        assert (done.returncode, json.loads(done.stdout)) == (0, {"count": 1}), done.stderr
        assert await gateway.stop() == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "Give one ID, or --state dead"),
        (("cb_1", "--state", "dead"), "Give one ID, or --state dead"),
        (("cb_1", "--since", "2h"), "An ID names one callback"),
        (("--state", "dead", "--since", "yesterday"), "write how long ago"),
        (("--state", "dead", "--since", "2026-11-23T10:00:00"), "with its zone"),
        (("--state", "dead", "--since", "999999999d"), "before 1970"),
        (("--state", "dead", "--receiver", "http://[::1"), "--receiver"),
        (("--state", "dead", "--receiver", "app.example.com/hooks"), "has a path and no scheme: write how callback"),
    ],
)
async def test_words_that_do_not_go_together(tmp_path: Path, words: tuple[str, ...], expected: str) -> None:
    """Nobody is asked anything."""
    done = await command("redeliver", *words, cwd=tmp_path)
    assert (done.returncode, expected in done.stderr) == (2, True), done.stderr
