"""Who shares the connection and who has it alone: what waits for what, however they come, and whoever gives up."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from gateway.store.sqlite.connectionlock import ConnectionLock

LIMIT_S = 10.0


class Stage:
    """Sharers and loners by name, on one lock; each stays until it is let go."""

    def __init__(self) -> None:
        self.lock = ConnectionLock()
        self.inside: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._go: dict[str, asyncio.Event] = {}

    async def come(self, *names: str) -> None:
        """Let them ask for a turn, one after the other: a name that begins with a is alone."""
        for name in names:
            self._go[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._stay(name), name=name)
            await settle()

    async def leave(self, *names: str) -> None:
        for name in names:
            self._go[name].set()
            await settle()

    async def give_up(self, *names: str) -> None:
        for name in names:
            self.tasks[name].cancel()
        await settle()

    async def _stay(self, name: str) -> None:
        if name.startswith("a"):
            async with self.lock.alone():
                await self._inside(name)
        else:
            await self.lock.begin_share()
            try:
                await self._inside(name)
            finally:
                self.lock.end_share()

    async def _inside(self, name: str) -> None:
        self.inside.append(name)
        try:
            await self._go[name].wait()
        finally:
            self.inside.remove(name)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_share_do_so_together() -> None:
    """However many there are."""
    stage = Stage()
    sharers = [f"s{number}" for number in range(40)]
    await stage.come(*sharers)
    assert stage.inside == sharers


async def test_who_is_alone_is_so() -> None:
    """Whoever comes meanwhile waits."""
    stage = Stage()
    await stage.come("a1", "s1", "a2", "s2")
    assert stage.inside == ["a1"]


async def test_who_shares_waits_for_one_loner_at_most() -> None:
    """However many others wait before."""
    stage = Stage()
    await stage.come("a1", "a2", "s1", "a3", "s2", "s3")
    await stage.leave("a1")
    assert stage.inside == ["s1", "s2", "s3"]


async def test_a_loner_waits_for_those_within() -> None:
    """Who comes to share meanwhile waits behind it."""
    stage = Stage()
    await stage.come("s1", "s2", "a1", "s3", "a2")
    assert stage.inside == ["s1", "s2"]
    await stage.leave("s2", "s1")
    assert stage.inside == ["a1"]
    await stage.leave("a1")
    assert stage.inside == ["s3"]
    await stage.leave("s3")
    assert stage.inside == ["a2"]


@pytest.mark.parametrize("let_in", [False, True], ids=["while it waits", "at the moment at which it is let in"])
@pytest.mark.parametrize("who", ["a2", "s1"])
async def test_who_gives_up_keeps_nobody_waiting(who: str, let_in: bool) -> None:
    """Who comes after it has its turn as if it had not been there."""
    stage = Stage()
    begin, end = (
        (stage.lock.begin_share, stage.lock.end_share)
        if who == "a2"
        else (
            stage.lock.begin_alone,
            stage.lock.end_alone,
        )
    )
    await begin()
    await stage.come(who, "s9")
    if let_in:
        end()
        await stage.give_up(who)
    else:
        await stage.give_up(who)
        end()
        await settle()
    assert stage.inside == ["s9"]
    await stage.leave("s9")
    await stage.come("a3")
    assert stage.inside == ["a3"]


@pytest.mark.parametrize("seed", range(20))
async def test_everybody_has_a_turn_and_nobody_who_is_alone_has_company(seed: int) -> None:
    """However they come, stay and give up."""
    rng = random.Random(seed)
    lock = ConnectionLock()
    inside: list[str] = []
    done = 0

    async def stay(kind: str, begin: Callable[[], Awaitable[None]], end: Callable[[], None]) -> None:
        nonlocal done
        await begin()
        inside.append(kind)
        try:
            for _ in range(rng.randrange(4)):
                assert inside == ["a"] or "a" not in inside
                await asyncio.sleep(0)
            done += 1
        finally:
            inside.remove(kind)
            end()

    tasks: list[asyncio.Task[None]] = []
    for _ in range(300):
        alone = rng.random() < 0.3
        ways = ("a", lock.begin_alone, lock.end_alone) if alone else ("s", lock.begin_share, lock.end_share)
        tasks.append(asyncio.create_task(stay(*ways)))
        if rng.random() < 0.2:
            rng.choice(tasks).cancel()
        if rng.random() < 0.5:
            await asyncio.sleep(0)
    async with asyncio.timeout(LIMIT_S):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
    assert done > 200
    assert inside == []
    async with asyncio.timeout(LIMIT_S), lock.alone():
        pass
