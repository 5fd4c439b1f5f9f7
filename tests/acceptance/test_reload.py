"""SIGHUP to a real process: what its files say counts without a restart, and nothing that is wrong in them does."""

import asyncio
import os
import signal
import subprocess
import sys
import tomllib
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks

from gateway.config.tokens import hash_line
from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.signature import make_secret
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.crash.process import LIMIT_S, SECRET, GatewayProcess, environment, run_gateway

ROOT = Path(__file__).parents[2]


async def told(gateway: GatewayProcess, event: str, count: int = 1) -> dict[str, Any]:
    """Wait for the so manieth log line with this event name."""
    async with asyncio.timeout(LIMIT_S):
        while len(gateway.logged(event)) < count:
            gateway._news.clear()
            await gateway._news.wait()
    return gateway.logged(event)[count - 1]


async def reload(gateway: GatewayProcess, event: str = "config.reloaded", count: int = 1) -> dict[str, Any]:
    gateway.process.send_signal(signal.SIGHUP)
    return await told(gateway, event, count)


async def status(gateway: GatewayProcess, path: str, token: str) -> int:
    async with httpx.AsyncClient(base_url=gateway.url, headers={"authorization": f"Bearer {token}"}) as client:
        return (await client.get(path)).status_code


async def test_what_the_files_say_counts_without_a_restart(world: Any, tmp_path: Path) -> None:
    """Tokens, clients and secrets: the next request and the next webhook go by them."""
    config, token, secret = (tmp_path / name for name in ("gateway.toml", "token", "secret"))
    other = make_secret()
    config.write_text("")
    token.write_text("first")
    secret.write_text(SECRET)
    del world.environ["GATEWAY_WEBHOOK_SECRET"]
    files = {
        "GATEWAY_CONFIG": str(config),
        "GATEWAY_TOKEN_FILE": str(token),
        "GATEWAY_WEBHOOK_SECRET_FILE": str(secret),
    }
    async with world.gateway(**files) as gateway:
        assert await status(gateway, "/v1/callbacks", "first") == 200
        token.write_text("second")
        secret.write_text(f"{other} {SECRET}")
        config.write_text(f'drain_s = 1\n[clients.shop]\ntoken_hash = "{hash_line("shops")}"\n')
        line = await reload(gateway)
        assert line["changed"] == ["GATEWAY_WEBHOOK_SECRET", "GATEWAY_TOKEN", "[clients.shop]"]
        assert (await told(gateway, "config.restart_needed"))["settings"] == ["GATEWAY_DRAIN_S"]
        statuses = [await status(gateway, "/v1/callbacks", each) for each in ("first", "second", "shops")]
        assert statuses == [401, 200, 200]
        async with httpx.AsyncClient(base_url=gateway.url, headers={"authorization": "Bearer shops"}) as client:
            callback = await world.register(client, "sim-success-0-reload")
            await world.receiver.wait_for({callback["id"]})
        headers, body = world.receiver.webhooks[callback["id"]][0]
        standardwebhooks.Webhook(other).verify(body, headers)
        assert not {"first", "second", other} & set(" ".join(gateway.text).split('"'))
        assert await gateway.stop() == 0


async def test_a_broken_configuration_changes_nothing(world: Any, tmp_path: Path) -> None:
    """Every mistake is logged, the gateway goes on with what was before, and a mended file counts."""
    config, token = tmp_path / "gateway.toml", tmp_path / "token"
    config.write_text("")
    token.write_text("first")
    async with world.gateway(GATEWAY_CONFIG=str(config), GATEWAY_TOKEN_FILE=str(token)) as gateway:
        token.write_text("second")
        config.write_text('drain_s = "soon"\n[clients.shop]\n[upstreams.nothing]\n')
        line = await reload(gateway, "config.refused")
        assert line["level"] == "error"
        for expected in ("drain_s", "[clients.shop]", "no profile nothing"):
            assert any(expected in problem for problem in line["problems"]), line
        token.unlink()
        line = await reload(gateway, "config.refused", 2)
        assert any("GATEWAY_TOKEN_FILE" in problem for problem in line["problems"])
        assert await status(gateway, "/v1/callbacks", "first") == 200
        token.write_text("second")
        config.write_text("")
        assert (await reload(gateway))["changed"] == ["GATEWAY_TOKEN"]
        assert [await status(gateway, "/v1/callbacks", each) for each in ("first", "second")] == [401, 200]
        assert await gateway.stop() == 0


async def test_a_refused_key_is_tried_again_at_once(world: Any, tmp_path: Path) -> None:
    """A pause of half a minute is not waited for once the file holds another key; the answers never show either."""
    key = tmp_path / "key"
    key.write_text("sk-the-old-one")
    async with AsyncExitStack() as stack:
        upstream = SimulatedUpstream(SystemClock(), keys=["sk-the-new-one"])
        url = await stack.enter_async_context(serve_simulator(upstream))
        environ = environment(tmp_path / "gateway.db", url) | {"GATEWAY_UPSTREAM_API_KEY_FILE": str(key)}
        receiver = await stack.enter_async_context(serve_asgi(world.receiver))
        gateway = await stack.enter_async_context(run_gateway(environ, tmp_path))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=gateway.url))
        body = {"taskId": "sim-success-0-key", "callbackUrl": f"{receiver}/hooks"}
        callback_id = (await client.post("/v1/callbacks", json=body)).json()["id"]
        await told(gateway, "upstream.key_refused")
        assert (await client.get("/readyz")).status_code == 503
        key.write_text("sk-the-new-one")
        assert (await reload(gateway))["changed"] == ["[upstreams.aigptimage] api_key"]
        accepted = await told(gateway, "upstream.key_accepted")
        assert accepted["seen_at"] - gateway.logged("config.reloaded")[0]["seen_at"] < 10
        await world.receiver.wait_for({callback_id})
        assert (await client.get("/readyz")).status_code == 200
        assert "sk-the" not in "".join(gateway.text)
        assert await gateway.stop() == 0


def ready_for_hangups(pid: int) -> bool:
    """Whether a process ignores or handles SIGHUP: from then on its interpreter has nothing left to do for it."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [line.split()[1] for line in status.splitlines() if line.startswith(("SigIgn:", "SigCgt:"))]
    return any(int(mask, 16) & 1 << (signal.SIGHUP - 1) for mask in masks)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
@pytest.mark.parametrize("start", ["module", "command"])
@pytest.mark.parametrize("word", ["serve", "list"])
def test_it_does_not_even_kill_what_still_loads(tmp_path: Path, number: int, start: str, word: str) -> None:
    """The signal comes before the first import that takes time. A command that is no server ends of it, as ever."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        f"signal.signal({int(number)}, signal.SIG_DFL)\n"  # whatever the tests were started with
        "class Sender:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'gateway.cli.commands':\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Sender())\n"
    )
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]["gateway"]
    module, function = entry.split(":")
    run = ("-m", "gateway") if start == "module" else ("-c", f"from {module} import {function}; {function}()")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    done = subprocess.run(
        [sys.executable, *run, word],
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == (2 if word == "serve" else -number), done.stderr
    assert ("GATEWAY_UPSTREAM_API_KEY" in done.stderr) == (word == "serve")


async def test_it_never_kills(world: Any) -> None:
    """Not while it starts, not many at once, and not while it stops."""
    async with world.gateway(ready=False) as gateway:
        listening = asyncio.create_task(gateway.listening())
        while not listening.done():
            if ready_for_hangups(gateway.process.pid):
                gateway.process.send_signal(signal.SIGHUP)
            await asyncio.wait([listening], timeout=0.01)
        assert await listening
        for _ in range(20):
            gateway.process.send_signal(signal.SIGHUP)
        await told(gateway, "config.reloaded")
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(LIMIT_S):
            assert await gateway.ended() == 0
