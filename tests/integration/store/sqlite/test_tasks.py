"""Which tasks SQLite's store finds due or expired, what that costs, and claims that come in between."""

import pytest

from gateway.core.errors import StoreError
from gateway.core.model import CallbackState, Outcome, Settlement, TaskState
from gateway.store.sqlite import sql
from gateway.store.sqlite.store import SqliteStore
from tests.claims import claim_tasks
from tests.sqlitefile import connection, count_steps, new
from tests.storing import NOW


async def test_a_group_is_read_without_the_others(store: SqliteStore) -> None:
    """Hundreds of clients wait for their turn: for one place one of them is read."""
    await store.registry.register([new(client=f"client-{n}") for n in range(300)])
    taken = count_steps(store)
    assert len((await store.tasks.waiting("up", NOW))[0]) == 300
    tasks, next_due_at = await store.tasks.longest_due("up", "client-7", NOW, 1)
    assert (len(tasks), next_due_at) == (1, None)
    assert taken() < 1000


async def test_a_task_given_back_while_others_are_read_is_not_forgotten(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was claimed when that began, and so is not among them: it is due all the same."""
    await store.registry.register([new(task_id="a"), new(task_id="b")])
    (first,), _ = await claim_tasks(store, "up", NOW, 1)
    call = store._database.call

    async def given_back_meanwhile(*args: object) -> object:
        result = await call(*args)  # type: ignore[arg-type]
        await store.tasks.release([first])
        return result

    monkeypatch.setattr(store._database, "call", given_back_meanwhile)
    (second,), _ = await claim_tasks(store, "up", NOW, 10)
    monkeypatch.undo()
    assert second.seq != first.seq
    assert (await claim_tasks(store, "up", NOW, 10))[0] == [first]


async def test_what_has_expired_elsewhere_costs_an_upstream_nothing(store: SqliteStore) -> None:
    """Thousands that wait for another upstream's last word are not looked through again and again."""
    await store.registry.register([new(upstream="down", timeout_s=60) for _ in range(2000)])
    await store.registry.register([new(timeout_s=number) for number in (70, 80, 90)])
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 100

    connection(store)._conn.set_progress_handler(count, 100)
    costs = []
    for now_s in (65, 75, 85):
        steps = 0
        expired, next_expiry_at = await store.tasks.expired("up", NOW + now_s * 1000, 1000)
        costs.append(steps)
    assert [task.expires_at - NOW for task in expired] == [70_000, 80_000]
    assert next_expiry_at == NOW + 90_000
    assert costs[0] > 2000 > 500 > max(costs[1:])


async def test_an_expiry_is_found_though_a_look_for_it_failed(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a read that failed did not see is seen by the next one."""
    (made,) = await store.registry.register([new(timeout_s=60)])
    with monkeypatch.context() as broken:
        broken.setattr(sql, "SELECT_EXPIRED", "SELECT absent")
        with pytest.raises(StoreError):
            await store.tasks.expired("up", NOW + 90_000, 10)
    expired, _ = await store.tasks.expired("up", NOW + 90_000, 10)
    assert [task.seq for task in expired] == [made.callback.task.seq]


async def test_a_write_that_failed_keeps_its_claim(store: SqliteStore) -> None:
    """Whoever holds a claim decides what follows; nobody else may take the row meanwhile."""
    (made,) = await store.registry.register([new()])
    (due,), _ = await claim_tasks(store, "up", NOW, 1)
    ((pages,),) = await store._database.read("PRAGMA page_count")
    await store._database.read(f"PRAGMA max_page_count = {pages}")
    outcome = Outcome(state=TaskState.SUCCESS, data=b'{"a":"' + b"x" * 100_000 + b'"}')
    settlement = Settlement(upstream="up", seq=due.seq, outcome=outcome, settled_at=NOW, polls=1)
    with pytest.raises(StoreError):
        await store.tasks.settle(settlement)
    assert await claim_tasks(store, "up", NOW, 1) == ([], None)
    await store._database.read("PRAGMA max_page_count = 1000000")
    await store.tasks.settle(settlement)
    after = await store.registry.get_callback("ann", made.callback.id)
    assert after is not None
    assert after.state is CallbackState.PENDING
