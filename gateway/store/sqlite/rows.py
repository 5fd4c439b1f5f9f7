"""Rows → ``gateway.core.model`` types, and those types → the parameters of statements.

Owns the column orders of ``sql.py``'s SELECTs and of its rows; pure. Called by the store's ports.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from gateway.core.memory import SMALL
from gateway.core.model import (
    Attempt,
    AttemptRecord,
    AttemptResult,
    BodyParts,
    Callback,
    CallbackState,
    DueCallback,
    DueTask,
    ExpiredTask,
    NewCallback,
    Outcome,
    PollRecord,
    Settlement,
    Task,
    TaskState,
)

__all__ = [
    "FOREVER",
    "Duration",
    "Rows",
    "array",
    "attempt",
    "attempts",
    "body",
    "callback",
    "counted",
    "created_callback",
    "due_callback",
    "due_task",
    "durations",
    "expired_task",
    "first_column",
    "new_callbacks",
    "new_tasks",
    "owed",
    "polls",
    "recorded",
    "settled",
    "task",
    "wanted",
]

Rows = list[tuple[Any, ...]]
"""What ``sql.over_rows`` takes, its columns in the order of the statement's ``WITH``."""

Duration = tuple[str, str, int, int, int]
"""Upstream, model, slot, seq, duration_ms."""

FOREVER = 2**62  # later than any instant, above any seq
_NEXT_STATE = {
    AttemptResult.DELIVERED: CallbackState.DELIVERED,
    AttemptResult.RETRY: CallbackState.PENDING,
    AttemptResult.DEAD: CallbackState.DEAD,
    AttemptResult.INTERRUPTED: CallbackState.PENDING,
}


def callback(row: Any) -> Callback:
    (
        seq,
        callback_id,
        client,
        url,
        metadata,
        timeout_s,
        state,
        created_at,
        expires_at,
        attempts,
        next_attempt_at,
        delivered_at,
        last_error,
        *task_columns,
    ) = row
    return Callback(
        seq=seq,
        id=callback_id,
        client=client,
        url=url,
        metadata=metadata,
        timeout_s=timeout_s,
        state=CallbackState(state),
        created_at=created_at,
        expires_at=expires_at,
        attempts=attempts,
        next_attempt_at=next_attempt_at,
        delivered_at=delivered_at,
        last_error=last_error,
        # A callback is shown with its task but without the outcome, which may be large.
        task=task((*task_columns, None, 0)),
    )


def task(row: Any) -> Task:
    (
        seq,
        upstream,
        task_id,
        state,
        polls,
        created_at,
        last_polled_at,
        next_poll_at,
        last_error,
        settled_at,
        born_at,
        model,
        outcome,
        outcome_bytes,
    ) = row
    return Task(
        seq=seq,
        upstream=upstream,
        task_id=task_id,
        state=TaskState(state),
        polls=polls,
        created_at=created_at,
        last_polled_at=last_polled_at,
        next_poll_at=next_poll_at,
        last_error=last_error,
        settled_at=settled_at,
        outcome=outcome,
        outcome_bytes=outcome_bytes or 0,
        born_at=born_at,
        model=model,
    )


def attempt(row: Any) -> Attempt:
    number, started_at, duration_ms, status_code, error, result, excerpt = row
    return Attempt(
        number=number,
        started_at=started_at,
        duration_ms=duration_ms,
        status_code=status_code,
        error=error,
        result=AttemptResult(result),
        excerpt=excerpt,
    )


def due_task(row: Any) -> DueTask:
    seq, upstream, watchers, task_id, created_at, born_at, model, polls, failures, last_polled_at, due_at = row
    return DueTask(
        seq=seq,
        upstream=upstream,
        watchers=watchers,
        task_id=task_id,
        created_at=created_at,
        born_at=born_at,
        model=model,
        polls=polls,
        failures=failures,
        last_polled_at=last_polled_at,
        due_at=due_at,
    )


def due_callback(row: Any) -> DueCallback:
    seq, callback_id, task_id, client, url, receiver, attempts, budget_used, redeliveries, due_at, size, *parts = row
    return DueCallback(
        seq=seq,
        id=callback_id,
        task_id=task_id,
        client=client,
        url=url,
        receiver=receiver,
        body=body(*parts),
        body_bytes=size,
        attempts=attempts,
        budget_used=budget_used,
        redeliveries=redeliveries,
        due_at=due_at,
    )


def body(
    stored: bytes | None, outcome: bytes | None, state: str, settled_at: int, metadata: bytes
) -> BodyParts | bytes | None:
    """Return a webhook's stored body, or what it is made of; None where neither is here."""
    if outcome is None:
        return stored or None
    return BodyParts(outcome=Outcome(state=TaskState(state), data=outcome), settled_at=settled_at, metadata=metadata)


def expired_task(row: Any) -> ExpiredTask:
    seq, task_id, expires_at, last_polled_at, failures = row
    return ExpiredTask(
        seq=seq, task_id=task_id, expires_at=expires_at, last_polled_at=last_polled_at, failures=failures
    )


def new_tasks(new: Sequence[NewCallback]) -> Rows:
    """Return INSERT_TASKS' rows."""
    return [(c.upstream, c.task_id, c.created_at, c.first_poll_at, _text(c.model), c.client) for c in new]


def new_callbacks(new: Sequence[NewCallback]) -> Rows:
    """Return INSERT_CALLBACKS' rows."""
    return [
        (
            c.upstream,
            c.task_id,
            c.id,
            c.client,
            c.url,
            c.receiver,
            c.metadata,
            c.timeout_s,
            c.created_at,
            c.expires_at,
        )
        for c in new
    ]


def created_callback(new: NewCallback, seq: int, first: NewCallback, task_seq: int) -> Callback:
    """Return a callback as it was inserted, on the task that ``first`` has inserted beside it."""
    return Callback(
        seq=seq,
        id=new.id,
        client=new.client,
        url=new.url,
        metadata=new.metadata,
        timeout_s=new.timeout_s,
        state=CallbackState.WAITING,
        created_at=new.created_at,
        expires_at=new.expires_at,
        attempts=0,
        next_attempt_at=None,
        delivered_at=None,
        last_error=None,
        task=Task(
            seq=task_seq,
            upstream=new.upstream,
            task_id=new.task_id,
            state=TaskState.WAITING,
            polls=0,
            created_at=first.created_at,
            last_polled_at=None,
            next_poll_at=first.first_poll_at,
            last_error=None,
            model=_text(first.model),
        ),
    )


def wanted(new: Sequence[NewCallback]) -> Rows:
    """Return SELECT_REGISTERED's rows."""
    return [(c.upstream, c.task_id, c.client, c.url, place) for place, c in enumerate(new)]


def polls(records: Sequence[PollRecord]) -> Rows:
    """Return RESCHEDULE_TASKS' rows."""
    return [(r.seq, r.polled_at, r.next_poll_at, _text(r.error), r.born_at, _text(r.model)) for r in records]


def owed(settled: Sequence[Settlement], delay_ms: int) -> Rows:
    """Return OWE_WEBHOOKS' rows; the webhooks fall due ``delay_ms`` milliseconds after their task's end."""
    return [
        (
            one.seq,
            FOREVER if one.expired_by is None else one.expired_by,
            one.settled_at + delay_ms,
            *(one.frame or (None, None, None)),
        )
        for one in settled
    ]


def settled(ended: Sequence[Settlement]) -> Rows:
    """Return SETTLE_TASKS' rows; a large outcome is left empty, and written by itself."""
    return [(one.seq, one.outcome.state.value, _small(one.outcome.data), one.settled_at, one.polls) for one in ended]


def _small(data: bytes) -> bytes:
    return data if len(data) <= SMALL else b""


def attempts(records: Sequence[AttemptRecord]) -> Rows:
    """Return INSERT_ATTEMPTS' rows."""
    return [_attempt(record.claim.seq, record.attempt) for record in records]


def _attempt(callback_seq: int, made: Attempt) -> tuple[Any, ...]:
    return (
        callback_seq,
        made.number,
        made.started_at,
        made.duration_ms,
        made.status_code,
        _text(made.error),
        made.result.value,
        _text(made.excerpt),
    )


def recorded(records: Sequence[AttemptRecord]) -> Rows:
    """Return RECORD_ATTEMPTS' rows."""
    return [_recorded(record, record.attempt) for record in records]


def _recorded(record: AttemptRecord, made: Attempt) -> tuple[Any, ...]:
    return (
        record.claim.seq,
        made.number,
        _text(made.error),
        _NEXT_STATE[made.result].value,
        record.next_attempt_at,
        made.started_at + made.duration_ms,
        0 if made.result is AttemptResult.INTERRUPTED else 1,
        record.claim.redeliveries,
    )


def counted(records: Sequence[AttemptRecord]) -> Rows:
    """Return COUNT_ATTEMPTS' rows."""
    return [(record.claim.seq, record.attempt.number) for record in records]


def _text(text: str | None) -> str | None:
    # SQLite keeps a NUL in a text, and its functions end it there.
    return None if text is None else text.replace("\0", "\ufffd")


def durations(learned: Sequence[Duration]) -> Rows:
    """Return INSERT_DURATIONS' rows."""
    return [(upstream, _text(model), *rest) for upstream, model, *rest in learned]


def array(values: Sequence[Any]) -> str:
    """Return a JSON parameter."""
    return msgspec.json.encode(values).decode()


def first_column(found: Iterable[Any]) -> list[Any]:
    """Return what stands first in each row."""
    return [row[0] for row in found]
