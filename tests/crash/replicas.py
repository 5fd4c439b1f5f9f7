"""Several gateways on one PostgreSQL, each behind a proxy of its own that can cut it off from the database.

Owns their processes: each is started, killed, stopped, continued and terminated here. What is done to whom, and what
must then hold, is the callers' to say.
"""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.crash.process import LIMIT_S, GatewayProcess, environment, run_gateway
from tests.crash.sharedsides import CREATES, READS, UPSTREAMS, SharedSides
from tests.crash.sides import SENDER
from tests.tcpproxy import TcpProxy

__all__ = ["ATTEMPT_S", "Replica"]

ATTEMPT_S = 5.0
"""Longer than the receivers keep anybody waiting, on a busy machine too."""
_ADDED = {
    "GATEWAY_UPSTREAM": UPSTREAMS[0],
    "GATEWAY_ATTEMPT_TIMEOUT_S": f"{ATTEMPT_S:g}",
    "GATEWAY_RETRY_SCHEDULE": "0,0.05,0.05,0.1,0.1,0.2",
    "GATEWAY_DRAIN_S": "3",
    "GATEWAY_POLL_MIN_S": "0.2",
    "GATEWAY_POLL_MAX_S": "1",
    "GATEWAY_PROXY_WATCH_S": "2",
}
_TABLE = """
[upstreams.{upstream}]
profile = "aigptimage"
url = "{url}"
api_key = "key-of-{upstream}"
rate = "{reads}"
create_rate = "{creates}"
"""
_SENDER = '[clients.default]\nheaders = {{ {header} = "{name}" }}\n'


class Replica:
    """One place in the set; processes live in it one after the other."""

    def __init__(self, name: str, database_url: str, sides: SharedSides, folder: Path, proxy: TcpProxy | None) -> None:
        """``database_url``: behind the proxy, where there is one."""
        self.name = name
        self.proxy = proxy
        self.lives = 0
        self.gateways: list[GatewayProcess] = []
        """All that have lived here."""
        self.stale_writes = 0.0
        """What those that could be asked have counted."""
        self.module: Sequence[str] = ("gateway",)
        self._database_url, self._sides, self._folder = database_url, sides, folder
        self._stack = AsyncExitStack()

    @property
    def life(self) -> str:
        """What this life is called in the database."""
        return f"{self.name}.{self.lives}"

    @property
    def gateway(self) -> GatewayProcess:
        return self.gateways[-1]

    @property
    def url(self) -> str:
        return self.gateway.url

    async def start(self) -> None:
        """Start a process, and return when it is ready."""
        self.lives += 1
        self._sides.back(self.name)
        environ = environment(self._folder / "unused", self._sides.upstream_url) | _ADDED
        for of_one_upstream in ("GATEWAY_UPSTREAM_URL", "GATEWAY_UPSTREAM_RATE"):
            del environ[of_one_upstream]
        joint = "&" if urlsplit(self._database_url).query else "?"
        environ["GATEWAY_DATABASE_URL"] = f"{self._database_url}{joint}application_name={self.life}"
        environ["GATEWAY_CONFIG"] = str(self._write_config())
        run = run_gateway(environ, self._folder, module=self.module)
        self.gateways.append(await self._stack.enter_async_context(run))
        await self.ready()

    def _write_config(self) -> Path:
        tables = [
            _TABLE.format(upstream=name, url=self._sides.base_url(self.name, name), reads=READS, creates=CREATES)
            for name in UPSTREAMS
        ]
        config = self._folder / f"{self.name}.toml"
        config.touch(0o600)
        config.write_text("".join([*tables, _SENDER.format(header=SENDER, name=self.name)]), "utf-8")
        return config

    async def ready(self, within_s: float = LIMIT_S) -> None:
        """Wait until it says that it is ready."""
        async with httpx.AsyncClient(trust_env=False) as client:
            deadline = time.monotonic() + within_s
            while True:
                try:
                    answer = await client.get(f"{self.url}/readyz", timeout=1)
                    if answer.status_code == 200:
                        return
                    said = answer.text
                except httpx.TransportError as exc:
                    said = repr(exc)
                assert time.monotonic() < deadline, f"{self.life} is not ready: {said}\n{self.tail()}"
                await asyncio.sleep(0.05)

    async def take_count(self) -> None:
        """Add what it has counted of stale writes, before it ends or when it has come back."""
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{self.url}/metrics", timeout=LIMIT_S)).text
        for line in text.splitlines():
            if line.startswith("gateway_stale_writes_total"):
                self.stale_writes += float(line.rpartition(" ")[2])

    async def kill(self) -> None:
        self._sides.gone(self.name)
        await self.gateway.kill()

    def pause(self) -> None:
        self.gateway.process.send_signal(signal.SIGSTOP)
        self._sides.gone(self.name)

    def go_on(self) -> None:
        self._sides.back(self.name)
        self.gateway.process.send_signal(signal.SIGCONT)

    async def terminate(self) -> int:
        """SIGTERM; return the exit status."""
        await self.take_count()
        return await self.gateway.stop()

    async def close(self) -> None:
        """End whatever still runs."""
        if self.gateways and self.gateway.process.returncode is None:
            os.kill(self.gateway.process.pid, signal.SIGCONT)
        await self._stack.aclose()

    def tail(self) -> str:
        return "".join(self.gateway.text[-20:])
