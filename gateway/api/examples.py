"""Examples of what goes over the wire, for ``/openapi.json``: one task that was registered, polled and delivered.

Owns their values; a test holds each against its schema.
"""

from typing import Any

import msgspec

from gateway.api.problems import Problem, problem
from gateway.api.schema import CallbackRequest, RedeliveriesRequest
from gateway.api.views import AttemptView, CallbackView, TaskView
from gateway.core.errors import InvalidRequest
from gateway.upstream.answer import abandoned

__all__ = ["EXAMPLES", "RECORD", "WEBHOOKS"]

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

EXAMPLES: dict[type, Any] = {
    CallbackRequest: {
        "taskId": "task_xxx", "callbackUrl": _URL, "metadata": _METADATA, "timeoutSeconds": 3600,
        "model": "gpt-image-2-text-to-image", "format": "standard",
    },
    RedeliveriesRequest: {"state": "dead", "since": _CREATED_AT, "until": _SETTLED_AT},
    CallbackView: {
        "id": _ID, "taskId": "task_xxx", "callbackUrl": _URL, "metadata": _METADATA, "timeoutSeconds": 3600,
        "upstream": "aigptimage", "format": "standard", "state": "delivered", "createdAt": _CREATED_AT,
        "expiresAt": "2026-11-23T11:00:00.000Z", "attempts": 1, "nextAttemptAt": None,
        "deliveredAt": "2026-11-23T10:00:33.250Z", "lastError": None, "task": _POLLED,
    },
    TaskView: {
        "taskId": "task_xxx", "upstream": "aigptimage", **_POLLED, "createdAt": _CREATED_AT, "settledAt": _SETTLED_AT,
        "outcome": _SUCCEEDED,
    },
    AttemptView: {
        "number": 1, "startedAt": _SETTLED_AT, "durationMs": 12, "statusCode": 204, "error": None,
        "result": "delivered", "excerpt": None,
    },
    Problem: problem(InvalidRequest("taskId: is missing", errors=[("taskId", "is missing")])),
}
WEBHOOKS = {
    event: {
        "type": event, "timestamp": _SETTLED_AT, "data": {"callbackId": _ID, **outcome, "metadata": _METADATA},
    }
    for event, outcome in (
        ("task.succeeded", _SUCCEEDED), ("task.failed", _FAILED), ("task.abandoned", _ABANDONED),
    )
}
RECORD = {
    "code": 200, "msg": "Playground task completed successfully.",
    "data": {
        "taskId": "task_xxx", "model": "gpt-image-2-text-to-image", "state": "success",
        "param": '{"model":"gpt-image-2-text-to-image","input":{"prompt":"A cat"}}',
        "resultJson": '{"resultUrls":["https://cdn.example.com/result.png"]}', "failCode": None, "failMsg": None,
        "costTime": 32241, "completeTime": 1777460000000, "createTime": 1777459967759,
    },
}
