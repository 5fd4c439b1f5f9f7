"""Whose tasks are claimed next, on a store where those who watch a task change meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.core.claims import DueTask
from gateway.core.model import PollRecord, Registration
from gateway.loops.pollshares import PollShares
from gateway.store.sqlite.store import SqliteStore
from tests.nouns import NOW
from tests.storing import new

PLACES = 1000  # nobody's tasks wait for one of their own


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "gateway.db")
    await store.open()
    yield store
    await store.close()


async def registered(store: SqliteStore, *numbers: int, client: str) -> list[Registration]:
    return await store.registry.register([new(f"task-{number}", client=client) for number in numbers])


def by_number(task: DueTask) -> float:
    return float(task.task_id.removeprefix("task-"))


async def polled(store: SqliteStore, claims: list[DueTask]) -> None:
    for task in claims:
        await store.tasks.reschedule(
            PollRecord(seq=task.seq, upstream="up", polled_at=NOW, next_poll_at=NOW + 1, error=None)
        )


@pytest.mark.parametrize("cancels", [False, True], ids=["joins", "takes over"])
async def test_a_task_whose_watchers_change_while_it_is_in_an_order_is_claimed_once(
    store: SqliteStore, cancels: bool
) -> None:
    """And again when its next poll is due: its claim is not forgotten where it was before."""
    made = await registered(store, *range(9), client="ann")
    shares = PollShares(store.tasks, "up")
    claims, _ = await shares.claim(NOW, 1, PLACES, by_number)
    if cancels:
        await store.registry.cancel("ann", made[5].callback.id, NOW)
    await registered(store, 5, client="bob")
    for _ in range(8):
        due, _ = await shares.claim(NOW, 1, PLACES, by_number)
        claims += due
    names = sorted(task.task_id for task in claims)
    assert names == [f"task-{n}" for n in range(9)]
    await polled(store, claims)
    again, _ = await shares.claim(NOW + 1, 20, PLACES)
    assert sorted(task.task_id for task in again) == names


async def test_tasks_that_were_claimed_before_others_watch_them_are_theirs_then(store: SqliteStore) -> None:
    """All that are due for these may be claimed already: there is nothing more to claim, and it is polled again."""
    await registered(store, *range(9), client="ann")
    shares = PollShares(store.tasks, "up")
    claims, _ = await shares.claim(NOW, 1, PLACES, by_number)
    await registered(store, 5, 6, 7, client="bob")
    async with asyncio.timeout(20):
        while due := (await shares.claim(NOW, 1, PLACES, by_number))[0]:
            claims += due
    assert sorted(task.task_id for task in claims) == [f"task-{n}" for n in range(9)]
    await polled(store, claims)
    again, _ = await shares.claim(NOW + 1, 20, PLACES)
    assert len(again) == 9
