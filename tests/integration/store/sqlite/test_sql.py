"""SQLite's statements by their query plans: none goes through a whole table, none sorts what is in order."""

import re
import sqlite3
from contextlib import closing

import pytest

from gateway.core.model import CallbackState
from gateway.store.dialect import Counted
from gateway.store.sqlite import createsql, databasefile, deliversql, searchsql, sql, watchsql
from gateway.store.sqlite.statements import over_rows

SCHEMA = "".join(databasefile.migrations().values())
STATEMENTS = {
    name: text
    for name, text in {**vars(watchsql), **vars(createsql), **vars(searchsql), **vars(deliversql), **vars(sql)}.items()
    if name.isupper() and isinstance(text, str) and name[0] != "_"
}
LISTS = {
    f"list {state} {'by task' if by_task else ''}": sql.select_callbacks(state=state, by_task=by_task)
    for state in (None, *CallbackState)
    for by_task in (False, True)
} | {"list all": sql.select_callbacks(state=None, by_task=False, every_client=True)}
GIVEN_ROWS = r"\s*WITH \w+ \(([^)]*)\) AS \(VALUES \?\)"
BY_OVER_ROWS = {
    "SELECT_REGISTERED": ["(task_seq=? AND client=? AND url=? AND cancelled=?)"],
    "RESCHEDULE_TASKS": ["SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"],
    "OWE_WEBHOOKS": [
        "c USING INDEX callbacks_waiting (task_seq=?)",
        "SEARCH callbacks USING INTEGER PRIMARY KEY (rowid=?)",
    ],
    "SETTLE_TASKS": [
        "SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)",
        "callbacks USING INDEX callbacks_waiting (task_seq=?)",
    ],
    "RECORD_ATTEMPTS": ["SEARCH callbacks USING INTEGER PRIMARY KEY (rowid=?)"],
    "RECORD_DEAD": ["SEARCH callbacks USING INTEGER PRIMARY KEY (rowid=?)"],
    "COUNT_ATTEMPTS": ["SEARCH callbacks USING INTEGER PRIMARY KEY (rowid=?)"],
    "IDLE_TASKS": [
        "SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)",
        "callbacks USING INDEX callbacks_waiting (task_seq=?)",
    ],
    "POLL_TASKS_NOW": ["SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"],
    "PRUNE_TASKS": [
        "SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)",
        "callbacks USING INDEX sqlite_autoindex_callbacks_2 (task_seq=?)",
    ],
    "LEAVE_TASKS": ["SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"],
    "END_WATCHES": [
        "SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)",
        "callbacks USING INDEX sqlite_autoindex_callbacks_2 (task_seq=?)",
    ],
}
BY = {
    "SELECT_DUE_TASKS": "tasks USING INDEX tasks_due (upstream=? AND watchers=? AND next_poll_at>?)",
    "SELECT_NEXT_WATCHERS": "SEARCH tasks USING INDEX tasks_due ((upstream,watchers)>(?,?))",
    "COUNT_OWED": "callbacks USING INDEX callbacks_due (client=? AND receiver=?)",
    "SELECT_NEXT_DUE": "callbacks USING INDEX callbacks_due (client=? AND receiver=?)",
    "SELECT_FIRST_ATTEMPTS_DUE": "callbacks USING INDEX callbacks_due (client=? AND receiver=? AND next_attempt_at<?)",
    "SELECT_DUE_CALLBACKS": "SEARCH c USING INTEGER PRIMARY KEY (rowid=?)",
    "SELECT_LANES": "callbacks USING INDEX callbacks_due",
    "SELECT_EXPIRED": "c USING INDEX callbacks_expiring (expires_at>? AND expires_at<?)",
    "SELECT_EXPIRY_END": "callbacks USING INDEX callbacks_expiring (expires_at>? AND expires_at<?)",
    "SELECT_EXPIRIES": "c USING INDEX callbacks_waiting (task_seq=?)",
    "SELECT_NEXT_EXPIRY": "callbacks USING INDEX callbacks_expiring (expires_at>?)",
    "PRUNE_CALLBACKS": "callbacks_ended (state=? AND ended_at<?)",
    "REDELIVER_DEAD": "callbacks USING INDEX callbacks_dead (client=? AND ended_at>? AND ended_at<?)",
    "SELECT_READ_TASK": "t USING INDEX sqlite_autoindex_tasks_1 (task_id=? AND upstream=?)",
    "POLL_AGAIN": "tasks USING INDEX sqlite_autoindex_tasks_1 (task_id=? AND upstream=?)",
    "COUNT_READ_TASKS": "tasks USING INDEX tasks_read (read_until>?)",
    "SELECT_UNREAD": "tasks USING INDEX tasks_read (read_until>? AND read_until<?)",
    "SELECT_NEXT_UNREAD": "tasks USING INDEX tasks_read (read_until>?)",
    "SELECT_LONG_UNREAD": "tasks USING INDEX tasks_read (read_until<?)",
    "MOVE_WATCHES": "tasks USING INDEX tasks_read (read_until>?)",
    "SEARCH_CALLBACKS": "SEARCH c USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
    "SEARCH_TASKS": "SEARCH t USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
    "LAST_CALLBACK": "SEARCH callbacks USING INTEGER PRIMARY KEY (rowid<?)",
    "LAST_TASK": "SEARCH tasks USING INTEGER PRIMARY KEY (rowid<?)",
    "COUNT_DIED": "callbacks USING INDEX callbacks_dead (client=? AND ended_at>? AND ended_at<?)",
    "SELECT_DEAD": "callbacks USING INDEX callbacks_dead (client=? AND ended_at>? AND ended_at<?)",
    "SELECT_TASK": "t USING INDEX sqlite_autoindex_tasks_1 (task_id=?)",
    "SELECT_ATTEMPTS": "attempts USING PRIMARY KEY (callback_seq=?)",
    **{f"list {state} ": "callbacks_client_state (client=? AND state=? AND rowid<?)" for state in CallbackState},
    **{f"list {state} by task": "(task_seq=? AND client=?)" for state in (None, *CallbackState)},
    "list None ": "callbacks_client (client=? AND rowid<?)",
    "list all": "SEARCH c USING INTEGER PRIMARY KEY (rowid<?)",
    "SELECT_CALLBACK": "c USING INDEX sqlite_autoindex_callbacks_1 (id=?)",
    "SELECT_STATE": "callbacks USING INDEX sqlite_autoindex_callbacks_1 (id=?)",
    "SELECT_CLIENTS": "SEARCH callbacks USING INDEX callbacks_client (client>?)",
    "SELECT_POLLED_UPSTREAMS": "SEARCH tasks USING INDEX tasks_due (upstream>?)",
    "COUNT_POLLED_TASKS": "tasks USING INDEX tasks_due (upstream=?)",
    "SELECT_CREATE": "creates_1 (client=? AND upstream=? AND request_id=?)",
    "INSERT_CREATE": "creates USING INDEX creates_client (client=?)",
    "END_CREATE": "creates_1 (client=? AND upstream=? AND request_id=?)",
    "FORGET_CREATE": "creates_1 (client=? AND upstream=? AND request_id=?)",
    "PRUNE_CREATES": "creates USING INDEX creates_at (at<?)",
    "SELECT_CREATORS": "creates USING INDEX creates_client (client>?)",
    "PRUNE_EXCESS_CREATES": "creates USING INDEX creates_client (client=? AND number<?)",
    "COUNT_READ_TASKS_FOR": "tasks USING INDEX tasks_read (read_until>?)",
}
WHOLE = {"MOVE_CREATES"}  # it is for all of its table's rows


def plan(statement: str, parameters: object) -> list[str]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    # Versions of SQLite differ in what they call an index that has all that is asked for.
    return [step.replace("COVERING ", "") for step in steps]


OVER_ROWS = {name: columns[1] for name, text in STATEMENTS.items() if (columns := re.search(GIVEN_ROWS, text))}


@pytest.mark.parametrize("name", [name for name in (*STATEMENTS, *LISTS) if name not in {*OVER_ROWS, *WHOLE}])
def test_no_statement_goes_through_a_whole_table(name: str) -> None:
    """Every table is reached through an index, and those that matter through the one made for them."""
    statement = {**STATEMENTS, **LISTS}[name]
    named = set(re.findall(r":(\w+)", statement))
    steps = plan(statement, dict.fromkeys(named, 1) or ("[]",) * statement.count("?"))
    made_here = "named|part|its|CONSTANT ROW"
    scans = [step for step in steps if re.match(f"SCAN (?!{made_here}|.*( USING | VIRTUAL |subquery|SUBQUERY))", step)]
    assert not scans, steps
    assert any(BY.get(name, "") in step for step in steps) or not steps, steps


@pytest.mark.parametrize("count", [1, 2, 128, 256])
@pytest.mark.parametrize("name", OVER_ROWS)
def test_no_statement_over_rows_goes_through_a_whole_table(name: str, count: int) -> None:
    """Many rows do not make SQLite think that it is the other table that is small."""
    rows = [tuple(OVER_ROWS[name].split(", "))] * count
    ((statement, parameters),) = over_rows(STATEMENTS[name], rows)
    steps = plan(statement, parameters)
    assert not [step for step in steps if re.match("SCAN (callbacks|tasks|attempts|durations|[ct])\\b", step)], steps
    assert not [step for step in steps if "AUTOMATIC" in step], steps
    for wanted in BY_OVER_ROWS.get(name, ()):
        assert any(wanted in step for step in steps), steps


@pytest.mark.parametrize("name", ["INSERT_TASKS", "INSERT_CALLBACKS", "INSERT_ATTEMPTS"])
def test_checking_a_row_makes_no_table(name: str) -> None:
    """A CHECK with a list of values, which SQLite puts into a table for each row, costs more than the row's indexes."""
    rows = [tuple(OVER_ROWS[name].split(", "))] * 4
    ((statement, parameters),) = over_rows(STATEMENTS[name], rows)
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        made = [row for row in db.execute(f"EXPLAIN {statement}", parameters) if row[1] == "OpenEphemeral"]
    # What is read, and what is returned, are tables of rows; a list is one of keys.
    assert not [row for row in made if row[5] is not None]


@pytest.mark.parametrize("name", [name for name, value in vars(sql).items() if isinstance(value, Counted)])
def test_what_is_counted_in_parts_is_neither_sorted_nor_gone_through(name: str) -> None:
    """Each part begins where the one before it ended."""
    counted: Counted = getattr(sql, name)
    for statement in (counted.part, counted.end):
        steps = plan(statement, (*counted.start, 10))
        assert any(re.match(r"SEARCH \w+ USING INDEX \w+ \(\(.*\)>\(\?", step) for step in steps), steps
        assert not [step for step in steps if "ORDER BY" in step], steps


def test_counting_the_dead_reads_no_row() -> None:
    """The index has all that is asked for: of 60,000 dead callbacks the rows would take longer than a page may."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        names = re.findall(r":(\w+)", searchsql.COUNT_DIED)
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {searchsql.COUNT_DIED}", dict.fromkeys(names, 1))]
    reading = [step for step in steps if "callbacks" in step]
    assert len(reading) == 2
    assert all(" USING COVERING INDEX callbacks_dead " in step for step in reading), steps


def test_lists_need_no_sorting() -> None:
    """The newest page of a client with a million callbacks costs a page, not a million."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(SCHEMA)
        for name in ("list all", *(f"list {state} " for state in (None, *CallbackState))):
            values = {"client": "ann", "before": 9, "limit": 9}
            plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {LISTS[name]}", values))
            assert BY[name] in plan
            assert "B-TREE" not in plan
