"""Looking up a receiver's name lends its place, so that dead names hold up nobody."""

import pytest

from gateway.webhook.bulkhead import Bulkhead
from tests.lanes import A, begin, fill, lane, webhook, well


@pytest.mark.parametrize("attempt_s", [1.5, 15.0, 150.0])
def test_a_look_up_that_takes_long_lends_its_place(attempt_s: float) -> None:
    """Thousands of names that nobody answers for hold no places; whoever finds one after all has it back, or not.

    It is lent after a second, however long an attempt may take: a look-up ends after ten.
    """
    bulkhead = Bulkhead(8, lent=100, attempt_s=attempt_s)
    well(bulkhead, A)
    held = fill(bulkhead, A)
    assert len(held) == 4
    for one in held:
        bulkhead.looks_up(one)
    bulkhead.at(0.9)
    assert bulkhead.free == 4
    bulkhead.at(1.0)
    assert bulkhead.free == 8
    assert bulkhead.found(held[0])
    assert bulkhead.free == 7
    assert bulkhead.found(held[0])
    well(bulkhead, *(lanes := [lane(f"r{n}", f"client-{n}") for n in range(9)]))
    for on in lanes:
        fill(bulkhead, on)
    assert bulkhead.free == 0
    assert not bulkhead.found(held[1])
    for one in held:
        bulkhead.ended(one, delivered=None)
    assert bulkhead.free == 1


def test_so_many_are_lent_at_most() -> None:
    """Beyond that a look-up keeps its place."""
    bulkhead = Bulkhead(16, lent=2)
    well(bulkhead, A)
    for one in fill(bulkhead, A):
        bulkhead.looks_up(one)
    bulkhead.at(1.0)
    assert bulkhead.free == 16 - 8 + 2


@pytest.mark.parametrize("attempt_s", [15.0, 150.0])
def test_thousands_of_dead_names_hold_up_nobody(attempt_s: float) -> None:
    """Each second some of them begin, for the ten that a look-up lasts, and there are as many places as ever.

    Whoever has lent its place is none of those that began lately, of which there may be but few.
    """
    bulkhead = Bulkhead(256, lent=1024, attempt_s=attempt_s)
    for n in range(2000):
        bulkhead.wait(lane(f"dead-{n}"))
    for second in range(10):
        bulkhead.at(second)
        assert bulkhead.free == 256
        begun = begin(bulkhead)
        assert len(begun) == 24
        for one in begun:
            bulkhead.looks_up(one)


def test_a_look_up_in_a_full_house_is_waited_for() -> None:
    """Its place may be lent in a while, and whoever came meanwhile has not been told of yet."""
    bulkhead = Bulkhead(2, 1)
    well(bulkhead, lane("a"), lane("b", "bob"))
    bulkhead.at(1.0)
    attempts = [webhook(lane("a")), webhook(lane("b", "bob"))]
    assert [bulkhead.admit(attempt) for attempt in attempts] == [True, True]
    assert bulkhead.next_turn_s is None
    bulkhead.looks_up(attempts[1])
    assert bulkhead.next_turn_s == 1.0
    bulkhead.at(2.0)
    assert (bulkhead.free, bulkhead.next_turn_s) == (1, None)


def test_only_a_look_up_lends_its_place() -> None:
    """An attempt that is being made keeps it, however long it takes."""
    bulkhead = Bulkhead(8, 8)
    well(bulkhead, A)
    made, looks_up = webhook(A), webhook(A)
    assert bulkhead.admit(made)
    assert bulkhead.admit(looks_up)
    bulkhead.looks_up(looks_up)
    bulkhead.at(1.0)
    assert bulkhead.free == 7
    assert bulkhead.found(looks_up)
    bulkhead.at(3.0)
    assert bulkhead.free == 6


def test_a_name_that_is_found_at_once_costs_one_place() -> None:
    """Which was never lent."""
    bulkhead = Bulkhead(8, 8)
    well(bulkhead, A)
    one = webhook(A)
    assert bulkhead.admit(one)
    bulkhead.looks_up(one)
    bulkhead.at(0.5)
    assert bulkhead.found(one)
    assert bulkhead.free == 7
    bulkhead.ended(one, delivered=True)
    assert bulkhead.free == 8
