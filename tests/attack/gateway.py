"""The one ``gateway serve`` that is attacked: its settings, its start, its memory, its health and its end.

Owns the process and what can be seen of it from outside. Its log goes into a file, as an operator's does.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gateway.config.tokens import hash_line
from tests.attack.memory import Limit, limited, peak_bytes

__all__ = ["GOOD_UPSTREAM", "SECRET", "Attacked", "attacked", "settings", "token_of"]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GOOD_UPSTREAM = "aigptimage"
KEY = "sk-of-the-good-upstream"
_ROOT = Path(__file__).parents[2]
_LIMIT_S = 60
_HEALTH_LIMIT_S = 5.0
_LOOK_S = 0.02  # between two looks at its memory
_HEALTH_S = 0.5


def token_of(client: str) -> str:
    return f"gwt_{client}-0123456789abcdefghijklmnopqrstuvwxyz"


def settings(folder: Path, good_url: str, hostile: Mapping[str, str], clients: tuple[str, ...]) -> str:
    """Return the TOML file: the good upstream, the hostile ones by name, and a client for each role."""
    lines = [
        'host = "127.0.0.1"',
        "port = 0",
        f'database_url = "sqlite:///{folder / "gateway.db"}"',
        f'webhook_secret = "{SECRET}"',
        f'upstream_url = "{good_url}"',
        f'upstream_api_key = "{KEY}"',
        'upstream_rate = ["200/1"]',
        'callback_allow = ["127.0.0.0/8"]',
        "poll_min_s = 0.2",
        "poll_max_s = 2",
        "retry_schedule = [0, 1, 2, 5, 10]",
        "attempt_timeout_s = 5",
        'log_format = "json"',
        f"[upstreams.{GOOD_UPSTREAM}]",
        'create_rate = ["500/1"]',
    ]
    for name, url in hostile.items():
        lines += [
            f"[upstreams.{name}]",
            'profile = "aigptimage"',
            f'url = "{url}"',
            f'api_key = "sk-of-{name}"',
            'rate = ["50/1"]',
        ]
    for client in clients:
        lines += [f"[clients.{client}]", f'token_hash = "{hash_line(token_of(client))}"']
    return "\n".join([*lines, ""])


class Attacked:
    """The process, watched."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, limit: Limit, limit_bytes: int) -> None:
        self.process = process
        self.log = log
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.url = ""
        self.peak_bytes = 0
        self.over = False
        """Whether it had more memory than it may have, where the kernel does not see to that."""
        self.healthy = 0
        self.unhealthy: list[str] = []

    async def listening(self) -> None:
        async with asyncio.timeout(_LIMIT_S):
            while not self.url:
                assert self.process.returncode is None, f"it did not start:\n{self.log.read_text()[-2000:]}"
                for line in self.log.read_text().splitlines():
                    with suppress(ValueError):
                        event = json.loads(line)
                        self.url = event["url"] if event["event"] == "gateway.listening" else self.url
                await asyncio.sleep(_LOOK_S)

    async def watch_memory(self) -> None:
        """Look at its memory until cancelled; kill it above the limit where the kernel does not."""
        while self.process.returncode is None:
            self.peak_bytes = max(self.peak_bytes, peak_bytes(self.process.pid))
            if self.limit.enter is None and self.peak_bytes > self.limit_bytes and not self.over:
                self.over = True
                self.process.kill()
            await asyncio.sleep(_LOOK_S)

    async def watch_health(self) -> None:
        """Ask for its health on a new connection each time, as an orchestrator does, until cancelled."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(_HEALTH_LIMIT_S):
                    reader, writer = await asyncio.open_connection(host, int(port))
                    try:
                        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                        answer = (await reader.readline()).decode().strip()
                    finally:
                        writer.transport.abort()
            except (OSError, TimeoutError) as exc:
                answer = repr(exc)
            if answer.startswith("HTTP/1.1 200"):
                self.healthy += 1
            else:
                self.unhealthy.append(f"after {time.monotonic() - began:.2f} s: {answer or 'nothing'}")
            await asyncio.sleep(_HEALTH_S)

    async def stop(self) -> int:
        """SIGTERM; return the exit status."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.process.wait(), _LIMIT_S)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            return -signal.SIGALRM

    def tracebacks(self) -> list[str]:
        """Return the log's lines that tell of a defect."""
        with self.log.open(errors="replace") as lines:
            return [line.strip() for line in lines if "Traceback" in line or '"exception"' in line]


@asynccontextmanager
async def attacked(folder: Path, toml: str, nameserver: str, limit_bytes: int) -> AsyncIterator[Attacked]:
    """Run a gateway until the block ends."""
    config, log = folder / "gateway.toml", folder / "gateway.log"
    config.write_text(toml)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    with limited(limit_bytes) as limit, log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.attack.served", nameserver, "--config", str(config), "serve"),
            cwd=folder,
            env=environ | {"PYTHONPATH": str(_ROOT)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=out,
            preexec_fn=limit.enter,
        )
        gateway = Attacked(process, log, limit, limit_bytes)
        try:
            await gateway.listening()
            yield gateway
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
