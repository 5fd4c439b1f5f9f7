"""A SQLite file that is copied from or to: opened as a gateway opens it, so that none has it meanwhile.

Called through ``gateway.store.copying.CopySide``.
"""

import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from gateway.core.errors import StoreError, StoreUnusable
from gateway.store.copying import Take
from gateway.store.copyrows import Parts, decoder, encode
from gateway.store.copytables import COPYING, META, MOST_WATCHERS, TABLES, Table
from gateway.store.sqlite import databasefile, sql
from gateway.store.sqlite.database import Database

__all__ = ["SqliteCopySide"]

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
        found, known = databasefile.schema(self._path), max(databasefile.migrations())
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
        return int(await self._one(f"SELECT count(*) FROM {table.name} WHERE {table.where}") or 0)  # noqa: S608

    async def last(self, table: Table) -> tuple[int, ...] | None:
        key = ", ".join(table.key_columns)
        descending = ", ".join(f"{column} DESC" for column in table.key_columns)
        rows = await self._database.read(f"SELECT {key} FROM {table.name} ORDER BY {descending} LIMIT 1")  # noqa: S608
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

    async def read(self, table: Table, after: tuple[int, ...] | None, take: Take) -> None:
        async with self._database.reading():
            parts = await self._database.call(lambda db: _encoded(db, table, after))
            try:
                while part := await self._database.call(lambda _: next(parts, None)):
                    await take(part)
            finally:
                await self._database.call(lambda _: parts.close())  # in its thread, where it may be at work still

    async def mark(self, value: bytes) -> None:
        await self._write(lambda db: db.execute(sql.INSERT_META, (COPYING, value)))

    async def write(self, table: Table, rows: list[bytes]) -> None:
        await self._write(lambda db: db.executemany(_insert(table), map(decoder(table), rows)))

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


_WATCHERS = TABLES[0].columns.index("watchers")
_NUMBERED = "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%'"


def _select(table: Table, after: tuple[int, ...] | None) -> str:
    key = ", ".join(table.key_columns)
    above = "" if after is None else f"AND ({key}) > ({', '.join('?' * table.key)})"
    return f"SELECT {', '.join(table.columns)} FROM {table.name} WHERE {table.where} {above} ORDER BY {key}"  # noqa: S608


def _insert(table: Table) -> str:
    columns = ", ".join(table.columns)
    return f"INSERT INTO {table.name} ({columns}) VALUES ({', '.join('?' * len(table.columns))})"  # noqa: S608


def _encoded(db: sqlite3.Connection, table: Table, after: tuple[int, ...] | None) -> Generator[list[bytes]]:
    """Yield rows in parts."""
    parts = Parts()
    with closing(db.execute(_select(table, after), after or ())) as cursor:
        for row in map(encode, cursor if table.name != "tasks" else map(_named, cursor)):
            if part := parts.add(row):
                yield part
    if part := parts.rest():
        yield part


def _named(task: tuple[Any, ...]) -> tuple[Any, ...]:
    watchers = task[_WATCHERS].split(",", MOST_WATCHERS)
    if len(watchers) <= MOST_WATCHERS:
        return task
    return (*task[:_WATCHERS], ",".join(watchers[:MOST_WATCHERS]), *task[_WATCHERS + 1 :])
