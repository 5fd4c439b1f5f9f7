"""The manual's reference pages are what the code says, and every event is logged where it is looked for."""

import ast
import re
from pathlib import Path

import pytest

from tests.manual import ROOT, page
from tests.reference import LEVELS, PAGES, UNTOLD, events, is_log, made

OTHERS = ("exception", "log")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_the_code_has_it(name: str) -> None:
    """What was changed in the code has to be changed in its page too."""
    if name == "metrics" and not Path("/proc/self/stat").exists():
        pytest.skip("the process's metrics are read from /proc")
    assert page(name) == made(name), f"gateway/manual/{name}.md is not what the code says: make reference"


def test_every_event_has_a_meaning() -> None:
    """That is the one thing which is written by hand."""
    untold = re.findall(rf"^\| `(\S+)` .*\| {UNTOLD} \|$", page("log-events"), re.MULTILINE)
    assert untold == [], "gateway/manual/log-events.md: say when these are logged"


def test_every_metric_is_recognisable() -> None:
    """The gateway's by its prefix, the process's by the one that they have everywhere."""
    names = re.findall(r"^\| `(\w+)` \|", page("metrics"), re.MULTILINE)
    assert "gateway_callbacks_pending" in names
    assert all(name.startswith(("gateway_", "process_")) for name in names)


def test_events_are_found() -> None:
    """The source is read at all, dicts that are spread included."""
    found = events()
    assert {"callback_id", "task_id", "client", "receiver", "result"} <= found["attempt.finished"][1]
    assert found["attempt.finished"][0] == {"info", "warning"}
    assert {"task_id", "upstream", "next_in_s"} <= found["proxy.registration_failed"][1]


@pytest.mark.parametrize("path", sorted((ROOT / "gateway").rglob("*.py")), ids=lambda path: path.stem)
def test_no_event_is_logged_unseen(path: Path) -> None:
    """A logger has the one name that is looked for, and is called where it is named: no alias hides an event."""
    text = path.read_text("utf-8")
    if "_log" not in text:  # nor get_logger
        return
    module = ast.parse(text)
    calls = {
        id(node.func.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in (*LEVELS, *OTHERS)
    }
    loggers = [node for node in ast.walk(module) if is_log(node) and isinstance(node.ctx, ast.Load)]
    assert not [node.lineno for node in loggers if id(node) not in calls]
    made_here = [n for n in ast.walk(module) if isinstance(n, ast.Call) and "get_logger" in ast.unparse(n.func)]
    named = [node.value for node in ast.walk(module) if isinstance(node, ast.Assign) and is_log(node.targets[0])]
    assert made_here == named
