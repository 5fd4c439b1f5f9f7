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


async def test_writes_of_successive_turns_share_a_transaction() -> None:
    """Requests that arrived together reach the store a turn of the event loop apart: one commit is for all of them."""
    transactions = Transactions()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions)
    writer.start()

    async def chain(number: int) -> None:
        following = asyncio.create_task(chain(number + 1)) if number < 8 else None
        assert await writer.submit(kind, number) == number
        if following is not None:
            await following

    await chain(1)
    await writer.close()
    assert transactions.batches == [[1, 2, 3, 4, 5, 6, 7, 8]]


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
