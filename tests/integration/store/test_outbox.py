"""How every store keeps the webhooks that are to be sent: written against the ``Outbox`` port."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from gateway.core.claims import Lane, Share
from gateway.core.memory import SMALL
from gateway.core.model import AttemptResult, CallbackState, Outcome, TaskState
from gateway.core.urls import receiver_of
from gateway.store import Store
from gateway.webhook.body import body_template, webhook_body
from tests.lanes import claim_webhooks, lane, told_of
from tests.storing import (
    NOW,
    NewStore,
    attempt_of,
    brought_to,
    claim,
    lapse,
    look,
    new,
    opened,
    registered,
    settle,
)


async def test_a_large_webhook_is_read_by_itself(new_store: NewStore) -> None:
    """A claim brings only what is small; the rest is asked for, with the same bytes in each life."""
    large = Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t","result":"%b"}' % (b"x" * SMALL))
    bodies = []
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        callback = await registered(store, new(metadata=b'{"n":1}'))
        await settle(store, callback, large, at=NOW + 1)
    for _ in range(2):
        async with AsyncExitStack() as stack:
            store = await opened(new_store(), stack)
            due = await claim(store, NOW + 1)
            assert (due.body, due.body_bytes) == (None, len(large.data))
            bodies.append(webhook_body(due.id, await store.outbox.body(due) or b""))
            task = await store.registry.get_task("ann", "task-1")
            assert task is not None
            assert (task.outcome, task.outcome_bytes) == (None, len(large.data))
            assert await store.registry.outcome(task.seq) == large.data
            await lapse(store)
    assert bodies == [body_template(large, NOW + 1).fill(callback.id, b'{"n":1}')] * 2


async def test_a_claim_tells_what_its_webhook_is_a_part_of(store: Store) -> None:
    """As its registration had it; null where that had none."""
    traces = ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 rojo=1", None]
    for number, trace in enumerate(traces):
        callback = await registered(store, new(f"task-{number}", trace=trace))
        await settle(store, callback, at=NOW + number)
    owed, _ = await claim_webhooks(store, NOW + 1, 2)
    assert [one.trace for one in owed] == traces


async def test_a_claimed_webhook_that_was_cancelled_has_no_body(store: Store) -> None:
    """Its attempt may have waited for room for long, and its row may be gone."""
    callback = await registered(store)
    await settle(store, callback)
    due = await claim(store)
    assert await store.outbox.body(due) == due.body
    await store.registry.cancel("ann", callback.id, NOW)
    assert await store.outbox.body(due) is None
    assert await store.prune(NOW + 1, 0, 10) == 1
    assert await store.outbox.body(due) is None


async def test_webhooks_are_claimed_once_the_longest_due_first(store: Store) -> None:
    """As with tasks: in order, at most what was asked for, and with the time of the next one."""
    for n in range(4):
        await settle(store, await registered(store, new(f"task-{n}")), at=NOW - n)
    await settle(store, await registered(store, new("later")), at=NOW + 700)
    first, next_due_at = await claim_webhooks(store, NOW, 1)
    assert [due.due_at for due in first] == [NOW - 3]
    assert next_due_at == NOW - 2
    rest, next_due_at = await claim_webhooks(store, NOW, 10)
    assert [due.due_at for due in rest] == [NOW - 2, NOW - 1, NOW]
    assert next_due_at == NOW + 700
    assert await claim_webhooks(store, NOW, 10) == ([], NOW + 700)


async def test_each_receiver_has_its_own_next_webhook(store: Store) -> None:
    """What is due with another one does not make the loop look for what it has already."""
    for at, host in ((NOW, "a"), (NOW + 100, "a"), (NOW + 50, "b")):
        callback = await registered(store, new(f"task-{at}", url=f"https://{host}.example.com/"))
        await settle(store, callback, at=at)
    for at, next_at in ((NOW, NOW + 50), (NOW + 50, NOW + 100), (NOW + 100, None)):
        (due,), next_due_at = await claim_webhooks(store, at, 10)
        assert (due.due_at, next_due_at) == (at, next_at)


@pytest.mark.parametrize("lanes", [4, 5])
async def test_any_number_of_lanes_is_found_at_the_start(
    new_store: NewStore, monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    """They are read a part at a time, along their order."""
    monkeypatch.setattr("gateway.store.outbox._LANES_AT_ONCE", 2)
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        for number in range(lanes):
            await brought_to(store, CallbackState.PENDING, new(f"task-{number}", url=f"https://{number}.example.com"))
    async with AsyncExitStack() as stack:
        told = await told_of(await opened(new_store(), stack), NOW)
        assert sorted(one.receiver for one in told) == [f"https://{number}.example.com" for number in range(lanes)]


async def test_a_claim_takes_of_each_lane_what_its_share_says(store: Store) -> None:
    """As many, and of retries only with leave; what is left is told of again, but for retries that have none."""
    urls = [f"https://{host}.example.com/{number}" for host in ("a", "b", "c") for number in range(3)]
    made = await store.registry.register([new(url=url) for url in urls])
    await settle(store, made[0].callback)
    due, _ = await claim_webhooks(store, NOW, 9)
    for one in due:
        if one.lane == lane("c"):
            await store.outbox.record(attempt_of(one, AttemptResult.RETRY, next_at=NOW + 1))
    await store.outbox.release([one for one in due if one.lane != lane("c")])
    assert sorted(await told_of(store, NOW + 1)) == [lane("a"), lane("b"), lane("c")]
    assert await told_of(store, NOW + 1) == []
    shares = [Share(lane("a"), 2, False), Share(lane("b"), 9, False), Share(lane("c"), 2, False)]
    found, only_retries, next_due_at = await store.outbox.claim(lambda _: shares, NOW + 1)
    assert Counter(one.lane for one in found) == {lane("a"): 2, lane("b"): 3}
    assert (only_retries, next_due_at) == ([lane("c")], NOW)
    assert await told_of(store, NOW + 1) == [lane("a")]
    found, only_retries, next_due_at = await store.outbox.claim(lambda _: [Share(lane("c"), 2, True)], NOW + 1)
    assert ([one.lane for one in found], only_retries, next_due_at) == ([lane("c")] * 2, [], NOW + 1)


async def test_what_falls_due_between_the_look_and_the_claim_is_told_of_once(store: Store) -> None:
    """It is claimed with what was there: a look at nothing is not asked for."""
    await brought_to(store, CallbackState.PENDING, new("a"))
    (on,) = await told_of(store, NOW)
    await brought_to(store, CallbackState.PENDING, new("b"))
    found, _, next_due_at = await store.outbox.claim(lambda _: [Share(on, 9, True)], NOW)
    assert (len(found), next_due_at) == (2, None)
    assert await told_of(store, NOW) == []


async def test_no_webhook_is_claimed_twice_at_once(store: Store) -> None:
    """Callers that ask at the same moment get different webhooks, and together all of them."""
    made = await store.registry.register([new(url=f"https://app.example.com/{n}") for n in range(40)])
    await settle(store, made[0].callback)
    shares = [Share(on, 7, True) for on in await told_of(store, NOW)]
    found = await asyncio.gather(*(store.outbox.claim(lambda _: shares, NOW) for _ in range(8)))
    assert sorted(one.id for claimed in found for one in claimed.webhooks) == sorted(r.callback.id for r in made)


async def test_a_released_webhook_can_be_claimed_again(store: Store) -> None:
    """A claim that is given back leaves no trace and wakes the deliverer."""
    await brought_to(store, CallbackState.PENDING)
    due = await claim(store)
    assert (await claim_webhooks(store, NOW, 10))[0] == []
    store.outbox.due.clear()
    await store.outbox.release([due])
    assert store.outbox.due.is_set()
    again = await claim(store)
    assert again == replace(due, fence=again.fence)


async def test_a_webhooks_claim_holds_until_its_attempt_is_committed(store: Store) -> None:
    """Otherwise a webhook that is still being recorded would be sent again."""
    await brought_to(store, CallbackState.PENDING)
    due = await claim(store)
    write = asyncio.create_task(store.outbox.record(attempt_of(due, AttemptResult.RETRY, next_at=NOW + 100)))
    while not write.done():
        assert (await claim_webhooks(store, NOW, 10))[0] == []
    await write
    assert await claim_webhooks(store, NOW, 10) == ([], NOW + 100)


async def test_a_delivered_webhook_is_done(store: Store) -> None:
    """2xx: delivered when the attempt ended, nothing left to send."""
    callback = await brought_to(store, CallbackState.PENDING)
    due = await claim(store)
    store.outbox.due.clear()
    await store.outbox.record(attempt_of(due, AttemptResult.DELIVERED, at=NOW + 5))
    assert not store.outbox.due.is_set()
    after = await look(store, callback)
    assert (after.state, after.attempts, after.delivered_at) == (CallbackState.DELIVERED, 1, NOW + 17)
    assert (after.next_attempt_at, after.last_error) == (None, None)
    assert await claim_webhooks(store, NOW + 99_999, 10) == ([], None)


async def test_a_failed_attempt_is_retried_with_the_same_bytes(store: Store) -> None:
    """RETRY: due again when the schedule says, the count and the error kept, the body unchanged."""
    callback = await brought_to(store, CallbackState.PENDING)
    due = await claim(store)
    store.outbox.due.clear()
    await store.outbox.record(attempt_of(due, AttemptResult.RETRY, next_at=NOW + 5000, error="503"))
    assert store.outbox.due.is_set()  # the deliverer did not know of it while it was claimed
    after = await look(store, callback)
    assert (after.state, after.attempts, after.next_attempt_at) == (CallbackState.PENDING, 1, NOW + 5000)
    assert (after.last_error, after.delivered_at) == ("503", None)
    again = await claim(store, NOW + 5000)
    assert (again.body, again.attempts, again.budget_used) == (due.body, 1, 1)


async def test_the_last_failed_attempt_leaves_a_dead_callback(store: Store) -> None:
    """DEAD: kept with its error, never due."""
    callback = await brought_to(store, CallbackState.PENDING)
    await store.outbox.record(attempt_of(await claim(store), AttemptResult.DEAD, error="410"))
    after = await look(store, callback)
    assert (after.state, after.last_error, after.delivered_at) == (CallbackState.DEAD, "410", None)
    assert await claim_webhooks(store, NOW + 99_999, 10) == ([], None)


async def test_an_interrupted_attempt_does_not_count(store: Store) -> None:
    """It is logged and numbered, but the schedule's budget is untouched."""
    callback = await brought_to(store, CallbackState.PENDING)
    await store.outbox.record(attempt_of(await claim(store), AttemptResult.INTERRUPTED, next_at=NOW + 1))
    after = await look(store, callback)
    assert (after.state, after.attempts) == (CallbackState.PENDING, 1)
    again = await claim(store, NOW + 1)
    assert (again.attempts, again.budget_used) == (1, 0)


async def test_a_callback_cancelled_during_its_attempt_stays_cancelled(store: Store) -> None:
    """Even a delivery does not bring it back; the attempt is in the log all the same."""
    for result in (AttemptResult.DELIVERED, AttemptResult.RETRY):
        callback = await brought_to(store, CallbackState.PENDING, new(result.value))
        due = await claim(store)
        await store.registry.cancel("ann", callback.id, NOW)
        await store.outbox.record(attempt_of(due, result, next_at=NOW + 1 if result is AttemptResult.RETRY else None))
        after = await look(store, callback)
        assert (after.state, after.attempts) == (CallbackState.CANCELLED, 1)
        assert (after.next_attempt_at, after.delivered_at) == (None, None)
        assert len(await store.registry.list_attempts("ann", callback.id) or []) == 1


@pytest.mark.parametrize("result", [AttemptResult.RETRY, AttemptResult.DEAD, AttemptResult.INTERRUPTED])
async def test_a_redelivery_fences_off_the_attempt_before_it(store: Store, result: AttemptResult) -> None:
    """The fresh budget is not spent, nor the callback buried, by an attempt that was under way."""
    callback = await brought_to(store, CallbackState.PENDING)
    due = await claim(store)
    await store.registry.redeliver("ann", callback.id, NOW + 10)
    store.outbox.due.clear()
    next_at = None if result is AttemptResult.DEAD else NOW + 60_000
    await store.outbox.record(attempt_of(due, result, next_at=next_at, error="503"))
    assert store.outbox.due.is_set()
    after = await look(store, callback)
    assert (after.state, after.next_attempt_at, after.attempts) == (CallbackState.PENDING, NOW + 10, 1)
    again = await claim(store, NOW + 10)
    assert (again.budget_used, again.attempts) == (0, 1)


async def test_good_news_is_taken_despite_a_redelivery(store: Store) -> None:
    """The receiver has the webhook: sending it once more would serve nobody."""
    callback = await brought_to(store, CallbackState.PENDING)
    due = await claim(store)
    await store.registry.redeliver("ann", callback.id, NOW + 10)
    await store.outbox.record(attempt_of(due, AttemptResult.DELIVERED))
    assert (await look(store, callback)).state is CallbackState.DELIVERED


async def test_an_attempt_recorded_twice_is_logged_once(store: Store) -> None:
    """A record that is repeated because its first answer was lost replaces itself."""
    callback = await brought_to(store, CallbackState.PENDING)
    record = attempt_of(await claim(store), AttemptResult.DELIVERED)
    await store.outbox.record(record)
    await store.outbox.record(record)
    assert await store.registry.list_attempts("ann", callback.id) == [record.attempt]


async def test_attempts_are_never_numbered_twice(store: Store) -> None:
    """Though the record of one comes once more after the next one's: the one after them is the third."""
    await brought_to(store, CallbackState.PENDING)
    first = attempt_of(await claim(store), AttemptResult.RETRY, next_at=NOW + 1)
    await store.outbox.record(first)
    await store.outbox.record(attempt_of(await claim(store, NOW + 1), AttemptResult.RETRY, next_at=NOW + 2))
    await store.outbox.record(first)
    assert (await claim(store, NOW + 2)).attempts == 2


async def test_a_retry_is_found_though_the_clock_was_set_back_during_its_attempt(store: Store) -> None:
    """The next attempt is due by the new time, not an hour later by the old one."""
    await brought_to(store, CallbackState.PENDING, new(at=NOW + 3_600_000))
    due = await claim(store, NOW + 3_600_000)
    await store.outbox.record(attempt_of(due, AttemptResult.RETRY, at=NOW, next_at=NOW + 5000))
    assert await claim_webhooks(store, NOW, 10) == ([], NOW + 5000)
    assert (await claim(store, NOW + 5000)).seq == due.seq


async def test_a_nul_in_what_others_say_is_shown_as_a_replacement(store: Store) -> None:
    """Databases end texts there: the rest of what a receiver said must not be lost with it."""
    callback = await brought_to(store, CallbackState.PENDING)
    record = attempt_of(
        await claim(store, NOW), AttemptResult.RETRY, at=NOW, next_at=NOW + 1, error="a\0b", excerpt="\0busy\0\n"
    )
    await store.outbox.record(record)
    (attempt,) = await store.registry.list_attempts("ann", callback.id) or []
    assert (attempt.error, attempt.excerpt) == ("a\ufffdb", "\ufffdbusy\ufffd\n")


async def test_the_first_webhook_of_a_receiver_is_found_after_a_restart(new_store: NewStore) -> None:
    """However late its others are due."""
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        for number, at in enumerate((NOW + 50, NOW, NOW + 90)):
            await settle(store, await registered(store, new(f"task-{number}")), at=at)
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        assert await claim_webhooks(store, NOW - 1, 10) == ([], NOW)
        assert (await claim(store)).due_at == NOW


@pytest.mark.parametrize("comes", [True, False])
async def test_only_of_an_emptied_lane_nobody_need_be_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, comes: bool
) -> None:
    """A webhook that comes while the lane's others are claimed is not among those: other replicas hear of it."""
    emptied: list[Lane] = []
    made = await registered(store)
    await settle(store, made)
    its = Lane(made.client, receiver_of(made.url))
    claims: Any = store.outbox._claims
    found = claims.claim

    async def claim(*about: Any) -> Any:
        due = await found(*about)
        if comes:
            store.outbox.tell(its, NOW + 5)
        return due

    monkeypatch.setattr(claims, "claim", claim)
    monkeypatch.setattr(type(store.outbox._engine.hints), "emptied", lambda _, lane: emptied.append(lane))
    due, next_due_at = await claim_webhooks(store, NOW, 10)
    assert [one.id for one in due] == [made.id]
    assert emptied == ([] if comes else [its])
    assert next_due_at == (NOW + 5 if comes else None)


async def test_an_attempt_that_counts_is_nothing_to_tell_of(store: Store) -> None:
    """Stale writes and events without room are told and counted; what is recorded as it should be is neither."""
    await brought_to(store, CallbackState.PENDING)
    due = await claim(store)
    with capture_logs() as log:
        await store.outbox.record(attempt_of(due, AttemptResult.DELIVERED))
    assert log == []
    assert (store.outbox.stale_writes, store.outbox._events.dropped) == (0, 0)


async def test_a_webhook_that_is_handed_over_is_due_on_the_other_lane(store: Store) -> None:
    """Its claim ends, and nothing else of it changes; one that was cancelled meanwhile, or is another's, stays."""
    callbacks = [await brought_to(store, CallbackState.PENDING, new(f"task-{number}")) for number in range(3)]
    on = Lane("ann", "https://app.example.com/hooks")
    claims = {one.id: one for one in (await claim_webhooks(store, NOW, 9))[0]}
    moved, cancelled, stale = [claims[one.id] for one in callbacks]
    await store.registry.cancel("ann", cancelled.id, NOW)
    given = [moved, cancelled] + ([replace(stale, fence=stale.fence - 1)] if store.shared else [])
    # Beside another write, with which it may share a transaction: their locks are taken in one order.
    hand_over = store.outbox.hand_over([(one, on.receiver) for one in given])
    await asyncio.gather(hand_over, store.registry.register([new("another")]))
    found, _, _ = await store.outbox.claim(lambda _: [Share(on, 9, True)], NOW)
    assert found == [replace(moved, receiver=on.receiver, fence=found[0].fence)]
    after = [(await look(store, one)).receiver for one in callbacks[1:]]
    assert after == [stale.receiver] * 2
    assert (await look(store, callbacks[0])).state is CallbackState.PENDING
