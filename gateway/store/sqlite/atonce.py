"""Statements whose rows come out in one step.

Owns how many rows become one value and rows again. Called in the database's thread.

Each row that is stepped to hands the interpreter's lock back and forth. Beside a busy event loop that takes up to the
switch interval each time: 200 rows, which are half a millisecond's work, took 20 to 40 ms there and 270 at worst, and
as one value 11 and 30. All others wait for the thread meanwhile.
"""

from collections.abc import Iterable
from sqlite3 import Connection
from typing import Any

import msgspec

__all__ = ["AtOnce", "at_once", "fetch"]

_DECODER = msgspec.json.Decoder(list)


class AtOnce(str):
    """A statement that returns its rows as one JSON array of arrays."""

    blobs: tuple[int, ...]
    """Which columns are bytes, of UTF-8."""

    def __new__(cls, statement: str, blobs: tuple[int, ...]) -> "AtOnce":
        made = super().__new__(cls, statement)
        made.blobs = blobs
        return made


def at_once(statement: str, columns: int, blobs: Iterable[int] = ()) -> str:
    """Make a statement of so many columns return all of its rows at once, in their order.

    SQLite keeps the order of a query within one that aggregates, unless that one only counts or takes the least or
    greatest (https://www.sqlite.org/optoverview.html, "Omit ORDER BY clauses on subqueries").
    """
    blobs = tuple(blobs)
    names = [f"c{number}" for number in range(columns)]
    values = [f"CAST({name} AS TEXT)" if number in blobs else name for number, name in enumerate(names)]
    return AtOnce(
        f"WITH its ({', '.join(names)}) AS ({statement})\n"
        f"SELECT json_group_array(json_array({', '.join(values)})) FROM its",
        blobs,
    )


def fetch(db: Connection, statement: str, parameters: Any = ()) -> list[Any]:
    """Run a statement and return its rows."""
    found = db.execute(statement, parameters).fetchall()
    if not isinstance(statement, AtOnce):
        return found
    rows: list[Any] = _DECODER.decode(found[0][0])
    for number in statement.blobs:
        for row in rows:
            if row[number] is not None:
                row[number] = row[number].encode()
    return rows
