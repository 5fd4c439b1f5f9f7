"""When each lane's next webhook falls due: what need not be asked of the database for every one of 100,000 receivers.

Owns the times, in memory; whose turn it is is for the caller to say. Called by ``outbox.py``, which fills it from the
rows at the start and notes whatever changes them.
"""

import heapq

from gateway.core.claims import Lane
from gateway.store.rows import FOREVER

_OUT_OF_DATE = 64  # entries that a heap may have beside as many as are in date


class LanesDue:
    """When each lane's first unclaimed webhook falls due, or earlier than that; of the lanes that nobody has taken."""

    def __init__(self) -> None:
        self._at: dict[Lane, int] = {}
        self._heap: list[tuple[int, Lane]] = []  # with entries that are out of date
        self._taken: dict[Lane, int] = {}  # since when the first one is due of those that were taken

    def note(self, lane: Lane, due_at: int) -> None:
        """Hear of a webhook that falls due then."""
        known = self._at.get(lane)
        if known is None or due_at < known:
            self._at[lane] = due_at
            heapq.heappush(self._heap, (due_at, lane))
            if len(self._heap) > 2 * len(self._at) + _OUT_OF_DATE:
                self.move(0)

    def take(self, now: int) -> list[Lane]:
        """Return the lanes of which one is due, the longest due first; what else they have must be noted anew."""
        lanes: list[Lane] = []
        while (due_at := self.next_due_at) is not None and due_at <= now:
            lane = heapq.heappop(self._heap)[1]
            del self._at[lane]
            self._taken[lane] = min(due_at, self._taken.get(lane, due_at))
            lanes.append(lane)
        return lanes

    def since(self, lane: Lane) -> int:
        """Return before when no unclaimed webhook is due of a lane that was taken; it is asked for once."""
        return min(self._taken.pop(lane, 0), self._at.get(lane, FOREVER))

    def knows(self, lane: Lane) -> bool:
        """Whether a webhook of a lane has been noted since it was taken."""
        return lane in self._at

    @property
    def next_due_at(self) -> int | None:
        """When the first one falls due."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def move(self, step_ms: int) -> None:
        """Let all of them fall due so much later."""
        self._at = {lane: at + step_ms for lane, at in self._at.items()}
        self._heap = [(at, lane) for lane, at in self._at.items()]
        heapq.heapify(self._heap)
