"""Statements over rows: what they are made into, on a real SQLite."""

import sqlite3
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from gateway.store import sql

GIVEN = "WITH given (a, b, c) AS (VALUES ?) SELECT a, b, c FROM given WHERE a IS NOT NULL"
values = st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary() | st.none()


@given(rows=st.lists(st.tuples(st.integers(1, 9), values, values), min_size=1, max_size=40))
def test_a_statement_over_rows_sees_each_of_them(rows: list[tuple[object, ...]]) -> None:
    """As they are and in their order; what fills up is nobody's row."""
    with closing(sqlite3.connect(":memory:")) as db:
        assert db.execute(*sql.over_rows(GIVEN, rows)).fetchall() == rows


def test_few_texts_serve_any_number_of_rows() -> None:
    """SQLite compiles a statement once for each power of two, up to more rows than one transaction takes."""
    texts = set()
    with closing(sqlite3.connect(":memory:")) as db:
        for count in (*range(1, 66), 1511):
            rows = [(number, None, "x") for number in range(1, count + 1)]
            text, parameters = sql.over_rows(GIVEN, rows)
            texts.add(text)
            assert db.execute(text, parameters).fetchall() == rows
    assert len(texts) == 9  # 1, 2, 4, … 128; 2,048


def test_what_fills_up_equals_nothing() -> None:
    """Joined with a table, it finds no row, whatever stands there."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (a, b)")
        db.executemany("INSERT INTO t VALUES (?, ?)", [(0, 0), (None, 0), (1, 0)])
        joined = "WITH given (a, b) AS (VALUES ?) SELECT t.a FROM given CROSS JOIN t ON t.a = given.a"
        assert db.execute(*sql.over_rows(joined, [(1, 0)] * 3)).fetchall() == [(1,)] * 3
