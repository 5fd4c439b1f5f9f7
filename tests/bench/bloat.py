"""What a long transaction beside the gateway costs PostgreSQL: its table of tasks, with and without one.

The polls are the statement alone, and after each round of all tasks the table is vacuumed, as autovacuum would, sooner
or later. While a transaction is open that began before them, VACUUM may take none of the rows that they leave behind.
"""

import asyncio
import random
from contextlib import AsyncExitStack

import asyncpg
from databases import Databases, start_databases
from figures import Figure, ratio
from session import Session

from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.sql import PLANNER, RESCHEDULE_TASKS
from gateway.store.postgres.url import Servers

ROUNDS = 10
BATCH = 256
_MAKE = """
INSERT INTO tasks (upstream, task_id, created_at, next_poll_at, watchers)
SELECT 'bench', 'task-' || number, 1, number, 'default' FROM generate_series(1, $1) AS number
"""


def measure(session: Session) -> list[Figure]:
    count = session.count(20_000, 2000)
    titles = {False: "with VACUUM after each round", True: "beside a transaction that is open all the time"}
    first, tables, indexes = [], {}, {}
    for long, title in titles.items():
        what = f"{count:,} tasks polled {ROUNDS} times, {title}"
        tables[long] = Figure(f"bloat.table_{long}".lower(), f"{what}: table", "MB", [])
        indexes[long] = Figure(f"bloat.indexes_{long}".lower(), f"{what}: indexes", "MB", [])
    with start_databases() as databases:
        for _ in session.rounds("bloat", 1):
            for long in titles:
                sizes = asyncio.run(_poll(databases, count, long=long))
                first.append(sum(sizes[0]))
                tables[long].runs.append(sizes[-1][0])
                indexes[long].runs.append(sizes[-1][1])
    made = Figure("bloat.made", f"{count:,} tasks that were never polled: table and indexes", "MB", first)
    return [
        made,
        *(figure for long in titles for figure in (tables[long], indexes[long])),
        ratio("bloat.table", "table beside an open transaction / without", tables[True], tables[False]),
        ratio("bloat.indexes", "indexes beside an open transaction / without", indexes[True], indexes[False]),
    ]


async def _poll(databases: Databases, count: int, *, long: bool) -> list[tuple[float, float]]:
    """Return the megabytes of the table and of its indexes, at first and after each round."""
    url = databases.url(databases.new())
    schema = PostgresDatabase(Servers(url), settings=PLANNER)
    await schema.open()
    await schema.close()
    async with AsyncExitStack() as stack:
        ours, beside = [await asyncpg.connect(url, server_settings=PLANNER) for _ in range(2)]
        stack.push_async_callback(ours.close)
        stack.push_async_callback(beside.close)
        await ours.execute(_MAKE.replace("$1", str(count)))
        await ours.execute("VACUUM (ANALYZE) tasks")
        sizes = [await _sizes(ours)]
        if long:
            await beside.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await beside.execute("SELECT FROM meta")  # from here on it may see all that stands now
        polls = await ours.prepare(RESCHEDULE_TASKS)
        order = list(range(1, count + 1))
        random.Random(1).shuffle(order)
        for number in range(ROUNDS):
            at = 1_000_000 * (number + 1)
            for first in range(0, count, BATCH):
                polled = (at + first, at + first + count, None, 1, None, None, at + first, None, bytes(6))
                rows = [(seq, *polled) for seq in order[first:][:BATCH]]
                await polls.fetch(*zip(*rows, strict=True))
            await ours.execute("VACUUM tasks")
            sizes.append(await _sizes(ours))
    return sizes


async def _sizes(connection: "asyncpg.Connection[asyncpg.Record]") -> tuple[float, float]:
    table, indexes = await connection.fetchrow("SELECT pg_relation_size('tasks'), pg_indexes_size('tasks')") or (0, 0)
    return table / 2**20, indexes / 2**20
