"""How the webhook receiver prints what comes: nothing of it acts on the terminal."""

import json
from typing import Any

import pytest

from gateway.api.openevents import EXAMPLES
from gateway.cli.receiver import ReceivedWebhook, pretty
from tests.receiving import SUCCEEDED, encode


def received(event: Any, **changes: Any) -> ReceivedWebhook:
    members: dict[str, Any] = {
        "verified": True,
        "problem": None,
        "headers": {"webhook-id": "cb_1"},
        "body": encode(event),
        "event": event,
        "duplicate": False,
    }
    return ReceivedWebhook(**members | changes)


def test_success_prints_its_urls() -> None:
    """One look tells which task ended how, with what, for which order, and that it is genuine."""
    assert pretty(received(SUCCEEDED)).splitlines() == [
        "✓ task.succeeded",
        "  taskId      task_1",
        "  state       success",
        "  resultUrls  https://cdn.example.com/a.png",
        "              https://cdn.example.com/b.png",
        '  metadata    {"orderId":7}',
        "  webhook-id  cb_1",
        "  signature   ✓ verified",
    ]


def test_failure_prints_code_and_message() -> None:
    """Empty metadata takes no line."""
    data: dict[str, Any] = {
        "taskId": "t",
        "state": "fail",
        "result": None,
        "failCode": "500",
        "failMsg": "no",
        "metadata": {},
    }
    assert pretty(received({"type": "task.failed", "data": data})).splitlines()[:-2] == [
        "✓ task.failed",
        "  taskId      t",
        "  state       fail",
        "  failCode    500",
        "  failMsg     no",
    ]


def test_abandoned_prints_the_reason() -> None:
    """The gateway's own word for why it gave up."""
    data = {"taskId": "t", "state": "abandoned", "reason": "timeout"}
    assert "  reason      timeout" in pretty(received({"type": "task.abandoned", "data": data})).splitlines()


def test_an_operator_event_prints_all_that_it_says() -> None:
    """In the order in which it says it, what to do and where the manual tells more last."""
    event = EXAMPLES["upstream.refused"]
    lines = pretty(received(event)).splitlines()
    assert lines[0] == "✓ upstream.refused"
    assert [line.split()[0] for line in lines[1:-2]] == [
        *("upstream", "tasksWaiting", "lastError", "whatToDo", "manual"),
    ]
    assert "  tasksWaiting 40" in lines


def test_a_record_prints_what_its_text_holds() -> None:
    """The family's own shape: its code and sentence, and the links in its text of JSON."""
    data = {"taskId": "task_1", "state": "success", "resultJson": '{"resultUrls":["https://cdn.example.com/a.png"]}'}
    event = {"code": 200, "msg": "Playground task completed successfully.", "data": data}
    assert pretty(received(event)).splitlines()[:-2] == [
        "✓ 200 Playground task completed successfully.",
        "  taskId      task_1",
        "  state       success",
        "  resultUrls  https://cdn.example.com/a.png",
    ]
    data = {"taskId": "task_1", "state": "fail", "resultJson": None, "failCode": "500", "failMsg": "no \x1b[2J"}
    assert pretty(received({"code": 501, "msg": "failed", "data": data})).splitlines()[:-2] == [
        "✓ 501 failed",
        "  taskId      task_1",
        "  state       fail",
        "  failCode    500",
        "  failMsg     no \\x1b[2J",
    ]
    odd = {"data": {"resultJson": "<not json>"}}
    assert pretty(received(odd)).splitlines()[:4] == [
        "✓ not a task's webhook",
        "  taskId      null",
        "  state       null",
        "  result      <not json>",
    ]


@pytest.mark.parametrize(("verified", "title"), [(True, "✓ a task's record"), (False, "✗ not a task's webhook")])
def test_another_apis_record_is_printed_whole(verified: bool, title: str) -> None:
    """An object without an envelope has its members under names of its own."""
    body = b'{"id":"p","status":"succeeded","output":["https://x/y.png"]}'
    webhook = received(json.loads(body), body=body, verified=verified, problem=None if verified else "forged")
    lines = pretty(webhook).splitlines()
    assert lines[:2] == [title, f"  body        {body.decode()}"]


def test_unverified_webhook_says_why_and_is_marked() -> None:
    """A ✗ at the head and the problem at the end; no ✓ anywhere."""
    lines = pretty(received(SUCCEEDED, verified=False, problem="webhook-timestamp is old", headers={})).splitlines()
    assert lines[0] == "✗ task.succeeded"
    assert lines[-2:] == ["  webhook-id  none", "  signature   ✗ not verified: webhook-timestamp is old"]
    assert not any("✓" in line for line in lines)


def test_duplicate_is_said() -> None:
    """People see that delivery is at least once."""
    assert "duplicate" in pretty(received(SUCCEEDED, duplicate=True)).splitlines()[0]
    assert "duplicate" not in pretty(received(SUCCEEDED))


def test_colour_only_when_asked() -> None:
    """The plain print is the coloured one without its escapes."""
    plain, coloured = pretty(received(SUCCEEDED)), pretty(received(SUCCEEDED), colour=True)
    assert "\x1b" not in plain
    assert "\x1b[32m✓\x1b[0m" in coloured


HOSTILE = "a\x1b[2J\r\n\x00\x7f\x9b31m\u2028\u202e\ud800b"


@pytest.mark.parametrize(
    "event",
    [
        {"type": HOSTILE, "data": {"taskId": HOSTILE, "state": HOSTILE, "failCode": HOSTILE, "failMsg": HOSTILE}},
        {"type": 7, "data": {"reason": HOSTILE, "result": {"resultUrls": [HOSTILE, {"x": 1}, None]}}},
        {"type": "x", "data": {"result": "\x1b]0;title\x07", "metadata": {"\x1b": "\u202e"}, "decodeError": [1]}},
    ],
)
@pytest.mark.parametrize("verified", [True, False])
def test_control_characters_are_escaped(event: Any, *, verified: bool) -> None:
    """What a sender wrote can neither move the cursor, nor add a line, nor turn the text around."""
    webhook = received(event, body=b"", verified=verified, problem=HOSTILE, headers={"webhook-id": HOSTILE})
    printed = pretty(webhook)
    assert all(line.isprintable() for line in printed.split("\n"))
    assert "\\x1b" in printed
    names = {line[2:14].strip() for line in printed.split("\n")[1:]}
    assert names <= {"taskId", "state", "resultUrls", "", "result", "metadata", "webhook-id", "signature"} | {
        "failCode",
        "failMsg",
        "reason",
        "decodeError",
    }


@pytest.mark.parametrize("event", [None, 7, "text", [], {}, {"type": "x"}, {"type": "x", "data": []}])
def test_body_of_another_form_is_shown_as_it_is(event: Any) -> None:
    """A POST that is no task's webhook is printed all the same."""
    assert "  body        hello \ufffd\\x00" in pretty(received(event, body=b"hello \xff\x00")).splitlines()


def test_long_values_are_cut() -> None:
    """A megabyte of text or a thousand URLs do not fill the screen."""
    data = {"failMsg": "x" * 1_000_000, "result": {"resultUrls": ["https://x"] * 1000}}
    printed = pretty(received({"type": "task.failed", "data": data}))
    assert len(printed) < 10_000
    assert "… and 980 more" in printed
