"""The manual's page on security: every claim's test is there, and the figures are the code's."""

import re

from gateway.config.settings import SETTINGS
from gateway.dashboard import session
from gateway.webhook import sender
from tests.manual import ROOT, page

PAGE = page("security")
TEST = re.compile(r"`((?:unit|integration|acceptance|browser)/[\w/]+\.py)`")


def section(heading: str) -> str:
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_each_test_that_is_named_is_there() -> None:
    """A claim whose test has gone is a claim that nobody holds."""
    named = set(TEST.findall(PAGE))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / "tests" / name).is_file()] == []


def test_what_is_defended_says_what_holds_it() -> None:
    """Each row of the defences names a test."""
    rows = [row for row in section("What is defended against").splitlines() if row.startswith("| to ")]
    assert len(rows) >= 8
    assert [row for row in rows if not TEST.search(row.rpartition(" | ")[2])] == []


def test_its_figures_are_the_code_s() -> None:
    """Hours of a session, wrong tokens, days, bytes."""
    (wrong,) = session._WRONG
    assert (session._LASTS_S, wrong.limit, wrong.window_s) == (12 * 3600, 10, 60)
    assert "it lasts twelve hours" in PAGE
    assert "ten wrong ones a minute" in PAGE
    (days,) = (setting.default for setting in SETTINGS if setting.env == "GATEWAY_RETENTION_DAYS")
    assert f"`GATEWAY_RETENTION_DAYS` ({days})" in PAGE
    assert f"{sender._MAX_BODY // 1024} KiB of an answer" in PAGE
    assert f"the first {sender._EXCERPT} bytes" in PAGE
