"""Whose turn it is to read or to write: what waits for what, however they come, and whoever gives up."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from gateway.store.sqlite.connectionlock import ConnectionLock

LIMIT_S = 10.0


class Stage:
    """Readers and writers by name, on one lock; each stays until it is let go."""

    def __init__(self) -> None:
        self.lock = ConnectionLock()
        self.inside: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._go: dict[str, asyncio.Event] = {}

    async def come(self, *names: str) -> None:
        """Let them ask for a turn, one after the other: a name that begins with w writes."""
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
        if name.startswith("w"):
            async with self.lock.writing():
                await self._inside(name)
        else:
            await self.lock.begin_read()
            try:
                await self._inside(name)
            finally:
                self.lock.end_read()

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


async def test_those_who_read_do_so_together() -> None:
    """Nobody who reads waits for another who does, where nobody waits to write."""
    stage = Stage()
    await stage.come("r1", "r2", "r3")
    assert stage.inside == ["r1", "r2", "r3"]


async def test_who_writes_is_alone() -> None:
    """Whoever comes meanwhile waits."""
    stage = Stage()
    await stage.come("w1", "r1", "w2", "r2")
    assert stage.inside == ["w1"]


async def test_a_read_waits_for_one_write_at_most() -> None:
    """However many others wait to read before it, and to write."""
    stage = Stage()
    await stage.come("w1", "w2", "r1", "w3", "r2", "r3")
    await stage.leave("w1")
    assert stage.inside == ["r1", "r2", "r3"]


async def test_a_write_waits_for_one_turn_of_reads_at_most() -> None:
    """Who comes to read while others do waits behind it."""
    stage = Stage()
    await stage.come("r1", "r2", "w1", "r3", "w2")
    assert stage.inside == ["r1", "r2"]
    await stage.leave("r2", "r1")
    assert stage.inside == ["w1"]
    await stage.leave("w1")
    assert stage.inside == ["r3"]
    await stage.leave("r3")
    assert stage.inside == ["w2"]


async def test_so_many_reads_have_one_turn() -> None:
    """A crowd of them makes no write wait for long: the rest have the turn after it."""
    stage = Stage()
    readers = [f"r{number}" for number in range(40)]
    await stage.come("w1", "w2", *readers)
    await stage.leave("w1")
    assert stage.inside == readers[:16]
    await stage.leave(*readers[:16])
    assert stage.inside == ["w2"]
    await stage.leave("w2")
    assert stage.inside == readers[16:32]
    await stage.leave("r20")
    assert stage.inside == [*readers[16:20], *readers[21:33]], "nobody waits to write"


@pytest.mark.parametrize("let_in", [False, True], ids=["while it waits", "at the moment at which it is let in"])
@pytest.mark.parametrize("who", ["w2", "r1"])
async def test_who_gives_up_keeps_nobody_waiting(who: str, let_in: bool) -> None:
    """Who comes after it has its turn as if it had not been there."""
    stage = Stage()
    begin, end = (
        (stage.lock.begin_read, stage.lock.end_read)
        if who == "w2"
        else (
            stage.lock.begin_write,
            stage.lock.end_write,
        )
    )
    await begin()
    await stage.come(who, "r9")
    if let_in:
        end()
        await stage.give_up(who)
    else:
        await stage.give_up(who)
        end()
        await settle()
    assert stage.inside == ["r9"]
    await stage.leave("r9")
    await stage.come("w3")
    assert stage.inside == ["w3"]


@pytest.mark.parametrize("seed", range(20))
async def test_everybody_has_a_turn_and_nobody_writes_beside_others(seed: int) -> None:
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
                assert inside == ["w"] or "w" not in inside
                await asyncio.sleep(0)
            done += 1
        finally:
            inside.remove(kind)
            end()

    tasks: list[asyncio.Task[None]] = []
    for _ in range(300):
        write = rng.random() < 0.3
        ways = ("w", lock.begin_write, lock.end_write) if write else ("r", lock.begin_read, lock.end_read)
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
    async with asyncio.timeout(LIMIT_S), lock.writing():
        pass
