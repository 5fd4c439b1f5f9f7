"""The shipped profiles on recorded answers.

The answers under ``tests/fixtures`` have the shapes that each API documents; ids, links and texts are examples.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.profile import record_call
from gateway.core.ratelimit import RateWindow
from gateway.upstream.answer import PollKind, PollResult, read_answer
from gateway.upstream.envelope import new_record, told_envelope
from tests.profiles import FAMILIES, NAMES, SHIPPED, told

FIXTURES = Path(__file__).parents[2] / "fixtures"

# The ids in the recorded answers.
TASKS = {
    "aigptimage": "task_xxx",
    "kie": "task_12345678",
    "kie-4o-image": "task12345",
    "kie-flux-kontext": "task12345",
    "kie-veo": "veo_task_abcdef123456",
    "kie-mj": "4edb3c5XXXXX75e3f0aa5cc",
    "kie-suno": "5c79****be8e",
    "replicate": "gm3qorzdhgbfurvjtvhg6dckhu",
    "runway": "17f20503-6c24-4c16-946b-35dbbce2af2f",
    "luma": "123e4567-e89b-12d3-a456-426614174000",
    "openai-video": "video_68d7512d07848190b3e45da0ecbebcde004da08e1e0678d5",
}


def recorded(name: str, answer: str, status: int = 200, retry_after_s: float | None = None) -> PollResult:
    """Read a recorded answer by its shipped profile."""
    body = (FIXTURES / name / f"{answer}.json").read_bytes()
    return read_answer(SHIPPED[name], TASKS[name], status, retry_after_s, body)


def test_what_is_shipped() -> None:
    """Every profile that the documentation promises is there, has its recorded answers, and nothing else is."""
    assert SHIPPED.keys() == NAMES == TASKS.keys()
    for name in NAMES:
        answers = {path.stem for path in (FIXTURES / name).glob("*.json")}
        assert {"success", "fail", "error", "not_found", "throttled"} < answers
        assert answers & {"running", "waiting"}


@pytest.mark.parametrize(
    ("name", "result"),
    [
        (
            "kie",
            PollResult(kind=PollKind.RUNNING, task_created_at=1698765400000, model="grok-imagine/text-to-image"),
        ),
        ("kie-4o-image", PollResult(kind=PollKind.RUNNING, task_created_at=1672561200000)),
        ("kie-flux-kontext", PollResult(kind=PollKind.RUNNING, task_created_at=1710930300000)),
        ("kie-veo", PollResult(kind=PollKind.RUNNING)),  # its times have no zone
        ("kie-mj", PollResult(kind=PollKind.RUNNING, task_created_at=1710930600000)),
        ("kie-suno", PollResult(kind=PollKind.RUNNING)),
        ("replicate", PollResult(kind=PollKind.RUNNING, task_created_at=1694189974766, model="replicate/hello-world")),
        ("runway", PollResult(kind=PollKind.RUNNING, task_created_at=1719517772334)),
        ("luma", PollResult(kind=PollKind.RUNNING, task_created_at=1685620800000, model="ray-2")),
        ("openai-video", PollResult(kind=PollKind.RUNNING, task_created_at=1758941485000, model="sora-2")),
    ],
)
def test_running(name: str, result: PollResult) -> None:
    """A running task tells when it was created and its model, where the API has them."""
    told = recorded(name, "running")
    assert msgspec.structs.replace(told, record=None) == result
    answer = json.loads((FIXTURES / name / "running.json").read_bytes())
    assert json.loads(told.record or b"") == answer.get("data", answer), "the object that describes the task, whole"


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_new_task_is_told_as_one_that_runs(name: str) -> None:
    """With members of the API's own page alone, of the same kinds, and what was asked for; a form's fields are not."""
    profile = SHIPPED[name]
    told = recorded(name, "running")
    page = json.loads(told.record or b"")
    body = b'{"prompt":"A \xc3\xa4\xff","taskType":"mj_txt2img"}'
    for param in (body, None):
        record = new_record(profile, TASKS[name], None, param, 1764429000123)
        assert record is not None
        result = read_answer(profile, TASKS[name], 200, None, told_envelope(profile, record))
        assert result.kind is PollKind.RUNNING
        assert result.task_created_at == (None if name == "kie-suno" else 1764429000123)
        new = json.loads(record)
        assert new.keys() <= page.keys()
        kinds = {member: type(value) for member, value in new.items() if value is not None and page[member] is not None}
        assert kinds == {member: type(page[member]) for member in kinds}
        member = "param" if name == "kie-suno" else "paramJson"
        assert new.get(member) == (None if param is None else body.decode("utf-8", "replace"))
        assert {"response", "resultInfoJson"} & {member for member, value in new.items() if value is None}


SUCCESSES: dict[str, dict[str, Any]] = {
    "aigptimage": {
        "model": "gpt-image-2-text-to-image",
        "result": {"resultUrls": ["https://cdn.example.com/result.png"]},
        "param": {"model": "gpt-image-2-text-to-image", "input": {"prompt": "A cat"}},
        "costTime": 32241,
        "createTime": 1777459967759,
        "completeTime": 1777460000000,
    },
    "kie": {
        "model": "grok-imagine/text-to-image",
        "result": {"resultUrls": ["https://example.com/generated-content.jpg"]},
        "param": {
            "model": "grok-imagine/text-to-image",
            "callBackUrl": "https://your-domain.com/api/callback",
            "input": {"prompt": "Cinematic portrait", "aspect_ratio": "3:2"},
        },
        "costTime": 31000,
        "createTime": 1698765400000,
        "completeTime": 1698765432000,
        "extra": {"updateTime": 1698765432000, "creditsConsumed": 4},
    },
    "kie-4o-image": {
        "model": None,
        "result": {"resultUrls": ["https://example.com/result/image1.png"]},
        "param": {"prompt": "A beautiful sunset over the mountains", "size": "1:1", "isEnhance": False},
        "costTime": None,
        "createTime": 1672561200000,
        "completeTime": 1672561254000,
        "extra": {"status": "SUCCESS", "progress": "1.00"},
    },
    "kie-flux-kontext": {
        "model": None,
        "result": {
            "originImageUrl": "https://example.com/original.jpg",
            "resultImageUrl": "https://example.com/result.jpg",
        },
        "param": {"prompt": "A serene mountain landscape", "aspectRatio": "16:9"},
        "costTime": None,
        "createTime": 1710930300000,
        "completeTime": 1710930600000,
    },
    "kie-veo": {
        "model": None,
        "result": {
            "taskId": "veo_task_abcdef123456",
            "resultUrls": ["http://example.com/video1.mp4"],
            "originUrls": ["http://example.com/original_video1.mp4"],
            "resolution": "1080p",
        },
        "param": {"prompt": "A futuristic city with flying cars at sunset.", "waterMark": "KieAI"},
        "costTime": None,
        "createTime": None,
        "completeTime": None,
        "extra": {"fallbackFlag": False},
    },
    "kie-mj": {
        "model": None,
        "result": {
            "resultUrls": [
                {"resultUrl": "https://example.com/0_0.jpeg"},
                {"resultUrl": "https://example.com/0_1.jpeg"},
            ]
        },
        "param": {
            "aspectRatio": "16:9",
            "callBackUrl": "https://api.example.com/callback",
            "prompt": "A fighter jet in a beautiful sky",
            "speed": "Relax",
            "taskType": "mj_txt2img",
            "version": "7",
        },
        "costTime": None,
        "createTime": 1710930600000,
        "completeTime": 1710930660000,
        "extra": {"taskType": "mj_txt2img"},
    },
    "kie-suno": {
        "model": None,
        "param": {
            "prompt": "A calm piano track",
            "style": "Classical",
            "title": "Peaceful Piano",
            "customMode": True,
            "instrumental": True,
            "model": "V3_5",
        },
        "costTime": None,
        "createTime": None,
        "completeTime": None,
        "extra": {"parentMusicId": "", "type": "GENERATE"},
    },
    "replicate": {
        "model": "replicate/hello-world",
        "result": "hello Alice",
        "param": {"text": "Alice"},
        "costTime": 13,
        "createTime": 1694189974766,
        "completeTime": 1694189977792,
    },
    "runway": {
        "model": None,
        "result": ["https://dnznrvs05pmza.cloudfront.net/output.mp4?_jwt=eyJhbGciOiJIUzI1NiJ9"],
        "param": None,
        "costTime": None,
        "createTime": 1719517772334,
        "completeTime": None,
    },
    "luma": {
        "model": "ray-2",
        "result": {"image": None, "video": "https://example.com/video.mp4", "progress_video": None},
        "param": {
            "generation_type": "video",
            "prompt": "A serene lake surrounded by mountains at sunset",
            "aspect_ratio": "16:9",
            "loop": True,
            "model": "ray-2",
        },
        "costTime": None,
        "createTime": 1685620800000,
        "completeTime": None,
        "extra": {"generation_type": "video"},
    },
    "openai-video": {
        "model": "sora-2",
        "result": None,
        "param": None,
        "costTime": None,
        "createTime": 1758941485000,
        "completeTime": 1758941577000,
        "extra": {
            "object": "video",
            "seconds": "8",
            "size": "1280x720",
            "remixed_from_video_id": None,
            "progress": 100,
            "expires_at": 1758945177,
        },
    },
}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_success(name: str) -> None:
    """A success has the webhook's fixed members, decoded and in milliseconds; what the API adds stands in extra."""
    data = told(recorded(name, "success"))
    if name == "replicate":
        assert data.pop("extra").keys() == {"version", "logs", "data_removed", "started_at", "urls"}
    if name == "kie-suno":
        (track,) = data.pop("result")["sunoData"]
        assert (track["title"], track["duration"]) == ("钢铁侠", 198.44)
    assert data == {
        "taskId": TASKS[name],
        "state": "success",
        "failCode": None,
        "failMsg": None,
        **SUCCESSES[name],
    }


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("kie", "501", "Generation failed"),
        ("kie-4o-image", "400", "Your content was flagged by OpenAI as violating content policies"),
        ("kie-flux-kontext", "501", "Image generation task failed"),
        ("kie-veo", "400", "Your prompt was flagged by Website as violating content policies."),
        ("kie-mj", "500", "Internal Error, Please try again later."),
        ("kie-suno", "400", "Lyrics contained copyrighted material."),
        ("replicate", None, "NSFW content detected. Try running it again, or try a different prompt."),
        ("runway", "SAFETY.INPUT.TEXT", "An unexpected error occurred."),
        ("luma", None, "400: prompt not allowed because advanced moderation failed"),
        ("openai-video", "moderation_blocked", "Your request was blocked by our moderation system."),
    ],
)
def test_failure(name: str, code: str | None, message: str) -> None:
    """A failure tells the API's own code and reason as text; there is no result."""
    data = told(recorded(name, "fail"))
    assert (data["state"], data["result"], data["failCode"], data["failMsg"]) == ("fail", None, code, message)
    assert not {"resultRaw", "paramRaw", "decodeError"} & data.keys()


@pytest.mark.parametrize(
    ("name", "duration_s"),
    [
        ("aigptimage", 32.241),
        ("kie", 32.0),  # from creation to end, not the 31 s that the API counts
        ("kie-4o-image", 54.0),
        ("kie-flux-kontext", 300.0),
        ("kie-veo", None),
        ("kie-mj", 60.0),
        ("kie-suno", None),
        ("replicate", 3.026),  # nor the 0.013 s that the model computed
        ("runway", None),
        ("luma", None),
        ("openai-video", 92.0),
    ],
)
def test_how_long_it_took(name: str, duration_s: float | None) -> None:
    """What is learned is the time from a task's creation to its end, in whatever unit the API tells them."""
    result = recorded(name, "success")
    assert result.duration_s == duration_s
    assert result.model == SUCCESSES[name]["model"]


@pytest.mark.parametrize(
    ("name", "status", "kind", "error"),
    [
        ("aigptimage", 401, PollKind.KEY_REFUSED, "401: Invalid API key"),
        ("kie", 200, PollKind.KEY_REFUSED, "401: You do not have access permissions"),
        ("kie-4o-image", 200, PollKind.MAINTENANCE, "455: The system is under maintenance"),
        ("kie-flux-kontext", 200, PollKind.KEY_REFUSED, "401: Authentication credentials are missing or invalid"),
        ("kie-veo", 200, PollKind.MAINTENANCE, "455: System is currently undergoing maintenance"),
        ("kie-mj", 200, PollKind.MAINTENANCE, "505: The requested feature is currently disabled"),
        ("kie-suno", 401, PollKind.KEY_REFUSED, "401: Authentication credentials are missing or invalid"),
        ("replicate", 401, PollKind.KEY_REFUSED, "401: You did not pass a valid authentication token"),
        ("runway", 401, PollKind.KEY_REFUSED, "401: The API key you provided is not valid."),
        ("luma", 401, PollKind.KEY_REFUSED, "401: Invalid API key provided"),
        ("openai-video", 401, PollKind.KEY_REFUSED, "401: Incorrect API key provided."),
    ],
)
def test_error(name: str, status: int, kind: PollKind, error: str) -> None:
    """An error answer is never the task's end; its reason is found where the API puts it."""
    assert recorded(name, "error", status) == PollResult(kind=kind, error=f"The upstream answered {error}")


@pytest.mark.parametrize(
    ("name", "status", "error"),
    [
        ("aigptimage", 404, "404: Task not found"),
        ("kie", 200, "422: recordInfo is null"),
        ("kie-4o-image", 200, "404: Task not found"),
        ("kie-flux-kontext", 200, "404: The requested resource or endpoint does not exist"),
        ("kie-veo", 200, "422: record is null"),
        ("kie-mj", 200, "422: record is null"),
        ("kie-suno", 200, "422: record is null"),
        ("replicate", 404, "404: The requested resource could not be found."),
        ("runway", 404, "404: The requested task was not found."),
        ("luma", 404, "404: Generation not found"),
        ("openai-video", 404, "404: Video not found."),
    ],
)
def test_not_found(name: str, status: int, error: str) -> None:
    """A task that the API does not know, or not yet, is told apart from every other error."""
    expected = PollResult(kind=PollKind.NOT_KNOWN, error=f"The upstream answered {error}")
    assert recorded(name, "not_found", status) == expected


@pytest.mark.parametrize(
    ("name", "status", "header_s", "wait_s", "window"),
    [
        ("aigptimage", 429, None, 17.0, (180, 60.0)),
        ("aigptimage", 429, 30.0, 30.0, (180, 60.0)),
        ("kie", 200, None, None, None),
        ("kie", 429, 3.0, 3.0, None),
        *((name, 200, None, None, None) for name in sorted(FAMILIES)),
        ("replicate", 429, None, 30.0, None),
        ("runway", 429, 12.0, 12.0, None),
        ("luma", 429, None, None, None),
        ("openai-video", 429, 1.0, 1.0, None),
    ],
)
def test_throttled(
    name: str, status: int, header_s: float | None, wait_s: float | None, window: tuple[int, float] | None
) -> None:
    """A 429 tells the wait in its header or its body, and the limit where the API does."""
    result = recorded(name, "throttled", status, header_s)
    assert (result.kind, result.retry_after_s, result.told_window) == (PollKind.THROTTLED, wait_s, window)
    assert str(result.error).startswith("The upstream answered 429: ")


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"{", b"[]", b"{}", b"", b"\xff", b"null"])
@pytest.mark.parametrize("name", sorted(NAMES))
def test_nonsense_ends_no_task(name: str, body: bytes) -> None:
    """What is no answer at all is broken under every profile."""
    result = read_answer(SHIPPED[name], TASKS[name], 200, None, body)
    assert (result.kind, result.outcome) == (PollKind.BROKEN, None)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_answer_about_another_task(name: str) -> None:
    """Another task's success is nobody's result."""
    body = (FIXTURES / name / "success.json").read_bytes()
    result = read_answer(SHIPPED[name], "another", 200, None, body)
    assert (result.kind, result.outcome) == (PollKind.BROKEN, None)


def test_the_limits_of_the_default() -> None:
    """Where the operator sets nothing, the lowest tier's limits hold, for queries and for creates."""
    limits = SHIPPED["aigptimage"].limits
    assert [(w.limit, w.window_s) for w in limits.query] == [(2, 1), (60, 60)]
    assert [(w.limit, w.window_s) for w in limits.create] == [(1, 1), (10, 60)]
    assert all(isinstance(window, RateWindow) for window in (*limits.query, *limits.create))
    assert SHIPPED["luma"].limits.query == ()


READS = {
    "aigptimage": "/api/v1/jobs/recordInfo?taskId",
    "kie": "/api/v1/jobs/recordInfo?taskId",
    "kie-4o-image": "/api/v1/gpt4o-image/record-info?taskId",
    "kie-flux-kontext": "/api/v1/flux/kontext/record-info?taskId",
    "kie-veo": "/api/v1/veo/record-info?taskId",
    "kie-mj": "/api/v1/mj/record-info?taskId",
    "kie-suno": "/api/v1/generate/record-info?taskId",
    "replicate": "/v1/predictions/{task_id}",
    "runway": "/v1/tasks/{task_id}",
    "luma": "/dream-machine/v1/generations/{task_id}",
    "openai-video": "/v1/videos/{task_id}",
}


def test_which_profiles_the_proxy_can_stand_in_for() -> None:
    """All that are shipped: clients read a task where it is polled."""
    for name, profile in SHIPPED.items():
        assert profile.proxy is not None, name
        call = record_call(profile.request, profile.proxy)
        assert call is not None
        assert READS[name] == call.path + (f"?{call.param}" if call.param else "")


def test_what_a_create_names_and_answers() -> None:
    """Where the id stands, which member is the callback's, and whether the answer is already the task's record."""
    told = {name: profile.proxy for name, profile in SHIPPED.items() if profile.proxy is not None}
    for name in ("aigptimage", "kie", *FAMILIES):
        assert (told[name].created_id, told[name].created_is_record) == ("data.taskId", False)
        assert told[name].callback_members == ["callBackUrl", "callbackUrl"]
    others = {name: told[name] for name in ("replicate", "runway", "luma", "openai-video")}
    assert {proxy.created_id for proxy in others.values()} == {"id"}
    assert [name for name, proxy in others.items() if not proxy.created_is_record] == ["runway"]
    assert [proxy.callback_members for proxy in others.values()] == [["webhook"], [], ["callback_url"], []]
    assert [name for name, proxy in told.items() if proxy.once] == ["aigptimage"]
    assert [name for name, proxy in told.items() if proxy.callback_stand_in] == ["kie-suno"]
    assert [name for name, proxy in told.items() if proxy.synthesize] == ["aigptimage", "kie"]
    assert {name for name, proxy in told.items() if proxy.created_record is not None} == FAMILIES
