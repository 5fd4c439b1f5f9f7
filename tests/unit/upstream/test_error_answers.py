"""What an error answer means for the task: the upstream's own, and the family's."""

from typing import Any

import pytest

from gateway.upstream.answer import PollKind, PollResult
from tests.pollanswers import TASK, read

ERRORS = [
    (400, PollKind.BROKEN),
    (401, PollKind.KEY_REFUSED),
    (402, PollKind.CREDITS),
    (403, PollKind.KEY_REFUSED),
    (404, PollKind.NOT_KNOWN),
    (408, PollKind.BROKEN),
    (422, PollKind.NOT_KNOWN),
    (429, PollKind.THROTTLED),
    (433, PollKind.CREDITS),
    (455, PollKind.MAINTENANCE),
    (500, PollKind.BROKEN),
    (501, PollKind.BROKEN),
    (502, PollKind.BROKEN),
    (503, PollKind.MAINTENANCE),
    (505, PollKind.MAINTENANCE),
]


@pytest.mark.parametrize(("code", "kind"), ERRORS)
@pytest.mark.parametrize("envelope_only", [False, True], ids=["status", "envelope"])
@pytest.mark.parametrize("as_string", [False, True], ids=["number", "string"])
@pytest.mark.parametrize("data", [None, {}, {"taskId": TASK, "state": "waiting"}], ids=["null", "empty", "waiting"])
def test_an_error_answer(
    code: int, kind: PollKind, envelope_only: bool, as_string: bool, data: dict[str, Any] | None
) -> None:
    """An error is told by HTTP status and envelope alike, or by the envelope under HTTP 200; it never ends the task."""
    body = {"code": str(code) if as_string else code, "msg": "the reason", "data": data}
    assert read(body, 200 if envelope_only else code) == PollResult(
        kind=kind, error=f"The upstream answered {code}: the reason"
    )


@pytest.mark.parametrize(("code", "kind"), ERRORS)
@pytest.mark.parametrize("body", [b"error code: 1010", b"", b"<html>", b'{"detail":"x"}', b'{"code":200}', b"[]"])
def test_an_error_status_without_the_envelope(code: int, kind: PollKind, body: bytes) -> None:
    """Where there is no envelope, or one that claims all is well, the HTTP status says what is wrong.

    But only the API's own code can say that it does not know a task: a web server's 404 may mean a wrong base URL.
    """
    result = read(body, code)
    if kind is PollKind.NOT_KNOWN:
        kind = PollKind.BROKEN
    assert (result.kind, result.outcome) == (kind, None)
    assert str(result.error).startswith(f"The upstream answered {code}: ")


@pytest.mark.parametrize(
    "body", [{"message": "no Route matched with those values"}, {"detail": "Not Found"}, {"code": 0, "msg": "m"}, {}]
)
@pytest.mark.parametrize("status", [404, 422])
def test_a_proxys_404_says_what_to_look_at(status: int, body: dict[str, Any]) -> None:
    """It looks like the API's word on the task, and is a matter of addresses."""
    result = read(body, status)
    assert (result.kind, result.by_api) == (PollKind.BROKEN, "code" in body)
    assert str(result.error).endswith("(not as the API says it: check the base URL, and what stands before the API)")


@pytest.mark.parametrize("status", [500, 502, 404, 429])
def test_an_error_without_a_word_on_the_task_does_not_end_it(status: int) -> None:
    """A load balancer has states of its own: under an error it is to name the task, or to have the API's code."""
    told = {"data": {"state": "fail", "failMsg": "no backend"}}
    assert read(told, status).outcome is None
    assert read({**told, "code": 501}, status).kind is PollKind.TERMINAL
    assert read({"data": {**told["data"], "taskId": TASK}}, status).kind is PollKind.TERMINAL
    assert read(told, 200).kind is PollKind.TERMINAL


def test_a_models_name_has_a_length() -> None:
    """What was learned is kept by it; the webhook has it as it came."""
    for length, known in ((255, True), (256, False)):
        result = read({"code": 200, "data": {"taskId": TASK, "state": "success", "model": "m" * length}})
        assert (result.model is not None) == known
        assert result.outcome is not None
        assert b"m" * length in result.outcome.data


@pytest.mark.parametrize(
    ("status", "code", "kind", "named"),
    [
        (500, 429, PollKind.THROTTLED, 429),
        (500, 501, PollKind.BROKEN, 501),
        (400, 422, PollKind.NOT_KNOWN, 422),
        (404, 401, PollKind.KEY_REFUSED, 401),
        (401, -1, PollKind.KEY_REFUSED, 401),
        (429, 1001, PollKind.THROTTLED, 429),
        (429, 500, PollKind.THROTTLED, 429),
        (401, None, PollKind.KEY_REFUSED, 401),
        (401, "E_KEY", PollKind.KEY_REFUSED, 401),
        (200, -1, PollKind.BROKEN, -1),
        (200, 0, PollKind.BROKEN, 0),
        (200, 201, PollKind.BROKEN, 201),
        (302, 302, PollKind.BROKEN, 302),
    ],
)
def test_where_status_and_envelope_differ(status: int, code: object, kind: PollKind, named: int) -> None:
    """The envelope's code wins where it says something; one that says nothing does not hide a status that does."""
    result = read({"code": code, "msg": "m", "data": {"taskId": TASK, "state": "waiting"}}, status)
    assert (result.kind, result.error) == (kind, f"The upstream answered {named}: m")


@pytest.mark.parametrize("code", [True, False, 429.5, [429], {"code": 429}, "", "429x", "9" * 5000])
def test_a_code_that_is_no_whole_number_is_ignored(code: object) -> None:
    """What is no number at all in the place of the code is not taken for an error."""
    assert read({"code": code, "data": {"taskId": TASK, "state": "waiting"}}).kind is PollKind.RUNNING
    assert read({"code": code, "data": None}, 402).kind is PollKind.CREDITS


@pytest.mark.parametrize(
    ("envelope", "message"),
    [
        ({"msg": "a"}, "a"),
        ({"message": "b"}, "b"),
        ({"msg": "a", "message": "b"}, "a"),
        ({"msg": "", "message": "b"}, "b"),
        ({"msg": {"en": "a"}, "message": "b"}, "b"),
        ({"msg": None}, "no reason given"),
        ({}, "no reason given"),
        ({"msg": "recordInfo is null"}, "recordInfo is null"),
    ],
)
def test_the_message_under_either_name(envelope: dict[str, Any], message: str) -> None:
    """The explanation is found as msg and as message, whichever is there."""
    assert read({"code": 422, **envelope}).error == f"The upstream answered 422: {message}"


def test_a_long_message_is_cut() -> None:
    """A remote text does not grow the database without bound."""
    assert len(str(read({"code": 500, "msg": "x" * 10_000}).error)) == 300
    assert len(str(read(b"\x00" * 100_000, 200).error)) <= 300


@pytest.mark.parametrize(
    ("hint", "header_s", "wait_s"),
    [
        (17, None, 17.0),
        (0.5, None, 0.5),
        ("17", None, 17.0),
        (0, None, 0.0),
        (None, None, None),
        (None, 30.0, 30.0),
        (17, 30.0, 30.0),
        (30, 17.0, 30.0),
        (-1, None, None),
        (-1, 5.0, 5.0),
        (True, None, None),
        ("soon", None, None),
        ([17], None, None),
        (3601, None, 3600.0),
        (1e308, None, 3600.0),
        (10**400, None, 3600.0),
        ("99999999999", None, 3600.0),
        ("9" * 5000, None, 3600.0),
        (1.5, None, 1.5),
        ("1.5", 1.0, 1.5),
        (" 17 ", None, 17.0),
        ("-1", 2.0, 2.0),
        (None, float("inf"), 3600.0),
    ],
)
def test_how_long_a_429_asks_to_wait(hint: object, header_s: float | None, wait_s: float | None) -> None:
    """The wait stands in the body, a header counts too, the longer one holds, and neither stops us for over an hour."""
    data = {"retryAfter": hint, "limit": 180, "tier": "basic", "windowSeconds": 60}
    for status in (429, 200):
        result = read({"code": 429, "msg": "slow down", "data": data}, status, header_s)
        assert (result.kind, result.retry_after_s) == (PollKind.THROTTLED, wait_s)


@pytest.mark.parametrize(
    ("hint", "header_s", "wait_s"), [(None, None, None), (None, 7.0, 7.0), (9, 7.0, 9.0), (None, 1e9, 3600.0)]
)
def test_how_long_a_running_answer_asks_to_wait(hint: object, header_s: float | None, wait_s: float | None) -> None:
    """A task that runs may ask to be left alone like one that is throttled, for an hour at most."""
    body = {"code": 200, "msg": "success", "data": {"taskId": TASK, "state": "waiting", "retryAfter": hint}}
    result = read(body, 200, header_s)
    assert (result.kind, result.error, result.retry_after_s) == (PollKind.RUNNING, None, wait_s)


def test_a_429_without_a_body_keeps_its_header() -> None:
    """A gateway in front of the upstream may answer 429 in HTML: its header still counts."""
    result = read(b"<html>429</html>", 429, 12.0)
    assert (result.kind, result.retry_after_s) == (PollKind.THROTTLED, 12.0)
