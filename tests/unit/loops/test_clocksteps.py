"""When a step of the clock is followed: between the loops' rounds. In virtual time."""

import asyncio

import pytest

from gateway.core.clock import FollowingClock
from gateway.core.errors import StoreError
from gateway.loops.clocksteps import ClockSteps
from tests.virtualtime import VirtualClock, run_virtual

HOUR_MS = 3_600_000


class Store:
    """Notes by how much everything has moved."""

    set_back_ms = 0

    def __init__(self) -> None:
        self.moved: list[int] = []
        self.failure: StoreError | None = None

    async def follow_clock(self, step_ms: int) -> None:
        await asyncio.sleep(0.1)
        if self.failure is not None:
            raise self.failure
        self.moved.append(step_ms)


class Stand:
    """A clock that can be set, and what follows it."""

    def __init__(self) -> None:
        self.machine = VirtualClock()
        self.clock = FollowingClock(self.machine)
        self.store = Store()
        self.steps = ClockSteps(self.store, self.clock)  # type: ignore[arg-type]


def test_rounds_that_have_begun_are_let_finish() -> None:
    """One that has asked the time before must not meet what is due by another; those that come wait."""

    async def test() -> None:
        stand = Stand()
        async with asyncio.timeout(0.01):  # while the clock goes on they wait for nobody
            for _ in range(2):
                await stand.steps.begin_round()
        stand.machine.step(-3600)
        coming = [asyncio.create_task(stand.steps.begin_round()) for _ in range(2)]
        for _ in range(2):
            await asyncio.sleep(1)
            assert (stand.store.moved, stand.clock.step_ms()) == ([], -HOUR_MS)
            assert not any(task.done() for task in coming)
            stand.steps.end_round()
        async with asyncio.timeout(0.11):
            await coming[0]
            stand.steps.end_round()
            await coming[1]
        assert (stand.store.moved, stand.clock.step_ms()) == ([-HOUR_MS], 0)

    run_virtual(test())


def test_a_round_that_hangs_is_not_waited_for_long() -> None:
    """The other loops go on after five seconds, by the new time."""

    async def test() -> None:
        stand = Stand()
        await stand.steps.begin_round()
        stand.machine.step(3600)
        async with asyncio.timeout(6):
            await stand.steps.begin_round()
        assert stand.store.moved == [HOUR_MS]

    run_virtual(test())


def test_no_round_begins_while_all_follows() -> None:
    """The clock shows the new time already, and what is stored is still due by the old one."""

    async def test() -> None:
        stand = Stand()
        stand.machine.step(3600)
        first = asyncio.create_task(stand.steps.begin_round())
        await asyncio.sleep(0.05)
        assert (stand.store.moved, stand.clock.step_ms(), first.done()) == ([], 0, False)
        await stand.steps.begin_round()
        assert stand.store.moved == [HOUR_MS]
        await first

    run_virtual(test())


def test_no_round_begins_before_all_has_followed() -> None:
    """While it cannot be stored every round fails, and the old time goes on; the next one tries again."""

    async def test() -> None:
        stand = Stand()
        stand.store.failure = StoreError("The disk is full.")
        stand.machine.step(3600)
        for _ in range(2):
            with pytest.raises(StoreError):
                await stand.steps.begin_round()
            assert stand.clock.now() == stand.machine.now() - HOUR_MS
        stand.store.failure = None
        await stand.steps.begin_round()
        assert (stand.store.moved, stand.clock.now()) == ([HOUR_MS], stand.machine.now())

    run_virtual(test())


@pytest.mark.parametrize(("set_back_ms", "moved"), [(HOUR_MS, [-HOUR_MS]), (10_000, []), (0, [])])
def test_what_happened_before_the_start_is_followed_from_a_step_on(set_back_ms: int, moved: list[int]) -> None:
    """As while it runs: up to ten seconds are taken as they come."""

    async def test() -> None:
        stand = Stand()
        stand.store.set_back_ms = set_back_ms
        await stand.steps.catch_up()
        assert (stand.store.moved, stand.clock.step_ms()) == (moved, 0)

    run_virtual(test())
