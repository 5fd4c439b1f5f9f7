"""One row for each answer that the upstream and its family are known to give: what becomes of the task and the key.

The rows follow the public documentation of the APIs and what their clients report. Whatever is not a task's own state
leaves the task where it is; the key is judged from the kind alone.
"""

import json
from typing import Any, NamedTuple

import pytest

from gateway.config.profilefile import config_dir, read_profiles
from gateway.upstream.answer import PollKind, PollResult, read_answer

PROFILES = read_profiles([config_dir() / "upstreams"])[0]
TASK = "5064bd1a-025a-490b-b28f-6a9fa12eb88a"

# What the poller makes of a kind: of the task …
RUNS, ENDS, MAY_NOT_EXIST = "runs on", "ends", "runs on, and is given up when it stays unknown past the grace period"
# … and of the key.
FINE, WAITS, REFUSED, UNPROVEN = "fine", "waits", "refused: paused and probed", "as it was"


class Row(NamedTuple):
    """An answer, and what it means."""

    name: str
    body: Any
    kind: PollKind
    task: str
    key: str
    status: int = 200
    header_s: float | None = None
    wait_s: float | None = None
    """How long the answer asks to wait: the next poll is not earlier than that."""
    told: dict[str, Any] = {}  # noqa: RUF012 - never written to
    profile: str = "aigptimage"


def envelope(code: Any = 200, msg: str = "success", **data: Any) -> dict[str, Any]:
    """Return an answer about TASK."""
    return {"code": code, "msg": msg, "data": {"taskId": TASK, **data}}


def error(code: int, msg: str = "m", **data: Any) -> dict[str, Any]:
    """Return an error envelope."""
    return {"code": code, "msg": msg, "data": data or None}


ROWS = [
    # The upstream's own page.
    Row("waiting", envelope(state="waiting"), PollKind.RUNNING, RUNS, FINE),
    Row("success", envelope(state="success", resultJson='{"resultUrls":["u"]}'), PollKind.TERMINAL, ENDS, FINE,
        told={"state": "success", "result": {"resultUrls": ["u"]}}),
    Row("fail, though HTTP and code are 200", envelope(state="fail", failCode="400", failMsg="policy"),
        PollKind.TERMINAL, ENDS, FINE,
        told={"state": "fail", "failCode": "400", "failMsg": "policy", "completeTime": None, "costTime": None}),
    # Its errors: the HTTP status equals the code.
    Row("400 invalid", error(400), PollKind.BROKEN, RUNS, FINE, 400),
    Row("401 key", error(401), PollKind.KEY_REFUSED, RUNS, REFUSED, 401),
    Row("402 credits", error(402), PollKind.CREDITS, RUNS, FINE, 402),
    Row("404 unknown task or another key's", error(404), PollKind.NOT_KNOWN, MAY_NOT_EXIST, FINE, 404),
    Row("422", error(422), PollKind.NOT_KNOWN, MAY_NOT_EXIST, FINE, 422),
    Row("429", error(429), PollKind.THROTTLED, RUNS, WAITS, 429),
    Row("429, wait in the body", error(429, retryAfter=17, limit=180, tier="basic", windowSeconds=60),
        PollKind.THROTTLED, RUNS, WAITS, 429, wait_s=17.0),
    Row("429, wait in the header", error(429), PollKind.THROTTLED, RUNS, WAITS, 429, header_s=9.0, wait_s=9.0),
    Row("429, the longer of both", error(429, retryAfter=17), PollKind.THROTTLED, RUNS, WAITS, 429, 9.0, 17.0),
    Row("500", error(500), PollKind.BROKEN, RUNS, FINE, 500),
    # The family's running states.
    *(Row(state, envelope(state=state), PollKind.RUNNING, RUNS, FINE)
      for state in ("queuing", "generating", "wait", "queueing", "pending", "processing", "never heard of")),
    # Its ways to write an answer.
    Row("message in place of msg", {"code": 401, "message": "bad key"}, PollKind.KEY_REFUSED, RUNS, REFUSED),
    Row("resultJson an object", envelope(state="success", resultJson={"resultUrls": ["u"]}), PollKind.TERMINAL, ENDS,
        FINE, told={"result": {"resultUrls": ["u"]}}),
    Row("resultJson null", envelope(state="success", resultJson=None), PollKind.TERMINAL, ENDS, FINE,
        told={"result": None}),
    Row("resultJson no JSON", envelope(state="success", resultJson="https://u"), PollKind.TERMINAL, ENDS, FINE,
        told={"result": None, "resultRaw": "https://u"}),
    Row("integer failCode", envelope(state="fail", failCode=501), PollKind.TERMINAL, ENDS, FINE,
        told={"failCode": "501"}),
    Row("members left out while running", {"code": 200, "data": {"state": "generating"}}, PollKind.RUNNING, RUNS, FINE),
    Row("empty text in place of null", envelope(state="success", resultJson="", failCode="", failMsg=""),
        PollKind.TERMINAL, ENDS, FINE, told={"result": None, "failCode": None, "failMsg": None}),
    Row("more members", envelope(state="success", updateTime=1, progress=100, creditsConsumed=4), PollKind.TERMINAL,
        ENDS, FINE, told={"extra": {"updateTime": 1, "progress": 100, "creditsConsumed": 4}}),
    # Its errors under HTTP 200.
    Row("200 with code 401", error(401), PollKind.KEY_REFUSED, RUNS, REFUSED),
    Row("200 with code 402", error(402), PollKind.CREDITS, RUNS, FINE),
    Row("200 with code 404", error(404), PollKind.NOT_KNOWN, MAY_NOT_EXIST, FINE),
    Row("a fresh task", error(422, "recordInfo is null"), PollKind.NOT_KNOWN, MAY_NOT_EXIST, FINE),
    Row("200 with code 429", error(429), PollKind.THROTTLED, RUNS, WAITS),
    Row("200 with code 429 and a wait", error(429, retryAfter=3), PollKind.THROTTLED, RUNS, WAITS, wait_s=3.0),
    Row("455 maintenance", error(455), PollKind.MAINTENANCE, RUNS, FINE),
    Row("505 feature disabled", error(505), PollKind.MAINTENANCE, RUNS, FINE),
    Row("433 sub-key limit", error(433), PollKind.CREDITS, RUNS, FINE),
    Row("501 generation failed, and no state", error(501), PollKind.BROKEN, RUNS, FINE),
    Row("501 with the task's state", envelope(501, state="fail", failCode="501"), PollKind.TERMINAL, ENDS, FINE,
        told={"state": "fail", "failCode": "501"}),
    Row("408 over ten minutes", error(408), PollKind.BROKEN, RUNS, FINE),
    Row("200 with code 500", error(500), PollKind.BROKEN, RUNS, FINE),
    # Its CDN, and what a network makes of an answer.
    Row("blocked by User-Agent", b"error code: 1010", PollKind.KEY_REFUSED, RUNS, REFUSED, 403),
    Row("an HTML page", b"<html><body>502 Bad Gateway</body></html>", PollKind.BROKEN, RUNS, FINE, 502),
    Row("an HTML page under 200", b"<!doctype html>", PollKind.BROKEN, RUNS, FINE),
    Row("503 with a wait", b"", PollKind.MAINTENANCE, RUNS, FINE, 503, 20.0, 20.0),
    Row("invalid UTF-8 in the state", b'{"code":200,"data":{"state":"success\xff"}}', PollKind.RUNNING, RUNS, FINE),
    Row("invalid UTF-8 beside it", b'{"code":200,"data":{"state":"success","model":"\xff"}}', PollKind.TERMINAL, ENDS,
        FINE, told={"model": "\ufffd"}),
    Row("truncated", b'{"code":200,"data":{"state":"succ', PollKind.BROKEN, RUNS, FINE),
    Row("an array", [envelope(state="success")], PollKind.BROKEN, RUNS, FINE),
    Row("no data", {"code": 200, "msg": "success"}, PollKind.BROKEN, RUNS, FINE),
    Row("data null", {"code": 200, "msg": "success", "data": None}, PollKind.BROKEN, RUNS, FINE),
    Row("wrong types", {"code": 200, "data": {"state": {"is": "success"}}}, PollKind.BROKEN, RUNS, FINE),
    Row("another task", {"code": 200, "data": {"taskId": "other", "state": "success"}}, PollKind.BROKEN, RUNS, FINE),
    # kie.ai's 4o image.
    *(Row(f"successFlag {flag}", envelope(successFlag=flag), kind, task, FINE, profile="kie-4o-image")
      for flag, kind, task in ((0, PollKind.RUNNING, RUNS), (1, PollKind.TERMINAL, ENDS),
                               (2, PollKind.TERMINAL, ENDS), (3, PollKind.TERMINAL, ENDS))),
    # Other job APIs: every word of each.
    *(Row(f"{profile}: {word}", {"id": TASK, state: word}, kind, task, FINE, profile=profile)
      for profile, state, kind, task, words in (
          ("replicate", "status", PollKind.RUNNING, RUNS, ("starting", "processing")),
          ("replicate", "status", PollKind.TERMINAL, ENDS, ("succeeded", "failed", "canceled", "aborted")),
          ("runway", "status", PollKind.RUNNING, RUNS, ("PENDING", "THROTTLED", "RUNNING")),
          ("runway", "status", PollKind.TERMINAL, ENDS, ("SUCCEEDED", "FAILED", "CANCELLED")),
          ("luma", "state", PollKind.RUNNING, RUNS, ("queued", "dreaming")),
          ("luma", "state", PollKind.TERMINAL, ENDS, ("completed", "failed")),
          ("openai-video", "status", PollKind.RUNNING, RUNS, ("queued", "in_progress")),
          ("openai-video", "status", PollKind.TERMINAL, ENDS, ("completed", "failed")),
      ) for word in words),
]  # fmt: skip

KEY_FATES = {PollKind.KEY_REFUSED: REFUSED, PollKind.THROTTLED: WAITS, PollKind.UNREACHABLE: UNPROVEN}
TASK_FATES = {PollKind.TERMINAL: ENDS, PollKind.NOT_KNOWN: MAY_NOT_EXIST}


def read(row: Row) -> PollResult:
    """Read a row's answer."""
    body = row.body if isinstance(row.body, bytes) else json.dumps(row.body).encode()
    return read_answer(PROFILES[row.profile], TASK, row.status, row.header_s, body)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_an_answer_means(row: Row) -> None:
    """Each known answer has one kind, and with it the task's fate, the key's fate and the least time to wait."""
    result = read(row)
    assert result.kind is row.kind, result
    assert TASK_FATES.get(result.kind, RUNS) == row.task
    assert KEY_FATES.get(result.kind, FINE) == row.key
    assert result.retry_after_s == row.wait_s
    assert (result.outcome is not None) == (row.task == ENDS)
    assert (result.error is not None) == (row.kind not in (PollKind.RUNNING, PollKind.TERMINAL))
    if result.outcome is not None:
        data = json.loads(result.outcome.data)
        assert {name: data.get(name) for name in row.told} == row.told


def test_each_answer_stands_once() -> None:
    """No row is hidden behind another of the same name."""
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)


def test_a_block_by_the_cdn_says_what_is_blocked() -> None:
    """Nobody goes looking for a new key when it is the User-Agent that is not let in."""
    (row,) = (row for row in ROWS if row.name == "blocked by User-Agent")
    error = str(read(row).error)
    assert error.startswith("The upstream answered 403: its CDN blocks requests with this User-Agent")
    assert "key was not looked at" in error


@pytest.mark.parametrize(
    ("body", "status"), [(b"error code: 1020", 403), (b"error code: 1010", 401), (b'{"msg":"error code: 1010"}', 403)]
)
def test_only_the_cdns_own_block_is_called_that(body: bytes, status: int) -> None:
    """Any other refusal is told as it came."""
    result = read_answer(PROFILES["aigptimage"], TASK, status, None, body)
    assert result.kind is PollKind.KEY_REFUSED
    assert "CDN" not in str(result.error)


def test_a_running_answer_tells_model_and_creation() -> None:
    """What is known of a running task comes with every poll, so that its end can be foreseen."""
    body = envelope(state="generating", model="m", createTime=1777474689024, progress=50)
    row = Row("", body, PollKind.RUNNING, RUNS, FINE)
    record = json.dumps(body["data"], separators=(",", ":")).encode()
    assert read(row) == PollResult(kind=PollKind.RUNNING, model="m", task_created_at=1777474689024, record=record)
