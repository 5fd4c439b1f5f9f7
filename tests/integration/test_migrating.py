"""Databases of every earlier schema, opened by this gateway: brought up to date with all that is in them.

A migration that is added needs a file of rows beside the others in ``tests/fixtures/databases``, as its schema keeps
them; once released neither of the two changes any more.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.errors import StoreUnusable
from gateway.model import AttemptResult, CallbackState, NewCallback, TaskState
from gateway.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "gateway" / "store" / "migrations"
MIGRATIONS = sorted(FOLDER.glob("*.sql"))
FIXTURES = ROOT / "tests" / "fixtures" / "databases"
APPLICATION_ID = 0x57484757
AT = 1_777_460_000_000

VERSIONS = [int(migration.name[:4]) for migration in MIGRATIONS]
LAST = VERSIONS[-1]


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


async def nothing_is_missing(path: Path, version: int) -> None:
    """Open the database, hold what the API and the loops see against what was put in, and look at the file itself."""
    store = SqliteStore(path)
    await store.open()
    try:
        callbacks = await store.list_callbacks("ann", state=None, task_id=None, before_seq=None, limit=50)
        shown = {c.id: (c.state, c.task.task_id, c.url, c.metadata, c.timeout_s, c.attempts) for c in callbacks}
        assert shown == {
            "cb_cancelled": (CallbackState.CANCELLED, "task-cancelled", "https://d.example/5", b"{}", 3600, 0),
            "cb_dead": (CallbackState.DEAD, "task-success", "https://c.example/4", b"{}", 3600, 1),
            "cb_delivered": (CallbackState.DELIVERED, "task-success", "https://b.example/3", b"{}", 3600, 1),
            "cb_pending": (CallbackState.PENDING, "task-success", "https://a.example/2", b"{}", 3600, 2),
            "cb_waiting": (CallbackState.WAITING, "task-waiting", "https://a.example/1", b'{"n":1}', 3600, 0),
        }
        assert [*shown][::4] == ["cb_cancelled", "cb_waiting"]
        attempts = await store.list_attempts("ann", "cb_pending")
        assert attempts is not None
        assert [(a.number, a.result, a.status_code, a.excerpt) for a in attempts] == [
            (1, AttemptResult.INTERRUPTED, None, None),
            (2, AttemptResult.RETRY, 500, "oops"),
        ]
        task = await store.get_task("ann", "task-success")
        assert task is not None
        assert (task.state, task.settled_at) == (TaskState.SUCCESS, AT + 30_000)
        ((due,), _) = await store.claim_tasks("up", AT + 60_000, 9)
        assert (due.task_id, due.polls, due.failures, due.due_at) == ("task-waiting", 3, 1, AT + 11_000)
        ((owed,), _) = await store.claim_callbacks(AT + 200_000, 9)
        assert (owed.id, owed.body, owed.attempts, owed.budget_used) == ("cb_pending", b'{"n":2}', 2, 1)
        assert await store.durations("up") == [("m", 30_000)]
        assert await store.secret_key() == b"0123456789abcdef0123456789abcdef"
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
    monkeypatch.setattr("gateway.store.databasefile._MIGRATIONS", folder)
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
        (made,) = await store.register(
            [
                NewCallback(
                    id="cb_new",
                    client="ann",
                    upstream="up",
                    task_id="task-new",
                    url="https://a.example/1",
                    metadata=b"{}",
                    timeout_s=60,
                    created_at=AT,
                    first_poll_at=AT,
                )
            ]
        )
        assert (made.callback.seq, made.callback.task.seq) == (1006, 1004)
    finally:
        await store.close()


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
