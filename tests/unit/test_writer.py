"""The store's writer by itself: who shares a transaction, and who shares its failure."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pytest

from gateway.errors import StoreError
from gateway.store.writer import Kind, Writer


class Transactions:
    """Runs what the writer commits; ``failing`` is raised once instead, as soon as ``go_on`` is set."""

    def __init__(self, failing: Exception | None = None) -> None:
        self.batches: list[Sequence[Any]] = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self._failing = failing

    async def __call__(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        self.begun.set()
        failing, self._failing = self._failing, None
        if failing is not None:
            await self.go_on.wait()
            raise failing
        with closing(sqlite3.connect(":memory:")) as db:
            return work(db)

    def apply(self, _: sqlite3.Connection, items: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(list(items))
        return items


async def _written(steps: Sequence[int], rows: int = 1) -> list[Sequence[Any]]:
    """Return the transactions of writes of which each comes so many turns of the event loop after the one before it."""
    transactions = Transactions()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions)
    writer.start()
    writes = []
    for number, turns in enumerate(steps):
        for _ in range(turns):
            await asyncio.sleep(0)
        writes.append(asyncio.create_task(writer.submit(kind, number, rows)))
    assert await asyncio.gather(*writes) == list(range(len(steps)))
    await writer.close()
    return transactions.batches


async def test_writes_of_successive_turns_share_a_transaction() -> None:
    """Requests that arrived together reach the store a turn of the event loop apart: one commit is for all of them."""
    assert await _written([0, *[1] * 31]) == [list(range(32))]


@pytest.mark.parametrize(("turns", "commits"), [(3, 1), (4, 2)])
async def test_a_transaction_waits_two_turns_that_bring_nothing(turns: int, commits: int) -> None:
    """Clients that got their answers from the last commit join the next one, and nobody waits for one who is away."""
    assert len(await _written([0, 1, turns])) == commits


@pytest.mark.parametrize(("rows", "most"), [(1, 65), (8, 64), (9, 57), (256, 2), (512, 1)])
async def test_a_transaction_waits_for_no_more_once_it_has_its_rows_or_its_turns(rows: int, most: int) -> None:
    """However many come, the first ones wait for few: a turn may bring a whole batch, which takes milliseconds."""
    assert len((await _written([0, *[1] * 100], rows))[0]) == most


async def test_a_transaction_that_fails_is_not_the_failure_of_who_waits() -> None:
    """A full disk refuses what it was asked to write; what came meanwhile has its own try."""
    transactions = Transactions(sqlite3.OperationalError("database or disk is full"))
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions)
    writer.start()
    first = asyncio.create_task(writer.submit(kind, 1))
    await transactions.begun.wait()
    second = asyncio.create_task(writer.submit(kind, 2))
    await asyncio.sleep(0)
    assert writer._waiting
    transactions.go_on.set()
    with pytest.raises(StoreError, match="Nothing was stored"):
        await first
    assert await second == 2
    await writer.close()
