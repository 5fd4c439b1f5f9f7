"""A ``gateway serve`` of its own for a measurement: started on one core, watched from outside through /proc, ended.

Owns its settings and its temporary folder. Linux only, as the figures come from /proc.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness import MEASURED, cpu_s, pinned

START_LIMIT_S = 60
STOP_LIMIT_S = 30
NO_POLLS = {"GATEWAY_UPSTREAM_RATE": "1/86400"}
"""For figures in which polls are to have no part."""


class GatewayProcess:
    """A running gateway."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, database: Path, started: float) -> None:
        self.pid = process.pid
        self.url = url
        self.database = database
        self.started = started
        """When it was started, on the monotonic clock."""
        self._process = process

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def resident_mb(self) -> float:
        return self._status("VmRSS") / 1024

    def threads(self) -> int:
        return self._status("Threads")

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - not one stat per file

    def wal_mb(self) -> float:
        wal = self.database.with_name(self.database.name + "-wal")
        return wal.stat().st_size / 2**20 if wal.exists() else 0.0

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
        raise SystemExit(f"/proc shows no {name}: this runs on Linux only")


@contextmanager
def start_gateway(
    upstream_url: str = "http://127.0.0.1:9",
    *,
    core: int | None = MEASURED,
    database: Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[GatewayProcess]:
    """Run a gateway until the block ends; every thread of it on ``core``. SQLite with its defaults, on a real file."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "gateway.db" if database is None else database
        log = Path(folder) / "log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        environ |= {
            "GATEWAY_PORT": "0",
            "GATEWAY_DATABASE_URL": f"sqlite:///{database}",
            "GATEWAY_UPSTREAM_URL": upstream_url,
            "GATEWAY_UPSTREAM_RATE": "1000000/1",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.0/8",
            "GATEWAY_LOG_FORMAT": "json",
            **(settings or {}),
        }
        command = [sys.executable, "-m", "gateway", "serve"]
        started = time.monotonic()
        with (
            log.open("wb") as stderr,
            subprocess.Popen(
                command, env=environ, stderr=stderr, preexec_fn=None if core is None else pinned(core)
            ) as process,
        ):
            try:
                url = _listening(log, process)
                _wait_ready(url)
                yield GatewayProcess(process, url, database, started)
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(STOP_LIMIT_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def _listening(log: Path, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        with log.open("rb") as lines:
            line = lines.readline()
        if line.endswith(b"\n"):
            entry = json.loads(line)
            if entry["event"] == "gateway.listening":
                return str(entry["url"])
            raise SystemExit(f"the gateway did not start: {line.decode()}")
        time.sleep(0.002)
    raise SystemExit(f"the gateway did not start: {log.read_text()}")


def _wait_ready(url: str) -> None:
    with urllib.request.urlopen(url + "/readyz", timeout=START_LIMIT_S):
        return
