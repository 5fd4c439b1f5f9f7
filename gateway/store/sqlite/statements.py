"""Statements that are made of a named one: over so many rows, or to count a part at a time.

Pure but for ``run``, which is called in the database's thread. Called by the engine, and by ``sql.py``.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from sqlite3 import Connection
from typing import Any

from gateway.store.dialect import Counted
from gateway.store.sqlite.atonce import AtOnce, fetch

_ROWS = "(VALUES ?)"
# One row at a time, handing the interpreter's lock back and forth cost as much as SQLite's own work; as a JSON array,
# taking it apart took a third of it.
_MOST_ROWS = 256  # what is bound to a statement stays in memory until its next use


def over_rows(statement: str, rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, list[Any]]]:
    """Yield a statement over rows, and its parameters, for so many of the rows at a time.

    It is made for 1, 2, 4, 8, … rows, so that SQLite need not compile it for each number of them. The rest is filled
    up with rows that begin with a NULL, which equals nothing.
    """
    for start in range(0, len(rows), _MOST_ROWS):
        its = rows[start : start + _MOST_ROWS]
        columns = len(its[0])
        size = 1 << (len(its) - 1).bit_length()
        values = [value for row in its for value in row]
        values += [None, *[0] * (columns - 1)] * (size - len(its))  # a NULL takes longer to bind than a number
        yield _sized(statement, columns, size), values


def run(db: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Run a statement over rows, and return what it returns."""
    found: list[Any] = []
    for text, parameters in over_rows(statement, rows):
        found += fetch(db, text, parameters)
    return found


@lru_cache(maxsize=128)  # ten statements in nine sizes
def _sized(statement: str, columns: int, size: int) -> str:
    row = f"({', '.join('?' * columns)})"
    sized = statement.replace(_ROWS, f"(VALUES {', '.join([row] * size)})")
    return AtOnce(sized, statement.encoded) if isinstance(statement, AtOnce) else sized


def counted(label: str, instant: str, source: str, condition: str, keys: str) -> Counted:
    """Make what counts a source's rows that meet a condition by their label, along an index of these keys."""
    columns = keys.count(",") + 1
    after = f"({keys}) > ({', '.join('?' * columns)})"
    part = f"SELECT {keys} FROM {source} WHERE {condition} AND {after} ORDER BY {keys} LIMIT"  # noqa: S608 - constants of ``sql.py``
    return Counted(
        f"SELECT {label}, count(*), min({instant}) FROM ({part} ?) GROUP BY 1",  # noqa: S608 - as above
        f"{part} 1 OFFSET ? - 1",
        ("", *[0] * (columns - 1)),
    )
