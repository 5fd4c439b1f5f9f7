"""Examples of what goes over the wire, for ``/openapi.json``: one task that was registered, polled and delivered.

Owns their values; a test holds each against its schema.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.api.callbacks import Attempts, CallbackPage, Redelivered
from gateway.api.operations import Health, NotReady, Readiness
from gateway.api.problems import Problem, problem
from gateway.api.registering import BatchAnswers
from gateway.api.schema import BatchRequest, CallbackRequest, RedeliveriesRequest
from gateway.api.views import AttemptView, CallbackView, TaskView
from gateway.core import errors
from gateway.upstream.answer import abandoned

_ID, _URL, _METADATA = "cb_01m83xj8806rph1h63g1e98972", "https://app.example.com/hooks", {"orderId": 7}
_CREATED_AT, _SETTLED_AT = "2026-11-23T10:00:00.000Z", "2026-11-23T10:00:33.120Z"

# As JSON is written: what belongs together on one line.
# fmt: off
_POLLED = {"state": "success", "polls": 3, "lastPolledAt": _SETTLED_AT, "nextPollAt": None, "lastError": None}
_SUCCEEDED: dict[str, Any] = {
    "taskId": "task_xxx", "model": "gpt-image-2-text-to-image", "state": "success",
    "result": {"resultUrls": ["https://cdn.example.com/result.png"]},
    "param": {"model": "gpt-image-2-text-to-image", "input": {"prompt": "A cat"}},
    "failCode": None, "failMsg": None, "costTime": 32241, "createTime": 1777459967759, "completeTime": 1777460000000,
}
_FAILED = {**_SUCCEEDED, "state": "fail", "result": None, "failCode": "400", "failMsg": "The prompt was refused."}
_ABANDONED = msgspec.json.decode(abandoned("task_xxx", "timeout").data)

_REGISTRATION = {"taskId": "task_xxx", "callbackUrl": _URL}
_FULL = {
    **_REGISTRATION, "metadata": _METADATA, "timeoutSeconds": 3600, "model": "gpt-image-2-text-to-image",
    "format": "standard",
}
_BATCH = {"callbacks": [_FULL, {"taskId": "task_yyy", "callbackUrl": "http://10.0.0.7/hooks"}]}
_DEAD = {"state": "dead", "since": _CREATED_AT, "until": _SETTLED_AT}
_CALLBACK = {
    "id": _ID, "taskId": "task_xxx", "callbackUrl": _URL, "metadata": _METADATA, "timeoutSeconds": 3600,
    "upstream": "aigptimage", "format": "standard", "state": "delivered", "createdAt": _CREATED_AT,
    "expiresAt": "2026-11-23T11:00:00.000Z", "attempts": 1, "nextAttemptAt": None,
    "deliveredAt": "2026-11-23T10:00:33.250Z", "lastError": None, "task": _POLLED,
}
_WAITING = {
    **_CALLBACK, "state": "waiting", "attempts": 0, "deliveredAt": None,
    "task": {**_POLLED, "state": "waiting", "polls": 0, "lastPolledAt": None, "nextPollAt": "2026-11-23T10:00:08.400Z"},
}
_ATTEMPT = {
    "number": 1, "startedAt": _SETTLED_AT, "durationMs": 12, "statusCode": 204, "error": None,
    "result": "delivered", "excerpt": None,
}
_NOT_ALLOWED = problem(
    errors.CallbackNotAllowed(
        (refusal := "10.0.0.7 is in a range that callbacks may not reach (private). "
         "GATEWAY_CALLBACK_ALLOW=10.0.0.7:80 would allow it."),
        errors=[("callbackUrl", refusal)],
    )
)

EXAMPLES: dict[type, Any] = {
    CallbackRequest: _FULL,
    BatchRequest: _BATCH,
    RedeliveriesRequest: _DEAD,
    CallbackView: _CALLBACK,
    CallbackPage: {"data": [_CALLBACK], "nextCursor": None},
    BatchAnswers: {"data": [{"status": 201, "callback": _WAITING}, {"status": 422, "error": _NOT_ALLOWED}]},
    TaskView: {
        "taskId": "task_xxx", "upstream": "aigptimage", **_POLLED, "createdAt": _CREATED_AT, "settledAt": _SETTLED_AT,
        "outcome": _SUCCEEDED,
    },
    AttemptView: _ATTEMPT,
    Attempts: {"data": [_ATTEMPT]},
    Redelivered: {"count": 12},
    Health: {"status": "ok"},
    Readiness: {"status": "ok", "reasons": []},
    NotReady: {
        **problem(errors.Unavailable("The gateway is not ready: it is starting.")), "reasons": ["it is starting"],
    },
    Problem: problem(errors.InvalidRequest("taskId: is missing", errors=[("taskId", "is missing")])),
}
REQUESTS: dict[Any, dict[str, Any]] = {
    CallbackRequest: {
        "least": {"summary": "What has to be said", "value": _REGISTRATION},
        "full": {"summary": "With what comes back, a time limit and the model", "value": _FULL},
    },
    BatchRequest: {"two": {"summary": "Two, of which one is refused", "value": _BATCH}},
    RedeliveriesRequest: {
        "all": {"summary": "All that are dead", "value": {"state": "dead"}},
        "span": {"summary": "Those that died within a span of time", "value": _DEAD},
        "receiver": {
            "summary": "How many there are of one receiver",
            "value": {"state": "dead", "receiver": "https://app.example.com", "dryRun": True},
        },
    },
}
"""Of the bodies of requests, by type and name."""
PROBLEMS: dict[int, dict[str, Any]] = {}
"""Of errors, by status and name, which is a code and, where two have that, the status."""
for _error in (
    errors.InvalidJson("The body could not be read as JSON: Input data was truncated."),
    errors.Unauthorized("Send the gateway's token as `Authorization: Bearer TOKEN`."),
    errors.Forbidden("client: only the operator's token is for another client's callbacks."),
    errors.NotFound(f"There is no callback {_ID}."),
    errors.RequestTimeout("The body took longer than 30 s to arrive."),
    errors.Conflict("The task still runs: there is no webhook to redeliver yet."),
    errors.TooLarge("The body may have at most 65536 bytes."),
    errors.UnsupportedMediaType("Send the body as content-type: application/json."),
    errors.InvalidRequest("taskId: is missing", errors=[("taskId", "is missing")]),
    errors.CallbackNotAllowed(refusal, errors=[("callbackUrl", refusal)]),
    errors.RateLimited("This client has used up its rate; try again in 2 s.", retry_after_s=2),
    errors.Unavailable("The database cannot be used at the moment; nothing was stored."),
):
    _name = _error.code if _error.status != 408 else f"{_error.code}_408"
    PROBLEMS.setdefault(_error.status, {})[_name] = {"summary": _error.title, "value": problem(_error)}
WEBHOOKS = {
    event: {
        "type": event, "timestamp": _SETTLED_AT, "data": {"callbackId": _ID, **outcome, "metadata": _METADATA},
    }
    for event, outcome in (
        ("task.succeeded", _SUCCEEDED), ("task.failed", _FAILED), ("task.abandoned", _ABANDONED),
    )
}
_RECORD = {
    "taskId": "task_xxx", "model": "gpt-image-2-text-to-image", "state": "success",
    "param": '{"model":"gpt-image-2-text-to-image","input":{"prompt":"A cat"}}',
    "resultJson": '{"resultUrls":["https://cdn.example.com/result.png"]}', "failCode": None, "failMsg": None,
    "costTime": 32241, "completeTime": 1777460000000, "createTime": 1777459967759,
}
_REFUSED = {"state": "fail", "resultJson": None, "failCode": "400", "failMsg": "The prompt was refused."}
_LATE = {"state": "fail", "resultJson": None, "failCode": "408", "failMsg": "The gateway gave the task up: timeout."}
RECORDS = {
    "success": {"code": 200, "msg": "Playground task completed successfully.", "data": _RECORD},
    "fail": {"code": 501, "msg": "Playground task failed.", "data": {**_RECORD, **_REFUSED}},
    "abandoned": {"code": 408, "msg": "Playground task abandoned.", "data": {**_RECORD, **_LATE}},
}


def create(callback_members: Sequence[str]) -> dict[str, Any]:
    """Return what creates a task at an upstream of the family, and has its webhook sent."""
    task = {"model": "gpt-image-2-text-to-image", "input": {"prompt": "A cat"}}
    return task | dict.fromkeys(callback_members[:1], _URL)
