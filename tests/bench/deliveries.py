"""A backlog of webhooks that are all due when the gateway starts: to one receiver, and to a hundred.

The database is made beforehand and copied for each run. The time is from the first to the last webhook's arrival;
afterwards the database must say that every one was delivered at its first attempt. A hundred receivers are a hundred
loopback addresses.
"""

from pathlib import Path

import prepare
from figures import Figure, at_least
from gatewayprocess import start_gateway
from lives import must_be_delivered
from session import Session

AT_MOST_RUNS = 3
LIMIT_S = 300


def measure(session: Session) -> list[Figure]:
    count = session.count(100_000, 5000)
    receivers = session.sides.receiver_urls
    how = f"{count:,} due at the start; from the first to the last arrival"
    one = Figure("deliveries.one", "webhooks from a backlog, one receiver", "/s", [], at_least(5000), how)
    many = Figure(
        "deliveries.many", f"webhooks from a backlog, {len(receivers)} receivers", "/s", [], at_least(5000), how
    )
    cpu = Figure("deliveries.cpu", "CPU time of a webhook", "ms", [], how="all threads of the gateway's process")
    with session.folder() as prepared:
        for name, urls in (("one", receivers[:1]), ("many", receivers)):
            session.say(f"deliveries, {count:,} webhooks for {len(urls)}")
            prepare.backlog(prepared / name, count, urls)
        for _ in session.rounds("deliveries", AT_MOST_RUNS):
            for figure, name in ((one, "one"), (many, "many")):
                with session.folder() as folder:
                    prepare.copy(prepared / name, folder / "gateway.db")
                    per_s, cpu_s = deliver(session, folder, count)
                    must_be_delivered(folder / "gateway.db", count)
                figure.runs.append(per_s)
                if figure is one:
                    cpu.runs.append(cpu_s / count * 1000)
    return [one, many, cpu]


def deliver(session: Session, folder: Path, count: int, **settings: str) -> tuple[float, float]:
    """Return how many of the backlog were delivered in a second, and the seconds of CPU time of all."""
    session.sides.reset()
    with start_gateway(folder, upstream_url=session.sides.upstream_url, **settings) as gateway:
        arrived = session.sides.wait(count, LIMIT_S)
        cpu_s = gateway.cpu_s()
    return (count - 1) / (arrived.last_at - arrived.first_at), cpu_s
