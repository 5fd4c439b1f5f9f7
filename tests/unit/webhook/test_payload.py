"""The webhook's exact body, from the upstream's answer to the last byte."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.profilefile import parse_profile
from gateway.core.model import Outcome, TaskState
from gateway.upstream.answer import abandoned, read_answer
from gateway.webhook.body import body_template

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "aigptimage"
PROFILE = parse_profile((ROOT / "config" / "upstreams" / "aigptimage.toml").read_text("utf-8"), "aigptimage.toml")
SETTLED_AT = 1_795_428_033_120

DOCUMENTED = """
{"type": "task.succeeded", "timestamp": "2026-11-23T10:00:33.120Z",
 "data": {"callbackId": "cb_1", "taskId": "task_xxx", "model": "gpt-image-2-text-to-image", "state": "success",
          "result": {"resultUrls": ["https://cdn.example.com/result.png"]},
          "param": {"model": "gpt-image-2-text-to-image", "input": {"prompt": "A cat"}},
          "failCode": null, "failMsg": null, "costTime": 32241,
          "createTime": 1777459967759, "completeTime": 1777460000000, "metadata": {"orderId": 7}}}
"""


def outcome_of(answer: bytes, task_id: str) -> Outcome:
    outcome = read_answer(PROFILE, task_id, 200, None, answer).outcome
    assert outcome is not None
    return outcome


def webhook(outcome: Outcome, metadata: bytes = b"{}") -> dict[str, Any]:
    body: dict[str, Any] = json.loads(body_template(outcome, SETTLED_AT).fill("cb_1", metadata))
    return body


def members(value: object) -> object:
    """Return a decoded value with every object as a list of pairs, so that comparing sees the order."""
    if isinstance(value, dict):
        return [(name, members(inner)) for name, inner in value.items()]
    if isinstance(value, list):
        return [members(inner) for inner in value]
    return value


def test_the_documented_success() -> None:
    """The published success becomes the documented webhook, every member in its place, without a spare byte."""
    outcome = outcome_of((FIXTURES / "success.json").read_bytes(), "task_xxx")
    body = body_template(outcome, SETTLED_AT).fill("cb_1", b'{"orderId":7}')
    assert members(json.loads(body)) == members(json.loads(DOCUMENTED))
    assert body == json.dumps(json.loads(DOCUMENTED), separators=(",", ":"), ensure_ascii=False).encode()


def test_the_documented_failure() -> None:
    """The published failure becomes task.failed with its code and message, and the parameters decoded."""
    task_id = "5f6ff8ea-ae97-4bb8-af5e-752ef4e96c0d"
    answer = (FIXTURES / "fail.json").read_bytes()
    body = webhook(outcome_of(answer, task_id))
    assert members(body) == members(
        {
            "type": "task.failed",
            "timestamp": "2026-11-23T10:00:33.120Z",
            "data": {
                "callbackId": "cb_1",
                "taskId": task_id,
                "model": "gpt-image-2-text-to-image",
                "state": "fail",
                "result": None,
                "param": json.loads(json.loads(answer)["data"]["param"]),
                "failCode": "400",
                "failMsg": "Sorry, but the image we created may violate OpenAI's content policies.",
                "costTime": None,
                "createTime": 1777475010433,
                "completeTime": None,
                "metadata": {},
            },
        }
    )


def test_a_running_task_has_no_webhook() -> None:
    """The published answer of a running task makes nothing due."""
    answer = (FIXTURES / "waiting.json").read_bytes()
    assert read_answer(PROFILE, "5064bd1a-025a-490b-b28f-6a9fa12eb88a", 200, None, answer).outcome is None


def test_an_abandoned_task_tells_its_reason() -> None:
    """A task that was given up becomes task.abandoned with the reason."""
    body = webhook(abandoned("task_xxx", "timeout"), b'{"a":1}')
    assert body["type"] == "task.abandoned"
    assert (body["data"]["state"], body["data"]["reason"]) == ("abandoned", "timeout")
    assert (body["data"]["callbackId"], body["data"]["metadata"]) == ("cb_1", {"a": 1})


def test_what_could_not_be_decoded_is_sent_raw() -> None:
    """A result that is not JSON and members that the upstream added reach the receiver."""
    answer = {"code": 200, "data": {"taskId": "t", "state": "success", "resultJson": "<x>", "creditsConsumed": 3}}
    data = webhook(outcome_of(json.dumps(answer).encode(), "t"))["data"]
    assert (data["result"], data["resultRaw"], data["extra"]) == (None, "<x>", {"creditsConsumed": 3})
    assert "decodeError" in data
    assert list(data)[-2:] == ["extra", "metadata"]


def test_every_end_has_its_event() -> None:
    """Each state that ends a task has its event type, and a waiting task has none."""
    types = {
        state: webhook(Outcome(state=state, data=b'{"taskId":"t"}'))["type"]
        for state in TaskState
        if state is not TaskState.WAITING
    }
    assert types == {
        TaskState.SUCCESS: "task.succeeded",
        TaskState.FAIL: "task.failed",
        TaskState.ABANDONED: "task.abandoned",
    }
    with pytest.raises(KeyError):
        body_template(Outcome(state=TaskState.WAITING, data=b'{"taskId":"t"}'), SETTLED_AT)


KEPT = b'{"taskId":"t","model":null,"result":{"u":[1.0,"caf\xc3\xa9 \xf0\x9f\x90\x88"]},"createTime":1777459967759}'
SENT = (
    b'","data":{"callbackId":"cb_1","taskId":"t","model":null,"result":{"u":[1.0,"caf\xc3\xa9 \xf0\x9f\x90\x88"]},'
    b'"createTime":1777459967759,"metadata":{"n":1.50}}}'
)


@pytest.mark.parametrize(
    ("state", "settled_at", "begins"),
    [
        ("success", 1_777_460_000_123, b'{"type":"task.succeeded","timestamp":"2026-04-29T10:53:20.123Z'),
        ("fail", 1_777_460_000_000, b'{"type":"task.failed","timestamp":"2026-04-29T10:53:20.000Z'),
    ],
)
def test_the_bytes_are_those_of_every_version(state: str, settled_at: int, begins: bytes) -> None:
    """What a row of the database becomes is fixed for good: these bytes must never be other ones.

    A webhook that was sent by an earlier version and was not taken is sent again after an upgrade, with the same id.
    """
    outcome = Outcome(state=TaskState(state), data=KEPT)
    assert body_template(outcome, settled_at).fill("cb_1", b'{"n":1.50}') == begins + SENT


def test_the_metadata_keeps_its_bytes() -> None:
    """The client's object is passed on as it was stored: numbers keep their digits and members their order."""
    metadata = b'{"b":1.0,"a":12345678901234567890123}'
    body = body_template(abandoned("t", "timeout"), SETTLED_AT).fill("cb_1", metadata)
    assert body.endswith(b',"metadata":' + metadata + b"}}")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(), json_values, max_size=3)
task_ids = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
ended = st.builds(
    lambda task_id, task, state: outcome_of(
        json.dumps({"data": {**task, "taskId": task_id, "state": state}}).encode(), task_id
    ),
    task_ids,
    st.fixed_dictionaries(
        {},
        optional={
            "model": json_values,
            "resultJson": json_values | objects.map(json.dumps),
            "param": json_values | objects.map(json.dumps),
            "failCode": json_values,
            "failMsg": json_values,
            "costTime": json_values,
            "\x00 added": json_values,
        },
    ),
    st.sampled_from(["success", "fail"]),
)
given_up = st.builds(abandoned, task_ids, st.text())


@given(outcome=ended | given_up, metadata=objects, settled_at=st.integers(0, 253_402_300_799_999))
def test_a_body_is_always_valid_json(outcome: Outcome, metadata: dict[str, Any], settled_at: int) -> None:
    """Whatever the outcome and the metadata hold, the body is one JSON document that holds exactly them."""
    encoded = json.dumps(metadata, ensure_ascii=False).encode()
    template = body_template(outcome, settled_at)
    body = json.loads(template.fill("cb_1", encoded))
    assert list(body) == ["type", "timestamp", "data"]
    told = json.loads(outcome.data)
    assert members(body["data"]) == members({"callbackId": "cb_1", **told, "metadata": metadata})
    # Another callback of the same task differs in its id and its metadata alone.
    assert template.fill("cb_2", encoded) == template.fill("cb_1", encoded).replace(b'"cb_1"', b'"cb_2"', 1)
