"""Statements over rows: what they are made into, on a real SQLite."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.rows import parts
from gateway.store.sqlite.statements import over_rows

GIVEN = "WITH given (a, b, c) AS (VALUES ?) SELECT a, b, c FROM given WHERE a IS NOT NULL"
values = st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary() | st.none()
rows = st.lists(st.tuples(st.integers(1, 9), values, values), max_size=40)


def found(db: sqlite3.Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return [row for text, values in over_rows(statement, rows) for row in db.execute(text, values)]


@given(rows=rows)
def test_a_statement_over_rows_sees_each_of_them(rows: list[tuple[object, ...]]) -> None:
    """As they are and in their order; what fills up is nobody's row."""
    with closing(sqlite3.connect(":memory:")) as db:
        assert found(db, GIVEN, rows) == rows


def test_few_texts_serve_any_number_of_rows() -> None:
    """SQLite compiles a statement once for each power of two up to 256: fewer values than any build allows."""
    texts = set()
    with closing(sqlite3.connect(":memory:")) as db:
        for count in (*range(1, 66), 256, 257, 1511):
            rows = [(number, None, "x") for number in range(1, count + 1)]
            texts |= {text for text, _ in over_rows(GIVEN, rows)}
            assert found(db, GIVEN, rows) == rows
    assert sorted(text.count("?") for text in texts) == [3 * 2**power for power in range(9)]


def test_what_fills_up_equals_nothing() -> None:
    """Joined with a table, it finds no row, whatever stands there."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (a, b)")
        db.executemany("INSERT INTO t VALUES (?, ?)", [(0, 0), (None, 0), (1, 0)])
        joined = "WITH given (a, b) AS (VALUES ?) SELECT t.a FROM given CROSS JOIN t ON t.a = given.a"
        assert found(db, joined, [(1, 0)] * 3) == [(1,)] * 3


def test_large_things_are_written_in_parts_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order; one that is larger alone is a part of its own."""
    monkeypatch.setattr("gateway.store.rows._PART_BYTES", 10)

    def of(*sizes: int) -> list[list[int]]:
        return list(parts(sizes, abs))

    assert of() == []
    assert of(5, 5, 6, 4, 20, 1) == [[5, 5], [6, 4], [20], [1]]
    assert of(20, 1) == [[20], [1]]
    assert of(*[0] * 1000) == [[0] * 1000]
