"""What the simulated upstream counts. Pure: the time is passed in. Called by ``gateway.simulator.app``."""

from collections import Counter, deque
from typing import Any

from gateway.simulator.scenario import drop_oldest

POLLS_KEPT = 10_000
"""Of so many task ids, the newest, polls are counted."""


class PeakRate:
    """The most requests within any one second, exactly: a sliding second, not the clock's."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self.peak = 0

    def count(self, now_s: float) -> None:
        """Count a request at ``now_s`` (monotonic seconds)."""
        recent = self._recent
        recent.append(now_s)
        while recent[0] <= now_s - 1:
            recent.popleft()
        self.peak = max(self.peak, len(recent))


class Stats:
    """Counts since the start; control requests are left out."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        """By endpoint: recordInfo and createTask, for other APIs their reads and creates; other. Counted on arrival,
        refused ones included."""
        self.statuses: Counter[int] = Counter()
        """By HTTP status of complete answers; a hang or a reset has none."""
        self.faults: Counter[str] = Counter()
        self.polls: dict[str, int] = {}
        """Reads by task id, known to the simulator or not."""
        self.connections_open = 0
        self.connections_opened = 0
        self._rates = {"recordInfo": PeakRate(), "createTask": PeakRate(), "other": PeakRate()}

    def count_request(self, endpoint: str, now_s: float) -> None:
        self.requests[endpoint] += 1
        self._rates[endpoint].count(now_s)

    def count_poll(self, task_id: str) -> None:
        if task_id not in self.polls:
            drop_oldest(self.polls, POLLS_KEPT)
        self.polls[task_id] = self.polls.get(task_id, 0) + 1

    def as_json(self) -> dict[str, Any]:
        """Return everything as the control route shows it."""
        return {
            "requests": self.requests,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "faults": self.faults,
            "peakPerSecond": {endpoint: rate.peak for endpoint, rate in self._rates.items()},
            "polls": self.polls,
            "connections": {"open": self.connections_open, "opened": self.connections_opened},
        }
