"""A row as copying passes it on: the bytes that stand for it in PostgreSQL's binary COPY, whatever database it is of.

So what PostgreSQL sends needs no decoding to be counted or to be written to another, and the digests of two databases
are of the same bytes. Owns that form and the digest; pure. Called by ``copying`` and by the engines' ``copyside``.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"
"""

import hashlib
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from struct import Struct
from typing import Any, NamedTuple

from gateway.store.copying.tables import Table

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

LARGE = 1024 * 1024
"""With more bytes than that in its large columns a row is not read as a whole."""
PIECE = 512 * 1024
"""Bytes of it that are."""

_COUNT = Struct(">h")
_LENGTH = Struct(">i")
_INTEGER = Struct(">iq")
_NULL = _LENGTH.pack(-1)

_PART_ROWS = 1000
"""After so many rows a digest notes where it stands, so that a difference has a place."""


def encoder(table: Table) -> Callable[[Sequence[Any]], bytes]:
    """Return what makes a row's bytes of its values.

    A NUL in a text, which PostgreSQL does not take, is replaced as the store does it today: earlier ones let it pass.
    """
    count, integers, blobs = _COUNT.pack(len(table.columns)), len(table.integers), len(table.columns) - len(table.blobs)
    integer, length, null = _INTEGER.pack, _LENGTH.pack, _NULL

    def encode(row: Sequence[Any]) -> bytes:
        parts = [count]
        parts += [null if value is None else integer(8, value) for value in row[:integers]]
        for value in row[integers:blobs]:
            if value is None:
                parts.append(null)
            else:
                data = (value.replace("\0", "\ufffd") if "\0" in value else value).encode()
                parts += (length(len(data)), data)
        for data in row[blobs:]:
            parts += (null,) if data is None else (length(len(data)), data)
        return b"".join(parts)

    return encode


def decoder(table: Table) -> Callable[[bytes], tuple[Any, ...]]:
    """Return what makes a row's values of its bytes."""
    kinds = (int,) * len(table.integers) + (str,) * len(table.texts) + (bytes,) * len(table.blobs)

    def decode(row: bytes) -> tuple[Any, ...]:
        values: list[Any] = []
        at = 2
        for kind in kinds:
            (length,) = _LENGTH.unpack_from(row, at)
            at += 4
            if length < 0:
                values.append(None)
                continue
            data = row[at : at + length]
            at += length
            values.append(int.from_bytes(data, signed=True) if kind is int else data.decode() if kind is str else data)
        return tuple(values)

    return decode


class LargeRow(NamedTuple):
    """A row that is too large to be there as a whole."""

    head: bytes
    """All columns but the large ones, as ``encoder`` has them made."""
    sizes: Sequence[int | None]
    """Of the large ones; None where there is no value."""
    pieces: Callable[[int], AsyncIterator[bytes]]
    """Reads one of the large ones, by its place among them."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the row's bytes, which are the same as of one that is there as a whole."""
        (columns,) = _COUNT.unpack_from(self.head)
        yield _COUNT.pack(columns + len(self.sizes)) + self.head[_COUNT.size :]
        for place, size in enumerate(self.sizes):
            yield _NULL if size is None else _LENGTH.pack(size)
            async for piece in self.pieces(place):
                yield piece


class Parts:
    """Makes parts of rows: so many, or so many bytes; a larger row is a part by itself."""

    MOST_ROWS, MOST_BYTES = 10_000, 2 * 1024 * 1024

    def __init__(self) -> None:
        self._rows: list[bytes] = []
        self._bytes = 0

    def add(self, row: bytes) -> list[bytes]:
        """Add a row; return the part before it, where that is full, else nothing."""
        full = self._bytes + len(row) > self.MOST_BYTES or len(self._rows) == self.MOST_ROWS
        part = self.rest() if full else []
        self._rows.append(row)
        self._bytes += len(row)
        return part

    def rest(self) -> list[bytes]:
        """Return what has been added since the last part."""
        part, self._rows, self._bytes = self._rows, [], 0
        return part


def integer_key(table: Table, row: bytes) -> tuple[int, ...]:
    """Return a row's key, which is of integers."""
    return tuple(_INTEGER.unpack_from(row, _COUNT.size + place * _INTEGER.size)[1] for place in range(table.key))


class Splitter:
    """Finds the rows in what PostgreSQL sends, in whatever pieces that comes."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False

    def split(self, piece: bytes) -> list[bytes]:
        """Return the rows that are whole by now."""
        data = self._rest + piece if self._rest else piece
        at = 0
        if not self._begun:
            if len(data) < len(HEADER):
                self._rest = data
                return []
            self._begun, at = True, len(HEADER)
        rows = []
        while (end := _end(data, at)) is not None:
            rows.append(data[at:end])
            at = end
        self._rest = data[at:]
        return rows


def _end(data: bytes, at: int) -> int | None:
    """Return where the row ends that begins here; None where it does not end here, or is the trailer."""
    length_of = _LENGTH.unpack_from
    try:
        (columns,) = _COUNT.unpack_from(data, at)
        at += 2
        for _ in range(columns):
            (length,) = length_of(data, at)
            at += 4 + length if length > 0 else 4
    except struct.error:  # it goes on in the next piece
        return None
    return at if columns >= 0 and at <= len(data) else None


class Digest:
    """SHA-256 over a table's rows, in the order of their key."""

    def __init__(self, table: Table) -> None:
        self.rows = 0
        self._table = table
        self._hash = hashlib.sha256()
        self.parts: list[tuple[bytes, tuple[int, ...]]] = []
        """What it was after every thousandth row, and that row's key."""

    def add(self, rows: Sequence[bytes]) -> None:
        at = 0
        while at < len(rows):
            until = min(at + _PART_ROWS - self.rows % _PART_ROWS, len(rows))
            self._hash.update(b"".join(rows[at:until]))
            self._count(until - at, rows[until - 1])
            at = until

    async def add_large(self, row: LargeRow) -> None:
        async for chunk in row.chunks():
            self._hash.update(chunk)
        self._count(1, row.head)

    def _count(self, rows: int, last: bytes) -> None:
        self.rows += rows
        if self.rows % _PART_ROWS == 0 and self._table.integers:
            self.parts.append((self._hash.digest(), integer_key(self._table, last)))

    def hex(self) -> str:
        return self._hash.hexdigest()

    def same_until(self, other: "Digest") -> tuple[int, ...] | None:
        """Return the key of a row up to which both are the same, the last one that is known; None where none is."""
        last = None
        for (digest, key), (others, _) in zip(self.parts, other.parts, strict=False):
            if digest != others:
                break
            last = key
        return last
