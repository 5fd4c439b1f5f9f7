"""The manual's tables of moves against the model's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import CALLBACK_MOVES, TASK_MOVES

MANUAL = Path(__file__).parents[3] / "gateway" / "manual"


def table(noun: str, moves: Mapping[Any, Mapping[Any, str]]) -> str:
    """Return the moves as a page prints them: a line for each state, with who moves it where."""
    lines = [f"| a {noun} that is | becomes, moved by |", "|---|---|"]
    for state, tos in moves.items():
        becomes = [f"{'removed' if to is None else f'`{to}`'} ({movers})" for to, movers in tos.items()]
        lines.append(f"| {'not there' if state is None else f'`{state}`'} | {', '.join(becomes)} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("noun", "moves"), [("task", TASK_MOVES), ("callback", CALLBACK_MOVES)])
def test_a_page_prints_the_moves(noun: str, moves: Mapping[Any, Mapping[Any, str]]) -> None:
    """What is not in the model is in no page, and the other way round."""
    pages = [path.read_text("utf-8") for path in MANUAL.glob("*.md")]
    assert not MANUAL.is_dir() or any(table(noun, moves) in page for page in pages), (
        f"no page of gateway/manual/ has this table:\n\n{table(noun, moves)}"
    )
