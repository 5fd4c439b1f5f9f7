"""The log's thread and queue, on real pipes and files: what a broken one costs is lines, and nothing else."""

import fcntl
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.core.logsink import LogSink, as_text_file

LIMIT_S = 20


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    """Give a pipe's end to read and its end to write."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def becomes(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < until, "it never became so"
        os.sched_yield()


def read_lines(file: int, count: int) -> list[bytes]:
    data = b""
    while data.count(b"\n") < count:
        data += os.read(file, 1 << 20)
    return data.splitlines()


def test_lines_come_whole_and_in_order(pipe: list[int]) -> None:
    """Also one that is longer than what a pipe takes in one piece."""
    sink = LogSink(pipe[1])
    lines = [b"%d" % number for number in range(1000)] + [b"x" * 10_000, b"last"]
    for line in lines:
        sink.line(line)
    assert read_lines(pipe[0], len(lines)) == lines
    assert sink.lost == 0


def test_a_reader_that_goes_away(pipe: list[int]) -> None:
    """The lines are lost and counted."""
    sink = LogSink(pipe[1])
    sink.line(b"read")
    assert read_lines(pipe[0], 1) == [b"read"]
    os.close(pipe[0])
    for number in range(3):
        sink.line(b"%d" % number)
    assert sink.flush(LIMIT_S)
    assert sink.lost == 3


def test_a_file_that_is_closed(pipe: list[int]) -> None:
    """As before."""
    sink = LogSink(pipe[1])
    os.close(pipe[1])
    sink.line(b"nowhere")
    assert sink.flush(LIMIT_S)
    assert sink.lost == 1


def test_a_reader_that_stops_reading_and_goes_on(pipe: list[int]) -> None:
    """Nobody waits; what there is no room for is lost and counted, and told once there is room again."""
    told: list[int] = []
    sink = LogSink(pipe[1], limit=100, recovered=told.append)
    line = b"x" * 999
    began = time.monotonic()
    for _ in range(1000):
        sink.line(line)
    assert time.monotonic() - began < LIMIT_S
    assert not sink.flush(0.01)
    refused = sink.lost
    assert refused > 0
    read = read_lines(pipe[0], 1000 - refused)
    assert read == [line] * (1000 - refused)
    becomes(lambda: told[-1:] == [refused])


def test_a_file_that_somebody_else_made_non_blocking(pipe: list[int]) -> None:
    """Whoever shares a terminal shares that flag: a full pipe is waited for as any other."""
    os.set_blocking(pipe[1], False)
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 4096)
    sink = LogSink(pipe[1])
    lines = [b"%d " % number + b"x" * 900 for number in range(50)]
    for line in lines:
        sink.line(line)
    assert read_lines(pipe[0], len(lines)) == lines
    assert sink.lost == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_without_any_room() -> None:
    """Every line is lost and counted."""
    file = os.open("/dev/full", os.O_WRONLY)
    sink = LogSink(file)
    for _ in range(3):
        sink.line(b"a line")
    assert sink.flush(LIMIT_S)
    assert sink.lost == 3
    os.close(file)


def test_a_disk_that_fills_up_within_a_line_and_empties(tmp_path: Path) -> None:
    """The line that broke off counts as lost, and the next one begins a line of its own."""
    path = tmp_path / "log"
    path.touch()
    start = 1 << 30  # a size that nothing else here has
    os.truncate(path, start)
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    told: list[int] = []
    sink = LogSink(file, recovered=told.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (start + 10, limits[1]))
    try:
        for line in (b"first", b"second", b"third"):
            sink.line(line)
        assert sink.flush(LIMIT_S)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sink.lost == 2
    sink.line(b"fourth")
    assert sink.flush(LIMIT_S)
    assert sink.lost == 2
    with path.open("rb") as log:
        log.seek(start)
        assert log.read() == b"first\nseco\nfourth\n"
    assert told == [2]
    os.close(file)


def test_a_defect_in_who_hears_of_lost_lines_ends_nothing(pipe: list[int]) -> None:
    """The thread outlives it."""

    def raises(_: int) -> None:
        raise RuntimeError("a defect")

    sink = LogSink(pipe[1], limit=0, recovered=raises)
    sink.line(b"refused")
    sink._limit = 10
    sink.line(b"one")
    assert sink.flush(LIMIT_S)
    sink.line(b"two")
    assert read_lines(pipe[0], 2) == [b"one", b"two"]
    assert sink.lost == 1


def test_what_python_itself_says(pipe: list[int]) -> None:
    """Text that goes to ``sys.stderr`` joins the lines, half an emoji in it too, and each print ends its line."""
    sink = LogSink(pipe[1])
    stderr = as_text_file(sink, pipe[1])
    print("half \ud83d", file=stderr)
    print("no end", file=stderr, end="")
    stderr.flush()
    sink.line(b"a line")
    assert read_lines(pipe[0], 3) == [rb"half \ud83d", b"no end", b"a line"]
    assert stderr.fileno() == pipe[1]
    assert not stderr.isatty()
