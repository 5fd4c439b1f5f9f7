"""The schema against the nouns: both name the same states."""

import re
import sqlite3
from enum import StrEnum
from pathlib import Path

import pytest

from gateway.core.model import AttemptResult, CallbackState, Format, TaskState

MIGRATIONS = sorted((Path(__file__).parents[3] / "gateway" / "store" / "sqlite" / "migrations").glob("*.sql"))
COLUMNS: list[tuple[str, str, type[StrEnum]]] = [
    ("tasks", "state", TaskState),
    ("callbacks", "state", CallbackState),
    ("callbacks", "format", Format),
    ("attempts", "result", AttemptResult),
]
columns = pytest.mark.parametrize(
    ("table", "column", "states"), COLUMNS, ids=[f"{one}.{two}" for one, two, _ in COLUMNS]
)


def tables() -> dict[str, str]:
    """Return the statement of each table as it stands once every migration has run."""
    database = sqlite3.connect(":memory:")
    try:
        for migration in MIGRATIONS:
            database.executescript(migration.read_text("utf-8"))
        return dict(
            database.execute(
                "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            )
        )
    finally:
        database.close()


def words(text: str) -> set[str]:
    return set(re.findall(r"'([^']*)'", text))


@columns
def test_the_schema_allows_exactly_the_model_states(table: str, column: str, states: type[StrEnum]) -> None:
    """The CHECK beside a state column lists the enum's values: no state is missing, none is left over."""
    check = re.search(rf"\b{column}\s+TEXT NOT NULL\s+(?:DEFAULT '\w+'\s+)?CHECK \(({column} [^)]*)\)", tables()[table])
    assert check is not None
    assert words(check[1]) == {state.value for state in states}


@pytest.mark.parametrize("table", sorted({table for table, _, _ in COLUMNS}))
def test_every_other_rule_speaks_of_known_states(table: str) -> None:
    """A default, and a CHECK that ties another column to a state, names states that exist."""
    without_comments = re.sub(r"--[^\n]*", "", tables()[table])
    known = {state.value for of, _, states in COLUMNS if of == table for state in states}
    assert words(without_comments) - {""} == known


def test_the_steps_are_numbered_without_a_gap() -> None:
    """Migrations run in the order of their numbers, so none may be missing or stand twice; 2 to 4 are taken."""
    numbers = [int(migration.name[:4]) for migration in MIGRATIONS]
    assert numbers == [1, *range(5, numbers[-1] + 1)]


def test_every_table_is_strict() -> None:
    """SQLite keeps to the column types only in STRICT tables."""
    for name, sql in tables().items():
        assert re.search(r"\bSTRICT\b", sql.rpartition(")")[2]), name
