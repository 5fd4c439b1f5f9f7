"""Requests that are held until a task ends, over a registry that says when."""

import asyncio
import weakref
from typing import Any, cast

from gateway.api.tasks import Ends
from gateway.store import Registry
from tests.virtualtime import VirtualClock, run_virtual


class Found:
    """What a look finds of a task."""

    def __init__(self, *, runs: bool) -> None:
        self.runs = runs


class Settled:
    """A registry, of which only this is asked."""

    def __init__(self) -> None:
        self.now = asyncio.Event()

    async def wait_settled(self, seq: int, timeout_s: float) -> None:
        await self.now.wait()


def test_what_was_found_is_not_kept_while_it_waits() -> None:
    """It may have 64 KiB, thousands may wait, and the budget of memory does not count it."""

    async def main() -> None:
        registry, running = Settled(), True
        seen: list[weakref.ref[Found]] = []

        async def look() -> Found:
            found = Found(runs=running)
            seen.append(weakref.ref(found))
            return found

        clock = VirtualClock()
        ends = Ends(cast(Registry, registry), clock, asyncio.Event(), 15.0)
        held: asyncio.Task[Any] = asyncio.create_task(
            ends.wait(look, lambda found: 1 if found.runs else None, clock.monotonic() + 60)
        )
        await asyncio.sleep(1)
        assert [one() for one in seen] == [None, None]
        running = False
        registry.now.set()
        assert not (await held).runs

    run_virtual(main())


def test_what_another_process_has_ended_is_found_in_time() -> None:
    """Nobody tells of it here: it is looked for, and no more often than is to be."""

    async def main() -> None:
        looks = 0

        async def look() -> Found:
            nonlocal looks
            looks += 1
            return Found(runs=clock.monotonic() < 9.5)

        class Untold(Settled):
            async def wait_settled(self, seq: int, timeout_s: float) -> None:
                await asyncio.sleep(timeout_s)

        clock = VirtualClock()
        ends = Ends(cast(Registry, Untold()), clock, asyncio.Event(), 1.0)
        found = await ends.wait(look, lambda found: 1 if found.runs else None, clock.monotonic() + 60)
        assert (found.runs, clock.monotonic()) == (False, 10.0)
        assert looks <= 2 * 10 + 1

    run_virtual(main())
