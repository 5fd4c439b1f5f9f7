"""The tests' own virtual time: it jumps, it keeps order, and it does not hang."""

import asyncio

import pytest

from tests.virtualtime import EPOCH, VirtualClock, run_virtual


def test_time_jumps_from_timer_to_timer() -> None:
    """A day passes at once, and timers fire in their order at their times."""

    async def main() -> list[tuple[str, int]]:
        clock = VirtualClock()
        seen: list[tuple[str, int]] = []

        async def note(name: str, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            seen.append((name, clock.now() - EPOCH))

        await asyncio.gather(note("b", 86_400), note("a", 0.25), note("c", 86_400.001))
        return seen

    assert run_virtual(main()) == [("a", 250), ("b", 86_400_000), ("c", 86_400_001)]


def test_a_wait_for_nothing_is_an_error() -> None:
    """A test whose every part waits for another fails at once in place of hanging."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="hang for ever"):
        run_virtual(main())


def test_a_loop_without_a_pause_is_an_error() -> None:
    """What comes round and round without letting time pass is found."""

    async def main() -> None:
        while True:
            await asyncio.gather(asyncio.sleep(0))

    with pytest.raises(RuntimeError, match="stands still"):
        run_virtual(main())
