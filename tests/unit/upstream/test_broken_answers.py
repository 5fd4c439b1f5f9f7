"""Answers that cannot be read, or only in part: none raises, whatever comes."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.core import lenientjson
from gateway.upstream.answer import PollKind, PollResult
from tests.pollanswers import TASK, about, read
from tests.profiles import told


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"<html><body>502 Bad Gateway</body></html>",
        b"error code: 1010",
        b'{"code":200,"data":{"taskId":"task_xxx","state":"succe',
        b'{"code":200,"data":{"taskId":"task_xxx","state":"success"}',
        b'{"code":200,"data":{"taskId":"task_xxx","state":"success"}} trailing',
        b'\xef\xbb\xbf{"code":200,"data":{"taskId":"task_xxx","state":"success"}',
        b'{"code":200,"data":{"taskId":"task_xxx","state":"success","costTime":nan}}',
        b"[" * 100_000,
        b'{"data":' * 100_000,
        b"null",
        b"[]",
        b'[{"code":200,"data":{"taskId":"task_xxx","state":"success"}}]',
        b'"success"',
        b"200",
        b"true",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_json_object_is_broken(body: bytes) -> None:
    """An answer that is no JSON object under HTTP 200 is broken, and says so; the task goes on."""
    result = read(body)
    assert (result.kind, result.outcome, result.retry_after_s) == (PollKind.BROKEN, None, None)
    assert str(result.error).startswith("The upstream's answer is not ")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"code": 200},
        {"code": 200, "data": None},
        {"code": 200, "data": []},
        {"code": 200, "data": "success"},
        {"code": 200, "data": 1},
        {"code": 200, "data": {}},
        {"code": 200, "data": {"taskId": TASK}},
        {"state": "success"},
        about(None),
        about(""),
        about(1),
        about(True),
        about(["success"]),
        about({"success": True}),
    ],
)
def test_an_answer_without_a_state_is_broken(body: dict[str, Any]) -> None:
    """A good envelope that tells no state decides nothing."""
    result = read(body)
    assert (result.kind, result.outcome) == (PollKind.BROKEN, None)
    assert str(result.error).startswith("The answer has no data.state: ")
    assert result.unreadable


def test_a_state_told_twice() -> None:
    """Of a member that stands twice the last counts, as in every JSON reader."""
    body = b'{"code":200,"data":{"taskId":"task_xxx","state":"success","state":"waiting"}}'
    assert read(body).kind is PollKind.RUNNING


@pytest.mark.parametrize("depth", [10, 500, 900, 1000, 1100])
@pytest.mark.parametrize("name", ["resultJson", "param", "failCode", "added", "model"])
@pytest.mark.parametrize("in_string", [False, True])
def test_deep_nesting_never_raises(depth: int, name: str, in_string: bool) -> None:
    """However deep a value is nested, reading it and writing it again ends in a result."""
    deep = "[" * depth + "]" * depth
    member = json.dumps(deep) if in_string else deep
    body = f'{{"code":200,"data":{{"taskId":"{TASK}","state":"success","{name}":{member}}}}}'
    assert read(body.encode()).kind in (PollKind.TERMINAL, PollKind.BROKEN)


@pytest.mark.parametrize("depth", [1100, 5000, 100_000])
def test_what_is_too_deep_is_passed_on_as_its_text(depth: int) -> None:
    """Members that somebody asks for are read as ever, whichever is too deep; nothing of that is lost."""
    deep = '{"a":' * depth + '["\\"]}\\ud83d"]' + "}" * depth
    for name, told_as in (("resultJson", "result"), ("param", "param"), ("added", "extra"), ("failCode", "failCode")):
        body = f'{{"code":200,"data":{{"{name}":{deep},"taskId":"{TASK}","state":"fail","failMsg":"no"}}}}'
        data = told(read(body.encode()))
        assert data["failMsg"] == "no"
        inner = data[told_as] if name != "failCode" else json.loads(data[told_as])
        levels = 0
        while isinstance(inner, dict):
            (inner,) = inner.values()
            levels += 1
        assert levels in (62, 63)  # of 64, below the answer's own
        assert inner in deep
        assert len(inner) == len(deep) - 6 * 62


def test_too_many_brackets_are_told_as_that() -> None:
    """What would take long to take apart is not read, and the reason is the true one."""
    body = b'{"data":[%b%b]}' % (b"[]," * 150_000, b"[" * 100_000 + b"]" * 100_000)
    result = read(body)
    assert (result.kind, result.unreadable) == (PollKind.BROKEN, True)
    assert str(result.error).startswith("The upstream's answer is not readable JSON (JSON is nested too deeply): ")


@pytest.mark.parametrize("rest", [" " * 1_000_000, '"' + "a" * 1_000_000, '"a",' * 250_000])
def test_what_follows_the_last_bracket_is_looked_at_once(rest: str) -> None:
    """Of a deep answer that was cut off, or padded, a megabyte without brackets is no more work than others."""
    result = read(("[" * 3000 + rest).encode())
    assert (result.kind, result.unreadable) == (PollKind.BROKEN, True)


def test_the_price_of_an_answer_that_was_cut_off_is_told_at_once() -> None:
    """A text without end is one, however many quotes are in it: JSON in a string has thousands."""
    whole = '{"resultJson":"ü%s"}' % ('\\"' * 500_000)
    assert 0 <= lenientjson.cost(whole.encode()) - lenientjson.cost(whole[:-2].encode()) <= 100


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["success", "fail", "waiting", TASK, "200", "429", "{}", "[", '"\\ud800"', "9" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
task_members = ["taskId", "state", "model", "resultJson", "param", "failCode", "failMsg", "costTime", "createTime"]
answers = st.fixed_dictionaries(
    {},
    optional={
        "code": json_values,
        "msg": json_values,
        "message": json_values,
        "data": json_values
        | st.dictionaries(st.sampled_from([*task_members, "completeTime", "retryAfter", "more"]), json_values),
    },
)
statuses = st.integers(100, 599)
headers = st.none() | st.floats(min_value=0, allow_nan=False)


def check_sound(result: PollResult) -> None:
    """Hold a result against what its users build on."""
    assert (result.outcome is not None) == (result.kind is PollKind.TERMINAL)
    assert (result.error is None) == (result.kind in (PollKind.TERMINAL, PollKind.RUNNING))
    assert result.error is None or len(result.error) <= 300
    assert result.retry_after_s is None or 0 <= result.retry_after_s <= 3600
    if result.outcome is not None:
        data = json.loads(result.outcome.data)
        assert (data["taskId"], data["state"]) == (TASK, result.outcome.state.value)


@given(body=st.binary(), status=statuses, retry_after_s=headers)
@example(body=b"\xff", status=200, retry_after_s=float("inf"))
@example(body=b'{"code":"' + b"9" * 5000 + b'"}', status=200, retry_after_s=None)
def test_arbitrary_bytes_never_raise(body: bytes, status: int, retry_after_s: float | None) -> None:
    """No bytes under any status raise, and what comes back is sound."""
    check_sound(read(body, status, retry_after_s))


@given(answer=answers, status=statuses, retry_after_s=headers)
@settings(max_examples=300)
def test_arbitrary_envelopes_never_raise(answer: dict[str, Any], status: int, retry_after_s: float | None) -> None:
    """No values in the places that are read raise, and what comes back is sound."""
    check_sound(read(answer, status, retry_after_s))
