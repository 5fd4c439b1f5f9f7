"""What ``/openapi.json`` tells of webhooks: bodies in both formats, headers, and what a receiver's answers mean.

Owns the types of the bodies, but for operator events', and the words. Called by ``openapi``; what is really sent
``gateway/webhook/`` makes.
"""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict, get_args

from gateway.api import examples, openevents
from gateway.api.views import Instant
from gateway.signature import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from gateway.upstream.answer import AbandonReason
from gateway.webhook.headers import RECORD_SIGNATURE_HEADER, RECORD_TIMESTAMP_HEADER

OUTCOME = (
    f"The members of the webhook's data; an abandoned task's reason is one of {', '.join(get_args(AbandonReason))}."
)
TAG = {"name": "webhooks", "description": "What a callback URL receives, signed as Standard Webhooks 1.0 asks."}
_EVENTS = {
    "task.succeeded": ("taskSucceeded", "A task has succeeded"),
    "task.failed": ("taskFailed", "A task has failed"),
    "task.abandoned": ("taskAbandoned", "The gateway has given a task up"),
}
_TEXT = (
    "Verify the signature over the raw body before anything is read of it, and answer 2xx within 15 seconds (a "
    "setting). Delivery is at least once: a webhook-id that you have handled is a repetition, with the same bytes."
)
_RECORD = (
    "The body is what the upstream itself would send, or answer when it is asked: of upstreams whose answers have no "
    "envelope, or whose callbacks have a shape of their own, it is that and not the one below. code is 200 for a "
    "success, 501 for a failure and 408 for a task that was abandoned."
)
_HEADERS = {
    ID_HEADER: "The callback's id, the same in every attempt and redelivery: receivers know a repetition by it.",
    TIMESTAMP_HEADER: "When this attempt was made, in whole seconds since the epoch.",
    SIGNATURE_HEADER: "One entry for each active secret, with blanks between them: v1, and the base64 of HMAC-SHA256 "
    "over webhook-id.webhook-timestamp.body; with a key pair also v1a, and an ed25519 signature.",
}
_EVENT_HEADERS = {**_HEADERS, ID_HEADER: "The event's id, the same in every attempt: a repetition is known by it."}
_TRACE_HEADERS = {
    "traceparent": "Where its registration had one (W3C Trace Context): what the receiver's work is a part of.",
    "tracestate": "Where its registration had one.",
}
_RECORD_HEADERS = {
    RECORD_TIMESTAMP_HEADER: "Where GATEWAY_RECORD_HMAC_KEY is set: when this attempt was made, in whole seconds.",
    RECORD_SIGNATURE_HEADER: "Where it is set: the base64 of HMAC-SHA256 over the task's id, a full stop and that.",
}
_ANSWERS = {
    "2XX": "Delivered, where it comes within the time limit.",
    "410": "Nobody wants it: it is not sent again.",
    "default": "It is sent again on the schedule; after 429 and 503 not before the seconds in Retry-After.",
}


class Outcome(TypedDict):
    """How a task ended; ``result`` and ``param`` are decoded, or null with the upstream's text beside them."""

    taskId: str
    model: Any
    state: Literal["success", "fail", "abandoned"]
    reason: NotRequired[AbandonReason]
    result: Any
    resultRaw: NotRequired[str]
    param: Any
    paramRaw: NotRequired[str]
    decodeError: NotRequired[str]
    failCode: str | None
    failMsg: str | None
    costTime: float | None
    createTime: float | None
    completeTime: float | None
    extra: NotRequired[dict[str, Any]]


class WebhookData(Outcome, TypedDict):
    callbackId: str
    metadata: dict[str, Any]


class Webhook(TypedDict):
    """The body of a webhook."""

    type: Literal["task.succeeded", "task.failed", "task.abandoned"]
    timestamp: Instant
    data: WebhookData


class RecordWebhook(TypedDict):
    """The body of a webhook of format record; of an API whose answers have no envelope, ``data`` alone."""

    code: Literal[200, 408, 501]
    msg: str
    data: dict[str, Any]


def webhooks(
    schema: dict[str, Any], record_schema: dict[str, Any], events: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return what is told of each webhook; the schemas are those of the bodies in each format, and of events."""
    headers = _headers(_HEADERS, required=True) + _headers(_TRACE_HEADERS, required=False)
    told = {
        event: _webhook(operation_id, summary, _TEXT, headers, schema, {event: examples.WEBHOOKS[event]})
        for event, (operation_id, summary) in _EVENTS.items()
    }
    of_events = _headers(_EVENT_HEADERS, required=True)
    text = f"{openevents.ABOUT} {_TEXT}"
    for event, (operation_id, summary, _) in openevents.EVENTS.items():
        bodies = {event: openevents.EXAMPLES[event]}
        told[event] = _webhook(operation_id, summary, text, of_events, events[event], bodies)
    headers = headers + _headers(_RECORD_HEADERS, required=False)
    summary = "A task has ended, or was abandoned, and its callback is of format record"
    text = f"{_RECORD} {_TEXT}"
    return told | {"record": _webhook("taskRecord", summary, text, headers, record_schema, examples.RECORDS)}


def _webhook(
    operation_id: str,
    summary: str,
    text: str,
    headers: list[dict[str, Any]],
    schema: dict[str, Any],
    bodies: Mapping[str, Any],
) -> dict[str, Any]:
    told = {name: {"value": body} for name, body in bodies.items()}
    return {
        "post": {
            "operationId": operation_id,
            "tags": [TAG["name"]],
            "summary": summary,
            "description": text,
            "security": [],
            "parameters": headers,
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": told}}},
            "responses": {status: {"description": text} for status, text in _ANSWERS.items()},
        }
    }


def _headers(texts: Mapping[str, str], *, required: bool) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": required, "schema": {"type": "string"}, "description": text}
        for name, text in texts.items()
    ]
