"""What the commands print of callbacks and attempts for people: aligned plain text.

Owns no data; remote text is shown with its control characters escaped. Called by ``cli``.
"""

from collections.abc import Sequence
from typing import Any

__all__ = ["attempt_table", "callback_details", "callback_table"]

_ANSWER_INDENT = "   answer: "
_ANSWER_WIDTH = 100


def callback_table(callbacks: Sequence[dict[str, Any]]) -> str:
    """Return one line for each callback, below a line of headings."""
    rows = [
        (c["id"], c["taskId"], c["state"], c["attempts"], c["createdAt"], c["callbackUrl"], c["lastError"] or "")
        for c in callbacks
    ]
    return _table(("ID", "TASK", "STATE", "ATTEMPTS", "CREATED", "URL", "LAST ERROR"), rows)


def attempt_table(attempts: Sequence[dict[str, Any]]) -> str:
    """Return one line for each attempt, below a line of headings; under it, how the answer began where that is kept."""
    rows = [
        (a["number"], a["startedAt"], f"{a['durationMs']} ms", a["result"], a["statusCode"] or "", a["error"] or "")
        for a in attempts
    ]
    heading, *lines = _table(("#", "STARTED", "TOOK", "RESULT", "STATUS", "ERROR"), rows).split("\n")
    shown = [heading]
    for line, attempt in zip(lines, attempts, strict=True):
        shown.append(line)
        if attempt["excerpt"]:
            shown.append(f"{_ANSWER_INDENT}{_cut(_plain(attempt['excerpt']))}")
    return "\n".join(shown)


def callback_details(callback: dict[str, Any]) -> str:
    """Return one line for each member of a callback that has a value, its task's last."""
    task = callback["task"]
    pairs = {
        **{name: value for name, value in callback.items() if name != "task"},
        "task": f"{task['state']}, {task['polls']} polls",
        "task.nextPollAt": task["nextPollAt"],
        "task.lastError": task["lastError"],
    }
    shown = {name: value for name, value in pairs.items() if value is not None and value != {}}
    width = max(map(len, shown))
    return "\n".join(f"{name:<{width}}  {_plain(value)}" for name, value in shown.items())


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [tuple(headings), *(tuple(map(_plain, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cut(text: str) -> str:
    return text if len(text) <= _ANSWER_WIDTH else text[: _ANSWER_WIDTH - 1] + "…"


def _plain(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
