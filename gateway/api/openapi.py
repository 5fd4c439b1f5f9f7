"""``/openapi.json``: the API as an OpenAPI 3.1 document.

The schemas come from the wire types, so they cannot drift; paths and sentences are written here, and a test holds
them against the routes.
"""

from typing import Any, get_args

import msgspec

from gateway import __version__
from gateway.api.problems import PROBLEM_TYPE
from gateway.api.schema import AttemptView, CallbackRequest, CallbackView, RedeliveriesRequest, TaskView
from gateway.config.profile import Proxy
from gateway.core.model import CallbackState
from gateway.upstream.answer import AbandonReason

__all__ = ["document"]

_ERRORS = {
    400: "The body is not JSON.",
    401: "The token is missing or wrong.",
    403: "The operator's token registers nothing, and no other one is for another client's callbacks; without a token, "
    "another site's page asks, or Host is no loopback name.",
    404: "There is no such thing, or it is another client's.",
    408: "The body took too long to arrive.",
    409: "The present state does not allow this.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    422: "A field is not valid, or the callback URL is not allowed.",
    429: "The client's rate is used up, or here the upstream's; try again after the seconds in Retry-After.",
    502: "The upstream gave no answer.",
    503: "Try again after the seconds in Retry-After.",
    504: "The upstream took too long.",
}


def document(calls: Proxy | None) -> dict[str, Any]:
    """Return the whole document; ``calls`` are the upstream's own that the gateway serves."""
    types = (CallbackRequest, CallbackView, RedeliveriesRequest, TaskView, AttemptView)
    references, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    request, callback, redeliveries, task, attempt = references
    schemas["Problem"] = _PROBLEM
    schemas["TaskView"]["properties"]["outcome"]["description"] = _OUTCOME
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "webhook-bridging-gateway",
            "version": __version__,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{}, {"token": []}],
        "paths": {
            **_many_callbacks(request, callback),
            **_one_callback(callback, attempt),
            **_redeliveries(redeliveries),
            **_tasks(task),
            **_operators(),
            **({} if calls is None else _proxied(calls)),
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _many_callbacks(request: dict[str, Any], callback: dict[str, Any]) -> dict[str, Any]:
    return {
        "/v1/callbacks": {
            "post": _operation(
                "Register a callback for a task",
                {201: {"the new callback": callback}, 200: {"the one already registered": callback}},
                (400, 401, 408, 409, 413, 415, 422, 503),
                body=request,
            ),
            "get": _operation(
                "List callbacks, newest first",
                {200: {"a page": _page(callback)}},
                (401, 422, 503),
                parameters=[
                    _query("state", {"type": "string", "enum": [state.value for state in CallbackState]}),
                    _query("taskId", {"type": "string"}),
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
                    _query("cursor", {"type": "string"}),
                    _query("client", {"type": "string", "description": "For the operator alone."}),
                ],
            ),
        },
        "/v1/callbacks/batch": {
            "post": _operation(
                "Register up to 1,000 callbacks; each is judged by itself",
                {200: {"an answer for each, in the order sent": _data(_BATCH_ITEM)}},
                (400, 401, 408, 413, 415, 422, 503),
                body={
                    "type": "object",
                    "required": ["callbacks"],
                    "additionalProperties": False,
                    "properties": {"callbacks": {"type": "array", "items": request, "minItems": 1, "maxItems": 1000}},
                },
            )
        },
    }


def _one_callback(callback: dict[str, Any], attempt: dict[str, Any]) -> dict[str, Any]:
    a_callback = {"the callback": callback}
    return {
        "/v1/callbacks/{id}": {
            "get": _operation("Read a callback", {200: a_callback}, (401, 404, 422, 503), parameters=[_ID]),
            "delete": _operation(
                "Cancel a callback", {204: {"cancelled": None}}, (401, 404, 409, 422, 503), parameters=[_ID]
            ),
        },
        "/v1/callbacks/{id}/attempts": {
            "get": _operation(
                "List a callback's attempts",
                {200: {"the attempts": _data(attempt)}},
                (401, 404, 422, 503),
                parameters=[_ID],
            )
        },
        "/v1/callbacks/{id}/redeliver": {
            "post": _operation(
                "Send a webhook again, with a fresh attempt budget and the same webhook-id",
                {202: a_callback},
                (401, 404, 409, 422, 503),
                parameters=[_ID],
            )
        },
    }


def _redeliveries(asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "/v1/redeliveries": {
            "post": _operation(
                "Redeliver every callback that died within a span of time",
                {202: {"how many": {"type": "object", "properties": {"count": {"type": "integer"}}}}},
                (400, 401, 408, 413, 415, 422, 503),
                body=asked,
            )
        },
    }


def _tasks(task: dict[str, Any]) -> dict[str, Any]:
    return {
        "/v1/tasks/{taskId}": {
            "get": _operation(
                "Read a task with its decoded outcome",
                {200: {"the task": task}},
                (401, 404, 422, 503),
                parameters=[
                    {"name": "taskId", "in": "path", "required": True, "schema": {"type": "string"}},
                    _query("wait", {"type": "number", "minimum": 0, "maximum": 60, "default": 0}),
                ],
            )
        },
    }


def _operators() -> dict[str, Any]:
    return {
        "/healthz": {"get": _public("Whether the gateway makes progress", "application/json")},
        "/readyz": {"get": _public("Whether the gateway is ready, and what is wrong", "application/json", _READY)},
        "/metrics": {"get": _public("Metrics in Prometheus' text format", "text/plain")},
        "/openapi.json": {"get": _public("This document", "application/json")},
    }


_OUTCOME = (
    f"The members of the webhook's data; an abandoned task's reason is one of {', '.join(get_args(AbandonReason))}."
)

_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}

_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}

_READY: dict[str, Any] = {
    "type": "object",
    "required": ["status", "reasons"],
    "properties": {
        "status": {"const": "ok"},
        "reasons": {
            "type": "array",
            "items": {"type": "string"},
            "description": "What is wrong and does not stop new work. The answer 503 has the member too.",
        },
    },
}

_BATCH_ITEM: dict[str, Any] = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"type": "integer"},
        "callback": {"$ref": "#/components/schemas/CallbackView"},
        "error": {"$ref": "#/components/schemas/Problem"},
    },
}


_ENVELOPE: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}


def _proxied(calls: Proxy) -> dict[str, Any]:
    """Return the upstream's own calls; their answers and errors have its envelope."""
    request_id = {"name": "X-Request-ID", "in": "header", "schema": {"type": "string", "maxLength": 255}}
    callback_url = {"type": ["string", "null"], "maxLength": 2048}
    read = {
        "summary": "Read a task as the upstream tells it; one with a registered callback costs it no request",
        "parameters": [{**_query(calls.record_param, {"type": "string"}), "required": True}],
        "responses": _enveloped("the task, in the upstream's envelope", (401, 403, 422, 429, 502, 503, 504)),
    }
    create = {
        "summary": "Create a task at the upstream, and register its callback where one is named",
        "parameters": [request_id],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": dict.fromkeys(calls.callback_members, callback_url),
                        "additionalProperties": True,
                    }
                }
            },
        },
        "responses": _enveloped("the upstream's answer", (400, 401, 403, 413, 415, 422, 429, 502, 503, 504)),
    }
    return {calls.record_path: {"get": read}, calls.create_path: {"post": create}}


def _enveloped(answer: str, errors: tuple[int, ...]) -> dict[str, Any]:
    described = {200: answer, **{status: _ERRORS[status] for status in errors}}
    return {str(status): {"description": text, "content": _ENVELOPE} for status, text in described.items()}


def _data(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": ["data"], "properties": {"data": {"type": "array", "items": item}}}


def _page(item: dict[str, Any]) -> dict[str, Any]:
    page = _data(item)
    page["required"].append("nextCursor")
    page["properties"]["nextCursor"] = {"type": ["string", "null"]}
    return page


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def _operation(
    summary: str,
    answers: dict[int, dict[str, Any]],
    errors: tuple[int, ...],
    *,
    body: dict[str, Any] | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in answers.items():
        for description, schema in answer.items():
            content = {} if schema is None else {"content": {"application/json": {"schema": schema}}}
            responses[str(status)] = {"description": description, **content}
    problem = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in sorted({*errors, 403, 429}):
        responses[str(status)] = {"description": _ERRORS[status], "content": problem}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if parameters is not None:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _public(summary: str, media_type: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    content = {media_type: {} if schema is None else {"schema": schema}}
    return {
        "summary": summary,
        "security": [],
        "responses": {
            "200": {"description": "yes", "content": content},
            **{str(status): {"description": _ERRORS[status]} for status in (403, 503)},
        },
    }
