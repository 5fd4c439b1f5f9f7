"""Which webhooks SQLite's store finds due, what that costs, and claims that come in between."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.core.claims import Lane
from gateway.core.errors import StoreError
from gateway.core.model import Outcome, Settlement, TaskState
from gateway.store.engine import Due
from gateway.store.sqlite.store import SqliteStore
from tests.lanes import claim_webhooks, told_of
from tests.sqlitefile import failed, new, opened, settled
from tests.storing import NOW


async def test_a_large_body_of_an_earlier_version_is_sent_as_it_is(path: Path) -> None:
    """It was stored with its callback, and what its task ended with since may be something else."""
    async with opened(path) as store:
        await settled(store, new())
    stored = b"x" * 100_000
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE callbacks SET body = ?", (stored,))
    async with opened(path) as store:
        (due,), _ = await claim_webhooks(store, NOW, 1)
        assert (due.body, due.body_bytes) == (None, len(stored))
        assert await store.outbox.body(due) == stored


async def test_an_attempt_that_is_recorded_beside_a_claim_is_claimed_again(store: SqliteStore) -> None:
    """The claim has passed it over as another's, and the record has told of it before the claim was at its end."""
    (made,) = await store.registry.register([new()])
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    seq = made.callback.task.seq
    await store.tasks.settle(Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=NOW, polls=1))
    (claim,), _ = await claim_webhooks(store, NOW, 9)
    store.outbox.note(claim.lane, NOW)
    recording = asyncio.create_task(store.outbox.record(failed(claim, NOW)))
    found, _ = await claim_webhooks(store, NOW, 9)
    await recording
    found += (await claim_webhooks(store, NOW, 9))[0]
    assert [one.id for one in found] == [made.callback.id]


async def test_what_falls_due_while_a_claim_waits_for_a_backup_is_in_it(store: SqliteStore) -> None:
    """The next claim would wait for more of it."""
    (made,) = await store.registry.register([new()])
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    seq = made.callback.task.seq
    await store.tasks.settle(Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=NOW, polls=1))
    (on,) = await told_of(store, NOW)
    async with store._database._lock.alone():
        claiming = asyncio.create_task(claim_webhooks(store, NOW, 9))
        for _ in range(5):
            await asyncio.sleep(0)
        store.outbox.note(on, NOW)
    found, next_due_at = await claiming
    assert ([one.id for one in found], next_due_at) == ([made.callback.id], None)


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


async def test_the_clock_may_be_set_while_a_claim_fails(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows it has its turn while the claim reads: what was due when that began is not due an hour later."""
    callback = new()
    await settled(store, callback)

    async def set_meanwhile(*_: object) -> Due:
        await store.follow_clock(-3_600_000)
        raise StoreError("The database could not be read.")

    with monkeypatch.context() as patch:
        patch.setattr(store._engine.webhooks, "claim", set_meanwhile)
        with pytest.raises(StoreError):
            await claim_webhooks(store, NOW, 10)
    (due,), _ = await claim_webhooks(store, NOW - 3_600_000, 10)
    assert due.id == callback.id


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
