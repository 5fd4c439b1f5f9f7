"""Rows → ``gateway.model`` types, and those types → the parameters of statements.

Owns the column orders of ``sql.py``'s SELECTs and of its JSON parameters; pure. Called by ``sqlite.py``.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.model import (
    Attempt,
    AttemptRecord,
    AttemptResult,
    Callback,
    CallbackState,
    DueCallback,
    DueTask,
    ExpiredTask,
    NewCallback,
    PollRecord,
    Settlement,
    Task,
    TaskState,
)
from gateway.payload import BodyTemplate, body_template

__all__ = [
    "FOREVER",
    "Duration",
    "array",
    "attempt",
    "attempts",
    "callback",
    "created_callback",
    "due_callback",
    "due_task",
    "durations",
    "expired_task",
    "new_callbacks",
    "new_tasks",
    "owed",
    "polls",
    "settled",
    "task",
    "wanted",
    "webhook_parameters",
]

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
        task=task((*task_columns, None)),
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
    seq, upstream, task_id, created_at, born_at, model, polls, failures, last_polled_at, due_at = row
    return DueTask(
        seq=seq,
        upstream=upstream,
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
    seq, callback_id, client, url, receiver, body, attempts, budget_used, redeliveries, due_at = row
    return DueCallback(
        seq=seq,
        id=callback_id,
        client=client,
        url=url,
        receiver=receiver,
        body=body,
        attempts=attempts,
        budget_used=budget_used,
        redeliveries=redeliveries,
        due_at=due_at,
    )


def expired_task(row: Any) -> ExpiredTask:
    seq, task_id, expires_at, last_polled_at, failures = row
    return ExpiredTask(
        seq=seq, task_id=task_id, expires_at=expires_at, last_polled_at=last_polled_at, failures=failures
    )


def new_tasks(new: Sequence[NewCallback]) -> str:
    """Return INSERT_TASKS' parameter: upstream, task_id, created_at, next_poll_at, model."""
    return array([(c.upstream, c.task_id, c.created_at, c.first_poll_at, _text(c.model)) for c in new])


def new_callbacks(new: Sequence[NewCallback]) -> str:
    """Return INSERT_CALLBACKS' parameter: upstream, task_id, id, client, url, receiver, metadata, …, expires_at."""
    return array(
        [
            (
                c.upstream,
                c.task_id,
                c.id,
                c.client,
                c.url,
                c.receiver,
                c.metadata.decode(),
                c.timeout_s,
                c.created_at,
                c.expires_at,
            )
            for c in new
        ]
    )


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


def wanted(new: Sequence[NewCallback]) -> str:
    """Return SELECT_REGISTERED's parameter: upstream, task_id, client, url."""
    return array([(c.upstream, c.task_id, c.client, c.url) for c in new])


def polls(records: Sequence[PollRecord]) -> str:
    """Return RESCHEDULE_TASKS' parameter: seq, polled_at, next_poll_at, error, born_at, model."""
    return array([(r.seq, r.polled_at, r.next_poll_at, _text(r.error), r.born_at, _text(r.model)) for r in records])


def webhook_parameters(template: BodyTemplate, deliver_at: int) -> dict[str, Any]:
    """Return what makes a webhook due: when, and the parts of its body."""
    return {"deliver_at": deliver_at, "head": template.head, "middle": template.middle, "tail": template.tail}


def owed(settled: Sequence[Settlement], delay_ms: int) -> str:
    """Return OWE_WEBHOOKS' parameter; the webhooks fall due ``delay_ms`` milliseconds after their task's end.

    Seq, expired_by, deliver_at, and the head, middle and tail of the body.
    """
    return array([_owed(one, delay_ms) for one in settled])


def _owed(one: Settlement, delay_ms: int) -> tuple[Any, ...]:
    template = body_template(one.outcome, one.settled_at)
    return (
        one.seq,
        FOREVER if one.expired_by is None else one.expired_by,
        one.settled_at + delay_ms,
        template.head.decode(),
        template.middle.decode(),
        template.tail.decode(),
    )


def settled(ended: Sequence[Settlement]) -> str:
    """Return SETTLE_TASKS' parameter: seq, state, outcome, settled_at, polls."""
    return array([(one.seq, one.outcome.state, one.outcome.data.decode(), one.settled_at, one.polls) for one in ended])


def attempts(records: Sequence[AttemptRecord]) -> str:
    """Return the parameter of INSERT_ATTEMPTS, RECORD_ATTEMPTS and COUNT_ATTEMPTS.

    Seq, number, started_at, duration_ms, status_code, error, result, excerpt, state, next_attempt_at, ended_at,
    counts, redeliveries.
    """
    return array([_attempt(record) for record in records])


def _attempt(record: AttemptRecord) -> tuple[Any, ...]:
    made = record.attempt
    return (
        record.claim.seq,
        made.number,
        made.started_at,
        made.duration_ms,
        made.status_code,
        _text(made.error),
        made.result,
        _text(made.excerpt),
        _NEXT_STATE[made.result],
        record.next_attempt_at,
        made.started_at + made.duration_ms,
        made.result is not AttemptResult.INTERRUPTED,
        record.claim.redeliveries,
    )


def _text(text: str | None) -> str | None:
    # SQLite ends a text from JSON at a NUL.
    return None if text is None else text.replace("\0", "\ufffd")


def durations(learned: Sequence[Duration]) -> str:
    """Return INSERT_DURATIONS' parameter."""
    return array([(upstream, _text(model), *rest) for upstream, model, *rest in learned])


def array(values: Sequence[Any]) -> str:
    """Return a JSON parameter."""
    return msgspec.json.encode(values).decode()
