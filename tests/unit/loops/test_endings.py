"""What is stored of a task's end, in both formats, for each of the shipped profiles."""

import json
from pathlib import Path
from typing import get_args

import pytest

from gateway.config.profile import Profile
from gateway.config.profilefile import parse_profile
from gateway.core.model import TaskState
from gateway.loops.endings import ended, gave_up
from gateway.upstream.answer import AbandonReason, read_answer
from gateway.webhook.body import record_of

PROFILES = {
    path.stem: parse_profile(path.read_text("utf-8"), path.name)
    for path in sorted((Path(__file__).parents[3] / "config" / "upstreams").glob("*.toml"))
}
REASONS = get_args(AbandonReason)
NOW = 1_795_428_033_120


def abandoned_body(profile: Profile, reason: AbandonReason = "timeout") -> bytes:
    ending = gave_up(profile, "task_1", reason, NOW)
    assert ending.outcome.state is TaskState.ABANDONED
    assert ending.frame is not None
    assert ending.record is not None
    return b"".join(ending.record)


@pytest.mark.parametrize("reason", REASONS)
def test_an_abandoned_task_is_a_failure_in_the_familys_words(reason: AbandonReason) -> None:
    """With each member that its receivers may look for, none of them invented, and a sentence that says why."""
    body = json.loads(abandoned_body(PROFILES["kie"], reason))
    message = body["data"].pop("failMsg")
    assert message.startswith("The gateway gave this task up: ")
    assert body == {
        "code": 408,
        "msg": "Playground task abandoned.",
        "data": {
            "taskId": "task_1", "model": None, "state": "fail", "param": None, "resultJson": None, "failCode": "408",
            "costTime": None, "completeTime": None, "createTime": None,
        },
    }  # fmt: skip


def test_each_reason_has_a_sentence_of_its_own() -> None:
    assert len({abandoned_body(PROFILES["kie"], reason) for reason in REASONS}) == len(REASONS)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_an_abandoned_task_reads_as_failed_by_its_own_profile(profile: Profile) -> None:
    """Whoever reads the body as that API's answer finds the task, its failure and the reason."""
    record = json.loads(record_of(abandoned_body(profile)))
    answer = record if profile.fields.root is None else {"code": 200, profile.fields.root: record}
    outcome = read_answer(profile, "task_1", 200, None, json.dumps(answer).encode()).outcome
    assert outcome is not None
    data = json.loads(outcome.data)
    assert (data["taskId"], data["state"], data["result"]) == ("task_1", "fail", None)
    assert data["failMsg"] == "The gateway gave this task up: it did not end in time."


def test_an_api_without_a_code_gets_its_own_object() -> None:
    """Replicate's webhooks hold the prediction: nothing is wrapped around it, whatever its end."""
    profile = PROFILES["replicate"]
    prediction = b'{"id":"task_1","status":"succeeded","output":["https://x/y.png"],"logs":"","urls":{"get":"u"}}'
    result = read_answer(profile, "task_1", 200, None, prediction)
    assert result.outcome is not None
    ending = ended(profile, result, result.outcome)
    assert ending.frame is None
    assert b"".join(ending.record or ()) == prediction
    assert json.loads(abandoned_body(profile))["status"] == "failed"


def test_an_answer_in_which_the_object_is_missing_has_no_record() -> None:
    """Its state may stand elsewhere: the body is then made of the outcome."""
    text = (
        'name = "odd"\nbase_url = "https://x.example"\n[request]\nstatus_path = "/{task_id}"\n'
        '[states]\npath = "state"\nsuccess = ["done"]\nfail = ["bad"]\n[fields]\nroot = "task"\n'
    )
    profile = parse_profile(text, "odd.toml")
    result = read_answer(profile, "task_1", 200, None, b'{"state":"done","task":"none"}')
    assert result.outcome is not None
    assert (result.record, ended(profile, result, result.outcome).record) == (None, None)
    assert read_answer(profile, "task_1", 200, None, b'{"state":"on"}').record is None
