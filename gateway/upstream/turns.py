"""Whose turn it is: clients that want more than there is take turns, so that one with thousands holds up nobody.

Owns the order and the counts; sends nothing and knows no limit of the upstream. ``Rotation`` is asked by ``pollshares``
for the polls that are due, ``ClientTurns`` by the budget for requests that clients wait for.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable

MOST_UNDER_WAY = 64
"""Requests of clients that one of a key's budgets has under way at once."""
_MOST_WAITING = 1024
_REMEMBERED = 1000  # names; of more, the longest unserved are forgotten


class Rotation:
    """Round robin among names: whoever had a turn the longest ago is next, and whoever had none before that."""

    def __init__(self) -> None:
        self._served: dict[str, None] = {}  # the longest ago first

    def order(self, names: Iterable[str]) -> list[str]:
        """Return the names in the order of their turns."""
        names = list(names)
        wanted = set(names)
        return [*(name for name in names if name not in self._served), *(n for n in self._served if n in wanted)]

    def served(self, name: str) -> None:
        """Note that this one has had its turn."""
        self._served.pop(name, None)
        self._served[name] = None
        if len(self._served) > _REMEMBERED:
            del self._served[next(iter(self._served))]


class Waiter:
    """A request that waits for its turn, for one client or, where several want the same, for each of them."""

    def __init__(self, client: str) -> None:
        self.client = client
        """Whose turn it waits for; then whose turn it was."""
        self.others: set[str] = set()
        self.turn: asyncio.Future[None] | None = None
        """None where it does not wait."""


class ClientTurns:
    """One client after the other waits for the next request's place; what is under way is shared out among them.

    A client may have as many under way as are free beside them (as in ``bulkhead``): one alone has half of all, and
    however many of others hang, whoever has none finds a place. Of those that wait it is the same.
    """

    def __init__(self, most_waiting: int = _MOST_WAITING) -> None:
        self._most_waiting = most_waiting
        self._rotation = Rotation()
        self._queues: dict[str, deque[Waiter]] = {}
        self._under_way: Counter[str] = Counter()
        self._count = 0  # of those under way
        self._taken = False
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many wait that may go: none where all places of those who wait are taken."""
        return self._waiting if self._taken else 0

    def room(self, client: str) -> bool:
        """Whether one more of this client's may wait."""
        return len(self._queues.get(client, ())) < self._most_waiting - self._waiting

    def free(self, client: str) -> bool:
        """Whether it would be this client's turn at once."""
        return not self._taken and self._may_go(client)

    async def begin(self, waiter: Waiter) -> None:
        """Return when it is the turn of the waiter's client: it is nobody else's until ``end``."""
        self._waiting += 1
        if not self._taken and self._may_go(waiter.client):
            self._taken = True
            return
        waiter.turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(waiter.client, deque()).append(waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.cancelled():
                self._leave(waiter)
                self._waiting -= 1
            else:
                self.end(waiter, took=False)
            raise

    def join(self, waiter: Waiter, client: str) -> None:
        """Let another client wait for the same request: whoever's turn comes first has it made."""
        if waiter.turn is None or waiter.turn.done() or client == waiter.client or client in waiter.others:
            return
        waiter.others.add(client)
        self._queues.setdefault(client, deque()).append(waiter)
        self._next()

    def end(self, waiter: Waiter, *, took: bool) -> None:
        """End a turn; ``took``: with a request, which is under way until ``ended``."""
        self._waiting -= 1
        self._taken = False
        if took:
            self._rotation.served(waiter.client)
            self._under_way[waiter.client] += 1
            self._count += 1
        self._next()

    def ended(self, waiter: Waiter) -> None:
        """Say that a request has come to its end."""
        self._count -= 1
        self._under_way[waiter.client] -= 1
        if not self._under_way[waiter.client]:
            del self._under_way[waiter.client]
        self._next()

    def _may_go(self, client: str) -> bool:
        return self._under_way.get(client, 0) < MOST_UNDER_WAY - self._count

    def _next(self) -> None:
        if self._taken:
            return
        for client in filter(self._may_go, self._rotation.order(self._queues)):
            for waiter in self._queues[client]:
                # One that was cancelled stands here until its own asyncio task has run.
                if waiter.turn is not None and not waiter.turn.done():
                    self._taken = True
                    self._leave(waiter)
                    waiter.client = client
                    waiter.turn.set_result(None)
                    return

    def _leave(self, waiter: Waiter) -> None:
        for client in (waiter.client, *waiter.others):
            queue = self._queues[client]
            queue.remove(waiter)
            if not queue:
                del self._queues[client]
