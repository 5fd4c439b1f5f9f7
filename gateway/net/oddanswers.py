"""Answers that the strict parser refuses, as common clients read them.

Owns which heads are read beside those of RFC 9112, and how they frame the body: lines folded or ended by a bare LF,
control characters, blanks around a name, equal Content-Lengths given twice, Transfer-Encoding beside Content-Length.
And how chunks may be framed: lines ended by a bare LF, blanks around a size and in its extension, trailers of any form;
and how many there may be that cost more to read than to send. Called by ``http1``, which keeps no connection whose
answer was read so: who frames loosely may mean another end of the body than we do.
"""

import re
from collections.abc import Iterable

import httptools

from gateway.net.errors import ExchangeFailed

_BEGIN = b"HTTP/"
_STATUS = re.compile(rb"HTTP/[0-9.]+[ \t]+([0-9]{3})(?![0-9])[ \t]*([^\n]*)", re.IGNORECASE)
_END = re.compile(rb"\n\r{0,2}\n")
_OVERLAP = 3  # bytes of an end that may have come before the rest of it
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(rb"\+?([0-9]{1,18})")
CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SWITCHING = 101

_SIZE = re.compile(rb"0*[0-9A-Fa-f]{1,15}[ \t]*(?:;.*)?\r*", re.DOTALL)
_PLAIN = re.compile(rb"([0-9A-Fa-f]{1,6})\r\n")  # most are; all else is read line by line
_SMALL = 16  # bytes of a chunk: one with a single byte takes six on the wire, and as long to read as a hundred
_MOST_SMALL = 8192

Field = tuple[bytes, bytes]


class OddHead:
    """Puts a head into words that the strict parser reads; raises HttpParserError where nobody could read it."""

    def __init__(self, reason: str, max_bytes: int, max_lines: int) -> None:
        """``reason``: why the strict parser refuses it, which is told where it cannot be read here either.

        ``max_bytes`` and ``max_lines``: of a head that has ended; whoever feeds one without end must see to that.
        """
        self._reason = reason
        self._max_bytes = max_bytes
        self._max_lines = max_lines
        self._raw = bytearray()
        self._ended = False

    def feed(self, data: bytes) -> bytes:
        """Return what the strict parser shall read in place of ``data``; nothing while the head has not ended."""
        if self._ended:
            return data
        searched = max(len(self._raw) - _OVERLAP, 0)
        self._raw += data
        mended: list[bytes] = []
        while not self._ended:
            blank = len(self._raw) - len(self._raw.lstrip(b"\r\n"))
            del self._raw[:blank]  # empty lines before a head are passed over
            searched = max(searched - blank, 0)
            self._check_begin()
            end = _END.search(self._raw, searched)
            if end is None:
                return b"".join(mended)
            if end.start() > self._max_bytes:
                raise httptools.HttpParserError(f"its head is larger than {self._max_bytes} bytes")
            if self._raw.count(b"\n", 0, end.start()) > self._max_lines:  # 8,000 took 10 ms
                raise httptools.HttpParserError(f"its head has more than {self._max_lines} headers")
            head, self._ended = self._mend(bytes(self._raw[: end.start()]))
            mended.append(head)
            del self._raw[: end.end()]
            searched = 0
        return b"".join([*mended, self._raw])

    def _check_begin(self) -> None:
        """Refuse at once what is not HTTP: its end may never come."""
        if b"\n" not in self._raw:
            if not _BEGIN.startswith(self._raw[: len(_BEGIN)].upper()):
                raise httptools.HttpParserError(self._reason)
        elif _STATUS.match(self._raw) is None:
            raise httptools.HttpParserError(self._reason)

    def _mend(self, raw: bytes) -> tuple[bytes, bool]:
        """Return a head, and whether it is the answer's: else it only announces that, and no field of it counts."""
        first, *lines = (line.rstrip(b"\r") for line in raw.split(b"\n"))
        status = _STATUS.match(first)
        if status is None:
            raise httptools.HttpParserError(self._reason)
        answers = int(status[1]) >= 200 or int(status[1]) == _SWITCHING
        fields = _framed(_fields(lines)) if answers else []
        head = [b" ".join((b"HTTP/1.1", status[1], CONTROLS.sub(b" ", status[2]))), *map(b": ".join, fields)]
        return b"\r\n".join([*head, b"", b""]), answers


def _fields(lines: Iterable[bytes]) -> list[Field]:
    """Return the fields of which the name can be read; what else stands in a head is passed over."""
    folded: list[list[bytes]] = []
    for line in lines:
        if folded and line[:1] in (b" ", b"\t"):
            folded[-1].append(line.strip())
        else:
            folded.append([line.strip()])
    fields = []
    for parts in folded:
        name, colon, value = b" ".join(parts).partition(b":")
        if colon and _NAME.fullmatch(name := name.strip()):
            fields.append((name, CONTROLS.sub(b" ", value).strip()))
    return fields


def _framed(fields: list[Field]) -> list[Field]:
    """Return the fields with one that frames the body, or none."""
    codings: list[bytes] = []
    lengths: list[bytes] = []
    others: list[Field] = []
    for name, value in fields:
        field = name.lower()
        if field == b"transfer-encoding":
            codings += [coding for part in value.lower().split(b",") if (coding := part.strip()) != b"identity"]
        elif field == b"content-length":
            lengths += [part.strip() for part in value.split(b",")]
        else:
            others.append((name, value))
    if codings:
        # RFC 9112 §6.3: it overrides the length.
        return [(b"Transfer-Encoding", codings[-1]), *others]
    if not lengths:
        return others
    values = set()
    for length in lengths:
        number = _LENGTH.fullmatch(length)
        if number is None:
            raise httptools.HttpParserError("Content-Length is not a number of bytes")
        values.add(int(number[1]))
    if len(values) > 1:
        raise httptools.HttpParserError("Content-Length is given more than once, with different values")
    return [(b"Content-Length", b"%d" % values.pop()), *others]


class OddChunks:
    """Reads on from the first byte after an answer's head, beside the strict parser, until it is to go on alone."""

    def __init__(self, max_line_bytes: int) -> None:
        """``max_line_bytes``: of a line that has ended; whoever feeds one without end must see to that."""
        self.ended = False
        self.seen = 0
        """Chunks and lines of the trailer so far."""
        self._max_line_bytes = max_line_bytes
        self._line = b""  # the beginning of a line of which the end has not come
        self._left = 0  # bytes of this chunk's data that have not come
        self._in_data = False  # or at the line end behind it
        self._in_trailer = False
        self._small = 0  # of these

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
            self.seen += 1
            self.ended = not line.strip(b"\r")
        elif self._in_data:
            self._in_data = False
        else:
            self._left = int(line.partition(b";")[0], 16)
            self._in_data = self._left > 0
            self._in_trailer = not self._in_data
            self._count(self._left)

    def _count(self, size: int) -> None:
        self.seen += 1
        if size < _SMALL:
            self._small += 1
            if self._small > _MOST_SMALL:
                raise ExchangeFailed(f"it has more than {_MOST_SMALL} chunks below {_SMALL} bytes", "protocol")
