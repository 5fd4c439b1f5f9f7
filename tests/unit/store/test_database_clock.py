"""The database's clock: how it is read, and when anew."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.core.clock import SteeredClock
from gateway.core.errors import StoreError
from gateway.store.postgres.clock import DatabaseClock
from tests.virtualtime import EPOCH, VirtualClock, run_virtual


class Read:
    """A database whose clock is ahead, and whose answers take a while."""

    def __init__(self, ahead_ms: int, delays_s: Iterator[float]) -> None:
        self.ahead_ms, self.delays_s = ahead_ms, delays_s
        self.asked = 0
        self.error: StoreError | None = None

    async def __call__(self, statement: str) -> list[Any]:
        assert statement == "SELECT gateway_now()"
        self.asked += 1
        if self.error is not None:
            raise self.error
        delay_s = next(self.delays_s)
        await asyncio.sleep(delay_s / 2)
        now = EPOCH + round(asyncio.get_running_loop().time() * 1000) + self.ahead_ms
        await asyncio.sleep(delay_s / 2)
        return [(now,)]


def _delays(*first: float) -> Iterator[float]:
    yield from first
    while True:
        yield 0.002


def _clock(read: Read) -> tuple[SteeredClock, DatabaseClock, asyncio.Event]:
    clock, another = SteeredClock(VirtualClock()), asyncio.Event()
    return clock, DatabaseClock(read, clock, another), another


@pytest.mark.parametrize("ahead_ms", [-86_400_000, -40, 0, 40, 86_400_000])
def test_the_first_reading(ahead_ms: int) -> None:
    """Before anything is due the clock shows the database's time, however far that is from the machine's."""

    async def main() -> None:
        read = Read(ahead_ms, _delays(3.0, 0.5, 0.004, 1.0))
        clock, database_clock, _ = _clock(read)
        with capture_logs() as log:
            await database_clock.measure(first=True)
        shown = clock.now() - EPOCH - round(asyncio.get_running_loop().time() * 1000)
        assert abs(shown - ahead_ms) <= 2, "the quickest of the readings counts"
        far = abs(ahead_ms) > 10_000
        assert [line["event"] for line in log] == (["clock.differs"] if far else [])

    run_virtual(main())


def test_what_may_be_right_stays() -> None:
    """Within what a reading leaves open the clock is not moved: it does not tremble with the network."""

    async def main() -> None:
        read = Read(0, _delays())
        clock, database_clock, _ = _clock(read)
        await database_clock.measure(first=True)
        at = clock.steered_to(0)
        read.delays_s = iter([0.1] * 5)
        read.ahead_ms = 40
        await database_clock.measure()
        assert clock.steered_to(0) == at
        read.delays_s = _delays()
        await database_clock.measure()
        assert round(clock.steered_to(0) - at) == 40

    run_virtual(main())


def test_when_it_is_read_anew() -> None:
    """Twice a minute, at once where another server may have been met, and soon where that failed."""

    async def main() -> None:
        read = Read(0, _delays())
        _, database_clock, another = _clock(read)
        running = asyncio.ensure_future(database_clock.run())
        await asyncio.sleep(29)
        assert read.asked == 0
        await asyncio.sleep(2)
        assert read.asked == 5
        another.set()
        await asyncio.sleep(1)
        assert read.asked == 10
        read.error = StoreError("gone")
        another.set()
        await asyncio.sleep(3.5)
        assert read.asked == 14
        read.error = None
        read.ahead_ms = 60_000
        with capture_logs() as log:
            await asyncio.sleep(2)
        assert (read.asked, [line["event"] for line in log]) == (19, ["clock.differs"])
        running.cancel()

    run_virtual(main())
