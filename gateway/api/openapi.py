"""The API as an OpenAPI 3.1 document, and what receivers are sent with it; imported when it is first asked for.

Owns the words about errors and webhooks: paths are the table's, and schemas the wire types', so that none can drift.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, get_args

import msgspec

from gateway import __version__
from gateway.api import examples
from gateway.api.auth import PUBLIC
from gateway.api.routing import Call, Parameter, Schema
from gateway.api.views import Instant
from gateway.signature import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from gateway.upstream.answer import AbandonReason
from gateway.webhook.headers import RECORD_SIGNATURE_HEADER, RECORD_TIMESTAMP_HEADER

__all__ = ["Webhook", "document"]

_ERRORS = {
    400: "The body is not JSON.",
    401: "The token is missing or wrong.",
    403: "The operator's token registers nothing, and no other one is for another client's callbacks; without a token, "
    "another site's page asks, or Host is no loopback name.",
    404: "There is no such thing, or it is another client's.",
    408: "The body took too long to arrive.",
    409: "The present state does not allow this.",
    413: "The body is too large.",
    415: "The body is not application/json, or is compressed.",
    422: "A field is not valid, or the callback URL is not allowed.",
    429: "The client's rate is used up, or here the upstream's; try again after the seconds in Retry-After.",
    502: "The upstream gave no answer.",
    503: "Try again after the seconds in Retry-After.",
    504: "The upstream took too long.",
}
_OUTCOME = (
    f"The members of the webhook's data; an abandoned task's reason is one of {', '.join(get_args(AbandonReason))}."
)
_WEBHOOKS = {"name": "webhooks", "description": "What a callback URL receives, signed as Standard Webhooks 1.0 asks."}
_EVENTS = {
    "task.succeeded": ("taskSucceeded", "A task has succeeded"),
    "task.failed": ("taskFailed", "A task has failed"),
    "task.abandoned": ("taskAbandoned", "The gateway has given a task up"),
}
_HEADERS = {
    ID_HEADER: "The callback's id, the same in every attempt and redelivery: receivers know a repetition by it.",
    TIMESTAMP_HEADER: "When this attempt was made, in whole seconds since the epoch.",
    SIGNATURE_HEADER: "One entry for each active secret, with blanks between them: v1, and the base64 of HMAC-SHA256 "
    "over webhook-id.webhook-timestamp.body; with a key pair also v1a, and an ed25519 signature.",
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


def document(calls: Sequence[Call]) -> dict[str, Any]:
    """Return the whole document of a table of calls."""
    groups = list({call.group.tag: call.group for call in calls}.values())
    bodies = [group.error_body for group in groups]
    for call in calls:
        bodies += [call.body, *(body for _, body in call.answers.values())]
    types = list(dict.fromkeys(body for body in (*bodies, Webhook, RecordWebhook, Outcome) if isinstance(body, type)))
    references, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    known = dict(zip(types, references, strict=True))
    for kind, example in examples.EXAMPLES.items():
        schemas[kind.__name__]["examples"] = [example]
    outcome = schemas["TaskView"]["properties"]["outcome"]
    outcome |= {"anyOf": [known[Outcome], {"type": "null"}], "description": _OUTCOME}
    paths: dict[str, Any] = {}
    for call in calls:
        item = paths.setdefault(call.mount + re.sub(r":\w+}", "}", call.path), {})
        item.setdefault(call.method.lower(), _operation(call, known))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "webhook-bridging-gateway",
            "version": __version__,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{}, {"token": []}],
        "tags": [*({"name": group.tag, "description": group.text} for group in groups), _WEBHOOKS],
        "paths": paths,
        "webhooks": _webhooks(known[Webhook], known[RecordWebhook]),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(call: Call, known: Mapping[Schema, dict[str, Any]]) -> dict[str, Any]:
    def content(body: Schema, media_type: str) -> dict[str, Any]:
        return {"content": {media_type: {"schema": body if isinstance(body, dict) else known[body]}}}

    group = call.group
    responses: dict[str, Any] = {}
    for status, (text, body) in call.answers.items():
        good_type = "text/plain" if body is str else "application/json"
        holds = {} if body is None else content(body, good_type if status < 400 else group.error_type)
        responses[str(status)] = {"description": text, **holds}
    for status in sorted({*group.errors, *call.errors} - call.answers.keys()):
        responses[str(status)] = {"description": _ERRORS[status], **content(group.error_body, group.error_type)}
    in_path = [Parameter(name, {"type": "string"}, "path", required=True) for name in re.findall(r"{(\w+)", call.path)]
    operation: dict[str, Any] = {
        "operationId": call.id,
        "tags": [group.tag],
        "summary": call.summary,
        "parameters": [
            {"name": name, "in": place, "required": required, "schema": schema}
            for name, schema, place, required in (*in_path, *call.parameters)
        ],
        "responses": responses,
    }
    if call.body is not None:
        operation["requestBody"] = {"required": True, **content(call.body, "application/json")}
    if call.path in PUBLIC:
        operation["security"] = []
    return operation


def _webhooks(schema: dict[str, Any], record_schema: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of each webhook; the schemas are those of the bodies in each format."""
    headers = _headers(_HEADERS, required=True)
    told = {
        event: _webhook(operation_id, summary, headers, schema, examples.WEBHOOKS[event])
        for event, (operation_id, summary) in _EVENTS.items()
    }
    headers = headers + _headers(_RECORD_HEADERS, required=False)
    summary = "A task has ended, or was given up, and its callback is of format record"
    return told | {"record": _webhook("taskRecord", summary, headers, record_schema, examples.RECORD)}


def _webhook(
    operation_id: str, summary: str, headers: list[dict[str, Any]], schema: dict[str, Any], example: Any
) -> dict[str, Any]:
    return {
        "post": {
            "operationId": operation_id,
            "tags": [_WEBHOOKS["name"]],
            "summary": summary,
            "security": [],
            "parameters": headers,
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
            "responses": {status: {"description": text} for status, text in _ANSWERS.items()},
        }
    }


def _headers(texts: Mapping[str, str], *, required: bool) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": required, "schema": {"type": "string"}, "description": text}
        for name, text in texts.items()
    ]
