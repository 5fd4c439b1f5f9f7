"""README's quick start: its own commands, each terminal a shell of its own."""

import asyncio
import os
import re
import shlex
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.crash.process import LIMIT_S
from tests.manual import README, ROOT

SECTION = README.read_text("utf-8").partition("\n## Quick start\n")[2].partition("**For real**")[0]
SIMULATE, SERVE, LISTEN, REGISTER = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
ANY = "0"  # in place of a port that README names, as another process of this machine may have that one


def environment(folder: Path, **environ: str) -> dict[str, str]:
    """Return the environment of a shell in which ``gateway`` is this checkout's."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    command = bin_folder / "gateway"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gateway "$@"\n')
    command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    path = f"{bin_folder}{os.pathsep}{kept['PATH']}"
    return kept | {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"} | environ


@asynccontextmanager
async def terminal(commands: str, folder: Path, **environ: str) -> AsyncIterator[Process]:
    """Run commands in a shell; what still runs at the block's end is told to stop, as by closing a terminal."""
    process = await asyncio.create_subprocess_exec(
        *("sh", "-ec", commands), stdout=PIPE, stderr=STDOUT, start_new_session=True,
        cwd=folder, env=environment(folder, **environ),
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        async with asyncio.timeout(LIMIT_S):
            await process.communicate()


async def shown(process: Process, pattern: str) -> str:
    """Read what is printed until the pattern is in it; return the pattern's group."""
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(LIMIT_S):
        while not (found := re.search(pattern, text, re.DOTALL)):
            line = await process.stdout.readline()
            assert line, f"ended without {pattern}:\n{text}"
            text += line.decode()
    return found[1]


@pytest.mark.timeout(180)  # six processes, one after the other
async def test_the_quick_start_works(tmp_path: Path) -> None:
    """Four terminals: the simulated upstream, the gateway, a receiver, and the tasks; both webhooks are verified."""
    url = r"(http://127\.0\.0\.1:\d+)"
    async with terminal(SIMULATE.replace("8081", ANY), tmp_path) as simulator:
        upstream = await shown(simulator, f"listening on {url}")
        serve = SERVE.replace("http://127.0.0.1:8081", upstream)
        async with terminal(serve, tmp_path, GATEWAY_PORT=ANY, GATEWAY_LOG_FORMAT="json") as gateway:
            at = await shown(gateway, f'"url": ?"{url}"')
            async with terminal(LISTEN.replace("9000", ANY), tmp_path) as receiver:
                hooks = await shown(receiver, f"listening on {url}")
                tasks = REGISTER.replace("http://127.0.0.1:9000", hooks)
                async with terminal(tasks, tmp_path, GATEWAY_URL=at) as client:
                    output, _ = await client.communicate()
                    assert client.returncode == 0, output.decode()
                    assert output.count(b"waiting") >= 2
                webhooks = await shown(receiver, r"(.*✓ verified.*✓ verified)")
    assert set(re.findall(r"✓ (task\.\w+)", webhooks)) == {"task.succeeded", "task.failed"}
