"""Who polls which upstream: taken over in time, spread over the replicas, and handed over with nothing under way."""

import asyncio
from collections import Counter
from typing import cast

import pytest

from gateway.core.errors import StoreError
from gateway.core.telemetry import Metrics
from gateway.loops.leading import LEASE_S, Leading, Lease, always
from gateway.store import Housekeeping
from tests.replicas import Leads, Replica
from tests.virtualtime import VirtualClock, run_virtual


class Poller:
    """What is led; it notes what it is told."""

    def __init__(self, clock: VirtualClock) -> None:
        self.lease = Lease(clock)
        self.idle = True
        self.refused = self.hears_refused = False
        self.told: list[int | None] = []
        self.broken = False

    async def gained(self, epoch: int) -> None:
        await asyncio.sleep(0)
        if self.broken:
            raise StoreError("unreachable")
        assert not self.lease.lasts, "first what is there is taken up"
        self.told.append(epoch)

    def hear(self, *, refused: bool) -> None:
        assert not self.leads
        self.hears_refused = refused

    def lost(self) -> None:
        assert self.lease.current is None, "first nothing more may begin"
        self.told.append(None)

    @property
    def leads(self) -> bool:
        return self.lease.current is not None


class Process:
    """A replica with its loop, and a supervisor that knows no trouble."""

    def __init__(self, leads: Leads, name: str, upstreams: str) -> None:
        self.clock = VirtualClock()
        self.store = Replica(leads, name)
        self.pollers = {upstream: Poller(self.clock) for upstream in upstreams}
        self.metrics = Metrics()
        self.loop = Leading(cast(Housekeeping, self.store), self.clock, self.metrics, self.pollers)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await self.loop.wait(await self.loop.run_once())

    @property
    def led(self) -> str:
        return "".join(upstream for upstream, poller in self.pollers.items() if poller.leads)

    async def kill(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def stop(self, drain_s: float = 10.0) -> None:
        await self.kill()
        await self.loop.drain(drain_s)

    def shown(self, metric: str, upstream: str) -> float | None:
        return self.metrics.registry.get_sample_value(metric, {"upstream": upstream})


def test_a_lease_ends_by_the_clock() -> None:
    """Whatever its process was doing: asked afterwards, it is over, and stays so where another one has begun."""

    async def main() -> None:
        lease = Lease(VirtualClock())
        assert (lease.current, lease.lasts, lease.holds(0)) == (None, False, False)
        lease.begin(7, 5.0)
        first = lease.current
        assert first is not None
        assert lease.holds(first)
        lease.closing = True
        assert (lease.current, lease.holds(first)) == (None, True)
        await asyncio.sleep(5)
        assert not lease.holds(first)
        lease.begin(7, 20.0)
        assert (lease.holds(first), lease.current) == (False, first + 1)
        lease.end()
        assert (lease.epoch, lease.lasts) == (None, False)
        assert always(VirtualClock()).current is not None

    run_virtual(main())


def test_one_replica_leads_everything() -> None:
    """At once, in the same epoch for as long as it renews."""

    async def main() -> None:
        one = Process(Leads(VirtualClock()), "a", "xyz")
        await asyncio.sleep(0.1)
        assert one.led == "xyz"
        await asyncio.sleep(100)
        assert [poller.told for poller in one.pollers.values()] == [[1]] * 3
        assert (one.shown("gateway_leading", "x"), one.shown("gateway_lead_changes_total", "x")) == (1, 1)
        assert not one.loop.leaderless()

    run_virtual(main())


@pytest.mark.parametrize("died_after_s", [0.1, 1.0, 3.7, 9.9])
def test_what_a_dead_replica_led_is_taken_over(died_after_s: float) -> None:
    """Within the lease and five seconds, in the next epoch; never do two lead."""

    async def main() -> None:
        leads = Leads(VirtualClock())
        first, second = Process(leads, "a", "x"), Process(leads, "b", "x")
        await asyncio.sleep(died_after_s)
        assert (first.led, second.led) == ("x", "")
        await first.kill()
        for _ in range(1500):
            await asyncio.sleep(0.01)
            assert not (first.led and second.led)
        assert second.led == "x"
        assert second.pollers["x"].told == [2]

    run_virtual(main())


@pytest.mark.parametrize("pause_s", [7.5, 9.0, 12.0, 100.0])
def test_a_replica_that_stood_still_begins_anew(pause_s: float) -> None:
    """It finds its lease over though nobody told it, and what it had under way is of no use."""

    async def main() -> None:
        leads = Leads(VirtualClock())
        one = Process(leads, "a", "x")
        await asyncio.sleep(3)
        term = one.pollers["x"].lease.current
        assert term is not None
        await one.kill()  # it stands still in the midst of anything …
        await asyncio.sleep(pause_s)
        assert not one.pollers["x"].lease.holds(term)
        assert one.pollers["x"].told == [1]
        one.task = asyncio.create_task(one._run())  # … and goes on
        await asyncio.sleep(3)
        assert one.pollers["x"].told == [1, None, 1 if pause_s < LEASE_S - 2 else 2]
        assert not one.pollers["x"].lease.holds(term)

    run_virtual(main())


def test_a_replica_without_the_database_ceases_in_time() -> None:
    """Before another takes over; it comes back by itself, and what the other leads stays the other's."""

    async def main() -> None:
        leads = Leads(VirtualClock())
        first, second = Process(leads, "a", "x"), Process(leads, "b", "x")
        await asyncio.sleep(3)
        first.store.broken = True
        for _ in range(1500):
            await asyncio.sleep(0.01)
            assert not (first.led and second.led)
        assert (first.led, second.led) == ("", "x")
        assert first.pollers["x"].told == [1, None]
        first.store.broken = False
        await asyncio.sleep(30)
        assert (first.led, second.led) == ("", "x")
        first.store.broken = second.store.broken = True
        await asyncio.sleep(60)
        assert (first.led, second.led) == ("", "")
        assert not second.loop.leaderless(), "it is the database that is in trouble, which the store tells"
        second.store.broken = False
        await asyncio.sleep(3)
        assert second.led == "x"

    run_virtual(main())


def test_slow_answers_shorten_a_lease() -> None:
    """It counts from when it was asked for: one that comes as late as the lease ends is no lease."""

    async def main() -> None:
        leads = Leads(VirtualClock())
        one = Process(leads, "a", "x")
        one.store.delay_s = 8.0
        await asyncio.sleep(20)
        assert not one.pollers["x"].lease.lasts

    run_virtual(main())


def test_what_cannot_be_taken_up_is_tried_again() -> None:
    """Who leads, and cannot read what is due, begins nothing, and tries on."""

    async def main() -> None:
        one = Process(Leads(VirtualClock()), "a", "x")
        one.pollers["x"].broken = True
        await asyncio.sleep(5)
        assert one.led == ""
        one.pollers["x"].broken = False
        await asyncio.sleep(1)
        assert one.led == "x"

    run_virtual(main())


def test_who_starts_together_shares() -> None:
    """Each leads its part, and what one could lead beside is not left alone for it."""

    async def main() -> None:
        leads = Leads(VirtualClock())
        processes = [Process(leads, name, "stuvwxyz") for name in "abc"]
        await asyncio.sleep(120)
        assert sorted(len(process.led) for process in processes) == [2, 3, 3]
        assert Counter("".join(process.led for process in processes)) == Counter("stuvwxyz")
        changes = {upstream: len(leads.history[f"polls:{upstream}"]) for upstream in "stuvwxyz"}
        await asyncio.sleep(600)
        assert changes == {upstream: len(leads.history[f"polls:{upstream}"]) for upstream in "stuvwxyz"}, "it stays so"
        await processes[0].kill()
        await asyncio.sleep(15)
        assert Counter("".join(process.led for process in processes)) == Counter("stuvwxyz")

    run_virtual(main())


def test_a_hand_over_waits_for_what_is_under_way() -> None:
    """Nothing new begins, polls are answered first, but it does not wait for ever; then a free replica has it."""

    async def main() -> None:
        leads = Leads(VirtualClock())
        first = Process(leads, "a", "xy")
        await asyncio.sleep(1)
        second = Process(leads, "b", "xy")
        busy = first.pollers["y"]
        busy.idle = False
        term = busy.lease.current
        for _ in range(400):
            await asyncio.sleep(0.1)
            if not busy.leads:
                break
        assert term is not None
        assert busy.lease.holds(term)
        assert second.led == ""
        busy.idle = True
        await asyncio.sleep(4)
        assert (first.led, second.led) == ("x", "y")
        busy = second.pollers["y"]
        await first.kill()
        await asyncio.sleep(15)
        assert second.led == "xy"
        third = Process(leads, "c", "xy")
        for poller in second.pollers.values():
            poller.idle = False
        await asyncio.sleep(45)
        assert sorted(second.led + third.led) == ["x", "y"]
        assert third.led

    run_virtual(main())


def test_what_nobody_else_knows_is_handed_over_ever_more_seldom() -> None:
    """While replicas of other settings are beside it, an upstream of its own is polled nearly all the time."""

    async def main() -> None:
        leads = Leads(VirtualClock())
        one, other = Process(leads, "a", "xy"), Process(leads, "b", "w")
        unpolled: list[int] = []
        for _ in range(2):
            unpolled.append(0)
            for _ in range(3600):
                await asyncio.sleep(0.5)
                unpolled[-1] += one.led != "xy"
        assert unpolled[0] < 3600 / 40
        assert unpolled[1] < 3600 / 200
        third = Process(leads, "c", "xy")
        await asyncio.sleep(60)
        assert (sorted(one.led + third.led), other.led) == (["x", "y"], "w")
        assert third.led

    run_virtual(main())


def test_at_its_end_a_replica_hands_over_at_once() -> None:
    """Each upstream as soon as its polls are answered, and meanwhile it is renewed; late ones cost no more time."""

    async def main() -> None:
        leads = Leads(VirtualClock())
        first, second = Process(leads, "a", "xyz"), Process(leads, "b", "xyz")
        await asyncio.sleep(120)
        assert (len(first.led), len(second.led)) == (2, 1) or (len(first.led), len(second.led)) == (1, 2)
        free, slow = first.led[0], first.led[-1]
        first.pollers[slow].idle = slow == free
        began = VirtualClock().monotonic()
        stopping = asyncio.create_task(first.stop(20.0))
        await asyncio.sleep(1.5)
        assert free in second.led
        await asyncio.sleep(13)
        assert (slow in second.led) == (slow == free)
        await stopping
        assert VirtualClock().monotonic() - began <= 20.1
        await asyncio.sleep(3)
        assert second.led == "xyz"
        third = Process(leads, "c", "xyz")
        await asyncio.sleep(1)
        third.store.broken = True
        await third.stop()

    run_virtual(main())


def test_what_was_being_taken_up_at_the_end_is_handed_over_too() -> None:
    """Others need not wait for the end of a lease under which nothing had begun."""

    async def main() -> None:
        leads = Leads(VirtualClock())
        first = Process(leads, "a", "xy")
        first.pollers["x"].broken = True
        await asyncio.sleep(1)
        first.store.delay_s = 0.5
        await asyncio.sleep(0.3)
        await first.stop()
        assert leads.leader("polls:x") is None
        assert leads.leader("polls:y") is None

    run_virtual(main())


def test_a_refused_key_is_told_to_all_while_its_leader_lives() -> None:
    """Each hears it within two rounds, but for the one that knows; and goes by it until another one leads."""

    async def main() -> None:
        leads = Leads(VirtualClock())
        first = Process(leads, "a", "x")
        await asyncio.sleep(1)
        others = [Process(leads, "b", "x"), Process(leads, "c", "x")]

        def hear() -> list[bool]:
            return [process.pollers["x"].hears_refused for process in (first, *others)]

        for refused in (True, False, True):
            first.pollers["x"].refused = refused
            await asyncio.sleep(4.5)
            assert hear() == [False, refused, refused]
        await first.kill()
        await asyncio.sleep(9)
        assert hear() == [False, True, True]
        await asyncio.sleep(11)
        assert sorted(process.led for process in others) == ["", "x"]
        (other,) = [process for process in others if not process.led]
        assert not other.pollers["x"].hears_refused

    run_virtual(main())


def test_an_end_without_the_database_is_not_held_up() -> None:
    """What cannot be resigned lapses."""

    async def main() -> None:
        one = Process(Leads(VirtualClock()), "a", "xy")
        await asyncio.sleep(1)
        assert one.led == "xy"
        one.store.broken = True
        await one.kill()
        async with asyncio.timeout(1):
            await one.loop.drain(10.0)

    run_virtual(main())


def test_an_upstream_without_a_leader_is_told() -> None:
    """Where there was time to take it over, and nobody has."""

    async def main() -> None:
        leads = Leads(VirtualClock())
        one = Process(leads, "a", "xy")
        one.pollers["y"].broken = True
        await asyncio.sleep(1)
        assert one.loop.leaderless() == []
        await asyncio.sleep(16)
        assert one.loop.leaderless() == ["y"]
        one.pollers["y"].broken = False
        await asyncio.sleep(2)
        assert one.loop.leaderless() == []

    run_virtual(main())
