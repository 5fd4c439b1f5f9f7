"""A SQLite file that is copied from or to: opened as a gateway opens it, so that none has it meanwhile.

Called through ``gateway.store.copying.CopySide``.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from gateway.core.errors import StoreError, StoreUnusable
from gateway.store.copying import Take
from gateway.store.copying.rows import LARGE, PIECE, LargeRow, Parts, decoder, encoder
from gateway.store.copying.tables import COPYING, META, MOST_WATCHERS, Table
from gateway.store.sqlite import databasefile, sql
from gateway.store.sqlite.database import Database

T = TypeVar("T")


class SqliteCopySide:
    """``gateway.store.copying.CopySide`` on one file."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._database = Database(path)

    async def open_source(self) -> None:
        if not self._path.exists():
            raise StoreUnusable(f"There is no file {self.name}.")
        if databasefile.schema(self._path) == 0:
            raise StoreUnusable(f"{self.name} holds no gateway's data.")
        await self._open()

    async def open_target(self) -> None:
        await self._open()

    async def _open(self) -> None:
        found, known = databasefile.schema(self._path), databasefile.newest()
        if found and found < known:
            raise StoreUnusable(
                f"{self.name} was last opened by an older version (schema {found}, this one makes {known}); it was not "
                "touched. Start this version's gateway on it once, then stop it and copy."
            )
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def columns(self, table: Table) -> set[str]:
        return {name for (name,) in await self._database.read("SELECT name FROM pragma_table_info(?)", (table.name,))}

    async def count(self, table: Table) -> int:
        return int(await self._one(table.select_count()))

    async def last(self, table: Table) -> tuple[int, ...] | None:
        rows = await self._database.read(table.select_last())
        return tuple(rows[0]) if rows else None

    async def highest(self, table: Table) -> int:
        given = await self._one("SELECT seq FROM sqlite_sequence WHERE name = ?", table.name)
        last = await self.last(table)
        return max(given or 0, last[0] if last else 0)

    async def value(self, key: str) -> bytes | None:
        found = await self._one(sql.SELECT_META, key)
        return None if found is None else bytes(found)

    async def _one(self, statement: str, *parameters: Any) -> Any:
        rows = await self._database.read(statement, parameters)
        return rows[0][0] if rows else None

    async def large(self, table: Table) -> list[int]:
        return [seq for (seq,) in await self._database.read(table.select_large(LARGE))]

    async def read(self, table: Table, after: tuple[int, ...] | None, before: int | None, take: Take) -> None:
        async with self._database.reading():
            parts = await self._database.call(lambda db: _encoded(db, table, table.select(after, before)))
            try:
                part = await self._database.call(lambda _: next(parts, None))
                while part:
                    # While one part is taken, the next one is read.
                    following = asyncio.ensure_future(self._database.call(lambda _: next(parts, None)))
                    try:
                        await take(part)
                    finally:
                        part = await following
            finally:
                await self._database.call(lambda _: parts.close())

    async def read_large(self, table: Table, seq: int) -> LargeRow:
        (head,) = await self._database.read(table.select_head(seq))
        (sizes,) = await self._database.read(table.select_sizes(seq))

        async def pieces(place: int) -> AsyncIterator[bytes]:
            for start in range(0, sizes[place] or 0, PIECE):
                async with self._database.reading():
                    yield await self._database.call(_piece, table, place, seq, start)

        return LargeRow(_encoder(table.head)(head), sizes, pieces)

    async def mark(self, value: bytes) -> None:
        await self._write(lambda db: db.execute(sql.INSERT_META, (COPYING, value)))

    async def write(self, table: Table, rows: list[bytes]) -> None:
        await self._write(lambda db: db.executemany(_insert(table), map(decoder(table), rows)))

    async def write_large(self, table: Table, row: LargeRow) -> None:
        loop = asyncio.get_running_loop()

        def write(db: sqlite3.Connection) -> None:
            head = decoder(table.head)(row.head)
            room = ("?" if size is None else f"zeroblob({size})" for size in row.sizes)
            nulls = (None for size in row.sizes if size is None)
            values = ", ".join((*("?" * len(head)), *room))
            db.execute(f"INSERT INTO {table.name} ({', '.join(table.columns)}) VALUES ({values})", (*head, *nulls))  # noqa: S608 - see copying.tables
            for place, size in enumerate(row.sizes):
                if size:
                    with db.blobopen(table.name, table.large[place], head[0]) as blob:
                        pieces = row.pieces(place)
                        while piece := asyncio.run_coroutine_threadsafe(_next(pieces), loop).result():
                            blob.write(piece)

        await self._write(write)

    async def finish(self, meta: list[bytes], highest: dict[str, int]) -> None:
        numbered = {name for (name,) in await self._database.read(_NUMBERED)}

        def finish(db: sqlite3.Connection) -> None:
            db.execute(f"DELETE FROM meta WHERE {META.where}")  # noqa: S608 - all of these texts are this package's own
            db.executemany(_insert(META), map(decoder(META), meta))
            for name in numbered & highest.keys():
                db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
                db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, highest[name]))

        await self._write(finish)

    async def unmark(self) -> None:
        await self._write(lambda db: db.execute("DELETE FROM meta WHERE key = ?", (COPYING,)))

    async def _write(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        try:
            await self._database.transaction(work)
        except sqlite3.Error as exc:
            raise StoreError(f"{databasefile.explain(exc, self._path)} The same command goes on from there.") from exc


_NUMBERED = "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%'"


def _insert(table: Table) -> str:
    columns = ", ".join(table.columns)
    return f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join('?' * len(table.columns))})"  # noqa: S608


def _encoded(db: sqlite3.Connection, table: Table, statement: str) -> Generator[list[bytes]]:
    """Yield rows in parts."""
    parts = Parts()
    with closing(db.execute(statement)) as cursor:
        for row in map(_encoder(table), cursor):
            if part := parts.add(row):
                yield part
    if part := parts.rest():
        yield part


def _encoder(table: Table) -> Callable[[tuple[Any, ...]], bytes]:
    encode = encoder(table)
    if "watchers" not in table.columns:
        return encode
    place = table.columns.index("watchers")

    def encode_task(task: tuple[Any, ...]) -> bytes:
        watchers = task[place]
        if watchers.count(",") >= MOST_WATCHERS:
            first = ",".join(watchers.split(",", MOST_WATCHERS)[:MOST_WATCHERS])
            task = (*task[:place], first, *task[place + 1 :])
        return encode(task)

    return encode_task


def _piece(db: sqlite3.Connection, table: Table, place: int, seq: int, start: int) -> bytes:
    with db.blobopen(table.name, table.large[place], seq, readonly=True) as blob:
        blob.seek(start)
        return blob.read(PIECE)


async def _next(pieces: AsyncIterator[bytes]) -> bytes:
    return await anext(pieces, b"")
