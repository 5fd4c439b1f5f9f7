"""What own profiles can say beyond the shipped ones, each key by answers as real APIs' public pages show them."""

import json
from typing import Any

import pytest

from gateway.config.profile import Profile
from gateway.config.profilefile import parse_profile
from gateway.upstream.answer import PollKind, PollResult, read_answer
from tests.manual import page


def read(profile: Profile, task_id: str, answer: dict[str, Any], status: int = 200) -> PollResult:
    return read_answer(profile, task_id, status, None, json.dumps(answer).encode())


def told(result: PollResult) -> dict[str, Any]:
    """Return the webhook's members of an ended task."""
    assert result.outcome is not None, result
    data: dict[str, Any] = json.loads(result.outcome.data)
    return data


# Envelope codes → kinds, in numbers: MiniMax, video generation. HTTP is always 200.

MINIMAX = parse_profile(
    """
name = "minimax"
base_url = "https://api.minimax.io"
[request]
status_path = "/v1/query/video_generation?task_id={task_id}"
[envelope]
code = "base_resp.status_code"
ok = [0]
kinds = { 1002 = "throttled", 1004 = "key_refused", 1008 = "credits", 2049 = "key_refused", 2013 = "not_known" }
message = ["base_resp.status_msg"]
[states]
path = "status"
success = ["Success"]
fail = ["Fail"]
[fields]
task_id = "task_id"
result = "file_id"
fail_msg = "base_resp.status_msg"
""",
    "minimax.toml",
)


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (1002, "rate limit exceeded", PollKind.THROTTLED),
        (1004, "login fail: Please carry the API secret key", PollKind.KEY_REFUSED),
        ("1004", "login fail", PollKind.KEY_REFUSED),
        (1008, "insufficient balance", PollKind.CREDITS),
        (2013, "invalid params, task_id not found", PollKind.NOT_KNOWN),
        (1013, "internal service error", PollKind.BROKEN),
    ],
)
def test_codes_in_numbers(code: object, message: str, kind: PollKind) -> None:
    """An API's own numbers mean what its profile says; one that it does not name is a broken answer."""
    result = read(MINIMAX, "1768", {"base_resp": {"status_code": code, "status_msg": message}})
    assert (result.kind, result.error) == (kind, f"The upstream answered {code}: {message}")


def test_what_is_ok_is_no_error_and_no_failure() -> None:
    """Its code 0 stands in every good answer; of a success no failure is told, whatever its message says."""
    ok = {"base_resp": {"status_code": 0, "status_msg": "success"}}
    assert read(MINIMAX, "1768", {"task_id": "1768", "status": "Processing", **ok}).kind is PollKind.RUNNING
    data = told(read(MINIMAX, "1768", {"task_id": "1768", "status": "Success", "file_id": "2059", **ok}))
    assert (data["state"], data["result"], data["failMsg"]) == ("success", "2059", None)
    data = told(read(MINIMAX, "1768", {"task_id": "1768", "status": "Fail", "base_resp": {"status_msg": "bad prompt"}}))
    assert (data["state"], data["failMsg"]) == ("fail", "bad prompt")


# Codes in words, times without a zone, several paths for a time: Alibaba Cloud's Model Studio (DashScope).

DASHSCOPE = parse_profile(
    """
name = "dashscope"
base_url = "https://dashscope.aliyuncs.com"
[request]
status_path = "/api/v1/tasks/{task_id}"
[envelope]
code = "code"
message = ["message"]
[envelope.kinds]
InvalidApiKey = "key_refused"
Arrearage = "credits"
"Throttling.RateQuota" = "throttled"
400 = "not_known"
[states]
path = "output.task_status"
success = ["SUCCEEDED"]
fail = ["FAILED", "CANCELED"]
not_known = ["UNKNOWN"]
[fields]
root = "output"
task_id = "output.task_id"
result = ["output.results", "output.video_url"]
fail_code = "output.code"
fail_msg = "output.message"
create_time = ["output.submit_time", "output.scheduled_time"]
complete_time = "output.end_time"
[units]
time = "iso"
zone = "+08:00"
""",
    "dashscope.toml",
)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("InvalidApiKey", 401, PollKind.KEY_REFUSED),
        ("Arrearage", 400, PollKind.CREDITS),
        ("Arrearage", 200, PollKind.CREDITS),
        ("Throttling.RateQuota", 429, PollKind.THROTTLED),
        ("InternalError", 500, PollKind.BROKEN),
        ("InternalError", 200, PollKind.BROKEN),
        ("InternalError", 429, PollKind.THROTTLED),
        ("InvalidParameter", 400, PollKind.NOT_KNOWN),
    ],
)
def test_codes_in_words(code: str, status: int, kind: PollKind) -> None:
    """A word that the profile does not name is an error as well, and hides no status that says more."""
    answer = {"code": code, "message": "No such thing.", "request_id": "7574ee8f"}
    result = read(DASHSCOPE, "86ec", answer, status)
    assert (result.kind, result.outcome) == (kind, None)
    assert "No such thing." in (result.error or "")


def test_words_are_no_codes_where_the_profile_has_none() -> None:
    """There the HTTP status alone counts, as with the shipped profiles."""
    profile = parse_profile(MINIMAX_WITHOUT_KINDS, "minimax.toml")
    answer = {"task_id": "1", "status": "Queueing", "base_resp": {"status_code": "fine"}}
    assert read(profile, "1", answer).kind is PollKind.RUNNING


MINIMAX_WITHOUT_KINDS = """
name = "minimax"
base_url = "https://api.minimax.io"
request = { status_path = "/v1/query/{task_id}" }
envelope = { code = "base_resp.status_code", ok = [0] }
states = { path = "status", success = ["Success"], fail = ["Fail"] }
"""


def test_words_that_are_ok() -> None:
    """Where a good answer has a word, another one is an error."""
    profile = parse_profile(MINIMAX_WITHOUT_KINDS.replace("[0]", '["Success"]'), "minimax.toml")
    for code, kind in (("Success", PollKind.RUNNING), ("Denied", PollKind.BROKEN), ("", PollKind.RUNNING)):
        assert read(profile, "1", {"status": "Queueing", "base_resp": {"status_code": code}}).kind is kind


def test_times_without_a_zone() -> None:
    """They are the profile's zone's; a time that has one keeps its own. The first path that holds something counts."""
    output = {
        "task_id": "86ec",
        "task_status": "SUCCEEDED",
        "submit_time": "",
        "scheduled_time": "2023-10-31 11:16:16.154",
        "end_time": "2023-10-31T03:16:22Z",
        "results": [{"url": "https://x/1.png"}],
    }
    result = read(DASHSCOPE, "86ec", {"request_id": "7574ee8f", "output": output})
    data = told(result)
    assert (data["createTime"], data["completeTime"]) == (1698722176154, 1698722182000)
    assert (result.task_created_at, result.duration_s) == (1698722176154, 5.846)
    assert "extra" not in data, "every path of a time is named, also the one that was empty"
    running = {**output, "task_status": "RUNNING", "submit_time": "soon"}
    assert read(DASHSCOPE, "86ec", {"output": running}).task_created_at is None


def test_a_state_that_says_unknown() -> None:
    """Its pages: of a task that there is not, or that is older than a day."""
    result = read(DASHSCOPE, "86ec", {"output": {"task_id": "86ec", "task_status": "UNKNOWN"}})
    assert result.kind is PollKind.NOT_KNOWN


# A failure whatever the state, and an id that is only a part: fal's queue. A failed request is COMPLETED too.

FAL = parse_profile(
    """
name = "fal"
base_url = "https://queue.fal.run"
[request]
status_path = "/{task_id}/status"
task_id_has_slashes = true
auth_prefix = "Key "
[envelope]
message = ["detail"]
[states]
path = "status"
success = ["COMPLETED"]
fail = ["CANCELLED"]
fail_if_set = ["error"]
[fields]
task_id = "request_id"
task_id_may_be_part = true
result = "response_url"
fail_code = "error_type"
fail_msg = "error"
""",
    "fal.toml",
)
FAL_TASK = "fal-ai/flux/requests/764cabcf-b745-4b3e-ae38-1200304cf45b"
FAL_ID = FAL_TASK.rpartition("/")[2]


@pytest.mark.parametrize("error", [None, "", [], {}, False])
def test_an_empty_member_is_no_failure(error: object) -> None:
    """It may stand in every answer."""
    answer = {"status": "COMPLETED", "request_id": FAL_ID, "response_url": "https://x/r", "error": error}
    data = told(read(FAL, FAL_TASK, answer))
    assert (data["state"], data["result"], data["failMsg"]) == ("success", "https://x/r", None)


@pytest.mark.parametrize("status", ["COMPLETED", "IN_PROGRESS", None])
def test_a_failure_whatever_the_state(status: str | None) -> None:
    """A member that holds something says it, even where the state says success or nothing."""
    answer = {"status": status, "request_id": FAL_ID, "error": "Runner timed out", "error_type": "request_timeout"}
    data = told(read(FAL, FAL_TASK, answer))
    assert (data["state"], data["failCode"], data["failMsg"]) == ("fail", "request_timeout", "Runner timed out")


@pytest.mark.parametrize(
    ("answer", "status", "kind"),
    [
        ({"error": "Not found", "detail": "Request not found"}, 404, PollKind.NOT_KNOWN),
        ({"error": "Bad key", "request_id": FAL_ID}, 401, PollKind.KEY_REFUSED),
        ({"error": "x", "status": "COMPLETED"}, 500, PollKind.BROKEN),
        ({"error": "x", "status": "COMPLETED", "request_id": "another"}, 200, PollKind.BROKEN),
    ],
)
def test_an_error_about_the_question_is_no_failure_of_the_task(
    answer: dict[str, Any], status: int, kind: PollKind
) -> None:
    """Only an answer that is good, and about this task, ends it by such a member."""
    result = read(FAL, FAL_TASK, answer, status)
    assert (result.kind, result.outcome) == (kind, None)


@pytest.mark.parametrize(
    ("told_id", "kind"),
    [
        (FAL_ID, PollKind.RUNNING),
        (FAL_TASK, PollKind.RUNNING),
        ("requests/" + FAL_ID, PollKind.RUNNING),
        ("flux", PollKind.RUNNING),
        (FAL_ID[:-1], PollKind.BROKEN),
        ("lux", PollKind.BROKEN),
        ("other", PollKind.BROKEN),
    ],
)
def test_an_id_that_is_a_part_of_the_one_asked_for(told_id: str, kind: PollKind) -> None:
    """Whole parts between slashes, and nothing shorter."""
    assert read(FAL, FAL_TASK, {"status": "IN_QUEUE", "request_id": told_id}).kind is kind


# A failure, and an error, by a member that is false: Firecrawl's extract jobs, Cloudflare's API.

FIRECRAWL = parse_profile(
    """
name = "firecrawl"
base_url = "https://api.firecrawl.dev"
[request]
status_path = "/v1/extract/{task_id}"
[envelope]
message = ["error"]
[states]
path = "status"
success = ["completed"]
fail = ["failed", "cancelled"]
fail_if_false = ["success"]
[fields]
result = "data"
fail_msg = "error"
""",
    "firecrawl.toml",
)


@pytest.mark.parametrize(
    ("success", "status", "state"),
    [(True, "completed", "success"), (False, "completed", "fail"), (False, "processing", "fail")],
)
def test_a_failure_by_a_member_that_is_false(success: bool, status: str, state: str) -> None:
    """The state alone would call it a success, or wait for ever."""
    answer = {"success": success, "status": status, "data": {"a": 1}, "error": "No page could be read."}
    data = told(read(FIRECRAWL, "t", answer))
    assert (data["state"], data["failMsg"]) == (state, None if success else "No page could be read.")


def test_a_failure_needs_a_good_answer() -> None:
    """A refused question says false as well."""
    result = read(FIRECRAWL, "t", {"success": False, "error": "Extract job not found"}, 404)
    assert (result.kind, result.outcome) == (PollKind.NOT_KNOWN, None)


@pytest.mark.parametrize("success", [None, 0, "false", "no"])
def test_only_false_is_false(success: object) -> None:
    """Nothing else means it; a member that is absent least of all."""
    answer = {"success": success, "status": "processing"}
    assert read(FIRECRAWL, "t", answer).kind is PollKind.RUNNING


CLOUDFLARE = parse_profile(
    """
name = "cloudflare-stream"
base_url = "https://api.cloudflare.com/client/v4/accounts/0123"
[request]
status_path = "/stream/{task_id}"
[envelope]
code = "errors.0.code"
kinds = { 10000 = "key_refused", 10003 = "not_known" }
success = "success"
message = ["errors.0.message"]
[states]
path = "result.status.state"
success = ["ready"]
fail = ["error"]
[fields]
task_id = "result.uid"
result = "result.playback"
fail_code = "result.status.errorReasonCode"
fail_msg = "result.status.errorReasonText"
""",
    "cloudflare-stream.toml",
)


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([{"code": 10000, "message": "Authentication error"}], PollKind.KEY_REFUSED),
        ([{"code": 10003, "message": "Not Found"}], PollKind.NOT_KNOWN),
        ([], PollKind.BROKEN),
    ],
)
def test_an_error_by_a_member_that_is_false(errors: list[Any], kind: PollKind) -> None:
    """It says of the question, never of the task, that it failed; a code that is there says more."""
    result = read(CLOUDFLARE, "dd5d", {"success": False, "errors": errors, "messages": [], "result": None})
    assert (result.kind, result.outcome) == (kind, None)
    good = {"success": True, "errors": [], "result": {"uid": "dd5d", "status": {"state": "inprogress"}}}
    assert read(CLOUDFLARE, "dd5d", good).kind is PollKind.RUNNING


# States whose case varies: PiAPI, whose pages say Completed and whose answers completed.

PIAPI = parse_profile(
    """
name = "piapi"
base_url = "https://api.piapi.ai"
[request]
status_path = "/api/v1/task/{task_id}"
auth_header = "x-api-key"
auth_prefix = ""
[envelope]
code = "code"
message = ["message"]
[states]
path = "data.status"
success = ["Completed"]
fail = ["Failed"]
ignore_case = true
[fields]
root = "data"
task_id = "data.task_id"
result = "data.output"
fail_code = "data.error.code"
fail_msg = ["data.error.message", "data.error.raw_message"]
create_time = ["data.meta.created_at", "data.meta.started_at"]
complete_time = ["data.meta.ended_at"]
[units]
time = "iso"
""",
    "piapi.toml",
)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("completed", PollKind.TERMINAL),
        ("COMPLETED", PollKind.TERMINAL),
        ("failed", PollKind.TERMINAL),
        ("Processing", PollKind.RUNNING),
        ("complete", PollKind.RUNNING),
    ],
)
def test_states_in_any_case(status: str, kind: PollKind) -> None:
    """Capitals make no other word of it."""
    assert read(PIAPI, "t", {"code": 200, "data": {"task_id": "t", "status": status}}).kind is kind


def test_states_in_their_own_case_by_default() -> None:
    """Of a profile that does not say so, another spelling is another word: the task still runs."""
    assert read(FAL, FAL_TASK, {"status": "completed", "request_id": FAL_ID}).kind is PollKind.RUNNING


def test_a_failure_of_a_nested_object() -> None:
    """Of several paths the first that holds something counts, also for times."""
    error = {"code": 10000, "message": "", "raw_message": "prompt is empty"}
    meta = {"created_at": None, "started_at": "2025-01-02T03:04:05Z", "ended_at": "2025-01-02T03:04:15Z"}
    result = read(PIAPI, "t", {"code": 200, "data": {"task_id": "t", "status": "failed", "error": error, "meta": meta}})
    data = told(result)
    assert (data["failCode"], data["failMsg"]) == ("10000", "prompt is empty")
    assert (data["createTime"], result.duration_s) == (1735787045000, 10.0)


# The reference.


def test_the_manuals_example_can_be_used() -> None:
    """As it stands there."""
    text = page("upstreams").partition("\n## Profiles of your own")[2].partition("```toml\n")[2].partition("```")[0]
    assert parse_profile(text, "piapi.toml").name == "piapi"
