"""Whose turn it is: a client with thousands of requests, or with many that hang, holds up nobody else."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.core.ratelimit import RateWindow
from gateway.upstream.budget import Budget
from gateway.upstream.turns import ClientTurns, Rotation, Waiter
from tests.budgets import answered
from tests.virtualtime import VirtualClock, run_virtual


def budget(*windows: RateWindow) -> Budget:
    async def load() -> bytes | None:
        return None

    async def swap(old: bytes | None, new: bytes) -> bool:
        return True

    return Budget(windows, VirtualClock(), load, swap)


async def settle() -> None:
    """Let everybody who can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def started(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    return asyncio.create_task(work)


def test_a_rotation_begins_with_who_had_no_turn_and_then_with_the_longest_ago() -> None:
    """A newcomer comes first; whoever was served goes to the end."""
    rotation = Rotation()
    assert rotation.order(["a", "b", "c"]) == ["a", "b", "c"]
    for name in ("b", "a", "b"):
        rotation.served(name)
    assert rotation.order(["a", "b", "c"]) == ["c", "a", "b"]
    assert rotation.order(["b", "a"]) == ["a", "b"]
    assert rotation.order(["b"]) == ["b"]


def test_a_rotation_forgets_names_that_are_long_gone() -> None:
    """However many there were, it keeps a bounded number of them."""
    rotation = Rotation()
    for number in range(5000):
        rotation.served(str(number))
    assert len(rotation._served) == 1000
    assert rotation.order(["0", "4999"]) == ["0", "4999"]


def test_a_thousand_requests_of_one_client_let_anothers_first_one_by() -> None:
    """Whoever has one request waits for the one whose turn it is, and not for the thousand."""

    async def main() -> None:
        b = budget(RateWindow(1, 1.0))
        order: list[str] = []

        async def read(client: str) -> None:
            waiter = Waiter(client)
            assert await b.acquire(3600, waiter) is None
            order.append(client)
            answered(b, waiter)

        many = [started(read("a")) for _ in range(1000)]
        await asyncio.sleep(2.5)
        seen = len(order)
        few = [started(read("b")) for _ in range(3)]
        await asyncio.gather(*few)
        assert order[seen:] in (["a", "b", "a", "b", "a", "b"], ["b", "a", "b", "a", "b"])
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)
        assert b._turns._waiting == 0

    run_virtual(main())


def test_requests_that_hang_leave_places_to_the_other_clients() -> None:
    """One client has half of them at most, and the next one half of the rest; an end gives its place to who waits."""

    async def main() -> None:
        b = budget()
        mine = [started(b.acquire(3600, Waiter("a"))) for _ in range(100)]
        await settle()
        assert sum(task.done() for task in mine) == 32
        theirs = [started(b.acquire(3600, Waiter("b"))) for _ in range(100)]
        await settle()
        assert sum(task.done() for task in theirs) == 16
        third = Waiter("c")
        assert await b.acquire(5, third) is None
        assert b._turns.waiting == 0, "the polls keep no places for those who may have no more"
        answered(b, third)
        b.give_back(1, Waiter("a"))
        await settle()
        assert sum(task.done() for task in (*mine, *theirs)) == 49
        for task in (*mine, *theirs):
            task.cancel()
        await asyncio.gather(*mine, *theirs, return_exceptions=True)

    run_virtual(main())


def test_whoever_has_none_finds_a_place() -> None:
    """Also the last one of all, however many of the others hang."""

    async def main() -> None:
        turns = ClientTurns()
        for client, most in (("a", 32), ("b", 16), ("c", 8), ("d", 4), ("e", 2), ("f", 1), ("g", 1)):
            for _ in range(most):
                waiter = Waiter(client)
                await asyncio.wait_for(turns.begin(waiter), 1)
                turns.end(waiter, took=True)

    run_virtual(main())


def test_a_place_that_is_given_back_is_anothers() -> None:
    """A request that has ended, or was not made after all, leaves nothing behind."""

    async def main() -> None:
        turns = ClientTurns()
        for took in (True, False):
            for _ in range(1000):
                waiter = Waiter("a")
                await asyncio.wait_for(turns.begin(waiter), 1)
                turns.end(waiter, took=took)
                if took:
                    turns.ended(waiter)
        assert (turns._count, len(turns._under_way), turns.waiting) == (0, 0, 0), "nor the name"

    run_virtual(main())


def test_a_request_of_two_clients_counts_for_the_one_whose_turn_comes_first() -> None:
    """Who wants what another already waits for does not wait behind that one's other requests."""

    async def main() -> None:
        turns = ClientTurns()
        first, shared = Waiter("a"), Waiter("a")
        await turns.begin(first)
        turns.join(first, "b")  # it does not wait
        waiting = [started(turns.begin(Waiter("a"))) for _ in range(5)]
        await settle()
        waiting.append(started(turns.begin(shared)))
        await settle()
        for client in "abb":
            turns.join(shared, client)
        turns.end(first, took=True)
        await settle()
        assert [task.done() for task in waiting] == [*[False] * 5, True]
        assert shared.client == "b"
        turns.join(shared, "c")  # too late: it has its turn
        turns.end(shared, took=True)
        await settle()
        assert sum(task.done() for task in waiting) == 2
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert not turns._queues

    run_virtual(main())


def test_a_turn_that_is_given_to_one_who_goes_away_goes_on_to_the_next() -> None:
    """Nothing is held by a client that gave up just as its turn came."""

    async def main() -> None:
        turns = ClientTurns()
        first = Waiter("a")
        await turns.begin(first)
        second, third = started(turns.begin(Waiter("a"))), started(turns.begin(Waiter("b")))
        await settle()
        turns.end(first, took=False)
        second.cancel()
        third.cancel()
        await asyncio.gather(second, third, return_exceptions=True)
        assert (turns.waiting, turns._queues, turns._taken, turns._count) == (0, {}, False, 0)
        await turns.begin(first)

    run_virtual(main())


@pytest.mark.parametrize("most", [8, 9])
def test_no_more_wait_than_may(most: int) -> None:
    """A client may have as many waiting as others could have beside it; more are told at once to come again."""

    async def main() -> None:
        turns = ClientTurns(most_waiting=most)
        held = Waiter("a")
        await turns.begin(held)
        tasks = []
        while turns.room("a"):
            tasks.append(started(turns.begin(Waiter("a"))))
            await settle()
        assert len(tasks) == 4
        assert turns.room("b")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        b = budget(RateWindow(1, 1.0))
        b._turns = turns
        turns._most_waiting = 0
        assert await b.acquire(3600, Waiter("b")) == 1.0

    run_virtual(main())
