"""What a hanging receiver costs another one: its time from notice to delivery beside 500 webhooks that get no answer.

The receiver that hangs is a listener that never accepts: the kernel completes its connections, and nobody answers. One
gateway delivers to the other receiver first alone and then beside it.
"""

import socket
import time

import load
from figures import Figure, at_most
from gatewayprocess import start_gateway
from harness import p99
from notice import SETTINGS, WARM_UP, sample_ms
from session import Session

AT_MOST_RUNS = 3
HANGING = 500
CONNECTED = 20  # a receiver that nobody has heard of begins slowly
LIMIT_S = 30


def measure(session: Session) -> list[Figure]:
    count = session.count(300, 50)
    alone = Figure("isolation.alone", "notice to delivery alone, 99th percentile", "ms", [])
    beside = Figure("isolation.beside", f"the same beside {HANGING} webhooks that hang", "ms", [])
    times = Figure(
        "isolation.ratio",
        "beside hanging ones / alone",
        "x",
        [],
        at_most(2),
        f"99th percentiles of {count} deliveries by the same gateway; one below 1 ms counts as 1 ms",
    )
    for _ in session.rounds("isolation", AT_MOST_RUNS):
        alone_ms, beside_ms = run(session, count)
        alone.runs.append(alone_ms)
        beside.runs.append(beside_ms)
        times.runs.append(beside_ms / max(alone_ms, 1))
    return [alone, beside, times]


def run(session: Session, count: int) -> tuple[float, float]:
    """Return both 99th percentiles in milliseconds."""
    with (
        session.folder() as folder,
        socket.create_server(("127.0.0.1", 0), backlog=HANGING) as hangs,
        start_gateway(folder, upstream_url=session.sides.upstream_url, **SETTINGS) as gateway,
    ):
        sample_ms(gateway, session.sides, "warm", WARM_UP)
        alone = sample_ms(gateway, session.sides, "alone", count)
        files = gateway.open_files()
        hook = f"http://127.0.0.1:{hangs.getsockname()[1]}/hook"
        requests = load.batch_registrations([f"hangs-{number}" for number in range(HANGING)], hook)
        load.send(gateway.url, requests, 1, load.all_created())
        deadline = time.monotonic() + LIMIT_S
        while gateway.open_files() < files + CONNECTED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"fewer than {CONNECTED} webhooks hang")
            time.sleep(0.01)
        beside = sample_ms(gateway, session.sides, "beside", count)
        gateway.kill()
    return p99(alone), p99(beside)
