"""How a task that the proxy's readers wait for ends: of itself, or as its readers or its callbacks go."""

import pytest

from gateway.core.errors import StoreLocked
from gateway.core.model import CallbackState, Settlement, TaskState
from gateway.store import Store
from tests.storing import ABANDONED, LARGE, NOW, SUCCESS, brought_to, look, new, registered, settle
from tests.watching import RECORD, again, due, reschedule, seen, wish


@pytest.mark.parametrize("record", [RECORD, LARGE])
async def test_an_end_is_kept_for_readers(store: Store, record: bytes) -> None:
    """As a webhook of format record would have it; where nobody reads it is not kept, nor where it was given up."""
    for task_id in ("read", "given-up"):
        await store.registry.watch(wish(task_id))
    await registered(store, new("called"))
    for claim in await due(store, NOW + 2000):
        await store.tasks.settle(
            Settlement(
                seq=claim.seq,
                upstream="up",
                outcome=ABANDONED if claim.task_id == "given-up" else SUCCESS,
                settled_at=NOW + 2000,
                polls=1,
                record=(b"<", record, b">"),
                read=claim.read_until is not None,
            )
        )
    known = await seen(store, "read")
    assert (known.task.state, known.task.next_poll_at) == (TaskState.SUCCESS, None)
    assert (known.task.outcome, known.task.outcome_bytes) == (None, len(SUCCESS.data))
    assert await store.registry.record(known.task.seq) == b"<" + record + b">"
    assert ((await seen(store, "called")).record, (await seen(store, "called")).task.outcome) == (None, SUCCESS.data)
    assert ((await seen(store, "given-up")).record_bytes, (await seen(store, "given-up")).task.state) == (
        0,
        "abandoned",
    )


async def test_nobody_reads_any_more(store: Store) -> None:
    """It is not polled any more, from when its readers have gone and not before; one that comes again finds it."""
    await store.registry.watch(wish())
    await store.registry.watch(wish("longer", for_ms=90_000))
    assert await store.tasks.unwatch(NOW) == NOW + 60_000
    assert await store.tasks.unwatch(NOW + 59_999) == NOW + 60_000
    assert (await seen(store)).task.next_poll_at is not None
    assert await store.tasks.unwatch(NOW + 60_000) == NOW + 90_000
    assert (await seen(store)).task.next_poll_at is None
    assert [claim.task_id for claim in await due(store, NOW + 60_000)] == ["longer"]
    assert await store.tasks.unwatch(NOW + 90_000) > NOW + 10**10
    await store.registry.watch(again(at=NOW + 95_000))
    known = await seen(store)
    assert (known.task.next_poll_at, known.task.created_at, known.record) == (NOW + 95_000, NOW + 95_000, RECORD)
    assert [claim.task_id for claim in await due(store, NOW + 95_000)] == ["task-1"]
    assert await store.tasks.unwatch(NOW + 100_000) == NOW + 155_000


async def test_readers_that_go_are_seen_to_a_part_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many go in the same moment, each is seen to, and no write waits long."""
    monkeypatch.setattr("gateway.store.watches._AT_ONCE", 2)
    for number in range(5):
        await store.registry.watch(wish(f"task-{number}"))
    at = NOW + 60_000
    rounds = 0
    while await store.tasks.unwatch(at) <= at:
        rounds += 1
    assert rounds == 2
    assert await due(store, at) == []


async def test_a_task_whose_readers_have_gone_goes_on_for_callbacks(store: Store) -> None:
    """It is polled as before, and what the upstream tells of it while it runs is not kept any more."""
    await registered(store)
    await store.registry.watch(wish())
    await store.tasks.unwatch(NOW + 60_000)
    known = await seen(store)
    assert (known.read_until, known.record, known.task.next_poll_at) == (None, None, NOW)
    assert len(await due(store, NOW)) == 1


async def test_a_callback_is_cancelled_while_readers_wait(store: Store) -> None:
    """The task is polled until they have gone too."""
    made = await registered(store)
    await store.registry.watch(wish())
    await store.registry.cancel("ann", made.id, NOW + 1000)
    assert (await seen(store)).task.next_poll_at == NOW
    await store.tasks.unwatch(NOW + 60_000)
    assert (await seen(store)).task.next_poll_at is None
    revived = await registered(store, new(at=NOW + 61_000))
    assert revived.task.next_poll_at == NOW + 61_000


async def test_a_callback_is_cancelled_after_readers_have_gone(store: Store) -> None:
    """Nobody need have noticed yet that they have."""
    made = await registered(store)
    await store.registry.watch(wish())
    await store.registry.cancel("ann", made.id, NOW + 60_000)
    assert (await seen(store)).task.next_poll_at is None


async def test_a_callbacks_time_passes_while_readers_wait(store: Store) -> None:
    """Its webhook goes out; the task is no more abandoned than if another callback waited, until they have gone."""
    made = await registered(store, new(timeout_s=10))
    await store.registry.watch(wish())
    await settle(store, made, ABANDONED, at=NOW + 20_000, expired_by=NOW + 20_000)
    after = await look(store, made)
    assert (after.state, after.task.state) == (CallbackState.PENDING, TaskState.WAITING)
    assert after.task.next_poll_at == NOW
    late = await registered(store, new(client="bob", timeout_s=10))
    await settle(store, late, ABANDONED, at=NOW + 60_000, expired_by=NOW + 60_000)
    assert (await seen(store)).task.state is TaskState.ABANDONED


async def test_one_that_was_given_up_begins_anew_by_the_upstreams_word(store: Store) -> None:
    """And only by that: a reader that did not hear of the end in time changes nothing."""
    made = await registered(store, new(timeout_s=10))
    await settle(store, made, ABANDONED, at=NOW + 20_000, expired_by=NOW + 20_000)
    assert await store.registry.watch(again(at=NOW + 30_000)) == (None, False)
    assert (await seen(store)).task.state is TaskState.ABANDONED
    assert await store.registry.watch(wish(at=NOW + 30_000)) == (made.task.seq, False)
    known = await seen(store)
    assert (known.task.state, known.task.outcome, known.task.settled_at) == (TaskState.WAITING, None, None)
    assert (known.watchers, known.task.created_at) == ("rob", NOW + 30_000)
    assert (await look(store, made)).state is CallbackState.PENDING


async def test_a_poll_that_is_under_way_ends_as_ever(store: Store) -> None:
    """Readers that come or go meanwhile, or watch again, leave its claim whole: the task is not polled twice."""
    await registered(store)
    (claim,) = await due(store, NOW)
    await store.registry.watch(wish(at=NOW + 100))
    assert await due(store, NOW + 100) == []
    await reschedule(store, claim, NOW + 200)
    assert [again.watchers for again in await due(store, NOW + 5200)] == ["ann,rob"]


async def test_what_nobody_reads_is_removed(store: Store) -> None:
    """A task without callbacks goes as a whole; of others only what was for readers, but for what a webhook needs."""
    await store.registry.watch(wish("alone"))
    await store.registry.watch(wish("ended"))
    await registered(store, new("called"))
    cancelled = await registered(store, new("cancelled"))
    for task_id in ("called", "cancelled"):
        await store.registry.watch(wish(task_id))
    await store.registry.cancel("ann", cancelled.id, NOW)
    await store.registry.watch(wish("read", for_ms=10**9))
    (ended,) = [claim for claim in await due(store, NOW + 2000) if claim.task_id == "ended"]
    await store.tasks.settle(
        Settlement(seq=ended.seq, upstream="up", outcome=SUCCESS, settled_at=NOW, polls=1, record=(RECORD,), read=True)
    )
    later = NOW + 1_000_000
    assert await store.prune_reads(later, NOW + 60_000, 100) == 0
    assert await store.prune_reads(later, NOW + 60_001, 3) == 3
    assert await store.prune_reads(later, NOW + 60_001, 3) == 1
    for task_id in ("alone", "ended"):
        assert await store.registry.proxied_task("up", task_id) is None
    for task_id, polled in (("called", True), ("cancelled", False)):
        known = await seen(store, task_id)
        assert (known.read_until, known.record, known.task.next_poll_at is not None) == (None, None, polled)
    assert (await seen(store, "read")).record == RECORD


async def test_a_task_with_readers_outlives_its_last_callback(store: Store) -> None:
    """Its callbacks may be removed long before they have gone."""
    made = await brought_to(store, CallbackState.CANCELLED)
    await store.registry.watch(wish())
    await store.prune(NOW + 1, 0, 100)
    assert await store.registry.get_callback("ann", made.id) is None
    assert (await seen(store)).task.next_poll_at == NOW + 2000


async def test_a_locked_task_is_looked_at_again_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else's round waits for that, nor fails."""

    async def locked(*_: object) -> None:
        raise StoreLocked("Others have locked it.")

    await store.registry.watch(wish())
    gone_at = NOW + 60_000
    monkeypatch.setattr(store.tasks.watches._writer, "submit", locked)
    again_at = await store.tasks.unwatch(gone_at)
    assert gone_at < again_at <= gone_at + StoreLocked.longest_pause_s * 1000
    monkeypatch.undo()
    assert await store.tasks.unwatch(again_at - 1) == again_at
    await store.tasks.unwatch(again_at)
    assert (await seen(store)).task.next_poll_at is None
