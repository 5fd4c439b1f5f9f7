"""The manual's tables of metrics and of log events, held against the code: operators build alarms on them."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.telemetry import Metrics
from tests.manual import ROOT, page

PAGE = page("telemetry")
LEVELS = ("debug", "info", "warning", "error")
OTHERS = ("exception", "log")

# Metrics


def metric_rows() -> list[str]:
    """Return a row for each metric that /metrics shows."""
    metrics = Metrics()
    labels = {
        metric._name: "".join(f", `{label}`" for label in metric._labelnames).removeprefix(", ")
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames")
    } | {"gateway_build_info": "`version`, `python`"}
    text = metrics.render().decode()
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    return [
        f"| `{name}` | {kind} | {labels.get(name.removesuffix('_total'), '')} | {helps[name]} |"
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    ]


@pytest.mark.parametrize("row", metric_rows())
def test_a_metric_stands_in_the_manual(row: str) -> None:
    """With its type, its labels and its meaning, as /metrics tells them."""
    assert row in PAGE.splitlines(), f"telemetry.md, Metrics: add\n{row}"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the process's metrics are read from /proc")
def test_the_manual_names_no_other_metric() -> None:
    """Nothing is told that /metrics does not show."""
    named = {line for line in PAGE.splitlines() if re.match(r"\| `(gateway|process)_[a-z_]+` \|", line)}
    assert named == set(metric_rows())


def test_every_metric_is_recognisable() -> None:
    """The gateway's by its prefix, the process's by the one that they have everywhere."""
    names = [row.split("`")[1] for row in metric_rows()]
    assert "gateway_callbacks_pending" in names
    assert all(name.startswith(("gateway_", "process_")) for name in names)


# Log events


def fields(call: ast.Call, module: ast.Module) -> Iterator[str]:
    """Yield the fields of a call that logs; those of a dict too that is made in the same module."""
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield "exception" if keyword.arg == "exc_info" else keyword.arg
            continue
        spread = keyword.value
        name = ast.unparse(spread.func if isinstance(spread, ast.Call) else spread)
        made = [
            node.value
            for scope in ast.walk(module)
            if not isinstance(scope, ast.FunctionDef) or scope.name == name or isinstance(spread, ast.Name)
            for node in ast.walk(scope)
            if (isinstance(node, ast.Return) and getattr(scope, "name", None) == name)
            or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name)
        ]
        keys = {
            key.value for value in made for part in ast.walk(value) if isinstance(part, ast.Dict) for key in part.keys
        }
        assert keys, f"which fields are in **{ast.unparse(spread)}?"
        yield from ("exception" if key == "exc_info" else key for key in keys)


def levels(call: ast.Call) -> set[str]:
    method = call.func.attr
    if method != "log":
        return {"error" if method == "exception" else method}
    named = {word.lower() for word in re.findall(r"logging\.(DEBUG|INFO|WARNING|ERROR)", ast.unparse(call.args[0]))}
    return named or set(LEVELS[2:])  # as the library says: from warnings up


def events() -> dict[str, tuple[set[str], set[str]]]:
    """Return the levels and the fields of each event that the package logs."""
    found: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for path in (ROOT / "gateway").rglob("*.py"):
        module = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_log(node.func.value):
                name = node.args[1 if node.func.attr == "log" else 0]
                assert isinstance(name, ast.Constant), f"{path.name}: {ast.unparse(node)}: the event's name is no text"
                found[name.value][0].update(levels(node))
                found[name.value][1].update(fields(node, module))
                if node.func.attr == "exception":
                    found[name.value][1].add("exception")
    return found


def is_log(node: Any) -> bool:
    return isinstance(node, ast.Name) and node.id == "_log"


EVENTS = events()
ROWS = {
    event: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", fields)), meaning)
    for event, levels, fields, meaning in re.findall(
        r"^\| `([a-z_]+\.[a-z_]+)` \| ([a-z, ]+) \| (.*?) \| (.+) \|$", PAGE, re.MULTILINE
    )
}


@pytest.mark.parametrize("event", sorted(EVENTS.keys() | ROWS.keys()))
def test_an_event_stands_in_the_manual(event: str) -> None:
    """With the levels and the fields that the code gives it, and with a meaning; no other event does."""
    its_levels, its_fields = EVENTS[event] if event in EVENTS else pytest.fail(f"nothing logs {event}")
    shown = ", ".join(f"`{field}`" for field in sorted(its_fields))
    row = f"| `{event}` | {', '.join(sorted(its_levels, key=LEVELS.index))} | {shown} | … |"
    assert event in ROWS, f"telemetry.md, Log events: add\n{row}"
    assert ROWS[event][:2] == (its_levels, its_fields), f"telemetry.md, Log events: it is\n{row}"


@pytest.mark.parametrize("path", sorted((ROOT / "gateway").rglob("*.py")), ids=lambda path: path.stem)
def test_no_event_is_logged_unseen(path: Path) -> None:
    """A logger has the one name that is looked for, and is called where it is named: no alias hides an event."""
    module = ast.parse(path.read_text("utf-8"))
    calls = {
        id(node.func.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in (*LEVELS, *OTHERS)
    }
    loggers = [node for node in ast.walk(module) if is_log(node) and isinstance(node.ctx, ast.Load)]
    assert not [node.lineno for node in loggers if id(node) not in calls]
    made = [node for node in ast.walk(module) if isinstance(node, ast.Call) and "get_logger" in ast.unparse(node.func)]
    named = [node.value for node in ast.walk(module) if isinstance(node, ast.Assign) and is_log(node.targets[0])]
    assert made == named


def test_events_are_found() -> None:
    """The source is read at all, dicts that are spread included."""
    assert {"callback_id", "task_id", "client", "receiver", "result"} <= EVENTS["attempt.finished"][1]
    assert EVENTS["attempt.finished"][0] == {"info", "warning"}
    assert {"task_id", "upstream", "next_in_s"} <= EVENTS["proxy.registration_failed"][1]
