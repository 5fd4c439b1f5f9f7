"""A body in chunks whose framing the strict parser refuses, as common clients read it.

Owns how chunks may be framed beside RFC 9112: lines ended by a bare LF, blanks around a size and in its extension,
trailers of any form; and how many there may be that cost more to read than to send. Must not read a head. Called by
``http1``, which has it keep up with the strict parser from a body's first byte, so that it knows where in the body it
is when it is asked to go on alone.
"""

import re

import httptools

from gateway.net.errors import ExchangeFailed

__all__ = ["OddChunks"]

_SIZE = re.compile(rb"0*[0-9A-Fa-f]{1,15}[ \t]*(?:;.*)?\r*", re.DOTALL)
_PLAIN = re.compile(rb"([0-9A-Fa-f]{1,6})\r\n")  # most are; all else is read line by line
_SMALL = 16  # bytes of a chunk: one with a single byte takes six on the wire, and as long to read as a hundred
_MOST_SMALL = 8192


class OddChunks:
    """Reads on from the first byte after an answer's head."""

    def __init__(self, max_line_bytes: int) -> None:
        """``max_line_bytes``: of a line that has ended; whoever feeds one without end must see to that."""
        self.ended = False
        self._max_line_bytes = max_line_bytes
        self._line = b""  # the beginning of a line of which the end has not come
        self._left = 0  # bytes of this chunk's data that have not come
        self._in_data = False  # or at the line end behind it
        self._in_trailer = False
        self._small = 0  # chunks so far

    def feed(self, data: bytes) -> list[memoryview]:
        """Return the parts of the body in ``data``. Raises HttpParserError where nobody could read it.

        Raises ExchangeFailed where it could be read, and may cost too much.
        """
        parts = []
        view = memoryview(data)  # most often nobody wants the parts
        at = 0
        while at < len(data) and not self.ended:
            if self._left:
                part = view[at : at + self._left]
                parts.append(part)
                self._left -= len(part)
                at += len(part)
                continue
            if not (self._in_data or self._in_trailer or self._line):
                plain = _PLAIN.match(data, at)
                if plain is not None and (size := int(plain[1], 16)):
                    begin = plain.end()
                    if data[begin + size : begin + size + 2] == b"\r\n":
                        parts.append(view[begin : begin + size])
                        at = begin + size + 2
                        self._count(size)
                        continue
            end = data.find(b"\n", at)
            if end < 0:
                self._line += data[at:]
                self._check(self._line)  # at once: its end may never come
                break
            line = self._line + data[at:end]
            self._line = b""
            at = end + 1
            self._check(line)
            self._take(line)
        return parts

    def _check(self, line: bytes) -> None:
        """Refuse what no line begins with."""
        if len(line) > self._max_line_bytes:
            raise httptools.HttpParserError(f"a line between its chunks is larger than {self._max_line_bytes} bytes")
        if self._in_trailer:
            return
        if self._in_data:
            if line.strip(b"\r"):
                raise httptools.HttpParserError("Expected LF after chunk data")
        elif _SIZE.fullmatch(line) is None:
            raise httptools.HttpParserError("Invalid character in chunk size")

    def _take(self, line: bytes) -> None:
        if self._in_trailer:
            self.ended = not line.strip(b"\r")
        elif self._in_data:
            self._in_data = False
        else:
            self._left = int(line.partition(b";")[0], 16)
            self._in_data = self._left > 0
            self._in_trailer = not self._in_data
            self._count(self._left)

    def _count(self, size: int) -> None:
        if size < _SMALL:
            self._small += 1
            if self._small > _MOST_SMALL:
                raise ExchangeFailed(f"it has more than {_MOST_SMALL} chunks below {_SMALL} bytes", "protocol")
