"""What a fuzz target is: where its inputs come from, and the check that each of them must pass."""

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

__all__ = ["Target", "mangled", "pieces_of"]


class Target(NamedTuple):
    """One reader of foreign bytes."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    """Raises where the input is not read as it must be."""


@st.composite
def mangled(draw: st.DrawFn, whole: st.SearchStrategy[bytes], tokens: list[bytes]) -> bytes:
    """Draw bytes that are whole, or had some of them taken out, doubled, moved or replaced."""
    data = draw(whole)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2, 4]))):
        at = draw(st.integers(0, len(data)))
        end = min(at + draw(st.integers(0, 12)), len(data))
        what = draw(st.sampled_from(["take out", "double", "put in", "put over", "any"]))
        if what == "take out":
            data = data[:at] + data[end:]
        elif what == "double":
            data = data[:end] + data[at:]
        elif what == "put in":
            data = data[:at] + draw(st.sampled_from(tokens)) + data[at:]
        elif what == "put over":
            data = data[:at] + draw(st.sampled_from(tokens)) + data[end:]
        else:
            data = data[:at] + draw(st.binary(max_size=3)) + data[end:]
    return data


def pieces_of(data: bytes, cuts: tuple[int, ...]) -> list[bytes]:
    """Return the bytes in the pieces between the cuts, each a place within them (or anywhere)."""
    places = sorted({cut % len(data) for cut in cuts} - {0}) if data else []
    return [data[at:end] for at, end in zip([0, *places], [*places, len(data)], strict=True) if end > at]
