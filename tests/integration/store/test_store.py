"""What every store does, whatever its database: one suite, written against the ``Store`` protocol alone.

A second store comes under it through a parameter of ``new_store``.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.core.ids import new_callback_id
from gateway.core.memory import SMALL
from gateway.core.model import (
    Attempt,
    AttemptRecord,
    AttemptResult,
    Backlog,
    Callback,
    CallbackState,
    DueCallback,
    DueGroup,
    DueTask,
    NewCallback,
    Outcome,
    PollRecord,
    Registration,
    Settlement,
    Share,
    TaskState,
)
from gateway.store import Store
from gateway.store.sqlite.store import SqliteStore
from gateway.webhook.body import body_template, webhook_body
from tests.claims import claim_tasks
from tests.lanes import body_sent, claim_webhooks, lane

NOW = 1_777_460_000_000
LIMIT_S = 10
SUCCESS = Outcome(state=TaskState.SUCCESS, data='{"taskId":"t","result":{"text":"Füße 🐈"}}'.encode())
FAIL = Outcome(state=TaskState.FAIL, data=b'{"taskId":"t","failMsg":"no \\"luck\\""}')
ABANDONED = Outcome(state=TaskState.ABANDONED, data=b'{"taskId":"t","reason":"timeout"}')

NewStore = Callable[..., Store]


@pytest.fixture(params=["sqlite"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> NewStore:
    """Make a store on this test's database; each call is the next life of the gateway."""

    def make(first_attempt_delay_s: float = 0.0) -> Store:
        assert request.param == "sqlite"
        return SqliteStore(tmp_path / "gateway.db", first_attempt_delay_s=first_attempt_delay_s)

    return make


@pytest.fixture
async def store(new_store: NewStore) -> AsyncIterator[Store]:
    async with AsyncExitStack() as stack:
        with capture_logs() as log:
            yield await opened(new_store(), stack)
    assert not [line for line in log if line["log_level"] == "error"], "a follow-up that fails is told to nobody else"


async def opened(store: Store, stack: AsyncExitStack) -> Store:
    await store.open()
    stack.push_async_callback(store.close)
    return store


def new(
    task_id: str = "task-1",
    *,
    client: str = "ann",
    url: str = "https://app.example.com/hooks",
    upstream: str = "up",
    metadata: bytes = b"{}",
    timeout_s: int = 3600,
    at: int = NOW,
    first_poll_at: int | None = None,
    model: str | None = None,
) -> NewCallback:
    return NewCallback(
        id=new_callback_id(at),
        client=client,
        upstream=upstream,
        task_id=task_id,
        url=url,
        metadata=metadata,
        timeout_s=timeout_s,
        created_at=at,
        first_poll_at=at if first_poll_at is None else first_poll_at,
        model=model,
    )


async def register(store: Store, callback: NewCallback) -> Registration:
    (registration,) = await store.registry.register([callback])
    return registration


async def registered(store: Store, callback: NewCallback | None = None) -> Callback:
    return (await register(store, new() if callback is None else callback)).callback


async def look(store: Store, callback: Callback | DueCallback) -> Callback:
    found = await store.registry.get_callback(callback.client, callback.id)
    assert found is not None
    return found


async def settle(
    store: Store, callback: Callback, outcome: Outcome = SUCCESS, *, at: int = NOW, expired_by: int | None = None
) -> None:
    await store.tasks.settle(
        Settlement(
            upstream="up",
            seq=callback.task.seq,
            outcome=outcome,
            settled_at=at,
            frame=None if outcome.state.terminal else body_template(outcome, at).frame,
            polls=1 if expired_by is None else 0,
            expired_by=expired_by,
        )
    )


async def claim(store: Store, at: int = NOW) -> DueCallback:
    """Claim the one webhook that is due."""
    (due,), _ = await claim_webhooks(store, at, 10)
    return due


async def claim_task(store: Store, at: int = NOW) -> DueTask:
    (due,), _ = await claim_tasks(store, "up", at, 10)
    return due


async def longest_due(store: Store, watchers: str, limit: int = 99, at: int = NOW) -> list[DueTask]:
    tasks, _ = await store.tasks.longest_due("up", watchers, at, limit)
    return tasks


def names(tasks: Iterable[DueTask]) -> list[str]:
    return [task.task_id for task in tasks]


def attempt_of(
    due: DueCallback,
    result: AttemptResult,
    *,
    at: int = NOW,
    next_at: int | None = None,
    error: str | None = None,
    excerpt: str | None = None,
) -> AttemptRecord:
    status_code = {AttemptResult.DELIVERED: 200, AttemptResult.INTERRUPTED: None}.get(result, 503)
    made = Attempt(
        number=due.attempts + 1,
        started_at=at,
        duration_ms=12,
        status_code=status_code,
        error=error,
        result=result,
        excerpt=excerpt,
    )
    return AttemptRecord(claim=due, attempt=made, next_attempt_at=next_at)


async def brought_to(store: Store, state: CallbackState, callback: NewCallback | None = None) -> Callback:
    """Register a callback and bring it to a state the way the loops would."""
    made = await registered(store, callback)
    if state is CallbackState.WAITING:
        return made
    if state is CallbackState.CANCELLED:
        await store.registry.cancel(made.client, made.id, NOW)
        return await look(store, made)
    await settle(store, made)
    if state is not CallbackState.PENDING:
        for due in (await claim_webhooks(store, NOW, 10))[0]:
            if due.id == made.id:
                await store.outbox.record(attempt_of(due, AttemptResult(state.value)))
            else:
                await store.outbox.release([due])
    return await look(store, made)


# Registering


async def test_a_registration_is_stored_with_its_task(store: Store) -> None:
    """A new callback waits, and so does its task, which is due at its first poll."""
    asked = new(metadata=b'{"orderId":7}', timeout_s=60, first_poll_at=NOW + 500)
    registration = await register(store, asked)
    callback = registration.callback
    assert registration.created
    assert (callback.id, callback.client, callback.url) == (asked.id, "ann", asked.url)
    assert (callback.metadata, callback.timeout_s) == (b'{"orderId":7}', 60)
    assert (callback.state, callback.attempts) == (CallbackState.WAITING, 0)
    assert (callback.created_at, callback.expires_at) == (NOW, NOW + 60_000)
    assert (callback.next_attempt_at, callback.delivered_at, callback.last_error) == (None, None, None)
    assert (callback.task.task_id, callback.task.upstream) == ("task-1", "up")
    assert (callback.task.state, callback.task.polls) == (TaskState.WAITING, 0)
    assert callback.task.next_poll_at == NOW + 500
    assert await look(store, callback) == callback


async def test_the_same_registration_again_finds_the_first(store: Store) -> None:
    """Client, task and URL the same: nothing is made, and what stands is returned as it was asked for first."""
    first = await registered(store, new(metadata=b'{"a":1}', timeout_s=60))
    again = await register(store, new(metadata=b'{"a":2}', timeout_s=90, at=NOW + 5))
    assert not again.created
    assert again.callback == first
    assert not new(metadata=b'{"a":2}', timeout_s=60).same_request_as(again.callback)
    assert new(metadata=b'{ "a": 1 }', timeout_s=60).same_request_as(again.callback)


@pytest.mark.parametrize(
    "other", [new(client="bob"), new(url="https://other.example.com/"), new("task-2"), new(upstream="up-2")]
)
async def test_another_client_url_task_or_upstream_is_another_callback(store: Store, other: NewCallback) -> None:
    """Only all four together make a registration the same."""
    first = await registered(store)
    second = await register(store, other)
    assert second.created
    assert second.callback.id != first.id


async def test_a_cancelled_callback_does_not_count(store: Store) -> None:
    """The same registration after a cancellation makes a new callback, as often as that happens."""
    ids = set()
    for _ in range(3):
        registration = await register(store, new())
        assert registration.created
        ids.add(registration.callback.id)
        await store.registry.cancel("ann", registration.callback.id, NOW)
    assert (await register(store, new())).created
    assert len(ids) == 3


async def test_a_batch_answers_in_order_with_duplicates_inside(store: Store) -> None:
    """Each item of a batch gets its registration; the second of two equal ones finds the first."""
    known = await registered(store, new("known"))
    batch = [new("b"), new("a"), new("known"), new("b"), new("b", client="bob")]
    found = await store.registry.register(batch)
    assert [r.callback.task.task_id for r in found] == ["b", "a", "known", "b", "b"]
    assert [r.created for r in found] == [True, True, False, False, True]
    assert found[2].callback.id == known.id
    assert found[3].callback == found[0].callback
    seqs = [r.callback.seq for r in found if r.created]
    assert seqs == sorted(seqs)


async def test_an_empty_batch_is_no_error(store: Store) -> None:
    """Nothing to register is nothing registered."""
    assert await store.registry.register([]) == []


async def test_registrations_at_once_are_all_made(store: Store) -> None:
    """Concurrent callers share transactions, never results; equal ones make one callback."""
    found = await asyncio.gather(*(register(store, new(f"task-{n % 20}")) for n in range(60)))
    assert [r.callback.task.task_id for r in found] == [f"task-{n % 20}" for n in range(60)]
    assert sum(r.created for r in found) == 20
    assert len({r.callback.id for r in found}) == 20


async def test_ten_callbacks_on_one_task_share_it(store: Store) -> None:
    """However many wait on a task, it is one row, and one poll stream."""
    found = await store.registry.register([new(url=f"https://app.example.com/{n}") for n in range(10)])
    assert len({r.callback.task.seq for r in found}) == 1
    due, next_due_at = await claim_tasks(store, "up", NOW, 100)
    assert [task.task_id for task in due] == ["task-1"]
    assert next_due_at is None


@pytest.mark.parametrize("outcome", [SUCCESS, FAIL])
async def test_a_callback_on_a_settled_task_is_pending_at_once(store: Store, outcome: Outcome) -> None:
    """It gets the task's outcome with no further poll, and its own id and metadata."""
    other = await registered(store, new("other", first_poll_at=NOW + 1_000_000))
    await settle(store, await registered(store), outcome, at=NOW + 1)
    urls = "https://app.example.com/1", "https://app.example.com/2"
    asked = [new(client="bob", metadata='{"käse":"🧀"}'.encode(), at=NOW + 9)]
    asked += [new(client="eve", url=url, at=NOW + 9) for url in urls]
    late = [registration.callback for registration in await store.registry.register(asked)]
    assert [callback.state for callback in late] == [CallbackState.PENDING] * 3
    assert [callback.next_attempt_at for callback in late] == [NOW + 9] * 3
    assert (late[0].task.state, late[0].task.polls) == (outcome.state, 1)
    assert (await claim_tasks(store, "up", NOW + 99, 10))[0] == []
    due, _ = await claim_webhooks(store, NOW + 9, 10)
    bodies = {callback.id: body_sent(callback) for callback in due}
    template = body_template(outcome, NOW + 1)
    assert [bodies[new.id] for new in asked] == [template.fill(new.id, new.metadata) for new in asked]
    assert await look(store, other) == other


async def test_a_callback_that_comes_with_its_tasks_end_is_pending(store: Store) -> None:
    """A registration written beside the settlement does not wait for a poll that never comes."""
    first = await registered(store)
    _, late = await asyncio.gather(settle(store, first), register(store, new(client="bob")))
    assert late.callback.state is CallbackState.PENDING


async def test_an_abandoned_task_is_polled_again_for_a_new_callback(store: Store) -> None:
    """Giving a task up is the gateway's word, not the upstream's: it does not bind the next callback."""
    first = await registered(store)
    await settle(store, first, ABANDONED, expired_by=first.expires_at)
    assert (await look(store, first)).task.state is TaskState.ABANDONED
    late = await registered(store, new(client="bob", at=NOW + 7, first_poll_at=NOW + 999))
    assert (late.state, late.task.state) == (CallbackState.WAITING, TaskState.WAITING)
    assert (late.task.next_poll_at, late.task.settled_at) == (NOW + 7, None), "at once: it is no new task"
    assert (await claim_task(store, NOW + 7)).task_id == "task-1"
    task = await store.registry.get_task("bob", "task-1")
    assert task is not None
    assert task.outcome is None
    assert (await look(store, first)).state is CallbackState.PENDING  # what was owed stays owed


async def test_an_idle_task_is_polled_again_for_a_new_callback(store: Store) -> None:
    """A task that everybody had cancelled wakes up with the next callback."""
    first = await registered(store)
    await store.registry.cancel("ann", first.id, NOW)
    late = await registered(store, new(client="bob", at=NOW + 7, first_poll_at=NOW + 999))
    assert late.task.next_poll_at == NOW + 7
    assert (await claim_task(store, NOW + 7)).task_id == "task-1"


async def test_a_task_that_is_polled_again_begins_anew(store: Store) -> None:
    """It is as old as the first callback that woke it, its failures are forgotten, and no other task wakes with it."""
    idle = await registered(store)
    other = await registered(store, new("task-2"))
    for callback in (idle, other):
        due, _ = await claim_tasks(store, "up", NOW, 1)
        await store.tasks.reschedule(PollRecord(seq=due[0].seq, polled_at=NOW, next_poll_at=NOW + 1, error="refused"))
        await store.registry.cancel("ann", callback.id, NOW)
    asked = [new(client=client, at=NOW + at, first_poll_at=NOW + at + 1) for client, at in (("bob", 50), ("eve", 60))]
    await store.registry.register(asked)
    (due,), next_due_at = await claim_tasks(store, "up", NOW + 999, 10)
    assert (due.seq, due.created_at, due.due_at, due.failures) == (idle.task.seq, NOW + 50, NOW + 50, 0)
    assert next_due_at is None


async def test_one_name_at_two_upstreams_is_two_tasks(store: Store) -> None:
    """The same registration again finds the one that was made for its upstream."""
    made = [await registered(store, new(upstream=upstream)) for upstream in ("up", "other")]
    again = await store.registry.register([new(upstream=upstream) for upstream in ("other", "up")])
    assert [registration.callback.id for registration in again] == [made[1].id, made[0].id]


async def test_registering_wakes_the_poller(store: Store) -> None:
    """A new task may be due earlier than anything its poller knows of; the same registration again makes none."""
    await registered(store)
    assert store.tasks.due("up").is_set()
    assert not store.tasks.due("another").is_set()
    store.tasks.due("up").clear()
    await registered(store)
    assert not store.tasks.due("up").is_set()


async def test_the_same_registration_again_wakes_no_task(store: Store) -> None:
    """Its webhook has been owed since the task was given up: nobody waits for another answer."""
    callback = await registered(store)
    await settle(store, callback, ABANDONED, expired_by=callback.expires_at)
    again = await register(store, new())
    assert not again.created
    assert again.callback.task.state is TaskState.ABANDONED
    assert await look(store, callback) == again.callback


async def model_of(store: Store, callback: Callback) -> str | None:
    task = await store.registry.get_task(callback.client, callback.task.task_id)
    assert task is not None
    assert task.model == (await look(store, callback)).task.model
    return task.model


async def test_a_model_is_kept_with_its_task(store: Store) -> None:
    """The poller is told of it with the task; a NUL in it, at which SQLite would end it, is replaced."""
    told = await registered(store, new(model="m", first_poll_at=NOW + 9))
    odd = await registered(store, new("odd", model="a\0b", first_poll_at=NOW + 9))
    assert (told.task.model, odd.task.model) == ("m", "a\ufffdb")
    assert await look(store, told) == told
    assert [task.model for task in (await claim_tasks(store, "up", NOW + 9, 10))[0]] == ["m", "a\ufffdb"]


@pytest.mark.parametrize("joins", [{}, {"url": "https://other.example.com/"}, {"client": "bob"}])
async def test_a_later_registration_may_tell_the_model(store: Store, joins: dict[str, str]) -> None:
    """Whoever knows it tells it, with the same registration again too; the first word stands, and is no conflict."""
    first = await registered(store)
    again = [await register(store, new(model=model, **joins)) for model in ("m", None, "n")]  # type: ignore[arg-type]
    assert [one.created for one in again] == [bool(joins), False, False]
    assert [one.callback.task.model for one in again] == ["m", "m", "m"]
    assert await model_of(store, first) == "m"


@pytest.mark.parametrize("known", [False, True])
async def test_of_registrations_at_once_the_first_that_knows_it_tells_the_model(store: Store, known: bool) -> None:
    """So it is where they make the task, and where it is there."""
    if known:
        await registered(store)
    asked = [new(url=f"https://app.example.com/{model}", model=model) for model in (None, "m", "n")]
    found = [registration.callback for registration in await store.registry.register(asked)]
    assert [await model_of(store, callback) for callback in found] == ["m", "m", "m"]
    assert (await claim_task(store)).model == "m"


async def test_the_upstreams_word_on_the_model_counts(store: Store) -> None:
    """It takes the place of a client's, and no later registration changes it."""
    callback = await registered(store, new(model="m"))
    due = await claim_task(store)
    record = PollRecord(seq=due.seq, polled_at=NOW, next_poll_at=NOW + 1, error=None, model="its own")
    await store.tasks.reschedule(record)
    await register(store, new(client="bob", model="n"))
    assert await model_of(store, callback) == "its own"


@pytest.mark.parametrize("outcome", [SUCCESS, ABANDONED])
async def test_a_task_that_has_ended_is_registered_with_its_model(store: Store, outcome: Outcome) -> None:
    """The upstream's last word is told at once, without a poll; a task that was given up is polled again at once."""
    first = await registered(store)
    await settle(store, first, outcome, expired_by=None if outcome is SUCCESS else first.expires_at)
    late = await registered(store, new(client="bob", model="m", at=NOW + 9, first_poll_at=NOW + 9999))
    polled, _ = await claim_tasks(store, "up", NOW + 9, 10)
    if outcome is SUCCESS:
        assert (late.state, late.next_attempt_at, polled) == (CallbackState.PENDING, NOW + 9, [])
    else:
        assert (late.state, [task.model for task in polled]) == (CallbackState.WAITING, ["m"])


# Settling


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
    assert bodies == [body_template(large, NOW + 1).fill(callback.id, b'{"n":1}')] * 2


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


async def test_a_large_outcome_is_written_once(store: Store) -> None:
    """A second one of the same task, which has ended, is nobody's; one of no task is none."""
    callback = await registered(store)
    first, second = (Outcome(state=TaskState.SUCCESS, data=b'{"a":"%b"}' % (one * (SMALL + 1))) for one in (b"1", b"2"))
    await settle(store, callback, first)
    await settle(store, callback, second)
    assert await store.registry.outcome(callback.task.seq) == first.data
    assert await store.registry.outcome(callback.task.seq + 1) is None


async def test_tasks_of_upstreams_that_nobody_polls_are_counted(store: Store) -> None:
    """By their names, so that they can be told of; those that have ended are nobody's concern."""
    for upstream, task_id in (("up", "a"), ("gone", "a"), ("gone", "b"), ("older", "a")):
        callback = await registered(store, new(task_id, upstream=upstream))
    await store.registry.cancel("ann", callback.id, NOW)
    assert await store.registry.tasks_of_others(["up"]) == {"gone": 2}
    assert await store.registry.tasks_of_others(["up", "gone"]) == {}


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
    await store.tasks.reschedule(PollRecord(seq=due.seq, polled_at=NOW, next_poll_at=NOW + 1, error="refused"))
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


async def test_the_last_256_durations_of_a_model_are_kept(new_store: NewStore) -> None:
    """The newest one takes the oldest one's place, in the next life too; other models keep theirs."""
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        assert await store.tasks.durations("up") == []
        await ended_after(store, "m", range(257))
        await ended_after(store, None, [7])
        assert await store.tasks.durations("other") == []
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        kept = [duration_ms for model, duration_ms in await store.tasks.durations("up") if model == "m"]
        assert kept == [*range(1, 257)]
        await ended_after(store, "m", [257, 258])
        found = await store.tasks.durations("up")
        assert [duration_ms for model, duration_ms in found if model == "m"] == [*range(3, 259)]
        assert [duration_ms for model, duration_ms in found if model is None] == [7]


async def test_the_durations_of_the_last_128_models_are_kept(new_store: NewStore) -> None:
    """Names come from outside, and may be another one each time; who ended a task last stays, over restarts too."""
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        for number in range(200):
            await ended_after(store, f"m{number}", [number])
            await ended_after(store, "often", [1000 + number])
        found = await store.tasks.durations("up")
        assert [duration_ms for model, duration_ms in found if model != "often"] == [*range(73, 200)]
        assert [duration_ms for model, duration_ms in found if model == "often"] == [*range(1000, 1200)]
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        assert await store.tasks.durations("up") == found
        await ended_after(store, "new", [1])
        assert {"new", "often", "m199", "m74"} <= {model for model, _ in await store.tasks.durations("up")}
        assert "m73" not in {model for model, _ in await store.tasks.durations("up")}


async def ended_after(store: Store, model: str | None, durations_ms: Iterable[int]) -> None:
    """Settle a task for each duration, in their order."""
    made = {one: new(f"{model}-{one}") for one in durations_ms}
    found = await store.registry.register(list(made.values()))
    settlements = [
        Settlement(
            upstream="up",
            seq=registration.callback.task.seq,
            outcome=SUCCESS,
            settled_at=NOW,
            polls=1,
            model=model,
            duration_ms=duration_ms,
        )
        for duration_ms, registration in zip(made, found, strict=True)
    ]
    await asyncio.gather(*(store.tasks.settle(settlement) for settlement in settlements))


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
    await store.tasks.reschedule(PollRecord(seq=due.seq, polled_at=NOW + 10_000, next_poll_at=NOW + 11_000, error=None))
    assert (await claim_task(store, NOW + 11_000)).seq == due.seq


async def test_whoever_waits_for_a_task_is_woken(store: Store) -> None:
    """wait_settled returns long before its time when the task settles, for each that waits."""
    callback = await registered(store)
    waiters = [asyncio.create_task(store.registry.wait_settled(callback.task.seq, 3600)) for _ in range(2)]
    cancelled = asyncio.create_task(store.registry.wait_settled(callback.task.seq, 3600))
    await asyncio.sleep(0)
    cancelled.cancel()
    await settle(store, callback)
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*waiters)


async def test_who_gives_up_waiting_for_a_task_takes_nobody_along(store: Store) -> None:
    """Those who still wait for it are woken by its end."""
    callback = await registered(store)
    patient = asyncio.create_task(store.registry.wait_settled(callback.task.seq, 3600))
    await store.registry.wait_settled(callback.task.seq, 0.001)
    await settle(store, callback)
    async with asyncio.timeout(LIMIT_S):
        await patient


async def test_waiting_for_a_task_ends_with_its_time(store: Store) -> None:
    """A task that does not settle is waited for no longer than asked."""
    callback = await registered(store)
    async with asyncio.timeout(LIMIT_S):
        await store.registry.wait_settled(callback.task.seq, 0.001)


# Polling


async def test_a_poll_that_ends_nothing_is_counted(store: Store) -> None:
    """A reschedule keeps when and with which error; errors in a row are counted, a good answer ends the row."""
    await registered(store)
    failures = []
    for n, error in enumerate(("refused", "refused again", None), 1):
        due = await claim_task(store, NOW + n * 1000)
        failures.append(due.failures)
        await store.tasks.reschedule(
            PollRecord(seq=due.seq, polled_at=NOW + n, next_poll_at=NOW + (n + 1) * 1000, error=error)
        )
        task = await store.registry.get_task("ann", "task-1")
        assert task is not None
        assert (task.polls, task.last_polled_at, task.last_error) == (n, NOW + n, error)
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
            PollRecord(seq=one.seq, polled_at=NOW, next_poll_at=NOW - 1, error=None, born_at=born_at, model=model)
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
    await store.tasks.reschedule(PollRecord(seq=due.seq, polled_at=NOW + 5, next_poll_at=NOW + 9, error="late"))
    task = (await look(store, callback)).task
    assert (task.polls, task.next_poll_at, task.last_error) == (1, None, None)


async def test_a_reschedule_does_not_wake_an_idle_task(store: Store) -> None:
    """The last callback was cancelled during the poll: nobody waits, so nothing is asked again."""
    callback = await registered(store)
    due = await claim_task(store)
    await store.registry.cancel("ann", callback.id, NOW)
    await store.tasks.reschedule(PollRecord(seq=due.seq, polled_at=NOW, next_poll_at=NOW + 1, error=None))
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


# Several clients.


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
    await store.tasks.reschedule(PollRecord(seq=seq, polled_at=NOW, next_poll_at=NOW, error=None))
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
    await store.tasks.reschedule(PollRecord(seq=later.seq, polled_at=NOW + 500, next_poll_at=NOW + 500, error="x"))
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
    record = PollRecord(seq=due.seq, polled_at=NOW, next_poll_at=NOW + 100, error=None)
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
    await store.tasks.poll_now([c.task.seq for c in (later, earlier, ended, cancelled)], NOW + 1000)
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


# Delivering


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
    assert sorted(await store.outbox.waiting(NOW + 1)) == [lane("a"), lane("b"), lane("c")]
    assert await store.outbox.waiting(NOW + 1) == []
    shares = [Share(lane("a"), 2, False), Share(lane("b"), 9, False), Share(lane("c"), 2, False)]
    found, only_retries, next_due_at = await store.outbox.claim(shares, NOW + 1)
    assert Counter(one.lane for one in found) == {lane("a"): 2, lane("b"): 3}
    assert (only_retries, next_due_at) == ([lane("c")], NOW)
    assert await store.outbox.waiting(NOW + 1) == [lane("a")]
    found, only_retries, next_due_at = await store.outbox.claim([Share(lane("c"), 2, True)], NOW + 1)
    assert ([one.lane for one in found], only_retries, next_due_at) == ([lane("c")] * 2, [], NOW + 1)


async def test_what_falls_due_between_the_look_and_the_claim_is_told_of_once(store: Store) -> None:
    """It is claimed with what was there: a look at nothing is not asked for."""
    await brought_to(store, CallbackState.PENDING, new("a"))
    (on,) = await store.outbox.waiting(NOW)
    await brought_to(store, CallbackState.PENDING, new("b"))
    found, _, next_due_at = await store.outbox.claim([Share(on, 9, True)], NOW)
    assert (len(found), next_due_at) == (2, None)
    assert await store.outbox.waiting(NOW) == []


async def test_no_webhook_is_claimed_twice_at_once(store: Store) -> None:
    """Callers that ask at the same moment get different webhooks, and together all of them."""
    made = await store.registry.register([new(url=f"https://app.example.com/{n}") for n in range(40)])
    await settle(store, made[0].callback)
    shares = [Share(on, 7, True) for on in await store.outbox.waiting(NOW)]
    found = await asyncio.gather(*(store.outbox.claim(shares, NOW) for _ in range(8)))
    assert sorted(one.id for claimed in found for one in claimed.webhooks) == sorted(r.callback.id for r in made)


async def test_a_released_webhook_can_be_claimed_again(store: Store) -> None:
    """A claim that is given back leaves no trace and wakes the deliverer."""
    await brought_to(store, CallbackState.PENDING)
    due = await claim(store)
    assert (await claim_webhooks(store, NOW, 10))[0] == []
    store.outbox.due.clear()
    await store.outbox.release([due])
    assert store.outbox.due.is_set()
    assert await claim(store) == due


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


async def test_a_retry_is_found_though_the_clock_was_set_back_during_its_attempt(store: Store) -> None:
    """The next attempt is due by the new time, not an hour later by the old one."""
    await brought_to(store, CallbackState.PENDING, new(at=NOW + 3_600_000))
    due = await claim(store, NOW + 3_600_000)
    await store.outbox.record(attempt_of(due, AttemptResult.RETRY, at=NOW, next_at=NOW + 5000))
    assert await claim_webhooks(store, NOW, 10) == ([], NOW + 5000)
    assert (await claim(store, NOW + 5000)).seq == due.seq


async def test_an_expired_task_is_found_though_the_clock_was_set_back(store: Store) -> None:
    """Until it has had its last poll it is expired whenever its time has passed, by whatever clock."""
    callback = await registered(store, new(timeout_s=60))
    assert [task.seq for task in (await store.tasks.expired("up", NOW + 3_600_000, 10))[0]] == [callback.task.seq]
    assert (await store.tasks.expired("up", NOW + 1000, 10))[0] == []
    assert [task.seq for task in (await store.tasks.expired("up", NOW + 61_000, 10))[0]] == [callback.task.seq]


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


async def test_a_nul_in_what_others_say_is_shown_as_a_replacement(store: Store) -> None:
    """Databases end texts there: the rest of what a receiver said must not be lost with it."""
    callback = await brought_to(store, CallbackState.PENDING)
    record = attempt_of(
        await claim(store, NOW), AttemptResult.RETRY, at=NOW, next_at=NOW + 1, error="a\0b", excerpt="\0busy\0\n"
    )
    await store.outbox.record(record)
    (attempt,) = await store.registry.list_attempts("ann", callback.id) or []
    assert (attempt.error, attempt.excerpt) == ("a\ufffdb", "\ufffdbusy\ufffd\n")


async def test_attempts_of_nobody_and_of_others(store: Store) -> None:
    """No attempts yet is an empty list; no such callback, or another client's, is None."""
    callback = await registered(store)
    assert await store.registry.list_attempts("ann", callback.id) == []
    assert await store.registry.list_attempts("bob", callback.id) is None
    assert await store.registry.list_attempts("ann", "cb_none") is None


# Changing for the API


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
    assert await store.registry.redeliver("ann", callback.id, NOW + 50) is state
    assert store.outbox.due.is_set()
    after = await look(store, callback)
    assert (after.state, after.next_attempt_at, after.delivered_at) == (CallbackState.PENDING, NOW + 50, None)
    again = await claim(store, NOW + 50)
    assert (again.id, again.body, again.attempts, again.budget_used) == (due.id, due.body, 1, 0)
    assert await look(store, other) == other


@pytest.mark.parametrize("state", [CallbackState.WAITING, CallbackState.CANCELLED])
async def test_what_is_owed_nothing_cannot_be_redelivered(store: Store, state: CallbackState) -> None:
    """A waiting callback has no webhook yet, a cancelled one none any more."""
    callback = await brought_to(store, state)
    assert await store.registry.redeliver("ann", callback.id, NOW) is state
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


# Reading for the API


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


# Keeping house


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


@pytest.mark.parametrize("part", [1, 2, 3, 4, 2000])
async def test_the_backlog_counts_what_waits(part: int, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that are watched, webhooks that are owed, claimed or not, and dead ones; in however many parts."""
    monkeypatch.setattr("gateway.store.sqlite.backlog._PART", part)
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


async def test_what_waits_moves_with_a_clock_that_is_set(store: Store) -> None:
    """A running task with all its times, what waits on it, and what is owed; what is over or idle stays as it was."""
    step_ms = -3_600_000
    running = await registered(store, new("running", timeout_s=60))
    due = await claim_task(store)
    await store.tasks.reschedule(
        PollRecord(seq=due.seq, polled_at=NOW + 5, next_poll_at=NOW + 9, error=None, born_at=NOW - 7)
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


async def test_a_clock_that_is_set_wakes_the_loops(store: Store) -> None:
    """What they know of when to come round is of the old time."""
    await registered(store)
    store.tasks.due("up").clear()
    store.outbox.due.clear()
    await store.follow_clock(1000)
    assert store.tasks.due("up").is_set()
    assert store.outbox.due.is_set()


# From one life to the next


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


async def test_the_secret_key_is_the_databases_own(new_store: NewStore) -> None:
    """32 bytes, the same in every life: cursors survive a restart."""
    keys = []
    for _ in range(2):
        async with AsyncExitStack() as stack:
            store = await opened(new_store(), stack)
            keys.append(await store.registry.secret_key())
    assert len(keys[0]) == 32
    assert keys[0] == keys[1]


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


async def test_everything_survives_a_restart(new_store: NewStore) -> None:
    """Callbacks in every state, their tasks and attempts; claims do not, so that what was in flight is due again."""
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        made = [await brought_to(store, state, new(f"task-{state}")) for state in CallbackState]
        before = [await look(store, callback) for callback in made]
        attempts = [await store.registry.list_attempts("ann", callback.id) for callback in made]
        claimed = await claim(store)
        polled = await claim_task(store)
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        assert [await look(store, callback) for callback in made] == before
        assert [await store.registry.list_attempts("ann", callback.id) for callback in made] == attempts
        assert await claim(store) == claimed
        assert await claim_task(store) == polled


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
        await store.tasks.reschedule(PollRecord(seq=task.seq, polled_at=NOW, next_poll_at=NOW + 1, error=None))
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
        await store.tasks.reschedule(PollRecord(seq=task.seq, polled_at=NOW, next_poll_at=NOW + 1, error=None))
    again, _ = await claim_tasks(store, "up", NOW + 1, 20)
    assert len(again) == 9
