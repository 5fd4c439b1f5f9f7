"""How every store keeps what the operator is told: written against the ``Events`` port."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.core.claims import DueCallback
from gateway.core.eventledger import RECEIVER_FAILING, Ledger
from gateway.core.model import AttemptResult, CallbackState
from gateway.store import Store
from tests.lanes import claim_webhooks
from tests.storing import NOW, NewStore, attempt_of, brought_to, claim, lapse, look, new, opened, registered, settle

TOLD = {"lastError": None}
ABOUT = {"client": "ann", "receiver": "https://app.example.com"}


async def owed(store: Store, count: int) -> list[DueCallback]:
    for n in range(count):
        await settle(store, await registered(store, new(f"task-{n}")))
    return (await claim_webhooks(store, NOW, count))[0]


def dead_in(ledger: Ledger) -> list[tuple[int, list[str]]]:
    return [(event.data["count"], sorted(event.data["callbackIds"])) for event in ledger.waiting]


async def test_a_death_is_noted_with_the_attempt_that_brought_it(store: Store) -> None:
    """One event for those that die together, and none for whoever was tried again or delivered."""
    store.events.kept = True
    due = await owed(store, 6)
    ends = [AttemptResult.DEAD] * 3 + [AttemptResult.DELIVERED, AttemptResult.RETRY, AttemptResult.DEAD]
    records = [
        attempt_of(one, end, next_at=NOW + 9 if end is AttemptResult.RETRY else None, error="no")
        for one, end in zip(due, ends, strict=True)
    ]
    await asyncio.gather(*map(store.outbox.record, records))
    dead = sorted(one.id for one, end in zip(due, ends, strict=True) if end is AttemptResult.DEAD)
    assert dead_in(await store.events.read()) == [(4, dead)]
    states = [(await look(store, one)).state for one in due]
    assert states == [{"retry": "pending"}.get(end, end) for end in ends]
    assert len(await store.registry.list_attempts("ann", due[0].id) or ()) == 1


async def test_nothing_is_noted_where_nobody_wants_events(store: Store) -> None:
    """Which is as it is at first."""
    await brought_to(store, CallbackState.DEAD)
    assert await store.events.read() == Ledger()


async def test_a_death_that_did_not_come_about_is_not_noted(store: Store) -> None:
    """One was cancelled, one redelivered during its last attempt; the third has died."""
    store.events.kept = True
    cancelled, redelivered, dead = await owed(store, 3)
    await store.registry.cancel("ann", cancelled.id, NOW)
    await store.registry.redeliver("ann", redelivered.id, NOW)
    await asyncio.gather(
        *(store.outbox.record(attempt_of(one, AttemptResult.DEAD)) for one in (cancelled, redelivered, dead))
    )
    assert dead_in(await store.events.read()) == [(1, [dead.id])]
    assert (await look(store, redelivered)).state is CallbackState.PENDING
    assert (await look(store, redelivered)).attempts == 1


async def test_an_attempt_that_is_recorded_again_is_noted_once(store: Store) -> None:
    """As where the answer of its commit was lost."""
    store.events.kept = True
    (due,) = await owed(store, 1)
    for _ in range(2):
        await store.outbox.record(attempt_of(due, AttemptResult.DEAD))
    assert dead_in(await store.events.read()) == [(1, [due.id])]


async def test_events_outlive_the_process(new_store: NewStore) -> None:
    """What was noted is there in the next life, with the same id."""
    ids = []
    for life in range(2):
        async with AsyncExitStack() as stack:
            store = await opened(new_store(), stack)
            store.events.kept = True
            if life == 0:
                await settle(store, await registered(store))
                await store.outbox.record(attempt_of(await claim(store), AttemptResult.DEAD))
            ids.append([event.id for event in (await store.events.read()).waiting])
            await lapse(store)
    assert ids[0] == ids[1]
    assert len(ids[0]) == 1


async def test_whoever_notes_it_a_happening_is_noted_once(new_store: NewStore) -> None:
    """Of two replicas that find out the same at once, and of a hundred writes none is lost."""
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        others = [store]
        if store.shared:
            other = new_store()
            await other.open()
            stack.push_async_callback(other.close)
            others.append(other)

        def note(ledger: Ledger) -> None:
            ledger.fails(RECEIVER_FAILING, ABOUT, TOLD, NOW)

        def count(ledger: Ledger) -> None:
            ledger.dropped += 1

        await asyncio.gather(*(one.events.change(note) for one in others for _ in range(5)))
        await asyncio.gather(*(one.events.change(count) for one in others for _ in range(100)))
        ledger = await store.events.read()
        assert [event.type for event in ledger.waiting] == [RECEIVER_FAILING]
        assert ledger.dropped == 100 * len(others)
        claims = await asyncio.gather(*(one.events.change(lambda its: its.claim(NOW, 1000)) for one in others))
        assert sum(claim is not None for claim in claims) == 1


async def test_what_there_is_no_room_for_is_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever notes it: for the metric."""
    monkeypatch.setattr("gateway.core.eventledger._MOST_WAITING", 0)
    store.events.kept = True
    (due,) = await owed(store, 1)
    await store.outbox.record(attempt_of(due, AttemptResult.DEAD))
    await store.events.change(lambda ledger: ledger.fails(RECEIVER_FAILING, ABOUT, TOLD, NOW))
    assert await store.events.change(lambda ledger: ledger.dropped) == 2
    assert store.events.dropped == 2
    assert (await look(store, due)).state is CallbackState.DEAD


async def test_what_waits_is_counted_up_to_a_bound(store: Store) -> None:
    """At one receiver of one client, and for one upstream."""
    for n in range(5):
        await settle(store, await registered(store, new(f"task-{n}")))
    await settle(store, await registered(store, new("other", url="https://other.example.com/")))
    await registered(store, new("running"))
    (one, *_), _ = await claim_webhooks(store, NOW, 1)
    assert [await store.events.owed(one.lane, most) for most in (100, 3)] == [5, 3]
    await registered(store, new("running-too"))
    assert [await store.events.watched("up", most) for most in (100, 1)] == [2, 1]
