"""The API as an OpenAPI 3.1 document; imported when it is first asked for.

Owns the words about errors, and what no type can say: paths are the table's and schemas the wire types', so that none
can drift. The words about calls are in ``calltexts``, webhooks in ``openwebhooks``, values in ``examples``.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gateway import __version__
from gateway.api import examples, openevents
from gateway.api.auth import PUBLIC
from gateway.api.calltexts import TEXTS
from gateway.api.openwebhooks import OUTCOME, TAG, Outcome, RecordWebhook, Webhook, webhooks
from gateway.api.problems import PROBLEM_TYPE
from gateway.api.routing import Call, Parameter, Schema
from gateway.api.views import CallbackView
from gateway.core.errors import RequestError
from gateway.net.urlshape import CALLBACK_URL

_ABOUT = """\
Register a callback for a task of an upstream; the gateway polls the task, and POSTs a signed webhook when it has ended.

Send `Authorization: Bearer TOKEN` where the gateway has tokens. Each error is `application/problem+json` with a \
`code` that stays the same; below an upstream's own paths it has that upstream's envelope. Members and query \
parameters that a call does not know are refused.
"""
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
_RETRY_AFTER = ("Retry-After", "In how many seconds to try again.", {"type": "integer", "minimum": 0})
_ERROR_HEADERS: dict[int, tuple[str, str, dict[str, Any]]] = {
    401: ("WWW-Authenticate", "The scheme that would be accepted.", {"type": "string", "const": "Bearer"}),
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_PASSED_ON = "Whatever else the upstream has answered, passed on as it came."
_LINKS = {
    name: {"operationId": name, "parameters": {"id": "$response.body#/id"}}
    for name in ("getCallback", "listAttempts", "cancelCallback", "redeliverCallback")
} | {"getTask": {"operationId": "getTask", "parameters": {"taskId": "$response.body#/taskId"}}}
"""What can be asked next of a callback that was answered."""


def document(calls: Sequence[Call], upstreams: Collection[str] = (), root_path: str = "") -> dict[str, Any]:
    """Return the whole document of a table of calls.

    ``upstreams``: the names that a callback may give, where they are known. ``root_path`` stands before all paths.
    """
    groups = list({call.group.tag: call.group for call in calls}.values())
    bodies = [group.error_body for group in groups]
    for call in calls:
        bodies += [call.body, *(body for _, body in call.answers.values())]
    events = {event: body for event, (*_, body) in openevents.EVENTS.items()}
    bodies += [Webhook, RecordWebhook, Outcome, *events.values()]
    types = list(dict.fromkeys(body for body in bodies if isinstance(body, type)))
    references, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    known = dict(zip(types, references, strict=True))
    _complete(schemas, upstreams)
    outcome = schemas["TaskView"]["properties"]["outcome"]
    outcome |= {"anyOf": [known[Outcome], {"type": "null"}], "description": OUTCOME}
    paths: dict[str, Any] = {}
    for call in calls:
        item = paths.setdefault(call.mount + re.sub(r":\w+}", "}", call.path), {})
        item.setdefault(call.method.lower(), _operation(call, known))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "webhook-bridging-gateway",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": root_path or "/"}],
        "security": [{}, {"token": []}],
        "tags": [*({"name": group.tag, "description": group.text} for group in groups), TAG],
        "paths": paths,
        "webhooks": webhooks(
            known[Webhook], known[RecordWebhook], {event: known[body] for event, body in events.items()}
        ),
        "components": {
            "schemas": schemas,
            "examples": {name: one for named in examples.PROBLEMS.values() for name, one in named.items()},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A client's token, or the operator's."}
            },
        },
    }


def _complete(schemas: dict[str, Any], upstreams: Collection[str]) -> None:
    """Add to the types' schemas what their types do not say."""
    for kind, example in examples.EXAMPLES.items():
        schemas[kind.__name__]["examples"] = [example]
    for schema in schemas.values():
        if "enum" in schema:
            schema.setdefault("type", "string")
        for member in schema.get("properties", {}).values():
            # Generators of clients take a member with a default for one that is always there, so their callers have to
            # give it; and an object of which nothing is told for an empty one.
            member.pop("default", None)
            for one in (member, *member.get("anyOf", ())):
                if one.get("type") == "object":
                    one.setdefault("additionalProperties", True)
    schemas["Problem"]["properties"]["code"]["enum"] = sorted({error.code for error in _all_errors(RequestError)})
    asked = schemas["CallbackRequest"]["properties"]
    asked["callbackUrl"]["pattern"] = CALLBACK_URL
    timeout = asked["timeoutSeconds"]["anyOf"][0]
    timeout["type"] = "integer" if timeout.pop("multipleOf") == 1 else timeout["type"]
    if upstreams:
        asked["upstream"]["anyOf"][0]["enum"] = sorted(upstreams)


def _all_errors(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _all_errors(narrower)


def _operation(call: Call, known: Mapping[Schema, dict[str, Any]]) -> dict[str, Any]:
    group = call.group
    responses: dict[str, Any] = {}
    for status, (text, body) in call.answers.items():
        good_type = "text/plain" if body is str else "application/json"
        responses[str(status)] = {
            "description": text[:1].upper() + text[1:] + ".",
            **({} if body is None else _content(body, known, good_type if status < 400 else group.error_type)),
            **(_headers(call, status)),
            **({"links": _LINKS} if body is CallbackView else {}),
        }
    for status in sorted({*group.errors, *call.errors} - call.answers.keys()):
        content = _content(group.error_body, known, group.error_type)
        if group.error_type == PROBLEM_TYPE:
            named = {name: {"$ref": f"#/components/examples/{name}"} for name in examples.PROBLEMS[status]}
            content["content"][PROBLEM_TYPE]["examples"] = named
        responses[str(status)] = {"description": _ERRORS[status], **content, **_headers(call, status)}
    if group.any_status:
        responses["default"] = {"description": _PASSED_ON}
    told = {one.name for one in call.parameters if one.place == "path"}
    rest = [
        Parameter(name, {"type": "string"}, "path", required=True, text="As the upstream has it.")
        for name in re.findall(r"{(\w+)", call.path)
        if name not in told
    ]
    operation: dict[str, Any] = {
        "operationId": call.id,
        "tags": [group.tag],
        "summary": call.summary,
        "description": TEXTS[call.like or call.id],
        "parameters": [_parameter(one) for one in (*rest, *call.parameters)],
        "responses": responses,
    }
    if call.body is not None:
        content = _content(call.body, known, "application/json")
        if isinstance(call.body, type):
            content["content"]["application/json"]["examples"] = examples.REQUESTS[call.body]
        operation["requestBody"] = {"required": True, **content}
    if call.path in PUBLIC:
        operation["security"] = []
    return operation


def _content(body: Schema, known: Mapping[Schema, dict[str, Any]], media_type: str) -> dict[str, Any]:
    return {"content": {media_type: {"schema": body if isinstance(body, dict) else known[body]}}}


def _headers(call: Call, status: int) -> dict[str, Any]:
    """Return what is told of the headers of an answer; those of an answer that is passed on nobody promises."""
    told: dict[str, tuple[str, dict[str, Any]]] = {}
    if status < 400:
        told = {name: (text, {"type": "string"}) for name, text in call.headers.items()}
    elif status in _ERROR_HEADERS:
        name, text, schema = _ERROR_HEADERS[status]
        told = {name: (text, schema)}
    required = status == 401 or status < 400 or not call.group.any_status
    headers = {
        name: {"description": text, "required": required, "schema": schema} for name, (text, schema) in told.items()
    }
    return {"headers": headers} if headers else {}


def _parameter(one: Parameter) -> dict[str, Any]:
    told = {"name": one.name, "in": one.place, "required": one.required, "schema": one.schema}
    if one.text:
        told["description"] = one.text
    if one.example is not None:
        told["example"] = one.example
    return told
