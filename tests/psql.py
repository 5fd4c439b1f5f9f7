"""PostgreSQL's own client for the tests: a process for each call, or one that is kept for what every test asks.

Knows no server: its callers name the program and the database.
"""

import subprocess
from contextlib import suppress
from pathlib import Path

__all__ = ["Psql", "psql"]

_LIMIT_S = 30
_END = "-- that is all"


def _command(program: str | Path, url: str) -> list[str | Path]:
    return [program, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url]


def psql(program: str | Path, url: str, sql: str) -> str:
    """Run statements in a session of their own; return what is printed, one line for each row."""
    done = subprocess.run(
        _command(program, url), input=sql, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Psql:
    """A session that is begun with the first statements, and again where it was ended in between.

    A process and a session for each call take five times what the statements do that empty a database.
    """

    def __init__(self, program: str | Path, url: str) -> None:
        self._command = _command(program, url)
        self._process: subprocess.Popen[str] | None = None

    def run(self, sql: str) -> None:
        """Run statements that may be run twice, whatever they print; raise AssertionError where they fail."""
        if self._process is not None and self._try(self._process, sql):
            return
        self.close()
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._try(self._process, sql), self.close()

    def _try(self, process: "subprocess.Popen[str]", sql: str) -> bool:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # its session was ended, and it noticed
            process.stdin.write(f"{sql}\n\\echo {_END}\n")
            process.stdin.flush()
        return f"{_END}\n" in iter(process.stdout.readline, "")

    def close(self) -> str:
        """End the session, where there is one; return what it has said of errors."""
        if self._process is None:
            return ""
        process, self._process = self._process, None
        return process.communicate()[1]
