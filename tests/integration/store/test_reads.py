"""How every store keeps the tasks that the proxy's readers wait for: how they begin, and when they are polled."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.model import CallbackState, PollRecord, TaskState
from gateway.core.reads import PollAgain
from gateway.store import Store
from tests.storing import LARGE, NOW, NewStore, brought_to, look, new, opened, registered, settle
from tests.watching import RECORD, again, due, reschedule, seen, wish


async def test_a_watch_begins_as_after_a_poll(store: Store) -> None:
    """The task is there with all that the upstream told, is polled when it is to be, and has no callback."""
    assert await store.registry.proxied_task("up", "task-1") is None
    watched = await store.registry.watch(wish())
    known = await seen(store)
    assert watched == (known.task.seq, False)
    assert (known.task.state, known.task.polls, known.task.last_polled_at) == (TaskState.WAITING, 1, NOW)
    assert (known.task.next_poll_at, known.task.born_at, known.task.model) == (NOW + 2000, NOW - 5000, "m")
    assert (known.watchers, known.read_until) == ("rob", NOW + 60_000)
    assert (known.record, known.record_bytes) == (RECORD, len(RECORD))
    assert (known.task.outcome, known.task.outcome_bytes) == (None, 0)
    assert await due(store, NOW + 1999) == []
    (claim,) = await due(store, NOW + 2000)
    assert (claim.task_id, claim.watchers, claim.read_until) == ("task-1", "rob", NOW + 60_000)
    assert await store.registry.proxied_task("other", "task-1") is None


async def test_readers_are_told_of_no_callback_and_no_one_of_readers(store: Store) -> None:
    """Whoever has no callback finds no task under his name, nor does the operator, and no list has anything."""
    await store.registry.watch(wish())
    await registered(store, new("another"))
    for client in ("rob", "ann", None):
        assert await store.registry.get_task(client, "task-1") is None
        assert not await store.registry.list_callbacks(client, state=None, task_id="task-1", before_seq=None, limit=9)
    await registered(store, new(client="ann"))
    assert await store.registry.get_task("rob", "task-1") is None
    assert await store.registry.get_task("ann", "task-1") is not None


async def test_prolonging_keeps_what_is_known(store: Store) -> None:
    """Neither the record nor the next poll is touched; an earlier end than the one that stands shortens nothing."""
    watched = await store.registry.watch(wish())
    assert await store.registry.watch(again(at=NOW + 40_000)) == watched
    known = await seen(store)
    assert (known.read_until, known.record, known.task.next_poll_at) == (NOW + 100_000, RECORD, NOW + 2000)
    await store.registry.watch(again(at=NOW + 1000))
    assert (await seen(store)).read_until == NOW + 100_000


@pytest.mark.parametrize(("record", "counted"), [(None, False), (RECORD, False), (RECORD, True), (LARGE, False)])
async def test_a_task_is_polled_again_at_once(store: Store, record: bytes | None, counted: bool) -> None:
    """Where there is news of it, which is its record from then on; others' next poll is when it was.

    Whether or not it has been counted how many are read.
    """
    if counted:
        await store.registry.watch(wish("another", at=NOW + 50_000))
    asked = [new(f"task-{n}", first_poll_at=NOW + 50_000) for n in (1, 2)]
    made, _ = await store.registry.register(asked)
    store.tasks.due("up").clear()
    news = PollAgain(upstream="up", task_id="task-1", at=NOW + 7, record=record, read_until=NOW + 60_000)
    await store.registry.poll_again(news)
    assert store.tasks.due("up").is_set()
    known = await seen(store)
    assert known.task.next_poll_at == NOW + 7
    assert known.record_bytes == len(record or b"")
    assert known.read_until == (None if record is None else NOW + 60_000)
    (claim,) = await due(store, NOW + 7)
    assert claim.task_id == "task-1"
    await settle(store, made.callback)
    await store.registry.poll_again(news)
    assert (await seen(store)).task.state is TaskState.SUCCESS
    assert (await seen(store)).task.next_poll_at is None
    await store.registry.poll_again(replace(news, task_id="nobody's"))
    assert await store.registry.proxied_task("up", "nobody's") is None


@pytest.mark.parametrize("given_back", [False, True])
async def test_a_task_is_to_be_polled_again_while_it_is_polled(store: Store, given_back: bool) -> None:
    """That poll may have been asked too early: the next one follows it at once, and is one."""
    await registered(store, new())
    (claim,) = await due(store, NOW)
    await store.registry.poll_again(PollAgain(upstream="up", task_id="task-1", at=NOW + 5))
    assert await due(store, NOW + 5) == [], "one at a time"
    if given_back:
        await store.tasks.release([claim])
        (claim,) = await due(store, NOW + 5)
    store.tasks.due("up").clear()
    await reschedule(store, claim, NOW + 9, asked_at=NOW + 5 if given_back else NOW + 4)
    assert store.tasks.due("up").is_set() is not given_back
    found = await due(store, NOW + 9)
    assert len(found) == (0 if given_back else 1)
    if found:
        await reschedule(store, found[0], NOW + 9)
        assert await due(store, NOW + 13) == []


async def test_many_wishes_at_once_are_each_themselves(store: Store) -> None:
    """Of the same task, of others, and of one that has ended, in one transaction."""
    ended = await brought_to(store, CallbackState.PENDING, new("ended"))
    watch = store.registry.watch
    wishes = wish("a"), wish("b"), wish("ended"), wish("ended", record=LARGE), again("a")
    made = await asyncio.gather(*map(watch, wishes))
    seqs = [one and one.seq for one in made]
    assert seqs == [(await seen(store, "a")).task.seq, (await seen(store, "b")).task.seq, None, None, seqs[0]]
    assert [one and one.overtaken for one in made] == [False, False, True, True, False]
    assert (await seen(store, "ended")).read_until is None
    assert (await look(store, ended)).state is CallbackState.PENDING


@pytest.mark.parametrize("count", [1, 2, 3, 5])
async def test_readers_that_come_together_share_a_transaction(
    store: Store, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """However many they are: what one statement refused would be written one by one."""
    if store.shared:
        await store._hints.close()  # which looks, and then nothing is known
    await store.registry.watch(wish())  # from now on it is known that there are places
    transaction, transactions = store._writer._transaction, 0

    async def counted(*about: Any, **how: Any) -> Any:
        nonlocal transactions
        transactions += 1
        return await transaction(*about, **how)

    monkeypatch.setattr(store._writer, "_transaction", counted)
    wishes = [wish(f"t{number}") for number in range(count)]
    assert None not in await asyncio.gather(*map(store.registry.watch, wishes))
    assert transactions == 1


async def test_readers_of_one_task_at_once_are_all_its_watchers(store: Store) -> None:
    """In one transaction with others' tasks: each answer counts as a poll, and the last end of all stands."""
    watch = store.registry.watch
    wishes = [wish("a", client=name, for_ms=60_000 + n) for n, name in enumerate(("sue", "rob", "ann"))]
    made = await asyncio.gather(watch(wishes[0]), watch(wish("b")), *map(watch, wishes[1:]), watch(wish("b")))
    seqs = [each and each.seq for each in made]
    one, other = (await seen(store, "a")), (await seen(store, "b"))
    assert seqs == [one.task.seq, other.task.seq, one.task.seq, one.task.seq, other.task.seq]
    assert (one.watchers, one.task.polls, one.read_until) == ("ann,rob,sue", 3, NOW + 60_002)
    assert (other.watchers, other.task.polls) == ("rob", 2)


async def test_readers_and_callbacks_share_a_task(store: Store) -> None:
    """One row, polled for all who wait: whoever comes second joins the first, in one order of names, and nothing else
    changes."""
    made = await registered(store, new(client="sue", first_poll_at=NOW + 7000))
    assert await store.registry.watch(wish(at=NOW + 1000)) == (made.task.seq, False)
    known = await seen(store)
    assert (known.watchers, known.task.next_poll_at, known.task.created_at) == ("rob,sue", NOW + 7000, NOW)
    await registered(store, new(client="ann", url="https://b.example.com/"))
    await store.registry.watch(again(client="sue"))
    assert (await seen(store)).watchers == "ann,rob,sue"
    assert [claim.watchers for claim in await due(store, NOW + 7000)] == ["ann,rob,sue"]


async def test_the_poller_is_woken_for_a_first_poll_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read of what is polled anyway wakes nobody; nor is anything written to find that no readers have gone."""
    event = store.tasks.due("up")
    event.clear()
    await store.registry.watch(wish())
    assert event.is_set()
    event.clear()
    await store.registry.watch(again(at=NOW + 1000))
    assert not event.is_set()
    assert await store.tasks.unwatch(NOW) == NOW + 61_000
    monkeypatch.setattr(store._writer, "submit", None)
    assert await store.tasks.unwatch(NOW + 60_999) == NOW + 61_000


@pytest.mark.parametrize("new_store", ["sqlite"], indirect=True)
async def test_readers_follow_the_clock(store: Store) -> None:
    """They wait for as long as they would have, whichever way it was set."""
    for step in (3_600_000, -7_200_000):
        await store.registry.watch(wish(for_ms=60_000))
        before = (await seen(store)).read_until
        assert before is not None
        await store.follow_clock(step)
        assert (await seen(store)).read_until == before + step
    at = NOW + 60_000 - 3_600_000
    assert await store.tasks.unwatch(at - 1) == at
    await store.tasks.unwatch(at)
    assert (await seen(store)).task.next_poll_at is None


async def test_readers_outlive_the_process(new_store: NewStore) -> None:
    """The next one polls for them, and sees them gone; it knows how many tasks are read."""
    async with AsyncExitStack() as stack:
        await (await opened(new_store(), stack)).registry.watch(wish())
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        (claim,) = await due(store, NOW + 2000)
        assert (claim.task_id, claim.read_until) == ("task-1", NOW + 60_000)
        await reschedule(store, claim, NOW + 2000, b"{}")
        assert (await seen(store)).record == b"{}"
        assert await store.tasks.unwatch(NOW + 3000) == NOW + 60_000
        await store.tasks.unwatch(NOW + 60_000)
        assert await due(store, NOW + 60_000) == []


async def test_an_answer_that_told_of_a_task_counts_as_its_poll(store: Store) -> None:
    """What was known of one that is polled already is as after a poll that succeeded; a mere prolonging counts none."""
    await registered(store)
    for _ in range(2):
        (claim,) = await due(store, NOW)
        await store.tasks.reschedule(
            PollRecord(seq=claim.seq, upstream="up", polled_at=NOW, next_poll_at=NOW, error="HTTP 500")
        )
    await store.registry.watch(again(at=NOW + 100))
    task = (await seen(store)).task
    assert (task.polls, task.last_polled_at, task.last_error, task.born_at, task.model) == (
        (2, NOW, "HTTP 500", None, None)
    )
    (claim,) = await due(store, NOW)
    assert claim.failures == 2
    await store.tasks.release([claim])
    await store.registry.watch(wish(at=NOW + 200))
    task = (await seen(store)).task
    assert (task.polls, task.last_polled_at, task.last_error) == (3, NOW + 200, None)
    assert (task.born_at, task.model) == (NOW + 200 - 5000, "m")
    (claim,) = await due(store, NOW + 200)
    assert claim.failures == 0
    await store.registry.watch(wish(at=NOW + 300, born_at=None, model=None))
    task = (await seen(store)).task
    assert (task.born_at, task.model) == (NOW + 200 - 5000, "m")
