"""Rows that come out in one step are those that come out one by one."""

import sqlite3
from contextlib import closing

import msgspec

from gateway.store.sqlite.atonce import at_once, fetch

_MANY = "SELECT n, iif(n % 3, text || n, NULL), json FROM its_own ORDER BY n DESC"
_TEXT = 'a\tb\n"quoted" \\ é \U0001f600 \x7f \u2028 {}[]'


def _database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("CREATE TABLE its_own (n INTEGER, text TEXT, json BLOB)")
    json = msgspec.json.encode({_TEXT: [_TEXT, {}, 1e300, None]})
    db.executemany("INSERT INTO its_own VALUES (?, ?, ?)", [(n, _TEXT, json) for n in (1, 2, 3, 2**62, -(2**62), 0)])
    return db


def test_rows_come_in_their_order_with_their_values() -> None:
    """Numbers of 63 bits, any text, bytes and what is missing come as they would row by row, in the query's order."""
    with closing(_database()) as db:
        one_by_one = fetch(db, _MANY)
        assert [row[0] for row in one_by_one] == [2**62, 3, 2, 1, 0, -(2**62)]
        assert list(map(tuple, fetch(db, at_once(_MANY, 3, 2)))) == one_by_one


def test_no_rows_are_none() -> None:
    """Where nothing is found there is a list of nothing."""
    with closing(_database()) as db:
        assert fetch(db, at_once("SELECT n, text FROM its_own WHERE n = ?", 2), (7,)) == []


def test_many_rows_are_one_step() -> None:
    """However many rows there are, SQLite hands out one."""
    with closing(_database()) as db:
        assert len(db.execute(at_once(_MANY, 3, 2)).fetchall()) == 1
