"""A callback's time line: what it tells, in which order, and what comes next."""

from typing import Any

import msgspec
import pytest

from gateway.core.model import Attempt, AttemptResult, Callback, CallbackState, Format, Task, TaskState
from gateway.dashboard.facts import ModelFacts
from gateway.dashboard.timeline import LinePoint, _result_urls, moments

NOW = 1_777_460_000_000
TASK = Task(
    seq=1,
    upstream="up",
    task_id="task-1",
    state=TaskState.WAITING,
    polls=0,
    created_at=NOW,
    last_polled_at=None,
    next_poll_at=NOW + 3000,
    last_error=None,
)
CALLBACK = Callback(
    seq=1,
    id="cb_1",
    client="ann",
    url="https://app.example.com/hooks",
    metadata=b"{}",
    timeout_s=3600,
    format=Format.STANDARD,
    state=CallbackState.WAITING,
    created_at=NOW,
    expires_at=NOW + 3_600_000,
    attempts=0,
    next_attempt_at=None,
    delivered_at=None,
    last_error=None,
    task=TASK,
)


def callback(task: dict[str, Any] | None = None, **changes: Any) -> Callback:
    return msgspec.structs.replace(CALLBACK, task=msgspec.structs.replace(TASK, **(task or {})), **changes)


def attempt(number: int, at: int, result: AttemptResult, **changes: Any) -> Attempt:
    about = {"status_code": 503, "error": None, "excerpt": None, "duration_ms": 12} | changes
    return Attempt(number=number, started_at=at, result=result, **about)


def line(of: Callback, *attempts: Attempt, learned: ModelFacts | None = None) -> list[LinePoint]:
    return moments(of, attempts, learned, NOW, 10)


def test_a_new_one_waits_for_its_first_poll() -> None:
    """Registered, and then what comes next and when."""
    first, then = line(CALLBACK)
    assert (first.title, first.at) == ("Registered", NOW)
    assert "1 h" in first.text
    assert (then.title, then.at, then.look) == ("Next poll", NOW + 3000, "next")


def test_a_polled_one_tells_why_its_polls_lie_where_they_do() -> None:
    """By what was learned of such tasks, or that nothing was; or what the last poll failed with."""
    polled = {"polls": 3, "last_polled_at": NOW + 2000}
    known = ModelFacts("up", "model", "m", 40, 25.0, 61.0)
    _, told, _ = line(callback(polled), learned=known)
    assert told.title == "Polled 3 times"
    assert "half of them within 25 s, nine of ten within 1 min 1 s, as what is known of 40 tells" in told.text
    assert "Nothing is known yet" in line(callback(polled))[1].text
    failed = line(callback(polled | {"polls": 1, "last_error": "the upstream answered 502"}))[1]
    assert (failed.title, failed.text, failed.look) == ("Polled once", "the upstream answered 502", "warn")


def test_a_whole_life_stands_in_its_order() -> None:
    """Registered, polled, settled, each attempt with what came, and the next one."""
    settled = {"state": TaskState.SUCCESS, "polls": 4, "last_polled_at": NOW + 9000, "settled_at": NOW + 9000}
    of = callback(
        settled | {"next_poll_at": None}, state=CallbackState.PENDING, attempts=2, next_attempt_at=NOW + 60_000
    )
    tried = (
        attempt(1, NOW + 9100, AttemptResult.RETRY, excerpt="<h1>busy</h1>"),
        attempt(2, NOW + 14_000, AttemptResult.INTERRUPTED, status_code=None, error="the gateway shut down"),
    )
    told = line(of, *tried)
    assert [moment.title for moment in told] == [
        "Registered",
        "Polled 4 times",
        "The task ended: success",
        "Attempt 1: answered 503",
        "Attempt 2: no answer",
        "Attempt 3",
    ]
    assert [moment.look for moment in told] == ["", "", "good", "warn", "warn", "next"]
    assert told[2].text == "9.0 s after the registration."
    assert told[3].excerpt == "<h1>busy</h1>"
    assert told[4].text == ("The gateway shut down meanwhile, so it does not count, after 12 ms. the gateway shut down")
    assert told[5].at == NOW + 60_000
    assert "10 attempts" in told[5].text


@pytest.mark.parametrize(
    ("state", "words", "look"),
    [
        (CallbackState.DELIVERED, "it was delivered", "good"),
        (CallbackState.DEAD, "no attempt is left", "bad"),
        (CallbackState.CANCELLED, "it was cancelled", ""),
    ],
)
def test_what_has_ended_says_so(state: CallbackState, words: str, look: str) -> None:
    """Nothing comes next, and why."""
    last = line(callback({"state": TaskState.FAIL, "settled_at": NOW, "next_poll_at": None}, state=state))[-1]
    assert words in last.title
    assert (last.at, last.look) == (None, look)


def test_a_task_that_nobody_polls_is_told_of() -> None:
    """Its upstream has gone from the configuration: nothing will come by itself."""
    last = line(callback({"next_poll_at": None}))[-1]
    assert (last.title, last.look) == ("Nobody polls the task", "bad")


def test_a_task_that_had_ended_before_is_told_as_such() -> None:
    """Its webhook was owed at once."""
    before = {"state": TaskState.SUCCESS, "settled_at": NOW - 5000, "next_poll_at": None}
    told = line(callback(before, state=CallbackState.PENDING, next_attempt_at=NOW))
    assert [moment.title for moment in told] == ["The task ended: success", "Registered", "Attempt 1"]
    assert told[0].text == "It had ended before the registration."


@pytest.mark.parametrize(
    ("outcome", "urls"),
    [
        (None, []),
        (b"no json", []),
        (b"[]", []),
        (b'{"result": null}', []),
        (b'{"result": {"resultUrls": "https://a.example.com"}}', []),
        (
            b'{"result": {"resultUrls": ["https://a.example.com", 7, null, "javascript:x"]}}',
            ["https://a.example.com", "javascript:x"],
        ),
    ],
)
def test_results_are_named_as_the_upstream_wrote_them(outcome: bytes | None, urls: list[str]) -> None:
    """Whatever shape it has; whether one may be followed is for the page."""
    assert _result_urls(outcome) == urls
