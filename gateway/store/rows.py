"""Rows → ``gateway.model`` types, and those types → the parameters of statements.

Owns the column orders of ``sql.py``'s SELECTs; pure. Called by ``sqlite.py``.
"""

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
    Settlement,
    Task,
    TaskState,
)
from gateway.payload import BodyTemplate, body_template

__all__ = [
    "FOREVER",
    "attempt",
    "attempt_parameters",
    "callback",
    "due_callback",
    "due_task",
    "expired_task",
    "new_callback_parameters",
    "settlement_parameters",
    "task",
    "webhook_parameters",
]

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


def new_callback_parameters(new: NewCallback) -> dict[str, Any]:
    return {**msgspec.structs.asdict(new), "receiver": new.receiver, "expires_at": new.expires_at}


def webhook_parameters(template: BodyTemplate, deliver_at: int) -> dict[str, Any]:
    """Return what makes a webhook due: when, and the parts of its body."""
    return {"deliver_at": deliver_at, "head": template.head, "middle": template.middle, "tail": template.tail}


def settlement_parameters(settlement: Settlement, delay_ms: int) -> dict[str, Any]:
    """Return a settlement's parameters; its webhooks fall due ``delay_ms`` milliseconds after it."""
    settled_at = settlement.settled_at
    return {
        "seq": settlement.seq,
        "state": settlement.outcome.state.value,
        "outcome": settlement.outcome.data,
        "settled_at": settled_at,
        "polls": settlement.polls,
        "expired_by": FOREVER if settlement.expired_by is None else settlement.expired_by,
        **webhook_parameters(body_template(settlement.outcome, settled_at), settled_at + delay_ms),
    }


def attempt_parameters(record: AttemptRecord) -> dict[str, Any]:
    made = record.attempt
    return {
        "seq": record.claim.seq,
        "redeliveries": record.claim.redeliveries,
        "number": made.number,
        "started_at": made.started_at,
        "duration_ms": made.duration_ms,
        "status_code": made.status_code,
        "error": made.error,
        "result": made.result.value,
        "excerpt": made.excerpt,
        "state": _NEXT_STATE[made.result].value,
        "counts": int(made.result is not AttemptResult.INTERRUPTED),
        "next_attempt_at": record.next_attempt_at,
        "ended_at": made.started_at + made.duration_ms,
    }
