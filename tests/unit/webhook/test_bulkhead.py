"""Bad receivers delay nobody else."""

from collections import deque

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.model import DueCallback, Lane
from gateway.webhook.bulkhead import Bulkhead
from tests.lanes import end_one, fill, lane, webhook, well

A, B, C = lane("a"), lane("b", "bob"), lane("c", "cid")


def begin(bulkhead: Bulkhead, *, each_has: int = 1000) -> list[DueCallback]:
    """Let begin what is given a share, of lanes that have so many webhooks; those that have more wait again."""
    begun = []
    for share in bulkhead.shares(1000):
        webhooks = [webhook(share.lane) for _ in range(min(share.room, each_has))]
        begun += [one for one in webhooks if bulkhead.admit(one)]
        if each_has > share.room:
            bulkhead.wait(share.lane)
    return begun


def test_one_lane_gets_half_and_each_further_one_half_of_the_rest() -> None:
    """However many hang that were well before, there is always a place for one more."""
    bulkhead = Bulkhead(256)
    lanes = [lane(f"r{n}", f"client-{n}") for n in range(6)]
    well(bulkhead, *lanes)
    assert [len(fill(bulkhead, one)) for one in lanes] == [128, 64, 32, 16, 8, 4]
    assert bulkhead.free > 0


def test_one_client_leaves_a_quarter() -> None:
    """However many receivers of one client hang, another client's find places; and so does a third one's."""
    bulkhead = Bulkhead(256)
    lanes = [lane(f"r{n}", f"client-{n // 20}") for n in range(100)]
    well(bulkhead, *lanes)
    taken = [sum(len(fill(bulkhead, one)) for one in lanes[n * 20 : n * 20 + 20]) for n in range(5)]
    assert taken == [192, 48, 12, 3, 1]


def test_a_receiver_of_two_clients_is_two_lanes() -> None:
    """What one client's webhooks do to a receiver they share is nothing to the other's."""
    bulkhead = Bulkhead(100)
    mine, yours = lane("shared", "ann"), lane("shared", "bob")
    well(bulkhead, mine, yours)
    for _ in range(5):
        end_one(bulkhead, mine, delivered=False)
    assert len(fill(bulkhead, mine)) == 1
    assert len(fill(bulkhead, yours)) > 40


def test_five_failures_in_a_row_leave_one_probe() -> None:
    """A receiver that keeps failing is tried one attempt at a time, until one succeeds."""
    bulkhead = Bulkhead(100)
    well(bulkhead, B)
    for _ in range(5):
        end_one(bulkhead, A, delivered=False)
    (probe,) = fill(bulkhead, A)
    assert {lane: (held, alone) for lane, held, alone in bulkhead.lanes()} == {A: (1, True), B: (0, False)}
    assert len(fill(bulkhead, B)) > 1, "others are not concerned"
    bulkhead.ended(probe, delivered=False)
    (probe,) = fill(bulkhead, A)
    bulkhead.ended(probe, delivered=True)
    assert len(fill(bulkhead, A)) > 1


def test_an_interrupted_attempt_says_nothing_about_its_receiver() -> None:
    """Only an answer, or the want of one, counts."""
    bulkhead = Bulkhead(100)
    for delivered in (False, False, False, False, None, None):
        end_one(bulkhead, A, delivered=delivered)
    assert len(fill(bulkhead, A)) > 1


def test_of_too_many_failing_lanes_the_longest_unheard_of_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting failures takes a bounded room; whoever failed, or was well, lately is remembered."""
    monkeypatch.setattr("gateway.webhook.bulkhead._REMEMBERED", 2)
    bulkhead = Bulkhead(100)
    for on in [A] * 5 + [B] * 5 + [A] + [C] * 5:
        end_one(bulkhead, on, delivered=False)
    assert [len(fill(bulkhead, on)) for on in (A, C)] == [1, 1]
    assert len(fill(bulkhead, B)) > 1
    bulkhead = Bulkhead(100)
    well(bulkhead, A, B, A, C)
    assert [*bulkhead._well] == [A, C]


@pytest.mark.parametrize("first", [0, 1], ids=["the late one", "the new one"])
def test_a_webhook_that_is_claimed_anew_while_a_lapsed_claim_is_under_way_has_two_places(first: int) -> None:
    """A replica that was stopped for longer than its claim may claim it again itself: each gives back its own place."""
    bulkhead = Bulkhead(100)
    well(bulkhead, A)
    free = bulkhead.free
    late = webhook(A)
    both = [late, msgspec.structs.replace(late, fence=late.fence + 1)]
    assert all(bulkhead.admit(one) for one in both)
    assert bulkhead.free == free - 2
    bulkhead.ended(both.pop(first), delivered=None)
    bulkhead.ended(both.pop(), delivered=True)
    assert bulkhead.free == free
    assert not bulkhead._attempts
    assert not bulkhead._young


def test_nothing_is_kept_of_lanes_that_hold_nothing() -> None:
    """But for how the last ones were."""
    bulkhead = Bulkhead(100)
    bulkhead.wait(A)
    for one in begin(bulkhead):
        bulkhead.ended(one, delivered=None)
    assert bulkhead.shares(0) == []
    for share in bulkhead.shares(1):
        assert share.lane == A
    kept = {name: value for name, value in vars(bulkhead).items() if isinstance(value, dict | set) and value}
    assert [*kept] == ["_waiting"]
    assert not any(waiting._lines or waiting.count for waiting in bulkhead._waiting.values())
    assert not bulkhead._newcomers._held
    assert not bulkhead._newcomers._young


def test_retries_leave_a_quarter_to_first_attempts() -> None:
    """However many retries are due, new webhooks find places."""
    bulkhead = Bulkhead(100)
    lanes = [lane(f"r{n}", f"client-{n}") for n in range(50)]
    well(bulkhead, C, *lanes)
    assert sum(len(fill(bulkhead, on, retry=True)) for on in lanes) == 75
    assert not bulkhead.admit(webhook(C, retry=True))
    assert bulkhead.admit(webhook(C))


def test_retries_that_found_no_place_wait_for_one() -> None:
    """As many lanes as there are places for stand in line again, and no more; a first attempt brings one back."""
    bulkhead = Bulkhead(8)
    lanes = [lane(f"r{n}", f"client-{n}") for n in range(6)]
    well(bulkhead, *lanes)
    taken = [webhook(on, retry=True) for on in lanes]
    assert all(map(bulkhead.admit, taken))
    for on in lanes:
        bulkhead.wait_for_retries(on)
    assert bulkhead.shares(8) == []
    assert bulkhead.waits
    bulkhead.wait(lanes[3])
    ((first, room, retries),) = bulkhead.shares(8)
    assert (first, room, retries) == (lanes[3], 1, False)
    bulkhead.ended(taken[0], delivered=True)
    ((again, _, retries),) = bulkhead.shares(8)
    assert again in lanes
    assert retries


def test_retries_whose_place_became_free_while_the_store_was_asked_are_asked_for_again() -> None:
    """Nobody was woken for it, as their lane had a share then and did not wait."""
    bulkhead = Bulkhead(8)
    lanes = [lane(f"r{n}", f"client-{n}") for n in range(7)]
    well(bulkhead, *lanes)
    taken = [webhook(on, retry=True) for on in lanes[:6]]
    assert all(map(bulkhead.admit, taken))
    bulkhead.wait(lanes[6])
    ((_, _, retries),) = bulkhead.shares(8)
    assert not retries
    bulkhead.ended(taken[0], delivered=True)
    bulkhead.wait_for_retries(lanes[6])
    assert bulkhead.in_line == 1
    ((_, _, retries),) = bulkhead.shares(8)
    assert retries


# Newcomers


@pytest.mark.parametrize("clients", [1, 2, 50, 500])
def test_among_thousands_that_hang_everybody_has_a_turn_within_a_second(clients: int) -> None:
    """1,000 receivers that nobody has heard of hang for 15 s each: others that come before or after them begin."""
    bulkhead = Bulkhead(256)
    crowd = [lane(f"hangs-{n}", f"client-{n % clients}") for n in range(1000)]
    crowd_lanes = {*crowd}
    whose = "client-0" if clients == 1 else "mine"
    hanging: deque[tuple[int, DueCallback]] = deque()
    begun: dict[Lane, int] = {}
    for tick in range(300):  # tenths of seconds
        bulkhead.at(tick / 10)
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


# Looking up names


def test_a_look_up_that_takes_long_lends_its_place() -> None:
    """Thousands of names that nobody answers for hold no places; whoever finds one after all has it back, or not."""
    bulkhead = Bulkhead(8, lent=100)
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


def test_thousands_of_dead_names_hold_up_nobody() -> None:
    """Each second some of them begin, for the ten that a look-up lasts, and there are as many places as ever."""
    bulkhead = Bulkhead(256, lent=1024)
    for n in range(2000):
        bulkhead.wait(lane(f"dead-{n}"))
    for second in range(10):
        bulkhead.at(second)
        assert bulkhead.free == 256
        begun = begin(bulkhead)
        assert len(begun) == 24
        for one in begun:
            bulkhead.looks_up(one)


# Whose turn it is


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


LANES = [Lane(client, receiver) for client in ("ann", "bob") for receiver in "xyz"]


@given(
    st.lists(
        st.tuples(st.sampled_from(LANES), st.booleans(), st.sampled_from([True, False, None]), st.booleans()),
        max_size=60,
    ),
    st.data(),
)
@settings(max_examples=100)
def test_places_are_never_lost_or_made_up(
    attempts: list[tuple[Lane, bool, bool | None, bool]], data: st.DataObject
) -> None:
    """After every attempt has ended all places are free again, and never were there more than the limit."""
    bulkhead = Bulkhead(8, lent=3)
    running: list[tuple[DueCallback, bool | None]] = []
    now_s = 0.0
    for on, retry, delivered, looks_up in attempts:
        bulkhead.wait(on)
        if bulkhead.admit(one := webhook(on, retry=retry)):
            running.append((one, delivered))
            if looks_up:
                bulkhead.looks_up(one)
        now_s += data.draw(st.sampled_from([0.0, 0.6]))
        bulkhead.at(now_s)
        shares = bulkhead.shares(8)
        assert sum(share.room for share in shares) <= bulkhead.free
        assert 8 - len(running) <= bulkhead.free <= min(8, 8 - len(running) + 3)
        if running and data.draw(st.booleans()):
            one, delivered = running.pop()
            bulkhead.found(one)
            bulkhead.ended(one, delivered=delivered)
    for one, delivered in running:
        bulkhead.ended(one, delivered=delivered)
    assert (bulkhead.free, bulkhead._retries) == (8, {})
    assert not bulkhead._young
    assert not bulkhead._newcomers._held
    assert not bulkhead._newcomers._young
    assert not bulkhead._full


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


def test_newcomers_are_given_no_more_than_may_begin() -> None:
    """However many clients have some: what was claimed beyond that would have to be given back."""
    bulkhead = Bulkhead(256)
    for number in range(100):
        bulkhead.wait(lane(f"r{number}", f"client-{number}"))
    shares = bulkhead.shares(256)
    assert 0 < sum(share.room for share in shares) < 100
    assert all(bulkhead.admit(webhook(share.lane)) for share in shares for _ in range(share.room))


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


def test_first_attempts_take_nothing_from_retries() -> None:
    """A client that has many under way finds places for its retries still."""
    bulkhead = Bulkhead(100)
    well(bulkhead, A, lane("again"))
    assert len(fill(bulkhead, A)) == 50
    assert len(fill(bulkhead, lane("again"), retry=True)) > 10


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


def test_a_client_without_a_place_comes_before_one_that_has_one() -> None:
    """Whoever came first."""
    bulkhead = Bulkhead(16)
    well(bulkhead, A, lane("again"), B)
    assert bulkhead.admit(webhook(A))
    bulkhead.wait(lane("again"))
    bulkhead.wait(B)
    assert [share.lane for share in bulkhead.shares(1)] == [B]


def test_nobody_is_waited_for_while_places_are_free() -> None:
    """Whatever looks its receiver's name up: its place is wanted by nobody."""
    bulkhead = Bulkhead(3, 1)
    well(bulkhead, A)
    one = webhook(A)
    assert bulkhead.admit(one)
    bulkhead.looks_up(one)
    assert bulkhead.next_turn_s is None


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


def test_a_lane_that_has_all_it_may_have_stands_in_no_line() -> None:
    """However often it is told of: whoever asked for its next webhooks would ask in vain, again and again."""
    bulkhead = Bulkhead(8)
    well(bulkhead, A)
    fill(bulkhead, A)
    bulkhead.wait(A)
    assert bulkhead.shares(8) == []
    bulkhead.wait(A)
    assert (bulkhead.in_line, bulkhead.waits) == (0, True)


def test_a_paused_lane_gets_nothing_and_keeps_its_place_to_itself() -> None:
    """Whatever falls due on it, and whatever it waited for before; nobody takes it for one that waits."""
    bulkhead = Bulkhead(256)
    well(bulkhead, A, B)
    bulkhead.wait(A)
    bulkhead.pause(frozenset({A}))
    bulkhead.wait_for_retries(A)
    assert (bulkhead.shares(256), bulkhead.waits) == ([], False)
    bulkhead.wait(B)
    assert [share.lane for share in bulkhead.shares(256)] == [B]
    one = webhook(A)
    assert bulkhead.admit(one), "what was claimed before is sent"
    bulkhead.ended(one, delivered=True)
    assert bulkhead.shares(256) == []


def test_a_resumed_lane_comes_back_as_somebody_new() -> None:
    """What fell due meanwhile begins at once, and a few at a time, however well it was before."""
    bulkhead = Bulkhead(256)
    well(bulkhead, A, B)
    bulkhead.pause(frozenset({A, B}))
    bulkhead.wait(A)
    bulkhead.pause(frozenset({B}))
    ((lane_, room, _),) = bulkhead.shares(256)
    assert lane_ == A
    assert 0 < room < 32
    bulkhead.pause(frozenset())
    assert bulkhead.shares(256) == [], "nothing had fallen due on the other"


def test_what_waited_when_its_lane_was_paused_begins_when_it_is_resumed() -> None:
    """Nobody tells of it a second time: it stood in line, or waited until retries have a place."""
    bulkhead = Bulkhead(8)
    lanes = [lane(f"r{n}", f"client-{n}") for n in range(6)]
    well(bulkhead, A, *lanes)
    bulkhead.wait(A)
    retries = [one for on in lanes for one in fill(bulkhead, on, retry=True)]
    bulkhead.wait_for_retries(B)
    bulkhead.pause(frozenset({A, B, C}))
    for one in retries:
        bulkhead.ended(one, delivered=True)
    assert (bulkhead.shares(8), bulkhead.waits) == ([], False)
    bulkhead.pause(frozenset())
    assert {share.lane for _ in range(2) for share in bulkhead.shares(8)} == {A, B}, "one newcomer at a time"


def test_a_lane_that_is_full_is_paused_as_well() -> None:
    """It takes no further place when one of its own comes free, and nobody is woken for it."""
    bulkhead = Bulkhead(8)
    well(bulkhead, A)
    taken = fill(bulkhead, A)
    bulkhead.wait(A)
    assert bulkhead.shares(8) == []
    bulkhead.pause(frozenset({A}))
    assert not bulkhead.waits
    for one in taken:
        bulkhead.ended(one, delivered=True)
    assert bulkhead.shares(8) == []
    bulkhead.pause(frozenset())
    assert [share.lane for share in bulkhead.shares(8)] == [A]


def test_a_circuit_is_open_after_five_failures_in_a_row() -> None:
    """Until an attempt succeeds; what says nothing of the receiver is none."""
    bulkhead = Bulkhead(256)
    well(bulkhead, lane("b"))
    for failures in range(1, 7):
        end_one(bulkhead, lane("a"), delivered=False)
        end_one(bulkhead, lane("a"), delivered=None)
        assert bulkhead.probed() == ([lane("a")] if failures >= 5 else [])
    well(bulkhead, lane("a"))
    assert bulkhead.probed() == []
