"""What people read of callbacks and attempts on a terminal."""

from typing import Any

import pytest

from gateway.tables import attempt_table, callback_details, callback_table


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
    ):
        assert shown in text
        assert all(character.isprintable() or character == "\n" for character in text)
