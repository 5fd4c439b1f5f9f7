"""Copies between databases, of whatever kind each is: the same rows on both sides, or a refusal with what to do."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.core.clock import SteeredClock, SystemClock
from gateway.core.errors import StoreError, StoreInUse, StoreUnusable
from gateway.core.model import CallbackState
from gateway.store.copying import Copied, CopySide, Take, copy_database, digest_of
from gateway.store.copying.rows import LARGE, PIECE, Parts
from gateway.store.copying.tables import COPYING, TABLES, Table
from gateway.store.postgres import copyside
from gateway.store.postgres.copyside import PostgresCopySide
from gateway.store.postgres.schema import migrations
from gateway.store.postgres.store import PostgresStore
from gateway.store.postgres.url import Servers
from gateway.store.sqlite import databasefile
from gateway.store.sqlite.copyside import SqliteCopySide
from gateway.store.sqlite.store import SqliteStore
from tests.pooler import pgbouncer, pooler
from tests.postgres import Database, NotAvailable
from tests.storing import LIMIT_S
from tests.waiting import until

FIXTURES = Path(__file__).parents[2] / "fixtures" / "databases"
HIGHEST = 253
NEW_CALLBACK = """
INSERT INTO callbacks (id, client, task_seq, url, receiver, metadata, timeout_s, created_at, expires_at)
SELECT 'cb_new', client, task_seq, 'https://new.example', receiver, metadata, timeout_s, created_at, expires_at
FROM callbacks WHERE seq = 1 RETURNING seq
"""
PAIRS = [("sqlite", "postgres"), ("postgres", "sqlite"), ("sqlite", "sqlite"), ("postgres", "postgres")]


class Stopped(Exception):
    """Somebody has killed the copy."""


class Watched:
    """Counts what it is told; ends the copy once so many rows of a stage are done, or acts after each part."""

    def __init__(self, stop: tuple[str, int] | None = None, then: Callable[[int], None] | None = None) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self._stop, self._then = stop, then

    @contextmanager
    def stage(self, name: str, rows: int, done: int) -> Iterator[Callable[[int], None]]:
        self.stages.append((name, rows, done))

        def tell(more: int) -> None:
            nonlocal done
            done += more
            if self._then is not None:
                self._then(more)
            if self._stop is not None and self._stop[0] == name and done >= self._stop[1]:
                raise Stopped

        yield tell


class Place:
    """Where a database may be: opened as often as one likes, and looked into with its own program."""

    def __init__(self, side: Callable[[], CopySide], execute: Callable[[str], Any]) -> None:
        self.side, self.execute = side, execute

    async def digests(self) -> list[Copied]:
        """Return what a copy of it would hold."""
        side = self.side()
        await side.open_source()
        try:
            digests = [(table.name, await digest_of(side, table, lambda _: None)) for table in TABLES]
        finally:
            await side.close()
        return [Copied(name, digest.rows, digest.hex()) for name, digest in digests]


def in_file(path: Path) -> Place:
    def execute(statements: str) -> str:
        with closing(sqlite3.connect(path)) as db, db:
            rows = [row for one in statements.split("; ") for row in db.execute(one)]
        return "\n".join("|".join("" if value is None else str(value) for value in row) for row in rows)

    return Place(lambda: SqliteCopySide(path), execute)


def filled(path: Path, tasks: int = 0) -> Place:
    """Make a file that holds a row of each kind, large ones too, and so many tasks more."""
    with closing(sqlite3.connect(path)) as db, db:
        for script in databasefile.migrations().values():
            db.executescript(script)
        number = databasefile.newest()
        db.execute(f"PRAGMA application_id = {databasefile.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {number}")
        db.executescript((FIXTURES / f"{number:04}.sql").read_text("utf-8"))
        db.executemany(
            "INSERT INTO tasks (upstream, task_id, created_at, watchers) VALUES ('up', ?, ?, 'ann')",
            [(f"more-{task}", task) for task in range(tasks)],
        )
        large = {"large": os.urandom(LARGE + PIECE // 2), "small": b"x"}
        db.execute("UPDATE tasks SET outcome = :large, record = :small WHERE seq = 2", large)
        db.execute("UPDATE tasks SET record = :large WHERE seq = 100", large)
        db.execute("UPDATE callbacks SET body = :large WHERE seq = 3", large)
    return in_file(path)


def in_schema(database: Database, schema: str) -> Place:
    """Make an empty schema in a database."""
    database.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")
    database.execute(f"GRANT ALL ON SCHEMA {schema} TO PUBLIC")
    url = schema_url(database, schema)
    return Place(
        lambda: PostgresCopySide(url), lambda statements: database.execute(f"SET search_path = {schema}; {statements}")
    )


def schema_url(database: Database, schema: str) -> str:
    return f"{database.url}{'&' if '?' in database.url else '?'}options=-csearch_path%3D{schema}"


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parts, "MOST_ROWS", 100)
    monkeypatch.setattr("gateway.store.copying.rows._PART_ROWS", 100)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's lock is waited for for long."""
    monkeypatch.setattr(copyside, "_LOCAL", f"{copyside._LOCAL}; SET LOCAL lock_timeout = '100ms'")
    monkeypatch.setattr("gateway.store.sqlite.database._LOCK_WAIT_S", 0.01)


@pytest.fixture(params=PAIRS, ids="-".join)
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Place, Place]:
    """A database with 250 tasks, so that there are several parts, and an empty place."""
    source, target = request.param
    database: Database | None = request.getfixturevalue("postgres") if "postgres" in request.param else None
    places = filled(tmp_path / "from.db", HIGHEST - 3), in_file(tmp_path / "to.db")
    if target == "postgres":
        assert database is not None
        places = places[0], in_schema(database, "copied")
    if source == "postgres":
        assert database is not None
        original = in_schema(database, "original")
        await copied(places[0], original)
        places = original, places[1]
    return places


async def copied(source: Place, target: Place, stop: tuple[str, int] | None = None) -> list[Copied]:
    return await copy_database(source.side(), target.side(), Watched(stop))


async def test_all_is_copied(pair: tuple[Place, Place]) -> None:
    """Every row of every table, and what is not of a table: which numbers have been given."""
    source, target = pair
    source.execute(f"DELETE FROM tasks WHERE seq = {HIGHEST}; DELETE FROM callbacks WHERE seq = 5")
    before = await source.digests()
    done = await copied(source, target)
    assert done == before == await source.digests() == await target.digests()
    assert {table.name: table.rows for table in done} == {
        "tasks": HIGHEST - 1, "callbacks": 4, "attempts": 4, "creates": 2, "meta": 2,
    }  # fmt: skip
    for statement in (
        "SELECT count(*), min(seq), max(seq), sum(length(outcome)), sum(length(record)) FROM tasks",
        "SELECT seq, length(outcome), length(record), polls, last_error FROM tasks WHERE seq IN (1, 2, 3, 100)",
        "SELECT seq, id, state, url, last_error, length(body) FROM callbacks ORDER BY seq",
        "SELECT callback_seq, number, error, status_code FROM attempts ORDER BY callback_seq, number",
        "SELECT seq, number, at, request_id, task_id, length(digest) FROM creates ORDER BY seq",
        "SELECT key, length(value) FROM meta WHERE key <> 'schema' ORDER BY key",
    ):
        assert target.execute(statement) == source.execute(statement)
    new_task = "INSERT INTO tasks (upstream, task_id, created_at, watchers) VALUES ('up', 'new', 0, '') RETURNING seq"
    assert target.execute(new_task) == str(HIGHEST + 1)
    assert target.execute(NEW_CALLBACK) == "6"


async def test_a_copy_that_was_stopped_is_gone_on_with(pair: tuple[Place, Place]) -> None:
    """Wherever it was: what stands in the target is not copied again, and in the end all is there."""
    source, target = pair
    for stop in (("Copying", 1), ("Copying", 200), ("Checking", 1)):
        with pytest.raises(Stopped):
            await copied(source, target, stop)
    there = Watched()
    assert await copy_database(source.side(), target.side(), there) == await source.digests() == await target.digests()
    rows = HIGHEST + 11
    assert there.stages == [("Copying", rows, rows), ("Checking", rows + 2, 0)]


class Counted:
    """A side that counts what is read of it."""

    def __init__(self, side: CopySide) -> None:
        self.rows = 0
        self._side: Any = side

    def __getattr__(self, name: str) -> Any:
        return getattr(self._side, name)

    async def read(self, table: Table, after: Any, before: Any, take: Take) -> None:
        async def counting(part: list[bytes]) -> None:
            self.rows += len(part)
            await take(part)

        await self._side.read(table, after, before, counting)


async def test_each_side_is_read_once(tmp_path: Path) -> None:
    """It takes its time to read a row: also what is there already of a copy that was stopped is read no second time."""
    source, target = filled(tmp_path / "from.db", 150), in_file(tmp_path / "to.db")
    with pytest.raises(Stopped):
        await copied(source, target, ("Copying", 100))
    sides = Counted(source.side()), Counted(target.side())
    rows = sum(table.rows for table in await copy_database(*sides, Watched()))
    large = 3
    assert [side.rows for side in sides] == [rows - large, rows - large]


async def test_a_database_that_fails_is_told_with_what_to_do(postgres: Database, tmp_path: Path) -> None:
    """Whichever side it is, and whatever was copied by then stays."""
    source, target, back = (
        filled(tmp_path / "from.db", 200),
        in_schema(postgres, "copied"),
        in_file(tmp_path / "to.db"),
    )

    def ends_all_sessions(_: int) -> None:
        others = "usename IS NOT NULL AND pid <> pg_backend_pid()"
        postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")

    for one, other in ((source, target), (target, back)):
        with pytest.raises(StoreError, match=r"The database .*The same command goes on from there\."):
            await copy_database(one.side(), other.side(), Watched(then=ends_all_sessions))
        with pytest.raises(Stopped):
            await copied(one, other, ("Checking", 1))
        assert await copied(one, other) == await source.digests()
    (tmp_path / "to.db").unlink()
    with pytest.raises(Stopped):
        await copied(source, back, ("Copying", 150))
    back.execute("CREATE TRIGGER full BEFORE INSERT ON attempts BEGIN SELECT RAISE(ABORT, 'no room');END")
    with pytest.raises(StoreError, match=r"to\.db cannot be used: no room\. The same command goes on from there\."):
        await copied(source, back)
    back.execute("DROP TRIGGER full")
    assert await copied(source, back) == await source.digests()


async def test_one_altered_row_is_found(pair: tuple[Place, Place]) -> None:
    """The copy is not finished then, and the message says what differs and where."""
    source, target = pair
    with pytest.raises(Stopped):
        await copied(source, target, ("Checking", 1))
    target.execute("UPDATE tasks SET last_error = 'x' WHERE seq = 123")
    with pytest.raises(StoreError, match=r"tasks differs\. The first difference comes after seq 100\.") as error:
        await copied(source, target)
    assert not isinstance(error.value, StoreUnusable)
    assert target.execute(f"SELECT count(*) FROM meta WHERE key = '{COPYING}'") == "1"
    target.execute("UPDATE tasks SET last_error = NULL WHERE seq = 123")
    assert await copied(source, target) == await source.digests()


async def test_a_row_that_is_missing_is_found(pair: tuple[Place, Place]) -> None:
    """One that is not the last is not looked for by the copy, but by the check."""
    source, target = pair
    with pytest.raises(Stopped):
        await copied(source, target, ("Checking", 1))
    target.execute("DELETE FROM attempts WHERE callback_seq = 3")
    with pytest.raises(StoreError, match=r"attempts differs: 3 rows, not 4\. One of them was changed"):
        await copied(source, target)


async def test_only_an_empty_database_is_copied_into(pair: tuple[Place, Place], tmp_path: Path) -> None:
    """Or one that has a part of the same database, as that was."""
    source, target = pair
    other = filled(tmp_path / "other.db")
    other.execute("UPDATE meta SET value = x'11' WHERE key = 'secret_key'")
    with pytest.raises(Stopped):
        await copied(source, target, ("Copying", 3))
    before = target.execute("SELECT count(*) FROM tasks")
    with pytest.raises(StoreUnusable, match=r"has a part of another database.*nothing was changed"):
        await copied(other, target)
    source.execute("DELETE FROM tasks WHERE seq = 250")
    with pytest.raises(StoreUnusable, match=r"was changed since this copy of it was begun; nothing was copied"):
        await copied(source, target)
    with pytest.raises(StoreUnusable, match=r"unfinished copy of another"):
        await copied(target, other)
    assert target.execute("SELECT count(*) FROM tasks") == before
    target.execute(f"DELETE FROM meta WHERE key = '{COPYING}'")
    with pytest.raises(StoreUnusable, match=r"is not empty \(99 in tasks\); nothing was changed"):
        await copied(source, target)
    target.execute(
        "DELETE FROM tasks; INSERT INTO meta (key, value) SELECT 'learned', value FROM meta WHERE key = 'secret_key'"
    )
    with pytest.raises(StoreUnusable, match=r"is not empty \(1 in meta\)"):
        await copied(source, target)


async def test_another_schema_is_refused(pair: tuple[Place, Place]) -> None:
    """A column that the copy does not know of would be lost."""
    source, target = pair
    source.execute("ALTER TABLE creates ADD COLUMN price integer")
    with pytest.raises(StoreUnusable, match=r"another schema than this version of the gateway \(creates: price\)"):
        await copied(source, target)
    source.execute("ALTER TABLE creates DROP COLUMN price")
    await copied(source, target)


async def test_two_copies_keep_out_of_each_others_way(pair: tuple[Place, Place], impatient: None) -> None:
    """What is written by one copy, no other may read or write; afterwards it is free at once."""
    source, target = pair
    for place in (source, target):
        side = place.side()
        await side.open_target()
        with pytest.raises(StoreUnusable, match="in use by"):
            await copied(source, target)
        await side.close()
    await copied(source, target)


async def test_a_gateways_file_is_refused(tmp_path: Path, impatient: None) -> None:
    """Whichever of the two it has; and it starts on none that is not wholly copied."""
    source, target, path = filled(tmp_path / "from.db"), in_file(tmp_path / "to.db"), tmp_path / "to.db"
    for used in (tmp_path / "from.db", path):
        store = SqliteStore(used)
        await store.open()
        with pytest.raises(StoreInUse, match="in use by another process"):
            await copied(source, target)
        await store.close()
    path.unlink()
    with pytest.raises(Stopped):
        await copied(source, target, ("Checking", 1))
    store = SqliteStore(path)
    with pytest.raises(StoreUnusable, match="unfinished copy of another"):
        await store.open()
    await store.close()
    await copied(source, target)
    await store.open()
    await store.close()


@pytest.mark.parametrize("used", ["leads", "callbacks"])
async def test_replicas_database_is_refused(postgres: Database, tmp_path: Path, used: str) -> None:
    """While a replica leads or lives, or has claimed a webhook; and what it writes meanwhile has to wait."""
    original = in_schema(postgres, "original")
    await copied(filled(tmp_path / "from.db"), original)
    until = "(SELECT gateway_now() + 25500)"
    original.execute(
        f"INSERT INTO leads VALUES ('replica:a', 'a', 1, {until})"
        if used == "leads"
        else f"UPDATE callbacks SET claimed_until = {until} WHERE state = 'pending'"
    )
    target = in_file(tmp_path / "to.db")
    with pytest.raises(StoreUnusable, match=r"is in use by a gateway.*Stop all its replicas.*free in 2\d s\."):
        await copied(original, target)
    original.execute("DELETE FROM leads; UPDATE callbacks SET claimed_until = gateway_now() - 1, fence = 3")
    side = original.side()
    await side.open_source()
    for table in (*TABLES, Table("leads", (), (), ())):
        with pytest.raises(AssertionError, match="lock timeout"):
            original.execute(f"SET lock_timeout = 10; DELETE FROM {table.name}")
    await side.close()
    await copied(original, target)
    back = in_schema(postgres, "back")
    await copied(target, back)
    assert back.execute("SELECT max(claimed_until), max(fence) FROM callbacks") == "0|0"


async def test_a_replicas_database(postgres: Database, tmp_path: Path) -> None:
    """A replica starts on no database that is not wholly copied, and is told of where one is to be copied from."""
    source, target = filled(tmp_path / "from.db"), in_schema(postgres, "copied")

    def replica() -> PostgresStore:
        return PostgresStore(Servers(schema_url(postgres, "copied")), replica="a", clock=SteeredClock(SystemClock()))

    with pytest.raises(Stopped):
        await copied(source, target, ("Checking", 1))
    with pytest.raises(StoreUnusable, match="unfinished copy of another"):
        await replica().open()
    await copied(source, target)
    store = replica()
    await store.open()
    assert await store.registry.count_callbacks() == dict.fromkeys(CallbackState, 1)
    await store.standing(30)
    for begin in ("open_source", "open_target"):
        side = target.side()
        with pytest.raises(StoreUnusable, match="in use by a gateway"):
            await getattr(side, begin)()
        await side.close()
    await store.close()


async def test_who_ends_soon_is_waited_for(postgres: Database, tmp_path: Path) -> None:
    """Somebody may hold a lock for a moment, as autovacuum does."""
    original = in_schema(postgres, "original")
    await copied(filled(tmp_path / "from.db"), original)
    other = await asyncpg.connect(schema_url(postgres, "original"))
    await other.execute("BEGIN; LOCK TABLE tasks IN SHARE UPDATE EXCLUSIVE MODE")
    copy = asyncio.create_task(copied(original, in_file(tmp_path / "to.db")))
    await until(lambda: other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))
    await other.execute("COMMIT")
    assert await copy == await original.digests()
    await other.close()


@pytest.mark.parametrize("pool", [pooler, pgbouncer])
async def test_behind_a_pooler(postgres: Database, tmp_path: Path, pool: Any) -> None:
    """Which hands out its servers by the transaction."""
    if postgres.server is None:
        pytest.skip("a pooler is put in front of the tests' own server only")
    source, back = filled(tmp_path / "from.db", 150), in_file(tmp_path / "to.db")
    try:
        async with pool(postgres.server) as url, asyncio.timeout(LIMIT_S):
            pooled = Place(lambda: PostgresCopySide(url), postgres.execute)
            assert await copied(source, pooled) == await copied(pooled, back) == await source.digests()
    except NotAvailable as exc:
        pytest.skip(str(exc))


async def test_what_is_no_source_is_refused(postgres: Database, tmp_path: Path) -> None:
    """A file that is not there is not made; one of another version is not touched."""
    target = in_file(tmp_path / "to.db")
    with pytest.raises(StoreUnusable, match=r"There is no file .*from\.db"):
        await copied(in_file(tmp_path / "from.db"), target)
    assert not (tmp_path / "from.db").exists()
    (tmp_path / "from.db").touch()
    for empty in (in_file(tmp_path / "from.db"), in_schema(postgres, "empty")):
        with pytest.raises(StoreUnusable, match=r"holds no gateway's data"):
            await copied(empty, target)
    source = filled(tmp_path / "from.db")
    for version, reason in ((1, "by an older version"), (99, "by a newer gateway")):
        source.execute(f"PRAGMA user_version = {version}")
        with pytest.raises(StoreUnusable, match=reason):
            await copied(source, target)
        assert source.execute("PRAGMA user_version") == str(version)
    for version in (0, 99):
        original = in_schema(postgres, "original")
        side = original.side()
        await side.open_target()
        await side.close()
        stored = f'{{"version": {version}, "compatible_with": 0}}'
        original.execute(f"UPDATE meta SET value = '{stored}' WHERE key = 'schema'")
        known = max(migrations())
        with pytest.raises(StoreUnusable, match=rf"schema of another version \({version}; this one's is {known}\)"):
            await copied(original, target)
    original = in_schema(postgres, "original")
    await copied(filled(tmp_path / "another.db"), original)
    original.execute("DELETE FROM meta WHERE key = 'secret_key'")
    with pytest.raises(StoreUnusable, match=r"holds no gateway's data"):
        await copied(original, target)
    side = PostgresCopySide(f"{postgres.url}{'&' if '?' in postgres.url else '?'}passfile=/nowhere/passwords")
    with pytest.raises(StoreUnusable, match=r"passfile=/nowhere/passwords: No such file"):
        await side.open_source()
    assert not (tmp_path / "to.db").exists()


async def test_a_text_that_postgresql_does_not_take_is_made_one(postgres: Database, tmp_path: Path) -> None:
    """As the store does it today: earlier gateways let a NUL pass, and named any number of a task's clients."""
    source = filled(tmp_path / "from.db")
    names = [f"client-{number:02}" for number in range(40)]
    watchers = f"UPDATE tasks SET watchers = '{','.join(names)}', next_poll_at = 1 WHERE seq = 1"
    source.execute(f"UPDATE tasks SET last_error = 'a' || char(0) || 'b'; {watchers}")
    target = in_schema(postgres, "copied")
    await copied(source, target)
    assert target.execute("SELECT last_error, watchers FROM tasks WHERE seq = 1") == f"a\ufffdb|{','.join(names[:32])}"
