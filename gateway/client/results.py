"""What the client's calls return, and how it is read from the API's JSON.

Owns the names in Python of what the API tells; ``gateway.api.views`` owns what it tells. Members that this version does
not know are passed over, and stand in ``raw``. Called by ``gateway.client.calls``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar

from gateway.client.errors import ApiError
from gateway.core.taskoutcome import TaskOutcome, read_outcome

T = TypeVar("T")

CallbackState = Literal["waiting", "pending", "delivered", "dead", "cancelled"]
TaskState = Literal["waiting", "success", "fail", "abandoned"]
CallbackFormat = Literal["standard", "record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What is to be registered; None leaves the choice to the gateway."""

    task_id: str
    callback_url: str
    metadata: Mapping[str, Any] | None = None
    timeout_seconds: int | None = None
    upstream: str | None = None
    model: str | None = None
    format: CallbackFormat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProgress:
    """How far a callback's task is."""

    state: TaskState
    polls: int
    last_polled_at: datetime | None
    next_poll_at: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """One registration, and the one webhook that it is owed."""

    id: str
    """``cb_…``; the ``webhook-id`` of its webhook."""
    task_id: str
    callback_url: str
    metadata: Mapping[str, Any]
    timeout_seconds: int
    upstream: str
    format: CallbackFormat
    state: CallbackState
    created_at: datetime
    expires_at: datetime
    attempts: int
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    last_error: str | None
    task: TaskProgress
    client: str | None
    """Whose it is; only the operator is told."""
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the gateway knows of a task."""

    task_id: str
    upstream: str
    state: TaskState
    polls: int
    created_at: datetime
    last_polled_at: datetime | None
    next_poll_at: datetime | None
    last_error: str | None
    settled_at: datetime | None
    outcome: TaskOutcome | None
    """How it ended; None while it runs."""
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One POST of a callback's webhook."""

    number: int
    started_at: datetime
    duration_ms: int
    status_code: int | None
    error: str | None
    result: Literal["delivered", "retry", "dead", "interrupted"]
    excerpt: str | None
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some callbacks, newest first."""

    data: tuple[Callback, ...]
    next_cursor: str | None
    """Where the next page begins; None on the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of one item of a batch: a callback, or the error that it would have had alone."""

    status: int
    """201, 200 where it was registered already, else the error's."""
    callback: Callback | None
    error: ApiError | None


# Each raises ValueError, which says what is missing, for what is not the answer of a gateway.


def read_callback(answer: Any) -> Callback:
    members = _object(answer)
    task = _object(members.get("task"))
    return Callback(
        id=_one(members, "id", str),
        task_id=_one(members, "taskId", str),
        callback_url=_one(members, "callbackUrl", str),
        metadata=_one(members, "metadata", dict),
        timeout_seconds=_one(members, "timeoutSeconds", int),
        upstream=_one(members, "upstream", str),
        format=_one(members, "format", str),  # type: ignore[arg-type]  # of the words that the API has
        state=_one(members, "state", str),  # type: ignore[arg-type]
        created_at=_instant(members, "createdAt"),
        expires_at=_instant(members, "expiresAt"),
        attempts=_one(members, "attempts", int),
        next_attempt_at=_instant_or_none(members, "nextAttemptAt"),
        delivered_at=_instant_or_none(members, "deliveredAt"),
        last_error=_one_or_none(members, "lastError", str),
        task=TaskProgress(
            state=_one(task, "state", str),  # type: ignore[arg-type]
            polls=_one(task, "polls", int),
            last_polled_at=_instant_or_none(task, "lastPolledAt"),
            next_poll_at=_instant_or_none(task, "nextPollAt"),
            last_error=_one_or_none(task, "lastError", str),
        ),
        client=_one_or_none(members, "client", str),
        raw=members,
    )


def read_task(answer: Any) -> Task:
    members = _object(answer)
    outcome = _one_or_none(members, "outcome", dict)
    return Task(
        task_id=_one(members, "taskId", str),
        upstream=_one(members, "upstream", str),
        state=_one(members, "state", str),  # type: ignore[arg-type]
        polls=_one(members, "polls", int),
        created_at=_instant(members, "createdAt"),
        last_polled_at=_instant_or_none(members, "lastPolledAt"),
        next_poll_at=_instant_or_none(members, "nextPollAt"),
        last_error=_one_or_none(members, "lastError", str),
        settled_at=_instant_or_none(members, "settledAt"),
        outcome=None if outcome is None else read_outcome(outcome),
        raw=members,
    )


def read_attempts(answer: Any) -> tuple[Attempt, ...]:
    return tuple(_attempt(_object(one)) for one in _one(_object(answer), "data", list))


def _attempt(members: Mapping[str, Any]) -> Attempt:
    return Attempt(
        number=_one(members, "number", int),
        started_at=_instant(members, "startedAt"),
        duration_ms=_one(members, "durationMs", int),
        status_code=_one_or_none(members, "statusCode", int),
        error=_one_or_none(members, "error", str),
        result=_one(members, "result", str),  # type: ignore[arg-type]
        excerpt=_one_or_none(members, "excerpt", str),
        raw=members,
    )


def read_page(answer: Any) -> Page:
    members = _object(answer)
    callbacks = tuple(read_callback(one) for one in _one(members, "data", list))
    return Page(data=callbacks, next_cursor=_one_or_none(members, "nextCursor", str))


def read_batch(answer: Any, expected: int) -> tuple[BatchResult, ...]:
    results = tuple(_batch_result(_object(one)) for one in _one(_object(answer), "data", list))
    if len(results) != expected:
        raise ValueError(f"it tells of {len(results)} registrations, and {expected} were sent")
    return results


def _batch_result(members: Mapping[str, Any]) -> BatchResult:
    status, error = _one(members, "status", int), _one_or_none(members, "error", dict)
    return BatchResult(
        status=status,
        callback=None if error is not None else read_callback(members.get("callback")),
        error=None if error is None else ApiError(status, error),
    )


def read_count(answer: Any) -> int:
    return _one(_object(answer), "count", int)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object where one should be")  # noqa: TRY004  # it is what another server sent
    return value


def _one(members: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = members.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is missing or of another type")  # noqa: TRY004  # it is what another server sent
    return value


def _one_or_none(members: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    return None if members.get(name) is None else _one(members, name, kind)


def _instant(members: Mapping[str, Any], name: str) -> datetime:
    at = datetime.fromisoformat(_one(members, name, str))
    if at.tzinfo is None:
        raise ValueError(f"{name} has no zone")
    return at


def _instant_or_none(members: Mapping[str, Any], name: str) -> datetime | None:
    return None if members.get(name) is None else _instant(members, name)
