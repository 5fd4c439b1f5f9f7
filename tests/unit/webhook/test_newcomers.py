"""Receivers of which nothing is known yet: thousands that hang leave places to those who are known to be well."""

from collections import deque

import pytest

from gateway.core.claims import DueCallback, Lane
from gateway.webhook.bulkhead import Bulkhead
from tests.lanes import A, B, C, begin, fill, lane, webhook, well


@pytest.mark.parametrize("attempt_s", [1.5, 15.0, 150.0])
@pytest.mark.parametrize("clients", [1, 2, 50, 500])
def test_among_thousands_that_hang_everybody_has_a_turn_within_a_fifteenth_of_an_attempt(
    clients: int, attempt_s: float
) -> None:
    """1,000 receivers that nobody has heard of hang for all of it each: others that come before or after them begin.

    By default that is within a second.
    """
    bulkhead = Bulkhead(256, attempt_s=attempt_s)
    crowd = [lane(f"hangs-{n}", f"client-{n % clients}") for n in range(1000)]
    crowd_lanes = {*crowd}
    whose = "client-0" if clients == 1 else "mine"
    hanging: deque[tuple[int, DueCallback]] = deque()
    begun: dict[Lane, int] = {}
    for tick in range(300):  # tenths of seconds, by default
        bulkhead.at(tick * attempt_s / 150)
        while hanging and hanging[0][0] <= tick:
            one = hanging.popleft()[1]
            bulkhead.ended(one, delivered=False)
            bulkhead.wait(one.lane)  # its retry
        if tick % 20 == 0:  # two at a time
            bulkhead.wait(lane(f"works-{tick}", whose))
            bulkhead.wait(lane(f"works-{tick + 1}", whose))
        if tick == 0:
            for on in crowd:
                bulkhead.wait(on)
        for one in begin(bulkhead, each_has=1):
            begun.setdefault(one.lane, tick)
            if one.lane in crowd_lanes:
                hanging.append((tick + 150, one))
            else:
                bulkhead.ended(one, delivered=True)
    waits = [begun.get(lane(f"works-{tick}", whose), 999) - tick // 20 * 20 for tick in range(280) if tick % 20 < 2]
    assert max(waits) <= 10
    assert len(begun) > 100, "nor is the crowd forgotten"


def test_newcomers_leave_places_to_those_who_are_known_to_be_well() -> None:
    """However many hang, of the same client too: a quarter is for others, and there is no waiting for a turn."""
    bulkhead = Bulkhead(256)
    well(bulkhead, A, B)
    for n in range(2000):
        bulkhead.wait(lane(f"hangs-{n}"))
    begun = 0
    for second in range(60):
        bulkhead.at(second)
        begun += len(begin(bulkhead))
    assert 130 <= begun <= 144
    bulkhead.wait(A)
    bulkhead.wait(B)
    assert {share.lane: share.room > 20 for share in bulkhead.shares(1000)} == {A: True, B: True}


def test_a_newcomer_that_is_well_has_its_share_at_once() -> None:
    """One success, and a burst of webhooks is not held back any more, though it waits in line already."""
    bulkhead = Bulkhead(256)
    bulkhead.wait(A)
    first, *_ = begun = begin(bulkhead)
    assert 1 < len(begun) < 20
    assert begin(bulkhead) == []
    bulkhead.ended(first, delivered=True)
    assert len(begin(bulkhead)) > 80


def test_when_the_next_turn_is() -> None:
    """As soon as the first of those that are young is a second old; nobody is told of it where nobody waits."""
    bulkhead = Bulkhead(8)
    bulkhead.at(5.0)
    assert bulkhead.next_turn_s is None
    assert bulkhead.admit(webhook(A))
    assert bulkhead.next_turn_s is None
    bulkhead.wait(B)
    bulkhead.at(5.25)
    assert bulkhead.shares(8) == []
    assert bulkhead.next_turn_s == 0.75
    bulkhead.at(6.0)
    assert bulkhead.shares(8)


def test_newcomers_are_given_no_more_than_may_begin() -> None:
    """However many clients have some: what was claimed beyond that would have to be given back."""
    bulkhead = Bulkhead(256)
    for number in range(100):
        bulkhead.wait(lane(f"r{number}", f"client-{number}"))
    shares = bulkhead.shares(256)
    assert 0 < sum(share.room for share in shares) < 100
    assert all(bulkhead.admit(webhook(share.lane)) for share in shares for _ in range(share.room))


def test_where_newcomers_hang_fewer_of_them_begin_at_once() -> None:
    """A quarter of what is free at first; an eighth of the rest once those take long."""
    bulkhead = Bulkhead(256)
    lanes = [lane(f"r{n}", f"client-{n}") for n in range(200)]
    assert sum(len(fill(bulkhead, on)) for on in lanes) == 192 // 4
    bulkhead.at(2.0)
    assert sum(len(fill(bulkhead, on)) for on in lanes) == (192 - 48) // 8


@pytest.mark.parametrize("now_s", [0.0, 5.0])
def test_who_is_well_counts_nowhere_among_newcomers(now_s: float) -> None:
    """However long its attempts take: a newcomer begins as slowly as ever."""
    bulkhead = Bulkhead(256)
    well(bulkhead, A)
    assert len(fill(bulkhead, A)) == 128
    bulkhead.at(now_s)
    assert len(fill(bulkhead, C)) == 12
