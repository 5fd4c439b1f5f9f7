"""One bad receiver delays nobody else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.bulkhead import Bulkhead

A, B, C = "https://a.example.com", "https://b.example.com", "https://c.example.com"


def fill(bulkhead: Bulkhead, receiver: str, *, retry: bool = False) -> int:
    """Take places until one is refused; return how many there were."""
    count = 0
    while bulkhead.admit(receiver, retry=retry):
        count += 1
        assert count <= 1000
    return count


def test_one_receiver_gets_half_and_each_further_one_half_of_the_rest() -> None:
    """However many hang, there is always a place for one more."""
    bulkhead = Bulkhead(256)
    assert [fill(bulkhead, f"https://{n}.example.com") for n in range(6)] == [128, 64, 32, 16, 8, 4]
    assert bulkhead.free > 0


def test_five_failures_in_a_row_leave_one_probe() -> None:
    """A receiver that keeps failing is tried one attempt at a time, until one succeeds."""
    bulkhead = Bulkhead(100)
    for _ in range(5):
        assert bulkhead.admit(A, retry=False)
        bulkhead.ended(A, retry=False, delivered=False)
    assert fill(bulkhead, A) == 1
    assert fill(bulkhead, B) > 1, "others are not concerned"
    bulkhead.ended(A, retry=False, delivered=False)
    assert fill(bulkhead, A) == 1
    bulkhead.ended(A, retry=False, delivered=True)
    assert fill(bulkhead, A) > 1


def test_an_interrupted_attempt_says_nothing_about_its_receiver() -> None:
    """Only an answer, or the want of one, counts."""
    bulkhead = Bulkhead(100)
    for delivered in (False, False, False, False, None, None):
        assert bulkhead.admit(A, retry=False)
        bulkhead.ended(A, retry=False, delivered=delivered)
    assert fill(bulkhead, A) > 1


def test_of_too_many_failing_receivers_the_longest_unheard_of_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting failures takes a bounded room; whoever failed lately is still remembered."""
    monkeypatch.setattr("gateway.bulkhead._REMEMBERED", 2)
    bulkhead = Bulkhead(100)
    for receiver in [A] * 5 + [B] * 5 + [A] + [C] * 5:
        assert bulkhead.admit(receiver, retry=False)
        bulkhead.ended(receiver, retry=False, delivered=False)
    assert [fill(bulkhead, receiver) for receiver in (A, C)] == [1, 1]
    assert fill(bulkhead, B) > 1


def test_what_a_receiver_holds_is_counted() -> None:
    """From its first place to the return of its last one."""
    bulkhead = Bulkhead(100)
    assert bulkhead.held(A) == 0
    for _ in range(2):
        assert bulkhead.admit(A, retry=False)
    assert (bulkhead.held(A), bulkhead.held(B), bulkhead.free) == (2, 0, 98)
    for held in (1, 0):
        bulkhead.ended(A, retry=False, delivered=True)
        assert bulkhead.held(A) == held
    assert not bulkhead._in_flight, "a receiver that holds nothing is not remembered"


def test_asking_for_room_that_is_not_there_is_a_refusal() -> None:
    """Also where no place is asked for outright: the next free one has a taker. With room it is none."""
    bulkhead = Bulkhead(2)
    assert bulkhead.room(A) == 1
    assert not bulkhead.refused
    assert bulkhead.admit(A, retry=False)
    assert bulkhead.room(A) == 0
    assert bulkhead.refused


def test_retries_leave_a_quarter_to_first_attempts() -> None:
    """However many retries are due, new webhooks find places."""
    bulkhead = Bulkhead(100)
    retries = sum(fill(bulkhead, f"https://{n}.example.com", retry=True) for n in range(50))
    assert retries == 75
    assert not bulkhead.retries
    assert not bulkhead.admit(C, retry=True)
    assert bulkhead.admit(C, retry=False)


def test_a_refusal_is_remembered_until_it_is_seen_to() -> None:
    """Who frees a place must know whether somebody waits for it."""
    bulkhead = Bulkhead(2)
    assert bulkhead.admit(A, retry=False)
    assert not bulkhead.refused
    assert not bulkhead.admit(A, retry=False)
    assert bulkhead.refused


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.booleans(), st.sampled_from([True, False, None]))), st.data())
@settings(max_examples=200)
def test_places_are_never_lost_or_made_up(attempts: list[tuple[str, bool, bool | None]], data: st.DataObject) -> None:
    """After every attempt has ended all places are free again, and never were there more than the limit."""
    bulkhead = Bulkhead(8)
    running: list[tuple[str, bool, bool | None]] = []
    for attempt in attempts:
        if bulkhead.admit(attempt[0], retry=attempt[1]):
            running.append(attempt)
        assert bulkhead.free == 8 - len(running) >= 0
        if running and data.draw(st.booleans()):
            receiver, retry, delivered = running.pop()
            bulkhead.ended(receiver, retry=retry, delivered=delivered)
    for receiver, retry, delivered in running:
        bulkhead.ended(receiver, retry=retry, delivered=delivered)
    assert bulkhead.free == 8
    assert bulkhead.retries
