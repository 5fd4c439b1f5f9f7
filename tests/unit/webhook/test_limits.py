"""ReceiverLimits of some receivers' own hold at the claim, hold up nobody else, and end."""

import msgspec
import pytest

from gateway.core.claims import Lane
from gateway.core.ratelimit import RateWindow
from gateway.webhook.bulkhead import Bulkhead
from gateway.webhook.limits import ProxyHealth, ReceiverLimits, Usage
from tests.lanes import end_one, fill, lane, webhook, well

A, ALSO_A, B = lane("a", "ann"), lane("a", "bob"), lane("b", "ann")


class Table:
    """One table for receiver a, and a bulkhead that goes by it."""

    def __init__(
        self,
        concurrency: int | None = None,
        rate: tuple[RateWindow, ...] | None = None,
        proxy: ProxyHealth | None = None,
        path: str = "",
    ) -> None:
        self.now_s = 100.0
        self.usage = Usage(concurrency, rate, proxy, A.receiver + path)
        limits = ReceiverLimits(lambda: self.now_s, self._usage_of)
        limits.use([self.usage])
        self.bulkhead = Bulkhead(256, limits=limits)
        self.bulkhead.at(self.now_s)

    def _usage_of(self, url: str) -> Usage | None:
        return self.usage if url.startswith(self.usage.receiver) else None

    def shared(self, *lanes: Lane) -> dict[Lane, int]:
        """Say that these have webhooks due; return who may have how many claimed."""
        for one in lanes:
            self.bulkhead.wait(one)
        return {share.lane: share.room for share in self.bulkhead.shares(256)}


def test_concurrency_is_of_all_clients_together() -> None:
    """So many attempts at once below the match, whoever's they are; another receiver has its places as ever."""
    table = Table(concurrency=3)
    well(table.bulkhead, A, ALSO_A, B)
    first = fill(table.bulkhead, A)
    assert len(first) == 3
    assert fill(table.bulkhead, ALSO_A) == []
    assert len(fill(table.bulkhead, B)) > 100
    table.bulkhead.ended(first.pop(), delivered=True)
    assert len(fill(table.bulkhead, ALSO_A)) == 1


def test_what_waits_for_a_limit_is_not_claimed() -> None:
    """A lane whose receiver is full gets no share, others do; it gets one as soon as there is room."""
    table = Table(concurrency=1)
    well(table.bulkhead, A, ALSO_A, B)
    assert table.shared(A) == {A: 1}
    (under_way,) = fill(table.bulkhead, A)
    assert set(table.shared(A, ALSO_A, B)) == {B}
    assert table.shared() == {}
    table.bulkhead.ended(under_way, delivered=True)
    assert table.shared().keys() == {A, ALSO_A}, "each may have what there is; whoever is first takes it"
    assert len(fill(table.bulkhead, A) + fill(table.bulkhead, ALSO_A)) == 1


def test_a_rate_holds_and_says_when_it_ends() -> None:
    """No more begin in the window than it has; the next turn is when the first of them has left it."""
    table = Table(rate=(RateWindow(2, 10.0),))
    well(table.bulkhead, A)  # the first one, at 100 s
    table.now_s = 103.0
    end_one(table.bulkhead, A, delivered=True)
    assert fill(table.bulkhead, A) == []
    assert table.bulkhead.next_turn_s is None, "nobody waits for it"
    assert table.shared(A) == {}
    assert table.bulkhead.next_turn_s == pytest.approx(7.0)
    table.now_s = 109.9
    assert table.shared() == {}
    table.now_s = 110.0
    assert table.shared() == {A: 1}


@pytest.mark.parametrize(("window_s", "turn_s"), [(0.5, 0.5), (10.0, 1.0)])
def test_the_next_turn_is_the_limits_or_that_of_an_attempt_that_is_no_newcomers_any_more(
    window_s: float, turn_s: float
) -> None:
    """Whichever comes first, where lanes wait for both; one alone where the limit waits for an end."""
    table = Table(rate=(RateWindow(1, window_s),))
    well(table.bulkhead, A)
    assert table.shared(A) == {}
    assert len(fill(table.bulkhead, B)) >= 1  # each takes long for a newcomer after a second
    assert table.bulkhead.next_turn_s == pytest.approx(turn_s)
    table.usage.begin()
    table.now_s += 10.0
    table.usage.begin()
    table.bulkhead.at(table.now_s - 9.5)
    assert table.bulkhead.next_turn_s == pytest.approx(0.5)


def test_a_rate_counts_from_when_an_attempt_is_sent() -> None:
    """However long its receiver takes, the next may begin a window's length after that; who waits for it is told."""
    table = Table(rate=(RateWindow(1, 10.0),))
    (slow,) = fill(table.bulkhead, A)
    assert table.usage.more_in_s(table.now_s) is None, "its name may be looked up for seconds yet"
    assert table.shared(A) == {}
    table.now_s = 103.0
    assert table.bulkhead.sends(slow)
    assert not table.bulkhead.sends(slow), "once"
    table.bulkhead.at(table.now_s)
    assert table.bulkhead.next_turn_s == pytest.approx(10.0)
    table.now_s = 112.9
    assert table.shared() == {}
    table.now_s = 113.0
    assert table.shared() == {A: 1}
    (quick,) = fill(table.bulkhead, A)
    assert not table.bulkhead.sends(quick), "nobody waits"
    table.now_s = 114.0
    for one in (slow, quick):
        table.bulkhead.ended(one, delivered=True)
    assert table.usage.more_in_s(table.now_s) == pytest.approx(9.0)


def test_what_was_never_sent_does_not_count_in_a_rate() -> None:
    """Its place in the window is free again at once: its name's place had gone, or it was cancelled meanwhile."""
    table = Table(rate=(RateWindow(1, 10.0),))
    (given_back,) = fill(table.bulkhead, A)
    table.bulkhead.ended(given_back, delivered=None)
    assert len(fill(table.bulkhead, A)) == 1


def test_without_a_rate_nobody_is_told_that_an_attempt_is_sent() -> None:
    """A table's concurrency waits for an end alone; and what goes by no table counts nowhere."""
    table = Table(concurrency=1)
    (one,) = fill(table.bulkhead, A)
    other, *_ = fill(table.bulkhead, B)
    assert table.shared(A) == {}
    assert not table.bulkhead.sends(one)
    assert not table.bulkhead.sends(other)


def test_where_there_is_room_or_only_an_end_makes_some_no_time_is_told() -> None:
    """Nobody is woken for it: else whoever waits for a place would look all the time."""
    usage = Usage(2, (RateWindow(3, 10.0),), None)
    assert usage.more_in_s(0.0) is None
    usage.begin()
    assert usage.room(0.0) == 1
    assert usage.more_in_s(0.0) is None
    usage.begin()
    assert usage.room(0.0) == 0
    assert usage.more_in_s(0.0) is None, "the window has room, the receiver has no place"


def test_while_one_tries_a_dead_proxy_no_time_is_told() -> None:
    """Its end says how it goes on; through one that works the rate alone tells."""
    proxy = ProxyHealth()
    usage = Usage(None, None, proxy)
    pause_s = proxy.fails(100.0)
    assert usage.more_in_s(100.0) == pytest.approx(pause_s)
    usage.begin()
    assert usage.more_in_s(100.0 + pause_s) is None
    rated = Usage(None, (RateWindow(1, 10.0),), ProxyHealth())
    rated.begin()
    rated.sends(100.0)
    assert rated.more_in_s(100.0) == pytest.approx(10.0)


def test_of_several_tables_that_wait_the_first_to_have_room_is_told() -> None:
    """Whoever has room already, or waits for an end, has no say in it."""
    usages = [Usage(None, (RateWindow(1, window_s),), None) for window_s in (20.0, 10.0, 5.0)]
    limits = ReceiverLimits(lambda: 100.0, lambda url: None)
    limits.use(usages)
    assert limits.more_in_s is None
    for usage in usages[:2]:
        usage.begin()
        usage.sends(100.0)
    assert limits.more_in_s == pytest.approx(10.0)


@pytest.mark.parametrize("window_s", [0.5, 1.0, 60.0])
def test_what_is_sent_under_a_rate_says_when_there_is_room_again(window_s: float) -> None:
    """However short its window."""
    usage = Usage(None, (RateWindow(1, window_s),), None)
    usage.begin()
    assert usage.sends(100.0)


def test_what_goes_by_no_table_stays_on_its_lane() -> None:
    """Whatever table that lane's name goes by."""
    usage = Usage(1, None, None, "https://a")
    limits = ReceiverLimits(lambda: 0.0, {"https://a": usage, "https://b": None}.__getitem__)
    assert limits.receiver_of("https://b", "https://a") == "https://a"


def test_a_dead_proxy_is_tried_by_one_at_a_time_ever_more_seldom() -> None:
    """Its receivers' webhooks are not claimed meanwhile; one success, and all of them are again."""
    proxy = ProxyHealth()
    table = Table(proxy=proxy)
    well(table.bulkhead, A, ALSO_A)
    pauses = []
    for _ in range(9):
        one = webhook(A)
        assert table.bulkhead.admit(one)
        if pauses:
            assert fill(table.bulkhead, ALSO_A) == [], "one finds out"
        pauses.append(proxy.fails(table.now_s))
        table.bulkhead.ended(one, delivered=None)
        assert table.shared(A, ALSO_A) == {}
        assert table.bulkhead.next_turn_s == pytest.approx(pauses[-1])
        table.now_s += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    proxy.works()
    assert len(fill(table.bulkhead, A)) > 100


def test_many_that_fail_at_once_are_one_failure() -> None:
    """What was under way when the proxy went down does not make its pause any longer."""
    proxy = ProxyHealth()
    assert [proxy.fails(100.0), proxy.fails(100.2), proxy.fails(100.9)] == pytest.approx([1.0, 0.8, 0.1])
    assert proxy.failures == 1


def test_a_proxy_that_works_again_and_fails_at_once_is_paused_anew() -> None:
    """By the shortest pause, and from then on: what was left of the last one is over with the success."""
    proxy = ProxyHealth()
    assert proxy.fails(0.0) == 1.0
    proxy.works()
    assert proxy.pause_s(0.5) == 0.0
    assert proxy.fails(0.5) == 1.0
    assert proxy.failures == 1


def test_a_proxy_that_nobody_tries_any_more_fails_no_longer() -> None:
    """Where its webhooks were cancelled nothing would ever tell that it works again; until then each try tells."""
    proxy = ProxyHealth()
    assert not proxy.failing(0)
    pause_s = proxy.fails(0)
    assert proxy.failing(pause_s + 599)
    pause_s = proxy.fails(590)
    assert proxy.failing(590 + pause_s + 599)
    assert not proxy.failing(590 + pause_s + 600)
    proxy.fails(2000)
    assert proxy.failing(2000)
    proxy.works()
    assert not proxy.failing(2000)


def test_a_table_that_is_about_a_path_has_lanes_of_its_own() -> None:
    """What it has no room for holds up nothing else that goes to the same host; nor is it claimed over and over."""
    table = Table(concurrency=1, path="/slow")
    slow = Lane(A.client, f"{A.receiver}/slow")
    well(table.bulkhead, A, B, slow)
    assert len(fill(table.bulkhead, slow)) == 1
    assert table.shared(A, B, slow).keys() == {A, B}
    assert len(fill(table.bulkhead, A)) > 1


def test_a_webhook_that_came_before_its_table_belongs_on_its_lanes() -> None:
    """It is on the host's, and has no place there while its table has no room: nothing behind it is to wait."""
    table = Table(concurrency=1, path="/slow")
    well(table.bulkhead, A)
    first, again = (msgspec.structs.replace(webhook(A), url=f"{A.receiver}/slow") for _ in range(2))
    assert table.bulkhead.admit(first)
    assert not table.bulkhead.admit(again)
    assert table.bulkhead.misplaced(again) == f"{A.receiver}/slow"
    assert table.bulkhead.misplaced(webhook(A)) is None
    assert table.bulkhead.misplaced(msgspec.structs.replace(again, receiver=f"{A.receiver}/slow")) is None
    assert set(table.shared(A)) == {A}


def test_a_lane_of_a_table_that_is_elsewhere_waits_for_this_ones_room() -> None:
    """Another replica's, or one that is gone: its webhooks stay where they are, and are not claimed in vain."""
    table = Table(concurrency=1)
    its = Lane(A.client, f"{A.receiver}/slow")
    well(table.bulkhead, A, B, its)
    one = msgspec.structs.replace(webhook(its), url=f"{its.receiver}/1")
    assert table.bulkhead.misplaced(one) is None
    (under_way,) = fill(table.bulkhead, A)
    assert not table.bulkhead.admit(one)
    assert table.shared(its, B).keys() == {B}
    table.bulkhead.ended(under_way, delivered=True)
    assert table.shared() == {its: 1}


def test_what_came_before_a_table_that_is_paused_joins_it() -> None:
    """It is on the host's lane still, which is not paused; so it is handed over, where it waits for its receiver."""
    table = Table(path="/slow")
    well(table.bulkhead, A)
    table.bulkhead.pause(frozenset({Lane(A.client, table.usage.receiver)}))
    one = msgspec.structs.replace(webhook(A), url=f"{A.receiver}/slow/1")
    assert not table.bulkhead.admit(one)
    assert table.bulkhead.misplaced(one) == table.usage.receiver
    table.bulkhead.wait(Lane(A.client, table.usage.receiver))
    assert table.shared(A).keys() == {A}
    assert table.bulkhead.admit(webhook(A)), "the rest of the host goes on"


def test_without_a_table_nothing_is_asked() -> None:
    """The common path has no cost of these."""
    limits = ReceiverLimits(lambda: 1 / 0, lambda url: Usage(1, None, None))
    bulkhead = Bulkhead(256, limits=limits)
    assert len(fill(bulkhead, A)) > 1
    bulkhead.wait(A)
    assert bulkhead.shares(256) == []
    assert bulkhead.next_turn_s == pytest.approx(1.0)
