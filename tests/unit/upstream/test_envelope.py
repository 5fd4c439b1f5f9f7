"""The way back: from what the gateway knows of a task to the answer that the upstream would give."""

import json
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.profilefile import config_dir, parse_profile, read_profiles
from gateway.core.model import Task, TaskState
from gateway.upstream.answer import PollKind, read_answer
from gateway.upstream.envelope import error_envelope, new_record, record_envelope
from tests import nouns

PROFILES = read_profiles([config_dir() / "upstreams"])[0]
PROFILE = PROFILES["aigptimage"]
EXAMPLES = Path(__file__).parents[2] / "fixtures" / "aigptimage"
TASK = "task_xxx"
CREATED_AT = 1777474689024


def task(state: TaskState = TaskState.WAITING, outcome: bytes | None = None, **members: Any) -> Task:
    about = {
        "upstream": "aigptimage",
        "task_id": TASK,
        "polls": 1,
        "created_at": CREATED_AT + 500,
        "next_poll_at": None,
    }
    return nouns.task(**about | {"state": state, "outcome": outcome} | members)


def settled(answer: bytes, task_id: str = TASK, profile: str = "aigptimage") -> Task:
    """Return the task that an answer of the upstream makes."""
    outcome = read_answer(PROFILES[profile], task_id, 200, None, answer).outcome
    assert outcome is not None
    return task(outcome.state, outcome.data, task_id=task_id)


@pytest.mark.parametrize("name", ["success", "fail"])
def test_the_upstreams_examples_come_back_as_they_were(name: str) -> None:
    """An ended task's answer is that of the upstream's page, member for member, in its order and with its types."""
    example = (EXAMPLES / f"{name}.json").read_bytes()
    expected = json.loads(example)
    answer = json.loads(record_envelope(PROFILE, settled(example, expected["data"]["taskId"])))
    assert answer == expected
    assert list(answer) == list(expected)
    assert list(answer["data"]) == list(expected["data"])


def test_a_running_task_looks_as_on_the_upstreams_page() -> None:
    """A running task has the example's members, null where nothing is known yet, and its real time of creation."""
    expected = json.loads((EXAMPLES / "waiting.json").read_bytes())
    told = task(task_id=expected["data"]["taskId"], model=expected["data"]["model"], born_at=CREATED_AT)
    answer = json.loads(record_envelope(PROFILE, told))
    assert answer == {**expected, "data": {**expected["data"], "param": None}}
    assert list(answer["data"]) == list(expected["data"])
    assert read_answer(PROFILE, told.task_id, 200, None, record_envelope(PROFILE, told)).kind is PollKind.RUNNING


def test_before_the_first_poll_the_registration_is_the_creation() -> None:
    """createTime is never null: clients subtract it from their clock."""
    data = json.loads(record_envelope(PROFILE, task()))["data"]
    assert (data["createTime"], data["model"], data["state"]) == (CREATED_AT + 500, None, "waiting")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8) | st.floats(-1e6, 1e6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    state=st.sampled_from(["success", "fail"]),
    result=values.map(json.dumps) | st.text(max_size=8) | st.none(),
    param=values.map(json.dumps) | st.text(max_size=8) | st.none(),
    fail_code=st.none() | st.text(min_size=1, max_size=5) | st.integers(0, 999),
    times=st.tuples(*[st.none() | st.integers(0, 2**53)] * 3),
    extra=st.dictionaries(st.sampled_from(["creditsConsumed", "updateTime", "a.b", ""]), values, max_size=2),
)
def test_an_outcome_survives_the_way_there_and_back(
    state: str, result: Any, param: Any, fail_code: Any, times: Any, extra: dict[str, Any]
) -> None:
    """Whoever reads the gateway's answer as the upstream's learns exactly what the gateway learned."""
    created_at, completed_at, cost = times
    data = {
        "taskId": TASK, "model": "m", "state": state, "param": param, "resultJson": result, "failCode": fail_code,
        "failMsg": "why", "costTime": cost, "completeTime": completed_at, "createTime": created_at, **extra,
    }  # fmt: skip
    told = settled(msgspec.json.encode({"code": 200, "msg": "success", "data": data}))
    again = settled(record_envelope(PROFILE, told))
    assert (again.state, again.outcome) == (told.state, told.outcome)


def test_what_is_no_json_comes_back_as_the_text_it_was() -> None:
    """A resultJson that the gateway could not decode is passed on as it came."""
    answer = {"code": 200, "data": {"taskId": TASK, "state": "success", "resultJson": "https://u", "param": "{"}}
    data = json.loads(record_envelope(PROFILE, settled(json.dumps(answer).encode())))["data"]
    assert (data["resultJson"], data["param"]) == ("https://u", "{")


def test_another_member_of_the_family_has_its_own_members() -> None:
    """A profile's paths decide where members stand; what the upstream adds is passed on."""
    example = (EXAMPLES.parent / "kie" / "success.json").read_bytes()
    expected = json.loads(example)["data"]
    answer = json.loads(record_envelope(PROFILES["kie"], settled(example, expected["taskId"], "kie")))["data"]
    changed = {name for name in expected.keys() | answer.keys() if answer.get(name) != expected.get(name)}
    assert changed == {"failCode", "failMsg"}, "an empty text, which is no value"
    assert (answer["failCode"], expected["failCode"]) == (None, "")


DATA = {
    "taskId": TASK, "model": "m", "state": "fail", "param": '{"a": 1}', "resultJson": None, "failCode": "400",
    "failMsg": "why", "costTime": 5, "completeTime": 7, "createTime": CREATED_AT, "seed": 7,
}  # fmt: skip


ODD_JSON = ('{"score": NaN}', '{"score": 1e400}', '{"text": "\\ud83d"}')
"""Texts that are read all the same, with null or U+FFFD in the place of what no JSON can tell."""


@pytest.mark.parametrize(
    ("changed", "faithful"),
    [
        ({}, True),
        ({"failCode": None, "failMsg": None, "costTime": None, "completeTime": None, "createTime": None}, True),
        ({"resultJson": "no JSON", "param": '{"a":1,"a":2}', "seed": {"b": [1.5, ""]}}, True),
        *[({"failCode": value}, False) for value in (400, 400.0, "", True, {"a": 1})],
        *[({"failMsg": value}, False) for value in (7, "", ["why"])],
        *[({name: value}, False) for name in ("costTime", "completeTime", "createTime") for value in ("5", 5.0, "")],
        *[({name: value}, False) for name in ("param", "resultJson") for value in ("", "null", {"a": 1}, 7)],
        *[({name: text}, False) for name in ("param", "resultJson") for text in ODD_JSON],
        ({"taskId": ""}, False),
        ({"state": "success"}, False),
        ({"state": "success", "failCode": None, "failMsg": None}, True),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_made_again_is_known(changed: dict[str, Any], faithful: bool) -> None:
    """Where a value would come back otherwise than the upstream gave it, type included, its own record is needed."""
    data = {**DATA, **changed}
    result = read_answer(PROFILE, TASK, 200, None, json.dumps({"code": 200, "data": data}).encode())
    assert result.kind is PollKind.TERMINAL
    assert result.faithful is faithful
    made = json.loads(record_envelope(PROFILE, task(result.outcome.state, result.outcome.data)))["data"]  # type: ignore[union-attr]
    assert (_plain(made) == _plain(data)) is faithful


def _plain(data: dict[str, Any]) -> list[tuple[str, object]]:
    """Return the members in a form that tells 1 from 1.0 and from true; JSON within a text as what it says."""
    plain = []
    for name, value in data.items():
        within = value
        if name in ("param", "resultJson") and isinstance(value, str):
            try:
                within = ["text", json.loads(value)] if value.strip() != "null" else value
            except ValueError:
                within = value
        plain.append((name, json.dumps(within, sort_keys=True)))
    return sorted(plain)


def test_members_that_were_left_out_may_be_told_as_null() -> None:
    """The upstream's family has them null where it has them at all."""
    data = {"taskId": TASK, "state": "success", "resultJson": "{}"}
    assert read_answer(PROFILE, TASK, 200, None, json.dumps({"code": 200, "data": data}).encode()).faithful


@pytest.mark.parametrize(
    ("was", "now", "answer"),
    [
        ('fail = ["fail"]', 'fail = ["fail", "failed"]', {**DATA, "state": "failed"}),
        ('fail = ["fail"]', 'fail = ["fail"]\nignore_case = true', {**DATA, "state": "FAIL"}),
        ('"data.failCode"', '["data.failCode", "data.code"]', {**DATA, "failCode": None, "code": "400"}),
        ('"data.resultJson"', '["data.resultJson", "data.url"]', {**DATA, "url": "https://u"}),
        ('"data.failMsg"', '"data.error.text"', {**DATA, "error": {"text": "why", "param": "prompt"}}),
    ],
)
def test_a_profile_may_read_what_it_would_write_otherwise(was: str, now: str, answer: dict[str, Any]) -> None:
    """Other words, other places, and what stands beside a member within another one: the outcome has none of these."""
    text = (config_dir() / "upstreams" / "aigptimage.toml").read_text("utf-8")
    assert was in text
    profile = parse_profile(text.replace(was, now), "aigptimage.toml")
    result = read_answer(profile, TASK, 200, None, json.dumps({"code": 200, "data": answer}).encode())
    assert (result.kind, result.faithful) == (PollKind.TERMINAL, False)


def test_no_record_is_needed_of_an_api_whose_answers_are_never_made() -> None:
    """Reads of its tasks are forwarded: nothing more is kept for them."""
    assert PROFILE.proxy is not None
    silent = msgspec.structs.replace(PROFILE, proxy=msgspec.structs.replace(PROFILE.proxy, synthesize=False))
    for profile in (silent, msgspec.structs.replace(PROFILE, proxy=None)):
        answer = json.dumps({"code": 200, "data": {**DATA, "failCode": 400}}).encode()
        assert read_answer(profile, TASK, 200, None, answer).faithful


OWN = """
name = "own"
base_url = "https://api.example.com"
[request]
status_path = "/jobs/{task_id}"
[envelope]
ok = []
success = "ok"
message = ["error.text"]
[states]
path = "status"
success = ["done", "completed"]
fail = ["broken"]
[fields]
root = "job"
task_id = "id"
result = ["output", "url"]
fail_msg = "error.text"
create_time = "created"
[proxy]
create_path = "/jobs"
created_id = "id"
callback_members = ["callback"]
record_path = "/job"
record_param = "id"
"""


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("", {"ok": True, "id": "t", "status": "done", "url": "https://u", "created": 5, "job": {"seed": 7}}),
        ("", {"ok": True, "id": "t", "status": "broken", "error": {"text": "why"}}),
        ('code = "code"', {"id": "t", "status": "completed", "output": [1], "job": {"a": None}}),
    ],
)
def test_an_own_profile_is_answered_as_its_api_does(code: str, answer: dict[str, Any]) -> None:
    """Whoever reads the answer by the profile learns what the gateway learned; a success tells of no error."""
    profile = parse_profile(OWN.replace("[envelope]", f"[envelope]\n{code}"), "own.toml")
    outcome = read_answer(profile, "t", 200, None, json.dumps(answer).encode()).outcome
    assert outcome is not None
    told = record_envelope(profile, task(outcome.state, outcome.data, task_id="t"))
    assert read_answer(profile, "t", 200, None, told).outcome == outcome
    shown = json.loads(told)
    assert (shown["ok"], "code" in shown) == (True, False)
    assert (shown["error"]["text"] is None) == (outcome.state is TaskState.SUCCESS)
    running = json.loads(record_envelope(profile, task(task_id="t")))
    assert (running["status"], running["ok"], running["created"]) == ("waiting", True, CREATED_AT + 500)
    error = json.loads(error_envelope(profile, 404, "none"))
    assert (error["ok"], error["error"], error["job"]) == (False, {"text": "none"}, None)


def test_an_errors_members_may_stand_within_the_task() -> None:
    """What describes a task is null in an error's answer, and does not take the error's own code away."""
    profile = parse_profile(OWN.replace("[envelope]", '[envelope]\ncode = "job.code"'), "own.toml")
    assert json.loads(error_envelope(profile, 404, "none"))["job"] == {"code": 404}


def test_an_error_has_the_envelope() -> None:
    """An error has code, msg and data; the wait of a 429 stands where the upstream puts it."""
    assert json.loads(error_envelope(PROFILE, 404, "none")) == {"code": 404, "msg": "none", "data": None}
    throttled = json.loads(error_envelope(PROFILE, 429, "wait", 17))
    assert throttled == {"code": 429, "msg": "wait", "data": {"retryAfter": 17}}
    result = read_answer(PROFILE, TASK, 429, None, error_envelope(PROFILE, 429, "wait", 17))
    assert (result.kind, result.retry_after_s) == (PollKind.THROTTLED, 17.0)


@pytest.mark.parametrize("as_text", [True, False])
@given(prompt=st.binary(max_size=8))
def test_a_new_task_is_told_with_what_was_asked(as_text: bool, prompt: bytes) -> None:
    """Whatever the bytes, as they went on unread: the answer is JSON, and a reader of it finds a task that runs."""
    in_string = msgspec.structs.replace(PROFILE.json_in_string, param=as_text)
    profile = msgspec.structs.replace(PROFILE, json_in_string=in_string)
    body = b'{"prompt":"%b"}' % prompt.translate(None, b'"\\')
    record = json.loads(new_record(profile, TASK, "m", body, CREATED_AT) or b"")
    asked = json.loads(record["param"], strict=False) if as_text else record["param"]
    assert asked == {"prompt": json.loads(body.decode("utf-8", "replace"), strict=False)["prompt"]}
    answer = json.dumps({"code": 200, "data": record}).encode()
    assert read_answer(profile, TASK, 200, None, answer).kind is PollKind.RUNNING


@pytest.mark.parametrize(
    ("time", "written"), [("ms", 1764429000123), ("s", 1764429000), ("iso", "2025-11-29T15:10:00.123Z")]
)
def test_a_new_task_is_told_as_its_profile_has_it(time: Literal["ms", "s", "iso"], written: object) -> None:
    """With the times that the API writes; what is not known is left out, and what is said to be null is."""
    assert PROFILE.proxy is not None
    told = {"id": "{taskId}", "at": "{createTime}", "by": "{model|none}", "kind": "{param.kind}", "end": "{}"}
    profile = msgspec.structs.replace(
        PROFILE,
        proxy=msgspec.structs.replace(PROFILE.proxy, synthesize=False, created_record=told),
        units=msgspec.structs.replace(PROFILE.units, time=time),
    )
    record = json.loads(new_record(profile, TASK, None, b'{"kind":[7]}', 1764429000123) or b"")
    assert record == {"id": TASK, "at": written, "by": "none", "kind": [7], "end": None}
    record = json.loads(new_record(profile, TASK, "m", None, 1764429000123) or b"")
    assert record == {"id": TASK, "at": written, "by": "m", "end": None}
    silent = msgspec.structs.replace(PROFILE, proxy=msgspec.structs.replace(PROFILE.proxy, synthesize=False))
    assert new_record(silent, TASK, "m", b"{}", 1764429000123) is None
