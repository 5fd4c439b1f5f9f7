"""Lines of the log that an outage would repeat with each request, poll and attempt: said once, then once a minute.

Owns which these are, and how many were left out. A processor of structlog's, for all who log; set up by ``telemetry``.
"""

from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

_REPEATED = frozenset(
    (
        "attempt.not_made",
        "attempt.not_recorded",
        "loop.store_failed",
        "poll.not_stored",
        "request.store_failed",
        "store.locked",
        "store.waiting",
        "telemetry.not_exported",
    )
)
_ENDS = frozenset(("store.file_back", "store.recovered"))
_EVERY_S = 60.0


class Repeats:
    """Leaves lines out."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._said: dict[tuple[str, Any], tuple[float, int]] = {}  # when, and how many were left out since

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Return a line that is to be said, with how many it stands for. Raises DropEvent: it is left out."""
        name = event["event"]
        if name in _ENDS:
            return self._end(event)
        if name not in _REPEATED:
            return event
        now = self._monotonic()
        key = name, event.get("loop")
        said_at, left_out = self._said.get(key, (None, 0))
        if said_at is not None and now - said_at < _EVERY_S:
            self._said[key] = said_at, left_out + 1
            raise structlog.DropEvent
        self._said[key] = now, 0
        if left_out:
            event["times"] = left_out + 1
        return event

    def _end(self, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        counts: dict[str, int] = {}
        for (name, _), (_, left_out) in self._said.items():
            if left_out:
                counts[name] = counts.get(name, 0) + left_out
        self._said.clear()
        if counts:
            event["left_out"] = counts
        return event
