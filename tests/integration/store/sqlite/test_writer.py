"""Writes that wait share a transaction of SQLite's, and each of them fails alone."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.core.errors import StoreDefect, StoreError, StoreRefused
from gateway.core.model import Outcome, Settlement, TaskState
from gateway.store.sqlite.store import SqliteStore
from tests.claims import claim_tasks
from tests.sqlitefile import connection, new, opened
from tests.storing import NOW


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


@pytest.mark.parametrize(("writes", "rows", "commits"), [(512, 1, 1), (513, 1, 2), (2, 257, 2), (2, 256, 1)])
async def test_a_transaction_has_a_bounded_size(store: SqliteStore, writes: int, rows: int, commits: int) -> None:
    """No reader waits for more than some five hundred rows, or one write."""
    statements: list[str] = []
    await connection(store).set_trace_callback(statements.append)
    await asyncio.gather(*(store.registry.register([new() for _ in range(rows)]) for _ in range(writes)))
    assert statements.count("COMMIT") == commits


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
        ({"task_id": "\ud800"}, StoreRefused),
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
