"""What bounds the ledger of operator events: how many have one of their own, how many wait, what is forgotten."""

import pytest

from gateway.core.eventledger import CALLBACK_DEAD, RECEIVER_FAILING, RECEIVER_RECOVERED, Ledger
from tests.ledgers import LEASE_MS, NOW, S, about, died, fails, recovers, told


def test_of_many_receivers_most_are_one_event() -> None:
    """Nobody wants a page for each of a thousand receivers behind one dead proxy."""
    ledger = Ledger()
    for n in range(1000):
        ledger.died(died([n], f"r{n}"), NOW)
        fails(ledger, NOW, f"r{n}")
    events = told(ledger, NOW + 10 * S)
    for wanted in (CALLBACK_DEAD, RECEIVER_FAILING):
        its = [event for kind, _, event in events if kind == wanted]
        assert len(its) == 21
        assert [event.data["count"] for event in its if event.data["receiver"] is None] == [980]
    recovers(ledger, NOW + 20 * S, "r999")  # nobody was told of it by name
    recovers(ledger, NOW + 20 * S, "r1")
    assert [kind for kind, *_ in told(ledger, NOW + 3600 * S)] == [RECEIVER_RECOVERED]


def twenty_die(ledger: Ledger, at: int) -> None:
    for n in range(20):
        ledger.died(died([n], f"r{n}", at), at)


@pytest.mark.parametrize(("later_ms", "apart"), [(299_999, False), (300_000, True)])
def test_after_five_minutes_others_have_events_of_their_own(later_ms: int, apart: bool) -> None:
    """Twenty receivers in five minutes have: then the next twenty may."""
    ledger = Ledger()
    twenty_die(ledger, NOW)
    ledger.died(died([1], "late"), NOW + later_ms)
    assert (ledger.waiting[-1].data["receiver"] == about("late")["receiver"]) is apart


def test_who_has_had_an_event_of_its_own_has_the_next_one_too() -> None:
    """That there are twenty by now holds for those that come new."""
    ledger = Ledger()
    twenty_die(ledger, NOW)
    assert len(told(ledger, NOW + 2 * S)) == 20
    ledger.died(died([1], "r7"), NOW + 3 * S)
    assert [event.data["receiver"] for event in ledger.waiting] == [about("r7")["receiver"]]


def test_whose_event_still_waits_gathers_in_it() -> None:
    """Also where it has waited for more than five minutes, and twenty others have had theirs since."""
    ledger = Ledger()
    ledger.died(died([1], "first"), NOW)
    twenty_die(ledger, NOW + 400 * S)
    ledger.died(died([2], "first"), NOW + 401 * S)
    assert len(ledger.waiting) == 21
    assert ledger.waiting[0].data["callbackIds"] == ["cb_1", "cb_2"]


def test_where_many_conditions_are_known_the_next_is_one_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the value stays small: it is told of, and not remembered by its name."""
    monkeypatch.setattr("gateway.core.eventledger._MOST_CONDITIONS", 2)
    ledger = Ledger()
    for n in range(4):
        fails(ledger, NOW, f"r{n}")
    assert [event.data["receiver"] for event in ledger.waiting] == [
        about("r0")["receiver"], about("r1")["receiver"], None,
    ]  # fmt: skip
    assert ledger.waiting[-1].data["count"] == 2
    assert len(ledger.fail()) == 2


def test_only_so_many_wait_and_the_next_one_tells_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room for is counted; nothing grows while nobody takes the events."""
    monkeypatch.setattr("gateway.core.eventledger._MOST_APART", 10_000)
    ledger = Ledger()
    for n in range(250):
        fails(ledger, NOW, f"r{n}")
    ledger.died(died(range(7)), NOW)
    assert (len(ledger.waiting), len(ledger.fail()), ledger.dropped) == (200, 200, 51)
    first = ledger.claim(NOW, LEASE_MS)
    assert first is not None
    assert first.data["dropped"] == 51
    ledger.ended(first.id, NOW, None)
    fails(ledger, NOW + S, "r249")  # what was dropped is no known condition
    assert [event.data["receiver"] for event in ledger.waiting[-1:]] == [about("r249")["receiver"]]
    second = ledger.claim(NOW, LEASE_MS)
    assert second is not None
    assert "dropped" not in second.data


def test_what_an_event_tells_of_the_dropped_ones_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no room after its first attempt is the next one's to tell."""
    monkeypatch.setattr("gateway.core.eventledger._MOST_WAITING", 2)
    ledger = Ledger()
    for name in "abcd":
        fails(ledger, NOW, name)
    first = ledger.claim(NOW, LEASE_MS)
    assert first is not None
    assert first.data["dropped"] == 2
    fails(ledger, NOW + S, "e")
    ledger.failed(first.id, NOW - S, "refused")
    again = ledger.claim(NOW + 2 * S, LEASE_MS)
    assert again is not None
    assert (again.id, again.data["dropped"]) == (first.id, 2)
    second = ledger.claim(NOW + 2 * S, LEASE_MS)
    assert second is not None
    assert second.data["dropped"] == 1


def test_what_finds_no_room_delays_nothing_that_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event of it was made: neither who dies there next waits five minutes, nor who fails."""
    monkeypatch.setattr("gateway.core.eventledger._MOST_WAITING", 1)
    monkeypatch.setattr("gateway.core.eventledger._MOST_APART", 1)
    ledger = Ledger()
    fails(ledger, NOW)
    ledger.died(died([1], "b"), NOW)
    fails(ledger, NOW, "c")
    assert (len(ledger.waiting), ledger.dropped) == (1, 2)
    told(ledger, NOW)
    ledger.died(died([2], "b"), NOW + S)
    assert [(kind, at) for kind, at, _ in told(ledger, NOW + 3600 * S)] == [(CALLBACK_DEAD, 3)]
    fails(ledger, NOW + 10 * S, "c")
    assert [(kind, at) for kind, at, _ in told(ledger, NOW + 3600 * S)] == [(RECEIVER_FAILING, 12)]


@pytest.mark.parametrize(("later_ms", "known"), [(90 * 86_400 * S - 1, True), (90 * 86_400 * S, False)])
def test_what_fails_is_known_for_ninety_days(later_ms: int, known: bool) -> None:
    """That it recovers is told until then, and no longer."""
    ledger = Ledger()
    fails(ledger, NOW)
    told(ledger, NOW)
    recovers(ledger, NOW + later_ms)
    assert [event.type for event in ledger.waiting] == known * [RECEIVER_RECOVERED]


def test_what_was_known_long_ago_is_forgotten() -> None:
    """Receivers that are gone must not fill the value for ever."""
    ledger = Ledger()
    fails(ledger, NOW)
    ledger.died(died([1]), NOW)
    told(ledger, NOW + 3600 * S)
    assert ledger.fail() == [("ann", "https://a.example.com")]
    fails(ledger, NOW + 91 * 86_400 * S, "b")
    assert ledger.fail() == [("ann", "https://b.example.com")]
    recovers(ledger, NOW + 91 * 86_400 * S, "b")
    told(ledger, NOW + 92 * 86_400 * S)
    recovers(ledger, NOW + 93 * 86_400 * S, "c")
    assert ledger == Ledger()
