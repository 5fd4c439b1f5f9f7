"""Examples of what goes over the wire, for ``/openapi.json``: one task that was registered, polled and delivered.

Owns their values; they are instances of the wire types, so that none can lack a member or have one too many.
"""

from typing import Any

import msgspec

from gateway.api.problems import Problem, problem
from gateway.api.schema import CallbackRequest, RedeliveriesRequest
from gateway.api.views import AttemptView, CallbackView, Outcome, TaskSummary, TaskView
from gateway.core.errors import InvalidRequest
from gateway.core.model import AttemptResult, CallbackState, TaskState
from gateway.upstream.answer import abandoned

__all__ = ["ABANDONED", "CALLBACK_ID", "EXAMPLES", "FAILED", "METADATA", "SUCCEEDED"]

CALLBACK_ID = "cb_01m83xj8806rph1h63g1e98972"
METADATA = {"orderId": 7}
SUCCEEDED: Outcome = {
    "taskId": "task_xxx",
    "model": "gpt-image-2-text-to-image",
    "state": "success",
    "result": {"resultUrls": ["https://cdn.example.com/result.png"]},
    "param": {"model": "gpt-image-2-text-to-image", "input": {"prompt": "A cat"}},
    "failCode": None,
    "failMsg": None,
    "costTime": 32241,
    "createTime": 1777459967759,
    "completeTime": 1777460000000,
}
FAILED: Outcome = {**SUCCEEDED, "state": "fail", "result": None, "failCode": "400", "failMsg": "Not this prompt."}
ABANDONED: dict[str, Any] = msgspec.json.decode(abandoned("task_xxx", "timeout").data)

_URL = "https://app.example.com/hooks"
_CREATED_AT, _SETTLED_AT = "2026-11-23T10:00:00.000Z", "2026-11-23T10:00:33.120Z"
_POLLED: dict[str, Any] = {
    "state": TaskState.SUCCESS,
    "polls": 3,
    "last_polled_at": _SETTLED_AT,
    "next_poll_at": None,
    "last_error": None,
}
_CALLBACK = CallbackView(
    id=CALLBACK_ID,
    task_id="task_xxx",
    callback_url=_URL,
    metadata=msgspec.Raw(msgspec.json.encode(METADATA)),
    timeout_seconds=3600,
    upstream="aigptimage",
    state=CallbackState.DELIVERED,
    created_at=_CREATED_AT,
    expires_at="2026-11-23T11:00:00.000Z",
    attempts=1,
    next_attempt_at=None,
    delivered_at="2026-11-23T10:00:33.250Z",
    last_error=None,
    task=TaskSummary(**_POLLED),
)
_TASK = TaskView(
    task_id="task_xxx",
    upstream="aigptimage",
    created_at=_CREATED_AT,
    settled_at=_SETTLED_AT,
    outcome=msgspec.Raw(msgspec.json.encode(SUCCEEDED)),
    **_POLLED,
)
_ATTEMPT = AttemptView(
    number=1,
    started_at=_SETTLED_AT,
    duration_ms=12,
    status_code=503,
    error="The receiver answered 503.",
    result=AttemptResult.RETRY,
    excerpt=None,
)
EXAMPLES: dict[type, Any] = {
    CallbackRequest: CallbackRequest(
        task_id="task_xxx", callback_url=_URL, metadata=METADATA, timeout_seconds=3600, upstream="aigptimage"
    ),
    RedeliveriesRequest: RedeliveriesRequest(state="dead", since=_CREATED_AT, until=_SETTLED_AT),
    CallbackView: _CALLBACK,
    TaskView: _TASK,
    AttemptView: _ATTEMPT,
    Problem: problem(InvalidRequest("taskId: is missing", errors=[("taskId", "is missing")])),
}
