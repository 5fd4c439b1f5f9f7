"""Statements whose rows come out in one step.

Owns how many rows become one value and rows again. Called in the database's thread.

Each row that is stepped to hands the interpreter's lock back and forth. Beside a busy event loop that takes up to the
switch interval each time: 200 rows, which are half a millisecond's work, took 20 to 40 ms there and 270 at worst, and
as one value 11 and 30. All others wait for the thread meanwhile.
"""

from sqlite3 import Connection
from typing import Any

import msgspec

_ROWS = msgspec.json.Decoder(list)
_WITH_ENCODED = msgspec.json.Decoder(list[tuple[list[Any], msgspec.Raw]])


class AtOnce(str):
    """A statement that returns its rows as one JSON array of arrays."""

    encoded: int | None
    """Which column is JSON, as bytes; None: none."""

    def __new__(cls, statement: str, encoded: int | None) -> "AtOnce":
        made = super().__new__(cls, statement)
        made.encoded = encoded
        return made


def at_once(statement: str, columns: int, encoded: int | None = None) -> str:
    """Make a statement of so many columns return all of its rows at once, in their order; ``encoded``: see ``AtOnce``.

    What is JSON is put in as it is: as a text in a text, 200 rows of 6 kB took four times as long as row by row.

    SQLite keeps the order of a query within one that aggregates, unless that one only counts or takes the least or
    greatest (https://www.sqlite.org/optoverview.html, "Omit ORDER BY clauses on subqueries").
    """
    names = [f"c{number}" for number in range(columns)]
    row = f"json_array({', '.join(name for number, name in enumerate(names) if number != encoded)})"
    rows = f"json_group_array({row})"
    if encoded is not None:
        rows = f"'[' || coalesce(group_concat('[' || {row} || ',' || CAST(c{encoded} AS TEXT) || ']'), '') || ']'"
    return AtOnce(f"WITH its ({', '.join(names)}) AS ({statement})\nSELECT {rows} FROM its", encoded)


def fetch(db: Connection, statement: str, parameters: Any = ()) -> list[Any]:
    """Run a statement and return its rows."""
    found = db.execute(statement, parameters).fetchall()
    if not isinstance(statement, AtOnce):
        return found
    if (place := statement.encoded) is None:
        rows: list[Any] = _ROWS.decode(found[0][0])
        return rows
    return [(*row[:place], bytes(value), *row[place:]) for row, value in _WITH_ENCODED.decode(found[0][0])]
