"""The tests themselves: they play the same examples in every run, and one that fails takes no other down."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
LEAVES_A_SOCKET_OPEN = """
import gc, socket

def test_that_fails():
    left = socket.socket()
    assert left is None

def test_the_next_one():
    gc.collect()
"""


def _draw() -> list[int]:
    drawn: list[int] = []

    @given(st.integers())
    @settings(max_examples=400)
    def test(number: int) -> None:
        drawn.append(number)

    test()
    return drawn


def test_nothing_is_left_to_luck() -> None:
    """What is drawn follows from the test alone, and nothing is kept for the next run."""
    assert settings().derandomize
    assert settings().database is None
    assert settings().deadline is None
    assert _draw() == _draw()


def test_the_same_in_company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not matter which modules are imported by then: hypothesis would draw the numbers in them."""
    alone = _draw()
    for name in ("one", "other"):
        path = tmp_path / f"{name}.py"
        path.write_text("\n".join(f"N{number} = {number}" for number in range(7_000_000, 7_000_400)), "utf-8")
        spec = importlib.util.spec_from_file_location(f"company_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, f"company_{name}", module)
    assert _draw() == alone


def test_a_failure_is_told_once(tmp_path: Path) -> None:
    """What it left open is an error too, as every warning is: not the next test's, and not the whole run's."""
    path = tmp_path / "test_two.py"
    path.write_text(LEAVES_A_SOCKET_OPEN, "utf-8")
    words = ("-p", "tests.conftest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "-q", str(path))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=tmp_path,
        env=environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert done.stderr == ""


def _left_undone(test: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the functions within a test that nothing in it names."""
    inner = [one for one in test.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
    named = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)} if inner else set()
    return [f"{test.name}: {one.name}" for one in inner if one.name not in named and not one.decorator_list]


def test_each_test_does_what_it_says() -> None:
    """Of what runs in virtual time the whole test is a function: one that nobody runs would always pass."""
    undone = [
        found
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for test in ast.parse(path.read_text("utf-8")).body
        if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef)
        for found in _left_undone(test)
    ]
    assert undone == []
