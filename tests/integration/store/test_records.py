"""How every store keeps the bodies of format record: once for each task, and the same bytes for good."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from gateway.core.claims import DueCallback
from gateway.core.memory import SMALL
from gateway.core.model import AttemptResult, CallbackState, Format, Outcome, Settlement, TaskState
from gateway.store import Store
from gateway.webhook.body import body_template, callback_parts, record_body, record_of, webhook_body
from tests.lanes import body_sent, claim_webhooks
from tests.storing import (
    ABANDONED,
    FAIL,
    NOW,
    SUCCESS,
    NewStore,
    attempt_of,
    claim,
    look,
    new,
    opened,
    register,
    registered,
    settle,
)

RECORD = b'{"taskId":"t","resultJson":"{\\"a\\":1}","progress":"100"}'


async def sent(store: Store, due: DueCallback) -> bytes:
    """Return the bytes that would be sent, whether they came with the claim or are read by themselves."""
    body = webhook_body(due.id, await store.outbox.body(due) or b"")
    assert due.body is None or webhook_body(due.id, due.body) == body
    return body


async def all_sent(store: Store) -> dict[str, bytes]:
    due, _ = await claim_webhooks(store, NOW, 99)
    bodies = {one.id: await sent(store, one) for one in due}
    await store.outbox.release(due)
    return bodies


async def test_each_callback_gets_its_format(store: Store) -> None:
    """Of one task two get the record, whatever their metadata, and one the standard body."""
    records = [
        await registered(store, new(url=f"https://app.example.com/{n}", metadata=b'{"n":1}', shape=Format.RECORD))
        for n in range(2)
    ]
    standard = await registered(store, new(client="bob"))
    assert [one.format for one in (*records, standard)] == [Format.RECORD, Format.RECORD, Format.STANDARD]
    assert (await look(store, records[0])).format is Format.RECORD
    await settle(store, records[0], record=RECORD)
    due, _ = await claim_webhooks(store, NOW, 9)
    assert {one.id: one.format for one in due} == {one.id: one.format for one in (*records, standard)}
    assert {one.id: body_sent(one) for one in due} == {
        **{one.id: record_body(TaskState.SUCCESS, RECORD) for one in records},
        standard.id: body_template(SUCCESS, NOW).fill(standard.id, b"{}"),
    }


@pytest.mark.parametrize("size", [1, SMALL - 200, SMALL, 3 * SMALL])
async def test_a_record_has_the_same_bytes_in_every_life(new_store: NewStore, size: int) -> None:
    """Small or large: at the first attempt, at a redelivery after a restart, and for who comes later."""
    record = b'{"taskId":"t","resultJson":"%b"}' % (b"x" * size)
    body = record_body(TaskState.FAIL, record)
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        callback = await registered(store, new(shape=Format.RECORD))
        await settle(store, callback, FAIL, record=record)
        due = await claim(store)
        assert (due.body is None, due.body_bytes) == (len(body) > SMALL, len(body))
        assert await sent(store, due) == body
        await store.outbox.record(attempt_of(due, AttemptResult.DELIVERED))
    async with AsyncExitStack() as stack:
        store = await opened(new_store(), stack)
        await store.registry.redeliver("ann", callback.id, NOW)
        late = await registered(store, new(client="bob", shape=Format.RECORD))
        assert await all_sent(store) == {callback.id: body, late.id: body}


@pytest.mark.parametrize("size", [1, 3 * SMALL])
async def test_a_template_is_kept_with_its_record(store: Store, size: int) -> None:
    """Small or large: the body is made of both, and readers get the record alone."""
    record = b'{"id":"t","url":"%b"}' % (b"x" * size)
    callback = await registered(store, new(shape=Format.RECORD))
    await store.tasks.settle(
        Settlement(
            seq=callback.task.seq,
            upstream="up",
            outcome=SUCCESS,
            settled_at=NOW,
            polls=1,
            record=callback_parts({"code": 200, "data": {"url": "{url}"}}, record),
        )
    )
    assert await sent(store, await claim(store)) == b'{"code":200,"data":{"url":"%b"}}' % (b"x" * size)
    assert record_of(await store.registry.record(callback.task.seq) or b"") == record


async def test_nobody_is_owed_a_record_and_none_is_kept(store: Store) -> None:
    """A late registration of that format gets one that is made of the outcome: no other counts from then on."""
    callback = await registered(store)
    await settle(store, callback, record=RECORD)
    late = await register(store, new(client="bob", shape=Format.RECORD))
    assert late.callback.state is CallbackState.PENDING
    bodies = await all_sent(store)
    told = json.loads(bodies[late.callback.id])
    assert told["code"] == 200
    assert json.loads(told["data"]["resultJson"]) == {"text": "Füße 🐈"}
    large = b'{"taskId":"t","resultJson":"%b"}' % (b"x" * 2 * SMALL)
    for record in (RECORD, large):
        await settle(store, callback, record=record)  # a second one of the same task
        assert await all_sent(store) == bodies


@pytest.mark.parametrize("size", [1, SMALL])
async def test_an_answer_without_a_record_is_no_loss(store: Store, size: int) -> None:
    """What no object stood in at its end gets a body made of the outcome, with room for it however large that is."""
    outcome = Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t","result":["%b"]}' % (b"x" * size))
    callback = await registered(store, new(shape=Format.RECORD))
    await settle(store, callback, outcome)
    due = await claim(store)
    body = await sent(store, due)
    assert json.loads(json.loads(body)["data"]["resultJson"]) == ["x" * size]
    assert due.body_bytes == 2 * len(outcome.data)


async def test_given_up_callbacks_get_records_of_their_own(store: Store) -> None:
    """The task may begin anew: what came of it first is said of it again, and what comes then is told to who waits."""
    first = await registered(store, new(shape=Format.RECORD))
    standard = await registered(store, new(client="bob"))
    await settle(store, first, ABANDONED, record=RECORD)
    again = await registered(store, new(client="cid", shape=Format.RECORD, at=NOW + 1))
    assert again.task.state is TaskState.WAITING
    await settle(store, again, SUCCESS, record=b'{"taskId":"t"}')
    assert await all_sent(store) == {
        first.id: record_body(TaskState.ABANDONED, RECORD),
        standard.id: body_template(ABANDONED, NOW).fill(standard.id, b"{}"),
        again.id: record_body(TaskState.SUCCESS, b'{"taskId":"t"}'),
    }


async def test_a_cancelled_callback_is_owed_no_record(store: Store) -> None:
    """Then what comes later of that format is made of the outcome."""
    cancelled = await registered(store, new(shape=Format.RECORD))
    other = await registered(store, new(client="bob"))
    await store.registry.cancel("ann", cancelled.id, NOW)
    await settle(store, other, record=RECORD)
    late = await registered(store, new(client="cid", shape=Format.RECORD))
    assert b"progress" not in (await all_sent(store))[late.id]


async def test_many_records_settle_together(store: Store) -> None:
    """Large ones and small ones, wanted and not, each with its own body."""
    callbacks = [
        await registered(store, new(f"task-{n}", shape=Format.RECORD if n % 2 else Format.STANDARD)) for n in range(8)
    ]
    records = [b'{"taskId":"%d","resultJson":"%b"}' % (n, b"x" * (n // 2 * 300_000)) for n in range(8)]
    await asyncio.gather(
        *(
            settle(store, *pair, record=record)
            for pair, record in zip([(callback, SUCCESS) for callback in callbacks], records, strict=True)
        )
    )
    bodies = await all_sent(store)
    for n in (1, 3, 5, 7):
        assert bodies[callbacks[n].id] == record_body(TaskState.SUCCESS, records[n])
    for n in (0, 2, 4, 6):
        assert bodies[callbacks[n].id] == body_template(SUCCESS, NOW).fill(callbacks[n].id, b"{}")


async def test_the_same_registration_in_another_format_is_told_apart(store: Store) -> None:
    """What stands is returned, and it says that it is of the other format."""
    await registered(store)
    again = new(shape=Format.RECORD)
    found = await register(store, again)
    assert (found.created, found.callback.format) == (False, Format.STANDARD)
    assert not again.same_request_as(found.callback)
