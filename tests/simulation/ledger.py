"""What stands in the database after each transaction, what stood there a moment ago, and by which clock it counts.

Owns the reading of rows and their time base; knows no law but that all that is to come follows a clock that was set.
"""

import sqlite3
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.core.clock import Clock
from gateway.core.model import CallbackState, TaskState
from gateway.store.rows import body
from gateway.store.sqlite import sql
from gateway.webhook.body import webhook_body
from tests.simulation.telling import progress_of

__all__ = ["AttemptRow", "CallbackRow", "Ledger", "Rows", "TaskRow"]

TOLERANCE_MS = 4
"""Instants are rounded to milliseconds, here and there."""
STEP_MS = 60_000
"""More at once is a step, which all that is to come follows; less is taken as it comes."""
FOLLOWED_S = 2.0
"""A step that the clock shows has reached the rows within so long."""
MOMENT_S = 2.0
"""For so long it is remembered what stood there before: what was read may be acted on a little later."""


class CallbackRow(NamedTuple):
    id: str
    task_id: str
    state: str
    body: bytes | None
    format: str
    attempts: int
    used: int
    redeliveries: int
    next_attempt_at: int | None
    created_at: int
    timeout_s: int
    expires_at: int
    delivered_at: int | None
    ended_at: int | None
    last_error: str | None
    client: str


class TaskRow(NamedTuple):
    task_id: str
    state: str
    created_at: int
    polls: int
    failures: int
    last_polled_at: int | None
    next_poll_at: int | None
    last_error: str | None
    settled_at: int | None
    outcome: bytes | None


class AttemptRow(NamedTuple):
    number: int
    started_at: int
    duration_ms: int
    status_code: int | None
    error: str | None
    result: str


CALLBACKS = """
SELECT c.id, t.task_id, c.state,
    iif(length(c.body) = 0 AND c.format = 'record' AND length(t.record) > 0, t.record, c.body),
    iif(length(c.body) = 0 AND NOT (c.format = 'record' AND length(t.record) > 0), t.outcome, NULL),
    t.state, t.settled_at, c.metadata, c.format, c.attempts, c.budget_used, c.redeliveries, c.next_attempt_at,
    c.created_at, c.timeout_s, c.expires_at, c.delivered_at, c.ended_at, c.last_error,
    c.client
FROM callbacks AS c JOIN tasks AS t ON t.seq = c.task_seq
"""
TASKS = """
SELECT task_id, state, created_at, polls, failures, last_polled_at, next_poll_at, last_error, settled_at, outcome
FROM tasks
"""
RECORDS = "SELECT task_id, record FROM tasks WHERE state = 'waiting' AND length(record) > 0"
MOVES = sql.MOVE_TASKS.partition(":step")[0].strip()
"""How what follows the clock begins, whether or not there is a row to move."""
ATTEMPTS = """
SELECT number, started_at, duration_ms, status_code, error, result
FROM attempts JOIN callbacks ON seq = callback_seq WHERE id = ? AND number > ? ORDER BY number
"""


@dataclass
class Rows:
    """All callbacks and tasks, by their ids."""

    callbacks: dict[str, CallbackRow] = field(default_factory=dict)
    tasks: dict[str, TaskRow] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    """Of running tasks, when the upstream said what is kept for their readers."""

    def waiting(self, task_id: str) -> list[CallbackRow]:
        """Return the callbacks that wait for this task."""
        return [c for c in self.callbacks.values() if c.task_id == task_id and c.state == CallbackState.WAITING]

    def to_come(self) -> list[tuple[str, int]]:
        """Return what is still to happen, and when."""
        times = [(f"{c.id} expires", c.expires_at) for c in self.callbacks.values() if c.state == CallbackState.WAITING]
        for row in (*self.callbacks.values(), *self.tasks.values()):
            at = row.next_attempt_at if isinstance(row, CallbackRow) else row.next_poll_at
            if at is not None:
                times.append((f"{row[0]} is due", at))
        return times


class Ledger:
    """The rows of one run, across its lives."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.before = Rows()
        """What stood there before the last transaction."""
        self.attempts: defaultdict[str, list[AttemptRow]] = defaultdict(list)
        """Of each callback, as they were when they came."""
        self.lag_ms = 0
        """By how much the gateway's clock was set while the rows have not followed."""
        self._db: sqlite3.Connection | None = None
        self._clock: Clock | None = None
        self._changes = -1
        self._moves = False
        self._ahead_ms = 0
        self._lags_since_s = 0.0
        self._slewed: deque[tuple[float, int]] = deque()
        self._to_follow: list[tuple[str, int]] = []
        self._past: deque[tuple[float, CallbackRow | TaskRow]] = deque()

    def watch(self, db: sqlite3.Connection, clock: Clock) -> None:
        """Read this connection, and this clock, from now on."""
        self._db, self._clock, self._changes, self._moves = db, clock, -1, False
        db.set_trace_callback(self._heard)
        self._ahead_ms, self.lag_ms = self._shows_ahead_ms(), 0
        self._past.clear()

    def close(self) -> None:
        self._db = None

    @property
    def db(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    @property
    def now_s(self) -> float:
        """The steady clock."""
        assert self._clock is not None
        return self._clock.monotonic()

    @property
    def now(self) -> int:
        """The gateway's own wall clock."""
        assert self._clock is not None
        return self._clock.now()

    def read(self) -> bool:
        """Read what the last transaction left; return whether it changed anything, or followed the clock."""
        if self._db is None or (self._db.total_changes == self._changes and not self._moves):
            return False
        self._changes = self._db.total_changes
        self.before, self.rows = self.rows, self._read()
        return True

    def _heard(self, statement: str) -> None:
        if statement.startswith("BEGIN"):
            self._moves = False
        elif statement.strip().startswith(MOVES):
            self._moves = True

    def _read(self) -> Rows:
        callbacks = [_callback(row) for row in self.db.execute(CALLBACKS).fetchall()]
        tasks = [TaskRow(*row) for row in self.db.execute(TASKS).fetchall()]
        told = {task_id: progress_of(record) for task_id, record in self.db.execute(RECORDS).fetchall()}
        return Rows({row.id: row for row in callbacks}, {row.task_id: row for row in tasks}, told)

    def new_attempts(self, callback_id: str) -> list[AttemptRow]:
        """Return a callback's attempts that were not there before the last transaction."""
        known = self.attempts[callback_id]
        rows = self.db.execute(ATTEMPTS, (callback_id, known[-1].number if known else 0))
        found = [AttemptRow(*row) for row in rows.fetchall()]
        known += found
        return found

    def all_attempts(self, callback_id: str) -> list[AttemptRow]:
        """Return a callback's attempts as they stand now."""
        return [AttemptRow(*row) for row in self.db.execute(ATTEMPTS, (callback_id, 0)).fetchall()]

    def remember(self) -> None:
        """Keep what has just been replaced, for a moment."""
        for before, after in ((self.before.callbacks, self.rows.callbacks), (self.before.tasks, self.rows.tasks)):
            for key, row in before.items():
                if after.get(key) != row:
                    self._past.append((self.now_s, row))  # type: ignore[arg-type]

    def callback_versions(self, callback_id: str, moment_s: float = MOMENT_S) -> list[CallbackRow]:
        """Return the row, and what it was within the last moment."""
        rows = [*self._recent(moment_s), self.rows.callbacks.get(callback_id)]
        return [row for row in rows if isinstance(row, CallbackRow) and row.id == callback_id]

    def task_versions(self, task_id: str) -> list[TaskRow]:
        """Return the row, and what it was within the last moment."""
        rows = [*self._recent(MOMENT_S), self.rows.tasks.get(task_id)]
        return [row for row in rows if isinstance(row, TaskRow) and row.task_id == task_id]

    def _recent(self, moment_s: float) -> Iterable[CallbackRow | TaskRow]:
        while self._past and self._past[0][0] < self.now_s - MOMENT_S:
            self._past.popleft()
        return [row for at_s, row in self._past if at_s >= self.now_s - moment_s]

    @property
    def tolerance_ms(self) -> int:
        """How far two readings of the gateway's clock may be off, as it was put right in silence a moment ago."""
        while self._slewed and self._slewed[0][0] < self.now_s - MOMENT_S:
            self._slewed.popleft()
        return TOLERANCE_MS + sum(abs(by_ms) for _, by_ms in self._slewed)

    def within(self, at: int, low: float, high: float) -> bool:
        """Whether a row's instant lies between two instants of the gateway's clock."""
        tolerance_ms = self.tolerance_ms
        return any(low - tolerance_ms <= at + lag <= high + tolerance_ms for lag in {0, self.lag_ms})

    def same(self, at: int | None, expected: int) -> bool:
        return at is not None and self.within(at, expected, expected)

    def note_clock(self) -> None:
        """Notice that the gateway's clock shows another time than the rows count by."""
        ahead_ms = self._shows_ahead_ms()
        moved_ms = ahead_ms - self._ahead_ms
        self._ahead_ms = ahead_ms
        if abs(moved_ms) > STEP_MS:
            # Where it was not stored, the clock goes back to where it was.
            self.lag_ms = 0 if abs(self.lag_ms + moved_ms) <= STEP_MS else self.lag_ms + moved_ms
            self._lags_since_s, self._to_follow = self.now_s, self.before.to_come()
            return
        if abs(moved_ms) > TOLERANCE_MS:
            self._slewed.append((self.now_s, moved_ms))
        if self.lag_ms and self.now_s > self._lags_since_s + FOLLOWED_S:
            stayed = set(self._to_follow) & set(self.rows.to_come())
            assert not stayed, (stayed, self.lag_ms, "did not follow the clock")
            self.lag_ms = 0

    def followed(self) -> bool:
        """Whether the last transaction moved all that is to come after the clock; then nothing else was in it.

        It may have found nothing to move: the clock has been followed all the same.
        """
        moves, self._moves = self._moves, False
        if not moves or not self.lag_ms:
            return False
        before, after = dict(self.before.to_come()), dict(self.rows.to_come())
        assert before.keys() == after.keys(), "followed the clock, and did something else"
        moved = {what: at - before[what] for what, at in after.items()}
        step_ms = next(iter(moved.values()), self.lag_ms)
        stayed = [what for what, by_ms in moved.items() if by_ms != step_ms]
        assert not stayed, (stayed, "did not follow the clock")
        assert abs(step_ms - self.lag_ms) <= TOLERANCE_MS, (step_ms, self.lag_ms, "followed another step")
        self._nothing_else_moved(step_ms)
        self.lag_ms = 0
        self._past.clear()
        return True

    def _nothing_else_moved(self, step_ms: int) -> None:
        for callback in self.before.callbacks.values():
            expected = callback
            if callback.state == CallbackState.WAITING:
                expected = callback._replace(expires_at=callback.expires_at + step_ms)
            if callback.next_attempt_at is not None:
                expected = callback._replace(next_attempt_at=callback.next_attempt_at + step_ms)
            assert self.rows.callbacks[callback.id] == expected, (callback, "is history")
        for task in self.before.tasks.values():
            if task.next_poll_at is None:
                assert self.rows.tasks[task.task_id] == task, (task, "is history")
                continue
            assert task.state == TaskState.WAITING
            last = None if task.last_polled_at is None else task.last_polled_at + step_ms
            expected_task = task._replace(
                next_poll_at=task.next_poll_at + step_ms, created_at=task.created_at + step_ms, last_polled_at=last
            )
            assert self.rows.tasks[task.task_id] == expected_task, (task, "is as old as before")

    def _shows_ahead_ms(self) -> int:
        return self.now - round(self.now_s * 1000)


def _callback(row: list[Any]) -> CallbackRow:
    owed = body(*row[3:9])
    fields = [*row[:3], None if owed is None else webhook_body(row[0], owed), *row[8:]]
    return CallbackRow(*fields)
