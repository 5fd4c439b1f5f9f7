"""Answers about a task as hostile upstreams write them, for ``lenientjson``, ``outcome`` and ``envelope``.

What must hold, for each shipped profile: no answer raises, ends a task without one of the profile's words, makes a
webhook that is not JSON, or makes much more of itself than it is; numbers for the scheduler stay within their bounds;
what Python's json reads, the lenient reader reads alike; an outcome told again through the proxy is the same outcome;
and what is no answer but a create's body is told as a task that runs.
"""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st

from gateway.config.profile import Profile, dig, listed, names_of
from gateway.config.profilefile import config_dir, read_profiles
from gateway.core import lenientjson
from gateway.core.model import Task
from gateway.upstream.answer import PollKind, PollResult, read_answer, read_created
from gateway.upstream.envelope import new_record, record_envelope, told_envelope
from gateway.webhook.body import body_template
from tests.fuzz.target import Target, mangled
from tests.nouns import task

__all__ = ["TARGET", "Case", "check"]

PROFILES = read_profiles([config_dir() / "upstreams"])[0]
FIXTURES = Path(__file__).parents[1] / "fixtures"
TASK = "task_xxx"
_MOST_GROWTH = 16  # a character may become \u1234, and its backslash two of them
_LONGEST_WAIT_S = 3600


@dataclass(frozen=True)
class Case:
    """One answer."""

    profile: str
    body: bytes
    status: int = 200
    retry_after_s: float | None = None


def check(case: Case) -> None:
    """Read an answer in all the ways in which the gateway reads one."""
    profile = PROFILES[case.profile]
    _check_json(case.body)
    read_created(profile, case.status, case.body, "data.taskId")
    result = read_answer(profile, TASK, case.status, case.retry_after_s, case.body)
    _check_bounds(result)
    _check_new(profile, case.body)
    if result.outcome is None:
        assert result.kind is not PollKind.TERMINAL
        return
    assert result.kind is PollKind.TERMINAL
    _check_words(profile, case.body)
    data = result.outcome.data
    assert len(data) <= _MOST_GROWTH * len(case.body) + 2000, "much larger than the answer"
    told = json.loads(body_template(result.outcome, 1_777_474_689_024).fill("cb_1", b'{"a":1}'))["data"]
    assert told["state"] == result.outcome.state.value
    assert (told["taskId"], told["callbackId"], told["metadata"]) == (TASK, "cb_1", {"a": 1}), told
    if profile.proxy is not None and profile.proxy.synthesize:
        again = read_answer(profile, TASK, 200, None, record_envelope(profile, _task(result)))
        assert again.outcome == result.outcome, (again, result)


def _check_json(body: bytes) -> None:
    try:
        ours = lenientjson.decode(body)
    except ValueError:
        ours = ValueError
    else:
        encoded = msgspec.json.encode(ours)
        assert lenientjson.decode(encoded) == ours, "not the same once it is written"
    try:
        theirs = json.loads(body)
        json.dumps(theirs, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return  # which has what is told differently on purpose: NaN, half an emoji, 4,301 digits
    assert ours == theirs, (ours, theirs)


def _check_new(profile: Profile, body: bytes) -> None:
    """Whatever was asked for, where a create could be read at all, a task that has just begun is told as running."""
    try:
        if not isinstance(lenientjson.decode(body), dict):
            return
    except ValueError:
        return
    record = new_record(profile, TASK, None, body, 1_777_474_689_024)
    if record is not None:
        assert json.loads(record) is not None
        told = read_answer(profile, TASK, 200, None, told_envelope(profile, record))
        assert told.kind is PollKind.RUNNING, told


def _check_bounds(result: PollResult) -> None:
    assert result.error is None or len(result.error) <= 300
    assert result.retry_after_s is None or 0 <= result.retry_after_s <= _LONGEST_WAIT_S
    assert result.duration_s is None or (math.isfinite(result.duration_s) and result.duration_s > 0)
    assert result.task_created_at is None or 1e12 <= result.task_created_at < 1e13
    for text in (result.error, result.model):
        assert text is None or text.encode() is not None
    if result.told_window is not None:
        limit, window_s = result.told_window
        assert limit >= 1
        assert 0 < window_s <= 86_400


def _check_words(profile: Profile, body: bytes) -> None:
    """Only a word of the profile's ends a task, or a member that says that it has failed."""
    states = profile.states
    answer = lenientjson.decode(body)
    word = dig(answer, states.path)
    words = {str(one).casefold() for one in (*states.success, *states.fail)}
    marked = any(dig(answer, path) for path in states.fail_if_set)
    marked = marked or any(dig(answer, path) is False for path in states.fail_if_false)
    assert marked or str(word).removesuffix(".0").casefold() in words, word


def _task(result: PollResult) -> Task:
    assert result.outcome is not None
    return task(task_id=TASK, state=result.outcome.state, polls=1, next_poll_at=None, outcome=result.outcome.data)


_odd_values = st.sampled_from(
    [
        None, True, False, 0, 1, -1, 200, 429, "200", "429", 1.0, 1e308, -0.0, 2**53 + 1, 2**64, 10**400, "", " ",
        "success", "SUCCESS", "fail",
        "waiting", "null", "{}", "[", '{"a": NaN}', '"\\ud800"', "\ud800", "\u2028\x00", "9" * 30, "1e5", [], {},
        [None], {"": {}}, [[[]]],
        1_777_459_967_759, 1_777_459_967, "2026-01-01T00:00:00Z", "2026-01-01 00:00:00", TASK, "task_other", "x" * 400,
        "é" * 20,
    ]
)  # fmt: skip
_values = st.one_of(
    _odd_values,
    st.text(max_size=6),
    st.integers(-(2**66), 2**66),
    st.floats(),
    st.dictionaries(st.sampled_from(["a", "", "state", "data", "0"]), _odd_values, max_size=2),
    _odd_values.map(lambda value: json.dumps(value, default=str)),
)


def _put(answer: Any, path: str, value: Any) -> None:
    """Set the member at a path, as far as there are objects on the way; else make them."""
    *parents, name = names_of(path)
    for parent in parents:
        if not isinstance(answer.get(parent), dict):
            answer[parent] = {}
        answer = answer[parent]
    answer[name] = copy.deepcopy(value)  # what is drawn is drawn again


def _paths(profile: Profile) -> list[str]:
    states, envelope = profile.states, profile.envelope
    named = [
        states.path,
        states.progress,
        states.success_if,
        states.fail_if,
        *states.fail_if_set,
        *states.fail_if_false,
    ]
    named += [envelope.code, envelope.success, *envelope.message, envelope.retry_after, envelope.limit, envelope.window]
    for paths in msgspec.structs.astuple(profile.fields):
        named += listed(paths)
    return sorted({path for path in named if isinstance(path, str)})


_PATHS = {name: _paths(profile) for name, profile in PROFILES.items()}
_FIXTURES = {
    name: [json.loads(path.read_bytes()) for path in sorted((FIXTURES / name).glob("*.json"))] for name in PROFILES
}
_TOKENS = [
    b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"null", b"NaN", b"-Infinity", b"1e999", b"9" * 4301, b"\\ud83d",
    b"\\u0000", b"\x00", b"\xff",
    b"\xef\xbb\xbf", b'"state":"success",', b'"data":{},', b"[" * 70, b"{" * 3, b'{"a":' * 70, b"]" * 70, b"-0",
    b"1.0", b"0x1", b"'", b"/**/",
]  # fmt: skip


@st.composite
def _answers(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(sorted(PROFILES)))
    answer = json.loads(json.dumps(draw(st.sampled_from(_FIXTURES[name]))))
    profile = PROFILES[name]
    if profile.fields.task_id is not None and draw(st.sampled_from([True, True, True, False])):
        _put(answer, profile.fields.task_id, TASK)
    if draw(st.booleans()):
        _put(answer, profile.states.path, draw(st.sampled_from([*profile.states.success, *profile.states.fail])))
    for _ in range(draw(st.integers(0, 4))):
        _put(answer, draw(st.sampled_from(_PATHS[name])), draw(_values))
    if draw(st.booleans()):
        root = answer if profile.fields.root is None else dig(answer, profile.fields.root)
        if isinstance(root, dict):
            root[draw(st.text(max_size=4))] = copy.deepcopy(draw(_values))
    text = json.dumps(answer, ensure_ascii=draw(st.booleans()))
    encoding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-32-le"]))
    body = draw(mangled(st.just(text.encode(encoding, "surrogatepass")), _TOKENS))
    status = draw(st.sampled_from([200] * 6 + [201, 400, 401, 403, 404, 422, 429, 500, 503]))
    wait_s = draw(st.sampled_from([None, None, 0.0, 17.0, 1e12, float("inf")]))
    return Case(name, body, status, wait_s)


_texts = mangled(_values.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")), _TOKENS)
TARGET = Target(
    "envelope",
    st.one_of(_answers(), _answers(), st.builds(Case, profile=st.sampled_from(sorted(PROFILES)), body=_texts)),
    check,
)
