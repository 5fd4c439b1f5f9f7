"""How every store finds the callbacks whose time has passed, and abandons those alone."""

import asyncio
from typing import Any

import pytest

from gateway.core.model import CallbackState, Format, TaskState
from gateway.store import Store
from gateway.store.dialect import OWED_AT_ONCE
from gateway.webhook.body import body_template
from tests.lanes import body_sent, claim_webhooks
from tests.storing import ABANDONED, NOW, SUCCESS, look, new, registered, settle


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


async def test_an_expiry_is_found_at_its_time(store: Store) -> None:
    """Also one that was registered after its poller had heard of a later one."""
    await registered(store, new("late", timeout_s=60))
    assert await store.tasks.expired("up", NOW, 10) == ([], NOW + 60_000)
    await registered(store, new("early", timeout_s=1))
    assert await store.tasks.expired("up", NOW + 999, 10) == ([], NOW + 1000)
    assert [task.task_id for task in (await store.tasks.expired("up", NOW + 1000, 10))[0]] == ["early"]
    assert [task.task_id for task in (await store.tasks.expired("up", NOW + 60_000, 10))[0]] == ["early", "late"]


async def test_of_several_that_are_registered_together_the_first_expiry_is_found_at_its_time(store: Store) -> None:
    """Whichever comes first in the batch, and though its poller has looked before, and heard of none."""
    assert await store.tasks.expired("up", NOW, 10) == ([], None)
    await store.registry.register([new("late", timeout_s=60), new("early", timeout_s=1), new("later", timeout_s=90)])
    assert await store.tasks.expired("up", NOW + 999, 10) == ([], NOW + 1000)
    assert [task.task_id for task in (await store.tasks.expired("up", NOW + 1000, 10))[0]] == ["early"]


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
