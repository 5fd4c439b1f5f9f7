"""How every store keeps what the proxy's readers wait for: what each of its ports has for them."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.memory import SMALL
from gateway.core.model import CallbackState, DueTask, Format, PollRecord, Settlement, TaskState
from gateway.core.reads import PollAgain, ReadTask, ReadWatch
from gateway.store import Store
from tests.claims import claim_tasks
from tests.lanes import claim_webhooks
from tests.storing import ABANDONED, NOW, SUCCESS, NewStore, brought_to, look, new, opened, registered, settle

RECORD = b'{"taskId":"t","state":"generating","progress":"0.3"}'
LARGE = b'{"param":"' + b"x" * SMALL + b'"}'


def wish(task_id: str = "task-1", *, at: int = NOW, for_ms: int = 60_000, **about: Any) -> ReadWatch:
    """Return a reader's wish: by default after an answer that told of the task."""
    told = {"told": True, "begins": True, "born_at": at - 5000, "model": "m", "record": RECORD, "client": "rob"}
    return ReadWatch(
        upstream="up",
        task_id=task_id,
        at=at,
        read_until=at + for_ms,
        next_poll_at=at + 2000,
        **(told | about),
    )


def again(task_id: str = "task-1", *, at: int = NOW, for_ms: int = 60_000, client: str = "rob") -> ReadWatch:
    """Return the wish of a reader that is answered from what is known."""
    return ReadWatch(upstream="up", task_id=task_id, client=client, at=at, read_until=at + for_ms, next_poll_at=at)


async def seen(store: Store, task_id: str = "task-1") -> ReadTask:
    found = await store.registry.proxied_task("up", task_id)
    assert found is not None
    return found


async def due(store: Store, at: int, upstream: str = "up") -> list[DueTask]:
    tasks, _ = await claim_tasks(store, upstream, at, 99)
    return tasks


async def reschedule(store: Store, claim: DueTask, at: int, record: bytes | None = None, **about: Any) -> None:
    await store.tasks.reschedule(
        PollRecord(
            **{"seq": claim.seq, "upstream": "up", "polled_at": at, "next_poll_at": at + 5000, "error": None, **about},
            record=record,
        )
    )


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


async def test_readers_of_few_tasks_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more nobody's readers are waited for: they are prolonged, and begin again once others have gone."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 2)
    assert [await store.registry.watch(wish(name)) is None for name in "abc"] == [False, False, True]
    assert await store.registry.proxied_task("up", "c") is None
    assert await store.registry.watch(again("a", at=NOW + 500_000)) is not None
    await store.prune_reads(NOW + 100_000, NOW + 70_000, 100)
    assert await store.registry.watch(wish("c")) is not None


async def test_only_what_is_kept_takes_a_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a further read of a task, nor news of one that is not kept, nor a look at whose readers have gone."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 3)
    watch, poll_again = store.registry.watch, store.registry.poll_again
    assert await store.tasks.unwatch(NOW) > NOW + 10**10
    await watch(wish("a"))
    await registered(store, new("called"))
    news = PollAgain(upstream="up", task_id="called", at=NOW, read_until=NOW + 60_000)
    for _ in range(3):
        await watch(again("a", at=NOW + 1000))
        await poll_again(news)
    assert await store.tasks.unwatch(NOW + 60_000) == NOW + 61_000
    await poll_again(replace(news, record=RECORD))
    assert [await watch(wish(name)) is None for name in "bc"] == [False, True]


async def test_places_are_counted_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a tenth of a second; and for each client only where few are left."""
    if store.shared:
        await store._hints.close()  # which looks, and then it is counted anew
    asked: list[str] = []
    read, watchsql = store._engine.read, store._engine.watchsql

    async def noted(statement: str, parameters: Any = ()) -> list[Any]:
        asked.append(statement)
        return await read(statement, parameters)

    monkeypatch.setattr(store._engine, "read", noted)
    for name in "abcd":
        await store.registry.watch(wish(name))
        assert await store.prune_reads(NOW, NOW, 9) == 0
    assert asked == [watchsql.COUNT_READ_TASKS]
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 5)
    assert [await store.registry.watch(wish("e")) for _ in range(2)] == [None, None]
    assert asked == [watchsql.COUNT_READ_TASKS, watchsql.COUNT_READ_TASKS_FOR]


async def test_a_clients_further_reads_of_its_tasks_take_no_place(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where few are left, too: it may begin as many as who reads each of its tasks once."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 10)
    watch = store.registry.watch
    for number in range(7):
        await watch(wish(f"eve-{number}", client="eve"))
    for name in "ab":
        await watch(wish(name))
    for _ in range(3):
        assert await watch(again("a")) is not None
    assert await watch(wish("c")) is not None


async def test_places_are_counted_while_some_are_given_back(store: Store) -> None:
    """What begins in that moment is kept, and counted."""
    watch = store.registry.watch
    await watch(wish("a"))
    pruned, begun = await asyncio.gather(store.prune_reads(NOW + 10**6, NOW + 10**6, 9), watch(wish("b", at=NOW)))
    assert pruned == 1
    assert begun == ((await seen(store, "b")).task.seq, False)


async def test_no_client_takes_all_places(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One may have four of five that the others leave; who comes later has as large a part of what is left then."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 100)

    async def begun(client: str, names: str) -> int:
        """Return how many tasks a client has watched before it is refused one."""
        for number in range(100):
            if await store.registry.watch(wish(f"{names}-{number}", client=client)) is None:
                return number
        return 100

    assert [await begun(client, client) for client in ("ann", "rob", "eve")] == [80, 16, 4]
    # What a client watches of another's tasks takes no place.
    assert await store.registry.watch(again("ann-1", client="rob")) is not None
    # Once some have gone there is room again, for whoever has few.
    await store.prune_reads(NOW + 100_000, NOW + 70_000, 50)
    assert [await begun("eve", "more"), await begun("ann", "more-again")] == [40, 2]


async def test_tasks_whose_readers_have_gone_make_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that go on for callbacks are none of the readers' any more, and there is nothing of them to remove."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 2)
    for number in range(5):
        at = NOW + 70_000 * number
        await registered(store, new(f"task-{number}"))
        assert await store.registry.watch(wish(f"task-{number}", at=at)) is not None
        assert await store.tasks.unwatch(at + 60_000) > at + 60_000
    assert await store.prune_reads(NOW + 10**6, NOW + 10**6, 100) == 0


async def test_a_client_whose_readers_have_gone_has_places_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where callbacks wait for its tasks still, too."""
    monkeypatch.setattr("gateway.store.watches._MOST_READ", 5)
    watch = store.registry.watch
    for name in "abcd":
        await registered(store, new(name))
        assert await watch(wish(name)) is not None
    assert await watch(wish("e")) is None
    later = NOW + 60_000
    await store.tasks.unwatch(later)
    for name, client in (("e", "rob"), ("a", "eve"), ("x", "eve"), ("y", "eve"), ("z", "rob")):
        assert await watch(wish(name, at=later, client=client)) is not None


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
