"""``gateway.receiver.verify``: what comes of a webhook that is good, and what is said of one that is not.

What is verified was signed by the gateway's own signer, over bodies that its own code makes; the library that receivers
use otherwise is asked as well.
"""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.model import Outcome, TaskState
from gateway.receiver import Abandoned, Failed, SecretError, Succeeded, UnknownBody, VerificationError, verify
from gateway.signature import Signer, make_key_pair, make_secret, parse_secrets
from gateway.webhook.body import body_template, record_body

SECRET, OTHER = make_secret(), make_secret()
NOW_S = 1_795_428_033.0
URL = "https://cdn.example.com/result.png"
DATA: dict[str, Any] = {
    "taskId": "task_1",
    "model": "gpt-image-2",
    "state": "success",
    "result": {"resultUrls": [URL, 7]},
    "param": {"input": {"prompt": "Ein Käfer 🐈"}},
    "failCode": None,
    "failMsg": None,
    "costTime": 32241,
    "createTime": 1777459967759,
    "completeTime": 1777460000000,
}


def standard(state: TaskState, **members: Any) -> bytes:
    """Return the body that the gateway makes of an outcome."""
    outcome = Outcome(state=state, data=msgspec.json.encode(DATA | {"state": state} | members))
    return body_template(outcome, 1777460001000).fill("cb_1", b'{"orderId":7}')


def record(kind: TaskState, **members: Any) -> bytes:
    texts = {"resultJson": json.dumps(DATA["result"]), "param": json.dumps(DATA["param"])}
    data = {name: value for name, value in DATA.items() if name not in ("result", "param")} | texts
    return record_body(kind, msgspec.json.encode(data | {"state": kind} | members))


def signed(body: bytes, secrets: str = SECRET, at_s: float = NOW_S, webhook_id: str = "cb_1") -> dict[str, str]:
    return Signer(parse_secrets(secrets)).headers(webhook_id, int(at_s), body)


def test_a_task_that_succeeded() -> None:
    """Its members have types, and its times are instants."""
    body = standard(TaskState.SUCCESS)
    event = verify(body, signed(body), SECRET, now_s=NOW_S)
    assert isinstance(event, Succeeded)
    assert (event.webhook_id, event.callback_id, event.task_id) == ("cb_1", "cb_1", "task_1")
    assert (event.result_urls, event.result) == ((URL,), DATA["result"])
    assert (event.metadata, event.param, event.model) == ({"orderId": 7}, DATA["param"], "gpt-image-2")
    assert (event.format, event.cost_time_ms) == ("standard", 32241)
    assert event.sent_at == datetime.fromtimestamp(NOW_S, UTC)
    assert event.settled_at == datetime(2026, 4, 29, 10, 53, 21, tzinfo=UTC)
    assert event.complete_time == datetime(2026, 4, 29, 10, 53, 20, tzinfo=UTC)
    assert event.raw == json.loads(body)


def test_a_task_that_failed_and_one_that_was_given_up() -> None:
    """Each is a type of its own."""
    body = standard(TaskState.FAIL, failCode="501", failMsg="content policy", result=None)
    failed = verify(body, signed(body), SECRET, now_s=NOW_S)
    assert isinstance(failed, Failed)
    assert (failed.fail_code, failed.fail_msg) == ("501", "content policy")
    body = standard(TaskState.ABANDONED, reason="not_found", costTime=None, createTime=None)
    abandoned = verify(body, signed(body), SECRET, now_s=NOW_S)
    assert isinstance(abandoned, Abandoned)
    assert (abandoned.reason, abandoned.create_time) == ("not_found", None)


def test_format_record() -> None:
    """The same types; the JSON in its texts is decoded, and what it does not say is None."""
    body = record(TaskState.SUCCESS)
    event = verify(body, signed(body, webhook_id="cb_9"), SECRET, now_s=NOW_S)
    assert isinstance(event, Succeeded)
    assert (event.format, event.callback_id, event.task_id) == ("record", "cb_9", "task_1")
    assert (event.result_urls, event.param, event.metadata) == ((URL,), DATA["param"], {})
    assert (event.settled_at, event.cost_time_ms) == (None, 32241)
    body = record(TaskState.FAIL, failMsg="no")
    failed = verify(body, signed(body), SECRET, now_s=NOW_S)
    assert isinstance(failed, Failed)
    assert (failed.fail_code, failed.fail_msg) == (None, "no")
    body = record(TaskState.ABANDONED, state="fail", failCode="408", failMsg="given up", resultJson="{")
    abandoned = verify(body, signed(body), SECRET, now_s=NOW_S)
    assert isinstance(abandoned, Abandoned)
    assert (abandoned.reason, abandoned.fail_msg) == (None, "given up")


def test_the_other_endpoints_of_kie() -> None:
    """Their callbacks have a shape of their own within the same envelope."""
    body = b'{"code":200,"msg":"Veo3.1 video generated.","data":{"taskId":"veo_1","info":{"resultUrls":["%b"]}}}'
    body = body.replace(b"%b", URL.encode())
    event = verify(body, signed(body), SECRET, now_s=NOW_S)
    assert isinstance(event, Succeeded)
    assert (event.task_id, event.result_urls) == ("veo_1", (URL,))
    body = b'{"code":400,"msg":"Your prompt was refused.","data":{"taskId":"veo_1"}}'
    failed = verify(body, signed(body), SECRET, now_s=NOW_S)
    assert isinstance(failed, Failed)
    assert (failed.fail_code, failed.fail_msg) == ("400", "Your prompt was refused.")


@pytest.mark.parametrize(
    "odd",
    [
        {"result": None, "param": "text", "failCode": 7, "costTime": "?", "createTime": 1e300, "metadata": {}},
        {"result": {"resultUrls": "no list"}, "model": 3, "failMsg": ["x"], "completeTime": True},
        {"createTime": -(10**20), "costTime": -1, "extra": [], "novelty": {"a": 1}},
    ],
)
def test_what_the_upstream_sent_is_no_reason_to_refuse(odd: dict[str, Any]) -> None:
    """What has another type than it should is None; raw has it."""
    body = standard(TaskState.SUCCESS, **odd)
    event = verify(body, signed(body), SECRET, now_s=NOW_S)
    assert isinstance(event, Succeeded)
    assert event.raw["data"]["state"] == "success"


@pytest.mark.parametrize(
    "body",
    [
        b'{"id": "p1", "status": "succeeded", "output": ["https://x"]}',
        b'{"type": "task.succeeded", "data": {"taskId": "t"}}',
        b'{"type": "task.succeeded", "timestamp": "soon", "data": {"taskId": "t"}}',
        b'{"type": "task.novelty", "timestamp": "2026-11-23T10:00:33.120Z", "data": {"taskId": "t"}}',
        b'{"code": "200", "data": {"taskId": "t"}}',
        b'{"code": 200, "data": {"taskId": 7}}',
        b'{"code": 200, "data": null}',
        b"[]",
        b'"text"',
        b"null",
        b"",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_signed_body_of_another_kind(body: bytes) -> None:
    """Is told apart from one whose signature is wrong; what it holds can be read all the same."""
    with pytest.raises(UnknownBody, match="The signature is right") as caught:
        verify(body, signed(body), SECRET, now_s=NOW_S)
    assert caught.value.webhook_id == "cb_1"
    if body.startswith(b'{"id"'):
        assert caught.value.raw["output"] == ["https://x"]


BODY = standard(TaskState.SUCCESS)
GOOD = signed(BODY)


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ({"now_s": NOW_S + 301}, "too_old", "301 s old"),
        ({"now_s": NOW_S - 301}, "too_new", "in the future"),
        ({"secrets": OTHER}, "no_match", "no signature matches"),
        ({"body": BODY.replace(b"task_1", b"task_2")}, "no_match", "no signature matches"),
        ({"body": json.dumps(json.loads(BODY)).encode()}, "changed", "before anything parses"),
        ({"body": json.dumps(json.loads(BODY), indent=2).encode()}, "changed", "before anything parses"),
        ({"body": BODY + b"\n"}, "changed", "before anything parses"),
        ({"headers": GOOD | {"webhook-id": "cb_2"}}, "no_match", "no signature matches"),
        ({"headers": {}}, "unsigned", "webhook-signature missing"),
        ({"headers": GOOD | {"webhook-signature": "v1a,AAAA"}}, "unsigned", "no v1 entry"),
        ({"headers": GOOD | {"webhook-timestamp": "now"}}, "malformed", "whole number"),
        ({"headers": GOOD | {"Webhook-Id": "cb_1"}}, "malformed", "more than once"),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], reason: str, says: str) -> None:
    """By a word for programs and a sentence for people; the reference library refuses the same."""
    asked: dict[str, Any] = {"body": BODY, "headers": GOOD, "secrets": SECRET, "now_s": NOW_S} | change
    with pytest.raises(VerificationError, match=says) as caught:
        verify(asked.pop("body"), asked.pop("headers"), asked.pop("secrets"), **asked)
    assert caught.value.reason == reason


def test_the_reference_library_agrees() -> None:
    """Where it verifies so do we, and where it refuses so do we; it knows no other time than now."""
    now_s = time.time()
    good = signed(BODY, at_s=now_s)
    assert standardwebhooks.Webhook(SECRET).verify(BODY, good) == verify(BODY, good, SECRET).raw
    for headers, body in ((signed(BODY, at_s=now_s - 400), BODY), (signed(BODY, OTHER, now_s), BODY), (good, b"{}")):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(SECRET).verify(body, headers)
        with pytest.raises(VerificationError):
            verify(body, headers, SECRET)


def test_a_secret_takes_anothers_place() -> None:
    """Receivers with both verify what either signed; in a list or as the setting has them."""
    for headers in (signed(BODY, SECRET), signed(BODY, OTHER), signed(BODY, f"{OTHER} {SECRET}")):
        for secrets in (f"{OTHER} {SECRET}", [SECRET, OTHER]):
            assert verify(BODY, headers, secrets, now_s=NOW_S).task_id == "task_1"


def test_a_public_key() -> None:
    """A receiver with it verifies, alone and beside a secret, and one of another pair does not."""
    signing, public = make_key_pair()
    headers = signed(BODY, f"{SECRET} {signing}")
    assert verify(BODY, headers, public, now_s=NOW_S) == verify(BODY, headers, [OTHER, public], now_s=NOW_S)
    with pytest.raises(VerificationError, match="no signature matches"):
        verify(BODY, headers, make_key_pair()[1], now_s=NOW_S)


@pytest.mark.parametrize("secrets", ["", "  ", [], "whsec_", "short", ["whsec_AAAA"]])
def test_a_secret_that_is_none(secrets: Any) -> None:
    """Is never taken for one that verifies anything."""
    with pytest.raises(SecretError):
        verify(BODY, GOOD, secrets, now_s=NOW_S)


class Pairs:
    """Headers of a framework that calls them no mapping."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def items(self) -> list[tuple[str, str]]:
        return [(name.title(), value) for name, value in self._headers.items()]


def test_what_frameworks_hand_over() -> None:
    """Headers that only have items, a body as text, a view of it; a parsed one is a mistake that is named."""
    for body in (BODY, BODY.decode(), bytearray(BODY), memoryview(BODY)):
        assert verify(body, Pairs(GOOD), SECRET, now_s=NOW_S).task_id == "task_1"  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="body is dict: hand over the request's bytes"):
        verify(json.loads(BODY), GOOD, SECRET, now_s=NOW_S)


@given(st.binary(max_size=300), st.dictionaries(st.sampled_from(sorted(GOOD)), st.text(max_size=60)))
def test_garbage_is_refused_and_nothing_else(body: bytes, headers: dict[str, str]) -> None:
    """Whatever comes raises the one error."""
    with pytest.raises(VerificationError):
        verify(body, GOOD | headers, OTHER, now_s=NOW_S)


def test_no_secret_is_shown() -> None:
    """Neither in what is raised nor in an event."""
    with pytest.raises(VerificationError) as caught:
        verify(BODY, GOOD, OTHER, now_s=NOW_S)
    assert OTHER[6:] not in str(caught.value)
    assert SECRET[6:] not in repr(verify(BODY, GOOD, SECRET, now_s=NOW_S))
