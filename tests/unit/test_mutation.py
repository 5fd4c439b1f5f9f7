"""The mutators find every guard of a text, and leave alone what is none."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mutation import python_guards, sql_guards
from tests.mutation.inplace import Imported
from tests.mutation.python_guards import Mutant
from tests.mutation.selection import Selection
from tests.mutation.targets import EQUIVALENT, LEFT_OUT, MODULES, TESTS

ROOT = Path(__file__).parents[2]


def python(source: str) -> list[str]:
    """Return what becomes of a source, change by change."""
    return [mutant.source for mutant in python_guards.mutants_of("m.py", source)]


def sql(statement: str) -> list[str]:
    return [m.source.split('"')[1] for m in sql_guards.mutants_of("m.py", f'S = "{statement}"\n')]


@pytest.mark.parametrize(
    ("guard", "mutants"),
    [
        ("x = a < b", ["x = (a <= b)"]),
        ("x = a is not None", ["x = (a is None)"]),
        ("x = a and b", ["x = (a or b)", "x = (b)", "x = (a)"]),
        ("x = not a", ["x = (a)"]),
        (
            "x = 1 if a else b",
            ["x = 1 if False else b", "x = 1 if True else b", "x = 2 if a else b", "x = 0 if a else b"],
        ),
        ("x = [a for a in b if c]", ["x = [a for a in b if False]", "x = [a for a in b if True]"]),
        ("if a:\n    pass\n", ["if False:\n    pass\n", "if True:\n    pass\n"]),
        ("while a > b:\n    pass\n", ["while False:\n    pass\n", "while (a >= b):\n    pass\n"]),
        ("for a in b:\n    continue\n", ["for a in b:\n    pass\n"]),
        ("x = min(a, b)", ["x = max(a, b)"]),
        ("x = TaskState.FAIL", ["x = TaskState.ABANDONED"]),
        ("x = True", ["x = False"]),
        ("x = 600", ["x = 1200"]),
        ("_EVERY_S = 600.0", ["_EVERY_S = 1200.0"]),
        ("x = 'ä' if a else '🐈'", ["x = 'ä' if False else '🐈'", "x = 'ä' if True else '🐈'"]),
    ],
)
def test_each_guard_in_python_has_its_mutants(guard: str, mutants: list[str]) -> None:
    """Conditions, comparisons, operands, exits, states and numbers are changed, each alone."""
    assert sorted(python(guard)) == sorted(mutants)


@pytest.mark.parametrize(
    "source",
    [
        '"""A docstring < that."""',
        "_log.info('a', polls=a + 1, more=a and b)",
        "self._metrics.polls.inc(a or 1)",
        "if count:\n    _log.info('a')\n",
        "x: dict[str, int | None]",
        "def f(a: Literal[1]) -> Literal[2]:\n    return a\n",
        "@cache(maxsize=9)\ndef f():\n    pass\n",
        "x = f'{a if b else 1}'",
        "x = found[0], found[-1]",
        "class A(Struct, frozen=True):\n    pass\n",
        "_BATCH = 500",
        "x = zip(a, b, strict=True)",
    ],
)
def test_what_is_no_guard_is_left_alone(source: str) -> None:
    """Log lines, metrics, messages, types, decorators and places decide nothing."""
    assert python(source) == []


@pytest.mark.parametrize(
    ("statement", "mutants"),
    [
        ("SELECT a FROM t WHERE a < ?", ["SELECT a FROM t WHERE a <= ?", "SELECT a FROM t WHERE true"]),
        (
            "UPDATE t SET a = 0, b = ? WHERE seq = :seq RETURNING a",
            [
                "UPDATE t SET a = 1, b = ? WHERE seq = :seq RETURNING a",
                "UPDATE t SET b = ? WHERE seq = :seq RETURNING a",
                "UPDATE t SET a = 0 WHERE seq = :seq RETURNING a",
                "UPDATE t SET a = 0, b = ? WHERE seq <> :seq RETURNING a",
                "UPDATE t SET a = 0, b = ? WHERE true RETURNING a",
            ],
        ),
        (
            "DELETE FROM t WHERE a IS NULL AND (:b OR c = d)",
            [
                "DELETE FROM t WHERE a IS NOT NULL AND (:b OR c = d)",
                "DELETE FROM t WHERE true AND (:b OR c = d)",
                "DELETE FROM t WHERE a IS NULL AND true",
                "DELETE FROM t WHERE a IS NULL AND (false OR c = d)",
                "DELETE FROM t WHERE a IS NULL AND (:b OR false)",
                "DELETE FROM t WHERE a IS NULL AND (:b OR c <> d)",
            ],
        ),
        (
            "SELECT 1 FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.a = t.a)",
            [
                "SELECT 1 FROM t WHERE  EXISTS (SELECT 1 FROM u WHERE u.a = t.a)",
                "SELECT 1 FROM t WHERE true",
                "SELECT 1 FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.a <> t.a)",
                "SELECT 1 FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE true)",
            ],
        ),
        (
            "SELECT 1 FROM t WHERE state IN ('dead', 'pending')",
            [
                "SELECT 1 FROM t WHERE state NOT IN ('dead', 'pending')",
                "SELECT 1 FROM t WHERE state IN ('delivered', 'pending')",
                "SELECT 1 FROM t WHERE state IN ( 'pending')",
                "SELECT 1 FROM t WHERE state IN ('dead', 'waiting')",
                "SELECT 1 FROM t WHERE state IN ('dead')",
                "SELECT 1 FROM t WHERE true",
            ],
        ),
        (
            "SELECT iif(a IS NULL, b, c), coalesce(d, e), max(f, g) FROM t",
            [
                "SELECT iif(a IS NOT NULL, b, c), coalesce(d, e), max(f, g) FROM t",
                "SELECT iif(true, b, c), coalesce(d, e), max(f, g) FROM t",
                "SELECT iif(false, b, c), coalesce(d, e), max(f, g) FROM t",
                "SELECT iif(a IS NULL, b, c), coalesce(d), max(f, g) FROM t",
                "SELECT iif(a IS NULL, b, c), coalesce(e), max(f, g) FROM t",
                "SELECT iif(a IS NULL, b, c), coalesce(d, e), min(f, g) FROM t",
            ],
        ),
        ("INSERT INTO t SELECT value ->> 1 FROM json_each(?) WHERE true ON CONFLICT (a) DO NOTHING", []),
        ("c.seq < :before", ["c.seq <= :before", "true"]),
        ("callbacks_client", []),
    ],
)
def test_each_guard_in_sql_has_its_mutants(statement: str, mutants: list[str]) -> None:
    """Conditions are dropped and turned, states swapped, assignments left out; columns and places stay."""
    assert sorted(sql(statement)) == sorted(mutants)


def test_a_mutant_says_where_it_is() -> None:
    """Its line, and how that was and is, are for whoever reads the report."""
    source = "def f(a):\n    if (\n        a < 1\n    ):\n        return 2\n    return 3\n"
    mutants = list(python_guards.mutants_of("m.py", source))
    assert all(ast.parse(mutant.source) for mutant in mutants)
    found = {(mutant.line, *mutant.changed[0], *mutant.changed[1]) for mutant in mutants}
    assert (3, "        a < 1", "        (a <= 1)") in found
    assert {mutant.lines for mutant in mutants if mutant.line == 3} == {range(2, 5)}


def test_a_mutant_meets_the_tests_that_run_whatever_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own line, or whoever takes its constant in and is asked for it there; else files of tests that name it."""
    monkeypatch.chdir(tmp_path)
    sources = {
        "g/made.py": "A = 1 < 2\nTABLE: dict[int, int] = {1: 2}\ndef f():\n    return 3 < 4\n",
        "g/all.py": "from g.made import A as B\n",
        "g/uses.py": "def use(all):\n    return all.B\n",
        "t/a.py": "",
        "t/b.py": "assert TABLE",
    }
    for path, source in sources.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(source, "utf-8")
    lines: dict[str, dict[str, list[str]]] = {path: {} for path in sources if path.startswith("g/")}
    lines["g/made.py"]["4"] = ["t/a.py::f", ""]
    lines["g/uses.py"]["2"] = ["t/a.py::uses"]
    measured = {"lines": lines, "seconds": {"t/a.py::f": 2.0, "t/a.py::uses": 1.0, "t/b.py::table": 1.0}}
    selection = Selection(measured, tuple(lines))
    mutants = python_guards.mutants_of("g/made.py", sources["g/made.py"])
    met = {mutant.lines.start: selection.tests(mutant) for mutant in mutants}
    assert met == {1: ["t/a.py::uses"], 2: ["t/b.py::table"], 4: ["t/a.py::f"]}


MADE = """
from itertools import count
LIMIT = 5
WIDER = LIMIT * 2
TABLE = {LIMIT: 1}
SIZE = 9
def within(a, b=SIZE):
    return a < LIMIT
class Its:
    least = SIZE
    def __init__(self):
        super().__init__()
        self.its = [one for one in range(9) if one < 3]
    @property
    def more(self):
        def inner():
            return len(self.its) > 2
        return inner()
SQL = "WHERE a = 1"
FOUND = within(4)
"""
USING = """
from planted import made
from planted.made import SQL as HERE, WIDER, within
WHOLE = f"SELECT {HERE}"
class A:
    shown = made.FOUND
def both():
    return made.LIMIT, WIDER, WHOLE, within(5)
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """A package of two modules, of which one uses the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "planted").mkdir()
    for name, source in (("__init__", ""), ("made", MADE), ("using", USING)):
        (tmp_path / "planted" / f"{name}.py").write_text(source, "utf-8")
    yield importlib.import_module("planted.made"), importlib.import_module("planted.using")
    for name in [name for name in sys.modules if name.split(".")[0] == "planted"]:
        del sys.modules[name]


def put(was: str, now: str, *, runs_at_import: bool = False) -> bool:
    assert MADE.count(was) == 1
    mutant = Mutant("planted/made.py", range(1, 2), "", MADE, MADE.replace(was, now))
    return Imported("planted").put(mutant, runs_at_import=runs_at_import)


@pytest.mark.parametrize(
    ("was", "now", "known"),
    [
        ("len(self.its) > 2", "len(self.its) > 3", (False, False, [0, 1, 2])),
        ("one < 3", "one < 4", (False, True, [0, 1, 2, 3])),
        ("a < LIMIT", "(\na <= LIMIT)", (True, True, [0, 1, 2])),
    ],
)
def test_a_function_is_changed_where_it_was_imported(
    planted: tuple[Any, Any], was: str, now: str, known: tuple[bool, bool, list[int]]
) -> None:
    """Whoever has it, or something made of its class, has the changed one; and those behind it are as they were."""
    made, using = planted
    its = made.Its()
    assert (using.both()[-1], its.more, made.Its().its) == (False, True, [0, 1, 2])
    assert put(was, now)
    assert (using.both()[-1], its.more, made.Its().its) == known


def test_a_constant_is_changed_with_all_that_is_made_of_it(planted: tuple[Any, Any]) -> None:
    """Under each name that it was imported by."""
    _, using = planted
    assert using.both() == (5, 10, "SELECT WHERE a = 1", False)
    assert put("a = 1", "a = 2")
    assert using.both() == (5, 10, "SELECT WHERE a = 2", False)
    assert put("LIMIT * 2", "LIMIT * 3")
    assert using.both() == (5, 15, "SELECT WHERE a = 2", False)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("LIMIT = 5", "LIMIT = 6"),
        ("LIMIT: 1", "LIMIT: 2"),
        ("SIZE = 9", "SIZE = 8"),
        ("b=SIZE", "b=8"),
        ("least = SIZE", "least = 8"),
        ("within(4)", "within(6)"),
    ],
)
@pytest.mark.usefixtures("planted")
def test_what_only_an_import_shows_is_left_to_it(was: str, now: str) -> None:
    """A table, a default, a member of a class, and what another module asks for when it is imported itself."""
    assert not put(was, now)


@pytest.mark.usefixtures("planted")
def test_a_function_that_an_import_calls_is_left_to_it() -> None:
    """What it has made then would stay."""
    assert not put("a < LIMIT", "a <= LIMIT", runs_at_import=True)


def test_what_is_mutated_and_what_tests_it_is_there() -> None:
    """A module or test that was moved is not left out."""
    assert [path for path in (*MODULES, *TESTS) if not (ROOT / path.split("::")[0]).is_file()] == []


def test_no_module_of_the_state_machine_is_forgotten() -> None:
    """One that is new, or was made of another, is mutated, or it is said why not."""
    folders = "gateway/loops", "gateway/store", "gateway/store/sqlite"
    paths = [path for folder in folders for path in (ROOT / folder).glob("*.py")]
    guarding = {
        name
        for path in paths
        if any(python_guards.mutants_of(name := str(path.relative_to(ROOT)), path.read_text("utf-8")))
        or name.endswith("sql.py")
    }
    assert guarding - {*MODULES} == {*LEFT_OUT}


@pytest.mark.parametrize("path", sorted({one.path for one in EQUIVALENT}))
def test_what_changes_nothing_is_a_change_of_todays_source(path: str) -> None:
    """A line that was written anew is looked at anew."""
    source = (ROOT / path).read_text("utf-8")
    mutants = [*python_guards.mutants_of(path, source)]
    if path.endswith("sql.py"):
        mutants += sql_guards.mutants_of(path, source)
    changes = {tuple(" ".join(" ".join(lines).split()) for lines in mutant.changed) for mutant in mutants}
    assert [one for one in EQUIVALENT if one.path == path and (one.was, one.now) not in changes] == []
