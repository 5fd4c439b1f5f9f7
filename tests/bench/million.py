"""A million watched tasks: what they cost in memory, on disk, at the start, and in the work of each poll.

The database, SQLite's or PostgreSQL's, is made beforehand; all its tasks are due and never end. With a million tasks as
with a thousand the upstream allows 1,000 polls a second, so that both make as many and differ in nothing but how many
tasks there are.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import prepare
from databases import Databases, start_databases
from figures import Figure, at_most, ratio
from gatewayprocess import start_gateway
from harness import Sides
from session import Session

AT_MOST_RUNS = 3
FEW = 1000
RATE = "1000/1"
INTERVAL_S = "0.2"  # so that a thousand tasks, too, are always due
WARM_UP_S = 3.0
LIMIT_S = 60


@dataclass
class Run:
    first_poll_s: float
    resident_start_mb: float
    resident_polling_mb: float
    cpu_ms: float
    per_s: float


def measure(session: Session) -> list[Figure]:
    with ExitStack() as stack:
        databases = stack.enter_context(start_databases()) if session.postgres else None
        return _measure(session, databases)


def _measure(session: Session, databases: Databases | None) -> list[Figure]:
    many = session.count(1_000_000, 50_000)
    for_s = session.count(20, 3)
    name = "a million tasks" if many == 1_000_000 else f"{many:,} tasks"
    name += " on PostgreSQL" if databases else ""
    first_s, resident_mb = (2, 80) if databases else (5, 200)
    first = Figure(
        "million.first_poll",
        f"{name}: start to first poll",
        "s",
        [],
        at_most(first_s),
        "the process is made to the first poll's arrival; the file is in the page cache",
    )
    first_few = Figure("million.first_poll_few", f"{FEW:,} tasks: start to first poll", "s", [])
    start_mb = Figure("million.resident_start", f"{name}: resident after the start", "MB", [], at_most(resident_mb))
    polling_mb = Figure("million.resident_polling", f"{name}: resident while polling", "MB", [], at_most(resident_mb))
    cpu = Figure(
        "million.cpu", f"{name}: CPU time of a poll", "ms", [], how=f"at {RATE.partition('/')[0]} polls a second"
    )
    cpu_few = Figure("million.cpu_few", f"{FEW:,} tasks: CPU time of a poll", "ms", [])
    rates = Figure("million.rate", f"{name}: polls", "/s", [], how=f"the limit is {RATE}")
    with session.folder() as few_folder, session.folder() as many_folder:
        session.say(f"million, making {many:,} tasks")
        few_settings, _ = _watched(few_folder, FEW, databases)
        many_settings, disk = _watched(many_folder, many, databases)
        for _ in session.rounds("million", AT_MOST_RUNS):
            measured = run(few_folder, session.sides, for_s, **few_settings)
            first_few.runs.append(measured.first_poll_s)
            cpu_few.runs.append(measured.cpu_ms)
            measured = run(many_folder, session.sides, for_s, **many_settings)
            first.runs.append(measured.first_poll_s)
            start_mb.runs.append(measured.resident_start_mb)
            polling_mb.runs.append(measured.resident_polling_mb)
            cpu.runs.append(measured.cpu_ms)
            rates.runs.append(measured.per_s)
    times = ratio("million.cpu_ratio", f"the same / with {FEW:,} tasks", cpu, cpu_few, at_most(1.2))
    room = Figure("million.disk", f"{name}: disk of each", "bytes", [disk / many], None if databases else at_most(1024))
    room.how = "tables and indexes" if databases else "size of the file after its checkpoint"
    return [room, first, first_few, start_mb, polling_mb, rates, cpu, cpu_few, times]


def _watched(folder: Path, count: int, databases: Databases | None) -> tuple[dict[str, str], int]:
    """Make the tasks; return the settings of the gateway that has them, and how many bytes they are on disk."""
    database = folder / "gateway.db"
    prepare.watched(database, count)
    if databases is None:
        return {}, database.stat().st_size
    name = databases.copied(database)
    return {"database_url": databases.url(name)}, databases.size(name)


def run(folder: Path, sides: Sides, for_s: float, **settings: str) -> Run:
    sides.reset()
    settings |= {"upstream_rate": RATE, "poll_min_s": INTERVAL_S, "poll_max_s": INTERVAL_S}
    with start_gateway(folder, upstream_url=sides.upstream_url, **settings) as gateway:
        deadline = time.monotonic() + LIMIT_S
        while not (counts := sides.count()).polls:
            if time.monotonic() > deadline:
                raise TimeoutError("no poll came")
            time.sleep(0.01)
        resident_start_mb = gateway.resident_mb()
        time.sleep(WARM_UP_S)
        started, polls, cpu_s = time.monotonic(), sides.count().polls, gateway.cpu_s()
        time.sleep(for_s)
        seconds, polls, cpu_s = time.monotonic() - started, sides.count().polls - polls, gateway.cpu_s() - cpu_s
        return Run(
            first_poll_s=counts.first_poll_at - gateway.started_at,
            resident_start_mb=resident_start_mb,
            resident_polling_mb=gateway.peak_resident_mb(),
            cpu_ms=cpu_s / polls * 1000,
            per_s=polls / seconds,
        )
