"""Commands that the tests fork are what they would be executed: nothing else that is tested by them would hold."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked
from tests.commandline import LIMIT_S, environment

TELLS = """
import os, signal, sys, threading
print(sys.argv[1:], os.getcwd(), sorted(os.environ), os.environ['SAID'], __name__, repr(sys.stdin.read()), "Füße 🐈")
print(sys.stdout.encoding, sys.stderr.errors, sys.stdout.line_buffering, sys.stdout.write_through)
print([(file.name, type(file.buffer)) for file in (sys.stdin, sys.stdout, sys.stderr)])
print(*sorted(os.listdir("/proc/self/fd")), file=sys.stderr)
print([signal.getsignal(one) for one in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)])
print([one.name for one in threading.enumerate()])
"""
ENDS = "import atexit, sys\natexit.register(print, 'at exit')\nprint('so far')\n"


def write(folder: Path, code: str) -> None:
    (folder / "said.py").write_text(code, "utf-8")


def both(folder: Path, *words: str) -> list[tuple[int, str, str]]:
    """Run a command forked, and executed."""
    environ = environment(SAID="1")
    one = forked.run(*words, cwd=folder, env=environ, stdin="{}\n", timeout_s=LIMIT_S)
    other = subprocess.run(
        [sys.executable, *words], input="{}\n", capture_output=True, text=True, cwd=folder, env=environ,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip
    return [(done.returncode, done.stdout, done.stderr.partition("Traceback")[0]) for done in (one, other)]


@pytest.mark.parametrize("words", [("-m", "said", "a", "--b"), ("-u", "-m", "said")])
def test_it_finds_what_it_was_given(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Its words, folder, environment, what it reads and writes and its signals are its own, and no file besides."""
    write(tmp_path, TELLS)
    one, other = both(tmp_path, *words)
    assert one == other
    assert "Füße" in one[1]


@pytest.mark.parametrize(
    "last", ["sys.exit()", "sys.exit(7)", "sys.exit('so it is')", "raise ValueError", "raise KeyboardInterrupt", ""]
)
def test_it_ends_as_it_would(tmp_path: Path, last: str) -> None:
    """With the same status, and with all that is to be done at the end."""
    write(tmp_path, ENDS + last)
    one, other = both(tmp_path, "-m", "said")
    assert one == other
    assert one[1] == "so far\nat exit\n"


def test_what_does_not_end_is_killed(tmp_path: Path) -> None:
    """When its time is over it is told so, as of a process that was executed."""
    write(tmp_path, "import signal\nsignal.pause()")
    with pytest.raises(subprocess.TimeoutExpired):
        forked.run("-m", "said", cwd=tmp_path, env=environment(), timeout_s=0.2)


async def test_it_can_be_stopped(tmp_path: Path) -> None:
    """Signals come to it, its output as it is written, and who waits is told the signal that ended it."""
    write(tmp_path, "import signal, sys\nprint('on', file=sys.stderr)\nsignal.pause()")
    process = await forked.start("-m", "said", cwd=tmp_path, env=environment())
    assert isinstance(process, forked.Process)
    assert process.stderr is not None
    assert await process.stderr.readline() == b"on\n"
    assert process.returncode is None
    process.terminate()
    assert await process.wait() == process.returncode == -signal.SIGTERM
    assert await process.communicate() == (b"", b"")
    with pytest.raises(ProcessLookupError):
        process.kill()
