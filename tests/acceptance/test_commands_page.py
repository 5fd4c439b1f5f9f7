"""The manual's page on commands: each block of it is run as it stands there, in a shell."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.commands import cli
from gateway.cli.receiver import ReceivedWebhook, Receiver
from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.signature import parse_secrets
from tests.acceptance.test_quick_start import environment
from tests.crash.process import SECRET
from tests.manual import page

PAGE = page("commands")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def test_every_command_stands_in_the_table() -> None:
    """And no other."""
    rows = re.findall(r"^\| (`.+?) \| ", PAGE.partition("| command |")[2].partition("\n\n")[0], re.MULTILINE)
    named = [words.removeprefix("gateway ").split()[0] for row in rows for words in re.findall(r"`(.+?)`", row)]
    assert set(named) == set(cli.commands)


@pytest.mark.skipif(None in (shutil.which("bash"), shutil.which("curl")), reason="the machine has no bash or no curl")
@pytest.mark.timeout(120)
async def test_each_block_runs(world: Any, tmp_path: Path) -> None:
    """Between a gateway, a simulated upstream and a receiver that verifies; all of them end with 0."""
    came: list[ReceivedWebhook] = []
    app = Receiver(parse_secrets(SECRET), SystemClock(), came.append)
    assert len(BLOCKS) >= 7
    async with world.gateway() as gateway, serve_asgi(app) as receiver:
        environ = environment(tmp_path, GATEWAY_URL=gateway.url, GATEWAY_WEBHOOK_SECRET=SECRET)
        for block in BLOCKS:
            script = block.replace("http://127.0.0.1:9000", receiver).replace(
                "http://127.0.0.1:8081", world.upstream_url
            )
            done = await asyncio.to_thread(
                subprocess.run, ["bash", "--norc", "-ec", script],
                capture_output=True, text=True, cwd=tmp_path, env=environ, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        tasks = [webhook.event["data"]["taskId"] for webhook in came if webhook.verified]
        assert tasks[0] == "sim-success-500-sun"
        assert {"sample-succeeded", "sample-failed", "sample-abandoned"} <= set(tasks)
        assert await gateway.stop() == 0
