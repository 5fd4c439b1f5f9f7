"""The shipped profiles on recorded answers, three more APIs that can be described, and what a profile may not say.

The answers under ``tests/fixtures`` have the shapes that each API documents; ids, links and texts are examples.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.profile import Profile, Proxy, RecordCall, Request, dig, record_call
from gateway.config.profilefile import config_dir, parse_profile, read_profiles
from gateway.core.errors import ConfigError
from gateway.core.ratelimit import RateWindow
from gateway.upstream.answer import PollKind, PollResult, read_answer
from gateway.upstream.envelope import new_record, told_envelope

FIXTURES = Path(__file__).parents[2] / "fixtures"
SHIPPED = read_profiles([config_dir() / "upstreams"])[0]
FAMILIES = {"kie-4o-image", "kie-flux-kontext", "kie-veo", "kie-mj", "kie-suno"}
NAMES = {"aigptimage", "kie", *FAMILIES, "replicate", "runway", "luma", "openai-video"}

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


def read(
    profile: Profile, task_id: str, answer: Any, status: int = 200, retry_after_s: float | None = None
) -> PollResult:
    """Read an answer about a task."""
    return read_answer(profile, task_id, status, retry_after_s, json.dumps(answer).encode())


def recorded(name: str, answer: str, status: int = 200, retry_after_s: float | None = None) -> PollResult:
    """Read a recorded answer by its shipped profile."""
    body = (FIXTURES / name / f"{answer}.json").read_bytes()
    return read_answer(SHIPPED[name], TASKS[name], status, retry_after_s, body)


def told(result: PollResult) -> dict[str, Any]:
    """Return what the webhook will tell of an ended task."""
    assert result.kind is PollKind.TERMINAL, result
    assert result.outcome is not None
    data: dict[str, Any] = json.loads(result.outcome.data)
    assert data["state"] == result.outcome.state.value
    return data


# The shipped profiles.


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


# Three more APIs, with what none of the shipped ones needs.

GOOGLE = parse_profile(
    """
name = "google"
base_url = "https://generativelanguage.googleapis.com"
[request]
status_path = "/v1beta/{task_id}"
task_id_has_slashes = true
auth_header = "x-goog-api-key"
auth_prefix = ""
[envelope]
message = ["error.message"]
[states]
path = "done"
success = [true]
success_if = "response"
fail = [true]
fail_if = "error"
may_be_absent = true
[fields]
task_id = "name"
result = "response"
fail_code = "error.code"
fail_msg = "error.message"
[limits]
poll_min_s = 10
""",
    "google.toml",
)
OPERATION = "models/veo-3.0-generate-001/operations/idrk08ltkg0a"


@pytest.mark.parametrize(
    ("answer", "status", "kind"),
    [
        ({"name": OPERATION}, 200, PollKind.RUNNING),
        ({"name": OPERATION, "done": False, "metadata": {"@type": "t"}}, 200, PollKind.RUNNING),
        ({"name": OPERATION, "done": True}, 200, PollKind.RUNNING),
        ({"name": OPERATION, "done": False, "response": {}}, 200, PollKind.RUNNING),
        ({"name": OPERATION, "done": 1, "response": {}}, 200, PollKind.BROKEN),
        ({"name": OPERATION, "done": "true", "response": {}}, 200, PollKind.BROKEN),
        ({"name": "models/veo/operations/other"}, 200, PollKind.BROKEN),
        ({}, 200, PollKind.BROKEN),
        ({"error": {"code": 404, "message": "Not found", "status": "NOT_FOUND"}}, 404, PollKind.NOT_KNOWN),
        ({"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED"}}, 429, PollKind.THROTTLED),
        ({"error": {"code": 403, "message": "Key", "status": "PERMISSION_DENIED"}}, 403, PollKind.KEY_REFUSED),
    ],
)
def test_a_state_by_the_presence_of_members(answer: dict[str, Any], status: int, kind: PollKind) -> None:
    """An API that only says "done" tells success from failure by what else is there; nothing else ends the task."""
    result = read(GOOGLE, OPERATION, answer, status)
    assert (result.kind, result.outcome) == (kind, None)


def test_a_success_by_the_presence_of_members() -> None:
    """Done with a response is a success, an empty response too."""
    response = {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": "https://x/v.mp4"}}]}}
    data = told(read(GOOGLE, OPERATION, {"name": OPERATION, "done": True, "response": response}))
    assert (data["state"], data["result"]) == ("success", response)
    assert told(read(GOOGLE, OPERATION, {"name": OPERATION, "done": True, "response": {}}))["result"] == {}


def test_a_failure_by_the_presence_of_members() -> None:
    """Done with an error is a failure, and its code is no HTTP status."""
    error = {"code": 3, "message": "The prompt could not be submitted.", "details": []}
    data = told(read(GOOGLE, OPERATION, {"name": OPERATION, "done": True, "error": error}))
    assert (data["state"], data["failCode"], data["failMsg"]) == ("fail", "3", "The prompt could not be submitted.")


BFL = parse_profile(
    """
name = "bfl"
base_url = "https://api.bfl.ai"
[request]
status_path = "/v1/get_result?id={task_id}"
auth_header = "x-key"
auth_prefix = ""
[envelope]
message = ["detail"]
[states]
path = "status"
success = ["Ready"]
fail = ["Request Moderated", "Content Moderated", "Error"]
not_known = ["Task not found"]
progress = "progress"
[fields]
task_id = "id"
result = "result"
fail_code = "status"
fail_msg = "details"
""",
    "bfl.toml",
)


@pytest.mark.parametrize(
    ("answer", "status", "kind", "error"),
    [
        ({"id": "t", "status": "Pending", "result": None, "progress": 0.5}, 200, PollKind.RUNNING, None),
        ({"id": "t", "status": "Task not found"}, 200, PollKind.NOT_KNOWN, "The upstream answered: Task not found"),
        (
            {"id": "t", "status": "Task not found"},
            404,
            PollKind.NOT_KNOWN,
            "The upstream answered 404: no reason given",
        ),
        (
            {"detail": [{"loc": ["query", "id"], "msg": "Field required"}]},
            422,
            PollKind.NOT_KNOWN,
            'The upstream answered 422: [{"loc":["query","id"],"msg":"Field required"}]',
        ),
        ({"detail": "Not authenticated"}, 403, PollKind.KEY_REFUSED, "The upstream answered 403: Not authenticated"),
    ],
)
def test_a_state_that_says_not_found(answer: dict[str, Any], status: int, kind: PollKind, error: str | None) -> None:
    """A state that denies the task counts like a 404, which may only be early; a reason may be an array."""
    result = read(BFL, "t", answer, status)
    assert (result.kind, result.outcome, result.error) == (kind, None, error)


@pytest.mark.parametrize(
    ("answer", "state", "result", "code", "message"),
    [
        (
            {"status": "Ready", "result": {"sample": "https://x/a.png"}},
            "success",
            {"sample": "https://x/a.png"},
            None,
            None,
        ),
        (
            {"status": "Request Moderated", "details": {"Moderation Reasons": ["Violence"]}},
            "fail",
            None,
            "Request Moderated",
            '{"Moderation Reasons":["Violence"]}',
        ),
        ({"status": "Content Moderated"}, "fail", None, "Content Moderated", None),
    ],
)
def test_an_error_that_is_an_object(
    answer: dict[str, Any], state: str, result: Any, code: str, message: str | None
) -> None:
    """The reason of a failure may be an object: it is told as its JSON."""
    data = told(read(BFL, "t", {"id": "t", **answer}))
    assert (data["state"], data["result"], data["failCode"], data["failMsg"]) == (state, result, code, message)


BATCH = parse_profile(
    """
name = "openai-batch"
base_url = "https://api.openai.com"
[request]
status_path = "/v1/batches/{task_id}"
[envelope]
message = ["error.message"]
[states]
path = "status"
success = ["completed"]
fail = ["failed", "expired", "cancelled"]
[fields]
task_id = "id"
result = ["output_file_id", "error_file_id"]
fail_code = "errors.data.0.code"
fail_msg = ["errors.data", "errors"]
create_time = "created_at"
complete_time = "completed_at"
[units]
time = "s"
""",
    "openai-batch.toml",
)


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling"])
def test_a_batch_runs(status: str) -> None:
    """Each of the running words means running."""
    answer = {"id": "b", "status": status, "created_at": 1711471533, "errors": None}
    told = read(BATCH, "b", answer)
    assert (told.kind, told.task_created_at) == (PollKind.RUNNING, 1711471533000)


@pytest.mark.parametrize(
    ("members", "state", "result", "code", "message"),
    [
        ({"status": "completed", "output_file_id": "file-1", "error_file_id": None}, "success", "file-1", None, None),
        ({"status": "completed", "output_file_id": None, "error_file_id": "file-2"}, "success", "file-2", None, None),
        (
            {"status": "failed", "errors": {"object": "list", "data": [{"code": "c", "message": "m"}, {"code": "d"}]}},
            "fail",
            None,
            "c",
            '[{"code":"c","message":"m"},{"code":"d"}]',
        ),
        ({"status": "expired", "errors": None}, "fail", None, None, None),
        ({"status": "cancelled", "errors": {"data": []}}, "fail", None, None, "[]"),
    ],
)
def test_several_paths_and_an_item_of_an_array(
    members: dict[str, Any], state: str, result: Any, code: str | None, message: str | None
) -> None:
    """The first path that holds something counts, and a path may lead into an array."""
    counts = {"total": 2, "completed": 1, "failed": 1}
    answer = {"id": "b", "created_at": 1711471533, "completed_at": 1711475133, "request_counts": counts, **members}
    poll = read(BATCH, "b", answer)
    data = told(poll)
    assert (data["state"], data["result"], data["failCode"], data["failMsg"]) == (state, result, code, message)
    assert (data["extra"], poll.duration_s) == ({"request_counts": counts}, 3600.0)


# Numbers and times as APIs write them.


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        (0, PollKind.RUNNING),
        ("0", PollKind.RUNNING),
        (4, PollKind.RUNNING),
        (1, PollKind.TERMINAL),
        ("1", PollKind.TERMINAL),
        (2, PollKind.TERMINAL),
        (3, PollKind.TERMINAL),
        (True, PollKind.BROKEN),
        (1.0, PollKind.TERMINAL),
        ("1.0", PollKind.TERMINAL),
        (0.0, PollKind.RUNNING),
        (1.5, PollKind.BROKEN),
        ("SUCCESS", PollKind.BROKEN),
        ("", PollKind.BROKEN),
        (None, PollKind.BROKEN),
        ([1], PollKind.BROKEN),
    ],
)
def test_a_state_that_is_a_number(flag: object, kind: PollKind) -> None:
    """A number counts as itself or as text; nothing else passes for one, true least of all."""
    answer = {"code": 200, "data": {"taskId": "task12345", "successFlag": flag}}
    assert read(SHIPPED["kie-4o-image"], "task12345", answer).kind is kind


@pytest.mark.parametrize(
    ("unit", "value", "at"),
    [
        ("iso", "2023-09-08T16:19:34.765994Z", 1694189974766),
        ("iso", "2023-09-08T16:19:34.765994123Z", 1694189974766),
        ("iso", "2023-09-08T18:19:34+02:00", 1694189974000),
        ("iso", "2023-09-08T16:19:34", None),  # no zone: a guess would be hours off
        ("iso", "yesterday", None),
        ("iso", 1694189974, None),
        ("iso", None, None),
        ("s", 1694189974, 1694189974000),
        ("s", 1694189974.7659, 1694189974766),
        ("s", "1694189974", 1694189974000),
        ("s", 10**400, None),
        ("s", 1e300, None),
        ("s", "2023-09-08T16:19:34Z", None),
        ("ms", 1694189974766, 1694189974766),
    ],
)
def test_times_become_milliseconds(unit: str, value: object, at: int | None) -> None:
    """An instant is told in milliseconds, in whichever of the units a profile says; what is none is null."""
    text = f"""
name = "x"
base_url = "https://x"
request = {{ status_path = "/{{task_id}}" }}
states = {{ path = "s", success = ["y"], fail = ["n"] }}
fields = {{ create_time = "t" }}
units = {{ time = "{unit}" }}
"""
    result = read(parse_profile(text, "x.toml"), "t", {"s": "y", "t": value})
    assert told(result)["createTime"] == at
    assert result.task_created_at == at


@pytest.mark.parametrize(
    ("times", "duration_s"),
    [
        ({"costTime": 32241}, 32.241),
        ({"costTime": "32241"}, 32.241),
        ({"costTime": 5, "createTime": 1777459967759, "completeTime": 1777460000000}, 32.241),
        ({"costTime": 5, "createTime": 1777460000000, "completeTime": 1777459967759}, 0.005),
        ({"createTime": 1777459967759}, None),
        ({"costTime": 0}, None),
        ({"costTime": -5}, None),
        ({"costTime": 10**400}, None),
        ({"createTime": 1000000000001, "completeTime": 9999999999999}, None),
        ({}, None),
    ],
)
def test_only_a_plausible_duration_is_learned(times: dict[str, Any], duration_s: float | None) -> None:
    """A duration that cannot be, or that nobody would wait for, teaches nothing."""
    answer = {"code": 200, "data": {"taskId": "t", "state": "success", **times}}
    assert read(SHIPPED["aigptimage"], "t", answer).duration_s == duration_s


@pytest.mark.parametrize(
    ("data", "window"),
    [
        ({"limit": 60, "windowSeconds": 60}, (60, 60.0)),
        ({"limit": "60", "windowSeconds": 0.5}, (60, 0.5)),
        ({"limit": 60}, None),
        ({"windowSeconds": 60}, None),
        ({"limit": 0, "windowSeconds": 60}, None),
        ({"limit": -1, "windowSeconds": 60}, None),
        ({"limit": 60, "windowSeconds": 0}, None),
        ({"limit": 10**400, "windowSeconds": 10**400}, None),
        ({"limit": True, "windowSeconds": True}, None),
        ({"limit": 1.9, "windowSeconds": 60.5}, (1, 60.5)),
        ({"limit": 0.9, "windowSeconds": 60}, None),
        ({"limit": 1e308, "windowSeconds": 60}, None),
        ({"limit": 60, "windowSeconds": 86401}, None),
        ({"limit": 60, "windowSeconds": -60}, None),
        ({"limit": float("nan"), "windowSeconds": float("nan")}, None),
        ({"limit": float("inf"), "windowSeconds": 60}, None),
        ({"limit": "sixty", "windowSeconds": "60 s"}, None),
        ({"limit": "9" * 5000, "windowSeconds": 60}, None),
        ({"limit": [60], "windowSeconds": {"s": 60}}, None),
        (None, None),
    ],
)
def test_the_limit_that_a_429_tells(data: object, window: tuple[int, float] | None) -> None:
    """A limit is believed only where it leaves something to work with."""
    result = read(SHIPPED["aigptimage"], "t", {"code": 429, "msg": "m", "data": data}, 429)
    assert (result.kind, result.told_window) == (PollKind.THROTTLED, window)


def test_only_a_429_tells_the_limit() -> None:
    """The same members in another answer are no limit of the key."""
    answer = {"code": 500, "msg": "m", "data": {"limit": 1, "windowSeconds": 60}}
    assert read(SHIPPED["aigptimage"], "t", answer, 500).told_window is None


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("l.0", {"c": 2}),
        ("l.0.c", 2),
        ("l.1", None),
        ("l.-1", None),
        ("l.99999999999999999999", None),
        (["missing", "e", "n", "l.0.c", "s"], 2),
        (["missing"], None),
        ([], None),
    ],
)
def test_paths_into_arrays_and_several_paths(path: str | list[str], found: object) -> None:
    """A number picks an item, and of several paths neither null nor the empty text counts."""
    assert dig({"n": None, "e": "", "l": [{"c": 2}], "s": "text"}, path) == found


# Mistakes.

RIGHT = """
name = "mine"
base_url = "https://api.example.com"
[request]
status_path = "/jobs/{task_id}"
[envelope]
code = "code"
[states]
path = "state"
success = ["yes"]
fail = ["no"]
[fields]
task_id = "id"
[limits]
query = [{ limit = 2, window_s = 1 }]
[proxy]
create_path = "/jobs"
created_id = "id"
callback_members = ["callback"]
record_path = "/jobs"
record_param = "id"
"""


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('fail = ["no"]', 'fail = ["no", 3]', "states: success, fail and not_known need values of one kind: "),
        ('fail = ["no"]', "fail = [false]", "states: success, fail and not_known need values of one kind: "),
        ('fail = ["no"]', "fail = [[]]", "states.fail[0]: Expected `"),
        ('fail = ["no"]', 'fail = ["yes"]', "states: ['yes'] cannot mean both success and fail"),
        ('fail = ["no"]', 'fail = ["no"]\nnot_known = ["no"]', "states.not_known: ['no'] cannot end the task as well"),
        ('fail = ["no"]', 'fail = ["no"]\nprogress_full = 0', "states.progress_full: Expected `float` > 0"),
        ('task_id = "id"', 'unknown = "id"', "fields: Object contains unknown field `unknown`"),
        ('task_id = "id"', 'result = ["a", "b."]', "fields.result: ['b.'] cannot be paths; "),
        ('task_id = "id"', 'fail_msg = "a b"', "fields.fail_msg: ['a b'] cannot be paths; "),
        ('task_id = "id"', "fail_code = 1", "fields.fail_code: Expected `str | array | null`, got `int`"),
        ("limit = 2", "limit = 0", "limits.query[0].limit: Expected `int` >= 1"),
        ("window_s = 1", "window_s = 0", "limits.query[0].window_s: Expected `float` > 0"),
        ("[limits]", "[limits]\npoll_min_s = -1", "limits.poll_min_s: Expected `float` > 0"),
        ("[limits]", '[units]\ntime = "minutes"\n[limits]', "units.time: Invalid enum value 'minutes'"),
        ('record_param = "id"', "", "proxy: record_path and record_param go together"),
        ('record_path = "/jobs"', 'record_path = "/{x}"', "proxy.record_path: Expected `str` matching regex"),
        ('create_path = "/jobs"', 'create_path = "jobs"', "proxy.create_path: ['jobs'] cannot be served; a path has "),
        ('create_path = "/jobs"', 'create_path = ["/a", "/b?c"]', "proxy.create_path: ['/b?c'] cannot be served"),
        ('create_path = "/jobs"', 'create_path = "/{a}/{a}"', "proxy.create_path: ['/{a}/{a}'] cannot be served"),
        ('create_path = "/jobs"', 'create_path = "/{a:int}"', "proxy.create_path: ['/{a:int}'] cannot be served"),
        ('create_path = "/jobs"', "create_path = []", "proxy.create_path: [] cannot be served"),
        ('create_path = "/jobs"', "create_path = 7", "proxy.create_path: Expected `str | array`, got `int`"),
        ("[proxy]", '[proxy]\npass = ["/ok", "HEAD /a"]', "proxy.pass: ['HEAD /a'] cannot be served; write /path, "),
        ("[proxy]", '[proxy]\npass = ["get /a"]', "proxy.pass: ['get /a'] cannot be served; write /path, "),
        ("[proxy]", '[proxy]\npass = ["GET  /a"]', "proxy.pass: ['GET  /a'] cannot be served; write /path, "),
        ("[proxy]", "[proxy]\npass = [7]", "proxy.pass[0]: Expected `str`, got `int`"),
        ("[proxy]", "[proxy]\npassed = []", "proxy: Object contains unknown field `passed`"),
        ("[proxy]", '[proxy]\nheaders = ["Prefer", "Host"]', "proxy.headers: ['Host'] are the gateway's own to send"),
        ("[proxy]", '[proxy]\nheaders = ["Authorization"]', "proxy.headers: ['Authorization'] are the gateway's own "),
        ("{task_id}", "{id}", "request.status_path: has no {task_id}, which may stand in request.body instead"),
        ("/jobs/{task_id}", "jobs/{task_id}", "request.status_path: Expected `str` matching regex"),
        ("[envelope]", 'body = { id = "{task_id}" }\n[envelope]', 'request.body: needs method = "POST"'),
        ("[envelope]", 'method = "PUT"\n[envelope]', "request.method: Invalid enum value 'PUT'"),
        ("[envelope]", '[envelope]\nkinds = { "7" = "odd" }', "envelope.kinds['7']: Invalid enum value 'odd'"),
        ("[envelope]", '[envelope]\nkinds = { "200" = "broken" }', "envelope.kinds: ['200'] cannot be errors and ok"),
        ("[envelope]", "[envelope]\nok = [[]]", "envelope.ok[0]: Expected `int | str`, got `array`"),
        ("[envelope]", '[envelope]\nsuccess = "a b"', "envelope.success: Expected `str` matching regex"),
        ('fail = ["no"]', 'fail = ["YES"]\nignore_case = true', "states.ignore_case: some of the values differ in "),
        ('fail = ["no"]', 'fail = ["no"]\nfail_if_set = ["a b"]', "states.fail_if_set[0]: Expected `str` matching"),
        ('fail = ["no"]', 'fail = ["no"]\nfail_if_false = "a"', "states.fail_if_false: Expected `array`, got `str`"),
        ('task_id = "id"', "task_id_may_be_part = true", "fields.task_id_may_be_part: needs fields.task_id"),
        ('task_id = "id"', 'create_time = ["a", "b c"]', "fields.create_time: ['b c'] cannot be paths; "),
        ("[limits]", '[units]\nzone = "Mars"\n[limits]', "units.zone: Expected `str` matching regex"),
        ("[limits]", '[units]\nzone = "+08:00"\n[limits]', 'units.zone: only times with time = "iso" have a zone'),
        ("[envelope]", 'auth_header = "x key"\n[envelope]', "request.auth_header: Expected `str` matching regex"),
        ("[envelope]", 'headers = { "a b" = "c" }\n[envelope]', "request.headers['a b']: Expected `str` matching"),
        ("[envelope]", 'headers = { X-A = "b\\n" }\n[envelope]', "request.headers['X-A']: Expected `str`"),
        (
            "[envelope]",
            'headers = { Authorization = "me" }\n[envelope]',
            "request.headers: authorization carries the key; see request.auth_header",
        ),
        (
            "[limits]",
            '[callback]\nsuccess = { a = "{b..c}" }\nfail = {}\n[limits]',
            "callback.success: '{b..c}' is no path between braces",
        ),
        (
            "[limits]",
            '[callback]\nsuccess = {}\nfail = { a = ["{b.*}", "x"] }\n[limits]',
            "callback.fail: an array whose item stands for each of another's has that item alone",
        ),
        ("[limits]", "[callback]\nsuccess = {}\n[limits]", "callback: Object missing required field `fail`"),
        ("[limits]", "[callback]\nsuccess = []\nfail = {}\n[limits]", "callback.success: Expected `object`"),
        ('name = "mine"', 'name = "mine"\nnmae = 1', "Object contains unknown field `nmae`"),
        ('name = "mine"', "name = 1", "name: Expected `str`, got `int`"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, problem: str) -> None:
    """A profile that cannot be used is refused with the file, the key and the reason."""
    assert parse_profile(RIGHT, "mine.toml").name == "mine"
    assert old in RIGHT
    with pytest.raises(ConfigError) as caught:
        parse_profile(RIGHT.replace(old, new, 1), "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith(f"mine.toml: {problem}")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('code = "code"', 'success = "ok"', ".synthesize: needs envelope.code"),
        ('["yes"]\nfail = ["no"]', "[3]\nfail = [4]", ".synthesize: needs states that are words"),
        ('["yes"]\nfail = ["no"]', "[true]\nfail = [false]", ".synthesize: needs states that are words"),
        ('fail = ["no"]', 'fail = ["waiting"]', ".synthesize: a running task is told as waiting, "),
        ('fail = ["no"]', 'fail = ["no"]\nnot_known = ["waiting"]', ".synthesize: a running task is told as waiting, "),
        ('fail = ["no"]', 'fail = ["Waiting"]\nignore_case = true', ".synthesize: a running task is told as waiting, "),
        ('fail = ["no"]', 'fail = ["no"]\nfail_if = "error"', ".synthesize: an end is told by the state alone, "),
        ('fail = ["no"]', 'fail = ["no"]\nsuccess_if = "url"', ".synthesize: an end is told by the state alone, "),
        ("[limits]", '[units]\ntime = "s"\n[limits]', ".synthesize: needs [units] that are milliseconds"),
        ("[limits]", '[units]\ntime = "iso"\n[limits]', ".synthesize: needs [units] that are milliseconds"),
        ("[limits]", '[units]\ncost = "s"\n[limits]', ".synthesize: needs [units] that are milliseconds"),
        ('task_id = "id"', 'task_id = "jobs.0.id"', ": ['jobs.0.id'] cannot be written: a number"),
        ('task_id = "id"', 'result = ["output.0", "output"]', ": ['output.0'] cannot be written: a number"),
        ('task_id = "id"', 'task_id = "data.id"\nresult = "data"', ": ['data'] cannot be written: other members"),
        ('task_id = "id"', 'root = "data"\nresult = "data"', ": ['data'] cannot be written: other members"),
        ('task_id = "id"', 'root = "data.job"\nfail_msg = "data"', ": ['data'] cannot be written: other members"),
    ],
)
def test_what_cannot_be_answered_as_the_api_does(old: str, new: str, problem: str) -> None:
    """A profile is refused whose answers the gateway would make up; where it only passes them on it can be used."""
    assert old in RIGHT
    text = RIGHT.replace(old, new, 1)
    assert parse_profile(text, "mine.toml").proxy is not None
    with pytest.raises(ConfigError) as caught:
        parse_profile(text + "synthesize = true\n", "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith(f"mine.toml: proxy{problem}")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('state = "runs"', 'state = "yes"', "needs a state at state that does not end the task"),
        ('state = "runs"', 'state = "lost"', "needs a state at state that does not end the task"),
        ('state = "runs"', 'other = "runs"', "needs a state at state that does not end the task"),
        ('id = "{taskId}"', 'id = "t"', 'needs "{taskId}" at id'),
        ('id = "{taskId}"', 'id = "{taskId}"\nat = "{a..b}"', "'{a..b}' is no path between braces"),
        ("[proxy]", "[proxy]\nsynthesize = true", "synthesize and created_is_record tell that already"),
        ("[proxy]", "[proxy]\ncreated_is_record = true", "synthesize and created_is_record tell that already"),
    ],
)
def test_what_a_new_task_cannot_be_told_as(old: str, new: str, problem: str) -> None:
    """A profile is refused by which a task would be told as ended that has just begun, or as another one."""
    text = RIGHT.replace('fail = ["no"]', 'fail = ["no"]\nnot_known = ["lost"]')
    text += '[proxy.created_record]\nid = "{taskId}"\nstate = "runs"\n'
    for nested in (text, text.replace('"state"', '"a.b.state"').replace('"id"', '"a.b.id"')):
        # The record is the object at the root.
        rooted = nested.replace("[fields]", '[fields]\nroot = "a.b"') if nested != text else nested
        assert parse_profile(rooted, "mine.toml").proxy is not None
    assert old in text
    with pytest.raises(ConfigError) as caught:
        parse_profile(text.replace(old, new, 1), "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith(f"mine.toml: proxy.created_record: {problem}")


def test_case_does_not_make_a_new_tasks_state_another() -> None:
    """Where the API's words are the same in capitals and in small letters."""
    text = RIGHT.replace('fail = ["no"]', 'fail = ["no"]\nignore_case = true')
    with pytest.raises(ConfigError, match="does not end the task"):
        parse_profile(text + '[proxy.created_record]\nid = "{taskId}"\nstate = "NO"\n', "mine.toml")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[envelope]", '[envelope]\nmessage = ["errors.0.text", "text"]', "['errors.0.text'] cannot be written: a "),
        ("[envelope]", '[envelope]\nmessage = ["code.text"]', "['code'] cannot be written: other members stand below"),
        ('task_id = "id"', 'root = "code"', "['code'] cannot be written: other members stand below"),
        (
            "[envelope]",
            '[envelope]\nmessage = ["data"]\nretry_after = "data.wait"',
            "['data'] cannot be written: other members stand below",
        ),
        (
            'record_path = "/jobs"\nrecord_param = "id"\n',
            "",
            None,
        ),
        (
            '"/jobs/{task_id}"\n[envelope]',
            '"/jobs"\nmethod = "POST"\nbody = { id = "{task_id}" }\n[envelope]',
            "needs record_path and record_param, as tasks are not read with GET",
        ),
        ("/jobs/{task_id}", "/jobs?filter=id:{task_id}", "needs record_path and record_param, as tasks are not read "),
        ("/jobs/{task_id}", "/{x}/{task_id}", "'/{x}/{task_id}' of request.status_path cannot be served: {task_id} "),
        ("/jobs/{task_id}", "/{task_id}/{task_id}", "'/{task_id}/{task_id}' of request.status_path cannot be served"),
    ],
)
def test_a_proxy_that_cannot_stand_in(old: str, new: str, problem: str | None) -> None:
    """A profile is refused whose calls or errors the gateway cannot serve; without its [proxy] it can be used."""
    own = 'record_path = "/jobs"\nrecord_param = "id"\n'
    text = RIGHT.replace(old, new, 1) if old == own else RIGHT.replace(own, "").replace(old, new, 1)
    assert old in RIGHT
    if problem is None:
        assert parse_profile(text, "mine.toml").proxy is not None
        return
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith(f"mine.toml: proxy: {problem}")
    assert parse_profile(text.partition("[proxy]")[0], "mine.toml").proxy is None


def test_how_clients_read_a_task() -> None:
    """By the call that the profile polls by, where it names no other; the id is in the path or a parameter."""

    def read(status_path: str, **more: Any) -> RecordCall | None:
        return record_call(Request(status_path=status_path, **more), Proxy(create_path="/a", created_id="id"))

    assert read("/jobs/{task_id}") == ("/jobs/{task_id}", None, "/jobs/{task_id}")
    assert read("/v1/{task_id}", task_id_has_slashes=True) == ("/v1/{task_id:path}", None, "/v1/{task_id}")
    assert read("/jobs?a=b&id={task_id}") == ("/jobs", "id", "/jobs?a=b&id={task_id}")
    assert read("/jobs?id=x{task_id}") is read("/jobs/{task_id}", method="POST") is read("/jobs") is None
    own = Proxy(create_path="/a", created_id="id", record_path="/job", record_param="job id")
    assert record_call(Request(status_path="/jobs"), own) == ("/job", "job id", "/job?job%20id={task_id}")


def test_no_token_goes_on() -> None:
    """It may stand where the API's key does, or in Authorization, whatever header the API has for its key."""
    text = RIGHT.replace("[envelope]", 'auth_header = "X-Key"\n[envelope]')
    for name in ("x-key", "X-KEY", "authorization"):
        with pytest.raises(ConfigError) as caught:
            parse_profile(text.replace("[proxy]", f'[proxy]\nheaders = ["{name}"]'), "mine.toml")
        assert caught.value.problems[0].startswith(f"mine.toml: proxy.headers: ['{name}'] are the gateway's own ")


def test_one_word_for_both_ends_needs_what_tells_them_apart() -> None:
    """One of success_if and fail_if is not enough: the other end would be any answer with the word."""
    text = RIGHT.partition("[proxy]")[0].replace('fail = ["no"]', 'fail = ["yes"]\nfail_if = "error"')
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith("mine.toml: states: ['yes'] cannot mean both success and fail")


def test_absent_states_need_the_tasks_id() -> None:
    """Without an id to go by, any answer at all would mean that the task runs."""
    text = RIGHT.replace('fail = ["no"]', 'fail = ["no"]\nmay_be_absent = true').replace('task_id = "id"', "")
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, "mine.toml")
    (line,) = caught.value.problems
    assert line.startswith("mine.toml: states.may_be_absent: needs fields.task_id")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            [
                ('name = "mine"', 'name = "mine"\nnmae = 1'),
                ("/jobs/{task_id}", "https://evil/x"),
                ("[envelope]", 'method = "PUT"\nauth_header = "a b"\nbogus = 1\n[envelope]'),
                ('["no"]', '["yes"]'),
            ],
            [
                "request.status_path: Expected `str` matching regex",
                "request.method: Invalid enum value 'PUT'",
                "request.auth_header: Expected `str` matching regex",
                "request: Object contains unknown field `bogus`",
                "Object contains unknown field `nmae`",
                "states: ['yes'] cannot mean both success and fail",
            ],
        ),
        (
            [("[envelope]", 'headers = { "a b" = "c", X-A = "\\n", X-B = "b" }\n[envelope]\nkinds = { "7" = "odd" }')],
            [
                "request.headers['a b']: Expected",
                "request.headers['X-A']: Expected",
                "envelope.kinds['7']: Invalid enum value 'odd'",
            ],
        ),
        (
            [("window_s = 1", "window = 1"), ('["yes"]', '["yes", []]'), ('created_id = "id"', "pass = [1]")],
            [
                "states.success[1]: Expected",
                "limits.query[0]: Object contains unknown field `window`",
                "limits.query[0]: Object missing required field `window_s`",
                "proxy.pass[0]: Expected",
                "proxy: Object missing required field `created_id`",
            ],
        ),
        (
            [("[states]", "[stats]")],
            ["Object contains unknown field `stats`", "Object missing required field `states`"],
        ),
        (
            [("[envelope]", "body = 1\n[envelope]"), ("{task_id}", "id"), ("[limits]", "[units]\nzone = 1\n[limits]")],
            ["request.body: Expected `object | null`", "units.zone: Expected `str | null`"],
        ),
        (
            [('task_id = "id"', 'result = 1\nfail_msg = "a b"\ntask_id_may_be_part = true')],
            [
                "fields.result: Expected",
                "fields.fail_msg: ['a b'] cannot be paths",
                "fields.task_id_may_be_part: needs fields.task_id",
            ],
        ),
    ],
    ids=["all over", "tables", "lists", "a section", "no guesses", "paths"],
)
def test_all_mistakes_are_told_together(changes: list[tuple[str, str]], expected: list[str]) -> None:
    """Those of one section, keys too few or too many, and what contradicts what could be read; nothing is guessed."""
    text = RIGHT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, "mine.toml")
    assert len(caught.value.problems) == len(expected)
    for line, beginning in zip(caught.value.problems, expected, strict=True):
        assert line.startswith(f"mine.toml: {beginning}")


def test_mistakes_of_several_sections_are_told_together() -> None:
    """Nobody has to start three times to hear of three mistakes."""
    text = RIGHT.replace("https://", "ftp://").replace("limit = 2", "limit = 0").replace('path = "state"', "path = 1")
    with pytest.raises(ConfigError) as caught:
        parse_profile(text, "mine.toml")
    assert [line.split(": ")[1] for line in caught.value.problems] == [
        "base_url",
        "states.path",
        "limits.query[0].limit",
    ]


# Folders.


def test_later_folders_win(tmp_path: Path) -> None:
    """An operator's folder adds profiles, with a BOM or without, and replaces shipped ones of the same name."""
    (tmp_path / "mine.toml").write_text(RIGHT, "utf-8-sig")
    (tmp_path / "kie.toml").write_text(RIGHT.replace('"mine"', '"kie"'))
    (tmp_path / "notes.txt").write_text("not a profile")
    profiles, problems = read_profiles([config_dir() / "upstreams", tmp_path])
    assert problems == []
    assert profiles.keys() == {*NAMES, "mine"}
    assert profiles["kie"].base_url == "https://api.example.com"


def test_mistakes_of_all_files_are_told_together(tmp_path: Path) -> None:
    """Every file with a mistake is named, by its path, with what is wrong."""
    (tmp_path / "a.toml").write_text(RIGHT)
    (tmp_path / "b.toml").write_text("name = ")
    (tmp_path / "c.toml").write_bytes(b"\xff")
    (tmp_path / "d.toml").mkdir()
    (tmp_path / "mine.toml").write_text(RIGHT.replace("limit = 2", "limit = 0"))
    profiles, problems = read_profiles([tmp_path, tmp_path / "nowhere"])
    assert profiles.keys() == {"mine"}
    first, second, third, fourth, fifth, sixth = problems
    assert first == f"{tmp_path}/a.toml: name: got 'mine'; write the name of the file, 'a'"
    assert second.startswith(f"{tmp_path}/b.toml: not valid TOML: ")
    assert third == f"{tmp_path}/c.toml: it is not a text file in UTF-8"
    assert fourth == f"{tmp_path}/d.toml: Is a directory"
    assert fifth == f"{tmp_path}/mine.toml: limits.query[0].limit: Expected `int` >= 1"
    assert sixth == (
        f"GATEWAY_PROFILES: got '{tmp_path}/nowhere'; there is no such folder: name a folder that this user may read"
    )


def test_a_folder_that_cannot_be_listed_names_its_setting(tmp_path: Path) -> None:
    """Whatever keeps it from being read: here it is a file, or its name is longer than any."""
    (tmp_path / "file").touch()
    for folder, why in ((tmp_path / "file", "Not a directory"), (tmp_path / ("a" * 300), "File name too long")):
        _, (problem,) = read_profiles([folder])
        assert problem.startswith(f"GATEWAY_PROFILES: got '{folder}'; {why}: ")


def test_hidden_files_are_no_profiles(tmp_path: Path) -> None:
    """What macOS and editors leave beside a profile is passed over: a copy's attributes, a lock that leads nowhere."""
    (tmp_path / "mine.toml").write_text(RIGHT)
    (tmp_path / "._mine.toml").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / ".#mine.toml").symlink_to("me@host.1234")
    profiles, problems = read_profiles([tmp_path])
    assert (profiles.keys(), problems) == ({"mine"}, [])
