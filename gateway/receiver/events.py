"""What a callback's webhook tells, as one of three types, and how it is read from the body in either format.

Owns their members. What the upstream sent may be of any type; ``raw`` has it as it came. Pure; called by
``gateway.receiver.verifying``, once the signature has been checked.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from gateway.core.errors import GatewayError
from gateway.core.taskoutcome import TaskOutcome, read_outcome
from gateway.receiver.operatorevents import OPERATOR_TYPES, OperatorEvent, read_operator_event


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """What every event has."""

    webhook_id: str
    """The same in every attempt and redelivery: a repetition is known by it."""
    sent_at: datetime
    """When this attempt was made."""
    callback_id: str
    task_id: str
    format: Literal["standard", "record"]
    metadata: Mapping[str, Any]
    """What was registered; empty in format record, which has no place for it."""
    model: str | None
    param: Any
    """What the task was created with, decoded."""
    settled_at: datetime | None
    """When the gateway knew of the end; None in format record."""
    create_time: datetime | None
    complete_time: datetime | None
    cost_time_ms: float | None
    raw: Mapping[str, Any] = field(repr=False)
    """The whole body, decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded(_Ended):
    """The task has succeeded."""

    result: Any
    """What the upstream's ``resultJson`` holds, decoded; None where it is not JSON."""
    result_urls: tuple[str, ...]
    """Those of ``result``; empty where it names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(_Ended):
    """The task has failed."""

    fail_code: str | None
    fail_msg: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned(_Ended):
    """The gateway gave the task up. It may have ended unseen, or end yet."""

    reason: str | None
    """``timeout``, ``not_found``, ``refused`` or ``unreadable``; None in format record."""
    fail_msg: str | None
    """What format record says of it."""


Event = Succeeded | Failed | Abandoned


class UnknownBody(GatewayError):
    """The signature is right, but the body is neither the gateway's event nor a record in the family's envelope.

    So are the records of Replicate, Runway, Luma and OpenAI, what an upstream's own profile describes, and operator
    events, which ``verify_operator_event`` reads: ``raw`` has the decoded body, or None where it is not JSON.
    """

    def __init__(self, message: str, webhook_id: str, raw: Any) -> None:
        super().__init__(message)
        self.webhook_id = webhook_id
        self.raw = raw


_TYPES = {"task.succeeded": "success", "task.failed": "fail", "task.abandoned": "abandoned"}
_CODES = {200: "success", 408: "abandoned"}
"""What the codes of records mean; every other one is a failure's."""


def read_told(body: bytes, webhook_id: str, sent_at: datetime) -> OperatorEvent:
    """Return what the body of an operator event says. Raises UnknownBody."""
    event = _parsed(body, webhook_id)
    try:
        return read_operator_event(event, webhook_id, sent_at)
    except (ValueError, TypeError, KeyError) as exc:
        message = f"The signature is right, but the body is no operator event ({exc!r}): a callback's is for verify()."
        raise UnknownBody(message, webhook_id, event) from exc


def read_event(body: bytes, webhook_id: str, sent_at: datetime) -> Event:
    """Return what a body says. Raises UnknownBody."""
    event = _parsed(body, webhook_id)
    try:
        return _event(event, webhook_id, sent_at)
    except (ValueError, TypeError, KeyError) as exc:
        if isinstance(event, dict) and event.get("type") in OPERATOR_TYPES:
            message = f"The signature is right, but it is an operator event, {event['type']}: verify_operator_event()"
            raise UnknownBody(f"{message} reads it.", webhook_id, event) from exc
        message = "The signature is right, but the body is neither an event of the gateway nor a record of the family"
        raise UnknownBody(f"{message} ({exc!r}).", webhook_id, event) from exc


def _parsed(body: bytes, webhook_id: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise UnknownBody(f"The signature is right, but the body is not JSON: {exc}.", webhook_id, None) from exc


def _event(event: Any, webhook_id: str, sent_at: datetime) -> Event:
    data = _object(event["data"])
    standard = event.get("type") in _TYPES
    data = data | {"state": _TYPES[event["type"]]} if standard else _of_record(event, data)
    outcome = read_outcome(data)
    members = {
        "webhook_id": webhook_id,
        "sent_at": sent_at,
        "callback_id": str(data.get("callbackId", webhook_id)),
        "task_id": _text(data["taskId"]),
        "format": "standard" if standard else "record",
        "metadata": _object(data.get("metadata", {})),
        "model": outcome.model,
        "param": outcome.param,
        "settled_at": datetime.fromisoformat(_text(event["timestamp"])) if standard else None,
        "create_time": outcome.create_time,
        "complete_time": outcome.complete_time,
        "cost_time_ms": outcome.cost_time_ms,
        "raw": event,
    }
    return _typed(outcome, members)


def _typed(outcome: TaskOutcome, members: dict[str, Any]) -> Event:
    if outcome.state == "success":
        return Succeeded(result=outcome.result, result_urls=outcome.result_urls, **members)
    if outcome.state == "fail":
        return Failed(fail_code=outcome.fail_code, fail_msg=outcome.fail_msg, **members)
    return Abandoned(reason=outcome.reason, fail_msg=outcome.fail_msg, **members)


def _of_record(event: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return a record's members as the gateway's own event has them; kie.ai's Veo has its result as ``info``."""
    code = event["code"]
    if not isinstance(code, int):
        raise TypeError("code is no number")
    state = _CODES.get(code, "fail")
    failure = {} if state == "success" else {"failCode": code, "failMsg": event.get("msg")}
    decoded = {"result": _decoded(data.get("resultJson", data.get("info"))), "param": _decoded(data.get("param"))}
    return failure | data | decoded | {"state": state}


def _decoded(text: Any) -> Any:
    """Return what a text of JSON holds; None where it is none."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return None


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("data or metadata is no object")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("taskId or timestamp is no text")
    return value
