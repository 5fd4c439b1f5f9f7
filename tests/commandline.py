"""The command ``gateway`` as people and scripts run it: a process of its own, on a terminal or not.

Owns its environment and its end. Called by the acceptance tests.
"""

import asyncio
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import forked
from tests.manual import ROOT

__all__ = ["LIMIT_S", "Terminal", "command", "environment", "on_terminal", "run", "start"]

LIMIT_S = 50


def environment(**environ: str) -> dict[str, str]:
    forgotten = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "GATEWAY_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(forgotten)}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "TERM": "xterm"} | environ


def run(*words: str, cwd: Path, stdin: str = "", **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return forked.run("-m", "gateway", *words, cwd=cwd, env=environment(**environ), stdin=stdin, timeout_s=LIMIT_S)


async def command(*words: str, cwd: Path, stdin: str = "", **environ: str) -> "subprocess.CompletedProcess[str]":
    """The same, beside what else the test has running."""
    return await asyncio.to_thread(run, *words, cwd=cwd, stdin=stdin, **environ)


async def start(*words: str, cwd: Path, **environ: str) -> "forked.Process | asyncio.subprocess.Process":
    """Start a command, with pipes."""
    return await forked.start("-u", "-m", "gateway", *words, cwd=cwd, env=environment(**environ))


class Terminal:
    """A command on a terminal: what it has shown, and the keys for it."""

    def __init__(self, process: "subprocess.Popen[bytes]", controller: int) -> None:
        self.process = process
        self.shown = ""
        self._controller = controller

    def type(self, keys: str) -> None:
        os.write(self._controller, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._controller, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, pattern: str) -> str:
        """Read until the pattern has been shown since the last time; return all that was shown since then."""
        since, ends = len(self.shown), time.monotonic() + LIMIT_S
        while not re.search(pattern, self.shown[since:]):
            if not self._read(ends - time.monotonic()):
                pytest.fail(f"no {pattern!r} in what it shows:\n{self.shown}")
        return self.shown[since:]

    def ended(self) -> int:
        """Read to the end; return the exit code."""
        ends = time.monotonic() + LIMIT_S
        while self._read(ends - time.monotonic()):
            pass
        return self.process.wait(LIMIT_S)

    def _read(self, within_s: float) -> bool:
        if not select.select([self._controller], [], [], max(within_s, 0))[0]:
            return False
        with suppress(OSError):  # EIO: the other end is closed
            if piece := os.read(self._controller, 65536):
                self.shown += piece.decode("utf-8", "replace")
                return True
        return False


@contextmanager
def on_terminal(*words: str, cwd: Path, columns: int = 80, lines: int = 24, **environ: str) -> Iterator[Terminal]:
    """Run a command on a terminal of that size; it is killed at the block's end where it still runs."""
    controller, terminal = pty.openpty()
    process = None
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", *words], stdin=terminal, stdout=terminal, stderr=terminal,
            cwd=cwd, env=environment(**environ), start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(terminal)
        terminal = -1
        yield Terminal(process, controller)
    finally:
        if terminal >= 0:
            os.close(terminal)
        os.close(controller)
        if process is not None:
            process.kill()
            process.wait()
