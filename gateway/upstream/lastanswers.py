"""What an upstream last told of tasks, where the store keeps no record of it, in a bounded part of the memory.

Owns how much is kept, and for how long: of running tasks, so that the first read of one that only callbacks watch has
all that the upstream tells, and of ended ones that nobody watches, so that reading them again costs nothing. Those that
are read are put in too: else, with their readers gone, what was told before would come up again. The poller and the
proxy put in; the proxy takes out. All of it may be forgotten: then the upstream is asked.
"""

from collections import OrderedDict
from typing import NamedTuple

from gateway.core.clock import Clock

__all__ = ["MOST_BYTES", "LastAnswers"]

MOST_BYTES = 4 * 1024 * 1024
_OVERHEAD = 300  # bytes of an entry beside its record and its id, or so
_ENDED_S = 600.0
"""For so long what was told of an ended task is good: URLs in it may be signed for a while only."""


class _Told(NamedTuple):
    record: bytes
    ended_at: float | None
    """When the end was told, by the steady clock; None: the task ran."""


class LastAnswers:
    """The records of one upstream's tasks, those that were told of the longest ago given up first."""

    def __init__(self, clock: Clock, most_bytes: int = MOST_BYTES) -> None:
        self._clock = clock
        self._most_bytes = most_bytes
        self._told: OrderedDict[str, _Told] = OrderedDict()
        self.size = 0
        """How many bytes it takes, or so."""

    def keep(self, task_id: str, record: bytes | None, *, ended: bool = False) -> None:
        """Keep what was told of a task in the place of what was before; None, or too much of it: that stays."""
        if record is None or _size(task_id, record) > self._most_bytes:
            return
        self.forget(task_id)
        self._told[task_id] = _Told(record, self._clock.monotonic() if ended else None)
        self.size += _size(task_id, record)
        while self.size > self._most_bytes:
            self.forget(next(iter(self._told)))

    def running(self, task_id: str) -> bytes | None:
        """Return what was told of a task while it ran."""
        told = self._told.get(task_id)
        return None if told is None or told.ended_at is not None else told.record

    def ended(self, task_id: str) -> bytes | None:
        """Return what was told of a task's end, where that is not long ago."""
        told = self._told.get(task_id)
        if told is None or told.ended_at is None:
            return None
        if self._clock.monotonic() > told.ended_at + _ENDED_S:
            self.forget(task_id)
            return None
        return told.record

    def forget(self, task_id: str) -> None:
        told = self._told.pop(task_id, None)
        if told is not None:
            self.size -= _size(task_id, told.record)


def _size(task_id: str, record: bytes) -> int:
    return len(task_id) + len(record) + _OVERHEAD
