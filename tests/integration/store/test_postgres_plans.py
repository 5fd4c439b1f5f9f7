"""How PostgreSQL runs each statement: along an index made for it, whatever the planner knows of the tables.

A plan that is made while a table is empty serves while it grows, until somebody analyzes it.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.pgstatements import Session, positional, statements
from tests.postgres import Database, NotAvailable, from_debian, from_wheel, running

LARGE = {"tasks", "callbacks", "attempts", "creates"}
READ_THROUGH = {"COUNT_CALLBACKS", "COUNT_READ_TASKS", "COUNT_READ_TASKS_FOR"}
"""Those that count all rows of a kind; nothing waits for them but who asks."""
INDEX_ALONE = {"COUNT_DIED"}
"""Those of which an index has all: where there are many of them, their rows would take ten times as long."""
SORTED = {"SELECT_TASK", "WATCH_TASK"}
"""Those that sort the few rows of which they want the first; so do lists of one task's callbacks."""

GROW = """
INSERT INTO tasks (upstream, task_id, created_at, next_poll_at, state, settled_at, outcome, watchers, read_until)
SELECT 'kie', 'task-' || i, i, CASE WHEN i % 2 = 0 THEN i END, CASE WHEN i % 4 = 1 THEN 'success' ELSE 'waiting' END,
    CASE WHEN i % 4 = 1 THEN i END, CASE WHEN i % 4 = 1 THEN CAST('{}' AS bytea) END, 'client-' || i % 10,
    CASE WHEN i % 3 = 0 THEN i END
FROM generate_series(1, COUNT) AS i;
INSERT INTO callbacks (task_seq, id, client, url, receiver, metadata, timeout_s, created_at, expires_at, state,
    next_attempt_at, ended_at, cancelled, body, budget_used)
SELECT i, 'cb-' || i, 'client-' || i % 10, 'https://example.com/' || i, 'https://example.com', '{}', 1, i, i,
    (ARRAY['waiting', 'pending', 'delivered', 'dead'])[i % 4 + 1], CASE WHEN i % 4 = 1 THEN i END,
    CASE WHEN i % 4 > 1 THEN i END, 0, CASE WHEN i % 4 > 0 THEN CAST('' AS bytea) END, i % 3
FROM generate_series(1, COUNT) AS i;
INSERT INTO attempts (callback_seq, number, started_at, duration_ms, result)
SELECT i, 1, i, 1, 'retry' FROM generate_series(1, COUNT) AS i;
INSERT INTO creates (client, number, upstream, request_id, digest, at)
SELECT 'client-' || i % 10, i / 10, 'kie', 'request-' || i, '', i FROM generate_series(1, COUNT) AS i;
"""


class Read(NamedTuple):
    """How a plan reads a table."""

    step: str
    table: str
    index: str | None
    condition: str
    below: str
    """The kind of the step that wants it."""
    sorted_below_limit: bool


def reads(plan: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[Read]:
    """Yield each table that is read in a plan, in the order in which it stands there."""
    if "Relation Name" in plan and "Scan" in plan["Node Type"]:
        limited = "Limit" in above and "Sort" in above[above.index("Limit") :]
        below = above[-1] if above else ""
        step = plan["Node Type"]
        yield Read(step, plan["Relation Name"], plan.get("Index Name"), plan.get("Index Cond", ""), below, limited)
    # What stands in a step of its own, as a WITH does, is read for itself.
    for part in plan.get("Plans", ()):
        own = part.get("Parent Relationship") in ("InitPlan", "SubPlan")
        yield from reads(part, () if own else (*above, plan["Node Type"]))


async def plan_of(session: Session, statement: str) -> dict[str, Any]:
    text, _ = positional(statement)
    await session.connection.execute(f"PREPARE it AS {text}")
    count = await session.connection.fetchval(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'it'"
    )
    parameters = f"({', '.join(['NULL'] * count)})" if count else ""
    found = await session.connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE it{parameters}")
    await session.connection.execute("DEALLOCATE it")
    plan: dict[str, Any] = json.loads(found)[0]["Plan"]
    return plan


async def faults(session: Session) -> list[str]:
    """Return what is wrong with the statements' plans."""
    first_columns = dict(
        await session.table(
            "SELECT relname, pg_get_indexdef(indexrelid, 1, true) FROM pg_index JOIN pg_class ON oid = indexrelid"
        )
    )
    found = []
    for name, statement in statements().items():
        for read in reads(await plan_of(session, statement)):
            if read.table not in LARGE or name in READ_THROUGH:
                continue
            if read.index is None:
                found.append(f"{name} reads {read.table} through")
            elif not read.condition and read.below != "Limit":
                found.append(f"{name} reads {read.index} through")
            elif read.condition and first_columns[read.index] not in read.condition:
                found.append(f"{name} reads {read.index} through for {read.condition}")
            elif name in INDEX_ALONE and read.step != "Index Only Scan":
                found.append(f"{name} reads rows of {read.table}")
            elif read.sorted_below_limit and not (name in SORTED or name.startswith("select_callbacks")):
                found.append(f"{name} sorts what it has read along {read.index}")
    return found


async def look(database: Database) -> dict[str, list[str]]:
    """Return the faults of each situation that has any."""
    found = {}
    session = await Session.connect(database.url)
    await session.migrate()
    found["new"] = await faults(session)
    await session.connection.execute("VACUUM ANALYZE")
    found["known to be empty"] = await faults(session)
    await session.connection.execute(GROW.replace("COUNT", "60"))
    await session.connection.execute("ANALYZE")
    found["known to be small"] = await faults(session)
    await session.connection.execute("TRUNCATE tasks, callbacks, attempts, creates")
    await session.connection.execute(GROW.replace("COUNT", "50000"))
    found["grown since it was known to be small"] = await faults(session)
    await session.connection.execute("ANALYZE")
    found["large"] = await faults(session)
    await session.connection.execute("DELETE FROM tasks; DELETE FROM callbacks; DELETE FROM attempts")
    await session.connection.execute("VACUUM (ANALYZE, TRUNCATE false)")
    found["known to be empty, its pages kept"] = await faults(session)
    await session.close()
    return {situation: faults for situation, faults in found.items() if faults}


@pytest.mark.parametrize("programs", [from_wheel, from_debian])
def test_every_statement_finds_its_rows_by_an_index(programs: Any) -> None:
    """No table is read through, nor an index for a column that is not its first; what is wanted in part is in order."""
    try:
        with running(programs()) as server:
            assert asyncio.run(look(Database(server.url(), "", "", server))) == {}
    except NotAvailable as exc:
        pytest.skip(str(exc))
