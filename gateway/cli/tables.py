"""What the commands print of callbacks and attempts for people: aligned plain text, remote text with escapes.

On a terminal a table is as wide as that at most; elsewhere nothing is cut.
"""

import json
from collections.abc import Sequence
from typing import Any

from gateway.core.clock import from_iso
from gateway.core.terminal import cut, display_width, printable

_ANSWER_INDENT = "   answer: "
_ANSWER_WIDTH = 100
_GAP = "  "
_MIN_WIDTH = 12
"""A column that is cut keeps this much: enough to tell two errors apart."""
_CUT = ("CLIENT", "TASK", "URL", "LAST ERROR", "ERROR", "UPSTREAM", "RECEIVER IN TROUBLE")
_KEY_REFUSED = "refuses the key"
"""Of what the gateway says of an upstream, the one thing that keeps every task of it waiting."""
_LEFT_OUT = ("CREATED", "ATTEMPTS", "URL", "STARTED")
"""What a narrow terminal does not show, in this order; the id leads to all of it."""


def callback_table(
    callbacks: Sequence[dict[str, Any]],
    *,
    now: int | None = None,
    reasons: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """Return one line for each callback, below a line of headings.

    ``now``: say what each one's next poll or attempt is, counted from then. ``reasons``: what the gateway says of its
    upstreams. ``width``: of the terminal; None cuts nothing.
    """
    columns: dict[str, list[Any]] = {"ID": [c["id"] for c in callbacks]}
    if any("client" in c for c in callbacks):  # an operator's list
        columns["CLIENT"] = [c.get("client") for c in callbacks]
    columns["TASK"] = [c["taskId"] for c in callbacks]
    columns["STATE"] = [c["state"] for c in callbacks]
    columns["ATTEMPTS"] = [c["attempts"] for c in callbacks]
    columns["CREATED"] = [c["createdAt"] for c in callbacks]
    if now is not None:
        columns["NEXT"] = [waits_for(c, now) for c in callbacks]
    columns["URL"] = [c["callbackUrl"] for c in callbacks]
    columns["LAST ERROR"] = [_why(c, reasons) for c in callbacks]
    return "\n".join(table(columns, width))


def attempt_table(attempts: Sequence[dict[str, Any]], *, width: int | None = None) -> str:
    """Return one line for each attempt, below a line of headings; under it, how the answer began where that is kept."""
    columns = {
        "#": [a["number"] for a in attempts],
        "STARTED": [a["startedAt"] for a in attempts],
        "TOOK": [f"{a['durationMs']} ms" for a in attempts],
        "RESULT": [a["result"] for a in attempts],
        "STATUS": [a["statusCode"] for a in attempts],
        "ERROR": [a["error"] for a in attempts],
    }
    heading, *lines = table(columns, width)
    shown = [heading]
    for line, attempt in zip(lines, attempts, strict=True):
        shown.append(line)
        if attempt["excerpt"]:
            answer = _ANSWER_INDENT + cut(printable(attempt["excerpt"]), _ANSWER_WIDTH)
            shown.append(answer if width is None else cut(answer, width))
    return "\n".join(shown)


def callback_details(callback: dict[str, Any], *, now: int | None = None, reasons: Sequence[str] = ()) -> str:
    """Return one line for each member of a callback that has a value, its task's last.

    ``now``: say how far from then its next poll or attempt and its end are. ``reasons``: what the gateway says of its
    upstreams. Nothing is cut: a URL is there to be copied.
    """
    task = callback["task"]
    pairs = {
        **{name: value for name, value in callback.items() if name != "task"},
        "task": f"{task['state']}, {task['polls']} polls",
        "task.nextPollAt": task["nextPollAt"],
        "task.lastError": task["lastError"],
    }
    shown = {printable(name): _text(value) for name, value in pairs.items() if value is not None and value != {}}
    if (reason := _reason(callback, reasons)) is not None:
        shown["upstream"] = printable(f"{callback['upstream']} ({reason})")
    instants = ["nextAttemptAt", "task.nextPollAt"] + ["expiresAt"] * (callback["state"] == "waiting")
    for name in instants:
        if now is not None and name in shown:
            shown[name] += f" ({distance(pairs[name], now)})"
    longest = max(map(len, shown))
    return "\n".join(f"{name:<{longest}}{_GAP}{value}" for name, value in shown.items())


def waits_for(callback: dict[str, Any], now: int) -> str:
    """Say what a callback waits for, in words; nothing where it waits no more."""
    if callback["nextAttemptAt"] is not None:
        return f"attempt {distance(callback['nextAttemptAt'], now)}"
    polled_at = callback["task"]["nextPollAt"]
    return f"poll {distance(polled_at, now)}" if callback["state"] == "waiting" and polled_at is not None else ""


def _why(callback: dict[str, Any], reasons: Sequence[str]) -> str | None:
    """Say what went wrong last: with the webhook, or while there is none with its upstream or its task."""
    if (reason := _reason(callback, reasons)) is not None:
        return f"{callback['upstream']} {reason}"
    error: str | None = callback["lastError"]
    return callback["task"]["lastError"] if error is None and callback["state"] == "waiting" else error


def _reason(callback: dict[str, Any], reasons: Sequence[str]) -> str | None:
    """Return why no task of the upstream that a callback waits for is asked about; None where that is not so.

    What else is said of an upstream may be about some of its tasks: those have it as their own last error.
    """
    if callback["state"] != "waiting" or f"the upstream {callback['upstream']} {_KEY_REFUSED}" not in reasons:
        return None
    return _KEY_REFUSED


def distance(instant: str, now: int) -> str:
    """Return how far from now an instant is: ``in 5 s``, ``due for 2 min``."""
    seconds = (from_iso(instant) - now) / 1000
    if -1 < seconds < 1:
        return "now"
    return f"in {duration(seconds)}" if seconds > 0 else f"due for {duration(-seconds)}"


def duration(seconds: float) -> str:
    """Return a span as people say it: ``90 s``, ``12 min``."""
    for length, unit, until in ((1, "s", 90), (60, "min", 90), (3600, "h", 36)):
        if round(seconds / length) < until:
            return f"{round(seconds / length)} {unit}"
    return f"{round(seconds / 86_400)} days"


def table(columns: dict[str, list[Any]], width: int | None) -> list[str]:
    """Return the lines, headings first, none wider than ``width``."""
    cells = {
        heading: [heading, *("" if value is None else _text(value) for value in values)]
        for heading, values in columns.items()
    }
    widths = {heading: max(map(display_width, column)) for heading, column in cells.items()}
    if width is not None:
        _fit(widths, width)
    lines = [
        _GAP.join(_padded(cell, size) for cell, size in zip(row, widths.values(), strict=True)).rstrip()
        for row in zip(*(cells[heading] for heading in widths), strict=True)
    ]
    return lines if width is None else [cut(line, width) for line in lines]


def _fit(widths: dict[str, int], width: int) -> None:
    """Make the columns fit as far as possible: leave some out where all at their least do not, then cut the widest."""

    def over(least: bool) -> int:
        sizes = [min(size, _MIN_WIDTH) if least and heading in _CUT else size for heading, size in widths.items()]
        return sum(sizes) + len(_GAP) * (len(sizes) - 1) - width

    for heading in _LEFT_OUT:
        if over(least=True) > 0:
            widths.pop(heading, None)
    while over(least=False) > 0:
        widest = max((heading for heading in _CUT if heading in widths), key=widths.__getitem__)
        if widths[widest] <= _MIN_WIDTH:
            break
        widths[widest] -= 1


def _padded(cell: str, size: int) -> str:
    cell = cut(cell, size)
    return cell + " " * (size - display_width(cell))


def _text(value: Any) -> str:
    """Return a member's value as one printable line: objects and lists as JSON, which can be pasted again."""
    if not isinstance(value, dict | list):
        return printable(str(value))
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)
