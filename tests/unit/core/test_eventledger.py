"""What the operator is told of, and how often: the ledger's decisions, with time handed in."""

from itertools import pairwise

import pytest

from gateway.core.eventledger import CALLBACK_DEAD, RECEIVER_FAILING, RECEIVER_RECOVERED, Ledger
from tests.ledgers import LEASE_MS, NOW, S, about, died, fails, recovers, told


def test_callbacks_that_die_at_one_receiver_are_one_event() -> None:
    """The first ones after two seconds, those of the next five minutes together, with all counted and ten named."""
    ledger = Ledger()
    ledger.died(died([1, 2]), NOW)
    ledger.died(died([3], at=NOW + S), NOW + S)
    ((kind, at, first),) = told(ledger, NOW + 2 * S)
    assert (kind, at) == (CALLBACK_DEAD, 2)
    assert first.data == {
        **about(), "count": 3, "callbackIds": ["cb_1", "cb_2", "cb_3"], "lastError": "error 3",
    }  # fmt: skip
    for n in range(50):
        ledger.died(died([100 + n], at=NOW + (3 + n) * S), NOW + (3 + n) * S)
    ((_, at, second),) = told(ledger, NOW + 3600 * S)
    assert (at, second.data["count"], len(second.data["callbackIds"])) == (302, 50, 10)
    assert first.id != second.id


def test_what_waits_long_begins_its_five_minutes_when_it_is_sent() -> None:
    """However late that is: what dies afterwards is one event again, five minutes later."""
    ledger = Ledger()
    ledger.died(died([1]), NOW)
    fails(ledger, NOW + 600 * S, "b")
    assert [(kind, at) for kind, at, _ in told(ledger, NOW + 600 * S, NOW + 600 * S)] == [
        (CALLBACK_DEAD, -598),
        (RECEIVER_FAILING, 0),
    ]
    ledger.died(died([2], at=NOW + 601 * S), NOW + 601 * S)
    assert [(kind, at) for kind, at, _ in told(ledger, NOW + 3600 * S)] == [(CALLBACK_DEAD, 900)]


@pytest.mark.parametrize(("length", "kept"), [(500, 500), (501, 500), (5000, 500)])
def test_a_long_error_is_cut(length: int, kept: int) -> None:
    """What others say fills no value: 500 characters of it are told, and that there were more."""
    ledger = Ledger()
    ledger.fails(RECEIVER_FAILING, about(), {"count": 1, "lastError": "x" * length}, NOW)
    assert ledger.waiting[0].data["lastError"] == "x" * kept + "…" * (length > kept)


def test_what_is_claimed_changes_no_more() -> None:
    """Its bytes are the same in each attempt: what dies meanwhile is in the next event."""
    ledger = Ledger()
    ledger.died(died([1]), NOW)
    first = ledger.claim(NOW + 2 * S, LEASE_MS)
    assert first is not None
    ledger.failed(first.id, NOW + 10 * S, "refused")
    assert ledger.error == "refused"
    ledger.died(died([2]), NOW + 3 * S)
    again = ledger.claim(NOW + 10 * S, LEASE_MS)
    assert again is not None
    assert (again.id, again.data["count"], again.attempts) == (first.id, 1, 1)
    ledger.ended(again.id, NOW + 10 * S, None)
    assert ledger.error is None
    ((_, at, second),) = told(ledger, NOW + 3600 * S)
    assert (at, second.data["callbackIds"]) == (302, ["cb_2"])


def test_what_failed_is_said_of_the_one_it_failed_for() -> None:
    """The others are due when they were; and where no attempt was made, what the last one failed by stays."""
    ledger = Ledger()
    fails(ledger, NOW)
    fails(ledger, NOW + S, "b")
    first, other = ledger.waiting
    ledger.failed(first.id, NOW + 60 * S, "refused")
    assert [(one.due_at, one.attempts) for one in ledger.waiting] == [(NOW + 60 * S, 1), (NOW + S, 0)]
    ledger.failed(other.id, NOW + 5 * S, None, counts=False)
    assert [(one.due_at, one.attempts) for one in ledger.waiting] == [(NOW + 60 * S, 1), (NOW + 5 * S, 0)]
    assert ledger.error == "refused"


def test_the_words_of_the_first_attempt_stay() -> None:
    """Whoever sends it again may have others; one that was sent by a gateway that kept none gets them then."""
    ledger = Ledger()
    ledger.died(died([1]), NOW)
    for at, words, kept in ((2, {}, None), (20, {"manual": "/a"}, "/a"), (40, {"manual": "/b"}, "/a")):
        event = ledger.claim(NOW + at * S, LEASE_MS, {CALLBACK_DEAD: words}.__getitem__)
        assert event is not None
        assert event.data.get("manual") == kept
        ledger.failed(event.id, NOW + (at + 1) * S, "refused")


def test_a_claimed_event_is_nobody_elses_until_its_claim_lapses() -> None:
    """As its claimer may have died, it comes again then."""
    ledger = Ledger()
    fails(ledger, NOW)
    first = ledger.claim(NOW, LEASE_MS)
    assert first is not None
    assert ledger.claim(NOW + LEASE_MS - 1, LEASE_MS) is None
    again = ledger.claim(NOW + LEASE_MS, LEASE_MS)
    assert again is not None
    assert again.id == first.id


def test_nothing_is_sent_before_what_happened_earlier_to_the_same() -> None:
    """Else whoever is told last that it fails, which has long recovered, waits for ever."""
    ledger = Ledger()
    fails(ledger, NOW)
    first = ledger.claim(NOW, LEASE_MS)
    assert first is not None
    ledger.failed(first.id, NOW + 300 * S, "refused")
    recovers(ledger, NOW + 10 * S)
    fails(ledger, NOW + 100 * S, "b")
    assert [event.data["receiver"] for _, _, event in told(ledger, NOW + 299 * S)] == [about("b")["receiver"]]
    assert [(kind, at) for kind, at, _ in told(ledger, NOW + 3600 * S)] == [
        (RECEIVER_FAILING, 300),
        (RECEIVER_RECOVERED, 60),
    ]


def test_an_event_that_is_given_up_holds_up_what_waits_behind_it() -> None:
    """Until one gets through. Where none waits none is held up: what comes later may find it mended."""
    ledger = Ledger()
    fails(ledger, NOW)
    first = ledger.claim(NOW, LEASE_MS)
    assert first is not None
    recovers(ledger, NOW + S)
    ledger.ended(first.id, NOW + S, "gone")
    assert (len(ledger.waiting), ledger.error, ledger.held_up) == (1, "gone", "gone")
    second = ledger.claim(NOW + 3600 * S, LEASE_MS)
    assert second is not None
    ledger.ended(second.id, NOW + 3600 * S, "gone")
    assert (ledger.waiting, ledger.error, ledger.held_up) == ([], None, None)
    fails(ledger, NOW + 7200 * S)
    assert (len(ledger.waiting), ledger.held_up) == (1, None)
    third = ledger.claim(NOW + 7200 * S, LEASE_MS)
    assert third is not None
    ledger.failed(third.id, NOW + 7300 * S, "refused")
    assert ledger.held_up == "refused"
    ledger.ended(third.id, NOW + 7300 * S, None)
    assert ledger.held_up is None


def test_a_receiver_that_fails_and_recovers_is_told_of_twice() -> None:
    """With what died meanwhile, and since when."""
    ledger = Ledger()
    fails(ledger, NOW)
    ((kind, at, event),) = told(ledger, NOW)
    assert (kind, at, event.data) == (RECEIVER_FAILING, 0, {**about(), "count": 1, "lastError": "no"})
    fails(ledger, NOW + 100 * S)  # another replica has found it out
    ledger.died(died([1, 2, 3]), NOW + 110 * S)
    recovers(ledger, NOW + 200 * S)
    recovers(ledger, NOW + 201 * S)
    kinds = {kind: event for kind, _, event in told(ledger, NOW + 200 * S)}
    assert kinds.keys() == {CALLBACK_DEAD, RECEIVER_RECOVERED}
    data = kinds[RECEIVER_RECOVERED].data
    assert data == {**about(), "failedSince": "2026-04-29T10:53:20.000Z", "dead": 3}
    assert ledger.fail() == []


def test_what_fails_again_after_its_recovery_was_told_is_told_again() -> None:
    """A minute after that, as somebody believes that it is well."""
    ledger = Ledger()
    fails(ledger, NOW)
    told(ledger, NOW)
    recovers(ledger, NOW + 60 * S)
    assert [kind for kind, *_ in told(ledger, NOW + 60 * S)] == [RECEIVER_RECOVERED]
    fails(ledger, NOW + 70 * S)
    assert ledger.fail() == [("ann", "https://a.example.com")]
    assert [(kind, at) for kind, at, _ in told(ledger, NOW + 3600 * S)] == [(RECEIVER_FAILING, 120)]


def test_a_recovery_that_could_not_be_sent_for_long_is_taken_back() -> None:
    """Where it fails again before anybody was told otherwise, however long that took."""
    ledger = Ledger()
    fails(ledger, NOW)
    told(ledger, NOW)
    recovers(ledger, NOW + 10 * S)
    ledger.died(died([1], "other", NOW + 200 * S), NOW + 200 * S)
    fails(ledger, NOW + 200 * S)
    assert [event.type for event in ledger.waiting] == [CALLBACK_DEAD]
    assert ledger.fail() == [("ann", "https://a.example.com")]


def test_a_short_flap_is_not_told() -> None:
    """Ten times within a minute: that it fails, and at the minute's end how it stands then."""
    for well_at_last in (False, True):
        ledger, sent = Ledger(), []
        for n in range(10):
            fails(ledger, NOW + 4 * n * S)
            sent += told(ledger, NOW + 4 * n * S)
            if n < 9 or well_at_last:
                recovers(ledger, NOW + (4 * n + 2) * S)
            sent += told(ledger, NOW + (4 * n + 2) * S)
        sent += told(ledger, NOW + 3600 * S)
        assert [(kind, at) for kind, at, _ in sent] == [(RECEIVER_FAILING, 0)] + well_at_last * [
            (RECEIVER_RECOVERED, 60)
        ]


def test_what_flaps_for_hours_is_told_of_once_a_minute_at_most() -> None:
    """However it does it."""
    ledger, sent = Ledger(), []
    for n in range(600):
        fails(ledger, NOW + 14 * n * S)
        sent += told(ledger, NOW + 14 * n * S)
        recovers(ledger, NOW + (14 * n + 7) * S)
        sent += told(ledger, NOW + (14 * n + 7) * S)
    times = [event.due_at for _, _, event in sent]
    assert 1 < len(times) <= 600 * 14 / 60 + 1
    kinds = [kind for kind, *_ in sent]
    assert all(one != other for one, other in pairwise(kinds))


def test_all_that_is_still_to_happen_follows_the_wall_clock() -> None:
    """Set back by a day, an event waits no longer for it."""
    ledger = Ledger()
    ledger.died(died([1]), NOW)
    fails(ledger, NOW)
    ledger.move(-86_400 * S)
    back = NOW - 86_400 * S
    assert [(kind, at) for kind, at, _ in told(ledger, back + 10 * S, back)] == [
        (RECEIVER_FAILING, 0),
        (CALLBACK_DEAD, 2),
    ]


def test_what_was_told_lately_follows_the_wall_clock() -> None:
    """A flap is told a minute after the last event, by a clock that was set back meanwhile, too."""
    ledger = Ledger()
    fails(ledger, NOW)
    told(ledger, NOW)
    ledger.move(-86_400 * S)
    back = NOW - 86_400 * S
    recovers(ledger, back + 10 * S)
    assert [(kind, at) for kind, at, _ in told(ledger, back + 3600 * S, back)] == [(RECEIVER_RECOVERED, 60)]
