"""A key's budget: its places, shared fairly by polls and reads, and never exceeded by a gateway that is killed."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from math import floor

import pytest

from gateway.core.errors import StoreError
from gateway.core.ratelimit import RateWindow
from gateway.upstream.budget import Budget
from gateway.upstream.turns import Waiter
from tests.budgets import FREE, Disk, answered, budget, poll_now
from tests.virtualtime import VirtualClock, run_virtual


def test_places_taken_and_given_back() -> None:
    """A place taken is gone at once, given back is there at once, and used is gone for a window."""

    async def main() -> None:
        b = budget()
        b.take(2)
        assert b.available() == 0
        assert b.next_available_s() is None
        b.give_back(1)
        assert b.available() == 1
        answered(b)
        assert b.available() == 1
        b.take(1)
        assert b.next_available_s() == 1.0
        await asyncio.sleep(1)
        assert b.available() == 1

    run_virtual(main())


def test_without_windows_nothing_is_saved() -> None:
    """No limit needs no memory."""

    async def main() -> None:
        disk = Disk()
        b = budget((), disk)
        b.take(1000)
        await b.reserve(1000)
        assert (disk.writes, b.available() > 1000) == (0, True)

    run_virtual(main())


def test_few_reservations_for_many_requests() -> None:
    """A write covers a twentieth of the longest window."""

    async def main() -> None:
        disk = Disk()
        b = budget((RateWindow(60, 60.0),), disk)
        for _ in range(60):
            await poll_now(b)
        assert disk.writes == 20

    run_virtual(main())


def test_few_requests_wait_for_a_reservation() -> None:
    """The next ones are reserved while some are left, once; where that fails, whoever needs the next place tries."""

    async def main() -> None:
        disk = Disk()
        disk.delay_s = 0.5
        b = budget((RateWindow(400, 60.0),), disk)
        loop = asyncio.get_running_loop()

        async def waits() -> int:
            count = 0
            for _ in range(100):
                began = loop.time()
                await poll_now(b)
                count += loop.time() > began
                await asyncio.sleep(0.1)
            return count

        assert (await waits(), disk.writes) == (1, 6)
        await asyncio.sleep(1)
        disk.broken = True
        b.take(12)
        await b.reserve(12)
        await asyncio.sleep(1)
        assert disk.writes == 7
        disk.broken = False
        assert (await waits(), disk.writes) == (0, 13)

    run_virtual(main())


def test_what_cannot_be_reserved_is_not_sent() -> None:
    """A failing store stops requests, and what it failed to keep does not count as kept afterwards."""

    async def main() -> None:
        disk = Disk()
        b = budget(disk=disk)
        disk.broken = True
        b.take(1)
        with pytest.raises(StoreError):
            await b.reserve(1)
        b.give_back(1)
        with pytest.raises(StoreError):
            await b.acquire(5, Waiter("a"))
        assert b.available() == 2
        disk.broken = False
        await poll_now(b)
        assert disk.value is not None
        assert disk.loads == 0

    run_virtual(main())


@pytest.mark.parametrize("at_s", [0.1, 0.4], ids=["before it is written", "after that"])
def test_who_goes_away_while_places_are_reserved_costs_no_more(at_s: float) -> None:
    """The write that was under way is taken for this process's own, and not for another's."""

    async def main() -> None:
        disk = Disk()
        b = budget((RateWindow(40, 60.0),), disk)
        await poll_now(b, 2)
        disk.delay_s = 0.5
        b.take(2)
        leaving = asyncio.create_task(b.reserve(2))
        await asyncio.sleep(at_s)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        b.give_back(2)
        await poll_now(b, 2)
        assert b.available() == 40 - 4
        assert disk.loads == (at_s < 0.25)

    run_virtual(main())


# Reads beside polls.


def test_a_read_waits_for_its_place() -> None:
    """A client's read gets the next place there is."""

    async def main() -> None:
        b = budget((RateWindow(2, 1.0),))
        await poll_now(b, 2)
        assert await b.acquire(5, Waiter("a")) is None
        assert VirtualClock().monotonic() == pytest.approx(1.0, abs=0.01)

    run_virtual(main())


def test_a_read_that_cannot_be_in_time_is_told_at_once() -> None:
    """Where no place comes within the time limit, the client hears at once when to come again."""

    async def main() -> None:
        b = budget()
        b.block(30)
        assert await b.acquire(5, Waiter("a")) == 30.0
        assert VirtualClock().monotonic() == 0.0
        assert b._turns.waiting == 0

    run_virtual(main())


def test_a_read_waits_for_one_in_flight_no_longer_than_allowed() -> None:
    """Where only the end of another request helps, the time limit holds."""

    async def main() -> None:
        b = budget((RateWindow(1, 1.0),))
        b.take(1)
        assert await b.acquire(5, Waiter("a")) == 10.0, "nobody knows when the other one is answered"
        assert VirtualClock().monotonic() == 5.0
        asyncio.get_running_loop().call_later(2, answered, b)
        assert await b.acquire(5, Waiter("a")) is None
        assert VirtualClock().monotonic() == pytest.approx(8.0, abs=0.01)

    run_virtual(main())


def test_reads_come_in_order() -> None:
    """Who asked first is served first."""

    async def main() -> None:
        b = budget((RateWindow(1, 1.0),))
        b.take(1)
        order: list[int] = []

        async def read(number: int) -> None:
            waiter = Waiter("a")
            assert await b.acquire(60, waiter) is None
            order.append(number)
            answered(b, waiter)

        reads = [asyncio.create_task(read(number)) for number in range(10)]
        await asyncio.sleep(0.5)
        answered(b)
        await asyncio.gather(*reads)
        assert order == list(range(10))

    run_virtual(main())


def test_a_cancelled_read_leaves_nothing_behind() -> None:
    """A client that goes away while it waits takes no place and holds nobody up."""

    async def main() -> None:
        b = budget((RateWindow(1, 1.0),))
        b.take(1)
        first = asyncio.create_task(b.acquire(60, Waiter("a")))
        second = asyncio.create_task(b.acquire(60, Waiter("a")))
        await asyncio.sleep(0.5)
        first.cancel()
        answered(b)
        assert await second is None
        assert (b._turns.waiting, b._limiter.in_flight) == (0, 1)

    run_virtual(main())


@pytest.mark.parametrize("windows", [FREE, (RateWindow(1, 1.0),), (RateWindow(20, 1.0), RateWindow(200, 60.0))])
def test_polls_and_reads_share(windows: Sequence[RateWindow]) -> None:
    """While both want more than there is, three places in four go to polls, one to reads."""

    async def main() -> Counter[str]:
        b = budget(windows)
        sent: Counter[str] = Counter()

        async def read() -> None:
            while await b.acquire(3600, waiter := Waiter("a")) is None:
                sent["read"] += 1
                answered(b, waiter)

        async def poll() -> None:
            while True:
                free = b.available_for_polls()
                b.polls_waiting = True
                if free > 0:
                    await poll_now(b, free)
                    sent["poll"] += free
                else:
                    await asyncio.sleep(max(b.next_available_s() or 0.0, 0.001))

        tasks = [asyncio.create_task(poll()), *(asyncio.create_task(read()) for _ in range(5))]
        await asyncio.sleep(600)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return sent

    sent = run_virtual(main())
    total = 600 * min(window.limit / window.window_s for window in windows)
    assert sum(sent.values()) == pytest.approx(total, rel=0.12)
    assert sent["read"] / sum(sent.values()) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("who", ["poll", "read"])
def test_alone_each_gets_all(who: str) -> None:
    """A share that the other does not want is not lost."""

    async def main() -> int:
        b = budget()
        sent = 0
        while VirtualClock().monotonic() < 600:
            if who == "poll" and b.available_for_polls():
                await poll_now(b)
            elif who == "poll":
                await asyncio.sleep(max(b.next_available_s() or 0.0, 0.001))
                continue
            else:
                waiter = Waiter("a")
                assert await b.acquire(3600, waiter) is None
                answered(b, waiter)
            sent += 1
        return sent

    assert run_virtual(main()) == pytest.approx(600, rel=0.11)


# Killed at any moment.


class Server:
    """Counts as the other side does."""

    def __init__(self) -> None:
        self.counted: list[float] = []

    def check(self, windows: Sequence[RateWindow]) -> None:
        self.counted.sort()
        for window in windows:
            oldest = 0
            for i, at in enumerate(self.counted):
                while self.counted[oldest] <= at - window.window_s + 1e-9:
                    oldest += 1
                assert i - oldest + 1 <= window.limit, f"{i - oldest + 1} within {window} before {at}"
            for phase in (0.0, 0.3, 0.77):
                cut = Counter(floor(at / window.window_s + phase) for at in self.counted)
                assert max(cut.values(), default=0) <= window.limit


async def one_life(b: Budget, server: Server, rng: random.Random, slowest_s: float) -> None:
    """Send as fast as allowed, in batches and as reads, with every latency up to ``slowest_s``."""

    async def request(waiter: Waiter | None = None) -> None:
        there_s, back_s = rng.random() * slowest_s / 2, rng.random() * slowest_s / 2
        try:
            await asyncio.sleep(there_s)
        finally:
            # Also where the gateway was killed meanwhile: it was on its way.
            server.counted.append(VirtualClock().monotonic())
        await asyncio.sleep(back_s)
        answered(b, waiter)

    requests: set[asyncio.Task[None]] = set()
    try:
        while True:
            if rng.random() < 0.2:
                waiter = Waiter(rng.choice("ab"))
                if await b.acquire(rng.choice([0.1, 5.0]), waiter) is None:
                    requests.add(asyncio.create_task(request(waiter)))
                continue
            free = min(b.available_for_polls(), rng.randint(1, 8))
            if free <= 0:
                await asyncio.sleep(min(max(b.next_available_s() or 0.0, 0.01), 5.0))
                continue
            b.take(free)
            used = 0
            try:
                if rng.random() < 0.9:
                    await b.reserve(free)
                    used = rng.randint(0, free)
                    requests |= {asyncio.create_task(request()) for _ in range(used)}
            finally:
                b.give_back(free - used)
                b.polls_sent(used)
            if rng.random() < 0.1:
                await asyncio.sleep(rng.random() * 20)
    finally:
        for task in requests:
            task.cancel()
        await asyncio.gather(*requests, return_exceptions=True)


@pytest.mark.parametrize("seed", range(25))
def test_a_killed_gateway_never_exceeds_a_window(seed: int) -> None:
    """Killed at any moment and started again, from what was saved alone, it stays within every window."""
    rng = random.Random(seed)
    windows = rng.choice(
        [FREE, (RateWindow(5, 2.0), RateWindow(30, 20.0)), (RateWindow(40, 10.0),), (RateWindow(120, 10.0),)]
    )
    slowest_s = rng.choice([0.0, 0.2, 3.0, 12.0])
    server, disk = Server(), Disk()
    disk.delay_s = rng.choice([0.0, 0.01, 0.5])

    async def main() -> None:
        for _ in range(30):
            b = budget(windows, disk)
            await b.restore()
            life = asyncio.create_task(one_life(b, server, rng, slowest_s))
            await asyncio.sleep(rng.choice([0.3, 5.0, 40.0]) * rng.random())
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            await asyncio.sleep(rng.choice([0.0, 0.3, 30.0, 70.0]) * rng.random())

    run_virtual(main())
    server.check(windows)
    assert len(server.counted) > 50


def test_a_restart_forgets_what_is_long_ago() -> None:
    """What ended a window ago does not count after a start, and what was reserved and never sent only for a window."""

    async def main() -> None:
        disk = Disk()
        b = budget(disk=disk)
        for _ in range(30):
            await poll_now(b, 2)
            await asyncio.sleep(1)
        await asyncio.sleep(61)
        again = budget(disk=disk)
        await again.restore()
        await asyncio.sleep(1)
        assert again.available() == 2
        left = sum(1 for _ in again._limiter._windows[1].leaves_at)
        assert left <= 4  # a reservation of three, and one that was in flight

    run_virtual(main())
