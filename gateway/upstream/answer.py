"""Upstream answer → what it means: the task's fate, and why a poll brought no usable answer.

Owns the classification; pure: must not ask again, nor decide what follows. Called by ``gateway.upstream.api`` with the
raw answer to a poll, a client's read or a create.

HTTP status and the envelope's own code count together, because members of the family answer errors with HTTP 200.
Only the task's own state ends a task: an error answer about one poll is never its outcome, and a word that is not
known means that it still runs.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

import msgspec

from gateway.config.profile import Profile, dig
from gateway.core import lenientjson
from gateway.core.model import Outcome, TaskState
from gateway.core.retryafter import parse_seconds
from gateway.upstream.answervalues import as_id, as_instant, as_number, as_text, as_time
from gateway.upstream.endedtask import EndedTask, model_of, task_object, told_of_end

UNREADABLE: Final = "unreadable"
"""What a poll is called, and why a task was given up, where there was an answer of which nothing could be read."""
AbandonReason = Literal["timeout", "unreadable", "refused", "not_found"]
WHY_ABANDONED: Mapping[str, str] = {
    "timeout": "it did not end in time",
    "unreadable": "what the upstream answers about it could not be read",
    "refused": "the upstream refuses to tell of it",
    "not_found": "the upstream does not know it",
}
"""Why a task was given up, as its webhook says."""


class PollKind(StrEnum):
    """What one poll came to, and with it the key's fate: refused, throttled, or accepted as far as is known."""

    RUNNING = "running"
    """The task still runs."""
    TERMINAL = "terminal"
    """The task has ended."""
    NOT_KNOWN = "not_known"
    """The API's own 404 or 422: a task too fresh, or one that does not exist."""
    THROTTLED = "throttled"
    """A 429: the key's limit is used up, by the upstream's word."""
    KEY_REFUSED = "key_refused"
    """A 401 or 403: the key is refused, or this task alone; other tasks' answers tell which."""
    CREDITS = "credits"
    """The account has no credits left."""
    MAINTENANCE = "maintenance"
    """The upstream is closed for a while."""
    BROKEN = "broken"
    """An answer that makes no sense, or a server error."""
    UNREACHABLE = "unreachable"
    """No answer at all."""


TELLS = frozenset({PollKind.RUNNING, PollKind.TERMINAL})
"""Answers that tell of a task: only an accepted key gets them."""


class PollResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one poll came to, with the outcome where the task has ended."""

    kind: PollKind
    outcome: Outcome | None = None
    record: bytes | None = None
    """The task as an answer that tells of it has it: encoded JSON of the object at the profile's ``fields.root``, or of
    the whole answer where there is none; None where no object stands there."""
    faithful: bool = True
    """Whether the answer that the gateway makes of the outcome, where it makes any, tells what the upstream's own does:
    else the record is needed for that."""
    error: str | None = None
    """A sentence for people where the poll brought no usable answer: clients are shown it."""
    logged: str | None = None
    """The same for the operator alone, where there is more to it: which egress proxy is meant."""
    retry_after_s: float | None = None
    """How long the upstream asked to be left alone, in seconds; at most an hour."""
    task_created_at: int | None = None
    """When the upstream created the task, where it says so."""
    model: str | None = None
    """What works on the task, where a running or ended task's answer says so."""
    duration_s: float | None = None
    """How long an ended task took from its creation to its end, in seconds, where that can be told."""
    told_window: tuple[int, float] | None = None
    """What a throttling answer says of the key's limit: so many requests within so many seconds."""
    unreadable: bool = False
    """Whether there was an answer, not an error's, of which nothing could be read: the task may have ended in it."""
    oversized: bool = False
    """Whether that was because of its size: each further try costs as much again."""
    of_old_key: bool = False
    """Whether a key was refused that another one has replaced meanwhile: that says nothing of this one."""
    by_api: bool = True
    """Whether the API said so, which has looked at the key; not its CDN or another proxy, nor the gateway by itself."""

    @property
    def label(self) -> str:
        """What it is called in metrics and logs."""
        return UNREADABLE if self.unreadable else self.kind.value


class Created(NamedTuple):
    """What the answer to a create says."""

    task_id: Any
    """The new task's id; None where there is none."""
    refused: bool
    """It is an error that says why."""
    none_made: bool
    """And one that leaves no doubt: what a server fails at, or takes too long for, may have been done all the same.
    What it is too busy for has not been, where the API itself says so (503, RFC 9110 §15.6.4; the family's 455, 505).
    """


_REFUSALS = {PollKind.KEY_REFUSED, PollKind.CREDITS, PollKind.NOT_KNOWN, PollKind.THROTTLED}

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

_MOVED = {301, 307, 308}
"""Redirects that ask for the same request elsewhere, so that it was not carried out here (RFC 9110 §15.4). Before 302
and 303 it may have been: they may lead to what came of it."""

_MAX_ERROR = 300  # characters of a remote message that are kept
_MAX_FOREIGN = 180  # … where advice follows
_LONGEST_WAIT_S = 3600.0  # of those an upstream asks for: one wrong number must not stop its polls for a day
_CDN_BLOCK = b"error code: 1010"


def read_answer(profile: Profile, task_id: str, status: int, retry_after_s: float | None, body: bytes) -> PollResult:
    """Classify one answer of the status URL. Never raises on account of what the upstream sent."""
    read = _read(profile, task_id, status, retry_after_s, body)
    if isinstance(read, PollResult):
        return read
    # Only now, that the answer is gone: a large result was in it as the text that it came in.
    return PollResult(
        kind=PollKind.TERMINAL,
        outcome=Outcome(state=read.state, data=msgspec.json.encode(read.data)),
        record=read.record,
        faithful=read.faithful,
        task_created_at=as_instant(read.data["createTime"]),
        model=read.model,
        duration_s=read.duration_s,
    )


def _read(
    profile: Profile, task_id: str, status: int, retry_after_s: float | None, body: bytes
) -> PollResult | EndedTask:
    try:
        answer = lenientjson.decode(body)
    except ValueError as exc:
        detail = f"not readable JSON ({exc}): {_excerpt(body)}"
        if status == 403 and _CDN_BLOCK in body:
            detail = "its CDN blocks requests with this User-Agent (error code: 1010); the key was not looked at"
        return _failed(profile, status, retry_after_s, None, detail)
    if not isinstance(answer, dict):
        return _failed(profile, status, retry_after_s, None, f"not a JSON object: {_excerpt(body)}")
    states = profile.states
    state = _state(profile, answer)
    failed = _said_to_fail(profile, answer)
    told_id = as_id(dig(answer, profile.fields.task_id))
    about_us = told_id in (None, "", task_id) or _part_of(profile, told_id, task_id)
    # Under an error's status the word may be another's: a load balancer says "failed" of itself.
    told_of_us = 200 <= status < 300 or told_id not in (None, "") or _own_code(profile, answer) is not None
    if state is not None and about_us and told_of_us:
        if state in states.success and not failed and _holds(answer, states.success_if):
            return told_of_end(profile, task_id, TaskState.SUCCESS, answer)
        if state in states.fail and _holds(answer, states.fail_if):
            return told_of_end(profile, task_id, TaskState.FAIL, answer)
    code = _code(profile, status, answer)
    if code is not None:
        names_us = about_us and told_id not in (None, "")
        return _failed(profile, code, retry_after_s, answer, _message(profile, answer), names_us=names_us)
    if not about_us:
        return PollResult(kind=PollKind.BROKEN, error="The upstream answered about another task.", by_api=False)
    if failed:
        return told_of_end(profile, task_id, TaskState.FAIL, answer)
    if state is None and not (states.may_be_absent and told_id and not _holds(answer, states.path)):
        error = f"The answer has no {states.path}: {_excerpt(body)}"
        return PollResult(kind=PollKind.BROKEN, error=error, unreadable=True)
    if state in states.not_known:
        return PollResult(kind=PollKind.NOT_KNOWN, error=f"The upstream answered: {state}")
    return PollResult(
        kind=PollKind.RUNNING,
        retry_after_s=_wait_s(profile, answer, retry_after_s),
        task_created_at=as_instant(as_time(profile, dig(answer, profile.fields.create_time))),
        model=model_of(profile, answer),
        record=msgspec.json.encode(root) if (root := task_object(profile, answer)) is not None else None,
    )


def read_created(profile: Profile, status: int, body: bytes, path: str) -> Created:
    """Read the answer to a create; ``path``: where the new task's id stands. Never raises on account of it."""
    try:
        answer = lenientjson.decode(body)
    except ValueError:
        answer = None
    code = _code(profile, status, answer if isinstance(answer, dict) else {})
    task_id = as_id(dig(answer, path))
    if code is None:
        return Created(task_id, refused=False, none_made=False)
    kind = _kind(profile, code)
    told = kind in _REFUSALS or (isinstance(code, int) and 400 <= code < 500)
    if kind is PollKind.MAINTENANCE:  # a proxy says that of a request, too, that had gone on
        told = isinstance(answer, dict) and _like_the_apis(profile, answer)
    late = (status >= 500 and status != 503) or 408 in (status, code)
    none_made = status in _MOVED or (told and not late)
    return Created(task_id, refused=True, none_made=none_made and task_id is None)


def abandoned(task_id: str, reason: AbandonReason) -> Outcome:
    """Return the outcome of a task that the gateway gives up."""
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


def _state(profile: Profile, answer: dict[str, Any]) -> str | int | bool | None:
    """Return the task's state, None where there is none of the kind that the profile names."""
    value, kind = dig(answer, profile.states.path), type(profile.states.success[0])
    if kind is int and isinstance(value, str | float):
        value = as_number(value)
    if profile.states.ignore_case and isinstance(value, str):
        value = profile.spellings.get(value.casefold(), value)
    # Compared by its exact type: True equals 1, and would end a task of an API that counts.
    return value if type(value) is kind and value != "" else None


def _holds(answer: dict[str, Any], path: str | None) -> bool:
    return path is None or dig(answer, path) is not None


def _said_to_fail(profile: Profile, answer: dict[str, Any]) -> bool:
    """Whether a member that the profile names says that the task has failed, whatever its state."""
    states = profile.states
    if not states.fail_if_set and not states.fail_if_false:
        return False  # most profiles name none, and polls are many
    return any(dig(answer, path) for path in states.fail_if_set) or any(
        dig(answer, path) is False for path in states.fail_if_false
    )


def _part_of(profile: Profile, told_id: Any, task_id: str) -> bool:
    """Whether an answer's id is a part of the one that was asked for, where the profile allows for that."""
    return profile.fields.task_id_may_be_part and isinstance(told_id, str) and f"/{told_id}/" in f"/{task_id}/"


def _code(profile: Profile, status: int, answer: dict[str, Any]) -> int | str | None:
    """Return the error this answer is, by its envelope's code or its HTTP status; None for a good one."""
    envelope = profile.envelope
    code = _own_code(profile, answer)
    # A code that says nothing here (-1, 1001) must not hide a status that does (401, 429).
    if code is not None and code not in envelope.ok and (_kind(profile, code) or _kind(profile, status) is None):
        return code
    if not 200 <= status < 300:
        return status
    return f"{envelope.success} false" if dig(answer, envelope.success) is False else None


def _own_code(profile: Profile, answer: dict[str, Any]) -> int | str | None:
    """Return the envelope's own code, None where there is none of a kind that the profile names."""
    told = dig(answer, profile.envelope.code)
    code: Any = told if type(told) is int else as_number(told)
    if isinstance(told, str) and profile.codes_are_words and (code is None or told in profile.envelope.ok):
        code = told
    return code if isinstance(code, int | str) and code != "" else None


def _like_the_apis(profile: Profile, answer: dict[str, Any]) -> bool:
    """Whether an error's answer looks like the API's own: it has a code, or where there are none, an explanation."""
    paths = [profile.envelope.code] if profile.envelope.code is not None else profile.envelope.message
    return not paths or any(dig(answer, path) not in (None, "") for path in paths)


def _says_unknown(profile: Profile, code: int | str, answer: dict[str, Any] | None) -> bool:
    """Whether an error by which a task is not known is told by the envelope's own code, where the profile has one.

    A web server or a proxy that does not know the URL answers 404 as well, often in JSON, and must not cost every task.
    """
    envelope = profile.envelope
    return answer is None or envelope.code is None or str(code) in envelope.kinds or _own_code(profile, answer) == code


def _kind(profile: Profile, code: int | str) -> PollKind | None:
    """Return what an error code says, the envelope's or HTTP's; None where it says nothing."""
    if (named := profile.envelope.kinds.get(str(code))) is not None:
        return PollKind(named)
    return _KINDS.get(code) if isinstance(code, int) else None


def _failed(
    profile: Profile,
    code: int | str,
    retry_after_s: float | None,
    answer: dict[str, Any] | None,
    detail: str,
    *,
    names_us: bool = False,
) -> PollResult:
    if answer is None and isinstance(code, int) and 200 <= code < 300:
        error = f"The upstream's answer is {detail}"[:_MAX_ERROR]
        return PollResult(kind=PollKind.BROKEN, error=error, unreadable=True)
    kind = _kind(profile, code) or PollKind.BROKEN
    by_api = answer is not None and (names_us or _like_the_apis(profile, answer))
    if kind is PollKind.NOT_KNOWN and not (by_api and _says_unknown(profile, code, answer)):
        kind = PollKind.BROKEN
        detail = f"{detail[:_MAX_FOREIGN]} (not as the API says it: check the base URL, and what stands before the API)"
    return PollResult(
        kind=kind,
        error=f"The upstream answered {code}: {detail}"[:_MAX_ERROR],
        retry_after_s=_wait_s(profile, answer, retry_after_s),
        told_window=_told_window(profile, answer) if kind is PollKind.THROTTLED else None,
        by_api=by_api,
    )


def _wait_s(profile: Profile, answer: dict[str, Any] | None, header_s: float | None) -> float | None:
    """Return how long the upstream asks to be left alone: the longer of what its header and its body say."""
    told = dig(answer, profile.envelope.retry_after)
    if told is None and header_s is None:
        return None  # nearly always
    told_s = parse_seconds(told.strip()) if isinstance(told, str) else as_number(told)
    if header_s is not None and (told_s is None or told_s < header_s):
        told_s = header_s
    # Capped before it is a float: the number may be too large for one, and no later arithmetic may overflow.
    return None if told_s is None or told_s < 0 else float(min(told_s, _LONGEST_WAIT_S))


def _told_window(profile: Profile, answer: dict[str, Any] | None) -> tuple[int, float] | None:
    limit = as_number(dig(answer, profile.envelope.limit))
    window_s = as_number(dig(answer, profile.envelope.window))
    # A limit of nothing would stop the key for good, and one beyond these is no limit.
    if limit is None or window_s is None or not (1 <= limit < 1e9 and 0 < window_s <= 86_400):
        return None
    return int(limit), float(window_s)


def _message(profile: Profile, answer: dict[str, Any]) -> str:
    found = [value for path in profile.envelope.message if (value := dig(answer, path)) not in (None, "")]
    # A sentence under the second name says more to people than an object under the first.
    found.sort(key=lambda value: not isinstance(value, str))
    return (as_text(found[0]) if found else None) or "no reason given"


def _excerpt(body: bytes) -> str:
    return repr(body[:80].decode("utf-8", "replace"))
