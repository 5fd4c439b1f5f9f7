"""How every store is kept small, in step with the clock, and what of it outlives a process: ``Housekeeping``."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from msgspec.structs import replace

from gateway.core.model import (
    AttemptResult,
    CallbackState,
    PollRecord,
    TaskState,
)
from gateway.store import Store
from tests.claims import claim_tasks
from tests.lanes import claim_webhooks
from tests.storing import (
    NOW,
    NewStore,
    attempt_of,
    brought_to,
    claim,
    claim_task,
    lapse,
    look,
    new,
    opened,
    registered,
)


async def test_pruning_removes_what_ended_long_ago(store: Store) -> None:
    """Delivered and cancelled ones by the first limit, dead ones by the second; what is not over stays."""
    made = {state: await brought_to(store, state, new(f"task-{state}")) for state in CallbackState}
    ended_at = NOW + 12
    assert await store.prune(NOW, ended_at, 100) == 0
    assert await store.prune(ended_at + 1, ended_at, 100) == 2
    gone = {state for state, c in made.items() if await store.registry.get_callback("ann", c.id) is None}
    assert gone == {CallbackState.DELIVERED, CallbackState.CANCELLED}
    assert await store.registry.list_attempts("ann", made[CallbackState.DELIVERED].id) is None
    assert await store.registry.get_task("ann", "task-delivered") is None
    assert await store.prune(0, ended_at + 1, 100) == 1
    assert await store.registry.get_callback("ann", made[CallbackState.DEAD].id) is None
    assert await store.prune(ended_at * 2, ended_at * 2, 100) == 0
    assert (await look(store, made[CallbackState.WAITING])).state is CallbackState.WAITING
    assert (await look(store, made[CallbackState.PENDING])).state is CallbackState.PENDING


async def test_a_task_goes_with_its_last_callback(store: Store) -> None:
    """As long as one callback is left the task stays, with its outcome for whoever registers late."""
    await registered(store, new("other"))
    first = await brought_to(store, CallbackState.DELIVERED)
    second = await registered(store, new(client="bob"))
    assert await store.prune(NOW + 99_999, 0, 100) == 1
    assert await store.registry.get_callback("ann", first.id) is None
    assert (await registered(store, new(client="eve"))).state is CallbackState.PENDING
    await store.registry.cancel("bob", second.id, NOW)
    (eve,) = await store.registry.list_callbacks("eve", state=None, task_id=None, before_seq=None, limit=10)
    await store.registry.cancel("eve", eve.id, NOW)
    assert await store.prune(NOW + 99_999, 0, 100) == 2
    anew = await registered(store)
    assert (anew.task.state, anew.task.polls) == (TaskState.WAITING, 0)  # nothing was left of the old one


async def test_pruning_stops_at_its_limit(store: Store) -> None:
    """No write waits long: the rest goes in the next rounds."""
    for registration in await store.registry.register([new(f"task-{n}") for n in range(5)]):
        await store.registry.cancel("ann", registration.callback.id, NOW)
    assert [await store.prune(NOW + 1, 0, 2) for _ in range(4)] == [2, 2, 1, 0]


async def test_an_attempt_on_a_pruned_callback_is_dropped(store: Store) -> None:
    """Cancelled and pruned while its attempt was under way: no error, and no other callback inherits it."""
    callback = await brought_to(store, CallbackState.PENDING)
    due = await claim(store)
    await store.registry.cancel("ann", callback.id, NOW)
    await store.prune(NOW + 1, 0, 100)
    other = await brought_to(store, CallbackState.PENDING, new("task-2"))
    assert other.seq > callback.seq
    await store.outbox.record(attempt_of(due, AttemptResult.DELIVERED))
    after = await look(store, other)
    assert (after.state, after.attempts) == (CallbackState.PENDING, 0)


@pytest.mark.parametrize("new_store", ["sqlite"], indirect=True)
async def test_what_waits_moves_with_a_clock_that_is_set(store: Store) -> None:
    """A running task with all its times, what waits on it, and what is owed; what is over or idle stays as it was."""
    step_ms = -3_600_000
    running = await registered(store, new("running", timeout_s=60))
    due = await claim_task(store)
    await store.tasks.reschedule(
        PollRecord(seq=due.seq, upstream="up", polled_at=NOW + 5, next_poll_at=NOW + 9, error=None, born_at=NOW - 7)
    )
    owed = await brought_to(store, CallbackState.PENDING, new("owed", at=NOW + 20))
    over = [
        await brought_to(store, state, new(f"over-{state}"))
        for state in (CallbackState.DELIVERED, CallbackState.DEAD, CallbackState.CANCELLED)
    ]
    await store.follow_clock(step_ms)
    after = await look(store, running)
    assert after.expires_at == running.expires_at + step_ms
    (due,), _ = await claim_tasks(store, "up", NOW, 10)
    assert (due.created_at, due.born_at, due.last_polled_at, due.due_at) == (
        NOW + step_ms,
        NOW - 7 + step_ms,
        NOW + 5 + step_ms,
        NOW + 9 + step_ms,
    )
    assert await claim_webhooks(store, NOW + step_ms - 1, 10) == ([], NOW + step_ms)
    assert (await claim(store, NOW + step_ms)).id == owed.id
    assert (await look(store, owed)).expires_at == owed.expires_at
    assert [await look(store, callback) for callback in over] == over


@pytest.mark.parametrize("new_store", ["sqlite"], indirect=True)
async def test_a_clock_that_is_set_wakes_the_loops(store: Store) -> None:
    """What they know of when to come round is of the old time."""
    await registered(store)
    store.tasks.due("up").clear()
    store.outbox.due.clear()
    await store.follow_clock(1000)
    assert store.tasks.due("up").is_set()
    assert store.outbox.due.is_set()


async def test_what_is_saved_is_loaded(new_store: NewStore) -> None:
    """The last value under its key, in the next life too; nothing under another."""
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        assert await store.load("queries") is None
        assert await store.swap("queries", None, b"1")
        assert all(await asyncio.gather(store.swap("queries", b"1", b"2"), store.swap("creates", None, b"3")))
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        assert [await store.load(key) for key in ("queries", "creates", "else")] == [b"2", b"3", None]


async def test_a_value_that_somebody_else_has_changed_stays(store: Store) -> None:
    """Whoever knows an earlier one, or of none, changes nothing and hears so; of two at once one does."""
    assert not await store.swap("queries", b"", b"1")
    assert await store.swap("queries", None, b"1")
    assert not await store.swap("queries", None, b"2")
    assert not await store.swap("queries", b"2", b"3")
    assert await store.load("queries") == b"1"
    first, second = await asyncio.gather(store.swap("queries", b"1", b"4"), store.swap("queries", b"1", b"5"))
    assert first is not second
    assert await store.load("queries") == (b"4" if first else b"5")


async def test_a_store_can_be_probed_again_and_again(store: Store) -> None:
    """It is well, and nothing else is changed."""
    await store.probe()
    await store.probe()
    assert store.failing is None


async def test_everything_survives_a_restart(new_store: NewStore) -> None:
    """Callbacks in every state, their tasks and attempts; claims do not, so that what was in flight is due again."""
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        made = [await brought_to(store, state, new(f"task-{state}")) for state in CallbackState]
        before = [await look(store, callback) for callback in made]
        attempts = [await store.registry.list_attempts("ann", callback.id) for callback in made]
        claimed = await claim(store)
        polled = await claim_task(store)
        await lapse(store)
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        assert [await look(store, callback) for callback in made] == before
        assert [await store.registry.list_attempts("ann", callback.id) for callback in made] == attempts
        again = await claim(store)
        assert again == replace(claimed, fence=again.fence)
        assert await claim_task(store) == polled
