"""Readers of foreign bytes, given inputs that nobody thought of: the short form of ``make fuzz``, and what it found."""

from typing import Any

import pytest
from hypothesis import given, settings

from tests.fuzz.__main__ import TARGETS
from tests.fuzz.cases import CASES


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_nobody_thought_of(name: str) -> None:
    """Each reader reads what it must, alike however it is cut, and refuses the rest in the words it has for that."""

    @settings(max_examples=150)
    @given(TARGETS[name].inputs)
    def reads(one: Any) -> None:
        TARGETS[name].check(one)

    reads()


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in CASES.items() for case in cases])
def test_inputs_that_were_misread_once(name: str, case: Any) -> None:
    """What was found stays mended."""
    TARGETS[name].check(case)
