"""``gateway health`` beside a real gateway: exit 0 while it is well, 1 with the reason otherwise."""

import asyncio
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.acceptance.test_commands import environment, run

PROC = Path("/proc/self/cmdline")


async def test_it_asks_where_the_gateway_listens(world: Any, tmp_path: Path) -> None:
    """The file of settings names the port; another file, or none, is another gateway's."""
    async with world.gateway() as gateway:
        port = urlsplit(gateway.url).port
        here, elsewhere = tmp_path / "here.toml", tmp_path / "elsewhere.toml"
        here.write_text(f'port = {port}\nhost = "0.0.0.0"\ntoken = "t"\n', "utf-8")
        elsewhere.write_text("port = 9\n", "utf-8")
        well = await asyncio.to_thread(run, "--config", str(here), "health", cwd=tmp_path)
        assert (well.returncode, well.stdout, well.stderr) == (0, "", "")
        well = await asyncio.to_thread(run, "health", cwd=tmp_path, GATEWAY_CONFIG=str(here))
        assert well.returncode == 0
        proxied = {"http_proxy": "http://127.0.0.1:9", "GATEWAY_PORT": str(port)}
        assert (await asyncio.to_thread(run, "health", cwd=tmp_path, **proxied)).returncode == 0
        unwell = await asyncio.to_thread(run, "--config", str(elsewhere), "health", cwd=tmp_path)
        assert unwell.returncode == 1
        assert "No gateway answers at 127.0.0.1, port 9" in unwell.stderr
        assert "Traceback" not in unwell.stderr
        assert await gateway.stop() == 0
    gone = await asyncio.to_thread(run, "--config", str(here), "health", cwd=tmp_path)
    assert gone.returncode == 1


@pytest.mark.skipif(not PROC.exists(), reason="another process's command line is read from /proc")
async def test_it_asks_as_the_containers_first_process_was_told(world: Any, tmp_path: Path) -> None:
    """Where only that one's command line names the file."""
    async with world.gateway() as gateway:
        toml = tmp_path / "gateway.toml"
        toml.write_text(f"port = {urlsplit(gateway.url).port}\n", "utf-8")
        first = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "print(flush=True); input()", "--config", "gateway.toml", "serve"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
        )
        assert first.stdout is not None
        await first.stdout.readline()
        well = await asyncio.to_thread(run, "health", "--config-of", str(first.pid), cwd=tmp_path)
        await first.communicate(b"\n")
        assert (well.returncode, well.stderr) == (0, "")
        assert await gateway.stop() == 0


async def test_a_gateway_that_makes_no_progress(tmp_path: Path) -> None:
    """What it answers beside 200 is told."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 21\r\n\r\nthe poller has failed")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = str(server.sockets[0].getsockname()[1])
        unwell = await asyncio.to_thread(run, "health", cwd=tmp_path, GATEWAY_PORT=port)
    assert (unwell.returncode, unwell.stderr) == (1, "503: the poller has failed\n")
