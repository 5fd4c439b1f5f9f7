"""What PostgreSQL is asked for in a task's life, and what a transaction costs that stays open beside it."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from gateway.core.clock import SteeredClock, SystemClock
from gateway.core.model import AttemptResult, PollRecord
from gateway.store.postgres import deliversql, sql
from gateway.store.postgres.session import Session
from gateway.store.postgres.store import PostgresStore
from gateway.store.postgres.url import Servers
from tests.lanes import claim_webhooks, lane
from tests.postgres import Database
from tests.storing import NOW, attempt_of, claim, claim_task, new, opened, registered, settle

POLLS = 3000


@asynccontextmanager
async def beside(postgres: Database) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """Have a transaction open until the block ends, as a backup's; lend another connection."""
    backup, looker = [await asyncpg.connect(postgres.url, server_settings=sql.PLANNER) for _ in range(2)]
    try:
        await backup.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await backup.execute("SELECT FROM meta")
        yield looker
    finally:
        await backup.close()
        await looker.close()


@pytest.fixture
async def store(postgres: Database) -> AsyncIterator[PostgresStore]:
    async with AsyncExitStack() as stack:
        made = PostgresStore(Servers(postgres.url), clock=SteeredClock(SystemClock()), replica=secrets.token_hex(8))
        await opened(made, stack)
        await made._hints.close()  # which looks, in between
        yield made


async def test_a_life_takes_few_statements(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a journey to the server, whoever shares it: a claim is one, most others have a BEGIN and a COMMIT."""
    asked: list[str] = []
    run, execute = Session._run, asyncpg.Connection.execute

    async def counted(session: Session, statement: str, parameters: Any) -> Any:
        asked.append(statement)
        return await run(session, statement, parameters)

    async def executed(connection: Any, text: str) -> Any:
        asked.append(text)
        return await execute(connection, text)

    store.outbox.note(lane("app"), NOW)
    await claim_webhooks(store, NOW, 1)  # on a connection that is made for it
    monkeypatch.setattr(Session, "_run", counted)
    monkeypatch.setattr(asyncpg.Connection, "execute", executed)
    took: Counter[str] = Counter()

    def so_far(what: str) -> None:
        took[what] = len(asked) - took.total()

    callback = await registered(store)
    so_far("register")
    await claim_task(store)
    so_far("look for what is due")
    await settle(store, callback)
    so_far("settle")
    due = await claim(store)
    so_far("claim")
    await store.outbox.record(attempt_of(due, AttemptResult.DELIVERED))
    so_far("record")
    callbacks = [await registered(store, new(f"task-{number}")) for number in (2, 3)]
    await settle(store, callbacks[0])
    due = await claim(store)
    so_far("the next one's")
    delivered = attempt_of(due, AttemptResult.DELIVERED)
    await asyncio.gather(settle(store, callbacks[1]), store.outbox.record(delivered))
    so_far("settle and record")
    del took["the next one's"]
    assert took == {
        "register": 4,
        "look for what is due": 1,
        "settle": 5,
        "claim": 1,
        "record": 3,
        "settle and record": 6,
    }


async def test_what_is_due_is_found_at_once_beside_an_open_transaction(
    store: PostgresStore, postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What polls leave behind in the index stays while a backup's is open, and nobody goes through it each time."""
    made = await store.registry.register([new(f"task-{number}") for number in range(POLLS // 10)])
    tasks = [one.callback.task.seq for one in made]
    about: list[Sequence[Any]] = []
    read = store._database.read

    async def noted(statement: str, parameters: Any = ()) -> list[Any]:
        if statement == sql.SELECT_DUE_TASKS:
            about.append(parameters)
        return await read(statement, parameters)

    monkeypatch.setattr(store._database, "read", noted)
    async with beside(postgres) as looker:
        for turn in range(10):
            at = NOW + turn * 1000
            due, _ = await store.tasks.longest_due("up", "ann", at, len(tasks))
            assert len(await store.tasks.claim(due)) == len(tasks)
            polls = [
                PollRecord(seq=task.seq, upstream="up", polled_at=at, next_poll_at=at + 1000, error=None)
                for task in due
            ]
            await asyncio.gather(*map(store.tasks.reschedule, polls))
        found, _ = await store.tasks.longest_due("up", "ann", NOW + 10_000, 1)
        assert len(found) == 1
        assert await entries(looker, sql.SELECT_DUE_TASKS, about[-1]) < 50
        assert await entries(looker, sql.SELECT_DUE_TASKS, (*about[-1][:2], 0, *about[-1][3:])) > POLLS, "so it was"


async def test_webhooks_are_claimed_at_once_beside_an_open_transaction(
    store: PostgresStore, postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So with what those leave behind that were delivered, and with a receiver whose webhooks are tried again."""
    about: list[Sequence[Any]] = []
    write = store._database.write

    async def noted(statement: str, parameters: Any = (), **how: Any) -> list[Any]:
        about.append(parameters)
        return await write(statement, parameters, **how)

    monkeypatch.setattr(store._database, "write", noted)
    async with beside(postgres) as looker:
        made = await store.registry.register([new(f"task-{number}") for number in range(POLLS)])
        await asyncio.gather(*(settle(store, one.callback, at=NOW + n) for n, one in enumerate(made)))
        for turn in range(2):
            due, _ = await claim_webhooks(store, NOW + POLLS, POLLS)
            assert len(due) == (1 if turn else POLLS)
            attempts = [attempt_of(one, AttemptResult.DELIVERED) for one in due[:-1]]
            attempts.append(attempt_of(due[-1], AttemptResult.RETRY, next_at=NOW + POLLS))
            await asyncio.gather(*map(store.outbox.record, attempts))
        assert len((await claim_webhooks(store, NOW + POLLS, 10))[0]) == 1
        last, lanes = about[-1], 4
        since = last[lanes]
        assert await entries(looker, deliversql.CLAIM_WEBHOOKS, last) < 50
        assert since[0] > 0
        from_the_start = (*last[:lanes], [0], *last[lanes + 1 :])
        twice = await entries(looker, deliversql.CLAIM_WEBHOOKS, from_the_start)
        assert twice > 2 * POLLS, "so it was"
        assert await entries(looker, deliversql.SELECT_LANES, ("", "", 10)) < 0.75 * twice, "a look passes over it once"


async def entries(looker: "asyncpg.Connection[Any]", statement: str, parameters: Sequence[Any]) -> int:
    """Return how many entries of indexes a statement looks at, those that were left behind included."""
    before = await _looked_at(looker)
    transaction = looker.transaction()
    await transaction.start()
    await looker.fetch(statement, *parameters)
    await transaction.rollback()
    return await _looked_at(looker) - before


async def _looked_at(looker: "asyncpg.Connection[Any]") -> int:
    await looker.execute("SELECT pg_stat_force_next_flush()")
    return int(await looker.fetchval("SELECT sum(idx_tup_read) FROM pg_stat_user_indexes"))
