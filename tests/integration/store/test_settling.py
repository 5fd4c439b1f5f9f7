"""How every store keeps a task's end, and makes the webhooks due that wait for it."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from gateway.core.memory import SMALL
from gateway.core.model import CallbackState, Format, Outcome, PollRecord, Settlement, TaskState
from gateway.core.reads import ReadWatch
from gateway.store import Store
from gateway.store.engine import Result, Rows, Step, Work
from gateway.webhook.body import body_template, webhook_body
from tests.claims import claim_tasks
from tests.lanes import body_sent, claim_webhooks
from tests.storing import (
    ABANDONED,
    FAIL,
    LARGE,
    NOW,
    SUCCESS,
    NewStore,
    brought_to,
    claim,
    claim_task,
    look,
    new,
    opened,
    registered,
    settle,
)


async def test_settling_makes_exactly_the_waiting_callbacks_due(store: Store) -> None:
    """Each waiting callback gets its body; cancelled ones and other tasks' stay as they are."""
    waiting = [
        await registered(store, new(url=f"https://app.example.com/{n}", metadata=b'{"n":%d}' % n)) for n in range(3)
    ]
    cancelled = await brought_to(store, CallbackState.CANCELLED, new(client="eve"))
    other = await registered(store, new("task-2"))
    store.outbox.due.clear()
    await settle(store, waiting[0], at=NOW + 50)
    assert store.outbox.due.is_set()
    due, next_due_at = await claim_webhooks(store, NOW + 50, 10)
    template = body_template(SUCCESS, NOW + 50)
    assert {d.id: body_sent(d) for d in due} == {c.id: template.fill(c.id, c.metadata) for c in waiting}
    assert next_due_at is None
    assert {d.due_at for d in due} == {NOW + 50}
    assert (await look(store, cancelled)).state is CallbackState.CANCELLED
    assert (await look(store, other)).state is CallbackState.WAITING
    task = await store.registry.get_task("ann", "task-1")
    assert task is not None
    assert (task.state, task.settled_at, task.outcome) == (TaskState.SUCCESS, NOW + 50, SUCCESS.data)
    assert (task.polls, task.last_polled_at, task.next_poll_at) == (1, NOW + 50, None)


async def test_a_large_outcome_is_written_once(store: Store) -> None:
    """A second one of the same task, which has ended, is nobody's; one of no task is none."""
    callback = await registered(store)
    first, second = (Outcome(state=TaskState.SUCCESS, data=b'{"a":"%b"}' % (one * (SMALL + 1))) for one in (b"1", b"2"))
    await settle(store, callback, first)
    await settle(store, callback, second)
    assert await store.registry.outcome(callback.task.seq) == first.data
    assert await store.registry.outcome(callback.task.seq + 1) is None


async def test_nothing_that_comes_late_is_a_webhooks_body(store: Store) -> None:
    """One of format record that was registered after the end is made of the outcome, though another answer comes."""
    callback = await registered(store)
    await settle(store, callback)
    await registered(store, new(url="https://b.example.com/", shape=Format.RECORD))
    late = Outcome(state=TaskState.FAIL, data=b"{}")
    await settle(store, callback, late, record=LARGE)
    await store.tasks.reschedule(
        PollRecord(seq=callback.task.seq, upstream="up", polled_at=NOW, next_poll_at=NOW, error=None, record=LARGE)
    )
    assert not await store.registry.record(callback.task.seq)


@pytest.mark.parametrize("new_store", ["sqlite"], indirect=True)
async def test_a_statement_holds_so_much_at_most(store: Store) -> None:
    """However much ends, is told of or is read at once: what is bound to one stays in memory until its next use."""
    about, record = b"x" * 40_000, b"y" * 20_000
    ended = [
        Settlement(
            upstream="up",
            seq=number,
            outcome=Outcome(state=TaskState.SUCCESS, data=about),
            settled_at=NOW,
            polls=1,
            read=number % 2 == 0,
            record=(record, b"") if number % 2 == 0 else None,
        )
        for number in range(40)
    ]
    polled = [
        PollRecord(seq=number, upstream="up", polled_at=NOW, next_poll_at=NOW, error=None, record=record)
        for number in range(40)
    ]
    wishes = [
        ReadWatch(
            upstream="up", task_id=f"{number}", client="a", at=NOW, read_until=NOW, next_poll_at=NOW, record=record
        )
        for number in range(40)
    ]
    lead = store.tasks.lead("up")
    for kind, items in (
        (store.tasks.settle_kind, [(lead, one) for one in ended]),
        (store.tasks.reschedule_kind, [(lead, one) for one in polled]),
        (store.tasks.watches.watch_kind, wishes),
    ):
        sizes = [
            sum(len(value) for row in step.rows for value in row if isinstance(value, bytes))
            for step in _steps(kind.apply(items))
            if isinstance(step, Rows)
        ]
        assert sum(sizes) >= 40 * len(record)
        assert 200_000 < max(sizes) <= 256 * 1024


def _steps(work: Work[Any]) -> list[Step]:
    """Return the steps of a work for which no row is found."""
    steps = [next(work)]
    with suppress(StopIteration):
        while True:
            steps.append(work.send(Result([], 0)))
    return steps


async def test_the_first_attempt_may_be_delayed(new_store: NewStore) -> None:
    """The schedule's first number is the time between the task's end and the first attempt, for late ones too."""
    async with AsyncExitStack() as stack:
        store = await opened(new_store(first_attempt_delay_s=2.5), stack)
        first = await registered(store)
        await settle(store, first, at=NOW)
        late = await registered(store, new(client="bob", at=NOW + 10))
        assert (await look(store, first)).next_attempt_at == NOW + 2500
        assert late.next_attempt_at == NOW + 2510
        assert await claim_webhooks(store, NOW + 2499, 10) == ([], NOW + 2500)


async def test_a_task_settles_once(store: Store) -> None:
    """The upstream's first word stands: a second settlement, even beside the first, changes nothing."""
    callback = await registered(store)
    await asyncio.gather(settle(store, callback, SUCCESS, at=NOW), settle(store, callback, FAIL, at=NOW + 1))
    await settle(store, callback, FAIL, at=NOW + 2)
    task = await store.registry.get_task("ann", "task-1")
    assert task is not None
    assert (task.state, task.settled_at, task.polls) == (TaskState.SUCCESS, NOW, 1)
    assert body_sent(await claim(store)) == body_template(SUCCESS, NOW).fill(callback.id, b"{}")


async def test_the_earliest_webhook_of_those_settled_together_is_found(store: Store) -> None:
    """The deliverer looks when the first of them is due, not the last."""
    first, second = [await registered(store, new(f"task-{number}")) for number in range(2)]
    await asyncio.gather(settle(store, first, at=NOW), settle(store, second, at=NOW + 100))
    assert await claim_webhooks(store, NOW - 1, 10) == ([], NOW)
    assert (await claim(store)).id == first.id


@pytest.mark.parametrize(("outcome", "kept"), [(SUCCESS, None), (ABANDONED, "refused")])
async def test_the_last_error_is_what_the_last_poll_said(store: Store, outcome: Outcome, kept: str | None) -> None:
    """A poll that brought the end was none; a time-out is no poll."""
    callback = await registered(store, new(timeout_s=10))
    due = await claim_task(store)
    await store.tasks.reschedule(
        PollRecord(seq=due.seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 1, error="refused")
    )
    await settle(store, callback, outcome, at=NOW + 10_000, expired_by=NOW + 10_000 if kept else None)
    task = (await look(store, callback)).task
    assert (task.state, task.last_error) == (outcome.state, kept)
    assert task.last_polled_at == (NOW if kept else NOW + 10_000)


async def test_a_task_that_nobody_waits_for_does_not_end_with_another(store: Store) -> None:
    """Idle, it has no callback that would be told: only its own end may end it."""
    idle = await registered(store, new("idle"))
    await store.registry.cancel("ann", idle.id, NOW)
    before = (await look(store, idle)).task
    await settle(store, await registered(store))
    assert (await look(store, idle)).task == before


async def test_the_upstreams_word_wins_over_a_time_out_beside_it(store: Store) -> None:
    """Both written at once: the task ends as the upstream said, whichever was first in the queue."""
    short = await registered(store, new(timeout_s=10))
    await registered(store, new(client="bob", timeout_s=20))
    at = NOW + 11_000
    await asyncio.gather(settle(store, short, ABANDONED, at=at, expired_by=at), settle(store, short, SUCCESS, at=at))
    assert (await look(store, short)).task.state is TaskState.SUCCESS


async def test_a_time_out_does_not_end_a_claim(store: Store) -> None:
    """The task is still being polled: nobody else may start a second poll, and the first one's answer counts."""
    short = await registered(store, new(timeout_s=10))
    await registered(store, new(client="bob", timeout_s=20))
    due = await claim_task(store)
    await settle(store, short, ABANDONED, at=NOW + 10_000, expired_by=NOW + 10_000)
    assert (await claim_tasks(store, "up", NOW + 10_000, 10))[0] == []
    await store.tasks.reschedule(
        PollRecord(seq=due.seq, upstream="up", polled_at=NOW + 10_000, next_poll_at=NOW + 11_000, error=None)
    )
    assert (await claim_task(store, NOW + 11_000)).seq == due.seq


async def test_an_end_ends_the_claim(store: Store) -> None:
    """A task that is given up after a poll, and watched again, is polled again."""
    callback = await registered(store)
    await claim_task(store)
    await settle(store, callback, ABANDONED)
    await registered(store, new(client="bob"))
    assert (await claim_task(store)).seq == callback.task.seq


async def test_a_task_that_is_watched_again_has_not_failed_yet(store: Store) -> None:
    """Polls that brought nothing were the watch's before: it is not asked about the more seldom for them."""
    callback = await registered(store)
    for at in (NOW, NOW + 1000):
        due = await claim_task(store, at)
        await store.tasks.reschedule(
            PollRecord(seq=due.seq, upstream="up", polled_at=at, next_poll_at=at + 1000, error="refused")
        )
    await settle(store, callback, ABANDONED, at=NOW + 2000)
    await registered(store, new(client="bob", at=NOW + 3000))
    again = await claim_task(store, NOW + 3000)
    assert (again.seq, again.failures) == (callback.task.seq, 0)


async def test_large_outcomes_settle_together(store: Store) -> None:
    """Outcomes of some MB that end at once all settle, each with its own body."""
    callbacks = [await registered(store, new(f"task-{number}")) for number in range(6)]
    outcomes = [
        Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"%d","result":"%b"}' % (number, b"x" * 600_000))
        for number in range(6)
    ]
    await asyncio.gather(*(settle(store, *pair) for pair in zip(callbacks, outcomes, strict=True)))
    due, _ = await claim_webhooks(store, NOW, 10)
    assert {callback.id for callback in callbacks} == {one.id for one in due}
    for owed in due:
        number = next(i for i, callback in enumerate(callbacks) if callback.id == owed.id)
        assert outcomes[number].data[1:-1] in webhook_body(owed.id, await store.outbox.body(owed) or b"")
