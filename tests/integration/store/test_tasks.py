"""How every store keeps the tasks that are to be polled: written against the ``TaskQueue`` port."""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from gateway.core.memory import SMALL
from gateway.core.model import (
    CallbackState,
    DueGroup,
    DueTask,
    Format,
    Outcome,
    PollRecord,
    Settlement,
    TaskState,
)
from gateway.core.pollhistory import Why, written
from gateway.core.reads import ReadWatch
from gateway.core.tracing import MOST_TRACES
from gateway.store import Store
from gateway.store.dialect import OWED_AT_ONCE
from gateway.store.engine import Result, Rows, Step, Work
from gateway.webhook.body import body_template, webhook_body
from tests.claims import claim_tasks
from tests.lanes import body_sent, claim_webhooks
from tests.storing import (
    ABANDONED,
    FAIL,
    LIMIT_S,
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

LARGE = b'{"param":"' + b"x" * SMALL + b'"}'


async def longest_due(store: Store, watchers: str, limit: int = 99, at: int = NOW) -> list[DueTask]:
    tasks, _ = await store.tasks.longest_due("up", watchers, at, limit)
    return tasks


def names(tasks: Iterable[DueTask]) -> list[str]:
    return [task.task_id for task in tasks]


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


async def test_only_expired_callbacks_are_abandoned(store: Store) -> None:
    """A time-out ends the callbacks whose time has passed; the task goes on for the others."""
    short = await registered(store, new(timeout_s=10))
    long = await registered(store, new(client="bob", timeout_s=20))
    await settle(store, short, ABANDONED, at=NOW + 11_000, expired_by=NOW + 10_000)
    assert (await look(store, short)).state is CallbackState.PENDING
    still = await look(store, long)
    assert (still.state, still.task.state, still.task.next_poll_at) == (CallbackState.WAITING, TaskState.WAITING, NOW)
    await settle(store, long, SUCCESS, at=NOW + 12_000)
    due, _ = await claim_webhooks(store, NOW + 99_000, 10)
    assert {d.id: body_sent(d) for d in due} == {
        short.id: body_template(ABANDONED, NOW + 11_000).fill(short.id, b"{}"),
        long.id: body_template(SUCCESS, NOW + 12_000).fill(long.id, b"{}"),
    }


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("shape", list(Format))
async def test_however_many_wait_for_a_task_no_statement_tells_all(
    store: Store, monkeypatch: pytest.MonkeyPatch, count: int, shape: Format
) -> None:
    """A part of them each, within the one transaction that ends the task: a statement has a time limit."""
    its: Any = store.tasks._sql
    parted = its.OWE_WEBHOOKS.replace(f"LIMIT {OWED_AT_ONCE}", "LIMIT 2")
    assert parted != its.OWE_WEBHOOKS
    monkeypatch.setattr(its, "OWE_WEBHOOKS", parted)
    monkeypatch.setattr("gateway.store.tasks.OWED_AT_ONCE", 2)
    made = [await registered(store, new(client=f"c{n}", shape=shape if n == count - 1 else Format.STANDARD))
            for n in range(count)]  # fmt: skip
    other = await registered(store, new("other"))
    await asyncio.gather(settle(store, made[0], record=b'{"taskId":"t"}'), settle(store, other))
    due, _ = await claim_webhooks(store, NOW, 10)
    assert {one.id for one in due} == {one.id for one in (*made, other)}
    assert {(await look(store, one)).task.state for one in (*made, other)} == {TaskState.SUCCESS}
    last = next(one for one in due if one.id == made[-1].id)
    assert (b'"data":{"taskId":"t"}}' in body_sent(last)) is (shape is Format.RECORD)


async def test_a_task_is_abandoned_when_nobody_waits_any_more(store: Store) -> None:
    """The last callback's time-out ends the task, without counting a poll."""
    callback = await registered(store, new(timeout_s=10))
    await settle(store, callback, ABANDONED, at=NOW + 10_000, expired_by=NOW + 10_000)
    task = (await look(store, callback)).task
    assert (task.state, task.polls, task.last_polled_at, task.next_poll_at) == (TaskState.ABANDONED, 0, None, None)


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


async def test_a_poll_that_ends_nothing_is_counted(store: Store) -> None:
    """A reschedule keeps when and with which error; errors in a row are counted, a good answer ends the row."""
    await registered(store)
    failures = []
    for n, error in enumerate(("refused", "refused again", None), 1):
        due = await claim_task(store, NOW + n * 1000)
        failures.append(due.failures)
        await store.tasks.reschedule(
            PollRecord(
                seq=due.seq,
                upstream="up",
                polled_at=NOW + n * 1000,
                next_poll_at=NOW + (n + 1) * 1000,
                error=error,
            )
        )
        task = await store.registry.get_task("ann", "task-1")
        assert task is not None
        assert (task.polls, task.last_polled_at, task.last_error) == (n, NOW + n * 1000, error)
        assert task.next_poll_at == NOW + (n + 1) * 1000
    assert failures == [0, 1, 2]
    last = await claim_task(store, NOW + 9000)
    assert (last.failures, last.polls) == (0, 3)


async def test_what_a_poll_told_of_its_task_is_kept(store: Store) -> None:
    """Its model and its birth, until another poll tells them anew; of that task alone."""
    await store.registry.register([new("task-1"), new("task-2")])
    told: list[tuple[int | None, str | None]] = [(NOW - 9000, "m"), (None, None), (NOW - 8000, "n")]
    for born_at, model in told:
        (one, other), _ = await claim_tasks(store, "up", NOW, 10)
        await store.tasks.release([other])
        await store.tasks.reschedule(
            PollRecord(
                seq=one.seq,
                upstream="up",
                polled_at=NOW,
                next_poll_at=NOW - 1,
                error=None,
                born_at=born_at,
                model=model,
            )
        )
        (one, other), _ = await claim_tasks(store, "up", NOW, 10)
        expected = (born_at or NOW - 9000, model or "m")
        assert (one.born_at, one.model) == expected
        assert (other.born_at, other.model, other.polls, other.due_at) == (None, None, 0, NOW)
        await store.tasks.release([one])
        await store.tasks.release([other])


async def test_a_reschedule_after_the_end_changes_nothing(store: Store) -> None:
    """A poll that was under way while the task settled does not make it due again."""
    callback = await registered(store)
    due = await claim_task(store)
    await settle(store, callback)
    await store.tasks.reschedule(
        PollRecord(seq=due.seq, upstream="up", polled_at=NOW + 5, next_poll_at=NOW + 9, error="late")
    )
    task = (await look(store, callback)).task
    assert (task.polls, task.next_poll_at, task.last_error) == (1, None, None)


async def test_a_reschedule_does_not_wake_an_idle_task(store: Store) -> None:
    """The last callback was cancelled during the poll: nobody waits, so nothing is asked again."""
    callback = await registered(store)
    due = await claim_task(store)
    await store.registry.cancel("ann", callback.id, NOW)
    await store.tasks.reschedule(
        PollRecord(seq=due.seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 1, error=None)
    )
    assert await claim_tasks(store, "up", NOW + 99, 10) == ([], None)


async def test_tasks_are_claimed_once_the_longest_due_first(store: Store) -> None:
    """A claim takes at most what was asked for, in order; the next call goes on behind it."""
    await store.registry.register([new(f"task-{n}", first_poll_at=NOW - n) for n in range(5)])
    await registered(store, new("later", first_poll_at=NOW + 500))
    await registered(store, new("elsewhere", upstream="other"))
    first, next_due_at = await claim_tasks(store, "up", NOW, 2)
    assert [task.task_id for task in first] == ["task-4", "task-3"]
    assert next_due_at == NOW - 2  # more is due already
    rest, next_due_at = await claim_tasks(store, "up", NOW, 10)
    assert [task.task_id for task in rest] == ["task-2", "task-1", "task-0"]
    assert next_due_at == NOW + 500
    assert await claim_tasks(store, "up", NOW, 10) == ([], NOW + 500)
    assert await claim_tasks(store, "up", NOW, 0) == ([], NOW + 500)


async def test_a_task_of_two_clients_waits_behind_neithers_others(store: Store) -> None:
    """It is of a group of its own, from the moment on that the second client registers for it, claimed or not."""
    await store.registry.register([new(f"task-{n}", client="ann", first_poll_at=NOW - 99 + n) for n in range(20)])
    assert names(await store.tasks.claim(await longest_due(store, "ann", 1))) == ["task-0"]
    for task_id in ("task-0", "task-19"):
        await registered(store, new(task_id, client="bob"))
    due, _ = await store.tasks.waiting("up", NOW)
    assert {group.watchers: group.claimed for group in due if group.watchers != "bob"} == {"ann": 0, "ann,bob": 1}
    assert names(await store.tasks.claim(await longest_due(store, "ann,bob"))) == ["task-19"]
    seq = (await store.registry.get_task("bob", "task-0")).seq  # type: ignore[union-attr]
    await store.tasks.reschedule(PollRecord(seq=seq, upstream="up", polled_at=NOW, next_poll_at=NOW, error=None))
    assert names(await longest_due(store, "ann,bob")) == ["task-0"]
    assert names(await longest_due(store, "ann", 2)) == ["task-1", "task-2"]


async def test_two_clients_that_register_a_task_at_once_both_watch_it(store: Store) -> None:
    """In one transaction too; and the first poll is the earlier one of theirs."""
    await store.registry.register([new(f"task-{n}", client="ann") for n in range(9)])
    later, sooner = await asyncio.gather(
        store.registry.register([new("task-9", client="ann", first_poll_at=NOW + 5000)]),
        store.registry.register([new("task-9", client="bob", first_poll_at=NOW)]),
    )
    assert later[0].created
    assert sooner[0].callback.task.next_poll_at == NOW
    assert names(await longest_due(store, "ann,bob")) == ["task-9"]
    assert len(await longest_due(store, "ann")) == 9


async def test_a_task_that_is_watched_again_is_the_new_clients(store: Store) -> None:
    """Who cancelled has no part in it any more."""
    mine = await registered(store, new("task-1", client="ann"))
    await store.registry.cancel("ann", mine.id, NOW)
    await registered(store, new("task-1", client="bob"))
    (due,), _ = await claim_tasks(store, "up", NOW, 9)
    assert due.watchers == "bob"


async def test_no_task_is_claimed_twice_at_once(store: Store) -> None:
    """Callers that have read the same ones get different tasks, and together all of them."""
    await store.registry.register([new(f"task-{n}") for n in range(40)])
    read = await asyncio.gather(*(longest_due(store, "ann") for _ in range(8)))
    found = await asyncio.gather(*(store.tasks.claim(tasks[5 * n :] + tasks[: 5 * n]) for n, tasks in enumerate(read)))
    assert sorted(name for claims in found for name in names(claims)) == sorted(f"task-{n}" for n in range(40))


async def test_of_each_group_one_new_task_is_told(store: Store) -> None:
    """The first that is due, registered since then, never polled and unclaimed."""
    await store.registry.register([new(f"task-{n}") for n in range(3)])
    await registered(store, new("task-9", client="bob"))
    await registered(store, new("later", first_poll_at=NOW + 500))
    await registered(store, new("elsewhere", upstream="other"))
    assert await store.tasks.never_polled("up", NOW + 1, NOW) == []
    claims = []
    while found := await store.tasks.never_polled("up", NOW, NOW):
        claims.append(names(await store.tasks.claim(found)))
    assert claims == [["task-0", "task-9"], ["task-1"], ["task-2"]]
    (later,) = await store.tasks.claim(await store.tasks.never_polled("up", NOW, NOW + 500))
    await store.tasks.reschedule(
        PollRecord(seq=later.seq, upstream="up", polled_at=NOW + 500, next_poll_at=NOW + 500, error="x")
    )
    assert await store.tasks.never_polled("up", NOW, NOW + 500) == []


async def test_who_watches_is_told_with_what_is_due_and_claimed(store: Store) -> None:
    """Of this upstream, and of who has something due; of the others when the first of theirs will be."""
    assert await store.tasks.waiting("up", NOW) == ([], None)
    await store.registry.register([new(f"task-{n}", client="ann", first_poll_at=NOW - 9 + n) for n in range(5)])
    await store.registry.register([new(f"later-{n}", client="bob", first_poll_at=NOW + 9 - n) for n in range(5)])
    await registered(store, new("elsewhere", client="bob", upstream="other", first_poll_at=NOW - 100))
    assert await store.tasks.waiting("up", NOW) == ([DueGroup("ann", NOW - 9, 0)], NOW + 5)
    first, *others = await longest_due(store, "ann", 3)
    assert names([first, *others]) == ["task-0", "task-1", "task-2"]
    await store.tasks.claim(others)
    assert await store.tasks.waiting("up", NOW) == ([DueGroup("ann", NOW - 9, 2)], NOW + 5)
    await store.tasks.claim([first])
    assert await store.tasks.waiting("up", NOW) == ([DueGroup("ann", NOW - 6, 3)], NOW + 5)
    assert await store.tasks.longest_due("up", "ann", NOW, 9) == (await longest_due(store, "ann", 2), None)
    await store.tasks.claim(await longest_due(store, "ann"))
    assert await store.tasks.waiting("up", NOW) == ([], NOW + 5)
    await store.tasks.release([first, others[1]])
    assert await store.tasks.waiting("up", NOW) == ([DueGroup("ann", NOW - 9, 3)], NOW + 5)
    assert await store.tasks.longest_due("up", "bob", NOW, 9) == ([], NOW + 5)


async def test_a_released_task_can_be_claimed_again(store: Store) -> None:
    """A claim that is given back leaves no trace and wakes the poller."""
    await registered(store)
    due = await claim_task(store)
    assert (await claim_tasks(store, "up", NOW, 10))[0] == []
    store.tasks.due("up").clear()
    await store.tasks.release([due])
    assert store.tasks.due("up").is_set()
    assert await claim_task(store) == due
    await store.tasks.release([due])
    await store.tasks.release([due])
    assert await claim_tasks(store, "up", NOW, 0) == ([], NOW)
    assert await claim_task(store) == due


async def test_a_claim_holds_until_its_write_is_committed(store: Store) -> None:
    """Between asking for the reschedule and its commit nobody else gets the task; afterwards its new time counts."""
    await registered(store)
    due = await claim_task(store)
    record = PollRecord(seq=due.seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 100, error=None)
    write = asyncio.create_task(store.tasks.reschedule(record))
    while not write.done():
        assert (await claim_tasks(store, "up", NOW, 10))[0] == []
        await asyncio.sleep(0)  # a claim that finds nothing due asks nobody
    await write
    assert await claim_tasks(store, "up", NOW, 10) == ([], NOW + 100)
    assert (await claim_task(store, NOW + 100)).polls == 1


async def test_poll_now_brings_a_waiting_task_forward(store: Store) -> None:
    """Only tasks that wait for a later poll move; a settled one does not come back.

    Nor does one move of whose callbacks none has passed: the one that had was cancelled as the question was on its way.
    """
    later = await registered(store, new("later", first_poll_at=NOW + 5000, timeout_s=1))
    earlier = await registered(store, new("earlier", first_poll_at=NOW - 5000, timeout_s=1))
    ended = await registered(store, new("ended", timeout_s=1))
    await settle(store, ended)
    cancelled = await registered(store, new("cancelled", first_poll_at=NOW + 5000, timeout_s=1))
    await registered(store, new("cancelled", url="https://hooks.test/other", first_poll_at=NOW + 5000))
    await store.registry.cancel("ann", cancelled.id, NOW)
    await store.tasks.poll_now("up", [c.task.seq for c in (later, earlier, ended, cancelled)], NOW + 1000)
    assert (await look(store, later)).task.next_poll_at == NOW + 1000
    assert (await look(store, earlier)).task.next_poll_at == NOW - 5000
    assert (await look(store, ended)).task.next_poll_at is None
    assert (await look(store, cancelled)).task.next_poll_at == NOW + 5000


async def test_an_expiry_is_found_at_its_time(store: Store) -> None:
    """Also one that was registered after its poller had heard of a later one."""
    await registered(store, new("late", timeout_s=60))
    assert await store.tasks.expired("up", NOW, 10) == ([], NOW + 60_000)
    await registered(store, new("early", timeout_s=1))
    assert await store.tasks.expired("up", NOW + 999, 10) == ([], NOW + 1000)
    assert [task.task_id for task in (await store.tasks.expired("up", NOW + 1000, 10))[0]] == ["early"]
    assert [task.task_id for task in (await store.tasks.expired("up", NOW + 60_000, 10))[0]] == ["early", "late"]


async def test_what_expires_later_is_not_looked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poller's rounds come many times a second, and only what is registered meanwhile could be earlier."""
    await registered(store, new(timeout_s=60))
    assert await store.tasks.expired("up", NOW, 10) == ([], NOW + 60_000)
    with monkeypatch.context() as patch:
        patch.setattr(store._engine, "read", None)
        assert await store.tasks.expired("up", NOW + 59_999, 10) == ([], NOW + 60_000)
    assert len((await store.tasks.expired("up", NOW + 60_000, 10))[0]) == 1


async def test_expired_tasks_are_found_with_the_next_expiry(store: Store) -> None:
    """Each task stands once, with its earliest passed callback; only waiting callbacks of this upstream count."""
    await registered(store, new("a", timeout_s=10))
    await registered(store, new("a", client="bob", timeout_s=5))
    await registered(store, new("b", timeout_s=7))
    await registered(store, new("later", timeout_s=60))
    await registered(store, new("last", timeout_s=70))
    await registered(store, new("elsewhere", upstream="other", timeout_s=1))
    for timeout_s in (1, 50):
        cancelled = await registered(store, new("cancelled", timeout_s=timeout_s))
        await store.registry.cancel("ann", cancelled.id, NOW)
    await settle(store, await registered(store, new("ended", timeout_s=1)))
    expired, next_expiry_at = await store.tasks.expired("up", NOW + 10_000, 10)
    assert [(task.task_id, task.expires_at) for task in expired] == [("a", NOW + 5000), ("b", NOW + 7000)]
    assert {task.last_polled_at for task in expired} == {None}
    assert next_expiry_at == NOW + 60_000
    assert [task.task_id for task in (await store.tasks.expired("up", NOW + 10_000, 1))[0]] == ["a"]
    assert (await store.tasks.expired("up", NOW + 99_000, 10))[1] is None


async def test_an_expired_task_is_found_though_the_clock_was_set_back(store: Store) -> None:
    """Until it has had its last poll it is expired whenever its time has passed, by whatever clock."""
    callback = await registered(store, new(timeout_s=60))
    assert [task.seq for task in (await store.tasks.expired("up", NOW + 3_600_000, 10))[0]] == [callback.task.seq]
    assert (await store.tasks.expired("up", NOW + 1000, 10))[0] == []
    assert [task.seq for task in (await store.tasks.expired("up", NOW + 61_000, 10))[0]] == [callback.task.seq]


async def test_any_number_may_have_expired_of_another_upstream(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are passed a few at a time, between which polls have their turn, and never again."""
    monkeypatch.setattr("gateway.store.expiries._PART", 3)
    monkeypatch.setattr("gateway.store.expiries._PARTS", 2)
    first = await registered(store, new("first", timeout_s=1))
    await store.registry.register([new(f"down-{n}", upstream="down", timeout_s=2 + n) for n in range(20)])
    last = await registered(store, new("last", timeout_s=30))
    later = await registered(store, new("later", timeout_s=90))
    now, looks = NOW + 60_000, []
    for _ in range(5):
        expired, next_at = await store.tasks.expired("up", now, 10)
        looks.append([task.seq for task in expired])
    assert looks == [[first.task.seq]] * 3 + [[first.task.seq, last.task.seq]] * 2
    assert next_at == later.expires_at
    for callback in (first, last):
        await settle(store, callback, ABANDONED, expired_by=now)
    assert await store.tasks.expired("up", now, 10) == ([], later.expires_at)


async def test_more_that_expire_at_once_than_are_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a batch all callbacks may expire in the same millisecond: none is passed over; as many are told of as fit."""
    monkeypatch.setattr("gateway.store.expiries._PART", 3)
    made = await store.registry.register([new(f"task-{n}", timeout_s=60) for n in range(10)])
    expired, next_at = await store.tasks.expired("up", NOW + 60_000, 7)
    assert (len(expired), next_at) == (7, NOW + 61_000)
    for one in expired:
        callback = next(each.callback for each in made if each.callback.task.seq == one.seq)
        await settle(store, callback, ABANDONED, expired_by=NOW + 60_000)
    assert len((await store.tasks.expired("up", NOW + 60_000, 7))[0]) == 3


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


@pytest.mark.parametrize("newly_read_first", [False, True], ids=["read before", "read since"])
@pytest.mark.parametrize("cancels", [False, True], ids=["joins", "takes over"])
async def test_a_task_whose_watchers_change_between_reading_and_claiming_is_claimed_once(
    store: Store, cancels: bool, newly_read_first: bool
) -> None:
    """And again when its next poll is due: its claim is not forgotten where it was before."""
    made = await store.registry.register([new(f"task-{n}", client="ann") for n in range(9)])
    read = [await longest_due(store, "ann")]
    if cancels:
        await store.registry.cancel("ann", made[5].callback.id, NOW)
    await registered(store, new("task-5", client="bob"))
    read.insert(not newly_read_first, await longest_due(store, "bob" if cancels else "ann,bob"))
    claims = [task for tasks in read for task in await store.tasks.claim(tasks)]
    assert sorted(names(claims)) == [f"task-{n}" for n in range(9)]
    for task in claims:
        await store.tasks.reschedule(
            PollRecord(seq=task.seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 1, error=None)
        )
    again, _ = await claim_tasks(store, "up", NOW + 1, 20)
    assert sorted(names(again)) == sorted(names(claims))


async def test_tasks_that_were_claimed_before_others_watch_them_are_theirs_then(store: Store) -> None:
    """All that are due for these may be claimed already: there is nothing more to claim, and it is polled again."""
    await store.registry.register([new(f"task-{n}", client="ann") for n in range(9)])
    read = await longest_due(store, "ann")
    for task_id in ("task-5", "task-6", "task-7"):
        await registered(store, new(task_id, client="bob"))
    claims = await store.tasks.claim(read)
    assert names(claims) == names(read)
    async with asyncio.timeout(LIMIT_S):
        while (found := await store.tasks.longest_due("up", "ann,bob", NOW, 1)) != ([], None):
            assert found[0] == []
    assert await claim_tasks(store, "up", NOW + 1, 9) == ([], None)
    for task in claims:
        await store.tasks.reschedule(
            PollRecord(seq=task.seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 1, error=None)
        )
    again, _ = await claim_tasks(store, "up", NOW + 1, 20)
    assert len(again) == 9


@pytest.mark.parametrize("new_store", ["sqlite"], indirect=True)
async def test_who_is_alone_leads_whatever_it_is_told(store: Store) -> None:
    """Nothing is read for it, and nothing is lost."""
    await registered(store)
    epoch = await store.lead("polls:up", 10)
    assert epoch == 0
    assert (await store.standing(10)).replicas == 1
    await store.tasks.gained("up", epoch)
    store.tasks.lost("up")
    assert len((await store.tasks.waiting("up", NOW))[0]) == 1


async def test_the_first_and_the_last_polls_are_kept(store: Store) -> None:
    """With the one that ended it; and nothing of them of a task that begins anew."""
    made = await registered(store)
    for number in range(30):
        due = await claim_task(store, NOW + number * 1000)
        told = written(number * 1000, "running", 1000, Why.LEARNED)
        told = told if number else written(0, "registered", 0, Why.FIRST) + told
        await store.tasks.reschedule(
            PollRecord(
                seq=due.seq,
                upstream="up",
                polled_at=NOW + number * 1000,
                next_poll_at=NOW + (number + 1) * 1000,
                error=None,
                told=told,
            )
        )
    polls = await store.registry.polls((await look(store, made)).task)
    assert [poll.at_ms // 1000 for poll in polls] == [0, 0, 1, 2, 3, *range(19, 30)]
    assert {place: poll.left_out for place, poll in enumerate(polls) if poll.left_out} == {5: 15}
    due = await claim_task(store, NOW + 30_000)
    told = written(30_000, "not_known", 0, Why.ENDED)
    await store.tasks.settle(
        Settlement(upstream="up", seq=due.seq, outcome=ABANDONED, settled_at=NOW + 30_000, polls=1, told=told)
    )
    last = (await store.registry.polls((await look(store, made)).task))[-1]
    assert (last.at_ms, last.came, last.why) == (30_000, "not_known", Why.ENDED)
    again = await registered(store, new(client="bob", at=NOW + 40_000))
    assert await store.registry.polls(again.task) == []


async def test_the_traces_of_those_who_wait(store: Store) -> None:
    """In the order of registration, of a task's waiting callbacks that have one, and not of more than are told of."""
    first = await registered(store, new(trace="00-1-1-01 rojo=1"))
    await registered(store, new(url="https://app.example.com/untraced"))
    gone = await registered(store, new(url="https://app.example.com/gone", trace="00-2-2-01"))
    await registered(store, new("task-2", trace="00-3-3-01"))
    await store.registry.cancel("ann", gone.id, NOW)
    assert await store.tasks.traces(first.task.seq) == ["00-1-1-01 rojo=1"]
    many = [new(url=f"https://app.example.com/{number}", trace=f"00-{number}-1-01") for number in range(MOST_TRACES)]
    await store.registry.register(many)
    traces = await store.tasks.traces(first.task.seq)
    assert len(traces) == MOST_TRACES
