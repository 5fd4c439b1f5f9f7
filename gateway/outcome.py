"""Upstream answer → what it means: the task's fate, and why a poll brought no usable answer.

Owns the classification and the lenient decoding; pure. Called by ``upstream.py`` with the raw answer.

HTTP status and the envelope's own code count together, because members of the family answer errors with HTTP 200.
Only the task's own state ends a task: an error answer about one poll is never its outcome, and a word that is not
known means that it still runs.
"""

from enum import StrEnum
from typing import Any

import msgspec

from gateway.model import Outcome, TaskState
from gateway.profile import Profile, dig

__all__ = ["PollKind", "PollResult", "abandoned", "read_answer"]


class PollKind(StrEnum):
    """What one poll came to."""

    RUNNING = "running"
    TERMINAL = "terminal"
    NOT_KNOWN = "not_known"  # 404 or 422: a task too fresh, or one that does not exist
    THROTTLED = "throttled"
    KEY_REFUSED = "key_refused"
    CREDITS = "credits"
    MAINTENANCE = "maintenance"
    BROKEN = "broken"  # an answer that makes no sense, or a server error
    UNREACHABLE = "unreachable"  # no answer at all


class PollResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one poll came to, with the outcome where the task has ended."""

    kind: PollKind
    outcome: Outcome | None = None
    error: str | None = None
    """A sentence for people where the poll brought no usable answer."""
    retry_after_s: float | None = None
    """How long the upstream asked to be left alone, in seconds; at most an hour."""
    task_created_at: int | None = None
    """When the upstream created the task, where it says so."""


_KINDS = {
    401: PollKind.KEY_REFUSED,
    402: PollKind.CREDITS,
    403: PollKind.KEY_REFUSED,
    404: PollKind.NOT_KNOWN,
    422: PollKind.NOT_KNOWN,
    429: PollKind.THROTTLED,
    433: PollKind.CREDITS,
    455: PollKind.MAINTENANCE,
    503: PollKind.MAINTENANCE,
    505: PollKind.MAINTENANCE,
}
"""By HTTP status or envelope code; every other error is BROKEN. Source: the public documentation of the API family."""

_MAX_ERROR = 300  # characters of a remote message that are kept
_MAX_DIGITS = 19  # a longer number in a string is none; from 4,301 digits on, int() itself refuses
_RETRY_AFTER_CAP_S = 3600.0


def read_answer(profile: Profile, task_id: str, status: int, retry_after_s: float | None, body: bytes) -> PollResult:
    """Classify one answer of the status URL. Never raises on account of what the upstream sent."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return _failed(profile, status, retry_after_s, None, f"not JSON ({exc}): {_excerpt(body)}")
    if not isinstance(answer, dict):
        return _failed(profile, status, retry_after_s, None, f"not a JSON object: {_excerpt(body)}")
    state = dig(answer, profile.states.path)
    told_id = dig(answer, profile.fields.task_id)
    about_us = told_id in (None, "", task_id)
    if isinstance(state, str) and about_us:
        if state in profile.states.success:
            return _terminal(profile, task_id, TaskState.SUCCESS, answer)
        if state in profile.states.fail:
            return _terminal(profile, task_id, TaskState.FAIL, answer)
    code = _code(profile, status, answer)
    if code is not None:
        return _failed(profile, code, retry_after_s, answer, _message(profile, answer))
    if not about_us:
        return PollResult(kind=PollKind.BROKEN, error="The upstream answered about another task.")
    if not isinstance(state, str) or not state:
        return PollResult(kind=PollKind.BROKEN, error=f"The answer has no {profile.states.path}: {_excerpt(body)}")
    return PollResult(kind=PollKind.RUNNING, task_created_at=_instant(dig(answer, profile.fields.create_time)))


def abandoned(task_id: str, reason: str) -> Outcome:
    """Return the outcome of a task that the gateway gives up; ``reason`` such as ``timeout`` or ``not_found``."""
    data: dict[str, Any] = {
        "taskId": task_id,
        "model": None,
        "state": TaskState.ABANDONED,
        "reason": reason,
        "result": None,
        "param": None,
        "failCode": None,
        "failMsg": None,
        "costTime": None,
        "createTime": None,
        "completeTime": None,
    }
    return Outcome(state=TaskState.ABANDONED, data=msgspec.json.encode(data))


def _code(profile: Profile, status: int, answer: dict[str, Any]) -> int | None:
    """Return the error this answer is, by its envelope's code or its HTTP status; None for a good one."""
    code = _number(dig(answer, profile.envelope.code))
    # A code that says nothing here (-1, 1001) must not hide a status that does (401, 429).
    if isinstance(code, int) and code not in profile.envelope.ok and (code in _KINDS or status not in _KINDS):
        return code
    return None if 200 <= status < 300 else status


def _failed(
    profile: Profile, code: int, retry_after_s: float | None, answer: dict[str, Any] | None, detail: str
) -> PollResult:
    if answer is None and 200 <= code < 300:
        return PollResult(kind=PollKind.BROKEN, error=f"The upstream's answer is {detail}"[:_MAX_ERROR])
    hints = [hint for hint in (retry_after_s, _number(dig(answer, profile.envelope.retry_after))) if hint is not None]
    # Capped before it is a float: the number may be too large for one, and no later arithmetic may overflow.
    retry_after_s = float(min(max(hints), _RETRY_AFTER_CAP_S)) if hints and max(hints) >= 0 else None
    error = f"The upstream answered {code}: {detail}"[:_MAX_ERROR]
    return PollResult(kind=_KINDS.get(code, PollKind.BROKEN), error=error, retry_after_s=retry_after_s)


def _terminal(profile: Profile, task_id: str, state: TaskState, answer: dict[str, Any]) -> PollResult:
    fields = profile.fields
    result, result_raw, result_error = _decoded(dig(answer, fields.result), profile.json_in_string.result)
    param, param_raw, param_error = _decoded(dig(answer, fields.param), profile.json_in_string.param)
    data: dict[str, Any] = {"taskId": task_id, "model": dig(answer, fields.model), "state": state, "result": result}
    if result_error is not None:
        data["resultRaw"] = result_raw
    data["param"] = param
    if param_error is not None:
        data["paramRaw"] = param_raw
    if result_error is not None or param_error is not None:
        problems = (("result", result_error), ("param", param_error))
        data["decodeError"] = "; ".join(f"{name}: {error}" for name, error in problems if error is not None)
    data["failCode"] = _text(dig(answer, fields.fail_code))
    data["failMsg"] = _text(dig(answer, fields.fail_msg))
    data["costTime"] = _number(dig(answer, fields.cost_time))
    data["createTime"] = _number(dig(answer, fields.create_time))
    data["completeTime"] = _number(dig(answer, fields.complete_time))
    extra = _extra(profile, answer)
    if extra:
        data["extra"] = extra
    return PollResult(
        kind=PollKind.TERMINAL,
        outcome=Outcome(state=state, data=msgspec.json.encode(data)),
        task_created_at=_instant(data["createTime"]),
    )


def _decoded(value: Any, in_string: bool) -> tuple[Any, str | None, str | None]:
    """Return the decoded value, and for a string that is not JSON the raw text and why."""
    if value == "" or not in_string or not isinstance(value, str):
        return (None if value == "" else value), None, None
    try:
        return msgspec.json.decode(value), None, None
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as exc:
        return None, value, str(exc)


def _extra(profile: Profile, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the members of the task object that no path of the profile names."""
    fields = profile.fields
    root = answer if fields.root is None else dig(answer, fields.root)
    if not isinstance(root, dict):
        return {}
    prefix = () if fields.root is None else tuple(fields.root.split("."))
    named = set()
    for path in (profile.states.path, *msgspec.structs.astuple(fields)[1:]):
        names = () if path is None else tuple(path.split("."))
        if names[: len(prefix)] == prefix and len(names) > len(prefix):
            named.add(names[len(prefix)])
    return {name: value for name, value in root.items() if name not in named}


def _text(value: Any) -> str | None:
    """Fold the family's variety: integer codes become strings, an empty string is no value."""
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _number(value: Any) -> int | float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if isinstance(value, str) and value.isdecimal() and len(value) <= _MAX_DIGITS:
        return int(value)
    return None


def _instant(value: Any) -> int | None:
    number = _number(value)
    # Milliseconds between 2001 and 2286; anything else is not a creation time.
    return int(number) if number is not None and 1e12 <= number < 1e13 else None


def _message(profile: Profile, answer: dict[str, Any]) -> str:
    for path in profile.envelope.message:
        value = dig(answer, path)
        if isinstance(value, str) and value:
            return value
    return "no reason given"


def _excerpt(body: bytes) -> str:
    return repr(body[:80].decode("utf-8", "replace"))
