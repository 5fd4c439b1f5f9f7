"""What answers look like: callbacks, tasks and attempts as clients see them, and the names they have there.

Made of the store's nouns for the routes; decides nothing. ``openapi`` tells of these types.
"""

from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from gateway.api.schema import Wire
from gateway.core.clock import to_iso
from gateway.core.model import Attempt, AttemptResult, Callback, CallbackState, Format, Task, TaskState

Instant = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
Metadata = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]


class TaskSummary(Wire, frozen=True, kw_only=True):
    state: TaskState
    polls: int
    last_polled_at: Instant | None
    next_poll_at: Instant | None
    last_error: str | None


class CallbackView(Wire, frozen=True, kw_only=True):
    """A callback as clients see it; the operator is also told whose it is."""

    id: str
    client: str | msgspec.UnsetType = msgspec.UNSET
    task_id: str
    callback_url: str
    metadata: Metadata
    timeout_seconds: int
    upstream: str
    format: Format
    state: CallbackState
    created_at: Instant
    expires_at: Instant
    attempts: int
    next_attempt_at: Instant | None
    delivered_at: Instant | None
    last_error: str | None
    task: TaskSummary


class TaskView(Wire, frozen=True, kw_only=True):
    """A task as clients see it; ``outcome`` is null until it has ended."""

    task_id: str
    upstream: str
    state: TaskState
    polls: int
    created_at: Instant
    last_polled_at: Instant | None
    next_poll_at: Instant | None
    last_error: str | None
    settled_at: Instant | None
    outcome: msgspec.Raw | None


class AttemptView(Wire, frozen=True, kw_only=True):
    number: int
    started_at: Instant
    duration_ms: int
    status_code: int | None
    error: str | None
    result: AttemptResult
    excerpt: str | None


def callback_view(callback: Callback, client: str | msgspec.UnsetType = msgspec.UNSET) -> CallbackView:
    """Return what is shown of a callback; ``client`` is for the operator."""
    task = callback.task
    return CallbackView(
        id=callback.id,
        client=client,
        task_id=task.task_id,
        callback_url=callback.url,
        metadata=msgspec.Raw(callback.metadata),
        timeout_seconds=callback.timeout_s,
        upstream=task.upstream,
        format=callback.format,
        state=callback.state,
        created_at=to_iso(callback.created_at),
        expires_at=to_iso(callback.expires_at),
        attempts=callback.attempts,
        next_attempt_at=_iso(callback.next_attempt_at),
        delivered_at=_iso(callback.delivered_at),
        last_error=callback.last_error,
        task=TaskSummary(
            state=task.state,
            polls=task.polls,
            last_polled_at=_iso(task.last_polled_at),
            next_poll_at=_iso(task.next_poll_at),
            last_error=task.last_error,
        ),
    )


def task_view(task: Task) -> TaskView:
    return TaskView(
        task_id=task.task_id,
        upstream=task.upstream,
        state=task.state,
        polls=task.polls,
        created_at=to_iso(task.created_at),
        last_polled_at=_iso(task.last_polled_at),
        next_poll_at=_iso(task.next_poll_at),
        last_error=task.last_error,
        settled_at=_iso(task.settled_at),
        outcome=None if task.outcome is None else msgspec.Raw(task.outcome),
    )


def attempt_view(attempt: Attempt) -> AttemptView:
    return AttemptView(**{**msgspec.structs.asdict(attempt), "started_at": to_iso(attempt.started_at)})


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def _iso(at: int | None) -> str | None:
    return None if at is None else to_iso(at)
