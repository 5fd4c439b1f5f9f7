"""Property tests play the same examples in every run, alone or in company."""

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


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
