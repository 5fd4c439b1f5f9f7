"""Copies of SQLite's file while it is written into: whole, given up in time, and never in the last one's place."""

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.core.errors import StoreError
from gateway.store.sqlite import backupfile
from gateway.store.sqlite.store import SqliteStore
from tests.sqlitefile import damage, files, new, opened
from tests.storing import LIMIT_S, NOW
from tests.waiting import until


def ids(path: Path) -> set[str]:
    """Return the callbacks of a database, which must be whole."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        return {callback_id for (callback_id,) in db.execute("SELECT id FROM callbacks")}


@pytest.fixture
def page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backups give way as often as they can."""
    monkeypatch.setattr("gateway.store.sqlite.database._BACKUP_PAGES", 1)


async def test_writes_go_on_during_a_backup(
    store: SqliteStore, path: Path, page_by_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have their turns between its pages, and it ends all the same; what it holds is whole, and opens."""
    copied: list[int] = []
    check = backupfile.check

    async def noted(part: Path) -> None:
        copied.append(len(during))
        await check(part)

    monkeypatch.setattr(backupfile, "check", noted)
    before = [new() for _ in range(500)]
    await store.registry.register(before)
    target = path.with_name("gateway.db.backup")
    backup = asyncio.create_task(store.backup(target))
    during: list[str] = []
    while not backup.done():
        (made,) = await store.registry.register([new()])
        during.append(made.callback.id)
        await store.registry.cancel("ann", before[len(during)].id, NOW)
    size = await backup
    assert len(during) > 20
    found = ids(target)
    assert {callback.id for callback in before} <= found
    # What was asked for after the last page, before that was told, may be missing.
    assert set(during[: copied[0] - 5]) <= found
    assert size == target.stat().st_size
    async with opened(target) as restored:
        for callback in before:
            assert await restored.registry.get_callback("ann", callback.id) is not None


async def test_a_backup_is_put_on_disk_as_it_goes(
    store: SqliteStore, path: Path, page_by_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that little is left for the end, which cannot be given up."""
    monkeypatch.setattr("gateway.store.sqlite.database._BACKUP_SYNC", 4)
    await store.registry.register([new() for _ in range(100)])
    synced: list[int] = []
    fsync = os.fsync

    def noted(number: int) -> None:
        synced.append(os.fstat(number).st_size)
        fsync(number)

    monkeypatch.setattr(os, "fsync", noted)
    size = await store.backup(path.with_name("gateway.db.backup"))
    *parts, whole, _folder = synced
    assert whole == size
    assert len(parts) >= size // 4096 // 4 - 1
    assert parts[0] < size // 2


async def test_a_write_that_is_rolled_back_is_not_in_a_backup(
    store: SqliteStore, path: Path, page_by_page: None
) -> None:
    """Not even one that was so large that the database had begun to write it down."""
    await store.registry.register([new() for _ in range(100)])
    await store._database.read("PRAGMA cache_size = 10")
    target = path.with_name("gateway.db.backup")
    backup = asyncio.create_task(store.backup(target))
    big = b'{"a":"' + b"x" * 8000 + b'"}'
    for _ in range(3):
        with pytest.raises(StoreError):
            await store.registry.register([*(new(metadata=big) for _ in range(50)), new(metadata="text")])
        assert not backup.done()
    await backup
    assert len(ids(target)) == 100


async def test_a_backup_that_is_given_up_leaves_the_last_one(
    store: SqliteStore, path: Path, page_by_page: None
) -> None:
    """Whenever that is: the file is the old one, there is none beside it, and the store goes on."""
    target = path.with_name("gateway.db.backup")
    await store.registry.register([new() for _ in range(2000)])
    await store.backup(target)
    last = files(path.parent)[target.name]
    assert len(last) > 100 * 4096
    for turns in (1, 5, 20):
        backup = asyncio.create_task(store.backup(target))
        for _ in range(turns):
            await store.registry.register([new()])
        backup.cancel()
        further = 0
        while not backup.done():
            await store.registry.register([new()])
            further += 1
        assert backup.cancelled()
        assert further < 50  # it does not copy the rest first
        await store.registry.register([new()])
    found = files(path.parent)
    assert found[target.name] == last
    assert set(found) == {"gateway.db", "gateway.db-wal", "gateway.db.backup"}


async def test_a_backup_is_given_up_while_it_is_checked(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the check of a large file would go on: a shutdown does not wait for it."""
    long = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000000) SELECT max(i) FROM n, sqlite_schema"
    monkeypatch.setattr("gateway.store.sqlite.databasefile.QUICK_CHECK", long)
    backup = asyncio.create_task(store.backup(path.with_name("gateway.db.backup")))
    await until(path.with_name("gateway.db.backup.part-shm").exists)  # it is being read by then
    backup.cancel()
    await asyncio.wait((backup,), timeout=LIMIT_S)
    assert backup.cancelled()
    assert set(files(path.parent)) == {"gateway.db", "gateway.db-wal"}
    await store.registry.register([new()])


async def test_closing_ends_a_backup(path: Path, page_by_page: None) -> None:
    """It does not hold up the shutdown, nor use a connection that is gone."""
    store = SqliteStore(path)
    await store.open()
    await store.registry.register([new() for _ in range(200)])
    backup = asyncio.create_task(store.backup(path.with_name("gateway.db.backup")))
    await store.registry.register([new()])
    await store.close()
    with pytest.raises(StoreError, match="shutting down"):
        await backup
    assert set(files(path.parent)) == {"gateway.db"}


async def test_a_backup_that_fails_leaves_the_last_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that cannot be written, and a database that is damaged: said, and nothing is replaced."""
    monkeypatch.setattr("gateway.store.sqlite.database._CHECKED_BYTES", 0)
    target = path.with_name("gateway.db.backup")
    async with opened(path) as store:
        with pytest.raises(StoreError, match="could not be copied"):
            await store.backup(path.parent / "missing" / "gateway.db.backup")
        await store.registry.register([new()])
        await store.backup(target)
    last = files(path.parent)
    damage(path, "attempts")
    async with opened(path) as store:
        with pytest.raises(StoreError, match="damaged"):
            await store.backup(target)
        await store.registry.register([new()])
    assert set(files(path.parent)) == set(last)
    assert files(path.parent)[target.name] == last[target.name]
