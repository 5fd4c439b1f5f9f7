"""What every store keeps of a callback's attempts, and how much of it is read at once."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from msgspec.structs import replace

from gateway.core.model import AttemptResult, Callback, CallbackState
from gateway.store import Store
from tests.lanes import claim_webhooks
from tests.storing import NOW, NewStore, attempt_of, brought_to, claim, look, new, opened

RESULTS = {"i": AttemptResult.INTERRUPTED, "r": AttemptResult.RETRY, "d": AttemptResult.DELIVERED}


async def make(store: Store, results: str) -> None:
    """Make attempts at the one webhook that is owed, each of which comes to what its letter says."""
    for letter in results:
        next_at = None if letter == "d" else NOW
        await store.outbox.record(attempt_of(await claim(store), RESULTS[letter], next_at=next_at, error=letter))


async def log_of(store: Store, callback: Callback) -> list[tuple[int, str]]:
    attempts = await store.registry.list_attempts(callback.client, callback.id) or []
    return [(attempt.number, attempt.error or "") for attempt in attempts]


async def test_of_interrupted_attempts_in_a_row_the_first_and_the_last_stay(store: Store) -> None:
    """However many there are while a proxy is down: the others' numbers are never used again, nor is any counted."""
    callback = await brought_to(store, CallbackState.PENDING)
    await make(store, "iiiii")
    assert await log_of(store, callback) == [(1, "i"), (5, "i")]
    due = await claim(store)
    assert (due.attempts, due.budget_used) == (5, 0)
    await store.outbox.release([due])
    await make(store, "riiriiii")
    kept = [(1, "i"), (5, "i"), (6, "r"), (7, "i"), (8, "i"), (9, "r"), (10, "i"), (13, "i")]
    assert await log_of(store, callback) == kept
    await make(store, "d")
    assert await log_of(store, callback) == [*kept, (14, "d")]
    after = await look(store, callback)
    assert (after.state, after.attempts) == (CallbackState.DELIVERED, 14)


async def test_what_one_webhook_comes_to_touches_no_others_log(store: Store) -> None:
    """Nor does it where both are written in one transaction."""
    callbacks = [await brought_to(store, CallbackState.PENDING, new(f"task-{number}")) for number in range(2)]
    for results in ("ii", "ii", "ir", "ii"):
        due, _ = await claim_webhooks(store, NOW, 9)
        by_id = {one.id: one for one in due}
        await asyncio.gather(
            *(
                store.outbox.record(attempt_of(by_id[callback.id], RESULTS[letter], next_at=NOW, error=letter))
                for callback, letter in zip(callbacks, results, strict=True)
            )
        )
    one, other = [await log_of(store, callback) for callback in callbacks]
    assert one == [(1, "i"), (4, "i")]
    assert other == [(1, "i"), (2, "i"), (3, "r"), (4, "i")]


async def test_an_attempt_that_was_fenced_off_forgets_nothing(new_store: NewStore) -> None:
    """Its claim had lapsed and was another replica's: neither is it in the log, nor does any other leave it."""
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        callback = await brought_to(store, CallbackState.PENDING)
        await make(store, "ii")
        due = await claim(store)
        late = attempt_of(replace(due, fence=due.fence - 1), AttemptResult.INTERRUPTED, next_at=NOW, error="late")
        if store.shared:
            await store.outbox.record(late)
            assert await log_of(store, callback) == [(1, "i"), (2, "i")]
        await store.outbox.record(attempt_of(due, AttemptResult.INTERRUPTED, next_at=NOW, error="i"))
        assert await log_of(store, callback) == [(1, "i"), (3, "i")]


async def test_no_more_than_the_last_attempts_are_read_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may redeliver one webhook as often as it likes."""
    monkeypatch.setattr("gateway.store.registry._MOST_ATTEMPTS", 3)
    callback = await brought_to(store, CallbackState.PENDING)
    await make(store, "rrrrd")
    assert await log_of(store, callback) == [(3, "r"), (4, "r"), (5, "d")]
