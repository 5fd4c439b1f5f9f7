"""The table of the API's calls: each with its path, method, handler, body, answers and errors.

Owns which calls there are. What is served and what ``/openapi.json`` says are both made of it, so that neither can have
what the other has not. Called by the wiring; a row's handler must answer nothing but what stands in its row.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import examples
from gateway.api.callbacks import DEFAULT_LIMIT, MAX_LIMIT, Attempts, CallbackPage, Callbacks, Redelivered
from gateway.api.mounts import OWN, Mount
from gateway.api.operations import Health, NotReady, Operations, Readiness
from gateway.api.proxy import UpstreamProxy
from gateway.api.registering import BatchAnswers, Registering
from gateway.api.routing import Call, Group, Parameter
from gateway.api.schema import CLIENT, END, TASK_ID_PATTERN, BatchRequest, CallbackRequest, RedeliveriesRequest
from gateway.api.tasks import MAX_WAIT_S, Tasks
from gateway.api.views import CallbackView, TaskView
from gateway.core.model import CallbackState

_NAME = re.compile(r"\{\w+")
_TASK_ID = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": TASK_ID_PATTERN}
_REQUEST_ID = Parameter(
    "X-Request-ID", {"type": "string", "maxLength": 255, "pattern": f"^[!-~]*{END}"}, "header",
    text="Your own id of this request: under it no second task is made.",
)  # fmt: skip
_TRACE = Parameter(
    "traceparent", {"type": "string"}, "header",
    text="What your request is a part of (W3C Trace Context). It and tracestate are sent with each attempt.",
    example="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)  # fmt: skip
_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}
_URL = {"type": ["string", "null"], "maxLength": 2048}
_WAIT = Parameter(
    "wait", {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0},
    text="Seconds to wait for the task's end.", example=30,
)  # fmt: skip
_LIST = (
    Parameter(
        "state", {"type": "string", "enum": [state.value for state in CallbackState]}, text="Only those in this state.",
        example="dead",
    ),
    Parameter("taskId", _TASK_ID, text="Only those of this task.", example="task_xxx"),
    Parameter(
        "limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        text="How many a page has at most.", example=20,
    ),
    Parameter("cursor", {"type": "string", "minLength": 1}, text="The nextCursor of the page before."),
    Parameter(
        "client", {"type": "string", "maxLength": 64, "pattern": CLIENT.pattern},
        text="Only this client's; for the operator alone, to others it is 403.",
    ),
)  # fmt: skip
_ID = (
    Parameter(
        "id", {"type": "string", "pattern": f"^cb_[0-9a-z]{{26}}{END}"}, "path", required=True,
        text="The callback's id, as its registration was answered.", example="cb_01m83xj8806rph1h63g1e98972",
    ),
)  # fmt: skip
_TASK = (
    Parameter(
        "taskId", _TASK_ID, "path", required=True, text="The task's id at the upstream; it may hold slashes.",
        example="task_xxx",
    ),
)  # fmt: skip
_LOCATION = {"Location": "The callback's path."}
_CALLBACK = ("the callback", CallbackView)
_BODY = (400, 408, 413, 415)
"""What a body may be refused with, beside its members."""

_CALLBACKS = Group(
    "callbacks",
    "One callback is a task, where its webhook goes, and the one webhook that is owed.",
    (401, 403, 422, 429, 503),
)
_TASKS = _CALLBACKS._replace(tag="tasks", text="What the gateway knows of the upstream's tasks.")
# Some probes add a parameter against caches.
_OPERATING = Group("operating", "For operators and their machines; needs no token.", (403, 503), any_query=True)
_UPSTREAM = Group(
    "upstream",
    "The upstream's own calls, for clients that use the gateway as their base URL. What the upstream answers is passed "
    "on, errors too; those of the gateway have the upstream's envelope.",
    (401, 403, 422, 429, 502, 503, 504),
    "application/json",
    _OBJECT,
    any_query=True,
    any_status=True,
)


class _Description:
    """Serves the document of a table of calls."""

    def __init__(self, calls: Sequence[Call], registering: Registering) -> None:
        self._calls = calls
        self._registering = registering
        self._document: bytes | None = None

    async def get(self, request: Request) -> Response:
        if self._document is None:
            from gateway.api.openapi import document  # here: few gateways are ever asked

            whole = document(self._calls, self._registering.upstreams, self._registering.root_path)
            self._document = msgspec.json.encode(whole)
        return Response(self._document, media_type="application/json")


# One row is one call, in the order of Call's members: what serves it, and below it what it answers.
# fmt: off
def table(
    registering: Registering, callbacks: Callbacks, tasks: Tasks, operations: Operations, mounts: Sequence[Mount]
) -> list[Call]:
    """Return all calls; ``mounts`` have the upstreams' own."""
    calls = [
        Call(_CALLBACKS, "POST", "/v1/callbacks", registering.register, "registerCallback",
             "Register a callback for a task",
             {201: ("the new callback", CallbackView), 200: ("the one already registered", CallbackView)},
             (*_BODY, 409), body=CallbackRequest, parameters=(_TRACE,), headers=_LOCATION),
        Call(_CALLBACKS, "GET", "/v1/callbacks", callbacks.list_all, "listCallbacks",
             "List callbacks, newest first",
             {200: ("a page", CallbackPage)}, parameters=_LIST),
        Call(_CALLBACKS, "POST", "/v1/callbacks/batch", registering.register_batch, "registerCallbacks",
             "Register up to 1,000 callbacks; each is judged by itself",
             {200: ("an answer for each, in the order sent", BatchAnswers)}, _BODY, body=BatchRequest,
             parameters=(_TRACE,)),
        Call(_CALLBACKS, "GET", "/v1/callbacks/{id}", callbacks.get, "getCallback",
             "Read a callback",
             {200: _CALLBACK}, (404,), parameters=_ID),
        Call(_CALLBACKS, "DELETE", "/v1/callbacks/{id}", callbacks.cancel, "cancelCallback",
             "Cancel a callback",
             {204: ("cancelled", None)}, (404, 409), parameters=_ID),
        Call(_CALLBACKS, "GET", "/v1/callbacks/{id}/attempts", callbacks.attempts, "listAttempts",
             "List a callback's attempts",
             {200: ("its last 200; of several in a row that do not count the first and the last", Attempts)},
             (404,), parameters=_ID),
        Call(_CALLBACKS, "POST", "/v1/callbacks/{id}/redeliver", callbacks.redeliver, "redeliverCallback",
             "Send a webhook again, with a fresh attempt budget and the same webhook-id",
             {202: _CALLBACK}, (404, 409, 415), parameters=_ID),
        Call(_CALLBACKS, "POST", "/v1/redeliveries", callbacks.redeliver_dead, "redeliverCallbacks",
             "Redeliver every callback that died within a span of time",
             {202: ("how many", Redelivered), 200: ("how many it would be, of a dry run", Redelivered)}, _BODY,
             body=RedeliveriesRequest),
        Call(_TASKS, "GET", "/v1/tasks/{taskId:path}", tasks.get, "getTask",
             "Read a task with its decoded outcome",
             {200: ("the task", TaskView)}, (404,), parameters=(*_TASK, _WAIT)),
        Call(_OPERATING, "GET", "/healthz", operations.healthz, "getHealth",
             "Whether the gateway makes progress",
             {200: ("yes", Health)}),
        Call(_OPERATING, "GET", "/readyz", operations.readyz, "getReadiness",
             "Whether the gateway is ready, and what is wrong",
             {200: ("yes", Readiness), 503: ("no", NotReady)}),
        Call(_OPERATING, "GET", "/metrics", operations.metrics, "getMetrics",
             "Metrics in Prometheus' text format",
             {200: ("the metrics", str)}),
    ]
    description = _Description(calls, registering)  # of itself too, and of what is added below
    calls.append(
        Call(_OPERATING, "GET", "/openapi.json", description.get, "getDescription",
             "This document",
             {200: ("an OpenAPI document", _OBJECT)}))
    calls += _mounted(mounts)
    return calls


def _mounted(mounts: Sequence[Mount]) -> Iterator[Call]:
    """Yield the upstreams' own calls, each path by the names that it has first, and of equal ones the first.

    At the root the gateway's own come before all of them.
    """
    ids: Counter[str] = Counter()
    for mount in mounts:
        paths: dict[str, str] = {}
        seen: set[tuple[str, str]] = set()
        for proxy in mount.proxies:
            for call in _upstream(mount.prefix, proxy):
                path = paths.setdefault(_NAME.sub("{", call.path), call.path)
                if (call.method, path) in seen or (not mount.prefix and path.startswith(OWN)):
                    continue
                seen.add((call.method, path))
                ids[call.id] += 1
                again = ids[call.id] if ids[call.id] > 1 else ""
                yield call._replace(path=path, id=f"{call.id}{again}", mount=mount.prefix)


def _upstream(mount: str, proxy: UpstreamProxy) -> Iterator[Call]:
    own, read = proxy.calls, proxy.record_call
    urls = {
        "type": "object",
        "properties": dict.fromkeys(own.callback_members, _URL),
        "additionalProperties": True,
        "examples": [examples.create(own.callback_members)],
    }
    whose = "".join(word.capitalize() for word in proxy.name.split("-")) if mount else "Upstream"
    in_query = [] if read.param is None else [Parameter(read.param, _TASK_ID, required=True, example="task_xxx")]
    yield Call(_UPSTREAM, "GET", read.path, proxy.read, f"read{whose}Task",
               "Read a task as the upstream tells it; one that the gateway watches costs it no request",
               {200: ("the task, in the upstream's envelope", _OBJECT)},
               parameters=(*in_query, _WAIT),
               like="read")
    for path in proxy.create_paths:
        yield Call(_UPSTREAM, "POST", path, partial(proxy.create, mount), f"create{whose}Task",
                   "Create a task at the upstream, and register its callback where one is named",
                   {200: ("the upstream's answer", _OBJECT)}, (400, 409, 413, 415), body=urls,
                   parameters=(_REQUEST_ID,), headers={"X-Request-ID": "The request's own, or one that was made."},
                   like="create")
    for method, path in proxy.passed:
        yield Call(_UPSTREAM, method, path, partial(proxy.pass_on, mount, method),
                   f"{method.lower()}{whose}",
                   "Passed on to the upstream as it comes",
                   {200: ("the upstream's answer", None)}, (413, 415), like="pass")
