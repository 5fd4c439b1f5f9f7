"""A look at a database before the start says what the start says, changes nothing, and disturbs nobody who has it."""

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from gateway.core.errors import StoreUnusable
from gateway.store.sqlite import databasefile
from gateway.store.sqlite.store import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "gateway.db"


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    path.parent.mkdir(exist_ok=True)
    store = SqliteStore(path)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def said_at_the_start(path: Path) -> str:
    store = SqliteStore(path)
    with pytest.raises(StoreUnusable) as caught:
        await store.open()
    await store.close()
    return caught.value.message


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() if file.is_file() else b"" for file in folder.iterdir()}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.iterdir()}


def changed(*statements: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for statement in statements:
                db.execute(statement)

    return change


def overwritten(at: int) -> Callable[[Path], None]:
    def overwrite(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[:at] + b"\xff" * 64 + content[at + 64 :])

    return overwrite


async def killed(path: Path, *statements: str) -> Path:
    """Return a database as a kill leaves it, its last writes beside it."""
    copy = path.parent / "killed" / path.name
    async with opened(path) as store:
        copy.parent.mkdir()
        await store._database.read("PRAGMA wal_checkpoint(TRUNCATE)")
        for statement in statements:
            await store._database.read(statement)
        for file in path.parent.glob("gateway.db*"):
            shutil.copy(file, copy.parent)
    assert databasefile.was_not_closed(copy)
    return copy


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (changed("PRAGMA user_version = 999"), "newer gateway (schema 999"),
        (changed("PRAGMA application_id = 7"), "of another program"),
        (overwritten(0), "is not an SQLite database"),
        (overwritten(100), "is damaged"),
        (lambda path: path.write_text("Dear diary, " * 1000), "is not an SQLite database"),
    ],
)
async def test_what_is_refused(path: Path, spoil: Callable[[Path], object], expected: str) -> None:
    """In the words of the start, and the file and its folder stay as they were."""
    async with opened(path):
        pass
    spoil(path)
    before = files(path.parent)
    found = databasefile.unusable(path)
    assert found is not None
    assert expected in found
    assert found == await said_at_the_start(path)
    assert files(path.parent) == before


async def test_what_a_killed_process_left_counts(path: Path) -> None:
    """Its last writes stand beside the file: a newer schema there is seen, and nothing more is left there."""
    copy = await killed(path, "PRAGMA user_version = 999")
    before = files(copy.parent)
    assert databasefile.unusable(copy) == await said_at_the_start(copy)
    assert files(copy.parent) == before


@pytest.mark.parametrize("content", [None, b""])
def test_a_new_database(path: Path, content: bytes | None) -> None:
    """None yet, or an empty file: nothing is wrong, and none is made."""
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    before = files(path.parent)
    assert databasefile.unusable(path) is None
    assert files(path.parent) == before


async def test_an_older_schema_is_no_mistake(path: Path) -> None:
    """The start brings it up to date."""
    async with opened(path):
        pass
    changed("PRAGMA user_version = 0")(path)
    assert databasefile.unusable(path) is None


async def test_an_old_sqlite_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no file yet."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 37, 2))
    assert databasefile.unusable(path) == await said_at_the_start(path)


@pytest.mark.parametrize("truncated", [False, True])
async def test_the_process_that_has_it_keeps_it(path: Path, truncated: bool) -> None:
    """Nothing is said of a file in use, and a look by the gateway's own process leaves its lock where it is."""
    async with opened(path) as store:
        if truncated:
            await store._database.read("PRAGMA wal_checkpoint(TRUNCATE)")
        assert databasefile.was_not_closed(path) is not truncated
        before = stamps(path.parent)  # reading the files here would take the lock away, as no look must
        assert databasefile.unusable(path) is None
        databasefile.count_callbacks(path)
        assert stamps(path.parent) == before
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM tasks')"
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", script, path, stderr=asyncio.subprocess.PIPE)
        assert b"database is locked" in (await other.communicate())[1]


async def test_what_changes_under_the_look_is_not_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that opens the file meanwhile writes it without waiting: what the look met may mean nothing."""
    async with opened(path):
        pass
    overwritten(100)(path)
    explain = databasefile.explain

    def open_meanwhile(error: sqlite3.Error, at: Path) -> str:
        databasefile.beside(at, "-wal").write_bytes(b"begun")
        return explain(error, at)

    monkeypatch.setattr(databasefile, "explain", open_meanwhile)
    assert databasefile.unusable(path) is None


async def test_behind_a_link(path: Path, tmp_path: Path) -> None:
    """What a killed process left stands beside the file that the link leads to."""
    copy = await killed(path, "PRAGMA user_version = 999")
    link = tmp_path / "gateway.db"
    link.symlink_to(copy)
    assert databasefile.unusable(link) == await said_at_the_start(link)
    assert files(tmp_path).keys() == {"data", "gateway.db"}


async def test_its_schema_is_told(path: Path) -> None:
    """Of a file that is not there, or empty, it is 0; of one that another process has it cannot be told."""
    known = databasefile.newest()
    assert databasefile.schema(path) == 0
    async with opened(path):
        assert databasefile.schema(path) is None
    assert databasefile.schema(path) == known
    before = files(path.parent)
    for version in (known - 1, known + 1):
        changed(f"PRAGMA user_version = {version}")(path)
        if version < known:
            assert databasefile.schema(path) == version
        else:
            with pytest.raises(StoreUnusable, match="by a newer gateway"):
                databasefile.schema(path)
    assert files(path.parent).keys() == before.keys()
