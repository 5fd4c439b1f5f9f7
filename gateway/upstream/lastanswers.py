"""What an upstream last told of tasks, where the store keeps no record of it, in a bounded part of the memory.

Owns how much is kept, and for how long: of running tasks, so that the first read of one that only callbacks watch has
all that the upstream tells, and of ended ones that nobody watches, so that reading them again costs nothing. Those that
are read are put in too: else, with their readers gone, what was told before would come up again. The poller and the
proxy put in; the proxy takes out. All of it may be forgotten: then the upstream is asked.

Owns, too, which of two answers is the newer: a poll and a client's read may be under way at once, and the one that was
asked first may come last. Only what was asked after the last one had come is newer for sure, and nothing is after an
end. Whoever is told that an answer is not newer shows it to nobody.
"""

from collections import OrderedDict
from math import inf
from typing import NamedTuple

from gateway.core.clock import Clock

MOST_BYTES = 4 * 1024 * 1024
_OVERHEAD = 300  # bytes of an entry beside its record and its id, or so
_ENDED_S = 600.0
"""For so long what was told of an ended task is good: URLs in it may be signed for a while only."""


class _Told(NamedTuple):
    record: bytes | None
    """None: there was too much of it."""
    at: float
    """When it was told, by the steady clock."""
    ended: bool
    size: int
    """How many bytes it takes, or so."""


class LastAnswers:
    """The records of one upstream's tasks, those that were told of the longest ago given up first."""

    def __init__(self, clock: Clock, most_bytes: int = MOST_BYTES) -> None:
        self._clock = clock
        self._most_bytes = most_bytes
        self._told: OrderedDict[str, _Told] = OrderedDict()
        self.size = 0
        """How many bytes it takes, or so."""

    def keep(self, task_id: str, record: bytes | None, asked_at: float, *, ended: bool = False) -> bool:
        """Keep what has just been told of a task in the place of what was before, and return True; False: it is older.

        ``asked_at``: when it was asked for, by the steady clock. Nothing told (None) takes nothing away.
        """
        if record is None:
            return True
        known = self._known(task_id)
        if known is not None and not ended and (known.ended or asked_at < known.at):
            return False
        if known is not None:
            self.forget(task_id)
        size = len(task_id) + len(record) + _OVERHEAD
        if size > self._most_bytes:
            record, size = None, len(task_id) + _OVERHEAD
        self._told[task_id] = _Told(record, self._clock.monotonic(), ended, size)
        self.size += size
        while self.size > self._most_bytes:
            self.forget(next(iter(self._told)))
        return True

    def running(self, task_id: str, since: float = -inf) -> bytes | None:
        """Return what was told of a task while it ran; ``since``: not before then, by the steady clock."""
        told = self._told.get(task_id)
        return None if told is None or told.ended or told.at < since else told.record

    def ended(self, task_id: str) -> bytes | None:
        """Return what was told of a task's end, where that is not long ago."""
        told = self._known(task_id)
        return told.record if told is not None and told.ended else None

    def forget_running(self, task_id: str) -> None:
        """Forget what was told of a task while it ran: the store has its end, and it may begin anew there."""
        told = self._told.get(task_id)
        if told is not None and not told.ended:
            self.forget(task_id)

    def forget(self, task_id: str) -> None:
        told = self._told.pop(task_id, None)
        if told is not None:
            self.size -= told.size

    def _known(self, task_id: str) -> _Told | None:
        told = self._told.get(task_id)
        if told is not None and told.ended and self._clock.monotonic() > told.at + _ENDED_S:
            self.forget(task_id)
            return None
        return told
