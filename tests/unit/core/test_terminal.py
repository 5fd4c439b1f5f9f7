"""What a terminal is told: colour, widths, and nothing that could steer it."""

import io
import os
import sys
from pathlib import Path

import pytest

from gateway.core import terminal
from gateway.core.errors import OutputClosed, OutputError

FULL = Path("/dev/full")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "on_terminal", "elsewhere"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": "0"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"FORCE_COLOR": ""}, True, False),
    ],
)
def test_colour(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], on_terminal: bool, elsewhere: bool) -> None:
    """A terminal is coloured unless NO_COLOR is set to anything, or it is a dumb one; FORCE_COLOR colours a pipe."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert terminal.use_colour(Terminal()) is on_terminal
    assert terminal.use_colour(io.StringIO()) is elsewhere
    assert terminal.use_colour(None) is elsewhere


@pytest.mark.parametrize(
    ("text", "columns"),
    [("", 0), ("plain", 5), ("café", 4), ("cafe\u0301", 4), ("\u56fe\u50cf", 4), ("\U0001f600!", 3), ("\uff46", 2)],
)
def test_widths_are_those_on_the_screen(text: str, columns: int) -> None:
    """Wide characters and emoji take two columns, an accent of its own none."""
    assert terminal.display_width(text) == columns


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("plain", 5, "plain"),
        ("plainer", 5, "plai…"),
        ("\u56fe\u50cf\u56fe", 6, "\u56fe\u50cf\u56fe"),
        ("\u56fe\u50cf\u56fe", 5, "\u56fe\u50cf…"),
        ("\u56fe\u50cf\u56fe", 4, "\u56fe…"),
        ("cafe\u0301s and more", 5, "cafe\u0301…"),
        ("plain", 1, "…"),
    ],
)
def test_text_is_cut_by_what_the_screen_shows(text: str, columns: int, shown: str) -> None:
    """No more columns than there are, no character halved, no accent lost to its letter."""
    assert terminal.cut(text, columns) == shown


def test_standard_output_is_written_by_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What was printed is in the file when the block ends, and the stream that was there is back."""
    path = tmp_path / "out"
    with path.open("w", encoding="ascii") as usual:
        monkeypatch.setattr(sys, "stdout", usual)
        with terminal.standard_output():
            print("✓ done \udcff")
        assert path.read_text() == "\\u2713 done \\udcff\n"
        assert sys.stdout is usual


@pytest.mark.skipif(not FULL.exists(), reason="the machine has no /dev/full")
def test_output_to_a_full_disk_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late it shows, and no OSError, which whoever opens files would take for one of those."""
    with FULL.open("w") as usual:
        monkeypatch.setattr(sys, "stdout", usual)
        with pytest.raises(OutputError, match="No space left"), terminal.standard_output():
            print("held until the end")
        os.write(usual.fileno(), b"what is written from here on goes nowhere, and so does Python's last flush")


@pytest.mark.parametrize("flush", [True, False])
def test_output_that_nobody_reads_ends_with_0(monkeypatch: pytest.MonkeyPatch, *, flush: bool) -> None:
    """A reader that went away is no failure."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as usual:
        monkeypatch.setattr(sys, "stdout", usual)
        with pytest.raises(OutputClosed) as caught, terminal.standard_output():
            print("hello", flush=flush)
    assert caught.value.exit_code == 0


def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program on the pipe may have made it non-blocking: what is printed waits for room all the same."""
    import threading

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = "x" * 1_000_000
    with os.fdopen(reader) as source, os.fdopen(writer, "w") as usual:
        monkeypatch.setattr(sys, "stdout", usual)
        taken: list[str] = []
        reading = threading.Thread(target=lambda: taken.append(source.read(len(text))))
        reading.start()
        with terminal.standard_output():
            print(text)
        reading.join()
    assert taken == [text]


def test_no_standard_output_is_none_to_write_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """With standard output closed Python has no stream: what is printed goes nowhere."""
    monkeypatch.setattr(sys, "stdout", None)
    with terminal.standard_output():
        print("nothing")
    assert terminal.width() is None
