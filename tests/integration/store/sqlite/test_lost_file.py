"""The database file is taken away, replaced or written into while a gateway runs: nothing more is promised in it."""

import asyncio
import os
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.core.claims import Lane, Share
from gateway.core.clock import SystemClock
from gateway.core.errors import StoreError, StoreUnusable
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.store.sqlite.filewatch import ADVICE, FileWatch
from gateway.store.sqlite.store import SqliteStore
from tests.integration.app.test_clients import Hooks
from tests.running import Running, running

GONE = "the database file has been removed or moved"
REPLACED = "another file stands in the place of the database file"
CHANGED = "another program has written into the database file"
LOG_CHANGED = "another program has written into the database's write-ahead log"
NO_WAL = "the database's write-ahead log has been removed or replaced"


class Stand(Running):
    """A gateway in a folder of its own, a receiver and a simulated upstream."""

    simulator: SimulatedUpstream
    hooks: Hooks
    path: Path

    async def status(self, task_id: str) -> int:
        answer = await self.register(task_id, self.hooks.url)
        return answer.status_code

    async def reasons(self) -> list[str]:
        answer = await self.client.get("/readyz")
        reasons: list[str] = answer.json()["reasons"]
        assert answer.status_code == (503 if reasons else 200)
        return reasons

    async def look(self) -> None:
        """Look as the janitor does at each heartbeat."""
        with suppress(StoreError):
            await self.gateway.store.look()


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    folder = tmp_path / "data"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        simulator, hooks = SimulatedUpstream(SystemClock()), Hooks()
        url = await stack.enter_async_context(serve_simulator(simulator))
        hooks.url = await stack.enter_async_context(serve_asgi(hooks))
        one = await stack.enter_async_context(running(folder, url))
        made = Stand(one.gateway, one.client)
        made.simulator, made.hooks, made.path = simulator, hooks, folder / "gateway.db"
        assert await made.status("sim-never-0-first") == 201
        yield made


@pytest.fixture
def quick_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway looks at its file many times a second."""
    monkeypatch.setattr("gateway.loops.supervisor.HEARTBEAT_S", 0.1)


def size_of(path: Path) -> int:
    return path.stat().st_size


def put_back(away: Path, path: Path) -> None:
    away.replace(path)


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def empty_file(path: Path) -> None:
    path.unlink()
    path.touch()


def moved_over(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copyfile(path, copy)
    copy.replace(path)


def link_to_another(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))
    path.symlink_to("/dev/null")


def truncate(path: Path) -> None:
    os.truncate(path, 4096)


def truncate_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def copy_over(path: Path) -> None:
    other = path.with_name("other.db")
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE t (x)")
        db.execute("INSERT INTO t VALUES (zeroblob(200000))")
        db.commit()
    shutil.copyfile(other, path)


def copy_over_of_the_same_size(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def copy_over_of_another_gateways(path: Path) -> None:
    other = path.with_name("other.db")
    shutil.copyfile(path, other)
    with closing(sqlite3.connect(other)) as db:
        db.execute("UPDATE meta SET value = randomblob(32) WHERE key = 'secret_key'")
        db.commit()
    assert other.stat().st_size == path.stat().st_size
    shutil.copyfile(other, path)


def restore_another(path: Path) -> None:
    copy_over_of_another_gateways(path)
    path.with_name("gateway.db-wal").unlink()


def remove_log(path: Path) -> None:
    path.with_name("gateway.db-wal").unlink()


def replace_log(path: Path) -> None:
    path.with_name("gateway.db-wal").unlink()
    path.with_name("gateway.db-wal").touch()


def cut_log_short(path: Path) -> None:
    log = path.with_name("gateway.db-wal")
    os.truncate(log, log.stat().st_size // 2)


def empty_log(path: Path) -> None:
    os.truncate(path.with_name("gateway.db-wal"), 0)


def write_over_log(path: Path) -> None:
    with path.with_name("gateway.db-wal").open("r+b") as log:
        log.write(os.urandom(4096))


DEEDS = [
    (remove, GONE),
    (move, GONE),
    (move_folder, GONE),
    (remove_folder, GONE),
    (empty_file, REPLACED),
    (moved_over, REPLACED),
    (link_to_another, REPLACED),
    (truncate, CHANGED),
    (truncate_to_nothing, CHANGED),
    (copy_over, CHANGED),
    (copy_over_of_the_same_size, CHANGED),
    (copy_over_of_another_gateways, CHANGED),
    (restore_another, CHANGED),
    (remove_log, NO_WAL),
    (replace_log, NO_WAL),
    (cut_log_short, LOG_CHANGED),
    (empty_log, LOG_CHANGED),
    (write_over_log, LOG_CHANGED),
]


@pytest.mark.parametrize(("deed", "reason"), DEEDS)
@pytest.mark.parametrize("busy", [True, False])
async def test_nothing_is_promised_in_a_file_that_is_gone(
    stand: Stand, deed: Callable[[Path], None], reason: str, busy: bool
) -> None:
    """The first write is refused, or a heartbeat finds out; readiness says why, the log what to do, reads go on."""
    deed(stand.path)
    with capture_logs() as logs:
        if busy:
            answer = await stand.client.post(
                "/v1/callbacks", json={"taskId": "sim-never-0-b", "callbackUrl": stand.hooks.url}
            )
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert "retry-after" in answer.headers
        else:
            await stand.look()
        assert await stand.reasons() == [reason]
        assert await stand.status("sim-never-0-c") == 503
        assert (await stand.client.get("/healthz")).status_code == 200, "a restart would lose what can be saved"
    # The gateway may have looked between two steps of the deed, too.
    *_, told = [line for line in logs if line["event"] == "store.file_lost"]
    assert (told["error"], told["advice"]) == (reason, ADVICE[reason])
    if reason not in (CHANGED, LOG_CHANGED):  # of what others have written nobody can tell what it says
        assert len((await stand.client.get("/v1/callbacks")).json()["data"]) == 1


@pytest.mark.parametrize("deed", [deed for deed, reason in DEEDS if reason == CHANGED])
async def test_nothing_is_put_into_a_file_that_others_have_written(stand: Stand, deed: Callable[[Path], None]) -> None:
    """What stood in the log belongs to what was there before: mixed, the two would be nobody's."""
    deed(stand.path)
    content = stand.path.read_bytes()
    for _ in range(2):
        await stand.look()
        assert await stand.status("sim-never-0-c") == 503
    assert stand.path.read_bytes() == content


async def test_nothing_is_asked_or_sent_for_a_file_that_is_gone(stand: Stand) -> None:
    """Another gateway may have begun on the file that stands there now: no poll and no webhook comes from this one."""
    callback_id = await stand.registered("sim-success-0-x", stand.hooks.url)
    await stand.delivered(callback_id)
    stand.path.unlink()
    await stand.look()
    store = stand.gateway.store
    for claim in (
        store.tasks.waiting("aigptimage", 2**50),
        store.tasks.longest_due("aigptimage", "", 2**50, 10),
        store.tasks.never_polled("aigptimage", 0, 2**50),
        store.tasks.claim([]),
        store.outbox.claim(lambda _: [Share(Lane("a", stand.hooks.url), 1, True)], 2**50),
    ):
        with pytest.raises(StoreError, match=GONE[1:]):
            await claim
    assert (await stand.client.post(f"/v1/callbacks/{callback_id}/redeliver")).status_code == 503
    assert len(stand.hooks.posts) == 1


@pytest.mark.usefixtures("quick_heart")
@pytest.mark.parametrize("whole", [True, False])
async def test_a_file_that_comes_back_is_used_again(stand: Stand, whole: bool) -> None:
    """The very file, put back where it was: the gateway goes on by itself, with all that was promised before."""
    here, there = (
        (stand.path.parent, stand.path.parent.with_name("x")) if whole else (stand.path, Path(f"{stand.path}x"))
    )
    with capture_logs() as logs:
        here.rename(there)
        await stand.look()
        assert await stand.reasons() == [GONE]
        there.rename(here)
        await stand.becomes("/readyz", lambda answer: answer.status_code == 200)
    told = [line["event"] for line in logs if line["event"].startswith("store.file_")]
    assert told == ["store.file_lost", "store.file_back"]
    assert await stand.status("sim-never-0-again") == 201
    assert len((await stand.client.get("/v1/callbacks")).json()["data"]) == 2


@pytest.mark.parametrize("deed", [remove, move, empty_file, remove_log])
async def test_all_that_was_promised_is_in_the_file_that_was_taken_away(
    stand: Stand, tmp_path: Path, deed: Callable[[Path], None]
) -> None:
    """What stood in the log goes into the file at once; what a new gateway finds at the path is no other's log."""
    keep = tmp_path / "kept.db"
    os.link(stand.path, keep)
    deed(stand.path)
    await stand.look()
    with closing(sqlite3.connect(f"{keep.as_uri()}?immutable=1", uri=True)) as db:
        assert db.execute("SELECT count(*) FROM callbacks").fetchall() == [(1,)]
    log = stand.path.with_name("gateway.db-wal")
    assert not log.exists() or log.stat().st_size == 0


async def test_a_backup_can_be_made_of_a_file_that_was_removed(stand: Stand) -> None:
    """So that nothing is lost: it is put in the file's place."""
    stand.path.unlink()
    await stand.look()
    backup = stand.path.with_name("saved.db")
    await stand.gateway.store.backup(backup)
    after = SqliteStore(backup)
    await after.open()
    assert len(await after.registry.list_callbacks(None, state=None, task_id=None, before_seq=None, limit=10)) == 1
    await after.close()


@pytest.mark.parametrize("writes", [1, 300])
async def test_what_only_looks_like_it_takes_nothing_out_of_service(tmp_path: Path, writes: int) -> None:
    """A time that backup programs set, a further name, rights that are taken: the file is the same."""
    path = tmp_path / "db"
    store = SqliteStore(path)
    await store.open()
    for number in range(writes):
        await store.swap(f"key-{number}", None, b"x" * 40_000)
    os.utime(path, (1, 1))
    os.link(path, tmp_path / "another name")
    path.chmod(0o400)
    await store.look()
    path.touch()
    await store.swap("key", None, b"")
    await store.look()
    assert (store.lost, store.failing) == (None, None)
    # The look itself, which opens the file, has not let go of it.
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM tasks')"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, path, stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    assert b"database is locked" in errors
    await store.close()


async def test_a_file_that_goes_during_the_start_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it stays open, and the reason is told."""
    path = tmp_path / "db"
    begin = FileWatch.begin

    def gone(watch: FileWatch, db: sqlite3.Connection) -> None:
        path.unlink()
        begin(watch, db)

    monkeypatch.setattr(FileWatch, "begin", gone)
    store = SqliteStore(path)
    with pytest.raises(StoreUnusable, match="No such file"):
        await store.open()
    await store.close()


async def test_a_read_only_file_system_is_noticed_without_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is red while it is so; with it writable again the gateway goes on."""
    store = SqliteStore(tmp_path / "db")
    await store.open()
    found = os.statvfs(tmp_path)
    read_only = os.statvfs_result((*tuple(found)[:8], found.f_flag | os.ST_RDONLY, found.f_namemax))
    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", lambda path: read_only)
        with pytest.raises(StoreError, match="read-only"):
            await store.look()
        assert store.lost == store.failing == "the file system of the database is read-only"
    await store.look()
    assert (store.lost, store.failing) == (None, None)
    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", lambda path: read_only)
        with pytest.raises(StoreError, match="read-only"):
            await store.swap("key", None, b"")
    assert await store.swap("key", None, b"")
    await store.close()


async def test_many_writes_and_checkpoints_are_its_own(tmp_path: Path) -> None:
    """What the gateway itself writes into the file is never taken for another's."""
    store = SqliteStore(tmp_path / "db")
    await store.open()
    for number in range(300):
        await store.swap(f"key-{number}", None, b"x" * 40_000)
        await store.look()
    path = tmp_path / "db"
    size = size_of(path)
    assert size > 10_000_000
    os.truncate(path, size - 4096)  # larger than it was at the start, and whole as far as one looks
    with pytest.raises(StoreError, match=CHANGED[1:]):
        await store.look()
    await store.close()


def test_a_look_says_why_where_it_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that fails is a reason; a folder that may not be looked into is none."""
    watch = FileWatch(tmp_path / "db")

    def fails(error: OSError) -> Callable[[Path], os.stat_result]:
        def stat(path: Path) -> os.stat_result:
            raise error

        return stat

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", fails(OSError(5, "Input/output error")))
        assert watch.problem() == "the database file cannot be looked at (Input/output error)"
        watch.wrote()  # as much as it can
        patched.setattr(Path, "stat", fails(PermissionError(13, "Permission denied")))
        assert watch.problem() is None


async def test_a_log_whose_time_was_set_is_still_ours(stand: Stand) -> None:
    """Backup programs do that: nothing is lost, and nothing stops."""
    os.utime(stand.path.with_name("gateway.db-wal"), (1_000_000_000, 1_000_000_000))
    await stand.look()
    assert await stand.status("sim-never-0-again") == 201
    assert (await stand.client.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("deed", "reason"), [(truncate, CHANGED), (cut_log_short, LOG_CHANGED), (write_over_log, LOG_CHANGED)]
)
async def test_what_is_cut_short_in_the_middle_of_a_write_is_not_taken_for_its_work(
    stand: Stand, deed: Callable[[Path], None], reason: str
) -> None:
    """The next look would find all as that write left it."""
    database = stand.gateway.store._database
    await database.transaction(lambda db: deed(stand.path))
    assert await stand.status("sim-never-0-again") == 503
    assert await stand.reasons() == [reason]


@pytest.mark.usefixtures("quick_heart")
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_grew_while_it_was_away_is_used_again(stand: Stand, replaced: bool) -> None:
    """What was promised last is put into it wherever it is: that is no other program's work."""
    many = [{"taskId": f"sim-never-0-{i}", "callbackUrl": f"{stand.hooks.url}/{'x' * 1000}"} for i in range(200)]
    assert (await stand.client.post("/v1/callbacks/batch", json={"callbacks": many})).status_code == 200
    size = size_of(stand.path)
    away = Path(f"{stand.path}x")
    stand.path.rename(away)
    if replaced:
        stand.path.write_bytes(b"small")
    await stand.look()
    assert await stand.reasons() == [REPLACED if replaced else GONE]
    assert size_of(away) > size
    put_back(away, stand.path)
    await stand.becomes("/readyz", lambda answer: answer.status_code == 200)
    assert await stand.status("sim-never-0-again") == 201
