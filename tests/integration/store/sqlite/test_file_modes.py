"""Every file of the store's is for its owner alone, whatever the umask: callback URLs hold tokens."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.core.errors import StoreUnusable
from gateway.store.sqlite import backupfile
from gateway.store.sqlite.store import SqliteStore
from tests.storing import new


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Take away the umask's help."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


def modes(folder: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


async def register(store: SqliteStore) -> None:
    await store.registry.register([new(url="https://app.example.com/hooks?token=secret")])


async def test_what_is_made_is_private(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database, its write-ahead log, a backup and what is to become one: all of them from their first byte on."""
    seen: list[dict[str, int]] = []
    check = backupfile.check

    async def noted(part: Path) -> None:
        seen.append(modes(path.parent))
        await check(part)

    monkeypatch.setattr(backupfile, "check", noted)
    store = SqliteStore(path)
    await store.open()
    await register(store)
    await store.backup(path.with_name("gateway.db.backup"))
    seen.append(modes(path.parent))
    await store.close()
    beside = {"gateway.db": 0o600, "gateway.db-wal": 0o600}
    assert seen == [beside | {"gateway.db.backup.part": 0o600}, beside | {"gateway.db.backup": 0o600}]


async def test_what_an_older_gateway_made_becomes_private(path: Path) -> None:
    """A database and the log of one that was killed are tightened at the start, and it is said."""
    store = SqliteStore(path)
    await store.open()
    await register(store)
    copies = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    await store.close()
    for name, content in copies.items():
        file = path.with_name(name)
        await asyncio.to_thread(file.write_bytes, content)
        await asyncio.to_thread(file.chmod, 0o664)
    with capture_logs() as lines:
        again = SqliteStore(path)
        await again.open()
        assert modes(path.parent) == {"gateway.db": 0o600, "gateway.db-wal": 0o600}
        assert await again.registry.count_callbacks() == {"waiting": 1}
        await again.close()
    said = [(line["event"], Path(line["path"]).name, line["mode"]) for line in lines]
    assert said == [("file.made_private", "gateway.db", "0664"), ("file.made_private", "gateway.db-wal", "0664")]


async def test_a_database_behind_a_link(tmp_path: Path) -> None:
    """The log stands beside the file that the link leads to: both are private there."""
    real = tmp_path / "volume"
    await asyncio.to_thread(real.mkdir)
    link = tmp_path / "gateway.db"
    await asyncio.to_thread(link.symlink_to, real / "data.db")
    store = SqliteStore(link)
    await store.open()
    await register(store)
    assert modes(real) == {"data.db": 0o600, "data.db-wal": 0o600}
    await store.close()


async def test_another_programs_file_is_not_touched(path: Path) -> None:
    """What is refused keeps its mode too."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    await asyncio.to_thread(path.chmod, 0o664)
    with pytest.raises(StoreUnusable, match="another program"):
        await SqliteStore(path).open()
    assert modes(path.parent) == {"gateway.db": 0o664}
