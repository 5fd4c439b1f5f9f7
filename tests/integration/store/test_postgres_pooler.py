"""Behind a pooler that hands out its servers by the transaction nothing depends on what a session remembers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.core.errors import StoreError
from gateway.store.engine import Rows, Run, Work
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.url import Servers
from tests.pooler import pgbouncer, pooler
from tests.postgres import Database, NotAvailable, Server

PUT = "INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


@pytest.fixture(params=[pooler, pgbouncer], ids=["own", "pgbouncer"])
async def pooled_url(request: pytest.FixtureRequest, postgres: Database) -> AsyncIterator[str]:
    if postgres.server is None:
        pytest.skip("a pooler is put in front of the tests' own server only")
    try:
        async with request.param(postgres.server) as url:
            yield url
    except NotAvailable as exc:
        pytest.skip(str(exc))


@pytest.fixture
async def database(pooled_url: str) -> AsyncIterator[PostgresDatabase]:
    database = PostgresDatabase(Servers(pooled_url), settings={"enable_seqscan": "off"}, patience_s=0)
    await database.open()
    yield database
    await database.close()


def _put(key: str, value: bytes) -> Work[list[str]]:
    yield Run(PUT, {"key": key, "value": value})
    limits = yield Run("SELECT current_setting('lock_timeout'), current_setting('enable_seqscan')")
    yield Rows(
        "UPDATE meta SET value = value || new.more FROM unnest($1::bytea[]) AS new (more) WHERE key = 'a'", [(b"!",)]
    )
    return [*limits.rows[0]]


async def test_it_is_noticed(database: PostgresDatabase) -> None:
    """A pooler shows by itself that it is one."""
    assert database.pooled


async def test_straight_to_the_server(postgres: Database) -> None:
    """A server is not taken for a pooler."""
    database = PostgresDatabase(Servers(postgres.url))
    await database.open()
    assert not database.pooled
    await database.close()


async def test_reads_and_writes_at_once(database: PostgresDatabase) -> None:
    """Each transaction has its limits with it, and each statement is prepared where it runs."""
    await database.transaction(lambda: _put("a", b"0"))
    for turn in range(20):
        value = f"{turn}".encode()
        (limits, wrote), *read = await asyncio.gather(
            database.transaction(lambda value=value: _put("a", value)),  # type: ignore[misc]
            *(database.read("SELECT :n::int, count(*) FROM meta WHERE key = 'a'", {"n": n}) for n in range(6)),
        )
        assert (limits, wrote) == (["2s", "off"], True)
        assert read == [[(n, 1)] for n in range(6)]
        assert await database.read("SELECT value FROM meta WHERE key = $1", ("a",)) == [(value + b"!",)]


async def test_nothing_is_left_to_the_next_client(database: PostgresDatabase, postgres: Database) -> None:
    """No setting and no prepared statement stays with a server: they are others' servers, too."""
    await asyncio.gather(*(database.read("SELECT 1") for _ in range(9)))
    for _ in range(6):
        rows = await database.read("SELECT current_setting('statement_timeout') FROM pg_prepared_statements")
        assert rows == []
    with pytest.raises(StoreError):
        await database.read("SELECT nonsense")
    assert await database.read("SELECT 1") == [(1,)]
    assert postgres.execute("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == "0"


async def test_it_is_migrated_through_it(pooled_url: str) -> None:
    """Several that start at once through a pooler find one schema."""
    databases = [PostgresDatabase(Servers(pooled_url), patience_s=0) for _ in range(4)]
    await asyncio.gather(*(database.open() for database in databases))
    for database in databases:
        assert await database.read("SELECT count(*) FROM meta WHERE key = 'secret_key'") == [(1,)]
        await database.close()


async def test_the_server_behind_it_restarts(postgres_server: Server) -> None:
    """PgBouncer stays and its servers go: what fails says so, and all is well again by itself."""
    try:
        async with pgbouncer(postgres_server) as url:
            database = PostgresDatabase(Servers(url), patience_s=0)
            await database.open()
            await database.transaction(lambda: _put("a", b"0"))
            postgres_server.stop()
            for reason in ("slow", "unreachable"):  # it keeps a client waiting, and then lets a new one in to wait
                with pytest.raises(StoreError) as caught:
                    await database.transaction(lambda: _put("a", b"1"))
                assert caught.value.reason == reason
            postgres_server.start()
            while True:
                try:
                    await database.transaction(lambda: _put("a", b"2"))
                except StoreError:
                    await asyncio.sleep(0.05)  # at most for the test's time limit
                else:
                    break
            assert database.failing is None
            await database.close()
    except NotAvailable as exc:
        pytest.skip(str(exc))
