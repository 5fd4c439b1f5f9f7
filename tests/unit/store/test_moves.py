"""Who moves a task or a callback from which state to which: each statement of the store against the model's tables."""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import CALLBACK_MOVES, TASK_MOVES, CallbackState, TaskState
from gateway.store import rows
from gateway.store.sqlite import deliversql, sql, watchsql
from gateway.store.sqlite.statements import over_rows

MIGRATIONS = sorted(Path(sql.__file__).with_name("migrations").glob("*.sql"))

Moves = Mapping[Any, Mapping[Any, str]]
TABLES: dict[str, tuple[type[StrEnum], Moves]] = {
    "tasks": (TaskState, TASK_MOVES),
    "callbacks": (CallbackState, CALLBACK_MOVES),
}

MOVERS = {
    "INSERT_TASKS": "API",
    "INSERT_CALLBACKS": "API",
    "REVIVE_TASK": "API",
    "WATCH_READ_TASKS": "API",
    "CANCEL_CALLBACK": "API",
    "REDELIVER_CALLBACK": "API",
    "REDELIVER_DEAD": "API",
    "OWE_WEBHOOK": "API",
    "OWE_WEBHOOKS": "poller",
    "SETTLE_TASKS": "poller",
    "RECORD_ATTEMPTS": "deliverer",
    "RECORD_DEAD": "deliverer",
    "PRUNE_CALLBACKS": "janitor",
    "PRUNE_TASKS": "janitor",
}
"""Who runs each statement that moves something."""

AT_BIRTH = {"OWE_WEBHOOK"}
"""Run in the transaction that makes the row: nobody has seen the state before."""

STATES: dict[str, list[StrEnum]] = {
    "SETTLE_TASKS": list(TaskState),  # the schema keeps a settlement from being none
    "RECORD_ATTEMPTS": sorted(set(rows._NEXT_STATE.values())),
    "RECORD_DEAD": [CallbackState.DEAD],
}
"""What a statement may be given where the state is a parameter."""

WRITE = re.compile(r"^(?:UPDATE|INSERT(?: OR REPLACE)? INTO|DELETE FROM) (\w+)", re.MULTILINE)
STATEMENTS = {
    name: (found[1], text)
    for name, text in {**vars(watchsql), **vars(deliversql), **vars(sql)}.items()
    if name.isupper() and not name.startswith("_") and isinstance(text, str) and (found := WRITE.search(text))
    if found[1] in TABLES
}
VALUES = {
    "metadata": b"1", "outcome": b"1", "record": b"1", "body": b"1", "format": "record", "until": 2, "ended_before": 2,
    "dead_before": 2, "poll_log": b"1",
}  # fmt: skip
"""What parameters and columns have that cannot be 1."""


class Ones(dict[str, Any]):
    """Parameters that fit the one row that there is: its seq, its names and its instants are 1."""

    def __missing__(self, name: str) -> Any:
        return VALUES.get(name, 1)


def situations(table: str) -> Iterator[tuple[StrEnum | None, dict[str, Any]]]:
    """Yield no row, and one for each state, with the columns that the schema ties to it."""
    states, _ = TABLES[table]
    yield None, {}
    for state in states:
        ended = None if state in ("waiting", "pending") else 1
        columns: dict[str, Any] = {"seq": 1, "state": state}
        if table == "tasks":
            yield state, columns | {"settled_at": ended, "outcome": ended and b"1"}
            if state is TaskState.WAITING:
                yield state, columns | {"next_poll_at": 1}  # the one before is asked about for nobody
        else:
            columns |= {"next_attempt_at": 1 if state is CallbackState.PENDING else None, "ended_at": ended}
            columns |= {"cancelled": int(state is CallbackState.CANCELLED), "redeliveries": 1, "body": b"1"}
            yield state, columns


def insert(db: sqlite3.Connection, table: str, columns: dict[str, Any]) -> None:
    """Insert a row whose other columns are 1 where they must be given."""
    about = db.execute(f"PRAGMA table_info({table})").fetchall()
    given = {name: VALUES.get(name, 1) for _, name, _, needed, default, _ in about if needed and default is None}
    given |= columns
    db.execute(f"INSERT INTO {table} ({', '.join(given)}) VALUES ({', '.join('?' * len(given))})", [*given.values()])


def runs(name: str, text: str) -> Iterator[tuple[str, Any]]:
    """Yield a statement with each of the parameters that may matter to its row."""
    header = re.search(r"WITH \w+ \((.*?)\) AS \(VALUES \?\)", text)
    if header is None:
        yield text, [1] * text.count("?") if "?" in text else Ones()
        return
    choices = {"state": STATES.get(name, [1]), "next_attempt_at": [None, 1]}
    columns = header[1].split(", ")
    for values in product(*[choices.get(column, [VALUES.get(column, 1)]) for column in columns]):
        yield from over_rows(text, [values])


def state_after(db: sqlite3.Connection, table: str) -> str | None:
    return next((state for (state,) in db.execute(f"SELECT state FROM {table}")), None)


def moves_of(name: str) -> set[tuple[str | None, str | None]]:
    """Return from which state to which a statement moves its row; to the same one where it is set to it."""
    table, text = STATEMENTS[name]
    sets_state = re.search(r"\bSET (?:(?!\b(?:FROM|WHERE)\b).)*\bstate = ", text, re.DOTALL)
    moves: set[tuple[str | None, str | None]] = set()
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for migration in MIGRATIONS:
            db.executescript(migration.read_text("utf-8"))
        for (before, columns), (run, parameters) in product(situations(table), runs(name, text)):
            db.execute("BEGIN")
            if table == "callbacks":
                insert(db, "tasks", {"seq": 1})
            if before is not None:
                insert(db, table, columns)
            changes = db.total_changes
            with suppress(sqlite3.IntegrityError):  # the schema allows no such row
                db.execute(run, parameters).fetchall()
                after = state_after(db, table)
                if after != before or (sets_state and db.total_changes > changes):
                    newborn = name in AT_BIRTH and before == "waiting"
                    moves.add((None if newborn else before, after))
            db.execute("ROLLBACK")
    return moves


def moves_in(table: str, mover: str) -> set[tuple[str | None, str | None]]:
    """Return what the model says that somebody moves."""
    _, moves = TABLES[table]
    return {(state, to) for state, tos in moves.items() for to, movers in tos.items() if mover in movers.split(", ")}


def told(moves: set[tuple[str | None, str | None]]) -> str:
    return ", ".join(sorted(f"{before or 'none'} → {after or 'none'}" for before, after in moves))


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_moves_only_what_the_model_knows(name: str) -> None:
    """Whatever state its row is in: it moves it as the table says of whoever runs the statement, or not at all."""
    table, _ = STATEMENTS[name]
    moves = moves_of(name)
    if name not in MOVERS:
        assert not moves, f"sql.{name} moves {table}: {told(moves)}; say in MOVERS who runs it"
        return
    assert moves, f"sql.{name} stands in MOVERS and moves nothing"
    unknown = moves - moves_in(table, MOVERS[name])
    assert not unknown, f"sql.{name} moves {table} as the model does not let the {MOVERS[name]}: {told(unknown)}"


@pytest.mark.parametrize("table", TABLES)
def test_each_move_of_the_model_is_some_statements(table: str) -> None:
    """The table promises no move that nobody makes, and gives none to somebody who does not make it."""
    made: defaultdict[str, set[tuple[str | None, str | None]]] = defaultdict(set)
    for name, mover in MOVERS.items():
        if STATEMENTS[name][0] == table:
            made[mover] |= moves_of(name)
    _, moves = TABLES[table]
    for mover in {mover for tos in moves.values() for movers in tos.values() for mover in movers.split(", ")}:
        missing = moves_in(table, mover) - made[mover]
        assert not missing, f"the model lets the {mover} move {table}, and no statement does: {told(missing)}"


@pytest.mark.parametrize("table", TABLES)
def test_the_model_tells_of_each_state(table: str) -> None:
    """Each has moves of its own, and one that leads to it."""
    states, moves = TABLES[table]
    assert {*moves} == {None, *states}
    assert {to for tos in moves.values() for to in tos} == {None, *states}
