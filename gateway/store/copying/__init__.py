"""Copies one database's data into another, of whatever kind each is: offline, checked, and to be gone on with.

Owns the order of it all, and when it is refused. The tables stand in ``tables``, how a row is passed on in ``rows``.
What is done in one kind of database is the ``CopySide`` in its engine's folder, as only that knows its driver and its
statements. Called by ``gateway.cli.copydatabase``.

Each table is copied in the order of its key, part by part, each part durable before the next. So what stands in the
target says where to go on, and a mark in its ``meta`` which copy it belongs to; while that stands no gateway opens it.
The source is read through once, whatever of it is there already, and in the end the target: each table's count and
digest are to be the same.
"""

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import msgspec

from gateway.core.errors import StoreError, StoreUnusable
from gateway.store.copying.rows import Digest, LargeRow, integer_key
from gateway.store.copying.tables import COPYING, META, TABLES, Table

Take = Callable[[list[bytes]], Awaitable[None]]
"""Takes the next rows, in the form of ``rows``."""


class CopySide(Protocol):
    """A database that is copied from or to, and that nobody else uses meanwhile. All methods may raise StoreError."""

    name: str
    """What to call it in messages: without a password."""

    async def open_source(self) -> None:
        """Keep everybody else from changing it. Raises StoreUnusable: it is in use, not there, or of another schema."""

    async def open_target(self) -> None:
        """Keep everybody else out, and make the schema where nothing is there. Raises StoreUnusable, as above."""

    async def close(self) -> None:
        """Let it go."""

    async def columns(self, table: Table) -> set[str]:
        """Return the names of a table's columns that hold data, which are to be those of ``tables``."""

    async def count(self, table: Table) -> int:
        """Return how many rows of data a table has."""

    async def last(self, table: Table) -> tuple[int, ...] | None:
        """Return the highest key of a table whose key is of integers."""

    async def highest(self, table: Table) -> int:
        """Return the highest number that a numbered table has given to a row, which may be gone; 0 where to none."""

    async def value(self, key: str) -> bytes | None:
        """Return a value of ``meta``."""

    async def large(self, table: Table) -> list[int]:
        """Return the keys, in their order, of the rows that are large: see ``rows``."""

    async def read(self, table: Table, after: tuple[int, ...] | None, before: int | None, take: Take) -> None:
        """Hand over the rows of data with a key above ``after`` and below ``before``, in its order, in parts."""

    async def read_large(self, table: Table, seq: int) -> LargeRow:
        """Return a large row."""

    async def mark(self, value: bytes) -> None:
        """Put the mark of a copy into ``meta``, where none is."""

    async def write(self, table: Table, rows: list[bytes]) -> None:
        """Add rows, in one transaction."""

    async def write_large(self, table: Table, row: LargeRow) -> None:
        """Add a large row, in one transaction."""

    async def finish(self, meta: list[bytes], highest: dict[str, int]) -> None:
        """Put this data into ``meta`` in the place of what is there, and number new rows from there on."""

    async def unmark(self) -> None:
        """Take the mark away: the copy is whole."""


class Progress(Protocol):
    """Shows somebody how far it is."""

    def stage(self, name: str, rows: int, done: int) -> AbstractContextManager[Callable[[int], None]]:
        """Show that this begins, with so many rows in all; lends what is told of each part, with how many it has."""


class Copied(NamedTuple):
    """A table that is the same on both sides."""

    name: str
    rows: int
    sha256: str


class _Mark(msgspec.Struct):
    """Which copy the rest of one belongs to."""

    source: str
    """A digest of the source's ``secret_key``, which no other database has but its copies."""
    rows: dict[str, int]
    """How many each table had when the copy began."""


def refuse_unfinished(mark: bytes | None) -> None:
    """Raise StoreUnusable where a database has the mark of a copy that is not finished."""
    if mark is not None:
        raise StoreUnusable(
            "The database is an unfinished copy of another. Run `gateway copy-database FROM TO` again, which goes on "
            "with it; or go on with the database that it was copied from."
        )


async def copy_database(source: CopySide, target: CopySide, progress: Progress) -> list[Copied]:
    """Copy all data; return what stands in both. Raises StoreUnusable before anything is changed, and StoreError."""
    try:
        await source.open_source()
        await _check_columns(source)
        refuse_unfinished(await source.value(COPYING))
        rows = {table.name: await source.count(table) for table in TABLES}
        mark = _Mark(await _identity(source), rows)
        await target.open_target()
        await _check_columns(target)
        await _begin(source, target, mark)
        digests = await _copy(source, target, rows, progress)
        copied = await _compare(source, target, digests, progress)
        await target.unmark()
        return copied
    finally:
        await target.close()
        await source.close()


async def _check_columns(side: CopySide) -> None:
    for table in TABLES:
        if unlike := sorted(await side.columns(table) ^ set(table.columns)):
            raise StoreUnusable(
                f"{side.name} has another schema than this version of the gateway ({table.name}: "
                f"{', '.join(unlike)}). Run the command of the version that last opened it."
            )


async def _identity(source: CopySide) -> str:
    secret = await source.value("secret_key")
    if secret is None:
        raise StoreUnusable(f"{source.name} holds no gateway's data.")
    return hashlib.sha256(secret).hexdigest()


async def _begin(source: CopySide, target: CopySide, mark: _Mark) -> None:
    """See that the target is empty and mark it, or that it has a part of this copy. Raises StoreUnusable."""
    found = await target.value(COPYING)
    if found is None:
        if held := [f"{count} in {table.name}" for table, count in await _data(target) if count]:
            raise StoreUnusable(
                f"{target.name} is not empty ({', '.join(held)}); nothing was changed. "
                "Give a database with nothing in it."
            )
        await target.mark(msgspec.json.encode(mark))
        return
    known = msgspec.json.decode(found, type=_Mark)
    if known.source != mark.source:
        raise StoreUnusable(
            f"{target.name} has a part of another database than {source.name}; nothing was changed. "
            f"Go on with that one, or {_ANEW}."
        )
    if known.rows != mark.rows:
        raise StoreUnusable(
            f"{source.name} was changed since this copy of it was begun; nothing was copied. "
            f"To copy it as it is now, {_ANEW}."
        )


_ANEW = "give a database with nothing in it for TO"


async def _data(target: CopySide) -> list[tuple[Table, int]]:
    """Count what is there, but for the secret that is made when a database is."""
    made = await target.value("secret_key") is not None
    return [(table, await target.count(table) - (made and table is META)) for table in TABLES]


async def _copy(source: CopySide, target: CopySide, rows: dict[str, int], progress: Progress) -> list[Digest]:
    """Read the source through, and copy what the target lacks; return the digests of what was read."""
    tables = [table for table in TABLES if table is not META]
    done = {table.name: await target.count(table) for table in tables}
    with progress.stage("Copying", sum(rows.values()) - rows[META.name], sum(done.values())) as tell:
        digests = [await _copy_table(source, target, table, tell) for table in tables]
    meta: list[bytes] = []

    async def keep(part: list[bytes]) -> None:
        meta.extend(part)

    await source.read(META, None, None, keep)
    await target.finish(meta, {table.name: await source.highest(table) for table in tables if table.numbered})
    digests.append(Digest(META))
    digests[-1].add(meta)
    return digests


async def _copy_table(source: CopySide, target: CopySide, table: Table, tell: Callable[[int], None]) -> Digest:
    digest = Digest(table)
    last = await target.last(table)

    def is_new(row: bytes) -> bool:
        return last is None or integer_key(table, row) > last

    async def take(part: list[bytes]) -> None:
        digest.add(part)
        # In the order of their keys: most parts are new from their first row on, or have none that is.
        new = part if is_new(part[0]) else [row for row in part if is_new(row)] if is_new(part[-1]) else []
        if new:
            await target.write(table, new)
            tell(len(new))

    async def take_large(row: LargeRow) -> None:
        await digest.add_large(row)
        if is_new(row.head):
            await target.write_large(table, row)
            tell(1)

    await _read(source, table, take, take_large)
    return digest


async def _compare(source: CopySide, target: CopySide, digests: list[Digest], progress: Progress) -> list[Copied]:
    """Read the target through anew. Raises StoreError where it holds something else than was read of the source."""
    copied = []
    with progress.stage("Checking", sum(digest.rows for digest in digests), 0) as tell:
        for table, there in zip(TABLES, digests, strict=True):
            here = await digest_of(target, table, tell)
            if (there.rows, there.hex()) != (here.rows, here.hex()):
                raise StoreError(_difference(source, target, table, there, here))
            copied.append(Copied(table.name, here.rows, here.hex()))
    return copied


def _difference(source: CopySide, target: CopySide, table: Table, there: Digest, here: Digest) -> str:
    counts = "" if there.rows == here.rows else f": {here.rows} rows, not {there.rows}"
    key = there.same_until(here)
    begin = ", ".join(table.key_columns)
    place = "" if key is None else f" The first difference comes after {begin} {', '.join(map(str, key))}."
    return (
        f"{target.name} does not hold what {source.name} holds: {table.name} differs{counts}.{place} "
        f"One of them was changed since the copy was begun. No gateway starts on {target.name}: {_ANEW}."
    )


async def digest_of(side: CopySide, table: Table, tell: Callable[[int], None]) -> Digest:
    """Read a table through; ``tell`` hears of each part how many rows it has. Raises StoreError."""
    digest = Digest(table)

    async def take(part: list[bytes]) -> None:
        digest.add(part)
        tell(len(part))

    async def take_large(row: LargeRow) -> None:
        await digest.add_large(row)
        tell(1)

    await _read(side, table, take, take_large)
    return digest


async def _read(side: CopySide, table: Table, take: Take, take_large: Callable[[LargeRow], Awaitable[None]]) -> None:
    """Read a table through, the large rows by themselves."""
    after = None
    for seq in await side.large(table) if table.large else ():
        await side.read(table, after, seq, take)
        await take_large(await side.read_large(table, seq))
        after = (seq,)
    await side.read(table, after, None, take)
