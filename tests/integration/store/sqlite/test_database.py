"""SQLite's connection: what is on disk, what is read of it, and how its failures are told."""

import asyncio
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from gateway.core.claims import Share
from gateway.core.errors import StoreError
from gateway.core.model import Outcome, Settlement, TaskState
from gateway.store.sqlite.engine import drive
from gateway.store.sqlite.store import SqliteStore
from tests.claims import claim_tasks
from tests.lanes import claim_webhooks, lane
from tests.sqlitefile import connection, damage, killed_copy, new, opened
from tests.storing import LIMIT_S, NOW


async def test_a_closed_store_says_so(path: Path) -> None:
    """Before the start and after the end every call is a StoreError, never a hang or a driver's error."""
    store = SqliteStore(path)
    for _ in range(2):
        with pytest.raises(StoreError, match="closed"):
            await store.registry.backlog()
        with pytest.raises(StoreError, match="closed"):
            await store.outbox.claim(lambda _: [Share(lane("app"), 1, True)], NOW)
        with pytest.raises(StoreError, match="closed"):
            await store.registry.register([new()])
        await store.open()
        await store.close()


async def test_a_killed_process_loses_nothing_committed(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    """The files as they lie there without a close are what a crash leaves: all that was answered is in them."""
    made = [(await store.registry.register([new()]))[0].callback for _ in range(5)]
    await store.registry.cancel("ann", made[0].id, NOW)
    made[0] = await store.registry.get_callback("ann", made[0].id) or made[0]
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in path.parent.glob("gateway.db*"):
        shutil.copy(file, crashed)
    assert (crashed / "gateway.db-wal").stat().st_size > 0
    async with opened(crashed / "gateway.db") as after:
        assert [await after.registry.get_callback("ann", callback.id) for callback in made] == made
        assert len((await claim_tasks(after, "up", NOW, 10))[0]) == 4


async def test_every_commit_reaches_the_disk(store: SqliteStore) -> None:
    """WAL with synchronous=FULL: an answered registration survives a power cut, too."""
    found = [await store._database.read(f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert found == [[("wal",)], [(2,)], [(1,)]]


async def test_a_cancelled_read_disturbs_nobody(store: SqliteStore) -> None:
    """The lock is free again and the connection in order, whenever the reader gave up."""
    (made,) = await store.registry.register([new()])
    for turns in range(6):
        reader = asyncio.create_task(store.registry.get_callback("ann", made.callback.id))
        for _ in range(turns):
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        async with asyncio.timeout(LIMIT_S):
            await store.registry.register([new()])


async def test_who_waits_for_a_write_goes_on_before_who_waits_for_its_transaction(store: SqliteStore) -> None:
    """It is told of by the database's thread itself: a turn of a busy loop takes milliseconds. A failure is not."""
    order: list[str] = []
    written: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def write() -> None:
        order.append(f"the write's {await written}")

    waiting = asyncio.create_task(write())
    await asyncio.sleep(0)
    done = await store._database.transaction(lambda _: 1, written.set_result)
    order.append(f"the transaction's {done}")
    await waiting
    assert order == ["the write's 1", "the transaction's 1"]
    with pytest.raises(ZeroDivisionError):
        await store._database.transaction(lambda _: 1 // 0, order.append)
    assert len(order) == 2


async def test_a_transaction_begins_before_it_is_waited_for(store: SqliteStore) -> None:
    """It needs no turn of the loop for that, and who is to be alone waits until it has ended; its error comes later."""
    told = asyncio.Event()
    go_on = threading.Event()

    def work(_: sqlite3.Connection) -> None:
        assert go_on.wait(LIMIT_S)

    database = store._database
    good = database.transaction(work, lambda _: told.set())
    bad = database.transaction(lambda _: 1 // 0)
    alone = asyncio.create_task(database._lock.begin_alone())
    await asyncio.sleep(0)
    later = database.transaction(lambda _: "later")  # behind who is alone
    assert not alone.done()
    go_on.set()
    async with asyncio.timeout(LIMIT_S):
        await told.wait()
        await alone
        database._lock.end_alone()
        assert await later == "later"
        await good
        with pytest.raises(ZeroDivisionError):
            await bad
        await database.transaction(lambda _: None)


async def test_a_transaction_of_a_closed_file_says_so_where_it_is_waited_for(store: SqliteStore) -> None:
    """And not where it is made: what would be written must not be forgotten."""
    await store.close()
    writing = store._database.transaction(lambda _: None)
    with pytest.raises(StoreError, match="closed"):
        await writing
    async with asyncio.timeout(LIMIT_S):
        await store._database.close()  # the connection is nobody's


async def test_a_commit_is_told_of_though_nobody_waits_for_it_any_more(store: SqliteStore) -> None:
    """A caller that is cancelled takes nothing back: those whose writes are in it hear of that."""
    told = asyncio.Event()
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(_: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(LIMIT_S)

    writing = asyncio.create_task(store._database.transaction(work, lambda _: told.set()))
    await begun.wait()
    writing.cancel()
    await asyncio.wait((writing,))
    go_on.set()
    await told.wait()


async def test_reads_never_see_what_is_not_committed(store: SqliteStore) -> None:
    """A reader waits for the transaction's end: what is rolled back was never there."""
    asked = new()
    applied, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(db: sqlite3.Connection) -> None:
        drive(db, store.registry._apply_register([[asked]]))
        loop.call_soon_threadsafe(applied.set)
        assert go_on.wait(LIMIT_S)
        raise ZeroDivisionError

    writing = asyncio.create_task(store._database.transaction(work))
    await applied.wait()
    readers = [
        asyncio.create_task(store.registry.get_callback("ann", asked.id)),
        asyncio.create_task(store.tasks.longest_due("up", "ann", NOW, 10)),
    ]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(reader.done() for reader in readers)
    go_on.set()
    with pytest.raises(ZeroDivisionError):
        await writing
    assert await asyncio.gather(*readers) == [None, ([], None)]


def write_an_hour_ahead(file: Path) -> None:
    written_ns = file.stat().st_mtime_ns + 3_600 * 10**9
    os.utime(file, ns=(written_ns, written_ns))


@pytest.mark.parametrize("killed", [False, True])
async def test_a_clock_that_was_set_back_meanwhile_is_noticed_once(
    path: Path, tmp_path_factory: pytest.TempPathFactory, killed: bool
) -> None:
    """The last write was later than now; once all has followed it was not, not even if that process is killed too."""
    if killed:
        path = await killed_copy(path)
    else:
        async with opened(path) as store:
            await store.registry.register([new()])
    for file in path.parent.glob("gateway.db*"):
        write_an_hour_ahead(file)
    again = tmp_path_factory.mktemp("again") / "folder"
    async with opened(path) as store:
        assert 3_500_000 < store.set_back_ms <= 3_600_000
        await store.follow_clock(-store.set_back_ms)
        shutil.copytree(path.parent, again)  # times too
    for following in (path, again / path.name):
        async with opened(following) as store:
            assert store.set_back_ms == 0


async def test_an_empty_log_tells_nothing_of_the_last_write(path: Path) -> None:
    """It may be there without having been written; the database's own time counts then."""
    async with opened(path) as store:
        await store.registry.register([new()])
    write_an_hour_ahead(path)
    path.with_name("gateway.db-wal").write_bytes(b"")
    assert SqliteStore(path).set_back_ms == 0
    async with opened(path) as store:
        assert 3_500_000 < store.set_back_ms <= 3_600_000


async def test_a_full_disk_fails_every_write_and_is_recovered_from(store: SqliteStore) -> None:
    """All that wait get a StoreError and nothing is stored; reads go on; with room again so do writes."""
    (before,) = await store.registry.register([new()])
    ((pages,),) = await store._database.read("PRAGMA page_count")
    await store._database.read(f"PRAGMA max_page_count = {pages}")
    big = b'{"a":"' + b"x" * 8000 + b'"}'
    asked = [new(metadata=big) for _ in range(32)]
    writes = [store.registry.register([callback]) for callback in asked]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(result) for result in results} == {StoreError}
    assert "full" in str(results[0])
    assert store.failing is not None
    assert "full" in store.failing
    assert await store.registry.get_callback("ann", before.callback.id) == before.callback
    assert [await store.registry.get_callback("ann", callback.id) for callback in asked] == [None] * 32
    await store._database.read("PRAGMA max_page_count = 1000000")
    for callback in asked:
        await store.registry.register([callback])
    assert store.failing is None


async def test_a_damaged_page_that_is_met_later_fails_what_needs_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file too large to be checked at the start: what does not need the page goes on, and the store says it fails."""
    said: list[str] = []
    monkeypatch.setattr("gateway.store.sqlite.database._CHECKED_BYTES", 0)
    monkeypatch.setattr(
        "gateway.store.sqlite.database._log.error", lambda event, **_: said.append(event), raising=False
    )
    async with opened(path) as store:
        (made,) = await store.registry.register([new()])
    damage(path, "attempts")
    async with opened(path) as store:
        assert store.failing is None
        for _ in range(2):
            with pytest.raises(StoreError, match="malformed"):
                await store.registry.list_attempts("ann", made.callback.id)
        assert await store.registry.get_callback("ann", made.callback.id) == made.callback
        await store.registry.register([new()])
        assert store.failing is not None
        assert "the file is damaged" in store.failing
    assert said == ["store.damaged"]


async def test_a_read_that_fails_counts_until_one_succeeds(store: SqliteStore) -> None:
    """The store is failing when it cannot be read, as when it cannot be written."""
    await connection(store).set_progress_handler(lambda: 1, 1)
    with pytest.raises(StoreError, match="interrupted"):
        await store.registry.backlog()
    assert store.failing == "the last read failed: interrupted"
    await connection(store).set_progress_handler(None, 1)  # type: ignore[arg-type]
    assert await claim_tasks(store, "up", NOW, 10) == ([], None)
    assert store.failing == "the last read failed: interrupted", "a claim of what is known not to be due reads nothing"
    async with store._database.reading():
        pass  # asks nothing either
    assert store.failing == "the last read failed: interrupted"
    await store.registry.backlog()
    assert store.failing is None


async def test_every_kind_of_damage_is_damage(store: SqliteStore) -> None:
    """SQLite tells some kinds apart, by a longer name."""
    damage = sqlite3.DatabaseError("database disk image is malformed")
    damage.sqlite_errorname = "SQLITE_CORRUPT_INDEX"
    with pytest.raises(StoreError, match="malformed"):
        async with store._database.reading():
            raise damage
    await store.registry.backlog()
    assert store.failing is not None
    assert "damaged" in store.failing


async def test_a_read_that_fails_is_a_store_error(store: SqliteStore) -> None:
    """The driver's exceptions stop at the store, those of claims included."""
    (made,) = await store.registry.register([new()])
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    settlement = Settlement(upstream="up", seq=made.callback.task.seq, outcome=outcome, settled_at=NOW, polls=1)
    await store.tasks.settle(settlement)
    await connection(store).execute("ALTER TABLE callbacks RENAME TO gone")
    for read in (
        store.registry.backlog(),
        claim_webhooks(store, NOW, 1),
        store.registry.get_callback("ann", "cb_none"),
    ):
        with pytest.raises(StoreError, match="could not be read"):
            await read


async def test_a_write_waits_for_few_reads(store: SqliteStore) -> None:
    """However many want to read: only some stand in the thread's row before it, and no loop's turn."""
    database, gone_on, order = store._database, threading.Event(), list[str]()

    async def read() -> None:
        async with database.reading():
            await database.call(lambda _: order.append("read"))

    async def first() -> None:
        async with database.reading():
            await database.call(lambda _: gone_on.wait(LIMIT_S))

    reads = [asyncio.create_task(first()), *(asyncio.create_task(read()) for _ in range(40))]
    await asyncio.sleep(0)
    write = asyncio.create_task(database.transaction(lambda _: order.append("write")))
    for _ in range(5):
        await asyncio.sleep(0)
    gone_on.set()
    await asyncio.gather(write, *reads)
    assert order.index("write") == 7, "eight read at once, and one of them is the first"
    assert len(order) == 41
