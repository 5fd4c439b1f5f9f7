"""SQLite's store in step with the clock, and what it keeps of what is over."""

import asyncio

from gateway.core.claims import AttemptRecord
from gateway.core.model import Attempt, AttemptResult, Outcome, Settlement, TaskState
from gateway.store.sqlite.store import SqliteStore
from tests.claims import claim_tasks
from tests.lanes import claim_webhooks
from tests.sqlitefile import new
from tests.storing import NOW


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


async def test_what_waits_moves_with_the_clock_and_what_comes_after_does_not(store: SqliteStore) -> None:
    """A registration asked for just before the clock is followed has the old time, one just after it the new one."""
    before, after = new(task_id="before"), new(task_id="after", created_at=NOW - 3_600_000)
    results = await asyncio.gather(
        *(store.registry.register([before]), store.follow_clock(-3_600_000), store.registry.register([after])),
    )
    assert results[1] is None
    found = [await store.registry.get_callback("ann", one.id) for one in (before, after)]
    assert [one and one.expires_at for one in found] == [NOW, NOW]
