"""How a task ends: by its own state alone, or given up, and what is told of its result."""

import json
from typing import get_args

import pytest

from gateway.config.profilefile import config_dir, parse_profile
from gateway.core.model import TaskState
from gateway.upstream.answer import AbandonReason, PollKind, abandoned, read_answer
from tests.pollanswers import PROFILE, TASK, about, read
from tests.profiles import told


@pytest.mark.parametrize(("state", "ended"), [("success", TaskState.SUCCESS), ("fail", TaskState.FAIL)])
@pytest.mark.parametrize(("status", "code"), [(200, 501), (500, 500), (200, 200), (501, 200)])
def test_the_state_decides(state: str, ended: TaskState, status: int, code: int) -> None:
    """A task whose state is final has ended, whatever the answer around it says."""
    result = read({**about(state), "code": code}, status)
    assert result.outcome is not None
    assert result.outcome.state is ended


@pytest.mark.parametrize("state", ["success", "fail", "waiting"])
def test_an_answer_about_another_task(state: str) -> None:
    """An answer that names another task decides nothing about this one."""
    answer = {"code": 200, "data": {"taskId": "task_other", "state": state, "resultJson": "{}"}}
    result = read(answer)
    assert (result.kind, result.error) == (PollKind.BROKEN, "The upstream answered about another task.")
    assert not result.by_api
    assert read({**answer, "code": 429}).kind is PollKind.THROTTLED


@pytest.mark.parametrize("told_id", [None, "", "absent"])
def test_an_answer_without_a_task_id_is_about_ours(told_id: str | None) -> None:
    """An answer that names no task is the answer to our question, and the webhook names our task."""
    answer = about("success")
    if told_id == "absent":
        del answer["data"]["taskId"]
    else:
        answer["data"]["taskId"] = told_id
    assert told(read(answer))["taskId"] == TASK


@pytest.mark.parametrize("told_id", [1, ["task_xxx"], {"id": "task_xxx"}, True])
def test_an_id_of_a_wrong_type_is_another_task(told_id: object) -> None:
    """What is no text cannot be our task's id."""
    answer = about("success")
    answer["data"]["taskId"] = told_id
    assert read(answer).kind is PollKind.BROKEN


@pytest.mark.parametrize("member", ["result", "param"])
@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        (None, None),
        ("", None),
        ("null", None),
        ("{}", {}),
        ('{"resultUrls":["https://x/a.png"]}', {"resultUrls": ["https://x/a.png"]}),
        (' {"a" : 1} \n', {"a": 1}),
        ('{"text":"\\u00e9\\ud83d\\ude00"}', {"text": "é😀"}),
        ("[1,2]", [1, 2]),
        ("5", 5),
        ("true", True),
        ('"text"', "text"),
        ('"{}"', "{}"),
        (str(2**64), 2**64),
        (str(10**400), 10**400),
        ({"resultUrls": ["https://x/a.png"]}, {"resultUrls": ["https://x/a.png"]}),
        ([], []),
        (7, 7),
        (False, False),
    ],
)
def test_a_json_string_is_decoded(member: str, value: object, decoded: object) -> None:
    """JSON inside a string is decoded, an empty string is no value, and what is decoded already is passed on."""
    data = told(read(about("success", **{"resultJson" if member == "result" else "param": value})))
    assert data[member] == decoded
    assert type(data[member]) is type(decoded)
    assert not {"resultRaw", "paramRaw", "decodeError"} & data.keys()


NOT_JSON = [
    "https://x/a.png",
    "{",
    " ",
    "{'a': 1}",
    '{"a": "cut',
    "1e999",
    "NaN",
    "[" * 100_000,
    "9" * 5000,
]


@pytest.mark.parametrize("text", NOT_JSON, ids=lambda text: text[:12])
def test_a_string_that_is_not_json_is_kept(text: str) -> None:
    """A string that cannot be decoded leaves null, its raw text, and why: the webhook still goes out."""
    data = told(read(about("success", resultJson=text, param="{}")))
    assert (data["result"], data["resultRaw"], data["param"]) == (None, text, {})
    assert "paramRaw" not in data
    assert data["decodeError"].startswith("result: ")

    data = told(read(about("success", resultJson="{}", param=text)))
    assert (data["param"], data["paramRaw"], data["result"]) == (None, text, {})
    assert "resultRaw" not in data
    assert data["decodeError"].startswith("param: ")


def test_both_strings_may_fail_to_decode() -> None:
    """Where neither string is JSON, both texts are kept and both reasons are told."""
    data = told(read(about("fail", resultJson="<a>", param="<b>")))
    assert (data["resultRaw"], data["paramRaw"]) == ("<a>", "<b>")
    result_reason, param_reason = data["decodeError"].split("; ")
    assert result_reason.startswith("result: JSON is malformed")
    assert param_reason.startswith("param: JSON is malformed")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("", None),
        ("400", "400"),
        (400, "400"),
        (0, "0"),
        (4.5, "4.5"),
        (False, "false"),
        (["a"], '["a"]'),
        ({"a": 1}, '{"a":1}'),
        (2**70, str(2**70)),
    ],
)
@pytest.mark.parametrize("name", ["failCode", "failMsg"])
def test_fail_code_and_message_are_text(name: str, value: object, text: str | None) -> None:
    """An integer code becomes text, an empty one null, and nothing of another type is lost."""
    assert told(read(about("fail", **{name: value})))[name] == text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (None, None),
        (0, 0),
        (32241, 32241),
        (1.5, 1.5),
        ("32241", 32241),
        ("", None),
        ("fast", None),
        ("-1", None),
        ("9" * 5000, None),
        (2**70, 2**70),
        (True, None),
        ([], None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("name", ["costTime", "createTime", "completeTime"])
def test_times_are_numbers(name: str, value: object, number: float | None) -> None:
    """A time is a number or null, whatever the upstream sends in its place."""
    data = told(read(about("success", **{name: value})))
    assert data[name] == number
    assert type(data[name]) is type(number)


def test_added_members_become_extra() -> None:
    """What the upstream adds to the task is passed on, apart; what has its own place is not repeated."""
    added = {"creditsConsumed": 12, "updateTime": 1, "progress": "1.00", "nested": {"a": [None, True]}}
    data = told(read(about("success", model="m", resultJson="{}", failCode="", costTime=1, **added)))
    assert data["extra"] == added


def test_a_path_to_the_task_itself_names_none_of_its_members() -> None:
    """Where a profile takes the whole task object for the result, its members are still passed on."""
    text = (config_dir() / "upstreams" / "aigptimage.toml").read_text("utf-8")
    assert '"data.resultJson"' in text
    text = text.partition("[proxy]")[0].replace('"data.resultJson"', '"data"')  # [proxy] cannot answer from that
    profile = parse_profile(text, "x.toml")
    answer = about("success", url="https://x/a.png")
    data = told(read_answer(profile, TASK, 200, None, json.dumps(answer).encode()))
    assert (data["result"], data["extra"]) == (answer["data"], {"url": "https://x/a.png"})


def test_the_order_of_the_members() -> None:
    """The members come in the documented order, the optional ones where they belong."""
    data = told(read(about("success", resultJson="<", param="<", creditsConsumed=1)))
    assert list(data) == [
        "taskId",
        "model",
        "state",
        "result",
        "resultRaw",
        "param",
        "paramRaw",
        "decodeError",
        "failCode",
        "failMsg",
        "costTime",
        "createTime",
        "completeTime",
        "extra",
    ]


ENDED = '{"code":200,"data":{"taskId":"task_xxx","state":"success","model":%s,"costTime":%s,"resultJson":%s}}'


@pytest.mark.parametrize(
    ("body", "model", "result"),
    [
        ((ENDED % ('"a\\ud83d"', 1, "null")).encode(), "a\ufffd", None),
        (b"\xef\xbb\xbf" + (ENDED % ('"m"', 1, "null")).encode(), "m", None),
        ((ENDED % ('"m"', 1, "null")).encode("utf-16"), "m", None),
        ((ENDED % ('"a\u20ac"', 1, "null")).encode().replace(b"\xe2\x82\xac", b"\xe2\x82"), "a\ufffd", None),
        ((ENDED % ('"a\tb\n"', 1, "null")).encode(), "a\tb\n", None),
        ((ENDED % ('"m"', "NaN", "null")).encode(), "m", None),
        ((ENDED % ('"m"', "-Infinity", "null")).encode(), "m", None),
        ((ENDED % ('"m"', "1e999", "null")).encode(), "m", None),
        ((ENDED % ('"m"', "9" * 5000, "null")).encode(), "m", None),
        ((ENDED % ('"m"', 1, json.dumps('\ufeff{"u":["a"],"score":NaN,"n":1e400}'))).encode(), "m", ("a", None, None)),
        ((ENDED % ('"m"', 1, json.dumps('{"u":["\\ud83d"],"score":1,"n":2}'))).encode(), "m", ("\ufffd", 1, 2)),
    ],
    ids=[
        "half emoji",
        "BOM",
        "UTF-16",
        "cut",
        "controls",
        "NaN",
        "infinity",
        "1e999",
        "digits",
        "result",
        "emoji in it",
    ],
)
def test_what_other_readers_take_loses_no_task(body: bytes, model: str, result: tuple[object, ...] | None) -> None:
    """A task that has ended, and was paid for, settles whatever part of its answer is not strictly JSON."""
    data = told(read(body))
    assert (data["state"], data["model"]) == ("success", model)
    assert data["costTime"] in (1, None)
    assert "decodeError" not in data
    if result is not None:
        assert (data["result"]["u"][0], data["result"]["score"], data["result"]["n"]) == result


def test_a_whole_number_with_a_fraction_of_nothing() -> None:
    """Some languages write 1.0 for 1: in codes, ids, instants and what is shown as text."""
    answer = about("fail", costTime=32241.0, createTime=1777459967759.0, failCode=501.0)
    data = told(
        read_answer(
            PROFILE, "42", 200, None, json.dumps({**answer, "code": 200.0}).replace('"task_xxx"', "42.0").encode()
        )
    )
    assert (data["taskId"], data["failCode"]) == ("42", "501")
    assert [repr(data[name]) for name in ("costTime", "createTime")] == ["32241", "1777459967759"]
    assert read({"code": 429.0, "msg": "m", "data": {"retryAfter": 17.0}}).kind is PollKind.THROTTLED
    assert read({"code": "401.0", "msg": "m"}).kind is PollKind.KEY_REFUSED


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "JSON is malformed: it ends too early (character 0)"),
        (b"<html>", "JSON is malformed: expecting value (character 0)"),
        (b'\xef\xbb\xbf{"code":200,"data":{', "JSON is malformed: it ends too early (character 20)"),
        (b'{"m":"\\ud83d","n":tru}', "JSON is malformed: expecting value (character 18)"),
    ],
)
def test_the_reason_is_the_true_one(body: bytes, reason: str) -> None:
    """What is told is what nobody could read, not the first thing that a strict reader minds."""
    result = read(body)
    assert result.unreadable
    assert str(result.error).startswith(f"The upstream's answer is not readable JSON ({reason}): ")


def test_a_task_id_that_is_a_number() -> None:
    """Some answer a number where the client has its text."""
    result = read_answer(PROFILE, "4242", 200, None, b'{"code":200,"data":{"taskId":4242,"state":"success"}}')
    assert result.kind is PollKind.TERMINAL


@pytest.mark.parametrize("reason", get_args(AbandonReason))
def test_an_abandoned_task_tells_why(reason: AbandonReason) -> None:
    """A task that is given up has every member of an ended one, the reason, and no invented result."""
    outcome = abandoned("task_1", reason)
    assert outcome.state is TaskState.ABANDONED
    assert list(json.loads(outcome.data).items()) == [
        ("taskId", "task_1"),
        ("model", None),
        ("state", "abandoned"),
        ("reason", reason),
        ("result", None),
        ("param", None),
        ("failCode", None),
        ("failMsg", None),
        ("costTime", None),
        ("createTime", None),
        ("completeTime", None),
    ]
