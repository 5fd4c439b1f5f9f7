"""What is the SQLite store's own: its file and who may have it, group commit, failures of the disk, query plans."""

import asyncio
import ctypes
import os
import re
import resource
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from itertools import count
from pathlib import Path

import aiosqlite
import msgspec
import pytest
from structlog.testing import capture_logs

from gateway.core.errors import StoreDefect, StoreError, StoreInUse, StorePartly, StoreRefused, StoreUnusable
from gateway.core.model import (
    Attempt,
    AttemptRecord,
    AttemptResult,
    CallbackState,
    DueCallback,
    Lane,
    NewCallback,
    Outcome,
    Settlement,
    Share,
    TaskState,
    new_callback_id,
)
from gateway.store import registry
from gateway.store.dialect import Counted
from gateway.store.lanes import LanesDue
from gateway.store.sqlite import createsql, database, databasefile, sql, watchsql
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.engine import drive
from gateway.store.sqlite.statements import over_rows
from gateway.store.sqlite.store import SqliteStore
from tests.claims import claim_tasks
from tests.lanes import claim_webhooks, lane, told_of

NOW = 1_777_460_000_000
LIMIT_S = 10
SCHEMA = "".join(databasefile.migrations().values())

_numbers = count()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


async def test_a_large_body_of_an_earlier_version_is_sent_as_it_is(path: Path) -> None:
    """It was stored with its callback, and what its task ended with since may be something else."""
    async with opened(path) as store:
        await ended(store)
    stored = b"x" * 100_000
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE callbacks SET body = ?", (stored,))
    async with opened(path) as store:
        (due,), _ = await claim_webhooks(store, NOW, 1)
        assert (due.body, due.body_bytes) == (None, len(stored))
        assert await store.outbox.body(due) == stored


async def ended(store: SqliteStore) -> None:
    """Register a task, and settle it."""
    number = next(_numbers)
    new = NewCallback(
        id=new_callback_id(NOW),
        client="ann",
        upstream="up",
        task_id=f"ended-{number}",
        url="https://a.example/",
        metadata=b"{}",
        timeout_s=60,
        created_at=NOW,
        first_poll_at=NOW,
    )
    (registration,) = await store.registry.register([new])
    await store.tasks.settle(
        Settlement(
            seq=registration.callback.task.seq,
            upstream="up",
            outcome=Outcome(state=TaskState.SUCCESS, data=b"{}"),
            settled_at=NOW,
            polls=1,
        )
    )


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(path) as store:
        yield store


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process's lock is not waited for."""
    monkeypatch.setattr("gateway.store.sqlite.database._LOCK_WAIT_S", 0.01)


def new(**changes: object) -> NewCallback:
    given = {
        "id": new_callback_id(NOW),
        "client": "ann",
        "upstream": "up",
        "task_id": f"task-{next(_numbers)}",
        "url": "https://app.example.com/hooks",
        "metadata": b"{}",
        "timeout_s": 3600,
        "created_at": NOW,
        "first_poll_at": NOW,
    }
    return NewCallback(**{**given, **changes})  # type: ignore[arg-type]


def connection(store: SqliteStore) -> aiosqlite.Connection:
    return store._database._connection


async def unusable(path: Path) -> str:
    """Return why the store cannot be opened."""
    store = SqliteStore(path)
    try:
        with pytest.raises(StoreUnusable) as caught:
            await store.open()
    finally:
        await store.close()  # safe all the same
    return caught.value.message


def overwrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# The file and who may have it


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


def size_of(path: Path) -> int:
    return path.stat().st_size


async def killed_copy(path: Path, *changes: str) -> Path:
    """Make a store, change it, and return a copy of its files as a kill leaves them: the last writes beside it."""
    copy = path.parent / "killed" / path.name
    copy.parent.mkdir()
    async with opened(path) as store:
        await store.registry.register([new() for _ in range(200)])
        await store._database.read("PRAGMA wal_checkpoint(TRUNCATE)")
        store._database._watch.emptied(size_of(path))
        await store.registry.register([new()])
        for change in changes:
            await store._database.read(change)
        for file in path.parent.glob("gateway.db*"):
            shutil.copy(file, copy.parent)
    assert (copy.parent / "gateway.db-wal").stat().st_size > 0
    return copy


def damage(path: Path, table: str) -> None:
    """Overwrite the page that a table or index begins on."""
    with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as db:
        ((page,),) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,))
        ((size,),) = db.execute("PRAGMA page_size")
    content = path.read_bytes()
    overwrite(path, content[: (page - 1) * size] + b"\xff" * size + content[page * size :])


async def test_a_newer_schema_is_refused_untouched(path: Path) -> None:
    """A downgrade says which schema it met, and leaves every byte as it was."""
    async with opened(path):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    before = files(path.parent)
    message = await unusable(path)
    assert f"newer gateway (schema 99, this one knows {max(databasefile.migrations())})" in message
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


# Group commit


async def test_writes_that_wait_share_one_transaction(store: SqliteStore) -> None:
    """Fifty writes of three kinds at once: one commit, also where its statements' rows are no power of two."""
    first = await store.registry.register([new(), new(), new()])
    statements: list[str] = []
    await connection(store).set_trace_callback(statements.append)
    settlements = [
        Settlement(
            upstream="up",
            seq=registration.callback.task.seq,
            outcome=Outcome(state=TaskState.FAIL, data=b"{}"),
            settled_at=NOW,
            polls=1,
        )
        for registration in first
    ]
    writes = [store.registry.register([new()]) for _ in range(46)]
    await asyncio.gather(*writes, *map(store.tasks.settle, settlements), store.registry.cancel("ann", "cb_none", NOW))
    assert statements.count("COMMIT") == 1


@pytest.mark.parametrize(("writes", "rows", "commits"), [(512, 1, 1), (513, 1, 2), (2, 512, 2), (2, 511, 1)])
async def test_a_transaction_has_a_bounded_size(store: SqliteStore, writes: int, rows: int, commits: int) -> None:
    """No reader waits for more than some five hundred rows and the rest of one write."""
    statements: list[str] = []
    await connection(store).set_trace_callback(statements.append)
    await asyncio.gather(*(store.registry.register([new() for _ in range(rows)]) for _ in range(writes)))
    assert statements.count("COMMIT") == commits


async def test_what_is_known_is_not_asked_for(store: SqliteStore) -> None:
    """New tasks cost two statements, a callback more on one that runs two more, and no expiry is looked for twice.

    Another client's is looked at once more: the task may be polled earlier for it.
    """
    statements: list[str] = []
    await connection(store).set_trace_callback(statements.append)
    await store.registry.register([new(task_id="a"), new(task_id="b")])
    assert len(statements) == 2 + 2  # and the transaction's
    statements.clear()
    await store.registry.register([new(task_id="a", url="https://elsewhere.example")])
    assert len(statements) == 2 + 4
    statements.clear()
    await store.registry.register([new(task_id="a", client="bob")])
    assert len(statements) == 2 + 5
    await store.tasks.expired("up", NOW, 10)
    statements.clear()
    assert await store.tasks.expired("up", NOW + 1, 10) == ([], NOW + 3_600_000)
    assert statements == []


async def settled(store: SqliteStore, callback: NewCallback, at: int = NOW) -> None:
    """Register a callback, and settle its task: its webhook is due."""
    (made,) = await store.registry.register([callback])
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    seq = made.callback.task.seq
    await store.tasks.settle(Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=at, polls=1))


def failed(due: DueCallback, next_attempt_at: int) -> AttemptRecord:
    attempt = Attempt(
        number=due.attempts + 1,
        started_at=NOW,
        duration_ms=1,
        status_code=500,
        error="500",
        result=AttemptResult.RETRY,
    )
    return AttemptRecord(claim=due, attempt=attempt, next_attempt_at=next_attempt_at)


async def test_nothing_is_kept_of_what_is_over(store: SqliteStore) -> None:
    """A process that runs for months must not remember every task and receiver that it ever had."""
    (made,) = await store.registry.register([new()])
    seq = made.callback.task.seq
    await store.registry.wait_settled(seq, 0.001)
    assert store.tasks._settle_waiters == {}
    waiting = asyncio.create_task(store.registry.wait_settled(seq, 3600))
    (polled,), _ = await claim_tasks(store, "up", NOW, 1)
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    await store.tasks.settle(Settlement(upstream="up", seq=polled.seq, outcome=outcome, settled_at=NOW, polls=1))
    await waiting
    (due,), _ = await claim_webhooks(store, NOW, 1)
    made_at = Attempt(
        number=1, started_at=NOW, duration_ms=1, status_code=204, error=None, result=AttemptResult.DELIVERED
    )
    await store.outbox.record(AttemptRecord(claim=due, attempt=made_at, next_attempt_at=None))
    assert (store.tasks._settle_waiters, store.tasks._claimed, dict(store._engine.webhooks._claimed)) == ({}, {}, {})
    assert (store.outbox._lanes._at, store.outbox._lanes._heap) == ({}, [])


async def test_a_writer_that_was_cancelled_takes_nothing_more(store: SqliteStore) -> None:
    """At the end of its event loop a write is refused, and not waited for for ever."""
    assert store._writer._task is not None
    store._writer._task.cancel()
    await asyncio.wait([store._writer._task])
    with pytest.raises(StoreError, match="closed"):
        await store.registry.register([new()])
    store._writer._task = None


@pytest.mark.parametrize(
    ("poison", "fault"),
    [
        ({"metadata": "text"}, StoreRefused),
        ({"url": "\ud800"}, StoreRefused),
        ({"timeout_s": 2**70}, StoreRefused),
        ({"client": None}, StoreRefused),
        ({"client": object()}, StoreDefect),
    ],
)
async def test_a_write_that_cannot_be_stored_fails_alone(
    store: SqliteStore, poison: dict[str, object], fault: type[StoreError]
) -> None:
    """Its neighbours in the same transaction are stored; the store is not called failing for it.

    What no request can hold is the gateway's own fault.
    """
    good = [new() for _ in range(9)]
    writes = [store.registry.register([callback]) for callback in [*good[:5], new(**poison), *good[5:]]]
    results = await asyncio.gather(*writes, return_exceptions=True)
    refused = results.pop(5)
    assert type(refused) is fault
    assert not [result for result in results if isinstance(result, BaseException)]
    assert [await store.registry.get_callback("ann", callback.id) is not None for callback in good] == [True] * 9
    assert store.failing is None


async def test_what_waits_moves_with_the_clock_and_what_comes_after_does_not(store: SqliteStore) -> None:
    """A registration asked for just before the clock is followed has the old time, one just after it the new one."""
    before, after = new(task_id="before"), new(task_id="after", created_at=NOW - 3_600_000)
    results = await asyncio.gather(
        *(store.registry.register([before]), store.follow_clock(-3_600_000), store.registry.register([after])),
    )
    assert results[1] is None
    found = [await store.registry.get_callback("ann", one.id) for one in (before, after)]
    assert [one and one.expires_at for one in found] == [NOW, NOW]


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


async def test_a_batch_is_stored_whole_or_not_at_all(store: SqliteStore) -> None:
    """One item that cannot be stored takes its own batch down, with the tasks it would have made."""
    good = new()
    with pytest.raises(StoreError):
        await store.registry.register([good, new(metadata="text")])
    assert await store.registry.get_callback("ann", good.id) is None
    assert await claim_tasks(store, "up", NOW, 10) == ([], None)


async def test_a_cancelled_caller_does_not_take_its_write_back(store: SqliteStore) -> None:
    """A client that hangs up may have been registered; nothing is done by halves."""
    asked = new()
    caller = asyncio.create_task(store.registry.register([asked]))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await store.registry.register([new()])
    assert await store.registry.get_callback("ann", asked.id) is not None


async def test_of_two_writes_one_may_fail(store: SqliteStore) -> None:
    """The other one is stored."""
    good = new()
    writes = [store.registry.register([new(metadata="text")]), store.registry.register([good])]
    with capture_logs() as log:
        failed, (made,) = await asyncio.gather(*writes, return_exceptions=True)  # type: ignore[misc]
    assert [line["event"] for line in log] == ["store.write_refused"]
    assert isinstance(failed, StoreError)
    assert made.created
    assert await store.registry.get_callback("ann", good.id) is not None


async def test_a_write_whose_caller_gave_up_may_fail(store: SqliteStore) -> None:
    """Nobody hears of it, and the writer goes on with the next one."""
    caller = asyncio.create_task(store.registry.register([new(metadata="text")]))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    (made,) = await store.registry.register([new()])
    assert made.created


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


async def test_what_falls_due_while_a_claim_waits_for_a_write_is_in_it(store: SqliteStore) -> None:
    """It may be that write which makes it due: the next claim would wait for one more."""
    (made,) = await store.registry.register([new()])
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    seq = made.callback.task.seq
    await store.tasks.settle(Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=NOW, polls=1))
    (on,) = await told_of(store, NOW)
    async with store._database._lock.writing():
        claiming = asyncio.create_task(claim_webhooks(store, NOW, 9))
        for _ in range(5):
            await asyncio.sleep(0)
        store.outbox.note(on, NOW)
    found, next_due_at = await claiming
    assert ([one.id for one in found], next_due_at) == ([made.callback.id], None)


async def test_closing_commits_what_waits(path: Path) -> None:
    """Writes that were asked for before the close are answered and stored."""
    asked = [new() for _ in range(20)]
    store = SqliteStore(path)
    await store.open()
    writes = [asyncio.create_task(store.registry.register([callback])) for callback in asked]
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    with pytest.raises(StoreError, match="shutting down"):
        await store.registry.register([new()])
    await closing
    assert len(await asyncio.gather(*writes)) == 20
    async with opened(path) as after:
        assert (
            len(await after.registry.list_callbacks("ann", state=None, task_id=None, before_seq=None, limit=50)) == 20
        )


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


async def test_a_claim_given_back_during_another_one_is_not_forgotten(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is given back while the next claim reads was claimed when that began: it is due all the same."""
    made = await store.registry.register([new(task_id="a"), new(task_id="b")])
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    for registration in made:
        seq = registration.callback.task.seq
        await store.tasks.settle(Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=NOW, polls=1))
    (first,), _ = await claim_webhooks(store, NOW, 1)
    call = store._database.call

    async def given_back_meanwhile(*args: object) -> object:
        result = await call(*args)  # type: ignore[arg-type]
        await store.outbox.release([first])
        return result

    monkeypatch.setattr(store._database, "call", given_back_meanwhile)
    (second,), next_due_at = await claim_webhooks(store, NOW, 10)
    monkeypatch.undo()
    assert second.seq != first.seq
    assert next_due_at is not None
    assert next_due_at <= NOW
    assert (await claim_webhooks(store, NOW, 10))[0] == [first]


def count_steps(store: SqliteStore) -> Callable[[], int]:
    """Return what tells how many of SQLite's steps have been taken since it was last asked, in hundreds."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 100

    def taken() -> int:
        nonlocal steps
        before, steps = steps, 0
        return before

    connection(store)._conn.set_progress_handler(count, 100)
    return taken


async def test_what_a_task_had_before_costs_its_next_callbacks_nothing(store: SqliteStore) -> None:
    """Cancelling and settling beside 2,000 cancelled callbacks of the same task look at none of these."""
    made = await store.registry.register([new(task_id="t", url=f"https://app.example.com/{n}") for n in range(2000)])
    first, *others = made
    await asyncio.gather(*(store.registry.cancel("ann", other.callback.id, NOW) for other in others))
    taken = count_steps(store)
    await store.registry.cancel("ann", first.callback.id, NOW)
    assert taken() < 500
    (again,) = await store.registry.register([new(task_id="t")])
    taken()
    (others_own,) = await store.registry.register([new(task_id="t", client="eve")])
    assert taken() < 1000
    await store.registry.cancel("eve", others_own.callback.id, NOW)
    taken()
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    settlement = Settlement(upstream="up", seq=again.callback.task.seq, outcome=outcome, settled_at=NOW, polls=1)
    assert await store.tasks.settle(settlement) == [again.callback.id]
    assert taken() < 1000
    assert await store.registry.get_task("bob", "t") is None
    assert await store.registry.list_callbacks("bob", state=None, task_id="t", before_seq=None, limit=9) == []
    assert taken() < 500


async def test_who_watches_a_task_with_others_joins_it_again_at_no_cost(store: SqliteStore) -> None:
    """Its callbacks may be thousands, and are not read through for each further one."""
    await store.registry.register([new(task_id="t", url=f"https://app.example.com/{n}") for n in range(2000)])
    await store.registry.register([new(task_id="t", client="bob")])
    taken = count_steps(store)
    for client in ("ann", "bob"):
        await store.registry.register([new(task_id="t", client=client, url="https://app.example.com/more")])
        assert taken() < 1000
    await store.registry.register([new(task_id="t", client="bo")])
    assert taken() > 1000
    (due,), _ = await claim_tasks(store, "up", NOW, 1)
    assert (due.task_id, due.watchers) == ("t", "ann,bo,bob")


async def test_dead_callbacks_are_redelivered_in_parts(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others write in between, whatever there are; the count is of all of them, and none is redelivered twice."""
    monkeypatch.setattr(registry, "_REDELIVERED_AT_ONCE", 10)
    made = await store.registry.register([new(task_id="t", url=f"https://app.example.com/{n}") for n in range(95)])
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    seq = made[0].callback.task.seq
    await store.tasks.settle(Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=NOW, polls=1))

    async def die(at: int) -> None:
        due, _ = await claim_webhooks(store, NOW + 9, 1000)
        for claim in due:
            record = failed(claim, 0)
            attempt = msgspec.structs.replace(record.attempt, result=AttemptResult.DEAD, started_at=at)
            await store.outbox.record(msgspec.structs.replace(record, attempt=attempt, next_attempt_at=None))

    await die(NOW)
    redelivering = asyncio.create_task(store.registry.redeliver_dead(None, 0, NOW + 100, NOW + 6))
    written = 0
    while not redelivering.done():
        await store.registry.register([new()])
        written += 1
    assert await redelivering == 95
    assert written >= 9
    await die(NOW + 50)
    dying = asyncio.create_task(store.registry.redeliver_dead(None, 0, NOW + 100, NOW + 60))
    while not dying.done():
        await die(NOW + 70)  # at once again: what answers 410 must not keep it going
    assert await dying == 95
    assert await store.registry.redeliver_dead("ann", 0, NOW + 100, NOW + 5) == 0


async def test_a_redelivery_that_fails_in_the_middle_says_how_many_are_done(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And asked for again, it redelivers the rest."""
    monkeypatch.setattr(registry, "_REDELIVERED_AT_ONCE", 10)
    made = await store.registry.register([new(task_id="t", url=f"https://app.example.com/{n}") for n in range(25)])
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    seq = made[0].callback.task.seq
    await store.tasks.settle(Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=NOW, polls=1))
    for claim in (await claim_webhooks(store, NOW + 9, 1000))[0]:
        record = failed(claim, 0)
        attempt = msgspec.structs.replace(record.attempt, result=AttemptResult.DEAD, started_at=NOW)
        await store.outbox.record(msgspec.structs.replace(record, attempt=attempt, next_attempt_at=None))
    real = store.registry._redeliver_some
    fails_at = 3

    async def some(client: str, about: dict[str, int]) -> int:
        nonlocal fails_at
        fails_at -= 1
        if not fails_at:
            raise StoreError("The database could not write.")
        return await real(client, about)

    monkeypatch.setattr(store.registry, "_redeliver_some", some)
    with pytest.raises(StorePartly, match="20 are redelivered"):
        await store.registry.redeliver_dead("ann", 0, NOW + 100, NOW + 6)
    assert await store.registry.redeliver_dead("ann", 0, NOW + 100, NOW + 7) == 5


async def test_a_hundred_thousand_receivers_cost_the_next_claim_nothing(store: SqliteStore) -> None:
    """Those whose next attempt is hours away are not looked through for the one that is due now."""
    looked = 0

    class Counted(str):
        def __hash__(self) -> int:
            nonlocal looked
            looked += 1
            return super().__hash__()

        __eq__ = str.__eq__

    for number in range(100_000):
        store.outbox._lanes.note(Lane("ann", Counted(f"https://r{number}.example.com")), NOW + 3_600_000 + number)
    callback = new()
    await settled(store, callback)
    looked = 0
    (due,), next_due_at = await claim_webhooks(store, NOW, 10)
    assert (due.id, next_due_at) == (callback.id, NOW + 3_600_000)
    assert looked < 100


async def test_lanes_that_are_noted_again_and_again_leave_nothing(store: SqliteStore) -> None:
    """A receiver with a retry a day away that gets a webhook each second does not fill the memory with that retry."""
    lanes = LanesDue()
    on = Lane("ann", "https://app.example.com")
    for at in range(10_000):
        lanes.note(on, 86_400_000)
        lanes.note(on, at)
        assert lanes.take(at) == [on]
    assert len(lanes._heap) < 100
    lanes.note(on, 86_400_000)
    assert (lanes.next_due_at, lanes.take(86_400_000), lanes.next_due_at) == (86_400_000, [on], None)
    for at in range(10_000, 0, -1):
        lanes.note(on, at)
        assert lanes.next_due_at == at
    assert len(lanes._heap) < 100
    assert lanes.take(1) == [on]


async def test_listing_a_tasks_newest_reads_no_others(store: SqliteStore) -> None:
    """Of a task's 1,000 callbacks those that are not listed cost looks at the indexes, and no row is made of them."""
    registrations = await store.registry.register(
        [new(task_id="t", url=f"https://app.example.com/{n}") for n in range(1000)]
    )
    made = [one.callback for one in registrations]
    other = (await store.registry.register([new(client="bob", task_id="t")]))[0].callback
    taken = count_steps(store)
    for state in (None, CallbackState.WAITING):
        for client, its in (("ann", [made[-1], made[-2]]), (None, [other, made[-1]])):
            found = await store.registry.list_callbacks(client, state=state, task_id="t", before_seq=None, limit=2)
            assert [callback.id for callback in found] == [callback.id for callback in its]
            assert taken() < 30 * len(made)
    assert (
        await store.registry.list_callbacks("ann", state=CallbackState.DEAD, task_id="t", before_seq=None, limit=2)
        == []
    )


async def test_a_group_is_read_without_the_others(store: SqliteStore) -> None:
    """Hundreds of clients wait for their turn: for one place one of them is read."""
    await store.registry.register([new(client=f"client-{n}") for n in range(300)])
    taken = count_steps(store)
    assert len((await store.tasks.waiting("up", NOW))[0]) == 300
    tasks, next_due_at = await store.tasks.longest_due("up", "client-7", NOW, 1)
    assert (len(tasks), next_due_at) == (1, None)
    assert taken() < 1000


async def test_a_task_given_back_while_others_are_read_is_not_forgotten(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was claimed when that began, and so is not among them: it is due all the same."""
    await store.registry.register([new(task_id="a"), new(task_id="b")])
    (first,), _ = await claim_tasks(store, "up", NOW, 1)
    call = store._database.call

    async def given_back_meanwhile(*args: object) -> object:
        result = await call(*args)  # type: ignore[arg-type]
        await store.tasks.release([first])
        return result

    monkeypatch.setattr(store._database, "call", given_back_meanwhile)
    (second,), _ = await claim_tasks(store, "up", NOW, 10)
    monkeypatch.undo()
    assert second.seq != first.seq
    assert (await claim_tasks(store, "up", NOW, 10))[0] == [first]


async def test_an_operators_list_of_one_state_reads_no_others(store: SqliteStore) -> None:
    """No index has everybody's in one state; those of each client do, however many wait beside them."""
    made = [
        (await store.registry.register([new(client=client) for _ in range(1000)]))[0].callback
        for client in ("ann", "bob")
    ]
    for callback in made:
        await store.registry.cancel(callback.client, callback.id, NOW)
    taken = count_steps(store)
    found = await store.registry.list_callbacks(
        None, state=CallbackState.CANCELLED, task_id=None, before_seq=None, limit=9
    )
    assert [callback.id for callback in found] == [callback.id for callback in reversed(made)]
    assert taken() < 1000


async def test_an_operators_other_lists_do_not_ask_each_client(store: SqliteStore) -> None:
    """The newest of all, or those of one task: hundreds of clients make neither dearer."""
    registrations = await store.registry.register([new(task_id=f"t{n}", client=f"client-{n}") for n in range(300)])
    last = registrations[-1].callback
    taken = count_steps(store)
    for state, task_id in ((None, None), (CallbackState.WAITING, "t299")):
        found = await store.registry.list_callbacks(None, state=state, task_id=task_id, before_seq=None, limit=1)
        assert [callback.id for callback in found] == [last.id]
        assert taken() < 1000


async def test_what_has_expired_elsewhere_costs_an_upstream_nothing(store: SqliteStore) -> None:
    """Thousands that wait for another upstream's last word are not looked through again and again."""
    await store.registry.register([new(upstream="down", timeout_s=60) for _ in range(2000)])
    await store.registry.register([new(timeout_s=number) for number in (70, 80, 90)])
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 100

    connection(store)._conn.set_progress_handler(count, 100)
    costs = []
    for now_s in (65, 75, 85):
        steps = 0
        expired, next_expiry_at = await store.tasks.expired("up", NOW + now_s * 1000, 1000)
        costs.append(steps)
    assert [task.expires_at - NOW for task in expired] == [70_000, 80_000]
    assert next_expiry_at == NOW + 90_000
    assert costs[0] > 2000 > 500 > max(costs[1:])


async def test_an_expiry_is_found_though_a_look_for_it_failed(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a read that failed did not see is seen by the next one."""
    (made,) = await store.registry.register([new(timeout_s=60)])
    with monkeypatch.context() as broken:
        broken.setattr(sql, "SELECT_EXPIRED", "SELECT absent")
        with pytest.raises(StoreError):
            await store.tasks.expired("up", NOW + 90_000, 10)
    expired, _ = await store.tasks.expired("up", NOW + 90_000, 10)
    assert [task.seq for task in expired] == [made.callback.task.seq]


# Backups


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
    check = database._check

    async def noted(part: Path) -> None:
        copied.append(len(during))
        await check(part)

    monkeypatch.setattr(database, "_check", noted)
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
    monkeypatch.setattr(database, "_BACKUP_SYNC", 4)
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
    monkeypatch.setattr("gateway.store.sqlite.database._QUICK_CHECK", long)
    backup = asyncio.create_task(store.backup(path.with_name("gateway.db.backup")))
    async with asyncio.timeout(LIMIT_S):
        while not path.with_name("gateway.db.backup.part-shm").exists():  # noqa: ASYNC110 - until it is being read
            await asyncio.sleep(0.001)
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


# Failures of the disk


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


async def test_a_write_that_failed_keeps_its_claim(store: SqliteStore) -> None:
    """Whoever holds a claim decides what follows; nobody else may take the row meanwhile."""
    (made,) = await store.registry.register([new()])
    (due,), _ = await claim_tasks(store, "up", NOW, 1)
    ((pages,),) = await store._database.read("PRAGMA page_count")
    await store._database.read(f"PRAGMA max_page_count = {pages}")
    outcome = Outcome(state=TaskState.SUCCESS, data=b'{"a":"' + b"x" * 100_000 + b'"}')
    settlement = Settlement(upstream="up", seq=due.seq, outcome=outcome, settled_at=NOW, polls=1)
    with pytest.raises(StoreError):
        await store.tasks.settle(settlement)
    assert await claim_tasks(store, "up", NOW, 1) == ([], None)
    await store._database.read("PRAGMA max_page_count = 1000000")
    await store.tasks.settle(settlement)
    after = await store.registry.get_callback("ann", made.callback.id)
    assert after is not None
    assert after.state is CallbackState.PENDING


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


# The schema


STATEMENTS = {
    name: text
    for name, text in {**vars(watchsql), **vars(createsql), **vars(sql)}.items()
    if name.isupper() and isinstance(text, str) and name[0] != "_"
}
LISTS = {
    f"list {state} {'by task' if by_task else ''}": sql.select_callbacks(state=state, by_task=by_task)
    for state in (None, *CallbackState)
    for by_task in (False, True)
} | {"list all": sql.select_callbacks(state=None, by_task=False, every_client=True)}
GIVEN_ROWS = r"\s*WITH \w+ \(([^)]*)\) AS \(VALUES \?\)"
BY_OVER_ROWS = {
    "SELECT_REGISTERED": ["(task_seq=? AND client=? AND url=? AND cancelled=?)"],
    "RESCHEDULE_TASKS": ["SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"],
    "OWE_WEBHOOKS": [
        "c USING INDEX callbacks_waiting (task_seq=?)",
        "SEARCH callbacks USING INTEGER PRIMARY KEY (rowid=?)",
    ],
    "SETTLE_TASKS": [
        "SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)",
        "callbacks USING INDEX callbacks_waiting (task_seq=?)",
    ],
    "RECORD_ATTEMPTS": ["SEARCH callbacks USING INTEGER PRIMARY KEY (rowid=?)"],
    "COUNT_ATTEMPTS": ["SEARCH callbacks USING INTEGER PRIMARY KEY (rowid=?)"],
    "IDLE_TASKS": [
        "SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)",
        "callbacks USING INDEX callbacks_waiting (task_seq=?)",
    ],
    "POLL_TASKS_NOW": ["SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"],
    "PRUNE_TASKS": [
        "SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)",
        "callbacks USING INDEX sqlite_autoindex_callbacks_2 (task_seq=?)",
    ],
    "LEAVE_TASKS": ["SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"],
    "END_WATCHES": [
        "SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)",
        "callbacks USING INDEX sqlite_autoindex_callbacks_2 (task_seq=?)",
    ],
}
BY = {
    "SELECT_DUE_TASKS": "tasks USING INDEX tasks_due (upstream=? AND watchers=? AND next_poll_at>?)",
    "SELECT_NEXT_WATCHERS": "SEARCH tasks USING INDEX tasks_due ((upstream,watchers)>(?,?))",
    "SELECT_NEXT_DUE": "callbacks USING INDEX callbacks_due (client=? AND receiver=?)",
    "SELECT_FIRST_ATTEMPTS_DUE": "callbacks USING INDEX callbacks_due (client=? AND receiver=? AND next_attempt_at<?)",
    "SELECT_DUE_CALLBACKS": "SEARCH c USING INTEGER PRIMARY KEY (rowid=?)",
    "SELECT_LANES": "callbacks USING INDEX callbacks_due",
    "SELECT_EXPIRED": "c USING INDEX callbacks_expiring (expires_at>? AND expires_at<?)",
    "SELECT_NEXT_EXPIRY": "callbacks USING INDEX callbacks_expiring (expires_at>?)",
    "PRUNE_CALLBACKS": "callbacks_ended (state=? AND ended_at<?)",
    "REDELIVER_DEAD": "callbacks USING INDEX callbacks_dead (client=? AND ended_at>? AND ended_at<?)",
    "SELECT_READ_TASK": "t USING INDEX sqlite_autoindex_tasks_1 (task_id=? AND upstream=?)",
    "POLL_AGAIN": "tasks USING INDEX sqlite_autoindex_tasks_1 (task_id=? AND upstream=?)",
    "COUNT_READ_TASKS": "tasks USING INDEX tasks_read (read_until>?)",
    "SELECT_UNREAD": "tasks USING INDEX tasks_read (read_until>? AND read_until<?)",
    "SELECT_NEXT_UNREAD": "tasks USING INDEX tasks_read (read_until>?)",
    "SELECT_LONG_UNREAD": "tasks USING INDEX tasks_read (read_until<?)",
    "MOVE_WATCHES": "tasks USING INDEX tasks_read (read_until>?)",
    "SELECT_TASK": "t USING INDEX sqlite_autoindex_tasks_1 (task_id=?)",
    "SELECT_ATTEMPTS": "attempts USING PRIMARY KEY (callback_seq=?)",
    **{f"list {state} ": "callbacks_client_state (client=? AND state=? AND rowid<?)" for state in CallbackState},
    **{f"list {state} by task": "(task_seq=? AND client=?)" for state in (None, *CallbackState)},
    "list None ": "callbacks_client (client=? AND rowid<?)",
    "list all": "SEARCH c USING INTEGER PRIMARY KEY (rowid<?)",
    "SELECT_CALLBACK": "c USING INDEX sqlite_autoindex_callbacks_1 (id=?)",
    "SELECT_STATE": "callbacks USING INDEX sqlite_autoindex_callbacks_1 (id=?)",
    "SELECT_CLIENTS": "SEARCH callbacks USING INDEX callbacks_client (client>?)",
    "SELECT_POLLED_UPSTREAMS": "SEARCH tasks USING INDEX tasks_due (upstream>?)",
    "COUNT_POLLED_TASKS": "tasks USING INDEX tasks_due (upstream=?)",
    "SELECT_CREATE": "creates_1 (client=? AND upstream=? AND request_id=?)",
    "INSERT_CREATE": "creates USING INDEX creates_client (client=?)",
    "END_CREATE": "creates_1 (client=? AND upstream=? AND request_id=?)",
    "FORGET_CREATE": "creates_1 (client=? AND upstream=? AND request_id=?)",
    "PRUNE_CREATES": "creates USING INDEX creates_at (at<?)",
    "SELECT_CREATORS": "creates USING INDEX creates_client (client>?)",
    "PRUNE_EXCESS_CREATES": "creates USING INDEX creates_client (client=? AND number<?)",
    "COUNT_READ_TASKS_FOR": "tasks USING INDEX tasks_read (read_until>?)",
}
WHOLE = {"MOVE_CREATES"}  # it is for all of its table's rows


def plan(statement: str, parameters: object) -> list[str]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    # Versions of SQLite differ in what they call an index that has all that is asked for.
    return [step.replace("COVERING ", "") for step in steps]


OVER_ROWS = {name: columns[1] for name, text in STATEMENTS.items() if (columns := re.match(GIVEN_ROWS, text))}


@pytest.mark.parametrize("name", [name for name in (*STATEMENTS, *LISTS) if name not in {*OVER_ROWS, *WHOLE}])
def test_no_statement_goes_through_a_whole_table(name: str) -> None:
    """Every table is reached through an index, and those that matter through the one made for them."""
    statement = {**STATEMENTS, **LISTS}[name]
    named = set(re.findall(r":(\w+)", statement))
    steps = plan(statement, dict.fromkeys(named, 1) or ("[]",) * statement.count("?"))
    scans = [step for step in steps if re.match("SCAN (?!named|.*( USING | VIRTUAL |subquery|SUBQUERY))", step)]
    assert not scans, steps
    assert any(BY.get(name, "") in step for step in steps) or not steps, steps


@pytest.mark.parametrize("count", [1, 2, 128, 256])
@pytest.mark.parametrize("name", OVER_ROWS)
def test_no_statement_over_rows_goes_through_a_whole_table(name: str, count: int) -> None:
    """Many rows do not make SQLite think that it is the other table that is small."""
    rows = [tuple(OVER_ROWS[name].split(", "))] * count
    ((statement, parameters),) = over_rows(STATEMENTS[name], rows)
    steps = plan(statement, parameters)
    assert not [step for step in steps if re.match("SCAN (callbacks|tasks|attempts|durations|[ct])\\b", step)], steps
    assert not [step for step in steps if "AUTOMATIC" in step], steps
    for wanted in BY_OVER_ROWS.get(name, ()):
        assert any(wanted in step for step in steps), steps


@pytest.mark.parametrize("name", ["INSERT_TASKS", "INSERT_CALLBACKS", "INSERT_ATTEMPTS"])
def test_checking_a_row_makes_no_table(name: str) -> None:
    """A CHECK with a list of values, which SQLite puts into a table for each row, costs more than the row's indexes."""
    rows = [tuple(OVER_ROWS[name].split(", "))] * 4
    ((statement, parameters),) = over_rows(STATEMENTS[name], rows)
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        made = [row for row in db.execute(f"EXPLAIN {statement}", parameters) if row[1] == "OpenEphemeral"]
    # What is read, and what is returned, are tables of rows; a list is one of keys.
    assert not [row for row in made if row[5] is not None]


@pytest.mark.parametrize("name", [name for name, value in vars(sql).items() if isinstance(value, Counted)])
def test_what_is_counted_in_parts_is_neither_sorted_nor_gone_through(name: str) -> None:
    """Each part begins where the one before it ended."""
    counted: Counted = getattr(sql, name)
    for statement in (counted.part, counted.end):
        steps = plan(statement, (*counted.start, 10))
        assert any(re.match(r"SEARCH \w+ USING INDEX \w+ \(\(.*\)>\(\?", step) for step in steps), steps
        assert not [step for step in steps if "ORDER BY" in step], steps


def test_lists_need_no_sorting() -> None:
    """The newest page of a client with a million callbacks costs a page, not a million."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        for name in ("list all", *(f"list {state} " for state in (None, *CallbackState))):
            values = {"client": "ann", "before": 9, "limit": 9}
            plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {LISTS[name]}", values))
            assert BY[name] in plan
            assert "B-TREE" not in plan
