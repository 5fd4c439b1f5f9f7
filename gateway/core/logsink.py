"""Where the log's lines go: a queue that nobody waits for, and one thread that writes what is in it.

Owns the log's file, and that nothing which happens to it reaches whoever logs: a closed pipe, a full disk, a reader
that stops reading. Such lines are lost, and counted; a line that broke off in its middle does not spoil the next. It
must not know what a line says. Called by ``gateway.core.telemetry``.

A thread, because a blocking write would stop the event loop with every poll and webhook, and O_NONBLOCK would hold for
every process that shares the terminal. It gathers lines for a moment: one write for ten of them costs the event loop
less than one for each did.
"""

import io
import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import accumulate
from queue import Empty, SimpleQueue
from typing import Any

_LIMIT = 16_384  # lines that may wait, some 6 MB: two seconds of a gateway that is as busy as it can be
_PAUSE_S = 0.005
"""Before and after each writing, while lines gather."""
_WRITE_BYTES = select.PIPE_BUF  # so much goes into a pipe in one piece, whoever else writes to it


class LogSink:
    """Takes lines for one open file."""

    def __init__(self, file: int, *, limit: int = _LIMIT, recovered: Callable[[int], None] | None = None) -> None:
        """Write to the file of this number. ``recovered`` hears, in the thread, how many are lost by then."""
        self._file = file
        self._limit = limit
        self._recovered = recovered
        # SimpleQueue: where a finalizer logs in the middle of a put, another queue would wait for itself.
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._pause = threading.Event()  # never set
        self._refused = 0
        self._failed = 0
        self._told = 0
        self._torn = False
        threading.Thread(target=self._run, name="log-writer", daemon=True).start()

    @property
    def lost(self) -> int:
        """How many lines were not written, or not whole."""
        return self._refused + self._failed

    def line(self, line: bytes) -> None:
        """Have a line, without its end, written soon; returns at once, and never raises."""
        if self._queue.qsize() < self._limit:
            self._queue.put(line + b"\n")
        else:
            self._refused += 1

    def flush(self, timeout_s: float) -> bool:
        """Return once all that was said before is written or lost, at the latest after so long; whether it is."""
        reached = threading.Event()
        self._queue.put(reached)
        return reached.wait(timeout_s)

    def _run(self) -> None:
        while True:
            taken = [self._queue.get()]
            self._pause.wait(_PAUSE_S)  # whoever logs is in the middle of its work: that goes first
            try:
                while True:
                    taken.append(self._queue.get_nowait())
            except Empty:
                pass
            if self._write([item for item in taken if isinstance(item, bytes)]):
                self._tell()
            for item in taken:
                if isinstance(item, threading.Event):
                    item.set()
            self._pause.wait(_PAUSE_S)

    def _write(self, lines: list[bytes]) -> bool:
        """Write what can be written; return whether the file took the last of it."""
        works = False
        for piece in _pieces(lines):
            whole = self._write_piece(piece)
            self._failed += len(piece) - whole
            works = whole == len(piece)
        return works

    def _tell(self) -> None:
        if (lost := self.lost) > self._told:
            self._told = lost
            if self._recovered is not None:
                with suppress(Exception):  # the thread must outlive it
                    self._recovered(lost)

    def _write_piece(self, lines: list[bytes]) -> int:
        """Return how many of the lines, from the first on, are in the file."""
        start = b"\n" if self._torn else b""
        data = memoryview(start + b"".join(lines))
        written = 0
        try:
            while written < len(data):
                try:
                    written += os.write(self._file, data[written:])
                except BlockingIOError:  # somebody who shares the file has made it so
                    waiting = select.poll()
                    waiting.register(self._file, select.POLLOUT)
                    waiting.poll()
        except OSError:
            pass
        if written:
            self._torn = data[written - 1] != ord("\n")
        return sum(len(start) + end <= written for end in accumulate(map(len, lines)))


def _pieces(lines: list[bytes]) -> list[list[bytes]]:
    """Divide lines into pieces that are written at once; a longer line is a piece of its own."""
    pieces: list[list[bytes]] = []
    room = 0
    for line in lines:
        if len(line) > room:
            pieces.append([])
            room = _WRITE_BYTES - 1  # one for the end of a line that broke off
        pieces[-1].append(line)
        room -= len(line)
    return pieces


class _Lines(io.RawIOBase):
    name = "<stderr>"

    def __init__(self, sink: LogSink, file: int) -> None:
        super().__init__()
        self._sink = sink
        self._file = file

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file

    def isatty(self) -> bool:
        return os.isatty(self._file)

    def write(self, data: Any) -> int:
        taken = bytes(data)
        self._sink.line(taken.removesuffix(b"\n"))
        return len(taken)


def as_text_file(sink: LogSink, file: int) -> io.TextIOWrapper:
    """Return what can stand in the place of ``sys.stderr``, so that Python's own last words go to the sink too."""
    return io.TextIOWrapper(_Lines(sink, file), encoding="utf-8", errors="backslashreplace", line_buffering=True)
