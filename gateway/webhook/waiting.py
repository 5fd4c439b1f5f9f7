"""The lanes that wait, and whose turn it is: a crowd delays neither who came before it nor who comes after it.

Owns the order; pure. Must not know what is waited for, nor how much of it there is. Called by ``bulkhead``.

Clients come by turns the first and the last of those who are left. Of a client's lanes one that holds no place is next:
by turns the one that came last, the one that has waited for the longest, and one whose last attempt failed, so that a
crowd is not taken for somebody new however often it comes again.
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain

from gateway.core.claims import Lane


class Waiting:
    """Lanes that wait, by client."""

    def __init__(self) -> None:
        self.count = 0
        self._lines: OrderedDict[str, _Line] = OrderedDict()

    def clients(self, *, last_first: bool) -> list[str]:
        """Return those who have a lane here, by turns the first and the last of those who are left.

        With the last first, those who have none but failing lanes come behind the others.
        """
        if not last_first:
            return _from_both_ends(list(self._lines))
        fresh: list[str] = []
        failing: list[str] = []
        for client, line in reversed(self._lines.items()):
            (failing if line.only_fails else fresh).append(client)
        return _from_both_ends(fresh) + failing

    def __iter__(self) -> Iterator[Lane]:
        """Yield every lane."""
        return chain.from_iterable(line.lanes for line in self._lines.values())

    def count_of(self, client: str) -> int:
        return len(self._lines[client]) if client in self._lines else 0

    def add(self, lane: Lane, *, holds: bool = False, fails: bool = False) -> None:
        line = self._lines.get(lane.client)
        if line is None:
            line = self._lines[lane.client] = _Line()
        self.count += line.add(lane, holds=holds, fails=fails)

    def pop(self, client: str) -> Lane | None:
        """Take out the client's next one."""
        if client not in self._lines:
            return None
        lane = self._lines[client].next()
        self.remove(lane)
        return lane

    def remove(self, lane: Lane) -> bool:
        """Take a lane out, where it is here; return whether it was."""
        line = self._lines.get(lane.client)
        if line is None or not line.remove(lane):
            return False
        self.count -= 1
        if not line:
            del self._lines[lane.client]
        return True


class _Line:
    """A client's lanes that wait: those that hold a place behind those that hold none, and that fail apart."""

    def __init__(self) -> None:
        self._fresh: OrderedDict[Lane, None] = OrderedDict()
        self._failing: OrderedDict[Lane, None] = OrderedDict()
        self._holding: OrderedDict[Lane, None] = OrderedDict()
        self._turn = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._failing) + len(self._holding)

    @property
    def lanes(self) -> list[Lane]:
        return [*self._fresh, *self._failing, *self._holding]

    @property
    def only_fails(self) -> bool:
        return not self._fresh

    def add(self, lane: Lane, *, holds: bool, fails: bool) -> bool:
        """Let a lane wait, where it does not yet; return whether that is new."""
        if lane in self._fresh or lane in self._failing or lane in self._holding:
            return False
        (self._holding if holds else self._failing if fails else self._fresh)[lane] = None
        return True

    def next(self) -> Lane:
        """Return by turns the last, the first, the last, and the first of those that fail."""
        self._turn = (self._turn + 1) % 4
        if self._failing and (self._turn == 0 or not self._fresh):
            return next(iter(self._failing))
        if self._fresh:
            return next(reversed(self._fresh) if self._turn % 2 else iter(self._fresh))
        return next(iter(self._holding))

    def remove(self, lane: Lane) -> bool:
        for lanes in (self._fresh, self._failing, self._holding):
            if lane in lanes:
                del lanes[lane]
                return True
        return False


def _from_both_ends(clients: list[str]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(zip(clients, reversed(clients), strict=True))))
