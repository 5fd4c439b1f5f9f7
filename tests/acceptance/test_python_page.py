"""The manual's page on Python: each block is a program that runs against a real gateway process."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.client import AsyncClient, Client
from gateway.client.calls import Calls
from tests.crash.process import LIMIT_S
from tests.manual import ROOT, TYPES, page

TOKEN = "token-of-the-client"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", page("python"), re.MULTILINE | re.DOTALL)


async def run(block: str, url: str, hooks: str, folder: Path) -> str:
    """Run a block as it stands, for this gateway and this receiver; return what it prints."""
    code = block.replace("http://gateway:8080", url).replace("GATEWAY_TOKEN", TOKEN)
    code = re.sub(r"task_(?=xxx|{n})", "sim-success-100-", code.replace("https://app.example.com/hooks", hooks))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", code),
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.mark.timeout(120)  # four programs, one after the other
async def test_every_block_runs(world: Any) -> None:
    """Registered and waited for, by threads and by asyncio; thousands, dead ones sent again; an error that is told."""
    wait, asyncio_wait, many, errors = BLOCKS
    hooks = f"{world.receiver.url}/hooks"
    async with world.gateway(GATEWAY_TOKEN=TOKEN, GATEWAY_RETRY_SCHEDULE="0") as gateway:
        printed = await run(wait, gateway.url, hooks, world.folder)
        assert re.fullmatch(r"cb_\w+ waiting\nsuccess https://cdn\.example\.com/result\.png\n", printed)
        callback_id = printed.split()[0]
        await world.receiver.wait_for({callback_id})
        assert world.receiver.event(callback_id)["data"]["metadata"] == {"orderId": 7}
        assert "409 conflict" in await run(errors, gateway.url, hooks, world.folder)
        other = f"{world.receiver.url}/others"
        assert await run(asyncio_wait, gateway.url, other, world.folder) == "success\n"

        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers, verify=False, trust_env=False) as client:
            body = {"taskId": "sim-success-0-x", "callbackUrl": "http://127.0.0.1:9/"}
            dead = (await client.post("/v1/callbacks", json=body)).json()
            await world.becomes(client, dead["id"], "dead")
            printed = await run(many.replace("2500", "1001"), gateway.url, hooks, world.folder)
    assert re.fullmatch(r"http://127\.0\.0\.1:9/ .+\n1 are sent again\n", printed)


async def test_the_blocks_have_the_types_that_they_seem_to_have(tmp_path: Path) -> None:
    """A strict checker finds nothing in them: what a call takes and returns is typed."""
    paths = []
    for number, block in enumerate(BLOCKS):
        paths.append(tmp_path / f"block_{number}.py")
        paths[-1].write_text(block, "utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mypy", "--config-file=", "--strict", f"--cache-dir={TYPES / 'python'}"),
        *map(str, paths),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_page_has_every_call(kind: type) -> None:
    """Each method has its row, each row its method, and both clients have the same."""
    calls = {name for name in vars(kind) if not name.startswith("_")} - {"close", "aclose"}
    assert set(re.findall(r"^\| `(\w+)\(", page("python"), re.MULTILINE)) == calls
    assert {name for name in vars(Calls) if not name.startswith("_")} == calls - {"iterate"}
