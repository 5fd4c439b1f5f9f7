"""How long the dashboard's pages take with a million callbacks stored: ``make bench-pages``, on PostgreSQL or SQLite.

The database is filled beforehand, a tenth of it of one client; the operator and that client ask for each page, over a
real socket, of a gateway in this process. Plans are not looked at here: tests do that for each of the statements,
whatever the planner knows (``test_postgres_plans``, ``test_sql``).
"""

import argparse
import asyncio
import html
import re
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from gateway.core.clock import SystemClock
from gateway.signature import make_secret
from tests.dashboard import Visitor
from tests.postgres import Database, from_wheel
from tests.postgres import running as running_server
from tests.running import running

LIMIT_MS = 100
RUNS = 7
TOKENS = {"operator": "the-operators-token", "a client": "the-clients-token"}
NOWHERE = "http://127.0.0.1:9"
CLIENTS = 10
PART = 50_000  # rows that are made at once

TASKS = """
INSERT INTO tasks (upstream, task_id, created_at, polls, next_poll_at, state, settled_at, outcome, watchers, model)
SELECT CASE WHEN i % 5 = 0 THEN 'other' ELSE 'aigptimage' END, 'task-' || i, AT + i, 3,
    CASE WHEN i % 50 = 0 THEN FAR END, CASE WHEN i % 50 = 0 THEN 'waiting' ELSE 'success' END,
    CASE WHEN i % 50 > 0 THEN AT + i END, CASE WHEN i % 50 > 0 THEN CAST('{}' AS BYTES) END, 'default',
    'model-' || (i % 7)
FROM SERIES
"""
CALLBACKS = """
INSERT INTO callbacks (task_seq, id, client, url, receiver, metadata, timeout_s, created_at, expires_at, state,
    attempts, next_attempt_at, ended_at, body)
SELECT i, 'cb_' || i, CASE WHEN i / 50 % CLIENTS = 0 THEN 'default' ELSE 'client-' || (i / 50 % CLIENTS) END,
    'https://shop-' || (i % 100) || '.example.com/hooks/' || i, 'https://shop-' || (i % 100) || '.example.com',
    CAST('{"orderId":' || i || ',"basket":["a","b","c"]}' AS BYTES), 86400, AT + i, FAR,
    CASE WHEN i % 50 = 0 THEN 'waiting' WHEN i % 50 = 1 THEN 'pending' WHEN i % 50 < 5 THEN 'dead' ELSE 'delivered' END,
    1, CASE WHEN i % 50 = 1 THEN FAR END, CASE WHEN i % 50 > 1 THEN AT + i END,
    CASE WHEN i % 50 > 0 THEN CAST('' AS BYTES) END
FROM SERIES
"""


def fill(text: str, count: int, **names: str) -> str:
    at = round(time.time() * 1000) - count - 1000
    for name, value in {"CLIENTS": str(CLIENTS), "AT": str(at), "FAR": str(at + 10**10), **names}.items():
        text = re.sub(rf"\b{name}\b", value, text)
    return text


def fill_postgres(database: Database, count: int) -> None:
    for start in range(1, count + 1, PART):
        series = f"generate_series({start}, {min(start + PART - 1, count)}) AS i"
        for text in (TASKS, CALLBACKS):
            database.execute(fill(text, count, BYTES="bytea", SERIES=series))
    for table in ("tasks", "callbacks"):
        database.execute(f"VACUUM (ANALYZE) {table}")


def fill_sqlite(path: Path, count: int) -> None:
    series = f"(WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT i FROM n)"
    with closing(sqlite3.connect(path)) as db:
        for text in (TASKS, CALLBACKS):
            db.execute(fill(text, count, BYTES="BLOB", SERIES=series))
        db.commit()


def paths(count: int) -> Iterator[str]:
    """Yield what the pages offer: each filter, each kind of search, found early, late and never."""
    yield "/"
    for state in ("", "waiting", "pending", "delivered", "dead", "cancelled"):
        yield f"/dashboard/callbacks?state={state}"
    yield "/dashboard/callbacks?upstream=other"
    yield "/dashboard/callbacks?upstream=other&state=dead"
    texts = (f"task-{count // 2}", "cb_10", "shop-7.example", f"orderId={count - 10}", "orderId=10", "nowhere")
    for text in texts:
        yield f"/dashboard/callbacks?q={text.replace('=', '%3D')}"
    yield "/dashboard/callbacks?q=shop-7.example&state=dead"
    yield "/dashboard/tasks"
    for state in ("waiting", "success", "abandoned"):
        yield f"/dashboard/tasks?state={state}"
    for text in ("task-10", "model-3", "nowhere"):
        yield f"/dashboard/tasks?q={text}"
    yield "/dashboard/callbacks/cb_10"
    for receiver in ("", "shop-2.example", "example.com", "nowhere.example"):  # all of the dead, some, all, none
        yield f"/dashboard/redeliver?receiver={receiver}"


async def measured(visitor: Visitor, path: str) -> tuple[float, str]:
    """Return the median of how long a page takes, in milliseconds, and the page."""
    took, text = [], ""
    for _ in range(RUNS):
        started = time.perf_counter()
        answer = await visitor.get(path)
        took.append((time.perf_counter() - started) * 1000)
        text = answer.text
        assert answer.status_code == 200, (path, answer.status_code)
    return statistics.median(took), text


async def measure(folder: Path, count: int, environ: dict[str, str]) -> int:
    """Print a line for each page; return how many took longer than they may."""
    slow = 0
    tokens = {"GATEWAY_OPERATOR_TOKEN": TOKENS["operator"], "GATEWAY_TOKEN": TOKENS["a client"]}
    async with running(folder, NOWHERE, SystemClock(), **environ, **tokens) as run:
        for who, token in TOKENS.items():
            async with Visitor(str(run.client.base_url)) as visitor:
                await visitor.sign_in(token)
                for path in paths(count):
                    took_ms, text = await measured(visitor, path)
                    slow += took_ms > LIMIT_MS
                    print(f"{took_ms:7.1f} ms  {who:8}  {path}", flush=True)
                    further = re.search(r'rel="next" href="([^"]+)"', text)
                    if further is not None:
                        took_ms, _ = await measured(visitor, html.unescape(further[1]))
                        slow += took_ms > LIMIT_MS
                        print(f"{took_ms:7.1f} ms  {who:8}    … and the page after it", flush=True)
    return slow


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--callbacks", type=int, default=1_000_000)
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environ: dict[str, str] = {"GATEWAY_WEBHOOK_SECRET": make_secret()}
        if not asked.sqlite:
            server = stack.enter_context(running_server(from_wheel()))
            database = Database(server.url(), server._program("psql"), server.url(), server)
            environ["GATEWAY_DATABASE_URL"] = database.url
        asyncio.run(opened_once(folder, environ))
        if asked.sqlite:
            fill_sqlite(folder / "gateway.db", asked.callbacks)
        else:
            fill_postgres(database, asked.callbacks)
        slow = asyncio.run(measure(folder, asked.callbacks, environ))
    print(f"{slow} of the pages took longer than {LIMIT_MS} ms.")
    return 1 if slow else 0


async def opened_once(folder: Path, environ: dict[str, str]) -> None:
    """Make the schema."""
    async with running(folder, NOWHERE, **environ):
        pass


if __name__ == "__main__":
    raise SystemExit(main())
