"""What every kind of upstream answer means: the documented ones, the family's, and the broken ones."""

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.config.profilefile import parse_profile
from gateway.core import lenientjson
from gateway.core.model import TaskState
from gateway.upstream.answer import AbandonReason, Created, PollKind, PollResult, abandoned, read_answer, read_created

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "aigptimage"
PROFILE = parse_profile((ROOT / "config" / "upstreams" / "aigptimage.toml").read_text("utf-8"), "aigptimage.toml")
OPENAI = parse_profile((ROOT / "config" / "upstreams" / "openai-video.toml").read_text("utf-8"), "openai-video.toml")
TASK = "task_xxx"


def read(body: bytes | dict[str, Any], status: int = 200, retry_after_s: float | None = None) -> PollResult:
    """Read an answer about TASK."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(PROFILE, TASK, status, retry_after_s, raw)


def about(state: object, **members: Any) -> dict[str, Any]:
    """Return a good envelope around TASK in a state."""
    return {"code": 200, "msg": "success", "data": {"taskId": TASK, "state": state, **members}}


def told(result: PollResult) -> dict[str, Any]:
    """Return what the webhook will tell of a terminal result."""
    assert result.kind is PollKind.TERMINAL, result
    assert result.outcome is not None
    data: dict[str, Any] = json.loads(result.outcome.data)
    return data


def without_record(result: PollResult) -> PollResult:
    """Return what is made of an answer, but for the task as it came."""
    assert result.record is not None
    return msgspec.structs.replace(result, record=None)


# The documented answers.


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("waiting", "4db858d4ef7af13f52d5d478ad8647800a8d723a7b44a62e0e663e3ae7c95c94"),
        ("success", "7e760ea5db2c90fde1a24cc84c556180e0fd19d703a5744948d6c83923bedc2c"),
        ("fail", "40bde7db3c3a6dce27e202917540cf8e27711db71043da4b8489c775ab71c2a5"),
    ],
)
def test_the_fixtures_are_the_published_bytes(name: str, digest: str) -> None:
    """The example answers are kept byte for byte: an editor that reformats them is caught."""
    assert hashlib.sha256((FIXTURES / f"{name}.json").read_bytes()).hexdigest() == digest


def test_the_published_running_answer() -> None:
    """The example of a running task means: still running, no outcome, by which model and since when."""
    body = (FIXTURES / "waiting.json").read_bytes()
    result = read_answer(PROFILE, "5064bd1a-025a-490b-b28f-6a9fa12eb88a", 200, None, body)
    model = "gpt-image-2-text-to-image"
    record = json.dumps(json.loads(body)["data"], separators=(",", ":"), ensure_ascii=False).encode()
    assert result == PollResult(kind=PollKind.RUNNING, task_created_at=1777474689024, model=model, record=record)


def test_the_published_success() -> None:
    """The example of a success is an outcome with its result and parameters decoded."""
    result = read((FIXTURES / "success.json").read_bytes())
    assert result.outcome is not None
    assert result.outcome.state is TaskState.SUCCESS
    assert (result.error, result.retry_after_s, result.task_created_at) == (None, None, 1777459967759)
    assert told(result) == {
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


def test_the_published_failure() -> None:
    """The example of a failure is an outcome with its code and its message, though HTTP and envelope say 200."""
    task_id = "5f6ff8ea-ae97-4bb8-af5e-752ef4e96c0d"
    body = (FIXTURES / "fail.json").read_bytes()
    result = read_answer(PROFILE, task_id, 200, None, body)
    assert result.outcome is not None
    assert result.outcome.state is TaskState.FAIL
    data = told(result)
    assert data["failCode"] == "400"
    assert data["failMsg"] == "Sorry, but the image we created may violate OpenAI's content policies."
    assert data["param"]["input"]["prompt"].startswith("360 equirectangular panorama")
    assert (data["result"], data["costTime"], data["completeTime"]) == (None, None, None)
    assert not {"resultRaw", "paramRaw", "decodeError", "extra"} & data.keys()


# Running.


@pytest.mark.parametrize(
    "state",
    ["waiting", "queuing", "generating", "wait", "queueing", "pending", "processing", "SUCCESS", "failed", "?"],
)
def test_any_other_word_means_running(state: str) -> None:
    """The family's running states, and words that nobody has heard of, mean that the task still runs."""
    assert without_record(read(about(state))) == PollResult(kind=PollKind.RUNNING)


@pytest.mark.parametrize(
    "body",
    [
        {"code": 200, "data": {"state": "waiting"}},
        {"data": {"state": "waiting"}},
        {"code": "200", "data": {"taskId": TASK, "state": "waiting"}},
        {"code": None, "data": {"taskId": None, "state": "waiting"}},
        {"code": 200, "data": {"taskId": "", "state": "generating", "progress": "0.5", "updateTime": 1}},
        {"code": 200, "message": "ok", "data": {"taskId": TASK, "state": "waiting", "resultJson": "", "failCode": ""}},
    ],
)
def test_running_with_members_left_out_or_added(body: dict[str, Any]) -> None:
    """A running task may leave out almost everything, or add to it."""
    result = read(body)
    assert without_record(result) == PollResult(kind=PollKind.RUNNING)
    assert json.loads(result.record or b"") == body["data"]


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (1777459967759, 1777459967759),
        (1777459967759.0, 1777459967759),
        ("1777459967759", 1777459967759),
        (1777459967, None),
        (0, None),
        (-1777459967759, None),
        (10**30, None),
        (10**400, None),
        (True, None),
        ("soon", None),
        (None, None),
        ([], None),
    ],
)
def test_when_the_task_was_created(value: object, at: int | None) -> None:
    """Only a plausible number of milliseconds is taken for the time the task was created."""
    assert read(about("waiting", createTime=value)).task_created_at == at
    assert read(about("success", createTime=value)).task_created_at == at


# Error answers: the upstream's own, and the family's.

ERRORS = [
    (400, PollKind.BROKEN),
    (401, PollKind.KEY_REFUSED),
    (402, PollKind.CREDITS),
    (403, PollKind.KEY_REFUSED),
    (404, PollKind.NOT_KNOWN),
    (408, PollKind.BROKEN),
    (422, PollKind.NOT_KNOWN),
    (429, PollKind.THROTTLED),
    (433, PollKind.CREDITS),
    (455, PollKind.MAINTENANCE),
    (500, PollKind.BROKEN),
    (501, PollKind.BROKEN),
    (502, PollKind.BROKEN),
    (503, PollKind.MAINTENANCE),
    (505, PollKind.MAINTENANCE),
]


@pytest.mark.parametrize(("code", "kind"), ERRORS)
@pytest.mark.parametrize("envelope_only", [False, True], ids=["status", "envelope"])
@pytest.mark.parametrize("as_string", [False, True], ids=["number", "string"])
@pytest.mark.parametrize("data", [None, {}, {"taskId": TASK, "state": "waiting"}], ids=["null", "empty", "waiting"])
def test_an_error_answer(
    code: int, kind: PollKind, envelope_only: bool, as_string: bool, data: dict[str, Any] | None
) -> None:
    """An error is told by HTTP status and envelope alike, or by the envelope under HTTP 200; it never ends the task."""
    body = {"code": str(code) if as_string else code, "msg": "the reason", "data": data}
    assert read(body, 200 if envelope_only else code) == PollResult(
        kind=kind, error=f"The upstream answered {code}: the reason"
    )


@pytest.mark.parametrize(("code", "kind"), ERRORS)
@pytest.mark.parametrize("body", [b"error code: 1010", b"", b"<html>", b'{"detail":"x"}', b'{"code":200}', b"[]"])
def test_an_error_status_without_the_envelope(code: int, kind: PollKind, body: bytes) -> None:
    """Where there is no envelope, or one that claims all is well, the HTTP status says what is wrong.

    But only the API's own code can say that it does not know a task: a web server's 404 may mean a wrong base URL.
    """
    result = read(body, code)
    if kind is PollKind.NOT_KNOWN:
        kind = PollKind.BROKEN
    assert (result.kind, result.outcome) == (kind, None)
    assert str(result.error).startswith(f"The upstream answered {code}: ")


@pytest.mark.parametrize(
    "body", [{"message": "no Route matched with those values"}, {"detail": "Not Found"}, {"code": 0, "msg": "m"}, {}]
)
@pytest.mark.parametrize("status", [404, 422])
def test_a_proxys_404_says_what_to_look_at(status: int, body: dict[str, Any]) -> None:
    """It looks like the API's word on the task, and is a matter of addresses."""
    result = read(body, status)
    assert (result.kind, result.by_api) == (PollKind.BROKEN, "code" in body)
    assert str(result.error).endswith("(not as the API says it: check the base URL, and what stands before the API)")


@pytest.mark.parametrize("status", [500, 502, 404, 429])
def test_an_error_without_a_word_on_the_task_does_not_end_it(status: int) -> None:
    """A load balancer has states of its own: under an error it is to name the task, or to have the API's code."""
    told = {"data": {"state": "fail", "failMsg": "no backend"}}
    assert read(told, status).outcome is None
    assert read({**told, "code": 501}, status).kind is PollKind.TERMINAL
    assert read({"data": {**told["data"], "taskId": TASK}}, status).kind is PollKind.TERMINAL
    assert read(told, 200).kind is PollKind.TERMINAL


def test_a_models_name_has_a_length() -> None:
    """What was learned is kept by it; the webhook has it as it came."""
    for length, known in ((255, True), (256, False)):
        result = read({"code": 200, "data": {"taskId": TASK, "state": "success", "model": "m" * length}})
        assert (result.model is not None) == known
        assert result.outcome is not None
        assert b"m" * length in result.outcome.data


@pytest.mark.parametrize(
    ("status", "code", "kind", "named"),
    [
        (500, 429, PollKind.THROTTLED, 429),
        (500, 501, PollKind.BROKEN, 501),
        (400, 422, PollKind.NOT_KNOWN, 422),
        (404, 401, PollKind.KEY_REFUSED, 401),
        (401, -1, PollKind.KEY_REFUSED, 401),
        (429, 1001, PollKind.THROTTLED, 429),
        (429, 500, PollKind.THROTTLED, 429),
        (401, None, PollKind.KEY_REFUSED, 401),
        (401, "E_KEY", PollKind.KEY_REFUSED, 401),
        (200, -1, PollKind.BROKEN, -1),
        (200, 0, PollKind.BROKEN, 0),
        (200, 201, PollKind.BROKEN, 201),
        (302, 302, PollKind.BROKEN, 302),
    ],
)
def test_where_status_and_envelope_differ(status: int, code: object, kind: PollKind, named: int) -> None:
    """The envelope's code wins where it says something; one that says nothing does not hide a status that does."""
    result = read({"code": code, "msg": "m", "data": {"taskId": TASK, "state": "waiting"}}, status)
    assert (result.kind, result.error) == (kind, f"The upstream answered {named}: m")


@pytest.mark.parametrize("code", [True, False, 429.5, [429], {"code": 429}, "", "429x", "9" * 5000])
def test_a_code_that_is_no_whole_number_is_ignored(code: object) -> None:
    """What is no number at all in the place of the code is not taken for an error."""
    assert read({"code": code, "data": {"taskId": TASK, "state": "waiting"}}).kind is PollKind.RUNNING
    assert read({"code": code, "data": None}, 402).kind is PollKind.CREDITS


@pytest.mark.parametrize(
    ("envelope", "message"),
    [
        ({"msg": "a"}, "a"),
        ({"message": "b"}, "b"),
        ({"msg": "a", "message": "b"}, "a"),
        ({"msg": "", "message": "b"}, "b"),
        ({"msg": {"en": "a"}, "message": "b"}, "b"),
        ({"msg": None}, "no reason given"),
        ({}, "no reason given"),
        ({"msg": "recordInfo is null"}, "recordInfo is null"),
    ],
)
def test_the_message_under_either_name(envelope: dict[str, Any], message: str) -> None:
    """The explanation is found as msg and as message, whichever is there."""
    assert read({"code": 422, **envelope}).error == f"The upstream answered 422: {message}"


def test_a_long_message_is_cut() -> None:
    """A remote text does not grow the database without bound."""
    assert len(str(read({"code": 500, "msg": "x" * 10_000}).error)) == 300
    assert len(str(read(b"\x00" * 100_000, 200).error)) <= 300


@pytest.mark.parametrize(
    ("hint", "header_s", "wait_s"),
    [
        (17, None, 17.0),
        (0.5, None, 0.5),
        ("17", None, 17.0),
        (0, None, 0.0),
        (None, None, None),
        (None, 30.0, 30.0),
        (17, 30.0, 30.0),
        (30, 17.0, 30.0),
        (-1, None, None),
        (-1, 5.0, 5.0),
        (True, None, None),
        ("soon", None, None),
        ([17], None, None),
        (3601, None, 3600.0),
        (1e308, None, 3600.0),
        (10**400, None, 3600.0),
        ("99999999999", None, 3600.0),
        ("9" * 5000, None, 3600.0),
        (1.5, None, 1.5),
        ("1.5", 1.0, 1.5),
        (" 17 ", None, 17.0),
        ("-1", 2.0, 2.0),
        (None, float("inf"), 3600.0),
    ],
)
def test_how_long_a_429_asks_to_wait(hint: object, header_s: float | None, wait_s: float | None) -> None:
    """The wait stands in the body, a header counts too, the longer one holds, and neither stops us for over an hour."""
    data = {"retryAfter": hint, "limit": 180, "tier": "basic", "windowSeconds": 60}
    for status in (429, 200):
        result = read({"code": 429, "msg": "slow down", "data": data}, status, header_s)
        assert (result.kind, result.retry_after_s) == (PollKind.THROTTLED, wait_s)


@pytest.mark.parametrize(
    ("hint", "header_s", "wait_s"), [(None, None, None), (None, 7.0, 7.0), (9, 7.0, 9.0), (None, 1e9, 3600.0)]
)
def test_how_long_a_running_answer_asks_to_wait(hint: object, header_s: float | None, wait_s: float | None) -> None:
    """A task that runs may ask to be left alone like one that is throttled, for an hour at most."""
    body = {"code": 200, "msg": "success", "data": {"taskId": TASK, "state": "waiting", "retryAfter": hint}}
    result = read(body, 200, header_s)
    assert (result.kind, result.error, result.retry_after_s) == (PollKind.RUNNING, None, wait_s)


def test_a_429_without_a_body_keeps_its_header() -> None:
    """A gateway in front of the upstream may answer 429 in HTML: its header still counts."""
    result = read(b"<html>429</html>", 429, 12.0)
    assert (result.kind, result.retry_after_s) == (PollKind.THROTTLED, 12.0)


# Only the task's own state ends it.


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


# What a result holds.


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
    text = (ROOT / "config" / "upstreams" / "aigptimage.toml").read_text("utf-8")
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


def created(body: bytes, status: int = 200) -> Created:
    return read_created(PROFILE, status, body, "data.taskId")


def test_the_answer_to_a_create() -> None:
    """A create's answer is read as leniently as a poll's; a refusal is told from an answer that cannot be read."""
    assert created(b'\xef\xbb\xbf{"code":200.0,"msg":"\\ud83d","data":{"taskId":"t"}}') == ("t", False, False)
    assert created(b'{"data":{"taskId":42.0,"n":NaN}}') == ("42", False, False)
    assert created(b'{"code":402,"msg":"m","data":null}') == (None, True, True)
    assert created(b"<html>", 503) == (None, True, False)
    for unreadable in (b"<html>", b"", b"[]", b"{}", b'{"code":200,"data":{"id":"t"}}', b"[" * 100_000):
        assert created(unreadable) == (None, False, False)


@pytest.mark.parametrize(
    ("status", "code", "none_made"),
    [
        (200, 429, True),
        (200, 455, True),
        (200, 503, True),
        (200, 505, True),
        (503, 503, True),
        (503, 429, True),
        (503, None, False),
        (400, 400, True),
        (403, None, True),
        (409, None, True),
        (200, 500, False),
        (200, 501, False),
        (500, 402, False),
        (504, None, False),
        (408, None, False),
        (200, 408, False),
        (408, 422, False),
        (200, -1, False),
    ],
)
def test_whether_a_create_is_known_to_have_made_nothing(status: int, code: int | None, none_made: bool) -> None:
    """The refusal of a request leaves no doubt; a server's failure, or a time-out, may have come after the task.

    That the API is busy, or does such things no more, is a refusal; what stands before it says so of lost answers too.
    """
    body = b"<html>" if code is None else b'{"code":%d,"msg":"m","data":null}' % code
    assert created(body, status) == (None, True, none_made)


@pytest.mark.parametrize(
    ("body", "none_made"),
    [
        ({"error": {"message": "The engine is overloaded", "type": "server_error"}}, True),
        ({"message": "Service Unavailable"}, False),  # of a gateway whose own time was up
        ({"error": "upstream connect error or disconnect/reset before headers"}, False),
        ([], False),
    ],
)
def test_whose_word_it_is_that_an_api_is_busy(body: Any, none_made: bool) -> None:
    """Where the API has no codes of its own, its error's shape tells: another's word leaves the create in doubt."""
    assert read_created(OPENAI, 503, json.dumps(body).encode(), "id") == (None, True, none_made)


def test_an_error_that_names_a_task_has_made_it() -> None:
    """Whatever else it says: there is a task to be paid for."""
    assert created(b'{"code":422,"data":{"taskId":"t"}}') == ("t", True, False)


def test_a_task_id_that_is_a_number() -> None:
    """Some answer a number where the client has its text."""
    result = read_answer(PROFILE, "4242", 200, None, b'{"code":200,"data":{"taskId":4242,"state":"success"}}')
    assert result.kind is PollKind.TERMINAL


# Broken answers.


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


# Giving up.


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


# Whatever comes.

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
