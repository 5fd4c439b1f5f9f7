"""What a round of looking finds out of receivers and keys: each once, and no recovery is lost, whenever it happens."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.core.claims import Lane
from gateway.core.clock import SystemClock
from gateway.core.errors import StoreError
from gateway.core.eventledger import (
    RECEIVER_FAILING,
    RECEIVER_RECOVERED,
    UPSTREAM_RECOVERED,
    UPSTREAM_REFUSED,
    Ledger,
    WaitingEvent,
)
from gateway.core.model import Attempt, AttemptResult
from gateway.loops.failing import Failing
from gateway.loops.happenings import Happenings, PolledKey

A, B = (Lane("ann", f"https://{name}.example.com") for name in "ab")
TAKEN = Attempt(number=1, started_at=0, duration_ms=1, status_code=204, error=None, result=AttemptResult.DELIVERED)
REFUSED = Attempt(number=1, started_at=0, duration_ms=1, status_code=500, error="no", result=AttemptResult.RETRY)


class Store:
    """The port of events over a ledger in memory; ``meanwhile`` happens within each change."""

    def __init__(self, *fail: Lane) -> None:
        self.ledger = Ledger()
        self.meanwhile: Callable[[], None] = lambda: None
        self.changes = 0
        self.counted: list[Lane | str] = []
        now = SystemClock().now()
        for lane in fail:
            self.ledger.fails(RECEIVER_FAILING, lane._asdict(), {"lastError": None}, now)
            self.ledger.claim(now, 1)  # somebody has been told

    async def change(self, change: Callable[[Ledger], Any]) -> Any:
        self.meanwhile()
        self.changes += 1
        return change(self.ledger)

    async def owed(self, lane: Lane, most: int) -> int:
        assert most == 10_000
        self.counted.append(lane)
        return 7

    async def watched(self, upstream: str, most: int) -> int:
        assert most == 10_000
        self.counted.append(upstream)
        return 3

    @property
    def recovered(self) -> list[str]:
        return [one.data["receiver"] for one in self.ledger.waiting if one.type == RECEIVER_RECOVERED]


class Key:
    """An upstream's key: why it is refused, and when an answer was asked for that accepts it."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        self.accepted_at = -math.inf
        self.polled_here = True

    def accepted_since(self, at: float) -> bool:
        return self.accepted_at >= at


class Looking:
    """What looks, and the deliverer and the keys that it looks at."""

    def __init__(self, store: Store, **keys: Key) -> None:
        self.open: list[Lane] = []
        self.failing = Failing()
        self.steady = 1000.0
        deliverer: Any = SimpleNamespace(failing=self.failing, open_circuits=lambda: self.open)
        events: Any = store
        clock: Any = SimpleNamespace(now=SystemClock().now, monotonic=lambda: self.steady)
        polled: Any = [PolledKey(name, key, lambda key=key: key.polled_here) for name, key in keys.items()]
        self._store = store
        self._happenings = Happenings(events, deliverer, polled, clock)

    async def round(self) -> list[WaitingEvent]:
        """Look once; return what was noted for that, of which somebody has been told by then."""
        known = {event.id for event in self._store.ledger.waiting}
        await self._happenings.note(self._store.ledger)
        new = [event for event in self._store.ledger.waiting if event.id not in known]
        for event in new:
            event.fixed = True
        return new


async def test_a_webhook_that_is_taken_before_the_first_round_counts() -> None:
    """The gateway before told that it fails; it takes the only webhook while this one starts."""
    store = Store(A)
    looking = Looking(store)
    looking.failing.hear(A, TAKEN)
    looking.failing.hear(B, TAKEN)
    await looking.round()
    assert store.recovered == [A.receiver]
    assert store.counted == [A], "of B nobody was told that it fails: nothing is counted or written for it"


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


async def test_a_receiver_whose_circuit_opens_is_told_of_once() -> None:
    """With how often it failed in a row, and how much is owed to it; then it is looked at, and nothing is written."""
    store = Store()
    looking = Looking(store)
    assert await looking.round() == []
    for _ in range(5):
        looking.failing.hear(A, REFUSED)
    looking.open = [A]
    (event,) = await looking.round()
    assert event.type == RECEIVER_FAILING
    assert event.data == {**A._asdict(), "count": 1, "failures": 5, "pending": 7, "lastError": "no"}
    assert await looking.round() == []
    assert store.changes == 1
    looking.open = [A, B]
    (event,) = await looking.round()
    assert (event.data["receiver"], event.data["failures"], event.data["lastError"]) == (B.receiver, 0, None)


async def test_a_receiver_that_takes_one_while_its_circuit_is_open_has_not_recovered() -> None:
    """An attempt that began before is taken, and those after it fail again."""
    store = Store(A)
    looking = Looking(store)
    looking.open = [A]
    looking.failing.hear(A, TAKEN)
    await looking.round()
    assert store.recovered == []


async def test_of_many_that_begin_to_fail_at_once_only_some_are_counted() -> None:
    """Counting what is owed reads the database once for each."""
    store = Store()
    looking = Looking(store)
    looking.open = [Lane("ann", f"https://{number}.example.com") for number in range(60)]
    events = await looking.round()
    assert len(store.counted) == 50
    assert events[-1].data["count"] == 60 - 20, "those of which none is told by itself"


async def test_a_refused_key_is_told_of_once_by_who_polls_with_it() -> None:
    """With how many tasks wait for it; of what another replica polls that one tells."""
    store, key, other = Store(), Key(), Key()
    looking = Looking(store, up=key, other=other)
    assert await looking.round() == []
    key.refusal = other.refusal = "It answered 401."
    other.polled_here = False
    (event,) = await looking.round()
    assert event.type == UPSTREAM_REFUSED
    assert event.data == {"upstream": "up", "tasksWaiting": 3, "lastError": "It answered 401."}
    assert await looking.round() == []
    assert store.changes == 1
    assert store.counted == ["up"]
    other.polled_here = True
    (event,) = await looking.round()
    assert event.data["upstream"] == "other"


async def test_a_key_that_is_refused_anew_is_noted_anew() -> None:
    """It was accepted in between, or another replica polled with it, and may have told the end."""
    store, key = Store(), Key()
    looking = Looking(store, up=key)
    key.refusal = "It answered 401."
    await looking.round()
    key.polled_here = False
    await looking.round()
    key.polled_here = True
    await looking.round()
    assert store.changes == 2


async def test_a_key_has_recovered_with_an_answer_that_was_asked_for_since() -> None:
    """Since it is known here that it was told of, but for how long an answer may take; by who polls with it."""
    store, key = Store(), Key()
    looking = Looking(store, up=key)
    key.refusal = "It answered 401."
    await looking.round()
    key.refusal, key.accepted_at = None, 1005 - 30.5
    looking.steady = 1005.0
    assert await looking.round() == []
    key.polled_here = False
    key.accepted_at = 1005 - 30.0
    looking.steady = 2000.0
    assert await looking.round() == []
    key.polled_here = True
    (event,) = await looking.round()
    assert (event.type, event.data["upstream"], event.data["tasksWaiting"]) == (UPSTREAM_RECOVERED, "up", 3)
    assert await looking.round() == []


async def test_a_key_of_which_nobody_was_told_costs_nothing() -> None:
    """It is accepted all the time; nor does a client of that name, whose receiver fails, make it one that was told."""
    store, key = Store(Lane("up", "https://a.example.com")), Key()
    key.accepted_at = math.inf
    looking = Looking(store, up=key)
    assert await looking.round() == []
    assert (store.changes, store.counted) == (0, [])


async def test_what_ended_one_refusal_ends_no_later_one() -> None:
    """Which is known since then: the answer is from before."""
    store, key = Store(), Key()
    looking = Looking(store, up=key)
    for steady in (1000.0, 2000.0):
        looking.steady = steady
        key.refusal = "It answered 401."
        assert [event.type for event in await looking.round()] == [UPSTREAM_REFUSED]
        key.refusal = None
        looking.steady = steady + 10
        assert await looking.round() == []
        key.accepted_at = steady + 20
        looking.steady = steady + 20
        assert [event.type for event in await looking.round()] == [UPSTREAM_RECOVERED]
        store.ledger.waiting.clear()
        store.ledger.conditions.clear()
        await looking.round()
