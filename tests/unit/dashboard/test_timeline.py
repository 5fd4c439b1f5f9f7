"""A callback's time line: what it tells, in which order, and what comes next."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from gateway.core.model import Attempt, AttemptResult, Callback, CallbackState, TaskState
from gateway.core.pollhistory import PastPoll, Why
from gateway.dashboard.facts import ModelFacts, Paused
from gateway.dashboard.polls import drawn
from gateway.dashboard.timeline import LinePoint, _how_it_ended, _result_urls, moments
from tests import nouns
from tests.nouns import NOW

TASK = nouns.task(next_poll_at=NOW + 3000)
CALLBACK = nouns.callback(task=TASK)


def callback(task: dict[str, Any] | None = None, **changes: Any) -> Callback:
    return msgspec.structs.replace(CALLBACK, task=msgspec.structs.replace(TASK, **(task or {})), **changes)


def attempt(number: int, at: int, result: AttemptResult, **changes: Any) -> Attempt:
    about = {"status_code": 503, "error": None, "excerpt": None, "duration_ms": 12} | changes
    return Attempt(number=number, started_at=at, result=result, **about)


def line(
    of: Callback,
    *attempts: Attempt,
    learned: ModelFacts | None = None,
    polls: Sequence[PastPoll] = (),
    paused: Paused | None = None,
) -> list[LinePoint]:
    return moments(of, attempts, polls, learned, paused, 10)


def test_a_new_one_waits_for_its_first_poll() -> None:
    """Registered, and then what comes next and when."""
    first, then = line(CALLBACK)
    assert (first.title, first.at) == ("Registered", NOW)
    assert "1 h" in first.text
    assert (then.title, then.at, then.look) == ("Next poll", NOW + 3000, "next")


def test_what_the_end_says_and_why_a_poll_is_late_come_first() -> None:
    """So that the link to what it means stands beside its own words."""
    ended = callback({"state": TaskState.ABANDONED, "settled_at": NOW + 9000}, state=CallbackState.PENDING)
    _, end, _ = moments(ended, [], [], None, None, 10, told_of_end="The upstream does not know it.")
    assert end.text == "The upstream does not know it. 9.0 s after the registration."
    *_, then = moments(CALLBACK, [], [], None, None, 10, held_up="It waits for its turn: no.")
    assert then.text.startswith("It waits for its turn: no. The webhook goes out")


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (None, ""),
        (b'{"state": "fail", "failCode": null, "failMsg": null}', ""),
        (b'{"state": "fail", "failCode": 501, "failMsg": "No cats"}', "It says '501: No cats'."),
        (b'{"state": "fail", "failMsg": "' + b"x" * 9999 + b'"}', f"It says '{'x' * 300}'."),
        (b'{"state": "fail", "failMsg": ["odd"]}', ""),
        (b"[]", ""),
        (b"no JSON", ""),
    ],
)
def test_with_which_words_a_task_failed(outcome: bytes | None, says: str) -> None:
    """The upstream's own, as far as a line holds them; whatever it wrote in their place."""
    assert _how_it_ended(TaskState.FAIL, outcome) == says


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


def test_each_poll_tells_what_came_and_why_it_was_made_then() -> None:
    """What the one before had planned, and what held it up; the last one the error's own words; then the next one."""
    polls = [
        PastPoll(0, "registered", 5000, Why.FIRST, 0),
        PastPoll(5000, "running", 3000, Why.LEARNED, 0),
        PastPoll(12_000, "unreachable", 2000, Why.BACKOFF, 0),
    ]
    polled = callback({"polls": 2, "last_polled_at": NOW + 12_000, "last_error": "no answer within 15 s"})
    found = line(polled, polls=polls)
    assert [(one.title, one.at, one.look) for one in found[1:]] == [
        ("Poll 1: still running", NOW + 5000, "poll"),
        ("Poll 2: no answer", NOW + 12_000, "warn"),
        ("Next poll", NOW + 3000, "next"),
    ]
    assert found[1].text == "The first one was due 5.0 s after the task came: when it begins to pay."
    assert found[2].text == (
        "no answer within 15 s Due 3.0 s after the one before: where such tasks end, by what was learned. "
        "It was made 4.0 s later: its turn in the key's rate limit came then, or the gateway "
        "was busy or stopped."
    )
    assert found[3].text.startswith("The one before had brought nothing: twice as long each time. The webhook goes out")


def test_polls_that_are_not_kept_are_counted() -> None:
    """In their place; what lies after them tells no reason that rests on one that is not there."""
    polls = [
        PastPoll(0, "registered", 0, Why.FIRST, 0),
        PastPoll(100, "running", 3000, Why.EXPLORING, 0),
        PastPoll(90_000, "running", 9000, Why.OUTLIVED, 40),
        PastPoll(95_000, "terminal", 0, Why.ENDED, 0),
    ]
    ended = {"state": TaskState.SUCCESS, "polls": 43, "last_polled_at": NOW + 95_000, "settled_at": NOW + 95_000}
    found = line(callback(ended | {"next_poll_at": None}), polls=polls)[1:]
    assert [one.title for one in found[:4]] == [
        "Poll 1: still running",
        "40 more polls",
        "Poll 42: still running",
        "Poll 43: it had ended",
    ]
    assert (found[0].text, found[2].text) == ("Due at once: what it is, its first answer tells.", "")
    assert found[3].text.endswith("It was made 4.0 s earlier: there was news of the task, or a time was over.")


def test_the_curve_has_the_polls_on_it() -> None:
    """By the task's age; the curve climbs to the right, and all of it lies within the picture."""
    learned = ModelFacts("up", "model", "m", 40, 10.0, 20.0, (0.0, 10.0, 20.0, 400.0), (1.0, 0.5, 0.1, 1e-9))
    polls = [
        PastPoll(0, "registered", 0, Why.FIRST, 0),
        PastPoll(5000, "running", 5000, Why.LEARNED, 0),
        PastPoll(10_000, "broken", 2000, Why.BACKOFF, 0),
    ]
    picture = drawn(msgspec.structs.replace(TASK, next_poll_at=NOW + 12_500), polls, learned)
    assert picture.outline == "0.0,96.0 240.0,48.0 480.0,9.6"
    assert [(tick.x, tick.good) for tick in picture.ticks] == [(120.0, True), (240.0, False)]
    assert (picture.next_x, picture.end_x) == (300.0, None)
    assert [text for _, text in picture.marks] == ["0 ms", "6.2 s", "12 s", "19 s"]


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
    assert told[4].text == (
        "It was not the receiver's doing, so it does not count. It took 12 ms. the gateway shut down"
    )
    assert told[5].at == NOW + 60_000
    assert "10 attempts" in told[5].text


def test_attempts_that_are_not_kept_are_told_of() -> None:
    """How many are left out between two that did not count; and where only the last ones are read, before them."""
    of = callback({"state": TaskState.SUCCESS, "settled_at": NOW}, state=CallbackState.PENDING, attempts=1203)
    numbers = [1, 2, 1202, 1203]
    tried = [attempt(number, NOW + number, AttemptResult.INTERRUPTED) for number in numbers]
    told = {moment.title: moment.text for moment in line(of, *tried)}
    left_out = [told[f"Attempt {number}: answered 503"].partition("12 ms.")[2] for number in numbers]
    assert left_out == ["", "", " The 1,199 before it came to the same.", ""]
    (_, first, *_) = line(of, *tried[2:])[1:]
    assert first.text.endswith("The 1,201 before it are not shown.")


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
