"""The writes that wait for the writer: what a kind of write is, and whose turn is next.

Owns the order: what is small before what is large, so that nobody's single row waits for megabytes of others'; and what
shares a transaction. Called by ``writer``; the ports say how each kind is applied.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from gateway.store.engine import Touched, Work

BATCH = 512  # small rows per transaction or so, so that nobody waits long for another's
_ROWS_A_PLACE = 16
"""A write lets one pass that comes later for every so many rows of its own: an outcome of a megabyte, of a thousand
rows, lets sixty pass. What is as small as most goes in the order in which it comes."""


class Kind(msgspec.Struct, frozen=True, eq=False):
    """A kind of write: how a batch of it is applied inside a transaction, and what follows the commit."""

    name: str
    apply: Callable[[Sequence[Any]], Work[Sequence[Any] | None]]
    """Takes the items, returns as many results, if any. May run in the database's thread, and several times."""
    committed: Callable[[Sequence[Any], Sequence[Any]], None] | None = None
    """Called in the event loop with the items and the results once they are durable, before a next batch is begun."""
    touches: Callable[[Sequence[Any]], Touched] | None = None
    """What the items change that others may, where any: of a transaction of several such kinds it is locked first."""
    singly: bool = False
    """Whether each item locks what it changes by itself, so that of several all is locked first."""
    apart: bool = False
    """Whether it has a transaction of its own, as it finds out within it which tasks it changes."""
    alone: bool = False
    """Whether it shares its transaction with no write that was asked for earlier or later; later ones fail with it."""


class Wish(msgspec.Struct, eq=False):
    """A write that is asked for."""

    kind: Kind
    item: Any
    rows: int
    future: "asyncio.Future[Any]"
    place: int = 0
    """In the row: lower ones go first, equal ones as they came."""


class WriteRow:
    """The row of those that wait.

    Under attack one in a hundred creates, each of whose two writes is one row, met four thousand rows ahead of it:
    eight transactions of others' outcomes and batches.
    """

    def __init__(self) -> None:
        self._row: list[tuple[int, int, Wish]] = []  # a heap
        self._asked = 0
        self._place = 0  # of what is small and asked for now
        self.rows = 0

    def __bool__(self) -> bool:
        return bool(self._row)

    def add(self, wish: Wish) -> None:
        self._place += 1
        wish.place = self._place + wish.rows // _ROWS_A_PLACE
        if wish.kind.alone:  # behind all that was asked for earlier, and before all that comes later
            wish.place = self._place = max([wish.place, *(place + 1 for place, _, _ in self._row)])
        self._put(wish)

    def put_back(self, wishes: Iterable[Wish]) -> None:
        """Have those wait again that a batch has held, in its order: they were before all that waits, and still are.

        At its old place what is large might come behind what has been asked for since and is to come after it.
        """
        first = self._row[0][0] if self._row else self._place
        for wish in wishes:
            wish.place = first - 1
            self._put(wish)

    def batch(self) -> list[Wish]:
        """Take what the next transaction holds: one at least, and as many as find room."""
        batch: list[Wish] = []
        rows, last_by_itself = 0, False
        while self._row:
            following = self._row[0][2]
            by_itself = following.kind.alone or following.kind.apart
            if batch and (last_by_itself or by_itself or rows + following.rows > BATCH):
                break
            batch.append(heapq.heappop(self._row)[2])
            rows += following.rows
            last_by_itself = by_itself
        self.rows -= rows
        return batch

    def all(self) -> list[Wish]:
        """Take all of them, in their order."""
        wishes = [wish for _, _, wish in sorted(self._row, key=lambda one: one[:2])]
        self._row.clear()
        self.rows = 0
        return wishes

    def _put(self, wish: Wish) -> None:
        self._asked += 1
        heapq.heappush(self._row, (wish.place, self._asked, wish))
        self.rows += wish.rows
