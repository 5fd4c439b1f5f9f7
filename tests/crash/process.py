"""A real ``gateway serve`` as a child process: started, read, killed, stopped.

Owns the process and its output. Called by the crash harness and by the acceptance tests; knows neither.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests import forked

__all__ = ["LIMIT_S", "SECRET", "GatewayProcess", "environment", "run_gateway"]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LIMIT_S = 30
_ROOT = Path(__file__).parents[2]


class GatewayProcess:
    """One run of ``gateway serve``; what it writes, to standard output too, is read as it comes."""

    def __init__(self, process: "forked.Process | asyncio.subprocess.Process") -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.text: list[str] = []
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())
        self.url = ""

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.text.append(line.decode())
            with suppress(ValueError):
                self.log.append(json.loads(line) | {"seen_at": time.monotonic()})
            self._news.set()
        self._news.set()

    def logged(self, name: str) -> list[dict[str, Any]]:
        """Return the lines with this event name that have come so far."""
        return [line for line in self.log if line.get("event") == name]

    async def event(self, name: str) -> dict[str, Any]:
        """Wait for a log line with this event name."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                if found := self.logged(name):
                    return found[0]
                assert not self._reader.done(), f"ended without {name}:\n{''.join(self.text)}"
                self._news.clear()
                await self._news.wait()

    async def listening(self) -> bool:
        """Wait until it serves; return False where it ends before."""
        while not (found := self.logged("gateway.listening")):
            if self._reader.done():
                return False
            self._news.clear()
            await self._news.wait()
        self.url = found[0]["url"]
        return True

    async def ended(self) -> int:
        """Wait for the end, whoever brings it about; return the exit status."""
        status = await self.process.wait()
        await self._reader
        return status

    async def kill(self) -> None:
        """SIGKILL: nothing of the process gets a chance to tidy up."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.ended()

    async def stop(self) -> int:
        """SIGTERM; return the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(LIMIT_S):
            return await self.ended()


@asynccontextmanager
async def run_gateway(
    environ: Mapping[str, str],
    folder: Path,
    *,
    dies_at: str | None = None,
    ready: bool = True,
    module: Sequence[str] = ("gateway",),
    fresh: bool = False,
) -> AsyncIterator[GatewayProcess]:
    """Run ``gateway serve`` until the block ends; listening when it begins, where ``ready``.

    ``dies_at``: the point, and which passage of it, at which it kills itself; see ``killable``. ``module`` runs the
    commands, with its arguments. ``fresh``: it is executed, whoever may fork it.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    if dies_at is not None:
        module = ("tests.crash.killable", dies_at)
    env = kept | {"PYTHONPATH": str(_ROOT)} | dict(environ)
    start = forked.execute if fresh else forked.start
    process = await start("-m", *module, "serve", cwd=folder, env=env, merged=True)
    gateway = GatewayProcess(process)
    try:
        if ready:
            gateway.url = (await gateway.event("gateway.listening"))["url"]
        yield gateway
    finally:
        if process.returncode is None:
            await gateway.kill()


def environment(database: Path, upstream_url: str) -> dict[str, str]:
    """Return the settings of a gateway between a simulated upstream and receivers on this machine, in a hurry."""
    return {
        "GATEWAY_PORT": "0",
        "GATEWAY_DATABASE_URL": f"sqlite:///{database}",
        "GATEWAY_UPSTREAM_URL": upstream_url,
        "GATEWAY_UPSTREAM_RATE": "1000/1",
        "GATEWAY_WEBHOOK_SECRET": SECRET,
        "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
        "GATEWAY_POLL_MIN_S": "0.05",
        # A round goes on while something happens: no first poll may be put off for seconds.
        "GATEWAY_POLL_MAX_S": "0.5",
        "GATEWAY_RETRY_SCHEDULE": "0,0.05,0.05,0.1,0.1,0.2,0.2,0.5,0.5,1",
        "GATEWAY_LOG_FORMAT": "json",
    }
