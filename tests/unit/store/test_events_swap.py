"""Operator events where another replica changes their value in between: nothing is lost, and nothing done twice."""

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from gateway.core.eventledger import RECEIVER_FAILING, Ledger
from gateway.store.engine import Result, Run, Work
from gateway.store.events import StoreEvents
from gateway.store.sqlite import sql

NOW = 1_800_000_000_000


class Value:
    """The small value in the database; others put ``theirs`` there between a read and the write that follows."""

    def __init__(self, value: bytes | None, *theirs: bytes) -> None:
        self.value = value
        self._theirs = [*theirs]
        self.reads = 0

    def run(self, step: Any) -> Result:
        assert isinstance(step, Run)
        if step.statement == sql.SELECT_META:
            self.reads += 1
            return Result([] if self.value is None else [(self.value,)], 0)
        if self._theirs:
            self.value = self._theirs.pop(0)
        if step.statement == sql.INSERT_META:
            _, new = step.parameters
            stood = self.value is None
        else:
            assert step.statement == sql.SWAP_META
            new, _, old = step.parameters
            stood = self.value == old
        if stood:
            self.value = new
        return Result([], int(stood))

    @property
    def ledger(self) -> Ledger:
        return msgspec.json.decode(self.value or b"{}", type=Ledger)


def done(value: Value, step_ms: int | None = None) -> None:
    """Move what waits by so much, or tell that another receiver fails."""
    engine: Any = SimpleNamespace(sql=sql)
    writer: Any = None
    events = StoreEvents(engine, writer)
    work: Work[Any] = events._apply([note]) if step_ms is None else events.moved(step_ms)
    step = next(work)
    with suppress(StopIteration):
        for _ in range(10):
            step = work.send(value.run(step))
        pytest.fail("it goes on, and on")


def note(ledger: Ledger, receiver: str = "new") -> None:
    ledger.fails(RECEIVER_FAILING, {"client": "ann", "receiver": receiver}, {"lastError": None}, NOW)


def told(receiver: str) -> bytes:
    note(ledger := Ledger(), receiver)
    return msgspec.json.encode(ledger)


def test_a_change_is_made_to_what_another_has_put_there() -> None:
    """However often that happens: the last one's events stand, and each has moved once."""
    value = Value(told("a"), told("b"), told("c"))
    done(value, 500)
    (event,) = value.ledger.waiting
    assert (event.data["receiver"], event.due_at) == ("c", NOW + 500)
    assert value.reads == 3


def test_a_first_value_does_not_replace_anothers() -> None:
    """Where there was none, it is put there only as long as there is none."""
    value = Value(None, told("a"))
    done(value)
    assert [event.data["receiver"] for event in value.ledger.waiting] == ["a", "new"]


def test_what_changes_nothing_writes_nothing() -> None:
    """A clock that was set moves nothing where nothing waits."""
    value = Value(None)
    done(value, 500)
    assert (value.value, value.reads) == (None, 1)
