"""The port of who tells the operator. A part of ``gateway.store``, for its size."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from gateway.core.claims import Lane
from gateway.core.eventledger import Ledger

T = TypeVar("T")


class Events(Protocol):
    """What the operator is to be told of."""

    kept: bool
    """Whether callbacks that die are noted, each in the transaction that records its last attempt."""

    @property
    def dropped(self) -> int:
        """How many events this process had no room for: see ``core.eventledger``."""

    async def read(self) -> Ledger:
        """Return what waits, and what has been told."""

    async def change(self, change: Callable[[Ledger], T]) -> T:
        """Change that, in a transaction, and return what the change returns, which may be made several times."""

    async def owed(self, lane: Lane, most: int) -> int:
        """Return how many webhooks are owed there; ``most`` where they are more."""

    async def watched(self, upstream: str, most: int) -> int:
        """Return how many of an upstream's tasks are polled; ``most`` where they are more."""
