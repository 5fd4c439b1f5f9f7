"""A PostgreSQL database that is copied from or to, with locks that last as long as their connection and no longer.

A source is read within one transaction, whose snapshot and whose locks nobody can change anything under. A target is
written part by part, while another connection holds what every replica needs to begin. Called through
``gateway.store.copying.CopySide``.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import asyncpg
import msgspec

from gateway.core.errors import StoreError, StoreUnusable
from gateway.store.copying import Take
from gateway.store.copying.rows import HEADER, LARGE, PIECE, TRAILER, LargeRow, Parts, Splitter
from gateway.store.copying.tables import COPYING, META, TABLES, Table
from gateway.store.postgres import schema
from gateway.store.postgres.errors import FAILURES, explain
from gateway.store.postgres.session import Session, connect
from gateway.store.postgres.url import Servers

_LIMIT_S = 30 * 86_400.0
"""Of one statement, for asyncpg, which knows no none: a whole table is read by one."""
_LIMITS = {
    "statement_timeout": "0",
    "lock_timeout": "3s",  # autovacuum gives way after one
    "idle_in_transaction_session_timeout": "0",
    # In the order of its key a table is read by the key's index: sorted it would have to be there whole.
    "enable_sort": "off",
}
_LOCAL = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in _LIMITS.items())
_LOCK_SOURCE = f"LOCK TABLE leads, {', '.join(table.name for table in TABLES)} IN SHARE MODE"
_LOCK_TARGET = "LOCK TABLE leads IN EXCLUSIVE MODE"
_IS_THERE = "SELECT to_regclass('meta') IS NOT NULL AND to_regclass('leads') IS NOT NULL"
_COLUMNS = """
SELECT column_name FROM information_schema.columns
WHERE table_schema = current_schema() AND table_name = $1 AND NOT (table_name, column_name) IN (
    ('callbacks', 'claimed_at'), ('callbacks', 'claimed_until'), ('callbacks', 'fence'))
"""
"""Without those that say who has claimed a webhook: nobody has where nobody is at work."""
_AT_WORK = """
SELECT ceil((max(until) - gateway_now()) / 1000.0) FROM (
    SELECT max(expires_at) FROM leads UNION ALL SELECT max(claimed_until) FROM callbacks WHERE claimed_until > 0
) AS known (until) HAVING max(until) > gateway_now()
"""
_SEQUENCE = "SELECT pg_get_serial_sequence($1, 'seq')"


class PostgresCopySide:
    """``gateway.store.copying.CopySide`` on one database."""

    def __init__(self, url: str, password: str | None = None) -> None:
        """Take what ``Servers`` takes. Raises ValueError."""
        self._servers = Servers(url, password)
        self.name = f"postgresql: {self._servers}"
        self._sessions: list[Session] = []
        self._snapshot = False  # whether all that is read belongs to one transaction

    async def open_source(self) -> None:
        raw = await self._connect()
        async with self._transaction():
            await self._see_that_nobody_is_at_work(raw)
        # The locks before anything is read: all is read as it is then.
        await self._lock(raw, f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_LOCAL}; {_LOCK_SOURCE}")
        self._snapshot = True
        await self._check_version()

    async def open_target(self) -> None:
        raw = await self._connect()
        if not await self._one(_IS_THERE):
            with _explained():
                await schema.upgrade(self._sessions[0], schema.migrations())
        await self._check_version()
        async with self._transaction():
            await self._see_that_nobody_is_at_work(raw)
        await self._lock(await self._connect(), f"BEGIN; {_LOCAL}; {_LOCK_TARGET}")

    async def _connect(self) -> Any:
        for problem in self._servers.problems():
            raise StoreUnusable(f"{self.name}: {problem}")
        session = await connect(self._servers, {})
        self._sessions.append(session)
        return session.raw

    async def _check_version(self) -> None:
        stored, known = await self.value("schema"), max(schema.migrations())
        found = 0 if stored is None else msgspec.json.decode(stored, type=schema.SchemaVersion).version
        if found != known:
            advice = "Run that version's command" if found > known else "Start this version's gateway on it once"
            raise StoreUnusable(
                f"{self.name} has the schema of another version ({found}; this one's is {known}); nothing was changed. "
                f"{advice}."
            )

    async def _lock(self, raw: Any, statements: str) -> None:
        """Wait for those who are at work at this moment, and see that they will not go on."""
        with _explained():
            try:
                await raw.execute(statements)
            except asyncpg.LockNotAvailableError as exc:
                raise StoreUnusable(
                    f"{self.name} is in use by a gateway, or by another copy. Stop these first."
                ) from exc
            await self._see_that_nobody_is_at_work(raw)

    async def _see_that_nobody_is_at_work(self, raw: Any) -> None:
        try:
            seconds = await raw.fetchval(_AT_WORK, timeout=_LIMIT_S)
        except asyncpg.UndefinedTableError as exc:
            raise StoreUnusable(f"{self.name} holds no gateway's data.") from exc
        if seconds is not None:
            raise StoreUnusable(
                f"{self.name} is in use by a gateway, or was a moment ago. Stop all its replicas, and try again: "
                f"what one that was killed had claimed is free in {seconds} s."
            )

    async def close(self) -> None:
        while self._sessions:
            await self._sessions.pop().close()

    @property
    def _raw(self) -> Any:
        return self._sessions[0].raw

    async def columns(self, table: Table) -> set[str]:
        async with self._transaction():
            return {name for (name,) in await self._raw.fetch(_COLUMNS, table.name)}

    async def count(self, table: Table) -> int:
        return int(await self._one(table.select_count()))

    async def last(self, table: Table) -> tuple[int, ...] | None:
        found = await self._rows(table.select_last())
        return tuple(found[0]) if found else None

    async def highest(self, table: Table) -> int:
        sequence = await self._one(_SEQUENCE, table.name)
        statement = f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}"  # noqa: S608 - it quotes it
        last = await self.last(table)
        return max(int(await self._one(statement)), last[0] if last else 0)

    async def value(self, key: str) -> bytes | None:
        found: bytes | None = await self._one("SELECT value FROM meta WHERE key = $1", key)
        return found

    async def _one(self, statement: str, *parameters: Any) -> Any:
        rows = await self._rows(statement, *parameters)
        return rows[0][0] if rows else None

    async def _rows(self, statement: str, *parameters: Any) -> list[Any]:
        async with self._transaction():
            rows: list[Any] = await self._raw.fetch(statement, *parameters, timeout=_LIMIT_S)
            return rows

    async def large(self, table: Table) -> list[int]:
        return [seq for (seq,) in await self._rows(table.select_large(LARGE))]

    async def read(self, table: Table, after: tuple[int, ...] | None, before: int | None, take: Take) -> None:
        splitter, parts = Splitter(), Parts()

        async def add(piece: bytes) -> None:
            for row in splitter.split(piece):
                if part := parts.add(row):
                    await take(part)

        async with self._transaction():
            query = table.select(after, before)
            await self._raw.copy_from_query(query, output=add, format="binary", timeout=_LIMIT_S)
        if part := parts.rest():
            await take(part)

    async def read_large(self, table: Table, seq: int) -> LargeRow:
        splitter = Splitter()
        found: list[bytes] = []

        async def add(piece: bytes) -> None:
            found.extend(splitter.split(piece))

        async with self._transaction():
            await self._raw.copy_from_query(table.select_head(seq), output=add, format="binary", timeout=_LIMIT_S)
            sizes = tuple(await self._raw.fetchrow(table.select_sizes(seq)))

        async def pieces(place: int) -> AsyncIterator[bytes]:
            column = table.large[place]
            for start in range(0, sizes[place] or 0, PIECE):
                part = f"substring({column} FROM {start + 1} FOR {PIECE})"
                yield await self._one(f"SELECT {part} FROM {table.name} WHERE seq = {seq}")  # noqa: S608 - see copying.tables

        return LargeRow(found[0], sizes, pieces)

    async def mark(self, value: bytes) -> None:
        async with self._transaction():
            await self._raw.execute("INSERT INTO meta (key, value) VALUES ($1, $2)", COPYING, value)

    async def write(self, table: Table, rows: list[bytes]) -> None:
        async with self._transaction():
            await self._add(table, _pieces(b"".join(rows)))

    async def write_large(self, table: Table, row: LargeRow) -> None:
        async with self._transaction():
            await self._add(table, row.chunks())

    async def finish(self, meta: list[bytes], highest: dict[str, int]) -> None:
        async with self._transaction():
            await self._raw.execute(f"DELETE FROM meta WHERE {META.where}")  # noqa: S608 - see copying.tables
            await self._add(META, _pieces(b"".join(meta)))
            for name, number in highest.items():
                if number:
                    await self._raw.fetchval(f"SELECT setval(({_SEQUENCE}), $2)", name, number)
            # Until autovacuum comes, which may be a minute, the planner would take the tables for empty.
            await self._raw.execute(f"ANALYZE {', '.join(table.name for table in TABLES)}", timeout=_LIMIT_S)

    async def _add(self, table: Table, rows: AsyncIterator[bytes]) -> None:
        async def source() -> AsyncIterator[bytes]:
            yield HEADER
            async for piece in rows:
                yield piece
            yield TRAILER

        await self._raw.copy_to_table(
            table.name, source=source(), columns=table.columns, format="binary", timeout=_LIMIT_S
        )

    async def unmark(self) -> None:
        async with self._transaction():
            await self._raw.execute("DELETE FROM meta WHERE key = $1", COPYING)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        """Have what is done within be one transaction; of a source it belongs to that one anyway. Raises StoreError."""
        raw = self._raw
        with _explained():
            if self._snapshot:
                yield
                return
            await raw.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; {_LOCAL}")
            try:
                yield
                await raw.execute("COMMIT")
            except BaseException:
                with suppress(*FAILURES):
                    await raw.execute("ROLLBACK")
                raise


async def _pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except FAILURES as exc:
        raise StoreError(f"{explain(exc).message} The same command goes on from there.") from exc
