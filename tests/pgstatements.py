"""The statements of PostgreSQL, one by one: for the tests that look at each of them on a real server."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import asyncpg

from gateway.core.model import CallbackState
from gateway.store.dialect import Counted
from gateway.store.postgres import createsql, deliversql, leadsql, locksql, registersql, searchsql, sql, watchsql

__all__ = ["Session", "positional", "statements"]

SCHEMA = sorted(Path(sql.__file__).with_name("migrations").glob("*.sql"))


def statements() -> dict[str, str]:
    """Return every statement by its name."""
    found: dict[str, str] = {}
    for module in (sql, watchsql, createsql, searchsql, deliversql, registersql, leadsql, locksql):
        for name, value in vars(module).items():
            if name.isupper() and not name.startswith("_") and name not in ("PLANNER", "CALLBACK", "TASK"):
                found |= {f"{name}{part}": text for part, text in _texts(value)}
    for state in (None, CallbackState.DEAD):
        for by_task, every_client in ((False, False), (True, False), (True, True), (False, True)):
            if by_task or not (every_client and state):
                text = sql.select_callbacks(state=state, by_task=by_task, every_client=every_client)
                found[f"select_callbacks {state} {by_task} {every_client}"] = text
    return found


def _texts(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield "", value
    elif isinstance(value, Counted):
        yield " part", value.part
        yield " end", value.end
    elif isinstance(value, dict):
        yield from ((f" {column}", text) for column, text in value.items())


def positional(text: str) -> tuple[str, list[str]]:
    """Return a statement with numbers for its parameters' names, and these names in the numbers' order."""
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    return re.sub(r"(?<![:\w]):([a-z_]+)", number, text), names


class Session:
    """A connection, as the store has one."""

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self.connection = connection

    @classmethod
    async def connect(cls, url: str, **settings: str) -> "Session":
        return cls(await asyncpg.connect(url, server_settings={**sql.PLANNER, **settings}))

    async def migrate(self) -> None:
        async with self.connection.transaction():
            for migration in SCHEMA:
                await self.connection.execute(migration.read_text("utf-8"))

    async def close(self) -> None:
        await self.connection.close()

    async def run(self, statement: str, parameters: Mapping[str, Any] | Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement once."""
        text, names = positional(statement)
        values = [parameters[name] for name in names] if isinstance(parameters, Mapping) else parameters
        return [tuple(row) for row in await self.connection.fetch(text, *values)]

    async def rows(self, statement: str, *rows: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Run a statement over rows."""
        return await self.run(statement, [list(column) for column in zip(*rows, strict=True)])

    async def claim(self, room: int) -> list[tuple[Any, ...]]:
        """Claim webhooks that fall due by 10 of ann's to example.com; return their rows."""
        about = (["ann"], ["https://example.com"], [room], [True], [0], 10, 60_000)
        return [row for row in await self.run(deliversql.CLAIM_WEBHOOKS, about) if row[1] is not None]

    async def table(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        """Look into a table."""
        return [tuple(row) for row in await self.connection.fetch(text, *values)]
