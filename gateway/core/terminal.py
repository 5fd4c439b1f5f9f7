"""What commands write to: a standard output whose failures have a name, its width, and whether it takes colour.

Owns standard output while a command runs, and which text a terminal can be trusted with. Must not know what is
printed. Called by ``gateway.cli``, and by ``gateway.core.telemetry`` for colour.
"""

import io
import os
import select
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from gateway.core.errors import OutputClosed, OutputError


def use_colour(stream: TextIO | None) -> bool:
    """Tell whether to colour what goes there: a terminal, unless NO_COLOR, FORCE_COLOR or TERM=dumb decide."""
    # https://no-color.org and https://force-color.org: set and not empty. Python's own order.
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream is not None and os.environ.get("TERM") != "dumb" and stream.isatty()


def width() -> int | None:
    """Return how many columns standard output shows; None where it is no terminal, and nothing need fit."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def printable(text: str) -> str:
    """Escape everything that a terminal might act on, so that what others wrote cannot steer it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def display_width(text: str) -> int:
    """Return how many columns printable text takes: two for a wide character or an emoji, none for an accent."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def cut(text: str, columns: int) -> str:
    """Shorten printable text to so many columns, with an ellipsis for what is left out."""
    if display_width(text) <= columns:
        return text
    taken, left = 0, columns - 1
    for character in text:
        left -= _columns(character)
        if left < 0:
            break
        taken += 1
    return text[:taken] + "…"


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


@contextmanager
def standard_output() -> Iterator[None]:
    """Have ``print`` and ``click.echo`` raise OutputError, or OutputClosed, where standard output cannot be written.

    Characters that its encoding lacks are escaped. At the block's end all of it is written, or the error is raised
    there; Python then has nothing left to write at exit, where an error would be a traceback and the code 120.
    """
    usual: Any = sys.stdout
    if usual is None:  # closed
        yield
        return
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(usual.fileno(), "wb", closefd=False)),
        encoding=usual.encoding,
        errors="backslashreplace",
        line_buffering=usual.line_buffering or usual.write_through,
    )
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OutputError:
            discard(sys.stdout)
            raise
        finally:
            sys.stdout = usual


def discard(stream: TextIO | None) -> None:
    """Throw away what a stream still holds and what will be written there."""
    if stream is None:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    with suppress(OSError, OutputError):
        stream.flush()


class _Output(io.FileIO):
    """Standard output's file: its errors are no OSErrors, so that nobody takes them for another file's."""

    def write(self, data: Any) -> int:
        try:
            # None: another program has made the pipe or terminal non-blocking, and its reader is slow.
            while (written := super().write(data)) is None:
                select.select((), (self,), ())
        except BrokenPipeError as exc:
            raise OutputClosed("Nobody reads the output any more.") from exc
        except OSError as exc:
            raise OutputError(f"The output cannot be written: {exc.strerror or exc}.") from exc
        return written
