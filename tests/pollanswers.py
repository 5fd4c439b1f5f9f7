"""Answers about one task, as an upstream gives them, and what the gateway reads in them.

Called by the tests of what each kind of answer means.
"""

import json
from typing import Any

import msgspec

from gateway.upstream.answer import PollResult, read_answer
from tests.profiles import SHIPPED

__all__ = ["PROFILE", "TASK", "about", "read", "without_record"]

PROFILE = SHIPPED["aigptimage"]
TASK = "task_xxx"


def read(body: bytes | dict[str, Any], status: int = 200, retry_after_s: float | None = None) -> PollResult:
    """Read an answer about TASK."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(PROFILE, TASK, status, retry_after_s, raw)


def about(state: object, **members: Any) -> dict[str, Any]:
    """Return a good envelope around TASK in a state."""
    return {"code": 200, "msg": "success", "data": {"taskId": TASK, "state": state, **members}}


def without_record(result: PollResult) -> PollResult:
    """Return what is made of an answer, but for the task as it came."""
    assert result.record is not None
    return msgspec.structs.replace(result, record=None)
