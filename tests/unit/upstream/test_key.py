"""A key's budgets: shared fairly, never exceeded by a gateway that is killed, and paused when the upstream says so."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from math import floor

import pytest

from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.core.ratelimit import RateWindow
from gateway.core.telemetry import Metrics
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.budget import Budget
from gateway.upstream.key import NEUTRAL_TASK_ID, UpstreamKey
from gateway.upstream.turns import Waiter
from tests.budgets import answered
from tests.virtualtime import VirtualClock, run_virtual

FREE = (RateWindow(2, 1.0), RateWindow(60, 60.0))


class Disk:
    """What is saved; slow and failing on demand."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.writes = self.loads = 0
        self.delay_s = 0.0
        self.broken = False

    async def load(self) -> bytes | None:
        self.loads += 1
        return self.value

    async def swap(self, old: bytes | None, new: bytes) -> bool:
        self.writes += 1
        await asyncio.sleep(self.delay_s / 2)
        if self.broken:
            raise StoreError("full")
        swapped = self.value == old
        self.value = new if swapped else self.value
        await asyncio.sleep(self.delay_s / 2)
        return swapped


def budget(windows: Sequence[RateWindow] = FREE, disk: Disk | None = None, clock: Clock | None = None) -> Budget:
    disk = disk or Disk()
    return Budget(windows, clock or VirtualClock(), disk.load, disk.swap)


def key(windows: Sequence[RateWindow] = FREE) -> UpstreamKey:
    return UpstreamKey("up", budget(windows), budget(windows), Metrics())


async def poll_now(of: Budget, count: int = 1) -> None:
    """Take places as the poller does, and answer at once."""
    assert of.available_for_polls() >= count
    of.take(count)
    await of.reserve(count)
    of.polls_sent(count)
    for _ in range(count):
        answered(of)


# Places.


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


# The upstream's word.

OK = PollResult(kind=PollKind.RUNNING)
REFUSED = PollResult(kind=PollKind.KEY_REFUSED, error="The upstream answered 401: no")
NOTHING = [PollResult(kind=kind, error="x") for kind in (PollKind.UNREACHABLE, PollKind.BROKEN, PollKind.MAINTENANCE)]
PAGE = PollResult(kind=PollKind.THROTTLED, error="x", by_api=False)


def says(k: UpstreamKey, task_id: str, result: PollResult, *, asked_s_ago: float = 0.0, again: bool = False) -> None:
    """Let the key hear an answer about a task, or to a client's question."""
    k.judge(task_id, VirtualClock().monotonic() - asked_s_ago, result, again=again)


def probed(k: UpstreamKey, task_id: str, result: PollResult, *, asked_s_ago: float = 0.0) -> None:
    """Let it hear the answer to the gateway's own question about the key."""
    k.judge(task_id, VirtualClock().monotonic() - asked_s_ago, result, probe=True)


def refused_key() -> UpstreamKey:
    """Return a key that has just been refused, for a task and for the neutral one."""
    k = key()
    says(k, "t", REFUSED)
    probed(k, NEUTRAL_TASK_ID, REFUSED)
    assert k.refusal == REFUSED.error
    return k


def standing(k: UpstreamKey) -> tuple[bool, bool, int]:
    """Return whether the key is doubted, whether it is refused, and how many requests it may make now."""
    return k.doubted, k.refusal is not None, k.queries.available()


ACCEPTED, DOUBTED = (False, False, 2), (True, False, 2)


def test_a_429_stops_the_key_for_as_long_as_it_says() -> None:
    """The pause is what the answer asks for, and five seconds where it does not say."""

    async def main() -> None:
        for retry_after_s, pause_s in ((17.0, 17.0), (None, 5.0), (0.0, 5.0)):
            k = key()
            k.judge("t", 0.0, PollResult(kind=PollKind.THROTTLED, retry_after_s=retry_after_s))
            assert (k.queries.available(), k.queries.next_available_s()) == (0, pause_s)
            assert k.creates.available() == 2
            assert k.refusal is None

    run_virtual(main())


@pytest.mark.parametrize(
    ("told", "rate_per_s"), [((10, 60.0), 10 / 60), ((600, 60.0), 1.0), ((1, 1.0), 1.0), ((100, 3600.0), 100 / 3600)]
)
def test_a_lower_limit_is_adopted(told: tuple[int, float], rate_per_s: float) -> None:
    """The tier that a 429 names holds from now on where it is lower than configured; a higher one does not."""

    async def main() -> None:
        k = key()
        k.judge("t", 0.0, PollResult(kind=PollKind.THROTTLED, told_window=told))
        assert k.queries.rate_per_s == pytest.approx(rate_per_s)

    run_virtual(main())


def test_a_new_window_counts_what_was_sent_before() -> None:
    """A window that the upstream names is not taken for empty: what was just sent has its places in it."""

    async def main() -> None:
        b = budget()
        await poll_now(b, 2)
        await asyncio.sleep(1)
        assert b.tighten(3, 10.0)
        await poll_now(b, 1)
        assert b.available() == 0
        assert b.next_available_s() == 9.0

    run_virtual(main())


def test_a_refusal_is_explained_by_another_tasks_answer() -> None:
    """Within five seconds of an accepted answer to another question no refusal is held against the key."""

    async def main() -> None:
        k = key()
        says(k, "a", OK)
        await asyncio.sleep(5)
        for _ in range(100):
            says(k, "b", REFUSED)
            says(k, "c", REFUSED)
        assert standing(k) == ACCEPTED
        await asyncio.sleep(0.001)
        says(k, "b", REFUSED)
        assert standing(k) == DOUBTED
        assert k.to_ask == "a"

    run_virtual(main())


def test_a_task_does_not_vouch_for_itself() -> None:
    """Where the task itself was the last one that the key was accepted for, its refusal may be the key's."""

    async def main() -> None:
        k = key()
        says(k, "a", OK)
        await asyncio.sleep(1)
        says(k, "a", REFUSED)
        assert standing(k) == DOUBTED
        assert k.to_ask == NEUTRAL_TASK_ID

    run_virtual(main())


@pytest.mark.parametrize("kind", [PollKind.TERMINAL, PollKind.NOT_KNOWN, PollKind.CREDITS, PollKind.RUNNING])
@pytest.mark.parametrize("about", [NEUTRAL_TASK_ID, "another"])
def test_a_doubt_ends_with_an_accepted_answer(kind: PollKind, about: str) -> None:
    """Whoever is asked about: the refusals were their tasks' own, and there is no doubt for five seconds."""

    async def main() -> None:
        k = key()
        says(k, "t", REFUSED)
        assert standing(k) == DOUBTED
        await asyncio.sleep(0.1)
        says(k, about, PollResult(kind=kind))
        says(k, "t", REFUSED)
        assert standing(k) == ACCEPTED
        assert k.accepted_since(0.05)
        assert not k.accepted_since(0.1)

    run_virtual(main())


def test_a_witness_who_is_refused_leaves_the_word_to_the_neutral_task() -> None:
    """The task that was last accepted is asked about first; only where both are refused is the key."""

    async def main() -> None:
        for word, standing_then in ((OK, ACCEPTED), (REFUSED, (False, True, 0))):
            k = key()
            says(k, "a", OK)
            await asyncio.sleep(6)
            says(k, "t", REFUSED)
            assert k.to_ask == "a"
            says(k, "a", REFUSED)
            assert standing(k) == DOUBTED
            assert k.to_ask == NEUTRAL_TASK_ID
            probed(k, NEUTRAL_TASK_ID, word)
            assert standing(k) == standing_then

    run_virtual(main())


def test_an_upstream_that_refuses_unknown_ids_refuses_no_key() -> None:
    """While the key is accepted for a task, a neutral one that is refused means nothing."""

    async def main() -> None:
        k = key()
        says(k, "t", REFUSED)
        says(k, "a", OK)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        assert standing(k) == ACCEPTED
        await asyncio.sleep(6)
        for number in range(9):
            says(k, f"t{number}", REFUSED)
        assert (standing(k), k.to_ask) == (DOUBTED, "a")
        says(k, "a", OK)
        assert standing(k) == ACCEPTED

    run_virtual(main())


@pytest.mark.parametrize("nothing", [*NOTHING, PAGE])
def test_an_outage_explains_nothing(nothing: PollResult) -> None:
    """An answer that says nothing of the key neither clears nor convicts it: the same is asked again a while later."""

    async def main() -> None:
        k = key()
        says(k, "a", OK)
        for _ in range(3):
            await asyncio.sleep(5.001)
            says(k, "t", REFUSED)
            assert (k.doubted, k.to_ask) == (True, "a")
            probed(k, "a", nothing)
            says(k, "t", REFUSED)
            assert standing(k)[:2] == ACCEPTED[:2]
            assert not k.accepted_since(0.0), "nobody has found it accepted"
        await asyncio.sleep(5.001)
        says(k, "t", REFUSED)
        probed(k, "a", REFUSED)
        for _ in range(3):
            assert (k.doubted, k.to_ask) == (True, NEUTRAL_TASK_ID)
            probed(k, NEUTRAL_TASK_ID, nothing)
            await asyncio.sleep(5)
            says(k, "t", REFUSED)
            assert standing(k)[:2] == ACCEPTED[:2]
            await asyncio.sleep(0.001)
            says(k, "t", REFUSED)

    run_virtual(main())


UNKNOWN = PollResult(kind=PollKind.NOT_KNOWN, error="x")


@pytest.mark.parametrize("neutral", [UNKNOWN, *NOTHING, PAGE])
@pytest.mark.parametrize("known", [False, True])
def test_tasks_refuse_a_key_that_the_neutral_one_does_not(neutral: PollResult, known: bool) -> None:
    """Three different ones, each refused again, with none told of since: whatever an unknown id is answered."""

    async def main() -> None:
        k = key()
        if known:
            says(k, "t2", OK)
        await asyncio.sleep(6)
        for task_id in ("t0", "t1", "t1", "t0", "t0"):
            says(k, task_id, REFUSED, again=True)
        if known:
            probed(k, "t2", REFUSED)
        else:
            probed(k, NEUTRAL_TASK_ID, neutral)
            assert standing(k)[:2] == ACCEPTED[:2], "two are not enough"
            await asyncio.sleep(6)
            says(k, "t2", REFUSED, again=True)
        says(k, "u", UNKNOWN)
        assert standing(k) == DOUBTED, "such an API says it of any id"
        probed(k, NEUTRAL_TASK_ID, neutral)
        for _ in range(5):
            assert (standing(k), k.queries.next_available_s()) == ((False, True, 0), 30.0)
            assert k.refused_by_tasks
            assert k.refusal == REFUSED.error
            await asyncio.sleep(30)
            says(k, "t1", REFUSED, again=True)
        await asyncio.sleep(30)
        says(k, "t3", UNKNOWN)
        assert (k.refusal, k.queries.next_available_s()) == (REFUSED.error, 30.0)
        await asyncio.sleep(30)
        says(k, "t3", OK)
        assert standing(k)[:2] == ACCEPTED[:2]
        await asyncio.sleep(6)
        says(k, "t0", REFUSED, again=True)
        assert (standing(k), k.to_ask) == (DOUBTED, "t3")

    run_virtual(main())


def test_a_key_that_its_tasks_refuse_is_accepted_with_the_last_of_them_gone() -> None:
    """Else readiness stayed red with nobody left who could put it right; one that the neutral task refuses stays so."""

    async def main() -> None:
        k = key()
        for number in range(3):
            says(k, f"t{number}", REFUSED, again=True)
        k.no_task_left()
        assert standing(k) == DOUBTED
        probed(k, NEUTRAL_TASK_ID, UNKNOWN)
        k.no_task_left()
        assert standing(k)[:2] == ACCEPTED[:2]
        other = refused_key()
        other.no_task_left()
        assert other.refusal == REFUSED.error

    run_virtual(main())


def test_nine_tasks_of_another_account_refuse_no_key() -> None:
    """While the key is accepted for a tenth, asked when it may, nobody convicts it, and neither do lost answers."""

    async def main() -> None:
        for nothing in (*NOTHING, PAGE, UNKNOWN):
            k = key()
            says(k, "own", OK)
            for _ in range(20):
                await asyncio.sleep(6)
                for number in range(9):
                    says(k, f"t{number}", REFUSED, again=True)
                assert (k.doubted, k.to_ask) == (True, "own")
                probed(k, "own", nothing)
                assert standing(k)[:2] == ACCEPTED[:2]
            await asyncio.sleep(6)
            says(k, "t0", REFUSED, again=True)
            probed(k, "own", OK)
            assert standing(k)[:2] == ACCEPTED[:2]

    run_virtual(main())


@pytest.mark.parametrize("neutral", [UNKNOWN, REFUSED])
def test_an_answer_that_was_under_way_ends_the_refusal(neutral: PollResult) -> None:
    """A slow one that tells of a task, asked when the doubt began, comes after the others have convicted the key."""

    async def main() -> None:
        k = key()
        for number in range(3):
            says(k, f"t{number}", REFUSED, again=True)
        await asyncio.sleep(0.1)
        probed(k, NEUTRAL_TASK_ID, neutral)
        assert k.refusal is not None
        says(k, "own", OK, asked_s_ago=6)
        assert k.refusal is not None
        says(k, "own", OK, asked_s_ago=5)
        assert standing(k) == ACCEPTED

    run_virtual(main())


def test_a_clients_questions_about_the_neutral_task_convict_nobody() -> None:
    """Its id is known to all: where unknown ids are refused, who asked twice would stop everybody's polls."""

    async def main() -> None:
        for witness in (None, "a"):
            k = key()
            if witness:
                says(k, witness, OK)
            await asyncio.sleep(6)
            for _ in range(20):
                says(k, NEUTRAL_TASK_ID, REFUSED)
            assert (standing(k), k.to_ask) == (DOUBTED, witness or NEUTRAL_TASK_ID)
            probed(k, k.to_ask, OK)
            assert standing(k) == ACCEPTED

    run_virtual(main())


def test_clients_reads_count_for_no_task() -> None:
    """Whoever reads the ids of others cannot make up the three that refuse the key."""

    async def main() -> None:
        k = key()
        for _ in range(3):
            await asyncio.sleep(6)
            for number in range(20):
                says(k, f"t{number}", REFUSED)
            probed(k, NEUTRAL_TASK_ID, UNKNOWN)
            assert standing(k) == ACCEPTED

    run_virtual(main())


def test_a_witness_that_came_while_the_neutral_task_was_asked_about_has_its_say() -> None:
    """An answer older than the doubt does not end it, but whom it tells of is asked before the key is refused."""

    async def main() -> None:
        k = key()
        await asyncio.sleep(8)
        says(k, "t", REFUSED)
        says(k, "slow", OK, asked_s_ago=8)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        assert (standing(k), k.to_ask) == (DOUBTED, "slow")
        probed(k, "slow", REFUSED)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        assert k.refusal == REFUSED.error
        await asyncio.sleep(30)
        says(k, "slow", REFUSED)
        assert (k.to_ask, k.neutral_next) == (NEUTRAL_TASK_ID, True)

    run_virtual(main())


def test_what_is_not_the_apis_word_is_no_acceptance() -> None:
    """Neither a page of the CDN's nor what the gateway says by itself clears a key that is refused."""

    async def main() -> None:
        k = refused_key()
        await asyncio.sleep(30)
        says(k, "..", PollResult(kind=PollKind.NOT_KNOWN, error="x", by_api=False))
        assert k.refusal == REFUSED.error

    run_virtual(main())


def test_a_refused_key_is_probed_with_growing_pauses() -> None:
    """Each probe that is refused again makes the pause longer, up to five minutes; the reason is kept."""

    async def main() -> None:
        k = refused_key()
        for pause_s in (30.0, 60.0, 120.0, 300.0, 300.0):
            assert k.queries.next_available_s() == pause_s
            assert k.refusal == REFUSED.error
            await asyncio.sleep(pause_s)
            assert not k.neutral_next
            says(k, "t", REFUSED)
            assert (k.neutral_next, k.to_ask, k.queries.available()) == (True, NEUTRAL_TASK_ID, 2)
            probed(k, NEUTRAL_TASK_ID, REFUSED)
        await asyncio.sleep(300)
        says(k, "t", OK)
        assert standing(k) == ACCEPTED
        await asyncio.sleep(6)
        says(k, "u", REFUSED)
        says(k, "t", REFUSED)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        assert k.queries.next_available_s() == 30.0

    run_virtual(main())


@pytest.mark.parametrize("about", ["t", NEUTRAL_TASK_ID, "another"])
@pytest.mark.parametrize("kind", [PollKind.TERMINAL, PollKind.NOT_KNOWN, PollKind.CREDITS, PollKind.THROTTLED])
def test_an_answer_that_needs_an_accepted_key_ends_the_refusal(kind: PollKind, about: str) -> None:
    """The upstream looked at the key and went on: it is accepted again."""

    async def main() -> None:
        k = refused_key()
        await asyncio.sleep(30)
        says(k, about, PollResult(kind=kind, error="x"))
        assert (k.refusal, k.neutral_next) == (None, False)

    run_virtual(main())


def test_many_refusals_at_once_are_one() -> None:
    """The answers to requests sent before the key was refused do not make the pause longer, nor do old ones end it."""

    async def main() -> None:
        k = key()
        await asyncio.sleep(10)
        for _ in range(64):
            says(k, "t", REFUSED)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        for _ in range(64):
            says(k, "t", REFUSED)
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        says(k, "a", OK, asked_s_ago=5.001)
        await asyncio.sleep(1)
        says(k, "b", OK, asked_s_ago=8)
        assert (k.refusal, k.neutral_next, k.queries.next_available_s()) == (REFUSED.error, False, 29.0)

    run_virtual(main())


def test_a_task_that_was_asked_about_beside_the_neutral_one_ends_the_pause() -> None:
    """Of two words about the same moment the one that accepts the key counts: its pause is over at once."""

    async def main() -> None:
        k = key()
        says(k, "t", REFUSED)
        probed(k, NEUTRAL_TASK_ID, REFUSED, asked_s_ago=0.5)
        says(k, "a", OK, asked_s_ago=0.5)
        assert standing(k) == ACCEPTED

    run_virtual(main())


def test_the_upstreams_own_pause_outlasts_ours() -> None:
    """A key that is accepted again waits all the same for as long as a 429 has asked."""

    async def main() -> None:
        k = refused_key()
        await asyncio.sleep(30)
        says(k, "a", PollResult(kind=PollKind.THROTTLED, retry_after_s=17.0))
        assert (k.refusal, k.queries.next_available_s()) == (None, 17.0)

    run_virtual(main())


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_probe_that_says_nothing_of_the_key_is_made_again(nothing: PollResult) -> None:
    """An outage during a probe neither clears the refusal nor lets the probes come thick and fast."""

    async def main() -> None:
        k = refused_key()
        await asyncio.sleep(30)
        says(k, "t", nothing)
        assert (k.refusal, k.neutral_next) == (REFUSED.error, True)
        probed(k, NEUTRAL_TASK_ID, nothing)
        assert (k.refusal, k.queries.next_available_s()) == (REFUSED.error, 30.0)

    run_virtual(main())


def test_the_metric_follows_the_refusal() -> None:
    """``gateway_upstream_refused`` stands at 0 from the start, and at 1 while the key is refused."""

    async def main() -> None:
        metrics = Metrics()
        k = UpstreamKey("up", budget(), budget(), metrics)

        def shown() -> float | None:
            return metrics.registry.get_sample_value("gateway_upstream_refused", {"upstream": "up"})

        assert shown() == 0.0
        says(k, "t", REFUSED)
        assert shown() == 0.0
        probed(k, NEUTRAL_TASK_ID, REFUSED)
        assert shown() == 1.0
        await asyncio.sleep(30)
        says(k, "t", OK)
        assert shown() == 0.0

    run_virtual(main())
