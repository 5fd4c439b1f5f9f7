"""Databases of every earlier schema, opened by this gateway: brought up to date with all that is in them.

A migration that is added needs a file of rows beside the others in ``tests/fixtures/databases``, as its schema keeps
them; once released neither of the two changes any more. ``made-by-*.sql`` are whole databases, as the code of earlier
commits left them: all of one history, so that all must come to the same.
"""

import json
import re
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import pytest
from msgspec.structs import replace

from gateway.core.creates import CreateAnswer, KnownCreate, NewCreate
from gateway.core.errors import StoreUnusable
from gateway.core.model import AttemptResult, CallbackState, TaskState
from gateway.core.pollhistory import PastPoll, Why
from gateway.store.sqlite.store import SqliteStore
from gateway.upstream.durations import of_model
from gateway.upstream.learned import Learned
from gateway.webhook.body import webhook_body
from tests.claims import claim_tasks
from tests.lanes import claim_webhooks
from tests.storing import new

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "gateway" / "store" / "sqlite" / "migrations"
MIGRATIONS = sorted(FOLDER.glob("*.sql"))
FIXTURES = ROOT / "tests" / "fixtures" / "databases"
APPLICATION_ID = 0x57484757
AT = 1_777_460_000_000

VERSIONS = [int(migration.name[:4]) for migration in MIGRATIONS]
LAST = VERSIONS[-1]

# Schema 3 as it was: what it was on the way to 4 only. Its step from 1 to 2 was no more than the number.
LANES = """
DROP INDEX callbacks_due;
CREATE INDEX callbacks_due ON callbacks (client, receiver, next_attempt_at, budget_used) WHERE state = 'pending';
CREATE INDEX callbacks_waiting ON callbacks (task_seq) WHERE state = 'waiting';
PRAGMA user_version = 3;
"""
MADE_BY = {
    "b319fdb (schema 1)": ("b319fdb", ""),
    "57947dc (schema 4)": ("57947dc", ""),
    "57947dc, killed at 2": ("b319fdb", "PRAGMA user_version = 2"),
    "57947dc, killed at 3": ("b319fdb", LANES),
    "6a8eabf (schema 2)": ("6a8eabf", ""),
}
made_by = pytest.mark.parametrize(("commit", "further"), MADE_BY.values(), ids=MADE_BY)

T = TypeVar("T")
Rows = dict[str, list[dict[str, object]]]


def database(path: Path, version: int) -> Path:
    """Make a database as the gateway of that schema left it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        for migration in MIGRATIONS[: VERSIONS.index(version) + 1]:
            db.executescript(migration.read_text("utf-8"))
        db.executescript((FIXTURES / f"{version:04}.sql").read_text("utf-8"))
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {version}")
    return path


def landed(path: Path, commit: str, further: str = "") -> Path:
    """Make a database as the commit's gateway left it, and what was done to it after that."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript((FIXTURES / f"made-by-{commit}.sql").read_text("utf-8"))
        db.executescript(further)
    return path


def rows(path: Path) -> Rows:
    """Return what each table holds, with the columns' names, but for whom a task is polled for and what came later.

    How long tasks took, once rows and then a value of ``meta``, is told as a table of its own.
    """
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        whole = {table: [dict(row) for row in db.execute(f"SELECT * FROM {table} ORDER BY 1, 2")] for table in tables}
    found = {table: its for table, its in whole.items() if its}
    for task in found["tasks"]:
        task.pop("watchers", None)
        assert {task.pop(name, None) for name in ("record", "read_until", "told_at", "denied_at", "poll_log")} == {None}
    for callback in found["callbacks"]:
        assert (callback.pop("format", "standard"), callback.pop("trace", None)) == ("standard", None)
    took: list[tuple[object, ...]] = [
        (row["upstream"], row["model"], row["duration_ms"])
        for row in sorted(found.pop("durations", []), key=lambda row: str(row["seq"]))
        if row["model"]
    ]
    for row in [row for row in found["meta"] if str(row["key"]).startswith("durations:")]:
        found["meta"].remove(row)
        of_models = json.loads(cast("bytes", row["value"]))["durations_ms"]
        took += [(str(row["key"])[10:], model, each) for model, all_ms in of_models.items() for each in all_ms]
    return found | {"durations": [{"took": one} for one in sorted(took, key=str)]}


def schema(path: Path) -> set[tuple[str, str, str]]:
    """Return each object's kind, name and statement, without the comments in it: one was edited after it had landed."""
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
    return {(kind, name, re.sub(r"--[^\n]*", "", statement or "")) for kind, name, statement in found}


def stored_webhooks() -> dict[str, bytes]:
    """Return the bytes of each webhook that is owed, as the first commit stored them: receivers may know them."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript((FIXTURES / "made-by-b319fdb.sql").read_text("utf-8"))
        return dict(db.execute("SELECT id, body FROM callbacks WHERE state = 'pending'"))


async def opened(path: Path, look: Callable[[SqliteStore], Awaitable[T]]) -> T:
    """Open the database as a gateway does, and close it again; return what was found in it."""
    store = SqliteStore(path)
    try:
        await store.open()
        return await look(store)
    finally:
        await store.close()


async def webhooks(store: SqliteStore) -> dict[str, bytes]:
    """Return the bytes of each webhook that is owed, as they would be sent."""
    owed, _ = await claim_webhooks(store, AT + 10_000_000, 100)
    return {claim.id: webhook_body(claim.id, await store.outbox.body(claim) or b"") for claim in owed}


async def polled(store: SqliteStore) -> set[tuple[str, str, int]]:
    """Return which tasks would be polled, for whom and when."""
    due = [task for upstream in ("up", "other") for task in (await claim_tasks(store, upstream, AT + 10_000_000, 9))[0]]
    return {(task.task_id, task.watchers, task.due_at - AT) for task in due}


async def nothing_is_missing(path: Path, version: int) -> None:
    """Open the database, hold what the API and the loops see against what was put in, and look at the file itself."""
    store = SqliteStore(path)
    await store.open()
    try:
        callbacks = await store.registry.list_callbacks("ann", state=None, task_id=None, before_seq=None, limit=50)
        shown = {c.id: (c.state, c.task.task_id, c.url, c.metadata, c.timeout_s, c.attempts) for c in callbacks}
        assert shown == {
            "cb_cancelled": (CallbackState.CANCELLED, "task-cancelled", "https://d.example/5", b"{}", 3600, 0),
            "cb_dead": (CallbackState.DEAD, "task-success", "https://c.example/4", b"{}", 3600, 1),
            "cb_delivered": (CallbackState.DELIVERED, "task-success", "https://b.example/3", b"{}", 3600, 1),
            "cb_pending": (CallbackState.PENDING, "task-success", "https://a.example/2", b"{}", 3600, 2),
            "cb_waiting": (CallbackState.WAITING, "task-waiting", "https://a.example/1", b'{"n":1}', 3600, 0),
        }
        assert [*shown][::4] == ["cb_cancelled", "cb_waiting"]
        attempts = await store.registry.list_attempts("ann", "cb_pending")
        assert attempts is not None
        assert [(a.number, a.result, a.status_code, a.excerpt) for a in attempts] == [
            (1, AttemptResult.INTERRUPTED, None, None),
            (2, AttemptResult.RETRY, 500, "oops"),
        ]
        task = await store.registry.get_task("ann", "task-success")
        assert task is not None
        assert (task.state, task.settled_at) == (TaskState.SUCCESS, AT + 30_000)
        ((due,), _) = await claim_tasks(store, "up", AT + 60_000, 9)
        assert (due.task_id, due.polls, due.failures, due.due_at) == ("task-waiting", 3, 1, AT + 11_000)
        ((owed,), _) = await claim_webhooks(store, AT + 200_000, 9)
        assert (owed.id, owed.body, owed.attempts, owed.budget_used) == ("cb_pending", b'{"n":2}', 2, 1)
        learned = Learned(partial(store.load, "durations:up"), partial(store.swap, "durations:up"))
        await learned.restore()
        assert (learned.durations.known(of_model("m")), learned.durations.known(of_model("other"))) == (1, 0)
        assert learned.durations.distribution(of_model("m"), 0.0).survival_at(31) < 0.5
        assert await store.registry.secret_key() == b"0123456789abcdef0123456789abcdef"
    finally:
        await store.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchall() == [(version,)]
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


def further_migration(path: Path) -> str:
    """Return a migration as one may come: a column more, and the table of callbacks made anew."""
    with closing(sqlite3.connect(path)) as db:
        ((table,),) = db.execute("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = 'callbacks'")
        of_it = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'callbacks' AND sql IS NOT NULL"
        indexes = [sql for (sql,) in db.execute(of_it)]
    assert table.startswith('CREATE TABLE "callbacks" (')
    assert indexes
    statements = [
        "ALTER TABLE tasks ADD COLUMN note TEXT",
        table.replace("callbacks", "callbacks_new", 1),
        "INSERT INTO callbacks_new SELECT * FROM callbacks",
        "DROP TABLE callbacks",
        "ALTER TABLE callbacks_new RENAME TO callbacks",
        *indexes,
    ]
    return ";\n".join([*statements, ""])


@pytest.fixture
def migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of migrations in the place of the gateway's own, which are in it."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for migration in MIGRATIONS:
        (folder / migration.name).write_bytes(migration.read_bytes())
    monkeypatch.setattr("gateway.store.sqlite.databasefile._MIGRATIONS", folder)
    return folder


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_earlier_schema_is_brought_up_to_date(version: int, tmp_path: Path) -> None:
    """From each schema on: every callback, attempt, task and duration is as it was, and what is due is due."""
    path = database(tmp_path / "gateway.db", version)
    await nothing_is_missing(path, LAST)
    await nothing_is_missing(path, LAST)


@pytest.mark.parametrize("version", VERSIONS)
async def test_no_number_is_given_twice(version: int, tmp_path: Path) -> None:
    """A table that is made anew goes on counting behind rows that are gone: a claim or a cursor may name them."""
    path = database(tmp_path / "gateway.db", version)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE sqlite_sequence SET seq = seq + 1000")
    store = SqliteStore(path)
    await store.open()
    try:
        (made,) = await store.registry.register([new("task-new", at=AT)])
        assert (made.callback.seq, made.callback.task.seq) == (1006, 1004)
    finally:
        await store.close()


@pytest.mark.parametrize("version", [version for version in VERSIONS if version >= 9])
async def test_creates_are_as_they_were(version: int, tmp_path: Path) -> None:
    """What was answered is given again, and what was not is still known to have been forwarded."""
    path = database(tmp_path / "gateway.db", version)
    create = NewCreate(client="ann", upstream="up", request_id="r-1", digest=b"", at=AT)

    async def known(store: SqliteStore) -> list[KnownCreate | None]:
        named = [replace(create, request_id=name) for name in ("r-1", "r-2", "r-3")]
        return [await store.registry.known_create(one) for one in named]

    body = b'{"data":{"taskId":"task-waiting"}}'
    answer = CreateAnswer(status=200, content_type="application/json", task_id="task-waiting", body=body)
    assert await opened(path, known) == [
        KnownCreate(digest=b"\x01\x02", at=AT, lost_at=None, answer=answer),
        KnownCreate(digest=b"\x03\x04", at=AT, lost_at=None if version < 10 else AT + 2000, answer=None),
        None,
    ]


@pytest.mark.parametrize("version", [version for version in VERSIONS if version >= 11])
async def test_polls_are_as_they_were(version: int, tmp_path: Path) -> None:
    """With what came, and why the next one was to be when."""

    async def polls(store: SqliteStore) -> list[PastPoll]:
        callback = await store.registry.get_callback("ann", "cb_waiting")
        assert callback is not None
        return await store.registry.polls(callback.task)

    assert await opened(database(tmp_path / "gateway.db", version), polls) == [
        PastPoll(0, "registered", 5000, Why.FIRST, 1),
        PastPoll(5000, "running", 4000, Why.EXPLORING, 0),
        PastPoll(9000, "broken", 2000, Why.BACKOFF, 0),
    ]


@pytest.mark.parametrize("version", [version for version in VERSIONS if version >= 12])
async def test_traces_are_as_they_were(version: int, tmp_path: Path) -> None:
    """An attempt after the upgrade is a part of the trace that its registration was a part of."""

    async def trace(store: SqliteStore) -> str | None:
        ((owed,), _) = await claim_webhooks(store, AT + 200_000, 9)
        return owed.trace

    kept = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    assert await opened(database(tmp_path / "gateway.db", version), trace) == kept


@made_by
async def test_what_a_landed_commit_made_is_brought_up_to_date(commit: str, further: str, tmp_path: Path) -> None:
    """Each row of each table is as it was, what is owed and what is polled too, and the schema is a new file's."""
    path = landed(tmp_path / "gateway.db", commit, further)
    before = rows(path)
    assert {callback["state"] for callback in before["callbacks"]} == set(CallbackState)
    for _ in range(2):
        assert await opened(path, polled) == {
            ("t-waiting", "ann,bob", 14_000),
            ("t-again", "ann", 7_000),
            ("t-other", "ann", 5_000),
            ("t-new", "cid", 105_000),
        }
        assert rows(path) == before
        assert await opened(path, webhooks) == stored_webhooks()
    await opened(tmp_path / "new.db", polled)
    assert schema(path) == schema(tmp_path / "new.db")
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchall() == [(LAST,)]
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


@made_by
@pytest.mark.parametrize("table", ["tasks", "callbacks", "attempts"])
async def test_a_kill_amid_the_migration_leaves_it_to_the_next_start(
    commit: str, further: str, table: str, tmp_path: Path
) -> None:
    """With half of its work in the log beside the file: none of that counts."""
    path = landed(tmp_path / "gateway.db", commit, further)
    before, schema_before = rows(path), schema(path)
    script = MIGRATIONS[VERSIONS.index(5)].read_text("utf-8")
    done, _, _ = script.partition(f"ALTER TABLE new_{table} RENAME")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 1")  # pages go into the log long before the commit
        db.executescript(f"BEGIN IMMEDIATE;\n{done}")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", tmp_path / f"killed.db{suffix}")
            shutil.copyfile(f"{path}{suffix}", tmp_path / f"look.db{suffix}")
    killed, look = tmp_path / "killed.db", tmp_path / "look.db"
    assert (tmp_path / "killed.db-wal").stat().st_size > 0
    assert (rows(look), schema(look)) == (before, schema_before)
    assert await opened(killed, webhooks) == stored_webhooks()
    assert rows(killed) == before


async def test_a_further_migration_keeps_everything(tmp_path: Path, migrations: Path) -> None:
    """One that makes a table anew takes nothing with it that refers to the table's rows."""
    path = database(tmp_path / "gateway.db", LAST)
    (migrations / f"{LAST + 1:04}_further.sql").write_text(further_migration(path))
    await nothing_is_missing(path, LAST + 1)


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, migrations: Path) -> None:
    """The start is refused, the file stays at the schema it had, and opens again with the gateway that made it."""
    path = database(tmp_path / "gateway.db", LAST)
    further = migrations / f"{LAST + 1:04}_further.sql"
    further.write_text("ALTER TABLE tasks ADD COLUMN note TEXT;\nUPDATE absent SET x = 1;")
    store = SqliteStore(path)
    with pytest.raises(StoreUnusable, match="no such table: absent"):
        await store.open()
    await store.close()
    further.unlink()
    with closing(sqlite3.connect(path)) as db:
        assert "note" not in [row[1] for row in db.execute("PRAGMA table_info(tasks)")]
    await nothing_is_missing(path, LAST)
