"""What people read of callbacks and attempts on a terminal."""

import json
from typing import Any

import pytest

from gateway.cli.tables import attempt_table, callback_details, callback_table
from gateway.core.clock import from_iso
from gateway.core.terminal import display_width

NOW = from_iso("2026-11-23T10:00:00.000Z")
SOME_REFUSED = "accepts the key and refuses some of the tasks"
REASONS = ["the upstream kie refuses the key", f"the upstream luma {SOME_REFUSED}", "the store is failing"]


def callback(**changes: Any) -> dict[str, Any]:
    return {
        "id": "cb_1",
        "taskId": "task_1",
        "callbackUrl": "https://app.example.com/hooks",
        "metadata": {},
        "timeoutSeconds": 3600,
        "upstream": "aigptimage",
        "state": "waiting",
        "createdAt": "2026-11-23T10:00:00.000Z",
        "expiresAt": "2026-11-23T11:00:00.000Z",
        "attempts": 0,
        "nextAttemptAt": None,
        "deliveredAt": None,
        "lastError": None,
        "task": {
            "state": "waiting",
            "polls": 3,
            "lastPolledAt": "2026-11-23T10:00:05.000Z",
            "nextPollAt": "2026-11-23T10:00:09.000Z",
            "lastError": None,
        },
        **changes,
    }


def attempt(**changes: Any) -> dict[str, Any]:
    return {
        "number": 1,
        "startedAt": "2026-11-23T10:00:00.000Z",
        "durationMs": 12,
        "statusCode": 503,
        "error": None,
        "result": "retry",
        "excerpt": None,
        **changes,
    }


def test_callbacks_stand_in_columns() -> None:
    """Every column starts below its heading, whatever the length of what stands in it, and no line ends in spaces."""
    rows = [
        callback(),
        callback(id="cb_a_longer_one", taskId="t", state="dead", attempts=10, lastError="refused"),
    ]
    heading, *lines = callback_table(rows).splitlines()
    assert heading.split() == ["ID", "TASK", "STATE", "ATTEMPTS", "CREATED", "URL", "LAST", "ERROR"]
    for line, row in zip(lines, rows, strict=True):
        for name, member in {
            "ID": "id",
            "TASK": "taskId",
            "STATE": "state",
            "ATTEMPTS": "attempts",
            "CREATED": "createdAt",
            "URL": "callbackUrl",
            "LAST ERROR": "lastError",
        }.items():
            value = "" if row[member] is None else str(row[member])
            assert (line[heading.index(name) :] + "  ").startswith(value + "  ")
            assert heading.index(name) == 0 or line[heading.index(name) - 2 : heading.index(name)].strip() == ""
        assert line == line.rstrip()


def test_no_callbacks_leave_the_headings() -> None:
    """An empty list is a line of headings, not an error."""
    assert callback_table([]) == "ID  TASK  STATE  ATTEMPTS  CREATED  URL  LAST ERROR"
    assert attempt_table([]) == "#  STARTED  TOOK  RESULT  STATUS  ERROR"


def test_attempts_stand_in_columns() -> None:
    """An attempt shows its duration with the unit, and nothing where there was no answer or no error."""
    table = attempt_table(
        [
            attempt(),
            attempt(number=2, durationMs=15000, statusCode=None, error="timed out"),
            attempt(number=3, statusCode=200, result="delivered"),
        ]
    )
    assert table.splitlines() == [
        "#  STARTED                   TOOK      RESULT     STATUS  ERROR",
        "1  2026-11-23T10:00:00.000Z  12 ms     retry      503",
        "2  2026-11-23T10:00:00.000Z  15000 ms  retry              timed out",
        "3  2026-11-23T10:00:00.000Z  12 ms     delivered  200",
    ]


def test_the_answer_stands_below_its_attempt() -> None:
    """How a receiver's answer began is one line under the attempt it belongs to, cut where it is long."""
    table = attempt_table([attempt(excerpt="<h1>Sorry</h1>\nbusy"), attempt(number=2, excerpt="x" * 1024), attempt()])
    assert table.splitlines()[2:5:2] == [r"   answer: <h1>Sorry</h1>\nbusy", f"   answer: {'x' * 99}…"]
    assert len(table.splitlines()) == 6


def test_details_show_what_has_a_value() -> None:
    """Every member with a value has its line, zero included; what is null or empty has none."""
    shown = dict(line.split(None, 1) for line in callback_details(callback()).splitlines())
    assert shown == {
        "id": "cb_1",
        "taskId": "task_1",
        "callbackUrl": "https://app.example.com/hooks",
        "timeoutSeconds": "3600",
        "upstream": "aigptimage",
        "state": "waiting",
        "createdAt": "2026-11-23T10:00:00.000Z",
        "expiresAt": "2026-11-23T11:00:00.000Z",
        "attempts": "0",
        "task": "waiting, 3 polls",
        "task.nextPollAt": "2026-11-23T10:00:09.000Z",
    }


def test_details_end_with_the_task() -> None:
    """The task's lines come last, and all values start in one column."""
    task = {"state": "waiting", "polls": 1, "lastPolledAt": None, "nextPollAt": None, "lastError": "answered 500"}
    lines = callback_details(callback(metadata={"orderId": 7}, lastError="refused", task=task)).splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["task", "task.lastError"]
    width = len("timeoutSeconds")
    assert all(line[width : width + 2] == "  " and line[width + 2] != " " for line in lines)


@pytest.mark.parametrize(
    ("remote", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", r"\x1b[2J\x1b]0;owned\x07"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("left\u202eright", r"left\u202eright"),
        ("caf\u00e9 \u56fe", "caf\u00e9 \u56fe"),
        ("\ud800", r"\ud800"),
        (r"C:\n", r"C:\n"),
    ],
)
def test_remote_text_cannot_steer_the_terminal(remote: str, shown: str) -> None:
    """What others wrote is shown with its control characters escaped, and other scripts stay readable."""
    for text in (
        callback_table([callback(lastError=remote)]),
        attempt_table([attempt(error=remote)]),
        attempt_table([attempt(excerpt=remote)]),
        callback_details(callback(lastError=remote)),
        callback_details(callback(**{remote: 1})),
    ):
        assert shown in text
        assert all(character.isprintable() or character == "\n" for character in text)


def waiting(**task: Any) -> dict[str, Any]:
    return callback(task={**callback()["task"], **task})


def column(rows: list[dict[str, Any]], heading: str, **options: Any) -> list[str]:
    """Return what stands below a heading, up to the next column."""
    first, *lines = callback_table(rows, **options).splitlines()
    start = first.index(heading)
    following = first[start + len(heading) :]
    end = start + len(heading) + len(following) - len(following.lstrip()) if following.strip() else None
    return [line[start:end].strip() for line in lines]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (callback(), "poll in 9 s"),
        (waiting(nextPollAt="2026-11-23T10:00:00.400Z"), "poll now"),
        (waiting(nextPollAt="2026-11-23T09:58:00.000Z"), "poll due for 2 min"),
        (waiting(nextPollAt=None), ""),
        (callback(state="pending", nextAttemptAt="2026-11-23T10:05:00.000Z"), "attempt in 5 min"),
        (callback(state="pending", nextAttemptAt="2026-11-23T10:01:29.000Z"), "attempt in 89 s"),
        (callback(state="pending", nextAttemptAt="2026-11-23T20:00:00.000Z"), "attempt in 10 h"),
        (callback(state="pending", nextAttemptAt="2026-11-26T10:00:00.000Z"), "attempt in 3 days"),
        (callback(state="delivered"), ""),
        (callback(state="cancelled"), ""),
    ],
)
def test_the_next_step_is_told_in_words(made: dict[str, Any], words: str) -> None:
    """A waiting callback has a next poll, a pending one a next attempt, and others nothing that comes."""
    assert column([made], "NEXT", now=NOW) == [words]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (callback(), ""),
        (waiting(lastError="The upstream answered 500: no"), "The upstream answered 500: no"),
        (callback(upstream="kie"), "kie refuses the key"),
        ({**waiting(lastError="answered 401"), "upstream": "kie"}, "kie refuses the key"),
        (callback(upstream="ki"), ""),
        (callback(upstream="luma"), ""),
        ({**waiting(lastError="answered 403: no"), "upstream": "luma"}, "answered 403: no"),
        (callback(state="pending", upstream="kie", lastError="refused"), "refused"),
        ({**waiting(lastError="late"), "state": "dead", "lastError": "answered 500"}, "answered 500"),
        ({**waiting(lastError="late"), "state": "cancelled"}, ""),
    ],
)
def test_the_list_says_why_a_callback_waits(made: dict[str, Any], why: str) -> None:
    """The refused key that holds up all, else the task's own last error; once the webhook is owed, its own."""
    assert column([made], "LAST ERROR", reasons=REASONS) == [why]


def test_details_say_when_and_why() -> None:
    """Instants that are still to come are told in words too, and the upstream with what is wrong with it."""
    made = waiting(lastError="answered 401") | {"upstream": "kie"}
    lines = dict(line.split(maxsplit=1) for line in callback_details(made, now=NOW, reasons=REASONS).splitlines())
    assert lines["upstream"] == "kie (refuses the key)"
    assert lines["task.nextPollAt"] == "2026-11-23T10:00:09.000Z (in 9 s)"
    assert lines["expiresAt"] == "2026-11-23T11:00:00.000Z (in 60 min)"
    assert lines["task.lastError"] == "answered 401"
    made["upstream"] = "luma"  # which refuses some tasks: maybe not this one
    lines = dict(line.split(maxsplit=1) for line in callback_details(made, now=NOW, reasons=REASONS).splitlines())
    assert lines["upstream"] == "luma"
    owed = callback(state="pending", nextAttemptAt="2026-11-23T10:05:00.000Z", lastError="answered 503")
    lines = dict(line.split(maxsplit=1) for line in callback_details(owed, now=NOW, reasons=REASONS).splitlines())
    assert lines["nextAttemptAt"] == "2026-11-23T10:05:00.000Z (in 5 min)"
    assert (lines["lastError"], lines["expiresAt"]) == ("answered 503", "2026-11-23T11:00:00.000Z")


@pytest.mark.parametrize(
    "metadata", [{"a": [1, None, True, {"b": "x y"}]}, {"é": "\u56fe"}, {"e": "\x1b[2J\n\u202e\x9b\ud800"}]
)
def test_metadata_is_json(metadata: dict[str, Any]) -> None:
    """It can be pasted into a register, and steers no terminal."""
    (line,) = (line for line in callback_details(callback(metadata=metadata)).splitlines() if "metadata" in line)
    assert json.loads(line.removeprefix("metadata")) == metadata
    assert line.isprintable()


def test_an_operators_list_names_the_clients() -> None:
    """Only then is there a column for them."""
    rows = [callback(client="shop"), callback(client="default")]
    assert column(rows, "CLIENT") == ["shop", "default"]
    assert "CLIENT" not in callback_table([callback()])


LONG = callback(
    taskId="task_" + "t" * 250,
    callbackUrl="https://app.example.com/" + "u" * 2000,
    task={**callback()["task"], "lastError": "\u56fe\u50cf" * 100},
)


@pytest.mark.parametrize("width", [1, 40, 80, 100, 120, 160, 250])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Long texts are cut; what a narrow terminal has no room for is left out; the id stays whole where it can."""
    lines = callback_table([LONG, callback(), callback(client="shop")], now=NOW, width=width).splitlines()
    lines += attempt_table([attempt(error="e" * 300, excerpt="x" * 300)], width=width).splitlines()
    assert max(map(display_width, lines)) <= width
    if width >= 80:
        for shown in ("cb_1", "waiting", "poll in 9 s", "\u56fe\u50cf", "retry", "eee"):
            assert any(shown in line for line in lines)


def test_a_wide_terminal_and_a_pipe_lose_nothing() -> None:
    """Without a width everything is there, however long; with one large enough it is the same."""
    whole = callback_table([LONG], now=NOW)
    assert callback_table([LONG], now=NOW, width=10_000) == whole
    for member in ("taskId", "callbackUrl", "createdAt"):
        assert LONG[member] in whole
    assert "\u56fe\u50cf" * 100 in whole


def test_columns_stand_straight_whatever_is_in_them() -> None:
    """Wide characters and combining ones count as the screen shows them."""
    rows = [callback(client=name) for name in ("shop", "\u56fe\u50cf", "cafe\u0301", "\U0001f600")]
    heading, *lines = callback_table(rows).splitlines()
    at = display_width(heading[: heading.index("TASK")])
    assert {display_width(line[: line.index("task_1")]) for line in lines} == {at}
