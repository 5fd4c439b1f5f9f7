"""What SQLite's store of callbacks costs, however many there are, and redeliveries in parts."""

import asyncio

import msgspec
import pytest

from gateway.core.errors import StoreError, StorePartly
from gateway.core.model import AttemptResult, CallbackState, Outcome, Settlement, TaskState
from gateway.store import registry
from gateway.store.sqlite.store import SqliteStore
from tests.claims import claim_tasks
from tests.lanes import claim_webhooks
from tests.sqlitefile import connection, count_steps, failed, new
from tests.storing import NOW


async def test_what_is_known_is_not_asked_for(store: SqliteStore) -> None:
    """New tasks cost two statements, a callback more on one that runs two more, and no expiry is looked for twice.

    Another client's is looked at once more: the task may be polled earlier for it.
    """
    statements: list[str] = []
    await connection(store).set_trace_callback(statements.append)
    await store.registry.register([new(task_id="a"), new(task_id="b")])
    assert len(statements) == 2 + 2  # and the transaction's
    statements.clear()
    await store.registry.register([new(task_id="a", url="https://elsewhere.example")])
    assert len(statements) == 2 + 4
    statements.clear()
    await store.registry.register([new(task_id="a", client="bob")])
    assert len(statements) == 2 + 5
    await store.tasks.expired("up", NOW, 10)
    statements.clear()
    assert await store.tasks.expired("up", NOW + 1, 10) == ([], NOW + 3_600_000)
    assert statements == []


async def test_what_a_task_had_before_costs_its_next_callbacks_nothing(store: SqliteStore) -> None:
    """Cancelling and settling beside 2,000 cancelled callbacks of the same task look at none of these."""
    made = await store.registry.register([new(task_id="t", url=f"https://app.example.com/{n}") for n in range(2000)])
    first, *others = made
    await asyncio.gather(*(store.registry.cancel("ann", other.callback.id, NOW) for other in others))
    taken = count_steps(store)
    await store.registry.cancel("ann", first.callback.id, NOW)
    assert taken() < 500
    (again,) = await store.registry.register([new(task_id="t")])
    taken()
    (others_own,) = await store.registry.register([new(task_id="t", client="eve")])
    assert taken() < 1000
    await store.registry.cancel("eve", others_own.callback.id, NOW)
    taken()
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    settlement = Settlement(upstream="up", seq=again.callback.task.seq, outcome=outcome, settled_at=NOW, polls=1)
    assert await store.tasks.settle(settlement) == [again.callback.id]
    assert taken() < 1000
    assert await store.registry.get_task("bob", "t") is None
    assert await store.registry.list_callbacks("bob", state=None, task_id="t", before_seq=None, limit=9) == []
    assert taken() < 500


async def test_who_watches_a_task_with_others_joins_it_again_at_no_cost(store: SqliteStore) -> None:
    """Its callbacks may be thousands, and are not read through for each further one."""
    await store.registry.register([new(task_id="t", url=f"https://app.example.com/{n}") for n in range(2000)])
    await store.registry.register([new(task_id="t", client="bob")])
    taken = count_steps(store)
    for client in ("ann", "bob"):
        await store.registry.register([new(task_id="t", client=client, url="https://app.example.com/more")])
        assert taken() < 1000
    await store.registry.register([new(task_id="t", client="bo")])
    assert taken() > 1000
    (due,), _ = await claim_tasks(store, "up", NOW, 1)
    assert (due.task_id, due.watchers) == ("t", "ann,bo,bob")


async def test_dead_callbacks_are_redelivered_in_parts(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others write in between, whatever there are; the count is of all of them, and none is redelivered twice."""
    monkeypatch.setattr(registry, "_REDELIVERED_AT_ONCE", 10)
    made = await store.registry.register([new(task_id="t", url=f"https://app.example.com/{n}") for n in range(95)])
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    seq = made[0].callback.task.seq
    await store.tasks.settle(Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=NOW, polls=1))

    async def die(at: int) -> None:
        due, _ = await claim_webhooks(store, NOW + 9, 1000)
        for claim in due:
            record = failed(claim, 0)
            attempt = msgspec.structs.replace(record.attempt, result=AttemptResult.DEAD, started_at=at)
            await store.outbox.record(msgspec.structs.replace(record, attempt=attempt, next_attempt_at=None))

    await die(NOW)
    redelivering = asyncio.create_task(store.registry.redeliver_dead(None, 0, NOW + 100, NOW + 6))
    written = 0
    while not redelivering.done():
        await store.registry.register([new()])
        written += 1
    assert await redelivering == 95
    assert written >= 9
    await die(NOW + 50)
    dying = asyncio.create_task(store.registry.redeliver_dead(None, 0, NOW + 100, NOW + 60))
    while not dying.done():
        await die(NOW + 70)  # at once again: what answers 410 must not keep it going
    assert await dying == 95
    assert await store.registry.redeliver_dead("ann", 0, NOW + 100, NOW + 5) == 0


async def test_a_redelivery_that_fails_in_the_middle_says_how_many_are_done(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And asked for again, it redelivers the rest."""
    monkeypatch.setattr(registry, "_REDELIVERED_AT_ONCE", 10)
    made = await store.registry.register([new(task_id="t", url=f"https://app.example.com/{n}") for n in range(25)])
    outcome = Outcome(state=TaskState.SUCCESS, data=b"{}")
    seq = made[0].callback.task.seq
    await store.tasks.settle(Settlement(upstream="up", seq=seq, outcome=outcome, settled_at=NOW, polls=1))
    for claim in (await claim_webhooks(store, NOW + 9, 1000))[0]:
        record = failed(claim, 0)
        attempt = msgspec.structs.replace(record.attempt, result=AttemptResult.DEAD, started_at=NOW)
        await store.outbox.record(msgspec.structs.replace(record, attempt=attempt, next_attempt_at=None))
    real = store.registry._redeliver_some
    fails_at = 3

    async def some(client: str, about: dict[str, int]) -> int:
        nonlocal fails_at
        fails_at -= 1
        if not fails_at:
            raise StoreError("The database could not write.")
        return await real(client, about)

    monkeypatch.setattr(store.registry, "_redeliver_some", some)
    with pytest.raises(StorePartly, match="20 are redelivered"):
        await store.registry.redeliver_dead("ann", 0, NOW + 100, NOW + 6)
    assert await store.registry.redeliver_dead("ann", 0, NOW + 100, NOW + 7) == 5


async def test_listing_a_tasks_newest_reads_no_others(store: SqliteStore) -> None:
    """Of a task's 1,000 callbacks those that are not listed cost looks at the indexes, and no row is made of them."""
    registrations = await store.registry.register(
        [new(task_id="t", url=f"https://app.example.com/{n}") for n in range(1000)]
    )
    made = [one.callback for one in registrations]
    other = (await store.registry.register([new(client="bob", task_id="t")]))[0].callback
    taken = count_steps(store)
    for state in (None, CallbackState.WAITING):
        for client, its in (("ann", [made[-1], made[-2]]), (None, [other, made[-1]])):
            found = await store.registry.list_callbacks(client, state=state, task_id="t", before_seq=None, limit=2)
            assert [callback.id for callback in found] == [callback.id for callback in its]
            assert taken() < 30 * len(made)
    assert (
        await store.registry.list_callbacks("ann", state=CallbackState.DEAD, task_id="t", before_seq=None, limit=2)
        == []
    )


async def test_an_operators_list_of_one_state_reads_no_others(store: SqliteStore) -> None:
    """No index has everybody's in one state; those of each client do, however many wait beside them."""
    made = [
        (await store.registry.register([new(client=client) for _ in range(1000)]))[0].callback
        for client in ("ann", "bob")
    ]
    for callback in made:
        await store.registry.cancel(callback.client, callback.id, NOW)
    taken = count_steps(store)
    found = await store.registry.list_callbacks(
        None, state=CallbackState.CANCELLED, task_id=None, before_seq=None, limit=9
    )
    assert [callback.id for callback in found] == [callback.id for callback in reversed(made)]
    assert taken() < 1000


async def test_an_operators_other_lists_do_not_ask_each_client(store: SqliteStore) -> None:
    """The newest of all, or those of one task: hundreds of clients make neither dearer."""
    registrations = await store.registry.register([new(task_id=f"t{n}", client=f"client-{n}") for n in range(300)])
    last = registrations[-1].callback
    taken = count_steps(store)
    for state, task_id in ((None, None), (CallbackState.WAITING, "t299")):
        found = await store.registry.list_callbacks(None, state=state, task_id=task_id, before_seq=None, limit=1)
        assert [callback.id for callback in found] == [last.id]
        assert taken() < 1000
