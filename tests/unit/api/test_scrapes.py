"""How often the metrics are written out, however many ask."""

import asyncio
from collections.abc import Iterator

import pytest

from gateway.api.scrapes import Scrapes
from tests.virtualtime import run_virtual


class CostlyClock:
    """Each writing takes a millisecond, or as long as is said."""

    def __init__(self, cost_s: float = 0.001) -> None:
        self.seconds = 100.0
        self.cost_s = cost_s
        self.written = 0
        self.refreshed = 0

    def now(self) -> int:
        return round(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds

    def render(self) -> Iterator[bytes]:
        self.written += 1
        self.seconds += self.cost_s
        yield b"%d" % self.written

    async def refresh(self) -> None:
        self.refreshed += 1
        await asyncio.sleep(0)


async def test_all_who_ask_at_once_share_one_text() -> None:
    """Of those that come in the pause too: the next text is one."""
    clock = CostlyClock()
    scrapes = Scrapes(clock, clock.refresh, clock.render)
    assert await scrapes.text() == b"1"
    began = asyncio.get_running_loop().time()
    texts = await asyncio.gather(*(scrapes.text() for _ in range(64)))
    assert set(texts) == {b"2"}
    assert asyncio.get_running_loop().time() - began >= 0.02, "twenty times what one costs"
    assert (clock.written, clock.refreshed) == (2, 2)


async def test_of_very_many_the_others_wait_for_nothing() -> None:
    """Nobody needs a token to ask: each who waits has a connection, so one more is answered with the last text."""
    clock = CostlyClock()
    scrapes = Scrapes(clock, clock.refresh, clock.render)
    first = await asyncio.gather(*(scrapes.text() for _ in range(100)))
    assert set(first) == {b"1"}, "there is none before"
    waiting = [asyncio.create_task(scrapes.text()) for _ in range(64)]
    await asyncio.sleep(0)
    assert [await scrapes.text() for _ in range(3)] == [b"1"] * 3
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert await scrapes.text() == b"2", "there is room for one who waits"
    assert [await task for task in waiting[1:]] == [b"2"] * 63


@pytest.mark.parametrize(("cost_s", "pause_s"), [(0.02, 0.4), (0.05, 1.0), (10.0, 1.0)])
def test_who_asks_waits_for_a_second_at_most(cost_s: float, pause_s: float) -> None:
    """However long it takes to write a text out."""

    async def main() -> None:
        clock = CostlyClock(cost_s)
        scrapes = Scrapes(clock, clock.refresh, clock.render)
        assert await scrapes.text() == b"1"
        began_s = asyncio.get_running_loop().time()
        assert await scrapes.text() == b"2"
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(pause_s)

    run_virtual(main())


async def test_a_text_is_never_older_than_the_question() -> None:
    """Who asks gets what was counted since, and not what another asked for before."""
    clock = CostlyClock()
    scrapes = Scrapes(clock, clock.refresh, clock.render)
    for number in range(1, 4):
        assert await scrapes.text() == b"%d" % number
        clock.seconds += 10.0


async def test_a_client_that_goes_takes_the_text_from_nobody() -> None:
    """What is made for several ends with none of them."""
    clock = CostlyClock()
    scrapes = Scrapes(clock, clock.refresh, clock.render)
    first, second = (asyncio.create_task(scrapes.text()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == b"1"


async def test_a_count_that_fails_is_tried_again() -> None:
    """A defect spoils one answer, and not all that follow."""
    clock = CostlyClock()
    fails = [False, True]

    async def refresh() -> None:
        if fails.pop():
            raise LookupError

    scrapes = Scrapes(clock, refresh, clock.render)
    answers = [await asyncio.gather(scrapes.text(), return_exceptions=True) for _ in range(2)]
    assert isinstance(answers[0][0], LookupError)
    assert answers[1] == [b"1"]


async def test_a_text_is_written_in_steps_of_a_millisecond() -> None:
    """Others have their turn after each of them, and nobody else's text is begun meanwhile."""
    clock = CostlyClock(0.0004)
    writing: list[int] = []

    def render() -> Iterator[bytes]:
        number = clock.written
        for _ in range(9):
            writing.append(number)
            yield from clock.render()
        assert set(writing[-9:]) == {number}

    scrapes = Scrapes(clock, clock.refresh, render)
    first = asyncio.create_task(scrapes.text())
    steps, second = [], None
    while not first.done():
        before = clock.written
        await asyncio.sleep(0)
        steps.append(clock.written - before)
        if steps[-1] and second is None:
            second = asyncio.create_task(scrapes.text())
    assert [step for step in steps if step] == [3, 3, 3]
    assert first.result() == b"123456789"
    assert second is not None
    assert await second == b"101112131415161718"
