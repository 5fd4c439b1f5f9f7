"""A hundred thousand tasks that are watched because they were read: what they cost in memory, and that it is temporary.

Each is read once, which the upstream answers, and then from the gateway's state; none ever ends, and all are polled.
They are watched for longer than by default, so that all of them are at once. That they go ten minutes after the last
read is seen without waiting: their time is put back in the file, and the next gateway removes them.
"""

import sqlite3
import time
import urllib.request
from contextlib import closing
from pathlib import Path

from figures import Figure, at_most
from gatewayprocess import GatewayProcess, start_gateway
from load import send
from session import Session

AT_MOST_RUNS = 2
CONNECTIONS = 16
WARM = 2_000
SETTINGS = {"proxy_watch_s": "1200", "poll_min_s": "60", "poll_max_s": "60"}
POLLING_S = 10.0
LIMIT_S = 120.0


def measure(session: Session) -> list[Figure]:
    many = session.count(100_000, 5_000)
    name = f"{many:,} tasks watched by reads"
    more = Figure(
        "reads.resident",
        f"{name}: memory more",
        "MB",
        [],
        at_most(60),
        f"the peak while all are polled and read, less what is resident after {WARM:,} reads of one task",
    )
    disk = Figure("reads.disk", f"{name}: disk of each", "bytes", [])
    first = Figure("reads.forwarded", "reads that begin a watch", "/s", [], how="forwarded and stored")
    state = Figure("reads.answered", "reads from state", "/s", [])
    left = Figure("reads.left", f"{name}: left ten minutes later", "", [], at_most(0))
    idle = Figure("reads.idle", f"{name}: resident ten minutes later", "MB", [])
    for _ in session.rounds("reads", AT_MOST_RUNS):
        with session.folder() as folder:
            session.sides.reset()
            with start_gateway(folder, upstream_url=session.sides.upstream_url, **SETTINGS) as gateway:
                send(gateway.url, [read(0)] * WARM, CONNECTIONS, runs)
                before_mb = gateway.resident_mb()
                first.runs.append(many / send(gateway.url, map(read, range(many)), CONNECTIONS, runs))
                state.runs.append(many / send(gateway.url, map(read, range(many)), CONNECTIONS, runs))
                time.sleep(POLLING_S)
                more.runs.append(gateway.peak_resident_mb() - before_mb)
            database = folder / "gateway.db"
            disk.runs.append(database.stat().st_size / many)
            put_back(database)
            gateway.log.unlink()  # the next one's is its own
            with start_gateway(folder, upstream_url=session.sides.upstream_url, **SETTINGS) as gateway:
                wait_forgotten(gateway)
                idle.runs.append(gateway.resident_mb())
            left.runs.append(count(database))
    return [more, disk, first, state, left, idle]


def read(number: int) -> bytes:
    return f"GET /api/v1/jobs/recordInfo?taskId=run-{number} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def runs(status: int, body: bytes) -> bool:
    return status == 200 and b'"waiting"' in body


def put_back(database: Path) -> None:
    """Let ten minutes have passed since the last read, and a minute's watch."""
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("UPDATE tasks SET read_until = ?", (int(time.time() * 1000) - 540_000,))


def wait_forgotten(gateway: GatewayProcess) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=10) as answer:
            if b'gateway_tasks_waiting{upstream="aigptimage"} 0.0' in answer.read():
                return
        time.sleep(0.2)
    raise TimeoutError("what nobody reads is still polled")


def count(database: Path) -> int:
    with closing(sqlite3.connect(database)) as db:
        ((found,),) = db.execute("SELECT count(*) FROM tasks")
    return int(found)
