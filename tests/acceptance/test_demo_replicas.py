"""`make demo-replicas` as somebody runs it, and what it leaves behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.manual import ROOT

LIMIT_S = 110
NO_POSTGRESQL = 2


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for all its files: of a short name, as PostgreSQL's socket is in it, and for another user to enter."""
    found = Path(tempfile.mkdtemp(prefix="gateway-demo-test-", dir="/tmp"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found)


def start(folder: Path) -> "subprocess.Popen[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.demo_replicas"],
        cwd=ROOT, env=kept | {"TMPDIR": str(folder)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Return what it has printed; skip the test where there is no PostgreSQL, with the reason."""
    try:
        printed, told = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.wait()
    if process.returncode == NO_POSTGRESQL:
        pytest.skip(told)
    return printed, told


def left_running(folder: Path) -> list[str]:
    """Return the processes that run in the folder, as the replicas and PostgreSQL do."""
    found = []
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            found += [str(cwd)] if cwd.readlink().is_relative_to(folder) else []
    return found


@pytest.mark.timeout(120)
def test_the_one_that_polls_is_killed_and_nothing_is_lost(folder: Path) -> None:
    """It says who polls, whom it kills and who takes over, and ends by itself with everything delivered."""
    process = start(folder)
    printed, told = ended(process)
    assert (process.returncode, told) == (0, ""), printed + told
    killed = re.search(r"kill -9 \d+: ([ABC]) is gone", printed)
    assert killed is not None, printed
    before, after = printed[: killed.start()], printed[killed.end() :]
    assert f"{killed[1]} polls the upstream;" in before
    heir = re.search(rf"([ABC]) polls the upstream now: {killed[1]}'s lease has ended", after)
    assert heir is not None, printed
    assert heir[1] != killed[1]
    counts = re.search(r"^(\d+) registered, (\d+) delivered, 0 lost, each signature verified", after, re.MULTILINE)
    assert counts is not None, printed
    assert int(counts[1]) == int(counts[2]) == len(re.findall(r"is registered$", printed, re.MULTILINE))
    assert int(counts[1]) == len(set(re.findall(r"webhook of task (\d+),? .*✓ signature verified", printed)))
    assert re.search(rf"{heir[1]} delivers the webhook", after), "what was registered while nobody polled came too"
    assert list(folder.iterdir()) == left_running(folder) == []


@pytest.mark.timeout(120)
def test_stopped_it_leaves_nothing(folder: Path) -> None:
    """Amid its work: no process, no file, no traceback."""
    process = start(folder)
    assert process.stdout is not None
    for line in process.stdout:
        if "is registered" in line:
            assert left_running(folder), "or nothing is proved"
            process.send_signal(signal.SIGTERM)
            break
    _, told = ended(process)
    assert (process.returncode, told) == (130, "")
    assert list(folder.iterdir()) == left_running(folder) == []


@pytest.mark.timeout(120)
def test_it_ends_once_nobody_reads(folder: Path) -> None:
    """`make demo-replicas | head -1` says nothing of a broken pipe, and leaves nothing behind."""
    process = start(folder)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, told = ended(process)
    assert (process.returncode, told) == (0, "")
    assert list(folder.iterdir()) == left_running(folder) == []
