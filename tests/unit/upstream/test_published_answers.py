"""The upstream's documented answers, and what is told of a task that runs."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import TaskState
from gateway.upstream.answer import PollKind, PollResult, read_answer
from tests.pollanswers import PROFILE, TASK, about, read, without_record
from tests.profiles import told

FIXTURES = Path(__file__).parents[2] / "fixtures" / "aigptimage"


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
