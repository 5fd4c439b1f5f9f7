"""The body of format record: what the family's own callbacks hold, byte for byte, and the way back."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.profilefile import parse_profile
from gateway.core.claims import BodyParts
from gateway.core.model import Format, Outcome, TaskState
from gateway.upstream.answer import read_answer
from gateway.webhook.body import callback_parts, record_body, record_of, webhook_body

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "aigptimage"
PROFILE = parse_profile((ROOT / "config" / "upstreams" / "aigptimage.toml").read_text("utf-8"), "aigptimage.toml")
SETTLED_AT = 1_795_428_033_120


def made(outcome: Outcome) -> bytes:
    """Return the body of a webhook whose record was not kept."""
    parts = BodyParts(outcome=outcome, settled_at=SETTLED_AT, metadata=b'{"n":1}', format=Format.RECORD)
    return webhook_body("cb_1", parts)


@pytest.mark.parametrize(
    ("state", "begins"),
    [
        (TaskState.SUCCESS, b'{"code":200,"msg":"Playground task completed successfully.","data":'),
        (TaskState.FAIL, b'{"code":501,"msg":"Playground task failed.","data":'),
        (TaskState.ABANDONED, b'{"code":408,"msg":"Playground task abandoned.","data":'),
    ],
)
def test_the_record_stands_in_its_envelope(state: TaskState, begins: bytes) -> None:
    """As it is, to the byte; and it is found there again."""
    record = b'{"taskId":"t","param":"{\\"a\\":1.50}","odd":[1.0,"caf\xc3\xa9"]}'
    body = record_body(state, record)
    assert body == begins + record + b"}"
    assert record_of(body) == record


def test_a_body_without_an_envelope_is_the_record() -> None:
    """An API whose webhooks hold its own object alone: also one that has a code of its own in it."""
    for body in (b'{"id":"p","status":"succeeded","output":{}}', b'{"code":200,"msg":"fine","data":{"a":1}}'):
        assert record_of(body) is body


def test_a_record_that_fills_a_template() -> None:
    """As an API's own callbacks are described; the record is found again, and these bytes must never be other ones."""
    record = b'{"id":"t","none":null,"urls":[{"url":"caf\xc3\xa9"},{"url":"\\u0000"}],"code":"","n":1.50}'
    template = {
        "code": "{code|501}", "msg": "Failed.", "data": {"n": "{n}", "gone": "{gone}", "urls": ["{urls.*.url}"]},
    }  # fmt: skip
    stored = b"".join(callback_parts(template, record))
    assert record_of(stored) == record
    assert webhook_body("cb_1", stored) == (
        b'{"code":501,"msg":"Failed.","data":{"n":1.5,"urls":["caf\xc3\xa9","\\u0000"]}}'
    )
    as_stored_in_2026 = (
        b'\0{"code":"{code|501}","msg":"Failed.","data":{"n":"{n}","gone":"{gone}","urls":["{urls.*.url}"]}}\0'
    )
    assert stored == as_stored_in_2026 + record


@pytest.mark.parametrize("name", ["success", "fail"])
def test_a_record_that_was_not_kept_is_made_again(name: str) -> None:
    """Of what the published answers have become: the same members, with JSON in their texts."""
    answer = (FIXTURES / f"{name}.json").read_bytes()
    published = json.loads(answer)["data"]
    outcome = read_answer(PROFILE, published["taskId"], 200, None, answer).outcome
    assert outcome is not None
    body = json.loads(made(outcome))
    assert body["code"] == {"success": 200, "fail": 501}[name]
    assert list(body["data"])[:5] == ["taskId", "model", "state", "param", "resultJson"]
    assert body["data"] == published


def test_the_made_bytes_are_those_of_every_version() -> None:
    """What a row of the database becomes is fixed for good: these bytes must never be other ones."""
    data = (
        b'{"taskId":"t","model":null,"state":"fail","result":{"u":["a\\"b\\\\n",1.0]},"param":null,"paramRaw":"<x>",'
        b'"failCode":"501","failMsg":"caf\xc3\xa9","costTime":null,"createTime":1777459967759,"completeTime":null,'
        b'"extra":{"creditsConsumed":1.50,"model":"other"}}'
    )
    assert made(Outcome(state=TaskState.FAIL, data=data)) == (
        b'{"code":501,"msg":"Playground task failed.","data":{"taskId":"t","model":null,"state":"fail","param":"<x>",'
        b'"resultJson":"{\\"u\\":[\\"a\\\\\\"b\\\\\\\\n\\",1.0]}","failCode":"501","failMsg":"caf\xc3\xa9",'
        b'"costTime":null,"completeTime":null,"createTime":1777459967759,"creditsConsumed":1.50}}'
    )


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(), json_values, max_size=3)
task_objects = st.fixed_dictionaries(
    {"state": st.sampled_from(["success", "fail"])},
    optional={
        "model": json_values,
        "resultJson": st.none() | st.text() | objects.map(json.dumps),
        "param": st.none() | st.text() | objects.map(json.dumps),
        "failCode": json_values,
        "added": json_values,
    },
)


@given(task=task_objects)
def test_what_is_kept_is_what_came(task: dict[str, Any]) -> None:
    """Whatever the upstream sends: every member, the unknown ones too, and its texts as they were."""
    task = {**task, "taskId": "t"}
    result = read_answer(PROFILE, "t", 200, None, json.dumps({"code": 200, "data": task}).encode())
    assert result.record is not None
    assert result.outcome is not None
    body = record_body(result.outcome.state, result.record)
    assert json.loads(body)["data"] == task
    assert record_of(body) == result.record


@given(task=task_objects)
def test_what_is_made_says_the_same(task: dict[str, Any]) -> None:
    """It is JSON whatever stood in the outcome, and JSON in its texts means what it meant."""
    task = {**task, "taskId": "t"}
    outcome = read_answer(PROFILE, "t", 200, None, json.dumps({"code": 200, "data": task}).encode()).outcome
    assert outcome is not None
    data = json.loads(made(outcome))["data"]
    told = json.loads(outcome.data)
    assert data["state"] == task["state"]
    assert data.get("added") == task.get("added")
    for text, member in (("resultJson", "result"), ("param", "param")):
        if f"{member}Raw" in told:
            assert data[text] == task[text]
        else:
            assert (None if data[text] is None else json.loads(data[text])) == told[member]
