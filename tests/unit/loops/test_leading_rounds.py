"""Who polls which upstream, a round at a time: when what is taken, renewed and handed over, to the moment."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import pytest
from structlog.testing import capture_logs

from gateway.core.errors import StoreError
from gateway.core.telemetry import Metrics
from gateway.loops.leading import Leading, Lease, always
from gateway.store import Housekeeping, Standing
from tests.virtualtime import VirtualClock, run_virtual

LEASE_S, MARGIN_S = 10.0, 3.0


class Others:
    """The store, and the replicas beside this one: how they stand is for the test to say."""

    def __init__(self) -> None:
        self.freed = asyncio.Event()
        self.replicas = 1
        self.led: set[str] = set()
        self.refused: set[str] = set()
        self.epochs: dict[str, int | None] = {}
        self.broken: set[str] = set()
        self.slow: dict[str, float] = {}
        self._asked: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    async def standing(self, ttl_s: float) -> Standing:
        assert ttl_s == LEASE_S
        await self._answer("standing", "")
        return Standing(self.replicas, *(frozenset(f"polls:{one}" for one in names) for names in self.known))

    @property
    def known(self) -> tuple[set[str], set[str]]:
        return self.led, self.refused

    async def lead(self, name: str, ttl_s: float, *, refused: bool) -> int | None:
        assert ttl_s == LEASE_S
        upstream = name.removeprefix("polls:")
        await self._answer("lead", upstream)
        (self.refused.add if refused else self.refused.discard)(upstream)
        return self.epochs.get(upstream, 1)

    async def resign(self, name: str) -> None:
        await self._answer("resign", name.removeprefix("polls:"))

    async def _answer(self, what: str, upstream: str) -> None:
        await asyncio.sleep(self.slow.get(upstream, 0))
        self._asked[what, upstream].append(asyncio.get_running_loop().time())
        if {what, upstream} & self.broken:
            raise StoreError("unreachable")

    def times(self, what: str, upstream: str) -> list[float]:
        """Return when it was asked for that and has answered."""
        return self._asked[what, upstream]


class Poller:
    """What is led."""

    def __init__(self, clock: VirtualClock) -> None:
        self.lease = Lease(clock)
        self.idle = True
        self.refused = self.heard = False
        self.told: list[int | None] = []

    async def gained(self, epoch: int) -> None:
        self.told.append(epoch)

    def lost(self) -> None:
        self.told.append(None)

    def hear(self, *, refused: bool) -> None:
        self.heard = refused


class Round:
    """A replica whose rounds the test makes."""

    def __init__(self, upstreams: str) -> None:
        self.clock = VirtualClock()
        self.others = Others()
        self.pollers = {upstream: Poller(self.clock) for upstream in upstreams}
        self._metrics = Metrics()
        self.loop = Leading(cast(Housekeeping, self.others), self.clock, self._metrics, self.pollers)

    def shown(self, upstream: str) -> float | None:
        return self._metrics.registry.get_sample_value("gateway_leading", {"upstream": upstream})

    @property
    def led(self) -> str:
        return "".join(name for name, poller in self.pollers.items() if poller.lease.lasts)

    async def at(self, time_s: float) -> float:
        """Make a round at that time; return when the next one is due."""
        await self.until(time_s)
        return await self.loop.run_once()

    async def until(self, time_s: float) -> None:
        await asyncio.sleep(time_s - self.clock.monotonic())

    async def rounds(self, until_s: float, wanted: Callable[[], bool] = lambda: False) -> None:
        """Make a round every other second, the last one then, or once what is wanted has come about."""
        while self.clock.monotonic() < until_s and not wanted():
            await self.at(self.clock.monotonic() + 2)


async def leads(upstreams: str) -> Round:
    """Return a replica alone, that has made its first round and leads them all."""
    its = Round(upstreams)
    await its.at(0)
    return its


def test_a_lease_that_has_not_begun_or_has_ended_is_not_closing() -> None:
    """That is a term's, and who shares with nobody has one without an end, in epoch 0."""

    async def main() -> None:
        lease = Lease(VirtualClock())
        assert not lease.closing
        lease.begin(1, 5.0)
        lease.closing = True
        lease.end()
        assert not lease.closing
        assert always(VirtualClock()).epoch == 0

    run_virtual(main())


def test_the_next_round_is_due_sooner_where_something_is_free_or_failed() -> None:
    """Half a second after the database failed, one where others come first, else two."""

    async def main() -> None:
        its = Round("xy")
        assert await its.at(0) == 2.0
        its = Round("xy")
        its.others.replicas = 2
        assert await its.at(0) == 1.0, "its share is one, and the other one is free"
        its.others.led = {"y"}
        assert await its.at(0.5) == 2.0
        its.others.broken = {"standing"}
        assert await its.at(1) == 0.5

    run_virtual(main())


def test_that_the_database_fails_is_logged_once() -> None:
    """And again where it has answered meanwhile."""

    async def main() -> list[float]:
        its = Round("x")
        logged = []
        for time_s, broken in enumerate([True, True, False, True]):
            its.others.broken = {"standing"} if broken else set()
            with capture_logs() as log:
                await its.at(float(time_s))
            logged.append(sum(line["event"] == "leading.store_failed" for line in log))
        return logged

    assert run_virtual(main()) == [1, 0, 0, 1]


@pytest.mark.parametrize(("upstreams", "replicas", "share"), [("vwxyz", 2, 3), ("vwxyz", 1, 5), ("vwxy", 2, 2)])
def test_a_replica_takes_its_share_and_leaves_the_rest_to_others_for_a_second(
    upstreams: str, replicas: int, share: int
) -> None:
    """What nobody has taken by then it takes beside: all of it must be polled."""

    async def main() -> None:
        its = Round(upstreams)
        its.others.replicas = replicas
        await its.at(5)
        assert len(its.led) == share
        await its.at(5.875)
        assert len(its.led) == share
        await its.at(6)
        assert its.led == upstreams

    run_virtual(main())


def test_what_another_leads_is_not_asked_for() -> None:
    """It is not free, however long; once it is, it is taken in that round."""

    async def main() -> None:
        its = Round("x")
        its.others.replicas, its.others.led = 2, {"x"}
        await its.rounds(40)
        assert its.others.times("lead", "x") == []
        assert its.loop.leaderless() == []
        its.others.led = set()
        await its.at(41)
        assert its.led == "x"

    run_virtual(main())


def test_what_was_heard_of_a_key_holds_until_another_leader_tells() -> None:
    """Nobody leads it for a while, and its key is as refused as before."""

    async def main() -> None:
        its = Round("wxyz")
        its.others.replicas, its.others.led, its.others.refused = 4, set("xyz"), {"x"}
        await its.at(0)
        assert [its.pollers[name].heard for name in "xy"] == [True, False]
        its.others.led, its.others.refused = set("yz"), set()
        await its.at(0.5)
        assert its.pollers["x"].heard
        its.others.led = set("xyz")
        await its.at(0.75)
        assert not its.pollers["x"].heard

    run_virtual(main())


def test_a_lease_lasts_from_when_it_was_asked_for_less_a_margin() -> None:
    """A renewal makes it last longer in the same term."""

    async def main() -> None:
        its = Round("x")
        its.others.slow["x"] = 1.0
        await its.at(2)
        lease = its.pollers["x"].lease
        term = lease.current
        assert term is not None
        assert lease.epoch == 1
        await its.at(4)
        await its.until(4 + LEASE_S - MARGIN_S - 0.125)
        assert lease.holds(term)
        await its.until(4 + LEASE_S - MARGIN_S)
        assert not lease.lasts
        assert its.pollers["x"].told == [1]

    run_virtual(main())


@pytest.mark.parametrize(("epoch", "told"), [(1, [1]), (2, [1, None, 2]), (None, [1, None])])
def test_a_renewal_tells_whether_it_is_still_this_replicas(epoch: int | None, told: list[int | None]) -> None:
    """In the same epoch; taken up anew in another one; or it is another's."""

    async def main() -> None:
        its = await leads("x")
        its.others.epochs["x"] = epoch
        if epoch is None:
            its.others.led = {"x"}
        await its.at(2)
        assert its.pollers["x"].told == told
        assert its.led == ("x" if epoch else "")
        assert its.shown("x") == bool(epoch)

    run_virtual(main())


def test_a_lease_that_is_over_is_noticed_before_the_next_is_asked_for() -> None:
    """What belongs to the term is let go of, whatever the database answers."""

    async def main() -> None:
        its = await leads("x")
        its.others.broken = {"standing"}
        await its.at(LEASE_S - MARGIN_S)
        assert its.pollers["x"].told == [1, None]

    run_virtual(main())


def test_what_may_be_this_replicas_is_asked_for_again_at_once() -> None:
    """Also above its share: no answer came, and others may take it for the one that leads."""

    async def main() -> None:
        its = Round("xy")
        its.others.replicas = 1
        its.others.broken = {"x"}
        assert await its.at(0) == 0.5
        its.others.replicas, its.others.broken, its.others.led = 2, set(), {"x", "y"}
        await its.at(0.5)
        assert its.led == "xy"

    run_virtual(main())


def test_a_round_waits_for_all_that_it_has_begun() -> None:
    """Where one fails at once the others' answers still count: they are not left behind in the next round's way."""

    async def main() -> None:
        its = Round("xy")
        its.others.broken, its.others.slow = {"x"}, {"y": 1.0}
        assert await its.at(0) == 0.5
        assert its.led == "y"
        assert its.clock.monotonic() == 1.0

    run_virtual(main())


def test_it_is_told_after_fifteen_seconds_that_nobody_leads() -> None:
    """Not sooner, and only where the database has answered within that time."""

    async def main() -> None:
        its = Round("x")
        its.others.broken = {"x"}
        await its.at(15)
        assert its.loop.leaderless() == []
        await its.at(15.5)
        assert its.loop.leaderless() == ["x"]
        await its.until(30.25)
        assert its.loop.leaderless() == ["x"]
        await its.until(30.5)
        assert its.loop.leaderless() == []

    run_virtual(main())


def test_what_is_above_the_share_is_handed_over_after_half_a_minute_on_end() -> None:
    """Where it was even for a moment, it begins anew; nothing more begins there, and it is resigned once it is idle."""

    async def main() -> None:
        its = Round("xy")
        await its.rounds(60)
        its.others.replicas = 2
        await its.rounds(80)
        its.others.replicas = 1
        await its.at(82)
        its.others.replicas = 2
        await its.at(84)
        await its.at(113.75)
        assert not its.pollers["y"].lease.closing
        its.pollers["y"].idle = False
        await its.at(114)
        assert [its.pollers[name].lease.closing for name in "xy"] == [False, True]
        await its.at(115)
        assert its.others.times("resign", "y") == []
        its.pollers["y"].idle = True
        await its.at(116)
        assert its.others.times("resign", "y") == [116]

    run_virtual(main())


def test_polls_that_are_under_way_hold_a_hand_over_up_for_five_seconds() -> None:
    """And what was handed over is left to others for five more."""

    async def main() -> None:
        its = await leads("xy")
        its.others.replicas = 2
        its.pollers["y"].idle = False
        for time_s in (2, 8, 14, 20, 26, 32, 36.875):
            await its.at(time_s)
        assert its.others.times("resign", "y") == []
        await its.at(37)
        assert its.others.times("resign", "y") == [37]
        await its.at(38)
        await its.at(41.875)
        assert its.led == "x"
        await its.at(42)
        assert its.led == "xy", "nobody wanted it"

    run_virtual(main())


def test_what_nobody_wants_is_handed_over_ever_more_seldom() -> None:
    """Twice as long each time, an hour at most; and as soon as at first where the replicas are others."""

    async def main() -> None:
        its = await leads("xy")
        its.others.replicas = 2
        await its.rounds(9000, lambda: len(its.others.times("resign", "y")) == 8)
        spans = [after - before for before, after in pairwise(its.others.times("resign", "y"))]
        away_s = 8  # until it takes it again, and until the round in which it is resigned
        assert [span - away_s for span in spans] == [60, 120, 240, 480, 960, 1920, 3600]
        its.others.replicas = 3
        began = its.clock.monotonic()
        await its.rounds(began + 100, lambda: its.others.times("resign", "y")[-1] > began)
        assert its.clock.monotonic() - began <= 60

    run_virtual(main())


def test_at_its_end_nothing_begins_and_what_is_led_is_renewed_every_other_second() -> None:
    """Until its polls are answered, or the time is up."""

    async def main() -> None:
        its = await leads("xy")
        its.pollers["y"].idle = False
        await its.until(1)
        draining = asyncio.create_task(its.loop.drain(5.0))
        await its.until(1.5)
        assert its.others.times("resign", "x") == [1]
        assert its.led == "y"
        assert its.pollers["y"].lease.current is None
        async with asyncio.timeout(10):
            await draining
        assert its.others.times("lead", "y")[:2] == [0, 1]
        assert [round(at) for at in its.others.times("lead", "y")] == [0, 1, 3, 5]
        assert its.others.times("resign", "y") == [pytest.approx(6, abs=0.03)]
        assert its.led == ""

    run_virtual(main())


def test_an_end_without_time_waits_for_nothing() -> None:
    """What is under way then is cut short: it is resigned in that moment."""

    async def main() -> None:
        its = await leads("x")
        its.pollers["x"].idle = False
        await its.until(3)
        async with asyncio.timeout(1):
            await its.loop.drain(0.0)
        assert its.others.times("resign", "x") == [3]

    run_virtual(main())


def test_an_end_without_the_database_asks_once() -> None:
    """Each question may take a time limit: what is led ends by itself."""

    async def main() -> None:
        its = await leads("xyz")
        its.others.broken = {"resign"}
        async with asyncio.timeout(10):
            await its.loop.drain(5.0)
        assert sum(len(its.others.times("resign", name)) for name in "xyz") == 1

    run_virtual(main())
