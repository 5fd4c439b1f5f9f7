"""How every store takes registrations: with their tasks, their models, and who is woken."""

import asyncio

import pytest

from gateway.core.model import Callback, CallbackState, NewCallback, Outcome, PollRecord, TaskState
from gateway.store import Store
from gateway.webhook.body import body_template
from tests.claims import claim_tasks
from tests.lanes import body_sent, claim_webhooks
from tests.storing import ABANDONED, FAIL, LIMIT_S, NOW, SUCCESS, claim_task, look, new, register, registered, settle


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
        await store.tasks.reschedule(
            PollRecord(seq=due[0].seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 1, error="refused")
        )
        await store.registry.cancel("ann", callback.id, NOW)
    asked = [new(client=client, at=NOW + at, first_poll_at=NOW + at + 1) for client, at in (("bob", 50), ("eve", 60))]
    await store.registry.register(asked)
    (due,), next_due_at = await claim_tasks(store, "up", NOW + 999, 10)
    assert (due.seq, due.created_at, due.due_at, due.failures) == (idle.task.seq, NOW + 50, NOW + 50, 0)
    assert next_due_at is None


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
    """Whoever knows it tells it, with the same registration again too; the first word stands, and is no conflict.

    Nothing is told of another task.
    """
    first, other = await registered(store), await registered(store, new("other"))
    again = [await register(store, new(model=model, **joins)) for model in ("m", None, "n")]  # type: ignore[arg-type]
    assert [one.created for one in again] == [bool(joins), False, False]
    assert [one.callback.task.model for one in again] == ["m", "m", "m"]
    assert [await model_of(store, one) for one in (first, other)] == ["m", None]


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
    record = PollRecord(seq=due.seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 1, error=None, model="its own")
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


async def test_tasks_of_upstreams_that_nobody_polls_are_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their names, so that they can be told of; those that have ended are nobody's concern. A start takes no longer
    the more they are."""
    for upstream, task_id in (("up", "a"), ("gone", "a"), ("gone", "b"), ("older", "a")):
        callback = await registered(store, new(task_id, upstream=upstream))
    await store.registry.cancel("ann", callback.id, NOW)
    assert await store.registry.tasks_of_others(["up"]) == {"gone": 2}
    assert await store.registry.tasks_of_others(["up", "gone"]) == {}
    monkeypatch.setattr("gateway.store.registry._MOST_OF_OTHERS", 1)
    assert await store.registry.tasks_of_others(["up"]) == {"gone": 1}


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
