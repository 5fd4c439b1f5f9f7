"""Whole lives of tasks: registered, polled once, delivered with a signature; all of it durable. And the peers' lives.

A fresh gateway and a fresh database in each run, and a warm-up before it. The time is from the first byte sent to the
last webhook's arrival; afterwards the database must say that every one was delivered.
"""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import load
from figures import Figure, at_least, compare, ratio
from gatewayprocess import start_gateway
from harness import Sides
from peerprocess import LIVES, run_peer
from session import Session

from tests.postgres import NotAvailable

WARM_UP = 2000


def measure(session: Session) -> list[Figure]:
    batches = Figure(
        "lives.batches",
        "whole lives, registered in batches of 500",
        "/s",
        [],
        at_least(3000),
        "register → one poll → signed webhook; 2 connections; first byte sent to last webhook received; "
        "the peers live 64 at a time",
    )
    singles = Figure(
        "lives.singles", "whole lives, registered one by one", "/s", [], how="the same over 32 connections"
    )
    cpu = Figure(
        "lives.cpu", "CPU time of a life (batches)", "ms", [], how="all threads of the process; a database server's not"
    )
    peers = [Figure(f"lives.{peer.title}", peer.title, "/s", [], peer=True) for peer in LIVES]
    peers_cpu = [Figure(f"lives.cpu_{peer.title}", peer.title, "ms", [], peer=True) for peer in LIVES]
    for _ in session.rounds("lives"):
        per_s, cpu_ms = run(session, session.count(20_000, 3000), batched=True)
        batches.runs.append(per_s)
        cpu.runs.append(cpu_ms)
        for peer, figure, peer_cpu in zip(LIVES, peers, peers_cpu, strict=True):
            if figure.absent:
                continue
            count = session.count(peer.count, peer.count // 5)
            try:
                lived = run_peer(session.peers_python, peer, session.sides, count)
            except NotAvailable as error:
                figure.absent = peer_cpu.absent = str(error)
            else:
                figure.runs.append(lived["per_s"])
                peer_cpu.runs.append(lived["cpu_ms"])
        singles.runs.append(run(session, session.count(10_000, 1500), batched=False)[0])
    compare(batches, *peers)
    compare(singles, *peers)
    compare(cpu, *peers_cpu)
    script, dbos = peers[:2]
    return [
        batches,
        ratio("lives.over_script", "the same / the script people write", batches, script, at_least(10)),
        ratio("lives.over_dbos", "the same / DBOS on SQLite", batches, dbos, at_least(40)),
        singles,
        cpu,
        *peers,
    ]


def run(session: Session, count: int, *, batched: bool) -> tuple[float, float]:
    """Return lives per second, and the milliseconds of CPU time of each."""
    sides = session.sides
    with session.folder() as folder:
        with start_gateway(folder, upstream_url=sides.upstream_url) as gateway:
            sides.reset()
            live(gateway.url, sides, "warm", WARM_UP, batched=batched)
            sides.reset()
            cpu_s = gateway.cpu_s()
            seconds = live(gateway.url, sides, "task", count, batched=batched)
            cpu_s = gateway.cpu_s() - cpu_s
        must_be_delivered(gateway.database, WARM_UP + count)
    return count / seconds, cpu_s / count * 1000


def live(url: str | Sequence[str], sides: Sides, name: str, count: int, *, batched: bool) -> float:
    """Return the seconds until all webhooks have arrived. Of several URLs each has its part of the load."""
    task_ids = [f"{name}-{number}" for number in range(count)]
    hook = f"{sides.receiver_url}/hook"
    requests = load.batch_registrations(task_ids, hook) if batched else load.registrations(task_ids, hook)
    started = time.monotonic()
    if batched:
        load.send(url, requests, 2 if isinstance(url, str) else len(url), load.all_created())
    else:
        load.send(url, requests, 32, load.created)
    return sides.wait(count).last_at - started


def must_be_delivered(database: Path, count: int) -> None:
    db = sqlite3.connect(database)
    ((delivered,),) = db.execute("SELECT count(*) FROM callbacks WHERE state = 'delivered' AND attempts = 1")
    db.close()
    if delivered != count:
        raise RuntimeError(
            f"the database says that {delivered} of {count} webhooks were delivered at the first attempt"
        )
