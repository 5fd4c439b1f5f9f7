"""Instants and their text, and waiting with a limit."""

import asyncio
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.clock import FollowingClock, SteeredClock, SystemClock, from_iso, to_iso, wait_for_event

LAST_AT = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_795_428_033_120, "2026-11-23T10:00:33.120Z"),
        (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
        (LAST_AT, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_an_instant_as_text(at: int, text: str) -> None:
    """An instant is written in UTC with exactly three decimals, and read back as itself."""
    assert to_iso(at) == text
    assert from_iso(text) == at


@given(at=st.integers(0, LAST_AT))
@example(at=1_777_459_967_759)
@example(at=70_263_167_039_314)  # as a float of seconds it is a little less
def test_every_instant_survives_the_round_trip(at: int) -> None:
    """No instant is lost or shifted by a millisecond on its way through text."""
    assert from_iso(to_iso(at)) == at


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T10:00:00Z",
        "2026-11-23T10:00:00.000Z",
        "2026-11-23T10:00:00+00:00",
        "2026-11-23T15:30:00+05:30",
        "2026-11-23T02:00:00-08:00",
        "2026-11-23T10:00:00.0004Z",
    ],
)
def test_zones_are_counted(text: str) -> None:
    """The same instant in any zone is the same number."""
    assert from_iso(text) == 1_795_428_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "1795428000000",
        "2026-11-23",
        "2026-11-23T10:00:00",
        "2026-13-01T00:00:00Z",
        "2026-11-31T00:00:00Z",
        "2026-11-23T25:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T23:59:59.9999Z",
    ],
)
def test_anything_else_is_a_value_error(text: str) -> None:
    """What names no instant is refused by ValueError alone, a missing zone included."""
    with pytest.raises(ValueError, match=r"."):
        from_iso(text)


def test_a_missing_zone_is_explained() -> None:
    """Whoever left the zone out is told so, with an example."""
    with pytest.raises(ValueError, match="needs a zone, for example 2026-11-23T10:00:00Z"):
        from_iso("2026-11-23T10:00:00")


def test_the_system_clock_counts_milliseconds_of_utc() -> None:
    """The wall clock is in milliseconds since the epoch, between two readings of the machine's own."""
    before = int(datetime.now(UTC).timestamp() * 1000)
    now = SystemClock().now()
    assert before <= now <= int(datetime.now(UTC).timestamp() * 1000)


def test_the_steady_clock_does_not_run_backwards() -> None:
    """The steady clock is seconds that never decrease."""
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(100)]
    assert readings == sorted(readings)


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 0.001])
async def test_waiting_ends_by_itself(timeout_s: float) -> None:
    """An event that nobody sets is waited for only as long as was said; a time already past is no error."""
    async with asyncio.timeout(30):
        await wait_for_event(asyncio.Event(), timeout_s)


async def test_an_event_ends_the_wait_early() -> None:
    """The wait ends as soon as the event is set, long before its limit."""
    event = asyncio.Event()
    waiting = asyncio.create_task(wait_for_event(event, 3600))
    asyncio.get_running_loop().call_soon(event.set)
    async with asyncio.timeout(30):
        await waiting
    assert event.is_set()


async def test_a_set_event_is_not_waited_for() -> None:
    """An event that is set already ends the wait at once, and stays set for its owner to clear."""
    event = asyncio.Event()
    event.set()
    async with asyncio.timeout(30):
        await wait_for_event(event, 3600)
    assert event.is_set()


async def test_cancelling_the_wait_is_not_swallowed() -> None:
    """A loop that is cancelled while it waits ends, whatever the wait's own limit does."""
    started = asyncio.Event()

    async def wait() -> None:
        started.set()
        await wait_for_event(asyncio.Event(), 3600)

    waiting = asyncio.create_task(wait())
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_time_limit_around_the_wait_is_not_swallowed() -> None:
    """Somebody else's time limit passes through as theirs."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await wait_for_event(asyncio.Event(), 3600)


class SetClock:
    """A clock whose two faces the test sets."""

    wall = 1_777_460_000_000
    steady = 5.0

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def pass_time(self, seconds: float, *, set_by_ms: int = 0) -> None:
        self.steady += seconds
        self.wall += round(seconds * 1000) + set_by_ms


@pytest.mark.parametrize("set_by_ms", [3_600_000, -3_600_000, 10_001])
def test_a_clock_that_is_set_is_followed_when_told(set_by_ms: int) -> None:
    """Until then it goes on as before, and says by how much; from then on it shows what the machine's does."""
    machine = SetClock()
    clock = FollowingClock(machine)
    machine.pass_time(7, set_by_ms=set_by_ms)
    assert clock.now() == SetClock.wall + 7_000
    machine.pass_time(3)
    assert (clock.now(), clock.monotonic(), clock.step_ms()) == (SetClock.wall + 10_000, 15.0, set_by_ms)
    clock.follow(set_by_ms)
    assert (clock.now(), clock.step_ms()) == (machine.wall, 0)


@pytest.mark.parametrize("set_by_ms", [10_000, -10_000])
def test_a_small_correction_is_followed_at_once(set_by_ms: int) -> None:
    """However many there are: they do not add up to a step."""
    machine = SetClock()
    clock = FollowingClock(machine)
    for _ in range(10):
        machine.pass_time(1, set_by_ms=set_by_ms)
        assert (clock.now(), clock.step_ms()) == (machine.wall, 0)


class Machine:
    """A machine's clocks, set by hand."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_777_460_000_000, 5000.25

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.steady


def test_a_steered_clock_begins_with_the_machines() -> None:
    """Until it is told of another one it shows the machine's time, and goes on by what cannot be set."""
    machine = Machine()
    clock = SteeredClock(machine)
    assert clock.now() == machine.wall
    machine.steady += 1.5
    machine.wall = 0
    assert clock.now() == 1_777_460_001_500
    assert clock.monotonic() == machine.steady


@pytest.mark.parametrize("ahead_ms", [-3_600_000, -7, 0, 7, 3_600_000])
def test_it_is_set_before_anybody_asks(ahead_ms: int) -> None:
    """At the start it shows the other clock's time at once, earlier or later."""
    machine = Machine()
    clock = SteeredClock(machine)
    assert clock.steer(machine.wall + ahead_ms, machine.steady, at_once=True) == ahead_ms
    assert clock.now() == machine.wall + ahead_ms


def test_it_goes_slower_to_be_caught_up_with() -> None:
    """Where it is ahead it does not run back: at half speed it is right after twice that time, and goes on so."""
    machine = Machine()
    clock = SteeredClock(machine)
    began = clock.now()
    clock.steer(machine.wall - 2000, machine.steady)
    shown = []
    for _ in range(6):
        shown.append(clock.now() - began)
        machine.steady += 1
    assert shown == [0, 500, 1000, 1500, 2000, 3000]


def test_it_goes_faster_or_leaps_to_catch_up() -> None:
    """A little it makes up for by and by, more than a second at once."""
    machine = Machine()
    clock = SteeredClock(machine)
    began = clock.now()
    clock.steer(machine.wall + 750, machine.steady)
    shown = []
    for _ in range(4):
        shown.append(clock.now() - began)
        machine.steady += 1
    assert shown == [0, 1500, 2750, 3750]
    clock.steer(clock.now() + 60_000, machine.steady)
    assert clock.now() - began == 64_750


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(-100_000, 100_000)), max_size=20))
def test_it_never_runs_back(steps: list[tuple[float, int]]) -> None:
    """Whatever it is told, and however long after."""
    machine = Machine()
    clock = SteeredClock(machine)
    last = clock.now()
    for passes_s, ahead_ms in steps:
        machine.steady += passes_s
        clock.steer(machine.wall + machine.steady * 1000 + ahead_ms, machine.steady)
        assert clock.now() >= last
        last = clock.now()
        machine.steady += passes_s
        assert clock.now() >= last
        last = clock.now()
