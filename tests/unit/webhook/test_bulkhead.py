"""Bad receivers delay nobody else: how many places each lane and client gets, and retries, failures and pauses."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.claims import DueCallback, Lane
from gateway.webhook.bulkhead import Bulkhead
from tests.lanes import A, B, C, begin, end_one, fill, lane, webhook, well


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


def test_first_attempts_take_nothing_from_retries() -> None:
    """A client that has many under way finds places for its retries still."""
    bulkhead = Bulkhead(100)
    well(bulkhead, A, lane("again"))
    assert len(fill(bulkhead, A)) == 50
    assert len(fill(bulkhead, lane("again"), retry=True)) > 10


def test_nobody_is_waited_for_while_places_are_free() -> None:
    """Whatever looks its receiver's name up: its place is wanted by nobody."""
    bulkhead = Bulkhead(3, 1)
    well(bulkhead, A)
    one = webhook(A)
    assert bulkhead.admit(one)
    bulkhead.looks_up(one)
    assert bulkhead.next_turn_s is None


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


def test_a_pause_is_nothing_to_whom_it_is_not_about() -> None:
    """A lane that is not paused stays as well as it was; so does one that stays paused, whatever else is."""
    bulkhead = Bulkhead(256)
    well(bulkhead, A, B, C)
    for paused in ({A}, {A, B}, {A}):
        bulkhead.pause(frozenset(paused))
    claimed = [webhook(A) for _ in range(60)]
    assert all(bulkhead.admit(one) for one in claimed), "what was claimed before is sent"
    bulkhead.wait(C)
    ((_, room, _),) = bulkhead.shares(256)
    assert room > 32


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


def test_a_pause_holds_back_what_lies_under_it() -> None:
    """Also what goes by a table that comes later; what only begins alike, another client's and another host's go on."""
    under = [Lane(A.client, f"{A.receiver}{path}") for path in ("/slow", "/slow/er", "/quick")]
    others = [Lane("bob", under[0].receiver), Lane(A.client, f"{A.receiver}:8443/slow"), B]
    bulkhead = Bulkhead(256)
    well(bulkhead, *under, *others)
    bulkhead.wait(under[0])
    bulkhead.pause(frozenset({A}))
    for one in (*under[1:], *others):
        bulkhead.wait(one)
    assert {share.lane for share in bulkhead.shares(256)} == set(others)
    bulkhead.pause(frozenset({under[0]}))
    assert [share.lane for share in bulkhead.shares(256)] == [under[2]], "the rest of its host is resumed"
    bulkhead.pause(frozenset({Lane(A.client, f"{A.receiver}/slo")}))
    found = [share for _ in range(2) for share in bulkhead.shares(256)]
    assert {share.lane for share in found} == set(under[:2])
    assert all(share.room < 32 for share in found), "as newcomers"


def test_what_lies_under_a_paused_path_is_handed_over_to_it() -> None:
    """From its host's lane too, as the table about that path may be there no more; never to a shorter name."""
    bulkhead = Bulkhead(256)
    path = Lane(A.client, f"{A.receiver}/slow")
    well(bulkhead, A, path)
    held = msgspec.structs.replace(webhook(A), url=f"{path.receiver}/1")
    other = msgspec.structs.replace(webhook(A), url=f"{A.receiver}/slower")
    longer = msgspec.structs.replace(webhook(Lane(A.client, f"{path.receiver}/er")), url=f"{path.receiver}/er/1")
    bulkhead.pause(frozenset({path}))
    assert [bulkhead.admit(one) for one in (held, other)] == [False, True]
    assert [bulkhead.misplaced(one) for one in (held, other, longer)] == [path.receiver, None, None]
    bulkhead.pause(frozenset())
    assert bulkhead.admit(held)
    assert bulkhead.misplaced(held) is None


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
