"""PostgreSQL's schema: made once, whoever starts first; brought up to date; refused where it cannot be worked with."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import asyncpg
import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.core.errors import StoreUnusable
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.schema import SchemaVersion, migrations, stored_version, upgrade
from gateway.store.postgres.session import Session, connect
from gateway.store.postgres.url import Servers
from tests.postgres import Database

LAST = max(migrations())
NEXT = {**migrations(), LAST + 1: "ALTER TABLE tasks ADD COLUMN extra bigint"}
BREAKING = {**NEXT, LAST + 2: f"-- Compatible with: {LAST + 1}\nALTER TABLE tasks DROP COLUMN extra"}


@pytest.fixture
async def session(postgres: Database) -> AsyncIterator[Session]:
    session = await connect(Servers(postgres.url), {})
    yield session
    await session.close()


async def _start(url: str, scripts: Mapping[int, str]) -> SchemaVersion:
    session = await connect(Servers(url), {})
    try:
        return await upgrade(session, scripts)
    finally:
        await session.close()


async def test_an_empty_database(session: Session) -> None:
    """It gets the newest schema, and a key of its own for what the gateway signs for itself."""
    assert await stored_version(session) is None
    assert await upgrade(session, migrations()) == SchemaVersion(LAST, 1)
    assert await stored_version(session) == SchemaVersion(LAST, 1)
    ((key,),) = await session.read("SELECT value FROM meta WHERE key = 'secret_key'")
    assert len(key) == 32
    assert await upgrade(session, migrations()) == SchemaVersion(LAST, 1)
    assert await session.read("SELECT value FROM meta WHERE key = 'secret_key'") == [(key,)]


async def test_eight_start_at_once(postgres: Database) -> None:
    """One makes the schema, the others find it made."""
    with capture_logs() as log:
        found = await asyncio.gather(*(_start(postgres.url, migrations()) for _ in range(8)))
    assert found == [SchemaVersion(LAST, 1)] * 8
    assert len([line for line in log if line["event"] == "store.migrated"]) == 1


async def test_a_database_opens_at_the_newest(postgres: Database) -> None:
    """What is opened for serving has gone the same way."""
    database = PostgresDatabase(Servers(postgres.url))
    await database.open()
    ((stored,),) = await database.read("SELECT value FROM meta WHERE key = 'schema'")
    assert msgspec.json.decode(stored) == {"version": LAST, "compatible_with": 1}
    await database.close()


async def test_replicas_of_two_releases(session: Session) -> None:
    """The older one goes on, and starts again, on the schema of the newer one, which its release knows nothing of."""
    await upgrade(session, migrations())
    assert await upgrade(session, NEXT) == SchemaVersion(LAST + 1, 1)
    assert await session.read("SELECT extra FROM tasks") == []
    assert await upgrade(session, migrations()) == SchemaVersion(LAST + 1, 1)


async def test_a_release_that_is_too_old(session: Session) -> None:
    """Where a migration says so, gateways from before it are refused, and told what to do."""
    assert await upgrade(session, BREAKING) == SchemaVersion(LAST + 2, LAST + 1)
    assert await upgrade(session, NEXT) == SchemaVersion(LAST + 2, LAST + 1)
    words = rf"schema is of version {LAST + 2}, .* from version {LAST + 1} on; this one knows {LAST}\. Start the newer"
    with pytest.raises(StoreUnusable, match=words):
        await upgrade(session, migrations())


async def test_a_migration_that_fails(session: Session) -> None:
    """Nothing of it is left, and the next start tries it again."""
    await upgrade(session, migrations())
    broken = {**NEXT, LAST + 2: "SELECT nonsense"}
    with pytest.raises(asyncpg.UndefinedColumnError):
        await upgrade(session, broken)
    assert await stored_version(session) == SchemaVersion(LAST, 1)
    assert await upgrade(session, NEXT) == SchemaVersion(LAST + 1, 1)


async def test_it_waits_for_who_migrates(postgres: Database, session: Session) -> None:
    """However long that takes: longer than a statement may in operation."""
    slow = {**migrations(), LAST + 1: "SELECT pg_sleep(3)"}  # a lock's limit is two seconds otherwise
    assert (
        await asyncio.gather(_start(postgres.url, slow), _start(postgres.url, slow)) == [SchemaVersion(LAST + 1, 1)] * 2
    )


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        ("CREATE TABLE meta (a int)", "has a table meta that is not the gateway's"),
        ("CREATE TABLE meta (key text, value bytea); INSERT INTO meta VALUES ('schema', '9')", "not the gateway's"),
        ("CREATE TABLE tasks (a int)", "has a table or function of the gateway's names, and is not the gateway's"),
    ],
)
async def test_somebody_elses(postgres: Database, session: Session, statements: str, words: str) -> None:
    """A database with tables of these names is left as it is."""
    postgres.execute(f"SET ROLE gateway; {statements}")
    with pytest.raises(StoreUnusable, match=words):
        await upgrade(session, migrations())
    assert postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "1"


async def test_beside_others(postgres: Database, session: Session) -> None:
    """Tables of other names are nothing to it, and in a schema of its own it has every name."""
    postgres.execute("SET ROLE gateway; CREATE TABLE others (a int); CREATE TABLE tasks (a int); CREATE SCHEMA own")
    postgres.execute(f"ALTER DATABASE {postgres.name} SET search_path = own")
    assert await _start(postgres.url, migrations()) == SchemaVersion(LAST, 1)
    assert postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'own'") != "0"
    postgres.execute("DROP SCHEMA own CASCADE")


async def test_on_an_older_server(postgres_debian: Database) -> None:
    """The schema is made by the server of Debian's packages, too."""
    assert await _start(postgres_debian.url, migrations()) == SchemaVersion(LAST, 1)


def test_each_migration_has_a_number() -> None:
    """They are counted up from one, without a gap."""
    assert list(migrations()) == list(range(1, LAST + 1))
