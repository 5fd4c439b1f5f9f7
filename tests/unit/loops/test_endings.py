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
from gateway.webhook.body import record_of, webhook_body

PROFILES = {
    path.stem: parse_profile(path.read_text("utf-8"), path.name)
    for path in sorted((Path(__file__).parents[3] / "config" / "upstreams").glob("*.toml"))
}
FIXTURES = Path(__file__).parents[2] / "fixtures"
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


MJ_PROMPT = (
    '{"aspectRatio":"16:9","callBackUrl":"https://api.example.com/callback","prompt":"A fighter jet in a '
    'beautiful sky","speed":"Relax","taskType":"mj_txt2img","version":"7"}'
)
# What the public pages on each API's callbacks show, filled with what its record call tells in the fixtures.
OWN_CALLBACKS = {
    "kie-veo": (
        {"code": 200, "msg": "Veo3.1 video generated successfully.", "data": {
            "taskId": "veo_task_abcdef123456",
            "promptJson": '{"prompt":"A futuristic city with flying cars at sunset.","waterMark":"KieAI"}',
            "info": {"resultUrls": ["http://example.com/video1.mp4"],
                     "originUrls": ["http://example.com/original_video1.mp4"], "resolution": "1080p"},
            "fallbackFlag": False}},
        {"code": 400, "msg": "Your prompt was flagged by Website as violating content policies.",
         "data": {"taskId": "veo_task_abcdef123456", "fallbackFlag": False}},
    ),
    "kie-4o-image": (
        {"code": 200, "msg": "success", "data": {
            "taskId": "task12345", "info": {"result_urls": ["https://example.com/result/image1.png"]}}},
        {"code": 400, "msg": "Your content was flagged by OpenAI as violating content policies",
         "data": {"taskId": "task12345", "info": None}},
    ),
    "kie-flux-kontext": (
        {"code": 200, "msg": "BFL image generated successfully.", "data": {"taskId": "task12345", "info": {
            "originImageUrl": "https://example.com/original.jpg",
            "resultImageUrl": "https://example.com/result.jpg"}}},
        {"code": 501, "msg": "Image generation task failed",
         "data": {"taskId": "task12345", "info": {"originImageUrl": "", "resultImageUrl": ""}}},
    ),
    "kie-mj": (
        {"code": 200, "msg": "success", "data": {
            "taskId": "4edb3c5XXXXX75e3f0aa5cc", "promptJson": MJ_PROMPT,
            "resultUrls": ["https://example.com/0_0.jpeg", "https://example.com/0_1.jpeg"]}},
        {"code": 500, "msg": "Internal Error, Please try again later.", "data": {
            "taskId": "4edb3c5XXXXX75e3f0aa5cc", "promptJson": MJ_PROMPT, "resultUrls": []}},
    ),
    "kie-suno": (
        {"code": 200, "msg": "All generated successfully.", "data": {
            "callbackType": "complete", "task_id": "5c79****be8e", "data": [{
                "id": "e231****-****-****-****-****8cadc7dc", "audio_url": "https://example.cn/****.mp3",
                "stream_audio_url": "https://example.cn/****", "image_url": "https://example.cn/****.jpeg",
                "prompt": "[Verse] 夜晚城市 灯火辉煌", "model_name": "chirp-v3-5", "title": "钢铁侠",
                "tags": "electrifying, rock", "createTime": "2025-01-01 00:00:00", "duration": 198.44}]}},
        {"code": 400, "msg": "Lyrics contained copyrighted material.", "data": {
            "callbackType": "error", "task_id": "5c79****be8e", "data": None}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN_CALLBACKS)
def test_an_api_with_callbacks_of_its_own_gets_their_shape(name: str) -> None:
    """Made of what its record call tells; its readers get that as it is."""
    profile = PROFILES[name]
    for end, wanted in zip(("success", "fail"), OWN_CALLBACKS[name], strict=True):
        answer = (FIXTURES / name / f"{end}.json").read_bytes()
        told = json.loads(answer)["data"]
        result = read_answer(profile, told["taskId"], 200, None, answer)
        assert result.outcome is not None
        stored = b"".join(ended(profile, result, result.outcome).record or ())
        body = json.loads(webhook_body("cb_1", stored))
        assert list(body["data"]) == list(wanted["data"])
        assert body == wanted
        assert json.loads(record_of(stored)) == told


@pytest.mark.parametrize("name", OWN_CALLBACKS)
def test_such_an_apis_receivers_are_told_of_a_task_that_was_given_up(name: str) -> None:
    """By the code and the words that they look at."""
    body = json.loads(webhook_body("cb_1", abandoned_body(PROFILES[name])))
    assert (body["code"], body["msg"]) == (408, "The gateway gave this task up: it did not end in time.")
    assert "task_1" in body["data"].values()
    assert body["data"].keys() <= OWN_CALLBACKS[name][1]["data"].keys()


def test_the_pages_callbacks_are_those_of_all_profiles_that_have_them() -> None:
    """A further one needs its page's examples here."""
    assert {name for name, profile in PROFILES.items() if profile.callback is not None} == OWN_CALLBACKS.keys()


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
