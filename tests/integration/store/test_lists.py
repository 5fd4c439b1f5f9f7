"""What the API reads of a store: lists, attempts, tasks and the backlog."""

from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import msgspec
import pytest

from gateway.core.claims import Lane
from gateway.core.model import AttemptResult, Backlog, CallbackState
from gateway.store import Store
from gateway.store.housekeeping import StoreHousekeeping
from tests.lanes import claim_webhooks
from tests.storing import NOW, NewStore, attempt_of, brought_to, claim, look, new, opened, registered, settle


async def test_attempts_are_listed_in_order(store: Store) -> None:
    """Every attempt is kept as it was made, numbered from 1."""
    callback = await brought_to(store, CallbackState.PENDING)
    made = []
    for n, result in enumerate((AttemptResult.RETRY, AttemptResult.INTERRUPTED, AttemptResult.DELIVERED)):
        next_at = None if result is AttemptResult.DELIVERED else NOW + n + 1
        record = attempt_of(
            await claim(store, NOW + n),
            result,
            at=NOW + n,
            next_at=next_at,
            error=f"error {n}",
            excerpt=[None, "bu\u20acy\n\x1b", ""][n],
        )
        await store.outbox.record(record)
        made.append(record.attempt)
    assert [attempt.number for attempt in made] == [1, 2, 3]
    assert await store.registry.list_attempts("ann", callback.id) == made


async def test_attempts_of_nobody_and_of_others(store: Store) -> None:
    """No attempts yet is an empty list; no such callback, or another client's, is None."""
    callback = await registered(store)
    assert await store.registry.list_attempts("ann", callback.id) == []
    assert await store.registry.list_attempts("bob", callback.id) is None
    assert await store.registry.list_attempts("ann", "cb_none") is None


async def test_lists_are_newest_first_and_paged_by_seq(store: Store) -> None:
    """Each page goes on below the last seq of the one before, whatever is registered meanwhile."""
    made = [r.callback.id for r in await store.registry.register([new(f"task-{n}") for n in range(7)])]
    seen: list[str] = []
    before_seq = None
    for extra in count():
        page = await store.registry.list_callbacks("ann", state=None, task_id=None, before_seq=before_seq, limit=3)
        if not page:
            break
        seen += [callback.id for callback in page]
        before_seq = page[-1].seq
        await registered(store, new(f"meanwhile-{extra}"))
    assert seen == made[::-1]


async def test_lists_are_filtered_by_state_and_task(store: Store) -> None:
    """Both filters hold together; each state finds its own."""
    made = {state: await brought_to(store, state, new(f"task-{state}")) for state in CallbackState}
    for state, callback in made.items():
        found = await store.registry.list_callbacks("ann", state=state, task_id=None, before_seq=None, limit=10)
        assert found == [await look(store, callback)]
    other = await registered(store, new("task-dead", url="https://other.example.com/"))
    assert other.state is CallbackState.PENDING  # its task has ended
    by_task = await store.registry.list_callbacks("ann", state=None, task_id="task-dead", before_seq=None, limit=10)
    assert [callback.id for callback in by_task] == [other.id, made[CallbackState.DEAD].id]
    both = await store.registry.list_callbacks(
        "ann", state=CallbackState.DEAD, task_id="task-dead", before_seq=None, limit=10
    )
    assert [callback.id for callback in both] == [made[CallbackState.DEAD].id]
    older = await store.registry.list_callbacks("ann", state=None, task_id="task-dead", before_seq=other.seq, limit=10)
    assert older == both
    assert await store.registry.list_callbacks("ann", state=None, task_id="none", before_seq=None, limit=10) == []


async def test_other_clients_callbacks_cannot_be_seen(store: Store) -> None:
    """Not in lists, not by id."""
    mine = await registered(store)
    theirs = await registered(store, new(client="bob"))
    assert await store.registry.list_callbacks("ann", state=None, task_id=None, before_seq=None, limit=10) == [mine]
    assert await store.registry.list_callbacks("ann", state=None, task_id="task-1", before_seq=None, limit=10) == [mine]
    assert await store.registry.list_callbacks(
        "ann", state=CallbackState.WAITING, task_id=None, before_seq=None, limit=10
    ) == [mine]
    assert await store.registry.get_callback("ann", theirs.id) is None


async def test_a_task_is_seen_by_those_who_registered_for_it(store: Store) -> None:
    """Nobody else finds it; one name at two upstreams gives each client its own."""
    await registered(store, new(client="ann", upstream="up"))
    await registered(store, new(client="bob", upstream="other"))
    for client, upstream in (("ann", "up"), ("bob", "other")):
        task = await store.registry.get_task(client, "task-1")
        assert task is not None
        assert task.upstream == upstream
    assert await store.registry.get_task("eve", "task-1") is None
    assert await store.registry.get_task("ann", "task-2") is None


@pytest.mark.parametrize("part", [1, 2, 3, 4, 2000])
async def test_the_backlog_counts_what_waits(part: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that are watched, webhooks that are owed, claimed or not, and dead ones; in however many parts."""
    monkeypatch.setattr("gateway.store.registry._PART", part)
    assert await store.registry.backlog() == Backlog(waiting={}, pending=0, oldest_due_at=None, dead=0)
    for n in range(3):
        await settle(store, await registered(store, new(f"task-{n}")), at=NOW + n)
    for n in range(4):
        await brought_to(store, CallbackState.DEAD, new(f"dead-{n}"))
    for n in range(5):
        await registered(store, new(f"waits-{n}", at=NOW + n // 3))
    await registered(store, new("waits too", upstream="other", at=NOW - 1))
    expected = Backlog(waiting={"up": (5, NOW), "other": (1, NOW - 1)}, pending=3, oldest_due_at=NOW, dead=4)
    assert await store.registry.backlog() == expected
    (due,), _ = await claim_webhooks(store, NOW, 1)
    assert await store.registry.backlog() == expected
    await store.outbox.record(attempt_of(due, AttemptResult.DELIVERED))
    left = await store.registry.backlog()
    assert (left.pending, left.oldest_due_at) == (2, NOW + 1)


@pytest.mark.parametrize("part", [1, 2, 3, 2000])
async def test_what_waits_for_a_pause_is_owed_and_never_late(
    part: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest due is of the others; where nothing else is owed, nothing is."""
    monkeypatch.setattr("gateway.store.registry._PART", part)
    for n, name in enumerate(("paused", "paused", "r1", "r2", "r3")):
        callback = new(f"task-{n}", url=f"https://{name}.example.com/hooks")
        await settle(store, await registered(store, callback), at=NOW + n)
    paused = [Lane("ann", "https://paused.example.com"), Lane("bob", "https://r1.example.com")]
    assert (await store.registry.backlog()).oldest_due_at == NOW
    found = await store.registry.backlog(paused)
    assert (found.pending, found.oldest_due_at) == (5, NOW + 2)
    every = [Lane("ann", f"https://{name}.example.com") for name in ("paused", "r1", "r2", "r3")]
    found = await store.registry.backlog(every)
    assert (found.pending, found.oldest_due_at) == (5, None)
    of_table = msgspec.structs.replace(new("under"), receiver="https://r1.example.com/hooks")
    await settle(store, await registered(store, of_table), at=NOW - 1)
    assert (await store.registry.backlog(every)).oldest_due_at is None, "it lies under one that is paused"
    assert (await store.registry.backlog(every[2:])).oldest_due_at == NOW - 1


async def test_what_ends_while_the_backlog_is_counted_takes_nothing_down(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes have their turn while a part is looked at: some of the last one may be gone when its end is."""
    assert isinstance(store, StoreHousekeeping)
    for n in range(2):
        await settle(store, await registered(store, new(f"task-{n}")), at=NOW + n)
    _, owed = (await claim_webhooks(store, NOW + 2, 2))[0]
    read, counted = store._engine.read, store._engine.sql.COUNT_PENDING

    async def delivered_in_between(statement: str, parameters: Any = ()) -> list[Any]:
        if statement == counted.end:
            await store.outbox.record(attempt_of(owed, AttemptResult.DELIVERED))
        return await read(statement, parameters)

    monkeypatch.setattr("gateway.store.registry._PART", 2)
    monkeypatch.setattr(store._engine, "read", delivered_in_between)
    assert (await store.registry.backlog()).pending == 2
    monkeypatch.undo()
    assert (await store.registry.backlog()).pending == 1


async def test_the_secret_key_is_the_databases_own(new_store: NewStore) -> None:
    """32 bytes, the same in every life: cursors survive a restart."""
    keys = []
    for _ in range(2):
        async with AsyncExitStack() as stack:
            store = await opened(new_store(), stack)
            keys.append(await store.registry.secret_key())
    assert len(keys[0]) == 32
    assert keys[0] == keys[1]
