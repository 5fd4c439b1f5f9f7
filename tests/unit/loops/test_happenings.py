"""What is heard of receivers beside a round of looking: no recovery is lost, whenever it happens."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.clock import SystemClock
from gateway.core.errors import StoreError
from gateway.core.eventledger import RECEIVER_FAILING, RECEIVER_RECOVERED, Ledger
from gateway.core.model import Attempt, AttemptResult, Lane
from gateway.loops.failing import Failing
from gateway.loops.happenings import Happenings

A, B = (Lane("ann", f"https://{name}.example.com") for name in "ab")
TAKEN = Attempt(number=1, started_at=0, duration_ms=1, status_code=204, error=None, result=AttemptResult.DELIVERED)


class Store:
    """The port of events over a ledger in memory; ``meanwhile`` happens within each change."""

    def __init__(self, *fail: Lane) -> None:
        self.ledger = Ledger()
        self.meanwhile: Callable[[], None] = lambda: None
        now = SystemClock().now()
        for lane in fail:
            self.ledger.fails(RECEIVER_FAILING, lane._asdict(), {"lastError": None}, now)
            self.ledger.claim(now, 1)  # somebody has been told

    async def change(self, change: Callable[[Ledger], Any]) -> Any:
        self.meanwhile()
        return change(self.ledger)

    async def owed(self, lane: Lane, most: int) -> int:
        return 0

    @property
    def recovered(self) -> list[str]:
        return [one.data["receiver"] for one in self.ledger.waiting if one.type == RECEIVER_RECOVERED]


class Looking:
    """What looks, and the deliverer that it looks at."""

    def __init__(self, store: Store) -> None:
        self.open: list[Lane] = []
        self.failing = Failing()
        deliverer: Any = SimpleNamespace(failing=self.failing, open_circuits=lambda: self.open)
        events: Any = store
        self._store = store
        self._happenings = Happenings(events, deliverer, [], SystemClock())

    async def round(self) -> None:
        await self._happenings.note(self._store.ledger)


async def test_a_webhook_that_is_taken_before_the_first_round_counts() -> None:
    """The gateway before told that it fails; it takes the only webhook while this one starts."""
    store = Store(A)
    looking = Looking(store)
    looking.failing.hear(A, TAKEN)
    looking.failing.hear(B, TAKEN)
    await looking.round()
    assert store.recovered == [A.receiver], "and of B nobody was told that it fails"


async def test_a_webhook_that_is_taken_while_a_round_writes_counts_in_the_next() -> None:
    """It fails, is being told of, and takes one: the next round tells that it has recovered."""
    store = Store()
    looking = Looking(store)
    looking.open = [A]

    def takes() -> None:
        looking.open = []
        looking.failing.hear(A, TAKEN)

    store.meanwhile = takes
    await looking.round()
    store.meanwhile = lambda: None
    store.ledger.claim(SystemClock().now(), 1)
    await looking.round()
    assert store.recovered == [A.receiver]


async def test_what_could_not_be_written_is_written_in_the_next_round() -> None:
    """A database that is away for a moment loses no recovery."""
    store = Store(A)
    looking = Looking(store)
    looking.failing.hear(A, TAKEN)

    def fails() -> None:
        raise StoreError("The database is away.")

    store.meanwhile = fails
    with pytest.raises(StoreError):
        await looking.round()
    store.meanwhile = lambda: None
    await looking.round()
    assert store.recovered == [A.receiver]
    assert looking.failing.took == set(), "and is told of once"
