"""Polls of tasks that still run, where more are always due; and GETs alone by two clients.

Every answer says "waiting", so each poll is a request, its reading and a row to write. The sides count the polls.
"""

import time

import load
from figures import Figure, at_least, compare
from gatewayprocess import start_gateway
from peerprocess import GETS, run_peer
from session import Session

TASKS = 10_000
INTERVAL_S = "0.2"  # 50,000 polls a second would be due
WARM_UP_S = 2.0


def measure(session: Session) -> list[Figure]:
    polls = Figure(
        "polls",
        "polls of running tasks",
        "/s",
        [],
        at_least(6000),
        f"{TASKS:,} tasks every {INTERVAL_S} s at most, so that more is always due; each poll's row is on disk; "
        "the peers ask 64 at a time and keep nothing",
    )
    cpu = Figure("polls.cpu", "CPU time of a poll", "ms", [], how="all threads of the gateway's process")
    peers = [Figure(f"polls.{peer.title}", f"{peer.title}, GETs alone", "/s", [], peer=True) for peer in GETS]
    for _ in session.rounds("polls"):
        per_s, cpu_ms = run(session, session.count(10, 2))
        polls.runs.append(per_s)
        cpu.runs.append(cpu_ms)
        for peer, figure in zip(GETS, peers, strict=True):
            count = session.count(peer.count, peer.count // 5)
            figure.runs.append(run_peer(session.peers_python, peer, session.sides, count)["per_s"])
    compare(polls, *peers)
    return [polls, cpu, *peers]


def run(session: Session, for_s: float, **settings: str) -> tuple[float, float]:
    """Return polls per second, and the milliseconds of CPU time of each."""
    sides = session.sides
    settings |= {"upstream_url": sides.upstream_url, "poll_min_s": INTERVAL_S, "poll_max_s": INTERVAL_S}
    with session.folder() as folder, start_gateway(folder, **settings) as gateway:
        requests = load.batch_registrations([f"run-{number}" for number in range(TASKS)], f"{sides.receiver_url}/hook")
        load.send(gateway.url, requests, 1, load.all_created())
        time.sleep(WARM_UP_S)
        started, polls, cpu_s = time.monotonic(), sides.count().polls, gateway.cpu_s()
        time.sleep(for_s)
        seconds, polls, cpu_s = time.monotonic() - started, sides.count().polls - polls, gateway.cpu_s() - cpu_s
    return polls / seconds, cpu_s / polls * 1000
