"""What a sidecar costs that has nothing to do: time from start to ready, resident memory, and CPU time.

Starts ``gateway serve`` several times on an empty database and prints the median of each figure.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

START_LIMIT_S = 20
PORT_FREE = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--idle-seconds", type=float, default=10)
    options = parser.parse_args()
    figures = [measure(options.idle_seconds) for _ in range(options.runs)]
    for name, unit in (("ready", "s"), ("resident", "MB"), ("cpu", "% of a core")):
        values = [figure[name] for figure in figures]
        print(f"{name:<10} median {statistics.median(values):8.3f} {unit:<12} worst {max(values):8.3f}")


def measure(idle_s: float) -> dict[str, float]:
    """Start one gateway; return seconds until ready, resident MB, and the share of a core it uses while idle."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        environ |= {
            "GATEWAY_PORT": str(free_port()),
            "GATEWAY_DATABASE_URL": f"sqlite:///{Path(folder) / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9",
        }
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "gateway", "serve"], env=environ, stderr=subprocess.DEVNULL)
        try:
            wait_ready(f"http://127.0.0.1:{environ['GATEWAY_PORT']}/readyz", process)
            ready_s = time.perf_counter() - started
            time.sleep(1)  # what the start leaves to do is not idling
            before = cpu_s(process.pid)
            time.sleep(idle_s)
            used_s = cpu_s(process.pid) - before
            resident_mb = resident_kb(process.pid) / 1024
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_LIMIT_S)
    return {"ready": ready_s, "resident": resident_mb, "cpu": used_s / idle_s * 100}


def wait_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.005)
    raise SystemExit("the gateway did not become ready")


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", PORT_FREE)) as server:
        return int(server.getsockname()[1])


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process, from Linux' /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise SystemExit("no VmRSS: this runs on Linux only")


if __name__ == "__main__":
    main()
