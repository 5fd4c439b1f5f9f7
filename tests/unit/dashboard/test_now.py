"""The first page's figures, as they are written."""

import re

import pytest

from gateway.core.model import Backlog
from gateway.dashboard.facts import Counts, Paused, ReceiverFacts
from gateway.dashboard.frame import Frame
from gateway.dashboard.session import BrowserSession, Visitor

NOW = 1_777_460_000_000
HELD = ReceiverFacts(
    "ann", "https://paused.example.com", 0, False, 0, None, Paused(NOW, "ann", "https://paused.example.com")
)


def figure(label: str, *, due_ms_ago: int | None, paused: bool) -> tuple[str, str]:
    """Return how a figure looks, and what it says."""
    text = Frame("").region(
        "now.html",
        section="now",
        visitor=Visitor(BrowserSession("ann", "mark", old=False), None, "csrf", True),
        now=NOW,
        backlog=Backlog(waiting={}, pending=3, oldest_due_at=None if due_ms_ago is None else NOW - due_ms_ago, dead=0),
        waiting={},
        counts=Counts(0, 0, 0, 0, 0),
        upstreams=[],
        failing=[],
        paused=[HELD] if paused else [],
        troubles=[],
    )
    found = re.search(rf'<div class="(\w*)"><dt>(?:<a [^>]*>)?{label}(?:</a>)?</dt><dd>(.*)</dd>', text)
    assert found is not None, text
    return found[1], " ".join(re.sub(r"<[^>]*>", " ", found[2]).split())


@pytest.mark.parametrize(
    ("due_ms_ago", "paused", "look", "words"),
    [
        (75_000, False, "warn", "1 min 15 s"),
        (75_000, True, "warn", "1 min 15 s without receivers that are paused"),
        (5_000, True, "", "5.0 s without receivers that are paused"),
        (-5_000, False, "", "\N{EN DASH} nothing is due"),
        (None, True, "", "\N{EN DASH} nothing is due, but for receivers that are paused"),
    ],
)
def test_what_is_late_warns_though_a_receiver_is_paused(
    due_ms_ago: int | None, paused: bool, look: str, words: str
) -> None:
    """What waits for the paused one is not among it, so that somebody has to look."""
    assert figure("Longest due", due_ms_ago=due_ms_ago, paused=paused) == (look, words)
