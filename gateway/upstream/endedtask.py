"""An answer about a task that has ended → what is told of it: the members of its webhook's data, and the record.

Owns which of the answer's members become what, by the profile's paths; pure. Which answers end a task is for
``gateway.upstream.answer`` to say, which calls it.
"""

from typing import Any, NamedTuple

import msgspec

from gateway.config.profile import Profile, dig
from gateway.core.model import TaskState
from gateway.upstream.answervalues import as_instant, as_number, as_text, as_time, decoded, to_ms
from gateway.upstream.envelope import is_faithful

_MAX_MODEL = 255  # characters, as many as a client may give: what is learned is kept by this name
_LONGEST_MS = 30 * 86_400_000  # a task that took longer than anyone waits for one teaches nothing


class EndedTask(NamedTuple):
    """What an answer tells of a task that has ended, and no more of it: it may be large."""

    state: TaskState
    data: dict[str, Any]
    record: bytes | None
    model: str | None
    faithful: bool
    """As in ``PollResult``."""

    @property
    def duration_s(self) -> float | None:
        """The time from creation to end; where one of them is not told, what the upstream calls the duration."""
        created_at, completed_at = as_instant(self.data["createTime"]), as_instant(self.data["completeTime"])
        # The instants come first: some APIs leave the time in their queue out of the duration.
        span_ms = completed_at - created_at if created_at is not None and completed_at is not None else 0
        duration_ms = span_ms if span_ms > 0 else self.data["costTime"]
        return duration_ms / 1000 if duration_ms is not None and 0 < duration_ms <= _LONGEST_MS else None


def told_of_end(profile: Profile, task_id: str, state: TaskState, answer: dict[str, Any]) -> EndedTask:
    """Read an answer about a task that has ended so."""
    fields = profile.fields
    root = task_object(profile, answer)
    record = None if root is None else msgspec.json.encode(root)
    result = decoded(dig(answer, fields.result), profile.json_in_string.result)
    param = decoded(dig(answer, fields.param), profile.json_in_string.param)
    told_model = dig(answer, fields.model)
    data: dict[str, Any] = {"taskId": task_id, "model": told_model, "state": state}
    data["result"] = result.value
    if result.error is not None:
        data["resultRaw"] = result.raw
    data["param"] = param.value
    if param.error is not None:
        data["paramRaw"] = param.raw
    if result.error is not None or param.error is not None:
        problems = (("result", result.error), ("param", param.error))
        data["decodeError"] = "; ".join(f"{name}: {error}" for name, error in problems if error is not None)
    failed = state is TaskState.FAIL  # after a success they may say "ok"
    data["failCode"] = as_text(dig(answer, fields.fail_code)) if failed else None
    data["failMsg"] = as_text(dig(answer, fields.fail_msg)) if failed else None
    cost = as_number(dig(answer, fields.cost_time))
    data["costTime"] = cost if profile.units.cost == "ms" else to_ms(cost)
    data["createTime"] = as_time(profile, dig(answer, fields.create_time))
    data["completeTime"] = as_time(profile, dig(answer, fields.complete_time))
    extra = _extra(profile, root or {})
    if extra:
        data["extra"] = extra
    faithful = not profile.synthesizes or (
        result.is_whole and param.is_whole and is_faithful(profile, task_id, data, answer)
    )
    return EndedTask(state, data, record, _as_model(told_model), faithful)


def task_object(profile: Profile, answer: dict[str, Any]) -> dict[str, Any] | None:
    """Return the object that describes the task, where there is one."""
    root = answer if profile.fields.root is None else dig(answer, profile.fields.root)
    return root if isinstance(root, dict) else None


def _extra(profile: Profile, root: dict[str, Any]) -> dict[str, Any]:
    """Return the members of the task object that no path of the profile names."""
    named = profile.named_members
    return {name: value for name, value in root.items() if name not in named}


def model_of(profile: Profile, answer: dict[str, Any]) -> str | None:
    """Return which model works on the task, where that is told."""
    return _as_model(dig(answer, profile.fields.model))


def _as_model(model: Any) -> str | None:
    return model if isinstance(model, str) and 0 < len(model) <= _MAX_MODEL else None
