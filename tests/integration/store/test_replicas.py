"""Several replicas on one PostgreSQL: who may write, who is told of what, and what a late one changes."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from gateway.core.claims import Share
from gateway.core.clock import SteeredClock, SystemClock
from gateway.core.creates import CreateAnswer, NewCreate
from gateway.core.errors import StoreError
from gateway.core.model import AttemptResult, CallbackState, PollRecord, Settlement
from gateway.core.reads import PollAgain, ReadWatch
from gateway.store.postgres import sql
from gateway.store.postgres.copyside import PostgresCopySide
from gateway.store.postgres.hints import Hearing, ReplicaHints
from gateway.store.postgres.store import PostgresStore
from gateway.store.postgres.url import Servers
from tests.lanes import claim_webhooks, lane, told_of
from tests.postgres import Database
from tests.storing import LIMIT_S, NOW, SUCCESS, attempt_of, brought_to, claim, lapse, look, new, registered

LEAD = "polls:up"


@pytest.fixture
async def new_replica(postgres: Database) -> AsyncIterator[Callable[[], Awaitable[PostgresStore]]]:
    with capture_logs() as log:
        async with AsyncExitStack() as stack:

            async def make() -> PostgresStore:
                clock = SteeredClock(SystemClock())
                store = PostgresStore(Servers(postgres.url), clock=clock, replica=secrets.token_hex(8))
                await store.open()
                stack.push_async_callback(store.close)
                return store

            yield make
    assert not [line for line in log if line["event"] == "store.follow_up_failed"], "it is told to nobody else"


@pytest.fixture
async def first(new_replica: Callable[[], Awaitable[PostgresStore]]) -> PostgresStore:
    """One that leads."""
    store = await new_replica()
    assert await take_over(store) == 1
    return store


@pytest.fixture
async def second(first: PostgresStore, new_replica: Callable[[], Awaitable[PostgresStore]]) -> PostgresStore:
    return await new_replica()


async def take_over(store: PostgresStore) -> int:
    """Lead once the lease has lapsed of whoever did; return in which epoch."""
    await store._database.read("UPDATE leads SET expires_at = 1 WHERE name = $1", (LEAD,))
    epoch = await store.lead(LEAD, 60)
    assert epoch is not None
    await store.tasks.gained("up", epoch)
    return epoch


def set_back(postgres: Database, by_s: int) -> None:
    """Set the database's clock back."""
    postgres.execute(
        "CREATE OR REPLACE FUNCTION gateway_now() RETURNS bigint LANGUAGE sql "
        f"RETURN CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint) - {by_s * 1000}"
    )


async def failing(*_: object) -> list[Any]:
    raise StoreError("away")


def settlement(seq: int) -> Settlement:
    return Settlement(upstream="up", seq=seq, outcome=SUCCESS, settled_at=NOW, polls=1)


async def test_one_of_them_leads(first: PostgresStore, second: PostgresStore) -> None:
    """Nothing is due, expired or claimed for another; who resigns lets another lead at once."""
    await registered(first)
    assert await second.lead(LEAD, 60) is None
    assert await second.tasks.waiting("up", NOW) == ([], None)
    assert await second.tasks.longest_due("up", "ann", NOW, 10) == ([], None)
    assert await second.tasks.never_polled("up", 0, NOW) == []
    assert await second.tasks.expired("up", NOW * 2, 10) == ([], None)
    (due,), _ = await first.tasks.longest_due("up", "ann", NOW, 10)
    assert await second.tasks.claim([due]) == []
    assert await first.tasks.claim([due]) == [due]
    assert (await second.standing(60)).led == {LEAD}
    assert (await first.standing(60)).replicas == 2
    second.freed.clear()
    await first.resign(LEAD)
    await asyncio.wait_for(second.freed.wait(), LIMIT_S)
    assert await second.lead(LEAD, 60) == 2


async def test_who_has_lost_the_lead_changes_nothing(first: PostgresStore, second: PostgresStore) -> None:
    """Even if it has not heard of that: what it stores of a poll is left out, and its claims stay."""
    callback = await registered(first, new(timeout_s=1))
    later = await registered(first, new("later", client="bob", timeout_s=1, first_poll_at=NOW + 5000))
    (due,), _ = await first.tasks.longest_due("up", "ann", NOW, 10)
    await first.tasks.claim([due])
    assert await take_over(second) == 2
    await first.tasks.poll_now("up", [later.task.seq], NOW + 1000)
    assert (await look(second, later)).task.next_poll_at == NOW + 5000
    await first.tasks.reschedule(PollRecord(seq=due.seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 1, error="x"))
    assert await first.tasks.settle(settlement(due.seq)) is None
    await first.tasks.poll_now("up", [due.seq], NOW - 1)
    after = await look(second, callback)
    assert (after.state, after.task.polls, after.task.next_poll_at) == (CallbackState.WAITING, 0, NOW)
    assert first.stale_writes == 2
    assert await first.tasks.longest_due("up", "ann", NOW, 10) == ([], None)
    first.tasks.lost("up")
    assert await first.tasks.settle(settlement(due.seq)) is None
    await first.tasks.reschedule(PollRecord(seq=due.seq, upstream="up", polled_at=NOW, next_poll_at=NOW, error=None))
    await first.tasks.poll_now("up", [due.seq], NOW - 1)
    assert first.stale_writes == 4
    assert await second.tasks.longest_due("up", "ann", NOW, 10) == ([due], None)
    assert await second.tasks.settle(settlement(due.seq)) == [callback.id]
    assert second.stale_writes == 0


async def test_who_cannot_find_out_what_is_due_does_not_lead(
    first: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor later, where it has not been told so again: it would poll nothing, and keep others from it."""
    await registered(first)
    first.tasks.lost("up")
    with monkeypatch.context() as patch:
        patch.setattr(first._database, "read", failing)
        with pytest.raises(StoreError, match="away"):
            await first.tasks.gained("up", 1)
    assert await first.tasks.waiting("up", NOW) == ([], None)
    await first.tasks.gained("up", 1)
    assert len((await first.tasks.waiting("up", NOW))[0]) == 1


async def test_a_defect_in_a_look_is_told_and_looked_beyond(
    first: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What depends on looking goes on."""
    monkeypatch.setattr("gateway.store.postgres.hints._AGAIN_S", 0.01)
    looked = asyncio.Event()
    defects = [RuntimeError("a defect"), StoreError("away")]

    async def look() -> None:
        if defects:
            raise defects.pop()
        looked.set()

    hints = ReplicaHints(first._database, "another")
    hints.start(Hearing(task=print, expiry=print, lane=print, settled=print, freed=print, look=look))
    try:
        with capture_logs() as log:
            await asyncio.wait_for(looked.wait(), LIMIT_S)
    finally:
        await hints.close()
    assert [line["event"] for line in log if line["log_level"] == "error"] == ["store.hints_failed"]


async def test_many_groups_are_found_out_at_once(first: PostgresStore, postgres: Database) -> None:
    """Whoever begins to lead has seconds for it, however many watch: it asks for a thousand of them at a time."""
    postgres.execute(
        "INSERT INTO tasks (created_at, upstream, task_id, watchers, next_poll_at) "
        "SELECT 1, name, 't' || i, 'c' || i, i FROM generate_series(1, 2500) AS i, unnest(ARRAY['up', 'vp']) AS name"
    )
    await first._hints.close()  # which looks as well
    first.tasks.lost("up")
    asked: list[object] = []
    read = first._database.read

    async def counted(*about: Any) -> list[Any]:
        asked.append(about)
        return await read(*about)

    first._database.read = counted  # type: ignore[method-assign]
    await first.tasks.gained("up", 1)
    assert len(asked) == 4
    groups, _ = await first.tasks.waiting("up", NOW)
    assert {(group.watchers, group.due_at) for group in groups} == {(f"c{i}", i) for i in range(1, 2501)}


async def test_of_writes_that_share_a_transaction_only_the_late_ones_are_left_out(
    first: PostgresStore, second: PostgresStore
) -> None:
    """Each is judged by its own upstream's lead."""
    mine = await registered(first, new("mine", upstream="other"))
    theirs = await registered(first, new("theirs"))
    epoch = await first.lead("polls:other", 60)
    assert epoch is not None
    await first.tasks.gained("other", epoch)
    await take_over(second)
    one = replace(settlement(mine.task.seq), upstream="other")
    assert await asyncio.gather(first.tasks.settle(settlement(theirs.task.seq)), first.tasks.settle(one)) == [
        None,
        [mine.id],
    ]
    assert (await look(first, theirs)).state is CallbackState.WAITING


async def test_all_kinds_of_writes_meet_on_the_same_tasks(first: PostgresStore, second: PostgresStore) -> None:
    """Each replica writes all at once: neither waits for the other in a circle, and all of it is done."""
    names = "polled", "later", "cancelled", "read", "known"
    task = {name: await registered(first, new(name, timeout_s=1, first_poll_at=NOW + 5000)) for name in names}
    ended, sent = [await brought_to(first, CallbackState.PENDING, new(name)) for name in ("ended", "sent")]
    (dead,) = [one for one in (await claim_webhooks(first, NOW, 9))[0] if one.id == ended.id]
    await first.outbox.record(attempt_of(dead, AttemptResult.DEAD))
    await lapse(first)
    (due,), _ = await claim_webhooks(first, NOW, 9)
    assert due.id == sent.id
    create = NewCreate(client="ann", upstream="up", request_id="r", digest=b"d", at=NOW)
    assert await first.registry.begin_create(create)
    answer = CreateAnswer(status=200, content_type=None, task_id="made", body=None)
    about: dict[str, Any] = {"upstream": "up", "at": NOW}
    wishes = [
        ReadWatch(client="ann", task_id=name, read_until=NOW + 1, next_poll_at=NOW, **about) for name in ("read", "new")
    ]

    def all_at_once(store: PostgresStore, client: str) -> list[Awaitable[Any]]:
        return [
            store.registry.redeliver("ann", ended.id, NOW),
            store.registry.cancel("ann", task["cancelled"].id, NOW),
            *map(store.registry.watch, wishes),
            store.registry.poll_again(PollAgain(task_id="known", **about)),
            store.registry.register([new(name, client=client) for name in ("new", "polled")]),
            store.registry.end_create(create, answer, [new("made", client=client)]),
        ]

    poll = PollRecord(seq=task["polled"].task.seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 9000, error=None)
    await asyncio.gather(
        *all_at_once(first, "bob"),
        first.tasks.reschedule(poll),
        first.tasks.poll_now("up", [task["later"].task.seq], NOW + 1000),
        first.tasks.settle(settlement(task["read"].task.seq)),
        first.outbox.record(attempt_of(due, AttemptResult.DELIVERED)),
        *all_at_once(second, "eve"),
    )
    after = {name: await look(second, one) for name, one in task.items()}
    assert (after["polled"].task.polls, after["later"].task.next_poll_at) == (1, NOW + 1000)
    assert (after["cancelled"].state, after["read"].state) == (CallbackState.CANCELLED, CallbackState.PENDING)
    assert after["known"].task.next_poll_at == NOW
    assert ((await look(first, ended)).state, (await look(first, sent)).state) == (
        CallbackState.PENDING,
        CallbackState.DELIVERED,
    )
    for name in ("new", "made"):
        for client in ("bob", "eve"):
            assert await second.registry.get_task(client, name) is not None


async def test_a_claim_that_has_lapsed_is_anothers(first: PostgresStore, second: PostgresStore) -> None:
    """Who had it changes nothing any more: not the webhook's state, its attempts or their log."""
    callback = await brought_to(first, CallbackState.PENDING)
    late = await claim(first)
    await second.outbox.look_again()
    assert (await claim_webhooks(second, NOW, 10))[0] == []
    await lapse(first)
    await second.outbox.look_again()
    due = await claim(second)
    assert due == replace(late, fence=late.fence + 1)
    await first.outbox.record(attempt_of(late, AttemptResult.DEAD))
    await first.outbox.release([late])
    assert first.stale_writes == 1
    assert (await look(first, callback)).state is CallbackState.PENDING
    assert await first.registry.list_attempts("ann", callback.id) == []
    await first.outbox.look_again()
    assert (await claim_webhooks(first, NOW, 10))[0] == []
    await second.outbox.record(attempt_of(due, AttemptResult.DELIVERED))
    after = await look(first, callback)
    assert (after.state, after.attempts) == (CallbackState.DELIVERED, 1)
    assert second.stale_writes == 0


async def test_claims_are_anothers_as_soon_as_they_lapse(
    first: PostgresStore, second: PostgresStore, postgres: Database
) -> None:
    """Each at its own time, whatever else of their lane is claimed meanwhile: nobody waits for the next look."""
    for number in range(3):
        await brought_to(first, CallbackState.PENDING, new(f"task-{number}"))
        await claim(first)
    postgres.execute("UPDATE callbacks SET claimed_until = gateway_now() + 1000000 * seq")
    await second._hints.close()
    await second.outbox.look_again()
    lapse_at = [at for (at,) in await first._database.read("SELECT claimed_until FROM callbacks ORDER BY seq")]
    await brought_to(first, CallbackState.PENDING, new("another"))
    second.outbox.note(lane("app"), NOW)
    (another,), next_due_at = await claim_webhooks(second, NOW, 10)
    for number, at in enumerate(lapse_at):
        assert next_due_at is not None
        assert at <= next_due_at < at + 1000
        assert await claim_webhooks(second, next_due_at - 1, 10) == ([], next_due_at)
        postgres.execute(f"UPDATE callbacks SET claimed_until = 1 WHERE claimed_until = {at}")
        (taken,), next_due_at = await claim_webhooks(second, next_due_at, 10)
        assert taken.task_id == f"task-{number}"
    assert next_due_at is None
    assert another.task_id == "another"


async def test_nobody_is_told_of_what_is_claimed_at_once(first: PostgresStore, second: PostgresStore) -> None:
    """Others would claim in vain, many times a second; what is left to them they hear of."""
    mine, theirs = new("mine", url="https://mine.example.com/"), new("theirs", url="https://theirs.example.com/")
    callbacks = [await registered(first, one) for one in (mine, theirs)]
    await first._hints.close()  # so that it tells when it is asked to
    second.outbox.due.clear()
    await asyncio.gather(*(first.tasks.settle(settlement(one.task.seq)) for one in callbacks))
    claimed = await first.outbox.claim(lambda _: [Share(lane("mine"), 9, True)], NOW)
    assert len(claimed.webhooks) == 1
    await first._hints._send()
    await asyncio.wait_for(second.outbox.due.wait(), LIMIT_S)
    assert await told_of(second, NOW) == [lane("theirs")]


async def test_who_leads_tells_that_it_is_refused(first: PostgresStore, second: PostgresStore) -> None:
    """With each renewal anew, and whoever takes over does not."""
    for refused, told in ((True, {LEAD}), (False, set()), (True, {LEAD})):
        assert await first.lead(LEAD, 60, refused=refused) == 1
        assert (await second.standing(60)).refused == told
    await first.resign(LEAD)
    assert (await second.standing(60)).refused == set()
    await second.lead(LEAD, 60)
    assert (await first.standing(60)) == (2, {LEAD}, set())


async def test_a_clock_that_is_set_back_keeps_no_lead(
    first: PostgresStore, second: PostgresStore, postgres: Database
) -> None:
    """Whoever has it may be gone, and nobody waits for that hour; who lives goes on if it asks before others do."""
    await first.standing(60)
    set_back(postgres, 30)
    assert await second.lead(LEAD, 60) is None
    assert (await second.standing(60)).replicas == 2
    set_back(postgres, 3600)
    assert await first.lead(LEAD, 60) == 1
    assert await second.lead(LEAD, 60) is None
    set_back(postgres, 7200)
    assert await second.standing(60) == (1, frozenset(), frozenset())
    assert await second.lead(LEAD, 60) == 2
    assert await second.standing(60) == (1, frozenset([LEAD]), frozenset())
    assert await first.lead(LEAD, 60) is None
    assert (await first.standing(60)).replicas == 2


async def test_a_clock_that_is_set_back_keeps_no_claim(
    first: PostgresStore, second: PostgresStore, postgres: Database
) -> None:
    """Whoever made it may be gone: another sends, and what the first one writes then changes nothing."""
    callback = await brought_to(first, CallbackState.PENDING)
    late = await claim(first)
    set_back(postgres, 2)
    await second.outbox.look_again()
    assert (await claim_webhooks(second, NOW, 10))[0] == []
    set_back(postgres, 3600)
    await second.outbox.look_again()
    due = await claim(second)
    assert due == replace(late, fence=late.fence + 1)
    await first.outbox.record(attempt_of(late, AttemptResult.DEAD))
    assert first.stale_writes == 1
    set_back(postgres, 7200)
    assert await second.outbox.body(due) == due.body
    await first.outbox.look_again()
    assert (await claim_webhooks(first, NOW, 10))[0] == [], "it was kept, and so begins anew"
    await second.outbox.record(attempt_of(due, AttemptResult.DELIVERED))
    assert (await look(first, callback)).state is CallbackState.DELIVERED


async def test_a_claim_that_has_waited_begins_anew_or_is_anothers(first: PostgresStore, second: PostgresStore) -> None:
    """A large body is asked for once there is room for it: from then on there is time for a whole attempt."""
    await brought_to(first, CallbackState.PENDING)
    due = await claim(first)
    await lapse(first)
    assert await first.outbox.body(due) == due.body
    await second.outbox.look_again()
    assert (await claim_webhooks(second, NOW, 10))[0] == []
    await lapse(first)
    await second.outbox.look_again()
    assert (await claim(second)).seq == due.seq
    assert await first.outbox.body(due) is None


class _Steady(SteeredClock):
    """A clock by which this process may have stood still for a while."""

    stood_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.stood_s


async def test_whoever_stood_still_does_not_begin_what_another_may_be_sending(postgres: Database) -> None:
    """A claim is held for as long as a whole attempt fits in; once it was kept, for as long again."""
    clock = _Steady(SystemClock())
    async with AsyncExitStack() as stack:
        store = PostgresStore(Servers(postgres.url), clock=clock, replica="one", attempt_s=60.0)
        await store.open()
        stack.push_async_callback(store.close)
        await take_over(store)
        await brought_to(store, CallbackState.PENDING)
        due = await claim(store)
        assert store.outbox.holds(due)
        clock.stood_s += 14.0
        assert store.outbox.holds(due)
        clock.stood_s += 1.0
        assert not store.outbox.holds(due)
        assert await store.outbox.body(due) == due.body
        assert store.outbox.holds(due)
        await store.outbox.release([due])
        assert not store.outbox.holds(due)


async def test_a_claim_that_a_shutdown_cuts_off_is_given_back(first: PostgresStore) -> None:
    """Wherever it is cut off: else nobody would send these webhooks before the claims lapse."""
    await brought_to(first, CallbackState.PENDING)
    claimed = "SELECT count(*) FROM callbacks WHERE claimed_until > gateway_now()"
    for steps in range(200):
        claiming = asyncio.create_task(claim_webhooks(first, NOW, 10))
        for _ in range(steps):
            await asyncio.sleep(0)
        if claiming.done():
            break
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        assert await first._database.read(claimed) == [(0,)], f"cut off after {steps} steps"
    assert steps > 3
    assert len((await claiming)[0]) == 1


async def test_two_that_claim_at_once_share_what_is_due(first: PostgresStore, second: PostgresStore) -> None:
    """No webhook is two replicas', and none is nobody's."""
    for number in range(20):
        await brought_to(first, CallbackState.PENDING, new(f"task-{number}"))
    await second.outbox.look_again()
    claims = await asyncio.gather(*(claim_webhooks(store, NOW, 10) for store in (first, second)))
    seqs = [due.seq for found, _ in claims for due in found]
    assert len(set(seqs)) == len(seqs) == 20


async def test_what_a_look_reads_may_be_older_than_what_a_poll_has_stored(
    first: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is claimed, polled and put off while others are read is not due again by what it was before."""
    await registered(first)
    (due,) = await first.tasks.never_polled("up", 0, NOW)
    read = first._database.read

    async def polled_meanwhile(statement: str, parameters: Any = ()) -> list[Any]:
        found = await read(statement, parameters)
        if statement in (sql.SELECT_DUE_TASKS, sql.SELECT_NEW_TASKS):
            assert await first.tasks.claim([due]) == [due]
            record = PollRecord(seq=due.seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 1000, error=None)
            await first.tasks.reschedule(record)
        return found

    monkeypatch.setattr(first._database, "read", polled_meanwhile)
    assert (await first.tasks.longest_due("up", "ann", NOW, 10))[0] == []
    assert await first.tasks.never_polled("up", 0, NOW) == []
    assert await first.tasks.waiting("up", NOW) == ([], NOW + 1000)


async def test_whoever_leads_hears_what_others_register(first: PostgresStore, second: PostgresStore) -> None:
    """At once, and not only when it looks: when tasks are due, when callbacks expire, who watches."""
    await first.tasks.expired("up", NOW, 10)
    first.tasks.due("up").clear()
    await registered(second, new(timeout_s=5))
    await asyncio.wait_for(first.tasks.due("up").wait(), LIMIT_S)
    groups, _ = await first.tasks.waiting("up", NOW)
    assert [group.watchers for group in groups] == ["ann"]
    expired, _ = await first.tasks.expired("up", NOW + 5000, 10)
    assert len(expired) == 1


async def test_all_hear_of_a_tasks_end(first: PostgresStore, second: PostgresStore) -> None:
    """Whoever waits for it at another replica looks at once, and its webhook may be sent from there."""
    callback = await registered(second)
    second.outbox.due.clear()
    waiting = asyncio.create_task(second.registry.wait_settled(callback.task.seq, 60))
    await asyncio.sleep(0)
    await first.tasks.settle(settlement(callback.task.seq))
    await asyncio.wait_for(waiting, LIMIT_S)
    await asyncio.wait_for(second.outbox.due.wait(), LIMIT_S)
    assert (await claim(second)).id == callback.id


async def test_many_ends_at_once_are_told_of(first: PostgresStore, second: PostgresStore) -> None:
    """Each reaches whoever waits for it, however many messages it takes."""
    made = await second.registry.register([new(f"task-{number}") for number in range(500)])
    seqs = [one.callback.task.seq for one in made]
    waiting = [asyncio.create_task(second.registry.wait_settled(seq, 60)) for seq in seqs]
    await asyncio.sleep(0)
    await asyncio.gather(*(first.tasks.settle(settlement(seq)) for seq in seqs))
    await asyncio.wait_for(asyncio.gather(*waiting), LIMIT_S)


async def test_what_nobody_was_told_of_is_found(first: PostgresStore, second: PostgresStore) -> None:
    """A hint may be lost: whoever leads looks now and then, and all do for webhooks."""
    second._hints.alone = True
    first._hints.alone = True
    callback = await registered(second)
    assert await first.tasks.waiting("up", NOW) == ([], None)
    await first._look_again()
    assert len((await first.tasks.waiting("up", NOW))[0]) == 1
    assert len((await first.tasks.expired("up", callback.expires_at, 10))[0]) == 1
    await first.tasks.settle(settlement(callback.task.seq))
    assert (await claim_webhooks(second, NOW, 10))[0] == []
    await second._look_again()
    assert (await claim(second)).id == callback.id


async def test_what_has_long_expired_is_read_once(first: PostgresStore, postgres: Database) -> None:
    """Of an upstream that nobody polls any number may have: a look need not go through them for each other upstream."""
    hour_ms = 3_600_000
    old, late = await registered(first, new("old")), await registered(first, new("late"))
    postgres.execute(f"UPDATE callbacks SET expires_at = {NOW + 1}")
    found, _ = await first.tasks.expired("up", NOW + 1, 10)
    assert {one.seq for one in found} == {old.task.seq, late.task.seq}
    await first.tasks.settle(replace(settlement(old.task.seq), expired_by=NOW + 1))
    await first.tasks.settle(replace(settlement(late.task.seq), expired_by=NOW + 1))
    later = NOW + 2 * hour_ms
    await first.tasks.look_again()
    assert await first.tasks.expired("up", later, 10) == ([], None)
    read, asked = first._database.read, []

    async def noted(statement: str, parameters: Any = ()) -> list[Any]:
        asked.extend([parameters[0]] if statement == sql.SELECT_EXPIRED else [])
        return await read(statement, parameters)

    first._database.read = noted  # type: ignore[method-assign]
    await first.tasks.look_again()
    assert await first.tasks.expired("up", later, 10) == ([], None)
    assert asked == [later - hour_ms]
    # What was stored since, by whoever was slow.
    unheard = await registered(first, new("unheard"))
    postgres.execute(f"UPDATE callbacks SET expires_at = {later - hour_ms} WHERE id = '{unheard.id}'")
    await first.tasks.look_again()
    assert [one.seq for one in (await first.tasks.expired("up", later, 10))[0]] == [unheard.task.seq]


async def test_who_leads_goes_on_beside_a_slow_claim(first: PostgresStore) -> None:
    """A claim may take five seconds, and the next one too; a lease lasts for seven."""
    claiming = asyncio.ensure_future(first._database.write("SELECT pg_sleep(4)"))
    for _ in range(3):
        assert await first.lead(LEAD, 60) == 1
        assert LEAD in (await first.standing(60)).led
    await first.resign(LEAD)
    assert not claiming.done()
    claiming.cancel()


async def test_who_has_ended_is_missed_by_nobody(
    second: PostgresStore, first: PostgresStore, postgres: Database
) -> None:
    """A replica that is stopped says so: the others share what it led, and its database can be copied at once."""
    for store in (first, second):
        await store.standing(60)
    assert (await second.standing(60)).replicas == 2
    await first.resign(LEAD)
    await first.close()
    assert (await second.standing(60)).replicas == 1
    await second.close()
    side = PostgresCopySide(postgres.url)
    await side.open_source()
    await side.close()


async def test_much_at_once_is_told_in_several_messages(first: PostgresStore, second: PostgresStore) -> None:
    """However many lanes fall due: one message has room for some hundred, and of thousands nobody tells each."""
    for count in (300, 3000):
        callbacks = [new(f"task-{count}-{n}", url=f"https://r{n}.example.com/hooks") for n in range(count)]
        made = await first.registry.register(callbacks)
        second.outbox.due.clear()
        await asyncio.gather(*(first.tasks.settle(settlement(one.callback.task.seq)) for one in made))
        claimed = 0
        while claimed < count:
            await asyncio.wait_for(second.outbox.due.wait(), LIMIT_S)
            second.outbox.due.clear()
            claimed += len((await claim_webhooks(second, NOW, count))[0])


async def test_who_is_cut_off_hears_again(
    postgres: Database, first: PostgresStore, second: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks for what it was not told meanwhile, and listens anew."""
    monkeypatch.setattr("gateway.store.postgres.hints._AGAIN_S", 0.01)
    monkeypatch.setattr("gateway.store.postgres.hints._LOOK_UNTOLD_S", 3600.0)
    monkeypatch.setattr("gateway.store.postgres.hints._LOOK_S", 3600.0)
    for number in range(3):
        first.tasks.due("up").clear()
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
        await asyncio.wait_for(first.tasks.due("up").wait(), LIMIT_S)
        first.tasks.due("up").clear()
        await registered(second, new(f"task-{number}"))
        await asyncio.wait_for(first.tasks.due("up").wait(), LIMIT_S)


async def test_what_nobody_understands_makes_one_look(first: PostgresStore, second: PostgresStore) -> None:
    """Another release's message, or another program's, is no reason to fail, and may mean anything."""
    for message in ("x", '["other",[["t"]]]', '["other",[["t","up","ann",1,2]]]', '["other",[]]', '["other",[7]]'):
        first.tasks.due("up").clear()
        await second._database.read("SELECT pg_notify($1, $2)", ("gateway", message))
        await asyncio.wait_for(first.tasks.due("up").wait(), LIMIT_S)
