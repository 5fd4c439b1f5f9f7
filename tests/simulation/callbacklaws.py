"""What one transaction may make of a callback: the laws of its states, its attempts and its body.

Each change is worked out anew, from what the world saw and what clients asked, and compared with what is stored.
"""

import json
from datetime import datetime
from typing import Any, NamedTuple

from gateway.core.model import AttemptResult, CallbackState, Format, TaskState
from tests.simulation.asks import Asks
from tests.simulation.ledger import TOLERANCE_MS, AttemptRow, CallbackRow, Ledger, TaskRow
from tests.simulation.world import Attempt, World

__all__ = ["ATTEMPT_S", "OUT_OF_TIME", "SCHEDULE_S", "CallbackLaws", "told_in"]

SCHEDULE_S = (1.0, 5.0, 60.0, 300.0)
ATTEMPT_S = 15.0
JITTER = 1.1
TYPES = {"success": "task.succeeded", "fail": "task.failed", "abandoned": "task.abandoned"}
CODES = {200: "success", 501: "fail", 408: "abandoned"}
REASONS = {
    "it did not end in time": "timeout",
    "what the upstream answers about it could not be read": "unreadable",
    "the upstream refuses to tell of it": "refused",
    "the upstream does not know it": "not_found",
}
"""Why a task was given up, as a record says it."""
OUT_OF_TIME = ("timeout", "unreadable", "refused")
"""The reasons of whoever was given up because its time had passed."""
TIMEOUT_GRACE_MS, QUEUE_GRACE_MS, RESTART_GRACE_MS = 30_000, 60_000, 600_000
"""How long a passed callback waits for an answer to its last poll, for that poll, and after a start in any case."""
ENDED = (CallbackState.DELIVERED, CallbackState.DEAD, CallbackState.CANCELLED)


class Expected(NamedTuple):
    """What a callback is to be; an instant as the bounds between which it lies, None where there is none."""

    state: str
    attempts: int
    used: int
    redeliveries: int
    next_attempt_at: tuple[float, float] | None
    delivered_at: int | None
    ended_at: tuple[float, float] | None
    last_error: str | None


class CallbackLaws:
    """The laws, over one run."""

    def __init__(self, world: World, ledger: Ledger, asks: Asks) -> None:
        self._world = world
        self._ledger = ledger
        self._asks = asks
        self.began_s = 0.0
        """When this life did, on the steady clock."""

    def created(self, row: CallbackRow) -> None:
        """Look at a callback that was not there before."""
        assert row.state in (CallbackState.WAITING, CallbackState.PENDING), row
        assert (row.attempts, row.used, row.redeliveries, row.delivered_at, row.ended_at) == (0, 0, 0, None, None), row
        assert row.expires_at == row.created_at + row.timeout_s * 1000, row
        if row.state == CallbackState.PENDING:
            assert row.next_attempt_at == row.created_at + SCHEDULE_S[0] * 1000, (row, "is not due at once")
            assert self._ledger.rows.tasks[row.task_id].state in (TaskState.SUCCESS, TaskState.FAIL), row
            self._body(row)

    def changed(self, before: CallbackRow, after: CallbackRow) -> None:
        """Compare what a transaction made of a callback with what it was to be."""
        fixed = ("id", "task_id", "created_at", "timeout_s", "expires_at")
        assert all(getattr(before, name) == getattr(after, name) for name in fixed), (before, after, "changed")
        assert before.body is None or after.body == before.body, (before, after, "its body changed")
        # Within one transaction the kinds of writes are applied in this order.
        expected = [self._settled(before, after)]
        made = self._ledger.new_attempts(after.id) if after.attempts != before.attempts else []
        assert len(made) <= 1, (after.id, made, "more attempts at once than it can have")
        for row in made:
            expected = self._recorded(expected[0], before, row)
        if after.state == CallbackState.CANCELLED and before.state != CallbackState.CANCELLED:
            expected = self._cancelled(expected, after)
        for _ in range(before.redeliveries, after.redeliveries):
            expected = self._redelivered(expected, after)
        assert any(self._meets(after, one) for one in expected), (before, made, after, expected)

    def _settled(self, before: CallbackRow, after: CallbackRow) -> Expected:
        as_it_was = Expected(
            before.state,
            before.attempts,
            before.used,
            before.redeliveries,
            None if before.next_attempt_at is None else (before.next_attempt_at, before.next_attempt_at),
            before.delivered_at,
            None if before.ended_at is None else (before.ended_at, before.ended_at),
            before.last_error,
        )
        if after.body is None or before.body is not None:
            return as_it_was
        assert before.state == CallbackState.WAITING, (before, after, "got a body")
        self._body(after)
        due_at = self._settled_at(after) + SCHEDULE_S[0] * 1000
        return as_it_was._replace(state=CallbackState.PENDING, next_attempt_at=(due_at, due_at))

    def _body(self, row: CallbackRow) -> None:
        """Look at a webhook's bytes, when they are fixed."""
        assert row.body is not None
        state, reason = told_in(row)
        if state == TaskState.ABANDONED:
            assert reason in (*OUT_OF_TIME, "not_found"), row
            if reason in OUT_OF_TIME:
                self._timed_out(row)
            return
        task = self._ledger.rows.tasks[row.task_id]
        assert (task.state, task.settled_at) == (state, self._settled_at(row)), (task, row)
        data = json.loads(row.body)["data"]
        if row.format == Format.RECORD:
            told = {name: value for name, value in data.items() if value is not None and name != "progress"}
            truth = self._world.told(row.task_id, state)
            assert {**told, "failCode": str(told.get("failCode"))} == {
                **{name: value for name, value in truth.items() if value is not None and name != "progress"},
                "failCode": str(truth.get("failCode")),
            }, (task, row, "tells another record than the upstream's")
            return
        assert task.outcome is not None
        told = {name: value for name, value in data.items() if name not in ("callbackId", "metadata")}
        assert json.loads(task.outcome) == told, (task, row, "tells another outcome than its task's")

    def _timed_out(self, row: CallbackRow) -> None:
        """Only "still running", said after its time, gives a callback up at once; an outage does not."""
        at = self._settled_at(row)
        assert row.expires_at <= at + TOLERANCE_MS, (row, at, "was given up before its time")
        assert self._ledger.within(at, self._ledger.now - 2_000, self._ledger.now), (row, at, "is not what it is now")
        started_at = at - (self._ledger.now_s - self.began_s) * 1000
        versions = [task for task in self._ledger.task_versions(row.task_id) if task.state == TaskState.WAITING]
        assert any(self._may_give_up(row, task, at, started_at) for task in versions), (row, versions, at, started_at)

    def _may_give_up(self, row: CallbackRow, task: TaskRow, at: int, started_at: float) -> bool:
        asked = task.last_polled_at is not None and task.last_polled_at >= row.expires_at
        if asked and task.failures == 0:
            return True
        grace_ms = TIMEOUT_GRACE_MS if asked else QUEUE_GRACE_MS
        if row.expires_at < started_at:
            grace_ms = RESTART_GRACE_MS
        return at >= max(row.expires_at, started_at) + grace_ms - TOLERANCE_MS

    def _recorded(self, due: Expected, before: CallbackRow, row: AttemptRow) -> list[Expected]:
        attempts = self._world.attempts[before.id]
        assert attempts, (before.id, row, "was made, and nobody saw it")
        attempt = attempts[-1]
        assert not attempt.recorded, (before.id, row, "was recorded twice")
        assert attempt.life == self._world.life, (before.id, row, "was made by an earlier life")
        assert attempt.ended_s is not None, (before.id, row, "was recorded before its end")
        assert not attempt.not_made, (before.id, row, "was not made")
        attempt.recorded = True
        assert row.number == before.attempts + 1, (before, row, "has another's number")
        assert abs(row.duration_ms - (attempt.ended_s - attempt.begun_s) * 1000) <= TOLERANCE_MS, (row, attempt)
        assert abs(row.started_at - attempt.begun_at) <= TOLERANCE_MS, (row, attempt)
        assert row.status_code == attempt.status, (row, attempt)
        assert (row.error is None) == (row.result == AttemptResult.DELIVERED), row
        counted = due._replace(attempts=row.number)
        expected: list[Expected] = []
        for redeliveries, used in sorted(attempt.claims):
            result, next_attempt_at = self._verdict(attempt, used)
            if row.result != result:
                continue
            fenced = due.state != CallbackState.PENDING or (
                redeliveries != due.redeliveries and result != AttemptResult.DELIVERED
            )
            expected.append(counted if fenced else self._moved(counted, row, next_attempt_at))
        assert expected, (row, attempt, "came to something else")
        return expected

    def _verdict(self, attempt: Attempt, used: int) -> tuple[str, tuple[float, float] | None]:
        """Return what an attempt comes to, and between which instants the next one is due."""
        assert attempt.ended_s is not None
        if attempt.cut_short(ATTEMPT_S - 0.001):
            return AttemptResult.INTERRUPTED, (attempt.ended_at, attempt.ended_at)
        if attempt.status is not None and 200 <= attempt.status < 300:
            return AttemptResult.DELIVERED, None
        if attempt.status == 410 or used + 1 >= len(SCHEDULE_S):
            return AttemptResult.DEAD, None
        low_s, high_s = SCHEDULE_S[used + 1], SCHEDULE_S[used + 1] * JITTER
        if attempt.retry_after_s is not None:
            low_s, high_s = max(low_s, attempt.retry_after_s), max(high_s, attempt.retry_after_s)
        # On the steady clock, so that a wall clock which is set between the end and the record changes nothing.
        slewed_ms = self._world.slewed_ms(attempt.ended_s)
        ended_at = self._ledger.now - (self._ledger.now_s - attempt.ended_s) * 1000
        return AttemptResult.RETRY, (ended_at + low_s * 1000 - slewed_ms, ended_at + high_s * 1000 + slewed_ms)

    @staticmethod
    def _moved(due: Expected, row: AttemptRow, next_attempt_at: tuple[float, float] | None) -> Expected:
        ended_at = row.started_at + row.duration_ms
        state = {"delivered": CallbackState.DELIVERED, "dead": CallbackState.DEAD}.get(
            row.result, CallbackState.PENDING
        )
        return due._replace(
            state=state,
            used=due.used + (row.result != AttemptResult.INTERRUPTED),
            next_attempt_at=next_attempt_at,
            delivered_at=ended_at if state == CallbackState.DELIVERED else None,
            ended_at=(ended_at, ended_at) if state in ENDED else None,
            last_error=row.error,
        )

    def _cancelled(self, expected: list[Expected], after: CallbackRow) -> list[Expected]:
        found = [one for one in expected if one.state in (CallbackState.WAITING, CallbackState.PENDING)]
        assert found, (after, expected, "was cancelled after its end")
        ask = self._asks.take(after, cancel=True)
        assert ask is not None, (after, "was cancelled, and nobody asked for it")
        at = (ask.now, ask.now)
        return [one._replace(state=CallbackState.CANCELLED, next_attempt_at=None, ended_at=at) for one in found]

    def _redelivered(self, expected: list[Expected], after: CallbackRow) -> list[Expected]:
        movable = (CallbackState.PENDING, CallbackState.DELIVERED, CallbackState.DEAD)
        found = [one for one in expected if one.state in movable]
        assert found, (after, expected, "was redelivered, and is not owed")
        ended = found[0].ended_at
        as_found = after._replace(state=found[0].state, ended_at=None if ended is None else round(ended[0]))
        ask = self._asks.take(as_found, cancel=False)
        assert ask is not None, (after, "was redelivered, and nobody asked for it")
        return [
            one._replace(
                state=CallbackState.PENDING,
                used=0,
                redeliveries=one.redeliveries + 1,
                next_attempt_at=(ask.now, ask.now),
                delivered_at=None,
                ended_at=None,
            )
            for one in found
        ]

    def _meets(self, after: CallbackRow, expected: Expected) -> bool:
        same = (after.state, after.attempts, after.used, after.redeliveries, after.last_error)
        if same != (expected.state, expected.attempts, expected.used, expected.redeliveries, expected.last_error):
            return False
        if after.delivered_at != expected.delivered_at or not self._lies_in(after.ended_at, expected.ended_at):
            return False
        return self._lies_in(after.next_attempt_at, expected.next_attempt_at)

    def _lies_in(self, at: int | None, bounds: tuple[float, float] | None) -> bool:
        return at is None and bounds is None if at is None or bounds is None else self._ledger.within(at, *bounds)

    def _settled_at(self, row: CallbackRow) -> float:
        """Return when its task ended, as its webhook says; a record leaves that to what else is known."""
        assert row.body is not None
        if row.format != Format.RECORD:
            return round(datetime.fromisoformat(json.loads(row.body)["timestamp"]).timestamp() * 1000)
        task = self._ledger.rows.tasks[row.task_id]
        if told_in(row)[0] != TaskState.ABANDONED:
            assert task.settled_at is not None
            return task.settled_at
        # It was made due by that, unless it was cancelled in the same moment.
        return self._ledger.now if row.next_attempt_at is None else row.next_attempt_at - SCHEDULE_S[0] * 1000


def told_in(row: CallbackRow) -> tuple[str, str | None]:
    """Return the state that a webhook tells of, and why the task was given up; its shape is looked at."""
    assert row.body is not None
    said = json.loads(row.body)
    data: dict[str, Any] = said["data"]
    assert data["taskId"] == row.task_id, said
    if row.format == Format.RECORD:
        assert list(said) == ["code", "msg", "data"], said
        state = CODES[said["code"]]
        if state != TaskState.ABANDONED:
            assert data["state"] == state, said
            return state, None
        assert (data["state"], data["failCode"]) == ("fail", "408"), said
        return state, REASONS[data["failMsg"].partition(": ")[2].rstrip(".")]
    assert (data["callbackId"], data["metadata"]) == (row.id, {}), said
    assert said["type"] == TYPES[data["state"]], said
    return data["state"], data.get("reason")
