"""One key's budget over several replicas: together they exceed no window, and none keeps what it does not need."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from math import floor

import msgspec
import pytest

from gateway.core.errors import StoreError
from gateway.core.ratelimit import RateWindow
from gateway.upstream.budget import Budget
from gateway.upstream.spending import ALONE, Spending, decode, encode, folded
from gateway.upstream.turns import Waiter
from tests.budgets import answered
from tests.virtualtime import EPOCH, VirtualClock, run_virtual

FREE = (RateWindow(2, 1.0), RateWindow(60, 60.0))
WINDOWS = (FREE, (RateWindow(5, 2.0), RateWindow(30, 20.0)), (RateWindow(40, 10.0),), (RateWindow(1, 1.0),))


class Shelf:
    """The durable value that all replicas have, and how long the way to it takes."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.swaps = self.refused = 0
        self.delay_s = 0.0
        self.broken = False

    async def load(self) -> bytes | None:
        await asyncio.sleep(self.delay_s)
        return self.value

    async def swap(self, old: bytes | None, new: bytes) -> bool:
        self.swaps += 1
        await asyncio.sleep(self.delay_s / 2)
        if self.broken:
            raise StoreError("unreachable")
        swapped = self.value == old
        self.value = new if swapped else self.value
        self.refused += not swapped
        await asyncio.sleep(self.delay_s / 2)
        return swapped

    def parts(self) -> dict[str, Spending]:
        return decode(self.value, VirtualClock().now())


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


def budget(shelf: Shelf, replica: str, windows: Sequence[RateWindow] = FREE) -> Budget:
    return Budget(windows, VirtualClock(), shelf.load, shelf.swap, replica)


async def request(
    b: Budget, server: Server, rng: random.Random, slowest_s: float, waiter: Waiter | None = None
) -> None:
    """Send one that is reserved."""
    there_s, back_s = rng.random() * slowest_s / 2, rng.random() * slowest_s / 2
    with b.sending(waiter):
        try:
            await asyncio.sleep(there_s)
        finally:
            server.counted.append(VirtualClock().monotonic())  # also where its replica was killed: it was on its way
        await asyncio.sleep(back_s)


async def polls(b: Budget, server: Server, rng: random.Random, slowest_s: float) -> None:
    """Send as fast as allowed, as a poller with more to do than may be sent."""
    under_way: set[asyncio.Task[None]] = set()
    try:
        while True:
            free = min(b.available_for_polls(), 8)
            b.polls_waiting = True
            if free <= 0:
                await b.look()
                await asyncio.sleep(min(max(b.next_available_s() or 0.0, 0.01), b.looks_in_s, 5.0))
                continue
            b.take(free)
            used = 0
            try:
                used = await b.reserve(free)
                under_way |= {asyncio.create_task(request(b, server, rng, slowest_s)) for _ in range(used)}
            finally:
                b.give_back(free - used)
                b.polls_sent(used)
    finally:
        b.polls_waiting = False
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def reads(b: Budget, server: Server, rng: random.Random, slowest_s: float, pause_s: float = 0.0) -> None:
    """Send as fast as allowed, as a client who reads."""
    under_way: set[asyncio.Task[None]] = set()
    try:
        while True:
            waiter = Waiter(rng.choice("ab"))
            if await b.acquire(rng.choice([0.5, 10.0]), waiter) is None:
                under_way.add(asyncio.create_task(request(b, server, rng, slowest_s, waiter)))
            else:
                await asyncio.sleep(0.2)
            await asyncio.sleep(pause_s * rng.random())
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def kill(*lives: "asyncio.Task[None]", of: Budget) -> None:
    """End a replica at once: nothing more of it is stored."""
    tending = of._reservations._tending
    for task in (*lives, *([tending] if tending else [])):
        task.cancel()
    await asyncio.gather(*lives, return_exceptions=True)


async def one_replica(
    shelf: Shelf, server: Server, rng: random.Random, windows: Sequence[RateWindow], number: int
) -> None:
    """Live and die again and again, now with polls and now without."""
    slowest_s = rng.choice([0.0, 0.2, 3.0])
    for life in range(1000):
        b = budget(shelf, f"r{number}-{life}", windows)
        await b.restore()
        works = [reads(b, server, rng, slowest_s, rng.choice([0.0, 1.0, 10.0]))]
        if rng.random() < 0.5:
            works.append(polls(b, server, rng, slowest_s))
        tasks = [asyncio.create_task(work) for work in works]
        try:
            await asyncio.sleep(rng.choice([0.3, 5.0, 40.0, 200.0]) * rng.random())
        finally:
            await kill(*tasks, of=b)
        await asyncio.sleep(rng.choice([0.0, 0.3, 30.0]) * rng.random())


@pytest.mark.parametrize("seed", range(10))
def test_no_window_is_exceeded_by_all_together(seed: int) -> None:
    """Two to four replicas, killed at any moment and followed by new ones, stay within every window together."""
    rng = random.Random(seed)
    windows = rng.choice(WINDOWS)
    server, shelf = Server(), Shelf()
    shelf.delay_s = rng.choice([0.0, 0.01, 0.3])

    async def main() -> None:
        replicas = [
            asyncio.create_task(one_replica(shelf, server, rng, windows, number)) for number in range(rng.randint(2, 4))
        ]
        done, _ = await asyncio.wait(replicas, timeout=300)
        for task in replicas:
            task.cancel()
        await asyncio.gather(*replicas, return_exceptions=True)
        assert not done, done

    run_virtual(main())
    server.check(windows)
    assert len(server.counted) > 50, "otherwise nothing was tried"


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("windows", [FREE, (RateWindow(20, 1.0), RateWindow(600, 60.0))], ids=["free", "paid"])
def test_all_together_come_near_the_limit(windows: Sequence[RateWindow], replicas: int) -> None:
    """One leads and has polls without end, the others read without end: nearly the whole budget is used, by both."""
    server, shelf, rng = Server(), Shelf(), random.Random(1)
    shelf.delay_s = 0.002
    by_polls = Server()

    async def main() -> None:
        budgets = [budget(shelf, f"r{number}", windows) for number in range(replicas)]
        works = [polls(budgets[0], by_polls, rng, 0.1), *(reads(b, server, rng, 0.1) for b in budgets[1:])]
        tasks = [asyncio.create_task(work) for work in works]
        await asyncio.sleep(200)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_virtual(main())
    both = Server()
    both.counted = server.counted + by_polls.counted
    both.check(windows)
    most = 200 * min(window.limit / window.window_s for window in windows)
    share = len(both.counted) / most
    assert share > 0.9
    if replicas > 1:
        assert 0.6 < len(by_polls.counted) / len(both.counted) < 0.9


async def send(b: Budget, count: int) -> int:
    """Take places as the poller does, and answer those that may be sent at once; return how many that were."""
    b.take(count)
    granted = await b.reserve(count)
    b.give_back(count - granted)
    for _ in range(granted):
        answered(b)
    return granted


def test_what_others_have_sent_and_may_send_counts() -> None:
    """Who comes second sees all of it before it sends, and gets what fits in beside."""

    async def main() -> None:
        shelf = Shelf()
        a, b = budget(shelf, "a", (RateWindow(40, 60.0),)), budget(shelf, "b", (RateWindow(40, 60.0),))
        assert await send(a, 30) == 30
        assert b.available() == 40, "it has not looked yet"
        assert await send(b, 20) == 10, "the thirty may be in flight"
        assert await send(b, 1) == 0
        await asyncio.sleep(61)
        await b.look()
        assert b.available() == 40
        assert await send(b, 40) == 40
        assert await send(a, 1) == 0

    run_virtual(main())


def test_what_is_not_used_is_given_back() -> None:
    """Reserved ahead and not used for a second, it is the others'; what is in flight counts for as long as it is."""

    async def main() -> None:
        shelf = Shelf()
        a = budget(shelf, "a", (RateWindow(400, 60.0),))
        a.take(1)
        assert await a.reserve(1) == 1
        assert shelf.parts()["a"].open == 20
        await asyncio.sleep(2.5)
        assert shelf.parts()["a"].open == 1
        await asyncio.sleep(100)
        part = shelf.parts()["a"]
        assert (part.open, part.is_open(VirtualClock().now())) == (1, True), "it is told again and again"
        answered(a)
        await asyncio.sleep(2.5)
        assert (shelf.parts()["a"].open, sum(count for _, count in shelf.parts()["a"].ended)) == (0, 1)
        swaps = shelf.swaps
        await asyncio.sleep(100)
        assert shelf.swaps == swaps, "nothing is told where there is nothing to tell"

    run_virtual(main())


def test_at_its_end_a_replica_leaves_the_rest_to_others() -> None:
    """A replica that is stopped takes no reservation with it."""

    async def main() -> None:
        shelf = Shelf()
        a = budget(shelf, "a")
        assert await send(a, 1) == 1
        await a.close()
        assert (shelf.parts()["a"].open, len(shelf.parts()["a"].ended)) == (0, 1)
        await budget(shelf, "b").close()

    run_virtual(main())


def test_the_part_of_a_dead_replica_ages_out() -> None:
    """What it may have sent leaves each window a window's length after the time until which it could, and then goes."""

    async def main() -> None:
        shelf = Shelf()
        a, b = budget(shelf, "a"), budget(shelf, "b")
        a.take(2)
        assert await a.reserve(2) == 2
        await kill(of=a)
        assert await send(b, 1) == 0
        await asyncio.sleep(8)
        assert await send(b, 1) == 0, "the two may have been sent as late as now"
        await asyncio.sleep(1.1)
        assert await send(b, 2) == 2
        assert "a" in shelf.parts()
        await asyncio.sleep(61)
        assert await send(b, 1) == 1
        assert "a" not in shelf.parts()

    run_virtual(main())


def test_a_replica_that_stood_still_sends_nothing_that_it_had_reserved() -> None:
    """Others count on its reservation's end: after that it reserves anew, also where it stood still while it did."""

    async def main() -> None:
        shelf = Shelf()
        windows = (RateWindow(40, 60.0),)
        a, b = budget(shelf, "a", windows), budget(shelf, "b", windows)
        assert await send(a, 1) == 1
        assert a._reservations._left == 1
        await kill(of=a)  # it does not tell that it lives
        await asyncio.sleep(70)
        assert await send(b, 40) == 40
        assert await send(a, 1) == 0
        await asyncio.sleep(70)
        shelf.delay_s = 12.0  # so long that what it stores is over by the time it hears of that
        sending = asyncio.create_task(send(a, 1))
        await asyncio.sleep(100)
        assert not sending.done()
        shelf.delay_s = 0.0
        assert await sending == 1

    run_virtual(main())


def test_what_the_upstream_says_to_one_holds_for_all() -> None:
    """A pause and a lower limit are told to the others at once; they find them before their next request."""

    async def main() -> None:
        shelf = Shelf()
        a, b, late = (budget(shelf, name, (RateWindow(40, 60.0),)) for name in ("a", "b", "late"))
        assert (await send(a, 1), await send(b, 1)) == (1, 1)
        a.block(20)
        assert a.tighten(5, 60.0)
        await asyncio.sleep(1.5)
        assert await send(b, 1) == 0
        assert (b.available(), b.limited) == (0, True)
        await late.restore()
        assert late.available() == 0
        await asyncio.sleep(20)
        assert await send(late, 10) == 3, "five, of which two are used"
        await asyncio.sleep(3590)
        await late.look()
        assert not late.limited, "it does not hold any longer for having been told on"

    run_virtual(main())


def test_where_nothing_is_limited_the_upstreams_word_holds_for_all_too() -> None:
    """Nothing is stored for a request there; once a limit is named, all keep to it together."""

    async def main() -> None:
        shelf = Shelf()
        a, b = budget(shelf, "a", ()), budget(shelf, "b", ())
        assert (await send(a, 1000), await send(b, 1000), shelf.swaps) == (1000, 1000, 0)
        a.block(10)
        await asyncio.sleep(1)
        assert await send(b, 1) == 0
        await asyncio.sleep(10)
        assert await send(b, 1) == 1
        assert a.tighten(10, 60.0)
        await asyncio.sleep(1)
        assert (await send(b, 6), await send(a, 6), await send(b, 6)) == (6, 4, 0)
        await asyncio.sleep(3600)
        assert (await send(a, 1000), await send(b, 1000)) == (1000, 1000)

    run_virtual(main())


def test_a_hold_is_ones_own() -> None:
    """Whether a key is refused is found out by who polls with it: others' requests go on."""

    async def main() -> None:
        shelf = Shelf()
        a, b = budget(shelf, "a"), budget(shelf, "b")
        a.hold(60)
        await asyncio.sleep(2)
        assert await send(b, 1) == 1

    run_virtual(main())


def test_a_failing_store_is_tried_again() -> None:
    """What others are to know is told once the store works again."""

    async def main() -> None:
        shelf = Shelf()
        a = budget(shelf, "a")
        assert await send(a, 1) == 1
        shelf.broken = True
        a.block(30)
        await asyncio.sleep(3)
        assert not shelf.parts()["a"].paused_until
        tried = shelf.swaps
        assert tried < 10
        shelf.broken = False
        await asyncio.sleep(2)
        assert shelf.parts()["a"].paused_until == EPOCH + 30_000

    run_virtual(main())


# The value.


def test_one_process_alone_stores_what_gateways_did_before() -> None:
    """So a gateway of before replicas can be put in its place again; and nothing is written for others' sake."""

    async def main() -> None:
        shelf = Shelf()
        b = budget(shelf, ALONE)
        assert await send(b, 1) == 1
        b.block(1)
        assert shelf.value == b'{"ended":[],"open":3}'
        await asyncio.sleep(100)
        assert shelf.swaps == 1
        assert b.looks_in_s == float("inf")
        await b.look()
        await b.close()
        assert shelf.swaps == 1

    run_virtual(main())


def test_the_old_form_is_read() -> None:
    """A database that one process had is taken over by replicas: what was spent counts, and ages out."""

    async def main() -> None:
        shelf = Shelf()
        shelf.value = msgspec.json.encode({"ended": [(EPOCH - 1000, 20)], "open": 3})
        a = budget(shelf, "a", (RateWindow(40, 60.0),))
        await a.restore()
        assert a.available() == 40 - 23
        assert await send(a, 1) == 1
        assert set(shelf.parts()) == {ALONE, "a"}
        await asyncio.sleep(61)
        assert a.available() == 39 + 1
        assert await send(a, 1) == 1
        assert set(shelf.parts()) == {"a"}

    run_virtual(main())


def test_the_parts_of_replicas_are_read_by_one_process() -> None:
    """And the other way round."""

    async def main() -> None:
        shelf = Shelf()
        assert await send(budget(shelf, "a"), 2) == 2
        alone = budget(shelf, ALONE)
        await alone.restore()
        assert alone.available() == 0
        await asyncio.sleep(10)
        assert await send(alone, 2) == 2
        assert set(shelf.parts()) == {ALONE, "a"}
        await asyncio.sleep(70)
        assert await send(alone, 2) == 2

    run_virtual(main())


def test_replicas_that_start_again_and_again_do_not_fill_it() -> None:
    """What those that are gone have spent is one part after a while, and counts for as long."""

    async def main() -> None:
        shelf = Shelf()
        windows = (RateWindow(1000, 3600.0),)
        for number in range(60):
            b = budget(shelf, f"life-{number}", windows)
            await b.restore()
            assert await send(b, 3) == 3
            await asyncio.sleep(3)
            await kill(of=b)
            await asyncio.sleep(10)
        last = budget(shelf, "last", windows)
        await last.restore()
        assert last.available() == 1000 - 60 * 3
        assert len(shelf.parts()) <= 10
        await asyncio.sleep(3600 - 700)
        assert last.available() < 1000
        await asyncio.sleep(900)
        assert last.available() == 1000

    run_virtual(main())


def test_a_clock_that_was_set_back_uses_nothing_up() -> None:
    """What was put down an hour later than now counts as put down now, and ages out as ever."""

    async def main() -> None:
        shelf, hour = Shelf(), 3_600_000
        part = Spending([(EPOCH - 1000, 20)], 3, until=EPOCH + 8000, at=EPOCH, paused_until=EPOCH + 2000,
                        told=[(30, 60.0, EPOCH + 9000)])  # fmt: skip
        parts = {"a": part, "gone": Spending([(EPOCH - 9000, 4), (EPOCH, 5)], 0, until=EPOCH)}
        shelf.value = encode({name: one.moved(hour) for name, one in parts.items()})
        assert decode(shelf.value, EPOCH) == parts
        b = budget(shelf, "b")
        await b.restore()
        assert await send(b, 1) == 0
        await asyncio.sleep(10)
        assert await send(b, 1) == 1
        await asyncio.sleep(70)
        assert b.available() == 2
        assert await send(b, 2) == 2
        assert set(shelf.parts()) == {"b"}

    run_virtual(main())


def test_what_the_gone_were_told_holds_on() -> None:
    """The longest pause, and each limit once."""
    parts = {f"r{number}": Spending([(number, 1)], 2, until=number, told=[(5, 60.0, 99_000)]) for number in range(9)}
    parts["r3"] = Spending([(3, 1)], 0, until=3, paused_until=80_000)
    parts["lives"] = Spending([], 1, until=50_000)
    found = folded(parts, 10_000, 60_000)
    gone = found.pop("gone")
    assert found == {"lives": parts["lives"]}
    assert (sum(count for _, count in gone.ended), gone.open) == (8 * 3 + 1, 0)
    assert (gone.paused_until, gone.told) == (80_000, [(5, 60.0, 99_000)])
    assert folded(parts, 200_000, 60_000) == {}


def test_a_request_that_was_given_up_counts_for_a_second_longer() -> None:
    """What was sent cannot be taken back: it may reach the upstream after its client has gone."""

    async def main() -> None:
        shelf = Shelf()
        a = budget(shelf, "a", (RateWindow(1, 1.0),))
        freed: list[float] = []

        async def given_up() -> None:
            with a.sending(freed=lambda: freed.append(VirtualClock().monotonic())):
                await asyncio.Event().wait()

        a.take(1)
        assert await a.reserve(1) == 1
        sent = asyncio.create_task(given_up())
        await asyncio.sleep(0)
        sent.cancel()
        began = VirtualClock().monotonic()
        assert a.next_available_s() is None, "it may be on its way"
        await asyncio.sleep(1.5)
        assert [at - began for at in freed] == [1.0]
        assert a.available() == 0, "from then on a window's length"
        await asyncio.sleep(0.5)
        assert a.available() == 1

    run_virtual(main())


@pytest.mark.parametrize("given_up", [False, True])
def test_what_waits_once_its_answer_has_begun_to_come_holds_no_place(given_up: bool) -> None:
    """It counts for a window's length from then on, once, however long its block lasts and however that ends.

    Its client's turn is under way until then, and other replicas read that nothing is open.
    """

    async def main() -> None:
        shelf = Shelf()
        a = budget(shelf, "a", (RateWindow(1, 1.0),))
        freed: list[float] = []
        waiter = Waiter("c")

        async def waits_for_room() -> None:
            with a.sending(waiter, lambda: freed.append(VirtualClock().monotonic())) as answered:
                await asyncio.sleep(2)
                answered()
                await room.wait()

        room = asyncio.Event()
        assert await a.acquire(1, waiter) is None
        began = VirtualClock().monotonic()
        sent = asyncio.create_task(waits_for_room())
        await asyncio.sleep(2.5)
        assert [at - began for at in freed] == [2.0]
        assert (a._limiter.in_flight, a.available(), a._turns._under_way["c"]) == (0, 0, 1)
        await asyncio.sleep(0.5)
        assert a.available() == 1, "a window's length after the head of the answer"
        await asyncio.sleep(10)
        assert shelf.parts().get("a") is None or shelf.parts()["a"].open == 0
        if given_up:
            sent.cancel()
        room.set()
        await asyncio.wait([sent])
        await asyncio.sleep(2)
        assert (len(freed), a._limiter.in_flight, a.available(), dict(a._turns._under_way)) == (1, 0, 1, {})

    run_virtual(main())
