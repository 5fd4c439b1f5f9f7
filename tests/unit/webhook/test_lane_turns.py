"""Whose turn it is, where more lanes wait than there are places."""

import pytest

from gateway.webhook.bulkhead import Bulkhead
from tests.lanes import A, B, C, end_one, fill, lane, webhook, well


def test_of_a_crowd_the_first_and_the_last_come_by_turns() -> None:
    """Who has waited for long is not forgotten, and who has just come need not wait for all of them."""
    bulkhead = Bulkhead(256)
    lanes = [lane(f"r{n}") for n in range(6)]
    well(bulkhead, *lanes)
    for on in lanes:
        bulkhead.wait(on)
    order = [share.lane for _ in range(6) for share in bulkhead.shares(1)]
    assert order == [lanes[number] for number in (5, 0, 4, 1, 3, 2)]


def test_who_failed_before_is_not_taken_for_somebody_new() -> None:
    """Lanes whose retries come again and again have turns of their own."""
    bulkhead = Bulkhead(256)
    failed, new = [lane(f"f{n}") for n in range(6)], [lane(f"n{n}") for n in range(6)]
    for on in failed:
        end_one(bulkhead, on, delivered=False)
    for on in [*new, *failed]:
        bulkhead.wait(on)
    order = [share.lane for _ in range(6) for share in bulkhead.shares(1)]
    assert order == [new[5], new[0], new[4], failed[0], new[3], new[1]]


def test_of_a_crowd_of_clients_the_first_and_the_last_come_by_turns() -> None:
    """As with one client's receivers."""
    bulkhead = Bulkhead(256)
    lanes = [lane("r", f"client-{n}") for n in range(5)]
    well(bulkhead, *lanes)
    for on in lanes:
        bulkhead.wait(on)
    order = [share.lane for _ in range(5) for share in bulkhead.shares(1)]
    assert order == [lanes[number] for number in (0, 4, 1, 3, 2)]


def test_a_client_whose_receivers_all_failed_comes_behind_the_others() -> None:
    """However new its crowd is: only who has waited the longest comes before the others by turns."""
    bulkhead = Bulkhead(256)
    failed = [lane("f", "bob"), lane("g", "cid")]
    for on in failed:
        end_one(bulkhead, on, delivered=False)
    for on in (failed[0], A, failed[1]):
        bulkhead.wait(on)
    assert [share.lane for _ in range(3) for share in bulkhead.shares(1)] == [failed[0], A, failed[1]]


@pytest.mark.parametrize("kind", ["new", "failing", "holding"])
def test_a_lane_that_waits_already_waits_once(kind: str) -> None:
    """However often it is told of."""
    bulkhead = Bulkhead(256)
    if kind == "failing":
        end_one(bulkhead, A, delivered=False)
    if kind == "holding":
        assert bulkhead.admit(webhook(A))
    for _ in range(3):
        bulkhead.wait(A)
    assert bulkhead.in_line == 1
    assert [share.lane for share in bulkhead.shares(8)] == [A]
    assert (bulkhead.in_line, bulkhead.shares(8)) == (0, [])


def test_a_lane_that_waits_joins_those_that_it_has_come_to_be_of() -> None:
    """One that has failed meanwhile has no turn among those that are well, nor the other way round; none has two."""
    for was_well in (True, False):
        bulkhead = Bulkhead(256)
        well(bulkhead, *((A, C) if was_well else ()))
        held = webhook(A)
        assert bulkhead.admit(held)
        for on in (A, C) if was_well else (C, A):
            bulkhead.wait(on)
        bulkhead.ended(held, delivered=not was_well)
        assert bulkhead.in_line == 2
        assert [share.lane for share in bulkhead.shares(1)] == [C if was_well else A]
        assert [share.lane for share in bulkhead.shares(8)] == [A if was_well else C]
        assert bulkhead.in_line == 0


def test_the_client_with_the_fewest_places_is_next() -> None:
    """And of its lanes one that holds none."""
    bulkhead = Bulkhead(256)
    lanes = [*(lane(f"r{n}") for n in range(20)), lane("s", "bob"), lane("t", "bob")]
    well(bulkhead, *lanes)
    for on in lanes:
        bulkhead.wait(on)
    assert {share.lane.client for share in bulkhead.shares(2)} == {"ann", "bob"}
    bulkhead = Bulkhead(256)
    well(bulkhead, *lanes)
    held = webhook(lanes[-1])
    assert bulkhead.admit(held)
    for on in lanes[-3:]:
        bulkhead.wait(on)
    assert [share.lane for _ in range(3) for share in bulkhead.shares(1)] == [lanes[-3], lanes[-2], lanes[-1]]


def test_a_lane_that_is_full_is_not_asked_for_before_one_of_its_attempts_ends() -> None:
    """Its webhooks, of which there may be thousands, cost nothing meanwhile."""
    bulkhead = Bulkhead(8)
    well(bulkhead, A)
    held = fill(bulkhead, A)
    bulkhead.wait(A)
    assert bulkhead.shares(8) == []
    assert (bulkhead.in_line, bulkhead.waits) == (0, True)
    bulkhead.wait(A)
    assert (bulkhead.shares(8), bulkhead.in_line) == ([], 0)
    bulkhead.ended(held[0], delivered=None)
    ((on, room, _),) = bulkhead.shares(8)
    assert (on, room) == (A, 1)
    assert not bulkhead.waits


def test_a_share_is_no_more_than_was_asked_for() -> None:
    """Where there are more lanes than places, each place is another's."""
    bulkhead = Bulkhead(256)
    lanes = [lane(f"r{n}", f"client-{n % 3}") for n in range(30)]
    well(bulkhead, *lanes)
    for on in lanes:
        bulkhead.wait(on)
    shares = bulkhead.shares(7)
    assert [share.room for share in shares] == [1] * 7
    assert len({share.lane for share in shares}) == 7


def test_all_that_may_be_claimed_is_shared_out() -> None:
    """Where one client has several receivers, between these."""
    bulkhead = Bulkhead(256)
    lanes = [lane(f"r{number}") for number in range(2)]
    well(bulkhead, *lanes)
    for on in lanes:
        bulkhead.wait(on)
    assert sorted((share.lane, share.room) for share in bulkhead.shares(4)) == [(on, 2) for on in lanes]


def test_what_one_client_may_have_is_claimed_at_once() -> None:
    """Three quarters of all places, where it is alone."""
    bulkhead = Bulkhead(256)
    lanes = [lane(f"r{number}") for number in range(20)]
    well(bulkhead, *lanes)
    for on in lanes:
        bulkhead.wait(on)
    assert sum(share.room for share in bulkhead.shares(256)) == 192


def test_a_client_without_a_place_comes_before_one_that_has_one() -> None:
    """Whoever came first."""
    bulkhead = Bulkhead(16)
    well(bulkhead, A, lane("again"), B)
    assert bulkhead.admit(webhook(A))
    bulkhead.wait(lane("again"))
    bulkhead.wait(B)
    assert [share.lane for share in bulkhead.shares(1)] == [B]


def test_a_lane_that_has_all_it_may_have_stands_in_no_line() -> None:
    """However often it is told of: whoever asked for its next webhooks would ask in vain, again and again."""
    bulkhead = Bulkhead(8)
    well(bulkhead, A)
    fill(bulkhead, A)
    bulkhead.wait(A)
    assert bulkhead.shares(8) == []
    bulkhead.wait(A)
    assert (bulkhead.in_line, bulkhead.waits) == (0, True)
