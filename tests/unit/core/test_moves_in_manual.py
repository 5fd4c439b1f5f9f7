"""The manual's tables of moves against the model's."""

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.core.model import CALLBACK_MOVES, TASK_MOVES
from tests.manual import page


def table(noun: str, moves: Mapping[Any, Mapping[Any, str]]) -> str:
    """Return the moves as the page prints them: a line for each state, with who moves it where."""
    lines = [f"| a {noun} that is | becomes, moved by |", "|---|---|"]
    for state, tos in moves.items():
        becomes = [f"{'removed' if to is None else f'`{to}`'} ({movers})" for to, movers in tos.items()]
        lines.append(f"| {'not there' if state is None else f'`{state}`'} | {', '.join(becomes)} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("noun", "moves"), [("task", TASK_MOVES), ("callback", CALLBACK_MOVES)])
def test_the_page_prints_the_moves(noun: str, moves: Mapping[Any, Mapping[Any, str]]) -> None:
    """What is not in the model is not in the manual, and the other way round."""
    wanted = table(noun, moves)
    assert f"\n{wanted}\n" in page("architecture"), f"gateway/manual/architecture.md lacks this table:\n\n{wanted}"
