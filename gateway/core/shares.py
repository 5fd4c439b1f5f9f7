"""A client's share of the gateway's time, so that one with hundreds of requests, or large ones, holds up nobody.

Owns how much of the database's work is asked for at once for one client, each client's own row for what is more, as
writes are done one after the other, how many items of a batch are looked at before others have their turn, and whose
batch that is then. Used by the API and the pages' forms around the calls of the store that a client's requests make,
but for those of a create or a read once it has its turn at the key: from there on a create is paid for, so that the
rows of its own wait for nothing else of its client's, and of reads there are no more than the key allows.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from math import inf
from typing import TypeVar

T = TypeVar("T")

_ITEMS = 25
"""Of a batch, looked at in one turn of the event loop: a millisecond or two."""
_ITEMS_BESIDE = 5
"""… beside others: a create takes some fifteen turns."""
WHOLE = 256
"""Rows written at once for a client while no other wants anything: all of its share."""
BESIDE = 64
"""… beside others: about two milliseconds for each of them."""
_BESIDE_S = 1.0
"""So long after another client has wanted something a batch goes on as beside it: it comes again. A piece of 512 rows,
which a client wrote while another was between two requests, held that one's create up for 100 ms under attack."""
READ = 32
"""What a read costs beside its rows: a journey to the database's thread takes as long as writing so many."""


class Shares:
    """What each client has asked of the database and not got yet."""

    def __init__(self) -> None:
        self._latest: str | None = None  # who was the last to want something
        self._latest_at = self._others_at = -inf  # by the loop's time: when it did, and when another one did before
        self._clients: dict[str | None, _Part] = {}
        self._batches: dict[str | None, deque[asyncio.Future[None]]] = {}  # that wait, of whose turn is next first

    @property
    def size(self) -> int:
        """How much one client may have at once, now."""
        return WHOLE if len(self._clients) < 2 else BESIDE

    def beside(self, client: str | None) -> bool:
        """Whether another client wants something, or has within the last second."""
        if any(other != client for other in self._clients):
            return True
        others_at = self._others_at if client == self._latest else self._latest_at
        return asyncio.get_running_loop().time() < others_at + _BESIDE_S

    def note(self, client: str | None) -> None:
        """Hear that a client wants something, be it counted here or not."""
        if client != self._latest:
            self._latest, self._others_at = client, self._latest_at
        self._latest_at = asyncio.get_running_loop().time()

    def of(self, client: str | None, cost: int) -> "_Turn":
        """Wait for room in a client's share, and keep it until the block ends; more than all of it passes alone."""
        return _Turn(self, client, cost)

    async def take(self, client: str | None, cost: int) -> None:
        """Wait for room in a client's share, which is taken until it is given back."""
        self.note(client)
        share = self._clients.get(client)
        if share is None:
            share = self._clients[client] = _Part()
        if not share.row and (not share.taken or share.taken + cost <= self.size):
            share.taken += cost
            return
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        share.row.append((cost, room))
        try:
            await room
        except asyncio.CancelledError:
            # Who gives passes over what is cancelled; it stays in the row until then.
            if not room.cancelled():
                self.give(client, cost)
            raise

    def give(self, client: str | None, cost: int) -> None:
        """Give back what was taken; whoever of the client's comes next has it."""
        share = self._clients[client]
        share.taken -= cost
        while share.row and (not share.taken or share.taken + share.row[0][0] <= self.size):
            more, room = share.row.popleft()
            if not room.done():
                share.taken += more
                room.set_result(None)
        if not share.taken:
            del self._clients[client]

    async def paced(self, client: str | None, items: Iterable[T]) -> AsyncIterator[T]:
        """Iterate over a client's batch, and let others go on after every few items: sooner where there are others.

        Of all batches one goes on in each turn of the event loop, of each client's in turn: of one with hundreds, each
        other client waits for one step before each of its own.
        """
        loop = asyncio.get_running_loop()
        looked_at = 0
        for item in items:
            if looked_at >= _ITEMS or (looked_at >= _ITEMS_BESIDE and self.beside(client)):
                looked_at = 0
                if not self._batches:
                    loop.call_soon(self._next_batch)
                turn = loop.create_future()
                self._batches.setdefault(client, deque()).append(turn)
                await turn
            yield item
            looked_at += 1

    def _next_batch(self) -> None:
        """Let the batch go on that has waited for the longest, of the client that had its turn the longest ago."""
        while self._batches:
            client, row = next(iter(self._batches.items()))
            turn = row.popleft()
            gone = turn.done()  # whoever was cancelled has left its future in the row
            if not row:
                del self._batches[client]
            elif not gone:
                self._batches[client] = self._batches.pop(client)  # behind the others
            if not gone:
                turn.set_result(None)
                break
        if self._batches:
            asyncio.get_running_loop().call_soon(self._next_batch)


class _Turn:
    """A block of code that has its part of a client's share."""

    def __init__(self, shares: Shares, client: str | None, cost: int) -> None:
        self._shares = shares
        self._client = client
        self._cost = max(1, cost)  # what takes nothing is still there

    async def __aenter__(self) -> None:
        await self._shares.take(self._client, self._cost)

    async def __aexit__(self, *_: object) -> None:
        self._shares.give(self._client, self._cost)


class _Part:
    """One client's."""

    def __init__(self) -> None:
        self.taken = 0
        self.row: deque[tuple[int, asyncio.Future[None]]] = deque()
