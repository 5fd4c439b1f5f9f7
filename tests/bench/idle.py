"""What a sidecar costs that has nothing to do: time from start to ready, resident memory, and CPU time."""

import time
import urllib.error
import urllib.request

from figures import Figure, at_most, below
from gatewayprocess import start_gateway
from session import Session

READY_LIMIT_S = 20
_SETTLE_S = 2.0  # what the start leaves to do is not idling


def measure(session: Session) -> list[Figure]:
    seconds = session.count(15, 4)
    ready = Figure("idle.ready", "idle: start to ready", "s", [], at_most(0.6), "the process is made to /readyz is 200")
    resident = Figure("idle.resident", "idle: resident memory", "MB", [], at_most(60))
    cpu = Figure("idle.cpu", "idle: CPU", "% of a core", [], below(0.2), f"over {seconds} s on an empty database")
    for _ in session.rounds("idle"):
        with session.folder() as folder, start_gateway(folder, upstream_url=session.sides.upstream_url) as gateway:
            wait_ready(f"{gateway.url}/readyz")
            ready.runs.append(time.monotonic() - gateway.started_at)
            time.sleep(_SETTLE_S)
            before_s = gateway.fine_cpu_s()
            time.sleep(seconds)
            cpu.runs.append((gateway.fine_cpu_s() - before_s) / seconds * 100)
            resident.runs.append(gateway.resident_mb())
    return [ready, resident, cpu]


def wait_ready(url: str) -> None:
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.005)
    raise TimeoutError("the gateway did not become ready")
