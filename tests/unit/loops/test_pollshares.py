"""Which due tasks are polled next: a client with thousands of them holds up nobody's only one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

import pytest

from gateway.core.claims import DueGroup, DueTask
from gateway.core.errors import StoreError
from gateway.loops.pollshares import PollShares
from tests.nouns import NOW, due_task

AMPLE = 1000  # places: nobody's tasks wait for one of their own

_seqs = count(1)


class Queue:
    """Tasks, and which of them are claimed; counts what is read."""

    def __init__(self) -> None:
        self.tasks: list[DueTask] = []
        self.claimed: set[int] = set()
        self.reads = 0

    def add(self, *numbers: int, watchers: str = "ann", due_at: Callable[[int], int] = lambda _: NOW) -> None:
        for number in numbers:
            about = {"watchers": watchers, "task_id": f"task-{number}", "due_at": due_at(number)}
            self.tasks.append(due_task(seq=next(_seqs), **about))
        self.tasks.sort(key=lambda task: task.due_at)

    def unclaimed(self, watchers: str | None = None) -> list[DueTask]:
        return [t for t in self.tasks if t.seq not in self.claimed and watchers in (None, t.watchers)]

    async def waiting(self, upstream: str, now: int) -> tuple[list[DueGroup], int | None]:
        assert upstream == "up"
        first: dict[str, int] = {}
        for task in self.unclaimed():
            first.setdefault(task.watchers, task.due_at)
        held = [task.watchers for task in self.tasks if task.seq in self.claimed]
        due = [DueGroup(watchers, at, held.count(watchers)) for watchers, at in first.items() if at <= now]
        return due, min((at for at in first.values() if at > now), default=None)

    async def longest_due(self, upstream: str, watchers: str, now: int, limit: int) -> tuple[list[DueTask], int | None]:
        assert upstream == "up"
        self.reads += 1
        its = self.unclaimed(watchers)
        due = [task for task in its if task.due_at <= now][:limit]
        return due, its[len(due)].due_at if len(its) > len(due) else None

    async def never_polled(self, upstream: str, since: int, now: int) -> list[DueTask]:
        assert (upstream, since) == ("up", NOW - 1)
        return list({task.watchers: task for task in reversed(self.unclaimed()) if task.due_at <= now}.values())[::-1]

    async def claim(self, tasks: Sequence[DueTask]) -> list[DueTask]:
        claims = [task for task in tasks if task.seq not in self.claimed]
        self.claimed.update(task.seq for task in claims)
        return claims

    async def release(self, claims: Sequence[DueTask]) -> None:
        self.claimed.difference_update(task.seq for task in claims)

    def end(self, claims: Sequence[DueTask]) -> None:
        self.tasks = [task for task in self.tasks if task not in claims]


def run(test: Callable[[Queue, PollShares], Awaitable[None]]) -> None:
    async def main() -> None:
        queue = Queue()
        await test(queue, PollShares(queue, "up"))

    asyncio.run(main())


def by_number(task: DueTask) -> float:
    return float(task.task_id.removeprefix("task-"))


def names(tasks: Sequence[DueTask]) -> list[str]:
    return [task.task_id for task in tasks]


def numbered(*numbers: int) -> list[str]:
    return [f"task-{number}" for number in numbers]


async def ranked(shares: PollShares, at: int, limit: int) -> list[str]:
    """Claim by rank, where more is due than may be claimed, and return whose turn it is."""
    due, next_due_at = await shares.claim(at, limit, AMPLE, by_number)
    assert next_due_at is not None
    assert next_due_at <= at
    return names(due)


def test_the_highest_rank_is_claimed_first_where_more_is_due() -> None:
    """An order holds for a second, and costs no further look; then it is made anew of what is due by then."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(*range(10), due_at=lambda n: NOW - n)
        assert await ranked(shares, NOW, 2) == numbered(9, 8)
        queue.add(99)
        assert await ranked(shares, NOW, 1) == numbered(7)
        assert await ranked(shares, NOW + 999, 1) == numbered(6)
        assert queue.reads == 1
        assert await ranked(shares, NOW + 1000, 2) == numbered(99, 5)
        assert await ranked(shares, NOW + 1000, 4) == numbered(4, 3, 2, 1)
        assert queue.reads == 2

    run(test)


def test_an_order_does_not_outlive_a_clock_that_is_set_back() -> None:
    """An order of the future is none."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(*range(5), due_at=lambda _: NOW - 9999)
        assert await ranked(shares, NOW, 1) == numbered(4)
        queue.add(99, due_at=lambda _: NOW - 9999)
        assert await ranked(shares, NOW - 1, 1) == numbered(99)

    run(test)


def test_an_order_does_not_outlive_a_claim_without_one() -> None:
    """What was claimed for having waited longest is not claimed by rank once more."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(*range(6), due_at=lambda n: NOW - 9 + n)
        assert await ranked(shares, NOW, 1) == numbered(5)
        assert await ranked(shares, NOW, 0) == []
        due, _ = await shares.claim(NOW, 1, AMPLE)
        assert names(due) == numbered(0)
        await queue.release(due)  # it may be due again by then, and that is for a look to tell
        queue.add(7)
        assert await ranked(shares, NOW, 1) == numbered(7)

    run(test)


def test_what_somebody_else_claims_of_an_order_is_passed_over() -> None:
    """The next in it has its turn."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(*range(6))
        assert await ranked(shares, NOW, 1) == numbered(5)
        await queue.claim([task for task in queue.tasks if task.task_id == "task-4"])
        assert await ranked(shares, NOW, 1) == numbered(3)

    run(test)


def test_an_order_ends_with_what_is_due() -> None:
    """However many groups have come and gone, none is kept of those with nothing due."""

    async def test(queue: Queue, shares: PollShares) -> None:
        for name in ("ann", "bob"):
            queue.add(*range(3), watchers=name)
        await shares.claim(NOW, 2, AMPLE, by_number)
        assert len(shares._orders) == 2
        queue.end(queue.unclaimed("ann"))
        await shares.claim(NOW, 1, AMPLE, by_number)
        assert set(shares._orders) == {"bob"}

    run(test)


def test_what_is_due_this_very_moment_is_ranked_too() -> None:
    """As what has been due for long is."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(*range(3))
        assert await ranked(shares, NOW, 2) == numbered(2, 1)

    run(test)


def test_of_more_than_a_thousand_those_that_are_due_the_longest_are_ranked() -> None:
    """Reading them all would take too long."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(*range(1005), due_at=lambda n: NOW - 2000 + n)
        assert await ranked(shares, NOW, 1) == numbered(999)

    run(test)


def test_rank_does_not_matter_where_all_that_is_due_may_be_claimed() -> None:
    """They come in the order of their time, and the next one's is told, with one look."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(*range(3), due_at=lambda n: NOW - n)
        queue.add(50, due_at=lambda _: NOW + 1)
        due, next_due_at = await shares.claim(NOW, 3, AMPLE, by_number)
        assert (names(due), next_due_at, queue.reads) == (numbered(2, 1, 0), NOW + 1, 1)

    run(test)


def test_an_order_gives_way_where_all_that_is_left_may_be_claimed() -> None:
    """The last of them are looked up, so that the loop hears when the next one after them is due."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(*range(4), due_at=lambda n: NOW - n)
        queue.add(50, due_at=lambda _: NOW + 1)
        assert await ranked(shares, NOW, 2) == numbered(3, 2)
        due, next_due_at = await shares.claim(NOW, 2, AMPLE, by_number)
        assert (names(due), next_due_at) == (numbered(1, 0), NOW + 1)

    run(test)


def test_clients_share_what_may_be_claimed() -> None:
    """Each has an equal part, in turns; what one does not need goes to the others, its own order stays."""

    async def test(queue: Queue, shares: PollShares) -> None:
        async def turns(limit: int, *rank: Callable[[DueTask], float]) -> list[str]:
            return names((await shares.claim(NOW, limit, AMPLE, *rank))[0])

        queue.add(*range(20), due_at=lambda n: NOW - 99 + n)
        queue.add(*range(50, 53), watchers="bob", due_at=lambda n: NOW - 99 + n)
        assert await turns(1) == numbered(0)
        assert await turns(1) == numbered(50)
        queue.add(90, watchers="eve")
        assert await turns(3) == numbered(90, 1, 51)
        assert await turns(6) == numbered(2, 3, 4, 52, 5, 6)
        assert await turns(2, by_number) == numbered(19, 18)
        assert len(await turns(99)) == 11
        assert await shares.claim(NOW, 9, AMPLE) == ([], None)

    run(test)


def test_a_claim_that_is_full_looks_at_nobody_elses_tasks() -> None:
    """Hundreds of clients wait for their turn: for one place one of them is read."""

    async def test(queue: Queue, shares: PollShares) -> None:
        for number in range(300):
            queue.add(number, watchers=f"client-{number}")
        claims, next_due_at = await shares.claim(NOW, 1, AMPLE)
        assert (len(claims), next_due_at, queue.reads) == (1, NOW, 1)

    run(test)


def test_a_client_has_as_many_places_as_are_free_beside_it() -> None:
    """Half of all alone; what comes then finds some, and a client whose own are full is told of when one of them ends.

    Its tasks that wait for that are not due while others' may be: else the poller would ask again and again.
    """

    async def test(queue: Queue, shares: PollShares) -> None:
        async def claimed(
            limit: int, places: int, *rank: Callable[[DueTask], float]
        ) -> tuple[list[DueTask], int | None]:
            return await shares.claim(NOW, limit, places, *rank)

        queue.add(*range(30), due_at=lambda n: NOW - 99 + n)
        first, next_due_at = await claimed(16, 16, by_number)
        assert names(first) == numbered(*range(8))  # nothing but a place is short
        assert next_due_at is None
        assert await claimed(8, 8) == ([], None)
        queue.add(40, watchers="bob", due_at=lambda _: NOW + 500)
        assert await claimed(8, 8) == ([], NOW + 500)
        queue.add(*range(50, 59), watchers="bob")
        others, next_due_at = await claimed(8, 8)
        assert names(others) == numbered(50, 51, 52, 53)
        assert next_due_at is None
        queue.add(*range(70, 79), watchers="eve")
        others, _ = await claimed(1, 4, by_number)
        assert names(others) == numbered(78)  # the budget is short: the most urgent
        others, next_due_at = await claimed(3, 3)
        assert names(others) == numbered(70)
        await queue.release(first[:1])
        assert await claimed(2, 2) == ([], None)  # ann has 7, bob 4, eve 2
        await queue.release(first[1:])
        again, _ = await claimed(10, 10)
        assert names(again) == numbered(0, 1, 2, 54, 55, 71, 72)
        assert await claimed(0, 3) == ([], NOW - 96)
        assert await claimed(3, 0) == ([], NOW - 96)  # a full house: whichever ends, there is more

    run(test)


def test_new_tasks_are_claimed_in_turns() -> None:
    """A client with many new ones holds up no other's only one."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(*range(5))
        queue.add(9, watchers="bob")
        claims = [names(await shares.claim_new(NOW - 1, NOW)) for _ in range(4)]
        assert claims == [numbered(0), numbered(9), numbered(1), numbered(2)]

    run(test)


def test_an_order_does_not_outlive_the_claim_of_a_new_task() -> None:
    """What was asked about meanwhile, and is due again, has no place in it."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(*range(4))
        assert await ranked(shares, NOW, 1) == numbered(3)
        assert names(await shares.claim_new(NOW - 1, NOW)) == numbered(0)
        queue.add(50)
        assert await ranked(shares, NOW, 1) == numbered(50)
        await shares.claim(NOW, 9, AMPLE)
        assert await shares.claim_new(NOW - 1, NOW) == []

    run(test)


@pytest.mark.parametrize(("at", "news"), [(500, True), (1000, False), (1500, False)])
def test_what_is_due_earlier_than_was_told_is_news(at: int, news: bool) -> None:
    """While it is polled, a task is not among those its poller knows: its next poll may be the earliest of all."""

    async def test(queue: Queue, shares: PollShares) -> None:
        assert shares.is_news(NOW + at)
        queue.add(1, due_at=lambda _: NOW + 1000)
        await shares.claim(NOW, 1, AMPLE)
        assert shares.is_news(NOW + at) is news

    run(test)


def test_all_is_news_while_a_claim_is_made() -> None:
    """Whatever it will tell is from before."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(1, due_at=lambda _: NOW - 1)
        await shares.claim(NOW, 0, AMPLE)
        assert not shares.is_news(NOW)
        claim = queue.claim

        async def meanwhile(tasks: Sequence[DueTask]) -> list[DueTask]:
            assert shares.is_news(NOW)
            return await claim(tasks)

        queue.claim = meanwhile  # type: ignore[method-assign]
        assert names((await shares.claim(NOW, 1, AMPLE))[0]) == numbered(1)

    run(test)


def test_what_was_claimed_before_a_read_fails_is_given_back() -> None:
    """Nobody would poll it, and it would be claimed until the next start."""

    async def test(queue: Queue, shares: PollShares) -> None:
        queue.add(1)
        queue.add(2, watchers="bob")
        read = queue.longest_due

        async def fails(upstream: str, watchers: str, now: int, limit: int) -> tuple[list[DueTask], int | None]:
            if queue.claimed:
                raise StoreError("The database could not be read.")
            return await read(upstream, watchers, now, limit)

        queue.longest_due = fails  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            await shares.claim(NOW, 9, AMPLE)
        assert queue.claimed == set()

    run(test)
