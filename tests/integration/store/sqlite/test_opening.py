"""Which files SQLite's store opens, and which it refuses without changing a byte of them."""

import asyncio
import ctypes
import os
import re
import resource
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.core.errors import StoreInUse
from gateway.store.sqlite import databasefile
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.store import SqliteStore
from tests.claims import claim_tasks
from tests.sqlitefile import damage, files, killed_copy, new, opened, overwrite, unusable
from tests.storing import NOW


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's lock is not waited for."""
    monkeypatch.setattr("gateway.store.sqlite.database._LOCK_WAIT_S", 0.01)


async def test_a_second_store_is_refused(store: SqliteStore, path: Path, impatient: None) -> None:
    """Two gateways on one file: the second one says so, the first one goes on."""
    assert "in use by another process, perhaps a second gateway" in await unusable(path)
    await store.registry.register([new()])


async def test_a_second_process_is_kept_out(store: SqliteStore, path: Path) -> None:
    """Nobody can even read the file beside a running gateway."""
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM tasks')"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, path, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode != 0
    assert b"database is locked" in errors


async def test_a_file_that_another_process_holds_is_refused(path: Path, impatient: None) -> None:
    """As above, the other way round: whoever was first keeps it, and it opens once they are gone."""
    async with opened(path):
        pass
    script = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('BEGIN EXCLUSIVE');"
        "print('held', flush=True); sys.stdin.read()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, path, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        with pytest.raises(StoreInUse, match="in use by another process"):
            await SqliteStore(path).open()
    finally:
        await process.communicate(b"")
    async with opened(path):
        pass


async def test_a_newer_schema_is_refused_untouched(path: Path) -> None:
    """A downgrade says which schema it met, and leaves every byte as it was."""
    async with opened(path):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    before = files(path.parent)
    message = await unusable(path)
    assert f"newer gateway (schema 99, this one knows {databasefile.newest()})" in message
    assert files(path.parent) == before


async def test_a_newer_schema_that_was_killed_is_refused_untouched(path: Path) -> None:
    """Neither is what a killed process wrote last put into the file, nor is a file of our own left beside it."""
    copy = await killed_copy(path, "PRAGMA user_version = 99")
    before = files(copy.parent)
    assert "newer gateway" in await unusable(copy)
    assert files(copy.parent) == before


@pytest.mark.parametrize("made", ["CREATE TABLE theirs (x)", "PRAGMA user_version = 7", "PRAGMA application_id = 7"])
async def test_another_programs_database_is_refused_untouched(path: Path, made: str) -> None:
    """A mistyped path must not put our tables, or our journal mode, into somebody's file."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(made)
        db.commit()
    before = files(path.parent)
    assert "database of another program" in await unusable(path)
    assert files(path.parent) == before


async def test_a_file_that_is_no_database_is_refused_untouched(path: Path) -> None:
    """The same for a file of any other kind."""
    overwrite(path, b"Dear diary, " * 1000)
    before = files(path.parent)
    assert "is not an SQLite database" in await unusable(path)
    assert files(path.parent) == before


@pytest.mark.parametrize(("at", "said"), [(0, "is not an SQLite database"), (100, "is damaged")])
async def test_a_damaged_file_is_refused(path: Path, at: int, said: str) -> None:
    """In the header it is no database any more, behind it a damaged one; neither is repaired or replaced."""
    async with opened(path):
        pass
    content = files(path.parent)[path.name]
    overwrite(path, content[:at] + b"\xff" * 64 + content[at + 64 :])
    before = files(path.parent)
    assert said in await unusable(path)
    assert files(path.parent) == before


@pytest.mark.parametrize("table", ["tasks", "callbacks", "callbacks_due", "attempts"])
@pytest.mark.parametrize("killed", [False, True])
async def test_a_damaged_page_within_is_refused(path: Path, table: str, killed: bool) -> None:
    """Not only where the first statement looks: the whole file is checked, and not a byte of it is changed."""
    copy = await killed_copy(path)
    if not killed:
        async with opened(copy):
            pass
    damage(copy, table)
    before = files(copy.parent)
    message = await unusable(copy)
    assert "is damaged" in message
    assert "Restore a backup" in message
    assert files(copy.parent) == before


async def test_an_old_sqlite_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python built against an old system library gets a sentence, not a syntax error."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 37, 2))
    assert "needs 3.38 or newer" in await unusable(path)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 38, 0))
    async with opened(path):
        pass


async def test_an_empty_file_is_a_new_database(path: Path) -> None:
    """Such as ``touch`` or an upload tool leaves behind."""
    overwrite(path, b"")
    async with opened(path) as store:
        await store.registry.register([new()])


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """Nothing is created on the way to a mistyped path."""
    message = await unusable(tmp_path / "missing" / "gateway.db")
    assert "create its folder" in message
    assert str(tmp_path / "missing") in message
    assert not (tmp_path / "missing").exists()


async def test_a_folder_in_the_files_place_is_refused(tmp_path: Path) -> None:
    """A volume mounted one level too deep."""
    assert "cannot be opened" in await unusable(tmp_path)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Take away every right to write the file and its folder, root's too."""
    if os.geteuid() == 0 and not sys.platform.startswith("linux"):
        pytest.skip("root may write every file, and only Linux can give that up for a while")
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        if os.geteuid() == 0:
            ctypes.CDLL(None).setfsuid(65534)  # of this thread, and of those it starts
        yield
    finally:
        if os.geteuid() == 0:
            ctypes.CDLL(None).setfsuid(0)
        path.parent.chmod(0o755)


async def test_a_file_that_may_not_be_written_is_refused() -> None:
    """Read-only: said at the start, not at the first registration."""
    # Not in tmp_path: the folders above that are closed to others.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.db"
        async with opened(path):
            pass
        with read_only(path):
            assert re.search("cannot be (written|opened)", await unusable(path))


async def test_a_first_look_that_fails_refuses_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that cannot be read is no reason to go on as if it could; only a full one is."""
    copy = await killed_copy(path)
    failure = sqlite3.OperationalError("disk I/O error")
    failure.sqlite_errorname = "SQLITE_IOERR_READ"
    inspect = Database._inspect
    failures = [failure]

    async def once(database: Database) -> int:
        if failures:
            raise failures.pop()
        return await inspect(database)

    monkeypatch.setattr(Database, "_inspect", once)
    assert "disk I/O error" in await unusable(copy)


async def test_a_killed_process_is_followed_on_a_full_disk(path: Path) -> None:
    """No file can grow, not even by what a first look at another process's last writes takes: it opens all the same."""
    copy = await killed_copy(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, limits[1]))
    try:
        async with opened(copy) as store:
            assert len((await claim_tasks(store, "up", NOW, 500))[0]) == 201
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
