"""The head of an answer that the strict parser refuses, put into words that it reads: what common clients take.

Owns which heads are read beside those of RFC 9112, and how they frame the body: lines folded or ended by a bare LF,
control characters, blanks around a name, equal Content-Lengths given twice, Transfer-Encoding beside Content-Length.
Must not read a body. Called by ``http1``, which keeps no connection whose answer was read so: who frames loosely may
mean another end of the body than we do.
"""

import re
from collections.abc import Iterable

import httptools

__all__ = ["OddHead"]

_BEGIN = b"HTTP/"
_STATUS = re.compile(rb"HTTP/[0-9.]+[ \t]+([0-9]{3})(?![0-9])[ \t]*([^\n]*)", re.IGNORECASE)
_END = re.compile(rb"\n\r{0,2}\n")
_OVERLAP = 3  # bytes of an end that may have come before the rest of it
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(rb"\+?([0-9]{1,18})")
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SWITCHING = 101

Field = tuple[bytes, bytes]


class OddHead:
    """Reads on from the first byte of an answer; every method raises HttpParserError where nobody could read it."""

    def __init__(self, reason: str, max_bytes: int) -> None:
        """``reason``: why the strict parser refuses it, which is told where it cannot be read here either.

        ``max_bytes``: of a head that has ended; whoever feeds one without end must see to that.
        """
        self._reason = reason
        self._max_bytes = max_bytes
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
            status, head = self._mend(bytes(self._raw[: end.start()]))
            mended.append(head)
            self._ended = status >= 200 or status == _SWITCHING  # else it only announces the answer
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

    def _mend(self, raw: bytes) -> tuple[int, bytes]:
        first, *lines = (line.rstrip(b"\r") for line in raw.split(b"\n"))
        status = _STATUS.match(first)
        if status is None:
            raise httptools.HttpParserError(self._reason)
        fields = _framed(_fields(lines))
        head = [b" ".join((b"HTTP/1.1", status[1], _CONTROLS.sub(b" ", status[2]))), *map(b": ".join, fields)]
        return int(status[1]), b"\r\n".join([*head, b"", b""])


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
            fields.append((name, _CONTROLS.sub(b" ", value).strip()))
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
