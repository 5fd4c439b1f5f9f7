"""What is looked for among callbacks or tasks, and what one part of the looking has found. Pure.

Spoken by whoever looks and the store: it looks through so many rows at a time, the newest first, so that no question
takes long, whatever is asked and however many rows there are.
"""

from typing import Generic, NamedTuple, TypeVar

__all__ = ["Looked", "Wanted"]

T = TypeVar("T")


class Wanted(NamedTuple):
    """What is looked for; None: whatever it is."""

    client: str | None = None
    """Whose callbacks, or whose tasks: those that it has callbacks for."""
    state: str | None = None
    upstream: str | None = None
    text: str | None = None
    """Stands in the task's id, the receiver or the metadata; ``name=value`` is a member of the metadata as well."""


class Looked(NamedTuple, Generic[T]):
    """What a part of the rows had."""

    found: list[T]
    """The newest first."""
    before: int | None
    """Where to look on: at rows whose seq is below this; None: there are no more."""
