"""Three more APIs that can be described, with what none of the shipped ones needs: numbers, times, limits."""

from typing import Any

import pytest

from gateway.config.profile import dig
from gateway.config.profilefile import parse_profile
from gateway.upstream.answer import PollKind
from tests.profiles import SHIPPED, read, told

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
