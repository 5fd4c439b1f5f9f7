"""How a row is passed on while a database is copied, and what its digest tells."""

import hashlib
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.copying.rows import HEADER, TRAILER, Digest, LargeRow, Parts, Splitter, decoder, encoder, integer_key
from gateway.store.copying.tables import META, OWN_META, TABLES, Table
from gateway.store.sqlite import databasefile

ROWS = Table("rows", ("seq", "number"), ("text",), ("data",), key=2)
encode = encoder(ROWS)
integers = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
rows = st.lists(st.tuples(integers, integers, texts | st.none(), st.binary() | st.none()), max_size=9)


@given(rows=rows)
def test_a_row_comes_out_as_it_went_in(rows: list[tuple[object, ...]]) -> None:
    """Whatever its values are; and its key can be told without the rest."""
    decode = decoder(ROWS)
    for row in rows:
        assert decode(encode(row)) == row
        assert integer_key(ROWS, encode(row)) == row[:2]


@given(rows=rows, size=st.integers(1, 40))
def test_rows_are_found_in_whatever_pieces_they_come(rows: list[tuple[object, ...]], size: int) -> None:
    """A piece may end within a number, or hold many rows; header and trailer are no rows."""
    sent = HEADER + b"".join(map(encode, rows)) + TRAILER
    splitter = Splitter()
    found = [row for at in range(0, len(sent), size) for row in splitter.split(sent[at : at + size])]
    assert found == [*map(encode, rows)]


async def test_a_large_row_has_the_same_bytes_in_pieces() -> None:
    """Also where one of its values is not there, or empty; and so has its digest."""
    table = Table("rows", ("seq",), ("text",), ("small", "a", "b", "c"), large=("a", "b", "c"))
    values = (b"x" * 10, None, b"")

    async def pieces(place: int) -> AsyncIterator[bytes]:
        value = values[place] or b""
        for start in range(0, len(value), 3):
            yield value[start : start + 3]

    sizes = [None if value is None else len(value) for value in values]
    row = LargeRow(encoder(table.head)((7, "t", b"s")), sizes, pieces)
    whole = encoder(table)((7, "t", b"s", *values))
    assert b"".join([chunk async for chunk in row.chunks()]) == whole
    assert decoder(table.head)(row.head) == (7, "t", b"s")
    one, other = Digest(table), Digest(table)
    await one.add_large(row)
    other.add([whole])
    assert (one.hex(), one.rows) == (other.hex(), 1)


def test_a_nul_is_replaced() -> None:
    """PostgreSQL takes none in a text; a blob keeps it."""
    assert decoder(ROWS)(encode((1, 2, "a\0b", b"a\0b"))) == (1, 2, "a\ufffdb", b"a\0b")


def test_parts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By rows and by bytes; a row that is larger than a part is one by itself."""
    monkeypatch.setattr(Parts, "MOST_ROWS", 3)
    monkeypatch.setattr(Parts, "MOST_BYTES", 10)
    parts = Parts()
    made = [parts.add(b"x" * size) for size in (1, 1, 1, 1, 8, 30, 1)]
    assert [[*map(len, part)] for part in made] == [[], [], [], [1, 1, 1], [], [1, 8], [30]]
    assert parts.rest() == [b"x"]
    assert parts.rest() == []


def digest(numbers: list[int]) -> Digest:
    made = Digest(ROWS)
    made.add([encode((number, 0, None, None)) for number in numbers])
    return made


def test_a_digest_is_of_all_rows_in_their_order() -> None:
    """It is the SHA-256 of the rows, one behind the other."""
    one = digest([1, 2])
    assert (one.rows, one.hex()) == (
        2,
        hashlib.sha256(encode((1, 0, None, None)) + encode((2, 0, None, None))).hexdigest(),
    )
    assert len({digest(numbers).hex() for numbers in ([1, 2], [2, 1], [1], [1, 2, 3])}) == 4


@pytest.mark.parametrize(("changed", "place"), [(1, None), (999, None), (1000, 1000), (2600, 2000), (None, 3000)])
def test_a_difference_has_a_place(changed: int | None, place: int | None) -> None:
    """To a thousand rows."""
    numbers = [*range(1, 3001)]
    others = [-number if at == changed else number for at, number in enumerate(numbers)]
    found = digest(numbers).same_until(digest(others))
    assert found == (None if place is None else (place, 0))


@pytest.fixture(scope="module")
def schema() -> dict[str, set[str]]:
    """Return the columns of all tables of SQLite's newest schema."""
    with closing(sqlite3.connect(":memory:")) as db:
        for script in databasefile.migrations().values():
            db.executescript(script)
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: {row[1] for row in db.execute(f"PRAGMA table_info({name})")} for name in names}


def test_no_column_is_forgotten(schema: dict[str, set[str]]) -> None:
    """What is copied is all that SQLite's schema has, but for SQLite's own table of the numbers that it gave."""
    assert {table.name: set(table.columns) for table in TABLES} == {
        name: columns for name, columns in schema.items() if name != "sqlite_sequence"
    }


def test_what_a_database_knows_of_itself_stays_there(tmp_path: Path) -> None:
    """Its schema and the mark of a copy are no data."""
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("CREATE TABLE meta (key, value)")
        db.executemany("INSERT INTO meta VALUES (?, '')", [(key,) for key in (*OWN_META, "secret_key")])
        assert db.execute(f"SELECT key FROM meta WHERE {META.where}").fetchall() == [("secret_key",)]
