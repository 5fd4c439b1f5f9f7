"""What somebody else holds: an operator's ``SELECT … FOR UPDATE``, or another replica's rows, costs nobody else."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from gateway.core.clock import SteeredClock, SystemClock
from gateway.core.errors import StoreLocked
from gateway.core.model import AttemptResult, CallbackState, Registration
from gateway.store.postgres import session
from gateway.store.postgres.store import PostgresStore
from gateway.store.postgres.url import Servers
from tests.lanes import claim_webhooks
from tests.postgres import Database
from tests.storing import NOW, attempt_of, look, new, opened, registered, settle
from tests.watching import due, seen, wish


@pytest.fixture
async def store(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PostgresStore]:
    """One that waits for locks for a moment, and then for a shorter one."""
    monkeypatch.setitem(session._LIMITS, "lock_timeout", "400ms")
    monkeypatch.setattr(session, "_HASTY", "; SET LOCAL lock_timeout = '50ms'")
    servers = Servers(postgres.url)
    made = PostgresStore(servers, clock=SteeredClock(SystemClock()), replica=secrets.token_hex(8))
    async with AsyncExitStack() as stack:
        yield await opened(made, stack)  # type: ignore[misc]


@asynccontextmanager
async def held(postgres: Database, statement: str, *parameters: Any) -> AsyncIterator[None]:
    """Hold what a statement locks, as an operator does who has not come to the end of his transaction."""
    other = await asyncpg.connect(postgres.url)
    try:
        await other.execute("BEGIN")
        await other.execute(statement, *parameters)
        yield
    finally:
        await other.close()


async def register(store: PostgresStore, *tasks: str) -> list[list[Registration] | BaseException]:
    """Register one callback on each of these tasks, at the same time."""
    writes = (store.registry.register([new(task, url="https://app.example.com/second")]) for task in tasks)
    return await asyncio.gather(*writes, return_exceptions=True)


async def test_one_locked_row_fails_one_caller(store: PostgresStore, postgres: Database) -> None:
    """Who shares its commit is answered as ever, none twice; it is refused, and free to try again."""
    tasks = [f"task-{number}" for number in range(20)]
    for task in ("task-7", "task-8"):
        await registered(store, new(task))
    async with held(postgres, "SELECT FROM tasks WHERE task_id = 'task-7' FOR UPDATE"):
        with capture_logs() as log:
            done = dict(zip(tasks, await register(store, *tasks), strict=True))
        assert store.failing is None, "the database is well"
        assert isinstance(done.pop("task-7"), StoreLocked)
        assert all(isinstance(one, list) and one[0].created for one in done.values())
        assert [(line["event"], line["writes"]) for line in log] == [("store.locked", 1)]
    (again,) = await register(store, "task-7")
    assert isinstance(again, list)
    assert again[0].created
    assert postgres.execute("SELECT count(*), count(DISTINCT (task_seq, url)) FROM callbacks") == "22|22"


async def test_who_comes_again_holds_up_nobody(store: PostgresStore, postgres: Database) -> None:
    """While the lock stands, the same is asked for again and again: it is waited for for a moment only."""
    await registered(store, new("locked"))
    async with held(postgres, "SELECT FROM tasks WHERE task_id = 'locked' FOR UPDATE"):
        loop, took = asyncio.get_running_loop(), []
        for number in range(5):
            began = loop.time()
            refused, made = await register(store, "locked", f"task-{number}")
            took.append(loop.time() - began)
            assert isinstance(refused, StoreLocked)
            assert isinstance(made, list)
        assert min(took[1:]) < 0.3 < took[0], "the first one waits for as long as a lock may take"


async def test_who_comes_again_after_the_longest_pause_holds_up_nobody(
    store: PostgresStore, postgres: Database
) -> None:
    """A settlement, say: whoever registers at the same time waits for a moment only."""
    callback = await registered(store, new("locked"))
    async with held(postgres, "SELECT FROM tasks WHERE task_id = 'locked' FOR UPDATE"):
        loop, took = asyncio.get_running_loop(), []
        for number in range(4):
            began = loop.time()
            refused, made = await asyncio.gather(
                settle(store, callback), register(store, f"task-{number}"), return_exceptions=True
            )
            took.append(loop.time() - began)
            assert isinstance(refused, StoreLocked)
            assert isinstance(made, list)
            store._writer._hasty_until -= StoreLocked.longest_pause_s  # as if so long had passed
        assert min(took[1:]) < 0.3 < took[0]


async def test_a_locked_task_that_nobody_reads_any_more_fails_no_round(
    store: PostgresStore, postgres: Database
) -> None:
    """The round that would stop its polls goes on to others, and it is polled itself, until it is free."""
    await store.registry.watch(wish("locked"))
    gone_at = NOW + 60_000
    async with held(postgres, "SELECT FROM tasks WHERE task_id = 'locked' FOR UPDATE"):
        again_at = await store.tasks.unwatch(gone_at)
        assert gone_at < again_at <= gone_at + StoreLocked.longest_pause_s * 1000
        assert [claim.task_id for claim in await due(store, gone_at)] == ["locked"]
    assert await store.tasks.unwatch(again_at - 1) == again_at
    await store.tasks.unwatch(again_at)
    assert (await seen(store, "locked")).task.next_poll_at is None


async def test_a_locked_task_that_was_read_is_deleted_later(store: PostgresStore, postgres: Database) -> None:
    """Others are deleted meanwhile, and no write waits for it."""
    for task_id in ("locked", "other"):
        await store.registry.watch(wish(task_id))
    gone_at = NOW + 60_001
    async with held(postgres, "SELECT FROM tasks WHERE task_id = 'locked' FOR UPDATE"):
        assert await store.prune_reads(gone_at, gone_at, 10) == 1
        assert postgres.execute("SELECT task_id FROM tasks") == "locked"
    assert await store.prune_reads(gone_at, gone_at, 10) == 1
    assert postgres.execute("SELECT task_id FROM tasks") == ""


async def test_a_locked_webhook_fails_its_own_record(store: PostgresStore, postgres: Database) -> None:
    """Attempts are recorded beside it; its own is stored once it may be."""
    made = [await registered(store, new(f"task-{number}")) for number in range(4)]
    for callback in made:
        await settle(store, callback)
    due, _ = await claim_webhooks(store, NOW, 10)
    async with held(postgres, "SELECT FROM callbacks WHERE seq = " + str(due[2].seq) + " FOR UPDATE"):
        records = [attempt_of(one, AttemptResult.DELIVERED) for one in due]
        done = await asyncio.gather(*map(store.outbox.record, records), return_exceptions=True)
        assert [type(one) for one in done] == [type(None), type(None), StoreLocked, type(None)]
        states = [(await look(store, one)).state for one in due]
        assert states.count(CallbackState.DELIVERED) == 3
    await store.outbox.record(records[2])
    assert (await look(store, due[2])).state is CallbackState.DELIVERED
    assert postgres.execute("SELECT count(*) FROM attempts") == "4"


async def test_a_locked_table_fails_all_and_is_told_of(
    store: PostgresStore, postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that is being made, say: nobody is kept for long, and after a while the store says that it fails."""
    monkeypatch.setattr("gateway.store.writer._PARTS_S", 0.3)
    monkeypatch.setattr("gateway.store.writer._LOCKED_S", 0.0)
    async with held(postgres, "LOCK TABLE tasks IN SHARE MODE"):
        began = asyncio.get_running_loop().time()
        done = await register(store, *(f"task-{number}" for number in range(200)))
        assert {type(one) for one in done} == {StoreLocked}
        assert asyncio.get_running_loop().time() - began < 5
        assert store.failing is not None
        assert store.lost is None
    await register(store, "task-1")
    assert store.failing is None
