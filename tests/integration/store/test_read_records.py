"""How every store keeps what the upstream told of a task for the proxy's readers: what is newer, and for how long."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.memory import SMALL
from gateway.core.model import CallbackState, Format, Settlement
from gateway.core.reads import PollAgain, ReadWatch
from gateway.store import Store
from tests.lanes import claim_webhooks
from tests.storing import ABANDONED, LARGE, NOW, SUCCESS, new, registered, settle
from tests.watching import RECORD, again, due, reschedule, seen, wish


async def test_what_was_remembered_takes_no_records_place(store: Store) -> None:
    """A poll may have told more since it was looked up; where there is no record it comes in."""
    await store.registry.watch(wish())
    older = ReadWatch(upstream="up", task_id="task-1", client="rob", at=NOW, read_until=NOW, next_poll_at=NOW)
    await store.registry.watch(replace(older, record=b"{}"))
    assert (await seen(store)).record == RECORD
    await registered(store, new("called"))
    await store.registry.watch(replace(older, task_id="called", record=LARGE))
    assert (await seen(store, "called")).record_bytes == len(LARGE)
    await store.registry.watch(replace(older, task_id="called", record=LARGE + b" "))
    assert (await seen(store, "called")).record_bytes == len(LARGE)


async def test_a_poll_that_readers_came_to_keeps_its_record(store: Store) -> None:
    """Whoever claimed it could not know of them."""
    await registered(store, new())
    (claim,) = await due(store, NOW)
    await store.registry.watch(again())
    await reschedule(store, claim, NOW, RECORD)
    assert (await seen(store)).record == RECORD


async def test_a_poll_keeps_its_record_for_readers_alone(store: Store) -> None:
    """Of a task that only callbacks watch nothing is kept; a poll that failed leaves what the one before it told."""
    await store.registry.watch(wish("read"))
    await registered(store, new("called"))
    later = b'{"progress":"0.6"}'
    for claim in await due(store, NOW + 2000):
        await reschedule(store, claim, NOW + 2000, later)
    assert (await seen(store, "read")).record == later
    assert (await seen(store, "called")).record is None
    (claim,) = [claim for claim in await due(store, NOW + 7000) if claim.task_id == "read"]
    await reschedule(store, claim, NOW + 7000)
    assert (await seen(store, "read")).record == later


@pytest.mark.parametrize(("newer", "older"), [(RECORD, b'{"progress":"0.1"}'), (RECORD, LARGE), (LARGE, LARGE + b" ")])
async def test_what_was_asked_for_before_is_older(store: Store, newer: bytes, older: bytes) -> None:
    """Whoever asked, and whenever it comes: what somebody was told in between stays, and is told in its place."""
    await store.registry.watch(wish())
    (claim,) = await due(store, NOW + 2000)
    told = wish(at=NOW + 2500, record=newer, begins=False, asked_at=NOW + 2400)
    assert await store.registry.watch(told) == (claim.seq, False)
    await reschedule(store, claim, NOW + 2600, older, asked_at=NOW + 2000)
    for asked_at, overtaken in ((NOW + 2499, True), (NOW + 2500, False)):
        assert await store.registry.record(claim.seq) == newer
        late = wish(at=NOW + 2700, record=older, begins=False, asked_at=asked_at)
        assert await store.registry.watch(late) == (claim.seq, overtaken)
    assert await store.registry.record(claim.seq) == older
    known = await seen(store)
    assert (known.task.polls, known.task.next_poll_at, known.told_at) == (5, NOW + 7600, NOW + 2700)
    (claim,) = await due(store, NOW + 7600)
    await reschedule(store, claim, NOW + 7800, newer, asked_at=NOW + 7600)
    assert await store.registry.record(claim.seq) == newer
    late = wish(at=NOW + 7900, record=older, begins=False, asked_at=NOW + 7700)
    assert await store.registry.watch(late) == (claim.seq, True), "a poll has told of it since"
    assert await store.registry.record(claim.seq) == newer


async def test_the_last_of_several_large_answers_at_once_stands(store: Store) -> None:
    """In one transaction, too: they come in their order, once it is known that there is room."""
    watch = store.registry.watch
    await watch(wish("another"))
    answers = [b'{"logs":"%b"}' % (letter * SMALL) for letter in (b"a", b"b", b"c")]
    told = [wish(at=NOW + n, record=answers[n], asked_at=NOW + n) for n in range(3)]
    found = await asyncio.gather(watch(told[0]), watch(told[2]), watch(told[1]))
    assert [one and one.overtaken for one in found][1:] == [False, True]
    assert await store.registry.record((await seen(store)).task.seq) == answers[2]


@pytest.mark.parametrize("end", [b'{"state":"success"}', LARGE])
async def test_nothing_is_newer_than_an_end(store: Store, end: bytes) -> None:
    """Until it is stored: neither a poll nor a read that is answered later takes back what somebody was told."""
    await store.registry.watch(wish())
    (claim,) = await due(store, NOW + 2000)
    assert not (await seen(store)).end_told
    news = PollAgain(upstream="up", task_id="task-1", at=NOW + 2100, record=end, read_until=NOW + 60_000)
    await store.registry.poll_again(news)
    await reschedule(store, claim, NOW + 2200, RECORD, asked_at=NOW + 2150)
    assert await store.registry.watch(wish(at=NOW + 2300, begins=False)) == (claim.seq, True)
    assert await store.registry.record(claim.seq) == end
    assert (await seen(store)).end_told
    (claim,) = await due(store, NOW + 7200)
    await store.tasks.settle(
        Settlement(seq=claim.seq, upstream="up", outcome=ABANDONED, settled_at=NOW + 7200, polls=1, read=True)
    )
    assert not (await seen(store)).end_told
    assert await store.registry.watch(wish(at=NOW + 9000)) == (claim.seq, False)
    assert (await seen(store)).record == RECORD


async def test_a_denied_task_is_so_until_it_is_told_of(store: Store) -> None:
    """Whatever else its polls come to; but not by an answer to what was asked before that."""
    await store.registry.watch(wish())
    at = NOW

    async def polled(record: bytes | None = None, *, asked_ms: int = 0, **about: Any) -> int | None:
        nonlocal at
        at += 5000
        (claim,) = await due(store, at)
        await reschedule(store, claim, at, record, asked_at=at - asked_ms, **about)
        return (await seen(store)).denied_at

    assert await polled(error="404") is None
    since = at + 5000
    assert await polled(error="404", denied=True) == since
    assert await polled(error="500") == since
    assert await polled(error="404", denied=True) == since
    assert await polled(RECORD) is None
    assert await polled(error="404", denied=True) == at
    await store.registry.watch(again(at=at))
    assert (await seen(store)).denied_at == at
    await store.registry.watch(wish(at=at + 4000, begins=False))
    assert (await seen(store)).denied_at is None
    assert await polled(error="404", denied=True, asked_ms=1500) is None
    assert await polled(error="404", denied=True) == at
    known = await seen(store)
    await store.tasks.settle(
        Settlement(seq=known.task.seq, upstream="up", outcome=SUCCESS, settled_at=at, polls=1, read=True)
    )
    assert (await seen(store)).denied_at is None


async def test_a_large_record_is_asked_for_by_itself(store: Store) -> None:
    """At the beginning and after a poll, in the place of a small one and before one."""
    await store.registry.watch(wish(record=LARGE))
    known = await seen(store)
    seq = known.task.seq
    assert (known.record, known.record_bytes) == (None, len(LARGE))
    assert await store.registry.record(seq) == LARGE
    for at, record in ((NOW + 2000, RECORD), (NOW + 7000, LARGE + b" "), (NOW + 12_000, LARGE)):
        (claim,) = await due(store, at)
        await reschedule(store, claim, at, record)
        assert await store.registry.record(seq) == record
    await store.registry.watch(again(at=NOW + 12_000))
    assert await store.registry.record(seq) == LARGE
    assert await store.registry.record(seq + 1) is None


async def test_news_of_a_task_is_kept_for_a_while(store: Store) -> None:
    """As what its readers were told, though nobody had read it before."""
    await registered(store)
    assert await store.tasks.unwatch(NOW) > NOW + 10**10
    await store.registry.poll_again(
        PollAgain(upstream="up", task_id="task-1", at=NOW, record=RECORD, read_until=NOW + 60_000)
    )
    await store.tasks.unwatch(NOW + 59_999)
    assert (await seen(store)).record == RECORD
    await store.tasks.unwatch(NOW + 60_000)
    assert ((await seen(store)).record, (await seen(store)).read_until) == (None, None)


@pytest.mark.parametrize(("shape", "kept"), [(Format.RECORD, True), (Format.STANDARD, False)])
async def test_a_record_that_a_webhook_needs_outlives_its_readers(store: Store, shape: Format, kept: bool) -> None:
    """They are forgotten; the body of a webhook of format record stands where they read it, and no other's."""
    await registered(store, new(shape=shape))
    await store.registry.watch(wish())
    (claim,) = await due(store, NOW + 2000)
    ended = Settlement(
        seq=claim.seq, upstream="up", outcome=SUCCESS, settled_at=NOW, polls=1, record=(RECORD, b"", b""), read=True
    )
    await store.tasks.settle(ended)
    assert await store.prune_reads(NOW + 100_000, NOW + 60_001, 100) == 1
    known = await seen(store)
    assert (known.read_until, known.record) == (None, RECORD if kept else None)


@pytest.mark.parametrize("record", [RECORD, LARGE])
@pytest.mark.parametrize("read", [False, True])
async def test_a_record_that_tells_more_than_the_outcome_is_kept(store: Store, read: bool, record: bytes) -> None:
    """Whether or not it was read, and for good: whoever reads the task later is told what the upstream told."""
    made = await registered(store, new(shape=Format.STANDARD))
    if read:
        await store.registry.watch(wish())
    ended = Settlement(
        seq=made.task.seq, upstream="up", outcome=SUCCESS, settled_at=NOW, polls=1, record=(record, b"", b""),
        read=read, keeps_record=True,
    )  # fmt: skip
    await store.tasks.settle(ended)
    assert await store.prune_reads(NOW + 100_000, NOW + 60_001, 100) == read
    known = await seen(store)
    assert (known.read_until, known.record_bytes) == (None, len(record))
    assert await store.registry.record(made.task.seq) == record
    late = await registered(store, new(client="bob", shape=Format.RECORD, at=NOW + 100_000))
    assert late.state is CallbackState.PENDING
    claimed, _ = await claim_webhooks(store, NOW + 200_000, 10)
    (sent,) = [one for one in claimed if one.id == late.id]
    assert record == (await store.outbox.body(sent) if sent.body is None else sent.body)


async def test_a_record_that_is_needed_may_not_be_there(store: Store) -> None:
    """Then nothing is kept, and what is kept for a webhook alone is no record for good."""
    made = await registered(store, new(shape=Format.STANDARD))
    await store.tasks.settle(
        Settlement(seq=made.task.seq, upstream="up", outcome=SUCCESS, settled_at=NOW, polls=1, keeps_record=True)
    )
    known = await seen(store)
    assert (known.record, known.told_at, known.task.outcome) == (None, None, SUCCESS.data)


async def test_when_a_record_came_is_known_of_a_record_alone(store: Store) -> None:
    """A read that was told nothing to keep begins its watch without one, however many come at once."""
    silent, telling = wish("silent", record=None), wish("telling")
    await store.registry.watch(silent)
    await asyncio.gather(*map(store.registry.watch, (wish("both", record=None), wish("both", record=None), telling)))
    told = {name: (await seen(store, name)).told_at for name in ("silent", "both", "telling")}
    assert told == {"silent": None, "both": None, "telling": NOW}


async def test_a_record_of_one_that_began_anew_is_not_kept(store: Store) -> None:
    """A webhook of format record that was given up has its own body: its task's record is the readers' alone."""
    made = await registered(store, new(timeout_s=10, shape=Format.RECORD))
    await settle(store, made, ABANDONED, at=NOW + 20_000, expired_by=NOW + 20_000)
    await store.registry.watch(wish(at=NOW + 30_000))
    assert (await seen(store)).record == RECORD
    assert await store.prune_reads(NOW + 200_000, NOW + 100_000, 100) == 1
    assert (await seen(store)).record is None
