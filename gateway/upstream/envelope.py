"""Task → the upstream's own answer about it: the way back of ``gateway.upstream.answer``.

Owns the envelope that clients of the upstream expect, for tasks and for errors; pure. Must not know HTTP. Called by the
proxy, by ``gateway.api.problems``, and by the poller for the record of a task that is given up. Members stand where the
profile's paths say, in the order of the upstream's page. What the upstream has not told itself is written where a
profile has ``[proxy] synthesize``: times are milliseconds then and states are words; and of a task that was created
just now where it has ``created_record``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.config.profile import WAITING, Profile, dig
from gateway.core import lenientjson
from gateway.core.clock import to_iso
from gateway.core.jsontemplate import filled
from gateway.core.model import Task, TaskState

__all__ = ["error_envelope", "given_up", "is_faithful", "new_record", "record_envelope", "told_envelope"]

_OK_MESSAGE = "success"


def record_envelope(profile: Profile, task: Task) -> bytes:
    """Return the answer about a task that the upstream has ended, or that it still works on."""
    fields, states = profile.fields, profile.states
    # Raw: numbers keep their digits, and what goes back into a string is its text already.
    told: dict[str, Any] = (
        {"model": task.model, "createTime": task.created_at if task.born_at is None else task.born_at}
        if task.outcome is None
        else msgspec.json.decode(task.outcome, type=dict[str, msgspec.Raw])
    )
    words = {TaskState.SUCCESS: states.success[0], TaskState.FAIL: states.fail[0]}
    envelope = _good(profile)
    _put_task(envelope, profile, task.task_id, words.get(task.state, WAITING), told)
    if "extra" in told:
        root = envelope if fields.root is None else _object(envelope, fields.root.split("."))
        root.update(msgspec.json.decode(told["extra"], type=dict[str, msgspec.Raw]))
    return msgspec.json.encode(envelope)


def is_faithful(profile: Profile, task_id: str, outcome: Mapping[str, Any], answer: dict[str, Any]) -> bool:
    """Whether what ``record_envelope`` makes of an outcome has each value as the answer that told of it, type included.

    What the upstream has left out may be null there, and JSON within a string be spaced otherwise.
    """
    if profile.nests_members:
        return False
    states, in_string = profile.states, profile.json_in_string
    word = (states.success if outcome["state"] == TaskState.SUCCESS else states.fail)[0]
    failure = (outcome["failCode"], outcome["failMsg"])
    made = (task_id, word, *failure, outcome["costTime"], outcome["createTime"], outcome["completeTime"])
    members, result, param = profile.checked_paths
    for paths, value in zip(members, made, strict=True):
        for path in paths:
            told = dig(answer, path)
            if told is not None and (type(told) is not type(value) or told != value):
                return False
            value = None  # it is written at the first, and nowhere else
    return _comes_back(answer, result, outcome, "result", in_string.result) and _comes_back(
        answer, param, outcome, "param", in_string.param
    )


def _comes_back(
    answer: dict[str, Any], paths: tuple[str, ...], outcome: Mapping[str, Any], name: str, in_string: bool
) -> bool:
    """Whether a member that was decoded is told as it was: as JSON within a text, or as it is."""
    if not paths:
        return True
    told = dig(answer, paths[0])
    if told is None or not in_string:
        alike = told != ""
    else:
        alike = type(told) is str and (outcome[name] is not None or f"{name}Raw" in outcome)
    return alike and (len(paths) == 1 or all(dig(answer, path) is None for path in paths[1:]))


def told_envelope(profile: Profile, record: bytes) -> bytes:
    """Return the answer about a task as the upstream has told of it: with its record, whatever stands in that."""
    if profile.fields.root is None:
        return record
    envelope = _good(profile)
    _put(envelope, profile.fields.root, msgspec.Raw(record))
    return msgspec.json.encode(envelope)


def new_record(profile: Profile, task_id: str, model: str | None, param: bytes | None, now: int) -> bytes | None:
    """Return the record of a task that is created now, None where the profile does not say how it is told.

    ``param``: the create's body, as the upstream reads it; None where nothing is told of that.
    """
    proxy = profile.proxy
    if proxy is None:
        return None
    # Bytes that are no UTF-8 went on as they came; here they become U+FFFD, as whatever else cannot be told.
    as_text = profile.json_in_string.param
    if (template := proxy.created_record) is not None:
        told: dict[str, Any] = {"taskId": task_id, "model": model, "createTime": _in_units(profile, now)}
        if param is not None:
            told["param"] = param.decode("utf-8", "replace") if as_text else lenientjson.decode(param)
        return msgspec.json.encode(filled(template, told))
    if not proxy.synthesize or param is None:
        return None
    text = param.decode("utf-8", "replace") if as_text else msgspec.json.encode(lenientjson.decode(param))
    envelope: dict[str, Any] = {}
    _put_task(envelope, profile, task_id, WAITING, {"model": model, "createTime": now, "param": msgspec.Raw(text)})
    return msgspec.json.encode(envelope if profile.fields.root is None else dig(envelope, profile.fields.root))


def _in_units(profile: Profile, at: int) -> int | str:
    """Return an instant as the API writes it."""
    unit = profile.units.time
    return to_iso(at) if unit == "iso" else at // 1000 if unit == "s" else at


def given_up(profile: Profile, task_id: str, code: int | str, message: str) -> bytes:
    """Return a task's record, as it stands at ``fields.root``, as if the upstream had let it fail for that."""
    envelope: dict[str, Any] = {}
    _put_task(envelope, profile, task_id, profile.states.fail[0], {"failCode": code, "failMsg": message})
    root = profile.fields.root
    return msgspec.json.encode(envelope if root is None else dig(envelope, root))


def error_envelope(profile: Profile, code: int, message: str, retry_after_s: int | None = None) -> bytes:
    """Return the answer to a request that failed; ``code`` is also its HTTP status."""
    envelope: dict[str, Any] = {}
    _put(envelope, profile.envelope.code, code)
    _put(envelope, profile.envelope.success, False)
    _put(envelope, next(iter(profile.envelope.message), None), message)
    if retry_after_s is not None:
        _put(envelope, profile.envelope.retry_after, retry_after_s)
    elif dig(envelope, profile.fields.root) is None:
        _put(envelope, profile.fields.root, None)
    return msgspec.json.encode(envelope)


def _good(profile: Profile) -> dict[str, Any]:
    """Return what stands around a task's members."""
    envelope: dict[str, Any] = {}
    if profile.envelope.code is not None and profile.envelope.ok:  # else only errors have these two
        _put(envelope, profile.envelope.code, profile.envelope.ok[0])
        _put(envelope, next(iter(profile.envelope.message), None), _OK_MESSAGE)
    _put(envelope, profile.envelope.success, True)
    return envelope


def _put_task(envelope: dict[str, Any], profile: Profile, task_id: str, word: Any, told: dict[str, Any]) -> None:
    fields, in_string = profile.fields, profile.json_in_string
    _put(envelope, fields.task_id, task_id)
    _put(envelope, fields.model, told.get("model"))
    _put(envelope, profile.states.path, word)
    _put(envelope, fields.param, _member(told, "param", in_string.param))
    _put(envelope, fields.result, _member(told, "result", in_string.result))
    _put(envelope, fields.fail_code, told.get("failCode"))
    _put(envelope, fields.fail_msg, told.get("failMsg"))
    _put(envelope, fields.cost_time, told.get("costTime"))
    _put(envelope, fields.complete_time, told.get("completeTime"))
    _put(envelope, fields.create_time, told.get("createTime"))


def _put(envelope: dict[str, Any], path: str | list[str] | None, value: Any) -> None:
    """Set the member at a path, the first where there are several; a null takes the place of nothing."""
    if not path:
        return
    *parents, name = (path if isinstance(path, str) else path[0]).split(".")
    holder = _object(envelope, parents)
    if value is not None or name not in holder:
        holder[name] = value


def _object(envelope: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the object at a path; where there is none, make it."""
    for name in names:
        if not isinstance(envelope.get(name), dict):
            envelope[name] = {}
        envelope = envelope[name]
    return envelope


def _member(told: dict[str, Any], name: str, in_string: bool) -> Any:
    """Return a decoded member as the upstream wrote it: JSON in a string again, or the text that was no JSON."""
    if f"{name}Raw" in told:
        return told[f"{name}Raw"]
    value = told.get(name)
    if value is None or not in_string or bytes(value) == b"null":
        return value
    return bytes(value).decode()
