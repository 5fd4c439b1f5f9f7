"""The places of newcomers, few of which may be filled at a time, and which attempts began something a moment ago.

Owns these counts; pure: the time is handed in. Called by ``bulkhead``, whose docstring has the rules.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

from gateway.core.claims import Lane

T = TypeVar("T")
Claim = tuple[int, int]
Whose = Lane | str | None
"""A lane, a client, or all of them."""

_CLIENT_FACTOR = 3
_TURNOVER = 8


class Newcomers:
    """The places of newcomers: how many of them all, a client's and a lane's hold, and how many of these are young."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: Counter[Whose] = Counter()
        self._young: Counter[Whose] = Counter()

    @property
    def room(self) -> int:
        """How many more may begin now."""
        return _slowly(self._limit - self._held[None], self._young[None], self._held[None])

    def room_of_client(self, client: str) -> int:
        young = self._young[client]
        return min(_slowly(self._left(client), young, self._held[client]), half(self.room, young))

    def room_of_lane(self, lane: Lane) -> int:
        its = half(self._left(lane.client), self._held[lane])
        return min(its, half(self.room_of_client(lane.client), self._young[lane]))

    def _left(self, client: str) -> int:
        return most(self._limit - self._held[None], self._held[client])

    def grow(self, lane: Lane, change: int) -> None:
        """Hear that one more of a lane's attempts is young, or one less."""
        for whose in (None, lane.client, lane):
            counted(self._young, whose, change)

    def hold(self, lane: Lane, change: int) -> None:
        """Hear that a lane holds one more place, or one less."""
        for whose in (None, lane.client, lane):
            counted(self._held, whose, change)


class Lately:
    """Attempts of which something began less than ``for_s`` seconds ago."""

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._since: dict[Claim, float] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._since)

    def add(self, claim: Claim, now_s: float) -> None:
        """Hear that it begins now."""
        self._since[claim] = now_s

    def remove(self, claim: Claim) -> bool:
        """Hear that it is over; return whether it was lately that it began."""
        return self._since.pop(claim, None) is not None

    def next_s(self, now_s: float) -> float | None:
        """Return in how many seconds the first of them will have begun that long ago."""
        since = next(iter(self._since.values()), None)
        return None if since is None else max(0.0, since + self._for_s - now_s)

    def left(self, now_s: float) -> Iterator[Claim]:
        """Yield those that began that long ago by now, and know no more of them."""
        while (next_s := self.next_s(now_s)) is not None and next_s <= 0:
            claim = next(iter(self._since))
            del self._since[claim]
            yield claim


def half(free: int, held: int) -> int:
    """Return how many places one may take that holds so many: each is one less that is free."""
    return (free - held + 1) // 2


def most(free: int, held: int) -> int:
    """Return the same for a client, which may hold three times as many as are left."""
    return (_CLIENT_FACTOR * free - held + _CLIENT_FACTOR) // (_CLIENT_FACTOR + 1)


def _slowly(free: int, young: int, held: int) -> int:
    """Return how many more may begin now, so that not all places that are free are filled at once."""
    few_are_slow = (held - young) * _TURNOVER < free
    part = _TURNOVER // 2 if few_are_slow else _TURNOVER
    return min(free, max(1, (free + young) // part) - young)


def counted(counter: Counter[T], key: T, change: int) -> None:
    """Add to a count; one that is none is not kept."""
    if count := counter.get(key, 0) + change:
        counter[key] = count
    else:
        del counter[key]
