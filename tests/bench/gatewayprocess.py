"""A running ``gateway serve`` on its core, and what Linux says about it.

Owns the settings that every benchmark shares, the start, the end and the reading of ``/proc``. What is not named here
is the gateway's default, SQLite's ``synchronous=FULL`` included. The log goes into a file beside the database, which is
as much work for the gateway as a real one and costs nobody else any; it is opened to append, so it may be truncated.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import MEASURED, cpu_s, pinned

START_LIMIT_S = 60
STOP_LIMIT_S = 60
UNLIMITED = "1000000/1"


class GatewayProcess:
    """One gateway, seen from outside."""

    def __init__(self, process: "subprocess.Popen[bytes]", started_at: float, folder: Path) -> None:
        self.pid = process.pid
        self.started_at = started_at
        """On the monotonic clock, just before the process was made."""
        self.database = folder / "gateway.db"
        self.log = folder / "gateway.log"
        self._process = process
        self.url = ""

    def await_start(self) -> None:
        """Return once it says that it listens; its store is open and its loops run by then."""
        deadline = time.monotonic() + START_LIMIT_S
        while not self.url:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"the gateway did not start: {self.log.read_text()[-500:]}")
            time.sleep(0.005)
            lines = self.log.read_text().splitlines(keepends=True)
            events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
            self.url = next((event["url"] for event in events if event["event"] == "gateway.listening"), "")

    def stop(self) -> None:
        """End it as an operator does; it must have drained in time."""
        self._process.send_signal(signal.SIGTERM)
        if status := self._process.wait(STOP_LIMIT_S):
            raise RuntimeError(f"the gateway ended with {status}: {self.log.read_text()[-500:]}")

    def kill(self) -> None:
        """End it at once, where what it would still do is of no interest."""
        self._process.kill()
        self._process.wait(STOP_LIMIT_S)

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads, those that ended included; in steps of 10 ms."""
        return cpu_s(self.pid)

    def fine_cpu_s(self) -> float:
        """Return the CPU time of the threads that live, in nanoseconds' steps: for what hardly uses any."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def resident_mb(self) -> float:
        return self._status_kb("VmRSS") / 1024

    def peak_resident_mb(self) -> float:
        return self._status_kb("VmHWM") / 1024

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - its names alone

    def threads(self) -> int:
        return self._status_kb("Threads")

    def wal_mb(self) -> float:
        """Return the size of the write-ahead log."""
        file = self.database.with_name(self.database.name + "-wal")
        return file.stat().st_size / 2**20 if file.exists() else 0.0

    def _status_kb(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise RuntimeError(f"/proc says no {name}: this runs on Linux only")


@contextmanager
def start_gateway(folder: Path, core: int = MEASURED, **settings: str) -> Iterator[GatewayProcess]:
    """Run a gateway with its database in ``folder``; a setting is named as in the TOML file."""
    settings = {
        "port": "0",
        "database_url": f"sqlite:///{folder / 'gateway.db'}",
        "upstream_api_key": "benchmark",
        "webhook_secret": "whsec_YmVuY2htYXJrYmVuY2htYXJrYmVuY2htYXJr",  # beside databases that others have filled
        "upstream_rate": UNLIMITED,
        "callback_allow": "127.0.0.0/8",
        "log_format": "json",
    } | settings
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environ |= {f"GATEWAY_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-m", "gateway", "serve"]
    with (folder / "gateway.log").open("ab") as log:
        started_at = time.monotonic()
        process: subprocess.Popen[bytes] = subprocess.Popen(
            command, env=environ, stdout=subprocess.DEVNULL, stderr=log, preexec_fn=pinned(core)
        )
    gateway = GatewayProcess(process, started_at, folder)
    try:
        gateway.await_start()
        yield gateway
        if process.poll() is None:
            gateway.stop()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(STOP_LIMIT_S)
