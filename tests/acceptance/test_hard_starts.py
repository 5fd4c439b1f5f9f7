"""Starts that cannot go well, or that are disturbed: each ends in words and an exit code, or goes on."""

import asyncio
import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.__main__ import _LEAST_BYTES
from tests.acceptance.test_commands import run

MB = 1024 * 1024


def start(environ: dict[str, str], folder: Path, **limits: int) -> subprocess.CompletedProcess[str]:
    """Start a gateway that is expected to end by itself, under these limits."""

    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    return subprocess.run(
        [sys.executable, "-m", "gateway", "serve"],
        cwd=folder,
        env=environ,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_secret_that_leads_nowhere(tmp_path: Path) -> None:
    """The start ends, and leaves the link as it is: nothing listens, nothing is made."""
    (tmp_path / "gateway.secret").symlink_to("nowhere")
    environ = {"GATEWAY_PORT": "0", "GATEWAY_UPSTREAM_API_KEY": "k"}
    done = run("serve", cwd=tmp_path, **environ)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "gateway.secret leads to a file that is not there" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.secret"]


@pytest.mark.parametrize(("limit", "size"), [("RLIMIT_AS", 48 * MB), ("RLIMIT_AS", 80 * MB), ("RLIMIT_DATA", 40 * MB)])
async def test_too_little_memory_is_one_line(world: Any, tmp_path: Path, limit: str, size: int) -> None:
    """No traceback and no abort in a library: what is too little is known before anything is loaded."""
    environ = {**world.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = await asyncio.to_thread(start, environ, tmp_path, **{limit: size})
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert f"limited to {size // 1024} KiB" in line


async def test_the_least_memory_is_enough(world: Any) -> None:
    """With what a start asks for at least it serves; where requests are too large together some get 503, in words."""
    async with world.gateway(fresh=True, ready=False) as gateway:
        resource.prlimit(gateway.process.pid, resource.RLIMIT_AS, (_LEAST_BYTES, _LEAST_BYTES))
        assert await gateway.listening()
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=60) as client:
            registered = await world.register(client, "sim-success-0-least")
            await world.becomes(client, registered["id"], "delivered")
            items = [{"taskId": "t", "callbackUrl": "x" * 2000, "metadata": {"a": "x" * 8000}}] * 1000
            batch = json.dumps({"callbacks": items}).encode()
            headers = {"content-type": "application/json"}
            posts = (client.post("/v1/callbacks/batch", content=batch, headers=headers) for _ in range(8))
            assert {answer.status_code for answer in await asyncio.gather(*posts)} <= {200, 503}
            assert (await client.get("/healthz")).status_code == 200
        assert await gateway.stop() == 0
    assert "Traceback" not in "".join(gateway.text)


def ignores(pid: int, number: int) -> bool:
    """Whether a process ignores a signal by now."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("what a process ignores is read from /proc")
    (ignored,) = re.findall(r"SigIgn:\s+(\w+)", status.read_text())
    return bool(int(ignored, 16) & 1 << number - 1)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
async def test_a_signal_during_the_start_kills_nothing(world: Any, number: signal.Signals) -> None:
    """As soon as its first line of code has run: whoever tells it to reload need not know how far it is."""
    async with world.gateway(fresh=True, ready=False) as gateway:
        while not ignores(gateway.process.pid, number):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        listening = asyncio.create_task(gateway.listening())
        while not listening.done():
            gateway.process.send_signal(number)
            await asyncio.wait([listening], timeout=0.01)
        assert await listening
        assert await gateway.stop() == 0


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("mode", [0o644, 0o600])
async def test_settings_that_everybody_may_read_are_told(world: Any, open_folder: Path, mode: int) -> None:
    """Of a file that holds a secret, by the start and by check-config; neither changes it."""
    path = open_folder / "gateway.toml"
    path.write_text('operator_token = "gwt_operator"\n')
    path.chmod(mode)
    async with world.gateway(fresh=True, GATEWAY_CONFIG=str(path)) as gateway:
        assert await gateway.stop() == 0
    told = [line["path"] for line in gateway.logged("secret.exposed")]
    assert told == ([str(path)] if mode == 0o644 else [])
    done = await asyncio.to_thread(run, "check-config", cwd=world.folder, **world.environ, GATEWAY_CONFIG=str(path))
    assert (done.returncode, "everybody" in done.stderr) == (0, mode == 0o644)
    assert path.stat().st_mode & 0o777 == mode
