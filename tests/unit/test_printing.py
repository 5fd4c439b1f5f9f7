"""Tools whose report nobody reads to its end, as with ``make attack | head``."""

import os
import subprocess
import sys

import pytest

from tests.manual import ROOT

TOOLS = ("alarms", "attack", "crash", "described", "fuzz", "release", "simulation")
_PRINTS = """
import sys
from tests.printing import report_output
with report_output():
    for line in range({lines}):
        print("line", line, flush={flush})
    {end}
"""


def ended(end: str, *, flush: bool, read: bool) -> tuple[int, str]:
    """Run a tool that prints two lines and ends so; return its status and what else it said."""
    reader, writer = os.pipe()
    if not read:
        os.close(reader)
    program = _PRINTS.format(lines=2, flush=flush, end=end)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, text=True, timeout=60
        )
    finally:
        os.close(writer)
        if read:
            os.close(reader)
    return done.returncode, done.stderr


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("end", ["pass", "sys.exit(0)", "sys.exit(1)"])
def test_a_report_that_nobody_reads_ends_a_tool_quietly(end: str, *, flush: bool) -> None:
    """Without a traceback, and not as if all were well: nobody has seen whether it is."""
    assert ended(end, flush=flush, read=False) == (1, "")


@pytest.mark.parametrize(("end", "status"), [("pass", 0), ("sys.exit(0)", 0), ("sys.exit(1)", 1)])
def test_a_report_that_is_read_leaves_the_status_as_it_is(end: str, status: int) -> None:
    """The tool's own."""
    assert ended(end, flush=False, read=True) == (status, "")


@pytest.mark.parametrize("entry", [*(f"{tool}/__main__.py" for tool in TOOLS), "bench/run.py"])
def test_every_tool_goes_by_it(entry: str) -> None:
    """Those that ``make`` runs for minutes."""
    assert "\n    with report_output():\n" in (ROOT / "tests" / entry).read_text()
