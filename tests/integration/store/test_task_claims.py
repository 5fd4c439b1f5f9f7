"""How every store hands out the tasks that are due: each once, the longest due first, and whose turn it is."""

import asyncio
from collections.abc import Iterable

import pytest

from gateway.core.claims import DueGroup, DueTask
from gateway.core.model import PollRecord
from gateway.store import Store
from tests.claims import claim_tasks
from tests.storing import LIMIT_S, NOW, claim_task, new, registered


async def longest_due(store: Store, watchers: str, limit: int = 99, at: int = NOW) -> list[DueTask]:
    tasks, _ = await store.tasks.longest_due("up", watchers, at, limit)
    return tasks


def names(tasks: Iterable[DueTask]) -> list[str]:
    return [task.task_id for task in tasks]


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
