"""How every store cancels and redelivers what the API asks for."""

import pytest

from gateway.core.model import AttemptResult, CallbackState, TaskState
from gateway.store import Store
from tests.claims import claim_tasks
from tests.lanes import claim_webhooks
from tests.storing import NOW, attempt_of, brought_to, claim, look, new, registered, settle


@pytest.mark.parametrize("state", [CallbackState.WAITING, CallbackState.PENDING])
async def test_what_is_not_over_can_be_cancelled(store: Store, state: CallbackState) -> None:
    """A waiting or pending callback is cancelled: it is never due again."""
    callback = await brought_to(store, state)
    assert await store.registry.cancel("ann", callback.id, NOW + 1) is state
    after = await look(store, callback)
    assert (after.state, after.next_attempt_at) == (CallbackState.CANCELLED, None)
    assert await claim_webhooks(store, NOW + 99_999, 10) == ([], None)


@pytest.mark.parametrize("state", [CallbackState.DELIVERED, CallbackState.DEAD, CallbackState.CANCELLED])
async def test_what_is_over_cannot_be_cancelled(store: Store, state: CallbackState) -> None:
    """The state is told and nothing changes."""
    callback = await brought_to(store, state)
    assert await store.registry.cancel("ann", callback.id, NOW + 1) is state
    assert await look(store, callback) == callback


async def test_cancelling_the_last_callback_idles_its_task(store: Store) -> None:
    """While somebody waits the task is polled; once nobody does it is not."""
    first = await registered(store)
    second = await registered(store, new(client="bob"))
    await store.registry.cancel("ann", first.id, NOW)
    assert (await look(store, second)).task.next_poll_at == NOW
    await store.registry.cancel("bob", second.id, NOW)
    task = (await look(store, second)).task
    assert (task.state, task.next_poll_at) == (TaskState.WAITING, None)
    assert await claim_tasks(store, "up", NOW + 99_999, 10) == ([], None)


async def test_cancelling_what_is_not_there_or_not_ones_own(store: Store) -> None:
    """None, and another client's callback is not touched."""
    callback = await registered(store)
    assert await store.registry.cancel("ann", "cb_none", NOW) is None
    assert await store.registry.cancel("bob", callback.id, NOW) is None
    assert await look(store, callback) == callback


@pytest.mark.parametrize("state", [CallbackState.PENDING, CallbackState.DELIVERED, CallbackState.DEAD])
async def test_a_redelivery_makes_a_webhook_due_afresh(store: Store, state: CallbackState) -> None:
    """Due now, with a whole budget, the same id and bytes, and the attempts numbered on."""
    other = await brought_to(store, CallbackState.DEAD, new("other"))
    callback = await registered(store)
    await settle(store, callback)
    due = await claim(store)
    result = AttemptResult.RETRY if state is CallbackState.PENDING else AttemptResult(state.value)
    next_at = NOW + 60_000 if state is CallbackState.PENDING else None
    await store.outbox.record(attempt_of(due, result, next_at=next_at))
    store.outbox.due.clear()
    found = await store.registry.redeliver("ann", callback.id, NOW + 50)
    assert store.outbox.due.is_set()
    after = await look(store, callback)
    assert found == (state, after)
    assert (after.state, after.next_attempt_at, after.delivered_at) == (CallbackState.PENDING, NOW + 50, None)
    again = await claim(store, NOW + 50)
    assert (again.id, again.body, again.attempts, again.budget_used) == (due.id, due.body, 1, 0)
    assert await look(store, other) == other


@pytest.mark.parametrize("state", [CallbackState.WAITING, CallbackState.CANCELLED])
async def test_what_is_owed_nothing_cannot_be_redelivered(store: Store, state: CallbackState) -> None:
    """A waiting callback has no webhook yet, a cancelled one none any more."""
    callback = await brought_to(store, state)
    assert await store.registry.redeliver("ann", callback.id, NOW) == (state, callback)
    assert await look(store, callback) == callback


async def test_redelivering_what_is_not_there_or_not_ones_own(store: Store) -> None:
    """None, and another client's callback is not touched."""
    callback = await brought_to(store, CallbackState.DEAD)
    assert await store.registry.redeliver("ann", "cb_none", NOW) is None
    assert await store.registry.redeliver("bob", callback.id, NOW) is None
    assert await look(store, callback) == callback


async def test_dead_callbacks_are_redelivered_by_when_they_died(store: Store) -> None:
    """From ``since`` on, up to but without ``until``, only this client's, and none that dies later than now."""
    dead = {}
    for n, client in enumerate(("ann", "ann", "ann", "ann", "bob")):
        callback = await registered(store, new(f"task-{n}", client=client))
        await settle(store, callback)
        record = attempt_of(await claim(store), AttemptResult.DEAD, at=NOW + n)
        await store.outbox.record(record)
        dead[n] = callback
    delivered = await brought_to(store, CallbackState.DELIVERED, new("fine"))
    died_at = NOW + 12  # an attempt that started at NOW takes 12 ms
    assert await store.registry.redeliver_dead("ann", died_at + 1, died_at + 3, NOW + 500) == 2
    states = {n: (await look(store, callback)).state for n, callback in dead.items()}
    assert [n for n, state in states.items() if state is CallbackState.PENDING] == [1, 2]
    assert (await look(store, dead[1])).next_attempt_at == NOW + 500
    assert (await look(store, delivered)).state is CallbackState.DELIVERED
    assert await store.registry.redeliver_dead("ann", 0, NOW, NOW + 500) == 0
    assert await store.registry.redeliver_dead("eve", 0, NOW + 9999, NOW + 500) == 0
    assert await store.registry.redeliver_dead("ann", 0, NOW + 9999, died_at + 2) == 1
    assert await store.registry.redeliver_dead("ann", 0, NOW + 9999, died_at + 3) == 1
