"""How long a finished task goes undelivered on an idle machine: from the upstream's answer to the webhook's arrival.

One task at a time: it runs at its first poll and has succeeded at the second, when nothing else is going on. Both
instants are taken in the process of the sides, the first when the terminal answer has been written.
"""

import statistics
import time

import load
from figures import Figure, at_most
from gatewayprocess import GatewayProcess, start_gateway
from harness import Sides, p99
from session import Session

AT_MOST_RUNS = 3
INTERVAL_S = "0.05"
SETTINGS = {"poll_min_s": INTERVAL_S, "poll_max_s": INTERVAL_S}
WARM_UP = 20
_PAUSE_S = 0.02  # what a delivery leaves to do is over by then


def measure(session: Session) -> list[Figure]:
    count = session.count(300, 50)
    how = f"{count} tasks one at a time; terminal answer written to webhook received"
    middle = Figure("notice.median", "notice to delivery, median", "ms", [], at_most(5), how)
    worst = Figure("notice.p99", "notice to delivery, 99th percentile", "ms", [], at_most(20), how)
    for _ in session.rounds("notice", AT_MOST_RUNS):
        with (
            session.folder() as folder,
            start_gateway(folder, upstream_url=session.sides.upstream_url, **SETTINGS) as gateway,
        ):
            sample_ms(gateway, session.sides, "warm", WARM_UP)
            took_ms = sample_ms(gateway, session.sides, "sample", count)
        middle.runs.append(statistics.median(took_ms))
        worst.runs.append(p99(took_ms))
    return [middle, worst]


def sample_ms(gateway: GatewayProcess, sides: Sides, name: str, count: int) -> list[float]:
    """Live ``count`` lives, one after another; return how long each webhook took."""
    sides.reset()
    for number in range(count):
        requests = load.registrations([f"second-{name}-{number}"], f"{sides.receiver_url}/hook")
        load.send(gateway.url, requests, 1, load.created)
        sides.wait(number + 1)
        time.sleep(_PAUSE_S)
    return [seconds * 1000 for seconds in sides.notices()]
