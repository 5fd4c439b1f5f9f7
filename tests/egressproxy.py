"""A real HTTP proxy for the tests: proxy.py in a process of its own, on a free port of 127.0.0.1."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["RunningProxy", "egress_proxy"]

_START_S = 30


class RunningProxy:
    """Where it is, and what it was asked for."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log

    @property
    def asked_for(self) -> list[str]:
        """Who was connected to through it, one ``host:port`` for each connection that has ended."""
        lines = self._log.read_text("utf-8").splitlines()
        return [line.split(" CONNECT ")[1].split(" ")[0] for line in lines if " CONNECT " in line]


@contextmanager
def egress_proxy(folder: Path, *options: str, port: int = 0) -> Iterator[RunningProxy]:
    """Run one until the block ends; ``options`` are its own. Port 0 takes a free one."""
    port_file, log = folder / "port", folder / "proxy.log"
    command = [
        sys.executable,
        "-m",
        "proxy",
        "--hostname",
        "127.0.0.1",
        "--port",
        str(port),
        "--port-file",
        str(port_file),
    ]
    command += ["--num-workers", "1", "--num-acceptors", "1", "--log-file", str(log), *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_S
        while not (port_file.exists() and port_file.read_text().strip()):
            assert process.poll() is None, f"the proxy ended: {log.read_text() if log.exists() else ''}"
            assert time.monotonic() < deadline, "the proxy did not start"
            time.sleep(0.02)
        yield RunningProxy(int(port_file.read_text().split()[0]), log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
