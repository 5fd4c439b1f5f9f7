"""A client's share of the gateway's time: who waits for whom, and that a batch lets others go on."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from gateway.core.shares import WHOLE, Shares


class Work:
    """What clients do with their shares, until they are told to end it."""

    def __init__(self) -> None:
        self.shares = Shares()
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, cost: int) -> None:
        """Have the client that the name begins with ask for a part of its share."""
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._do(name, cost))
        await self.settled()

    async def _do(self, name: str, cost: int) -> None:
        async with self.shares.of(name.split()[0], cost):
            self.begun.append(name)
            await self.ends[name].wait()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        await self.settled()

    async def settled(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@asynccontextmanager
async def working() -> AsyncIterator[Work]:
    work = Work()
    try:
        yield work
        for end in work.ends.values():
            end.set()
        await asyncio.wait(work.tasks.values(), timeout=20)
        assert all(task.done() for task in work.tasks.values()), "somebody waits for ever"
        assert work.shares.size == WHOLE, "something is kept of clients that want nothing"
    finally:
        for task in work.tasks.values():
            task.cancel()


async def test_a_client_has_its_share_at_once_and_the_rest_waits_in_its_order() -> None:
    """What is more waits until something has ended; what is small does not pass what is large."""
    async with working() as work:
        for name, cost in (("ann 1", 200), ("ann 2", 56), ("ann 3", 100), ("ann 4", 1)):
            await work.ask(name, cost)
        assert work.begun == ["ann 1", "ann 2"]
        await work.end("ann 2")
        assert work.begun == ["ann 1", "ann 2"]
        await work.end("ann 1")
        assert work.begun == ["ann 1", "ann 2", "ann 3", "ann 4"]


async def test_beside_others_a_share_is_smaller_and_nobody_waits_for_another_client() -> None:
    """Whoever comes to a client with hundreds of requests is asked for at once, and that one goes on with less."""
    async with working() as work:
        for number in range(20):
            await work.ask(f"ann {number}", 32)
        assert len(work.begun) == 8
        await work.ask("bob 1", 32)
        assert work.begun[-1] == "bob 1"
        for number in range(6):
            await work.end(f"ann {number}")
        assert work.begun[-1] == "bob 1"
        await work.end("ann 6")
        assert work.begun[-1] == "ann 8"


@pytest.mark.parametrize("counted", [True, False])
async def test_who_has_wanted_something_within_the_last_second_counts_as_there(
    monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    """Between two requests of one client another's batch goes on in small pieces, from its first; a while later not."""
    now = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    shares = Shares()

    async def ask(client: str) -> None:
        if counted:
            async with shares.of(client, 1):
                pass
        else:
            shares.note(client)

    beside = []
    steps = ((0, "ann"), (0, "ann"), (0.9, "bob"), (0.5, "bob"), (0.6, "bob"), (0.9, "ann"), (1.1, "bob"))
    for pause_s, client in steps:
        now += pause_s
        await ask(client)
        beside.append(shares.beside(client))
    assert beside == [False, False, True, False, False, True, False]
    now += 0.9  # whatever came of bob's since
    assert shares.beside("ann")
    assert not shares.beside("bob")
    now += 0.2
    assert not shares.beside("ann")
    assert shares.size == WHOLE


async def test_who_wants_something_for_longer_than_a_second_counts_all_the_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As long as it has, or waits for, its part of the database's time."""
    now = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    shares = Shares()
    await shares.take("ann", 1)
    await shares.take("bob", 1)
    now += 10
    assert shares.beside("bob")
    shares.give("bob", 1)
    assert shares.beside("bob")
    assert not shares.beside("ann")
    shares.give("ann", 1)
    assert not shares.beside("bob")


async def test_what_takes_next_to_nothing_is_counted_until_it_ends() -> None:
    """The smallest pieces of batches, several at once: none of them ends another's share."""
    async with working() as work:
        for number in range(3):
            await work.ask(f"ann {number}", 0)
        for number in range(3):
            await work.end(f"ann {number}")


async def test_what_is_more_than_a_share_passes_alone() -> None:
    """Nothing is too large to be done."""
    async with working() as work:
        await work.ask("ann 1", 10_000)
        await work.ask("ann 2", 1)
        assert work.begun == ["ann 1"]
        await work.end("ann 1")
        assert work.begun == ["ann 1", "ann 2"]


@pytest.mark.parametrize("when", ["it waits", "it works"])
async def test_whoever_goes_away_leaves_nothing_taken(when: str) -> None:
    """A request that is cancelled neither keeps its part nor its place in the row."""
    async with working() as work:
        await work.ask("ann 1", 256)
        await work.ask("ann 2", 256)
        await work.ask("ann 3", 256)
        if when == "it works":
            await work.end("ann 1")
        work.tasks["ann 2"].cancel()
        await work.settled()
        if when == "it waits":
            assert work.begun == ["ann 1"]
            await work.end("ann 1")
        assert work.begun[-1] == "ann 3"


async def test_whoever_goes_away_just_as_it_is_let_in_leaves_nothing_taken() -> None:
    """What it was given is the next one's."""
    shares = Shares()
    await shares.take("ann", 256)
    gone, next_one = (asyncio.create_task(shares.take("ann", 256)) for _ in range(2))
    await asyncio.sleep(0)
    shares.give("ann", 256)
    gone.cancel()
    await asyncio.wait_for(next_one, 20)
    assert gone.cancelled()


async def test_a_batch_lets_others_go_on_in_between() -> None:
    """A thousand items are not looked at in one turn of the event loop, and all of them are."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    assert [item async for item in Shares().paced("ann", range(1000))] == list(range(1000))
    other.cancel()
    assert turns >= 19


@pytest.mark.parametrize("clients", [1, 10])
async def test_of_several_batches_one_goes_on_at_a_time(clients: int) -> None:
    """Ten of them take no longer turns than one, whosever they are, but for the first, in which all begin."""
    shares = Shares()
    seen = 0

    async def look(client: str) -> None:
        nonlocal seen
        async for _ in shares.paced(client, range(500)):
            seen += 1

    batches = [asyncio.create_task(look(f"client {number % clients}")) for number in range(10)]
    await asyncio.sleep(0)  # all begin at once
    turns = []
    while not all(batch.done() for batch in batches):
        before = seen
        await asyncio.sleep(0)
        turns.append(seen - before)
    assert seen == 5000
    assert max(turns) == 25


async def test_beside_others_fewer_items_of_a_batch_are_looked_at_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A create takes more than a dozen turns, each of which is the longer for them; alone nobody waits for that."""
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 0.0)
    longest = {}
    for others in (False, True):
        shares = Shares()
        shares.note("ann")
        if others:
            shares.note("bob")
        seen = 0

        async def look(shares: Shares) -> None:
            nonlocal seen
            async for _ in shares.paced("ann", range(100)):
                seen += 1

        batch, longest[others] = asyncio.create_task(look(shares)), 0
        while not batch.done():
            before = seen
            await asyncio.sleep(0)
            longest[others] = max(longest[others], seen - before)
    assert longest == {False: 25, True: 5}


async def test_a_batch_that_waits_costs_nothing_until_its_turn() -> None:
    """It is not woken to find that it is another's: of hundreds of batches that took all of the loop's time."""
    shares = Shares()
    woken = 0

    async def look() -> None:
        nonlocal woken
        async for number in shares.paced("ann", range(50)):
            woken += number % 25 == 0

    batches = [asyncio.create_task(look()) for _ in range(100)]
    turns = 0
    while not all(batch.done() for batch in batches):
        turns += 1
        await asyncio.sleep(0)
    assert woken == 200
    assert turns < 2 * 100 + 10


async def test_a_batch_waits_for_one_step_of_each_other_client_at_a_time() -> None:
    """However many batches another one has: that one's wait for each other, in the order in which they came."""
    shares = Shares()
    steps: list[str] = []
    crowded = asyncio.Event()

    def note(name: str) -> None:
        steps.append(name)
        if len(steps) == 60:
            crowded.set()

    async def look(name: str) -> None:
        async for number in shares.paced(name.split()[0], range(250)):
            if number % 25 == 0:
                note(name)

    crowd = [asyncio.create_task(look(f"ann {number}")) for number in range(50)]
    await crowded.wait()
    others = [asyncio.create_task(look(name)) for name in ("bob 1", "cleo 1", "cleo 2")]
    await asyncio.gather(*crowd, *others)
    assert steps[50:60] == [f"ann {number}" for number in range(10)]
    assert set(Counter(steps).values()) == {10}
    whose = [name.split()[0] for name in steps]
    for client, batches in (("bob", 1), ("cleo", 2)):
        places = [place for place, name in enumerate(whose) if name == client]
        for last, place in pairwise(places[batches:]):  # from when it waits for the first time
            assert max(Counter(whose[last:place]).values()) == 1


@pytest.mark.parametrize("clients", [1, 3, 9])
async def test_a_batch_that_is_cancelled_leaves_its_turn_to_the_next(clients: int) -> None:
    """Nobody waits for ever behind a client who has gone, be it all of a client's batches or some."""
    shares = Shares()

    async def look(client: str) -> int:
        return sum([1 async for _ in shares.paced(client, range(60))])

    batches = [asyncio.create_task(look(f"client {number % clients}")) for number in range(9)]
    await asyncio.sleep(0)
    for gone in (batches[0], batches[4], batches[8]):
        gone.cancel()
    done = await asyncio.gather(*batches, return_exceptions=True)
    assert [one for one in done if not isinstance(one, asyncio.CancelledError)] == [60] * 6
