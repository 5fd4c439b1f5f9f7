"""What must hold with several replicas, beside what holds with one: repetitions have a fault as their reason.

Owns which repetitions each fault explains. A live database is judged at one moment, what arrived only at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.crash.checker import Checker
from tests.crash.sharedsides import SharedSides
from tests.crash.sides import Arrival
from tests.crash.snapshot import Snapshot

__all__ = ["Fault", "SharedChecker"]

_RECORD_S = 2.0
"""So long after its answer an attempt is recorded, on a busy machine."""


@dataclass
class Fault:
    """What was done to one replica, and what it had then; in seconds of the monotonic clock."""

    kind: str
    replica: str
    at: float
    until: float
    """When it could write again; of a killed one, when it was killed."""
    led: Sequence[str] = ()
    claimed: Sequence[tuple[int, int]] = ()
    """Rows' numbers and fences of the webhooks that it had claimed."""
    wall_at: float = 0.0
    polls_taken_s: dict[str, float] = field(default_factory=dict)

    def explains(self, arrival: Arrival) -> bool:
        """Whether an attempt was in flight, so that its record may be missing."""
        ended_at = arrival.at if arrival.ended_at is None else arrival.ended_at
        return (
            arrival.sender == self.replica and ended_at >= self.at - _RECORD_S and arrival.at <= self.until + _RECORD_S
        )


class SharedChecker(Checker):
    """Judges a database that several processes write."""

    def __init__(self, sides: SharedSides) -> None:
        super().__init__(sides)
        self.faults: list[Fault] = []
        self.repeated = 0
        """Attempts that arrived and are not recorded."""

    def judge_at_the_end(self, now: Snapshot) -> None:
        """Judge all that was promised, once nothing is owed any more."""
        self.judge(now, self.promised)
        for webhook_id in self._sides.arrivals.keys() - now.callbacks.keys():
            self.corrupted.append(f"{webhook_id} was sent and is not in the database")
        for callback_id in now.callbacks:
            self._check_attempts(callback_id, now)
        self.at_the_end()

    def _check_attempts(self, callback_id: str, now: Snapshot) -> None:
        arrivals = self._sides.arrivals.get(callback_id, [])
        recorded = now.attempts.get(callback_id, [])
        if any(arrival.digest != now.bodies.get(callback_id) for arrival in arrivals):
            self.corrupted.append(f"{callback_id} arrived with other bytes than are in the database")
        explained = [arrival for arrival in arrivals if any(fault.explains(arrival) for fault in self.faults)]
        missing = len(arrivals) - sum(row["result"] != "interrupted" for row in recorded)
        self.repeated += max(0, missing)
        if missing > len(explained):
            when = [(f"{arrival.at:.2f}", arrival.sender, arrival.status) for arrival in arrivals]
            self.corrupted.append(
                f"{callback_id} arrived {len(arrivals)} times, {len(recorded)} are recorded, and no fault has cut "
                f"that off: {when}"
            )
        said = iter([arrival.status for arrival in arrivals])
        answered = [row["status_code"] for row in recorded if row["status_code"] is not None]
        if not all(status in said for status in answered):
            self.corrupted.append(f"{callback_id} recorded {answered}, answered was {[a.status for a in arrivals]}")
        cut = [row["result"] for row in recorded if row["status_code"] is None and row["result"] != "interrupted"]
        if len(cut) > len(explained):
            self.corrupted.append(f"{callback_id} has {cut} without an answer: these receivers always give one")
