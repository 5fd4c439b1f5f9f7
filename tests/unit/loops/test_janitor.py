"""Retention: what is deleted and when, a bounded number at a time; and that a failing store is tried again."""

from typing import cast

import pytest

from gateway.core.errors import StoreError
from gateway.loops.janitor import Janitor
from gateway.loops.supervisor import HEARTBEAT_S
from gateway.store import Housekeeping
from tests.virtualtime import VirtualClock, run_virtual

DAY_MS = 86_400_000
NOW = 1_777_460_000_000


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> int:
        return NOW + round((self.seconds - 1000) * 1000)

    def monotonic(self) -> float:
        return self.seconds


class Shelf:
    """A store of which so many callbacks and creates may go, and tasks that were read."""

    def __init__(self, old: int = 0, creates: int = 0, unread: int = 0) -> None:
        self.old = old
        self.creates = creates
        self.unread = unread
        self.creates_pruned: list[tuple[int, int, int]] = []
        self.read_before: list[int] = []
        self.failing: str | None = None
        self.pruned: list[tuple[int, int, int]] = []
        self.probes = 0
        self.looks = 0
        self.leads: int | None = 0
        self.led: list[tuple[str, float]] = []
        self.resigned: list[str] = []
        self.loaded: list[str] = []

    async def lead(self, name: str, ttl_s: float) -> int | None:
        self.led.append((name, ttl_s))
        return self.leads

    async def resign(self, name: str) -> None:
        self.resigned.append(name)

    async def look(self) -> None:
        self.looks += 1

    async def load(self, key: str) -> bytes | None:
        self.loaded.append(key)
        return b""

    async def prune(self, ended_before: int, dead_before: int, limit: int) -> int:
        self.pruned.append((ended_before, dead_before, limit))
        count = min(self.old, limit)
        self.old -= count
        return count

    async def prune_reads(self, now: int, read_before: int, limit: int) -> int:
        assert limit == 500
        self.read_before.append(read_before - now)
        count = min(self.unread, limit)
        self.unread -= count
        return count

    async def prune_creates(self, before: int, most: int, limit: int) -> int:
        self.creates_pruned.append((before, most, limit))
        count = min(self.creates, limit)
        self.creates -= count
        return count

    async def probe(self) -> None:
        self.probes += 1


def janitor(shelf: Shelf, clock: Clock, retention_days: float = 7.0) -> Janitor:
    return Janitor(cast("Housekeeping", shelf), clock, retention_days)


async def test_what_ended_long_ago_goes_and_dead_letters_stay_three_times_as_long() -> None:
    """The retention counts back from now; somebody may yet redeliver a dead letter."""
    shelf, clock = Shelf(), Clock()
    await janitor(shelf, clock, 0.5).run_once()
    assert shelf.pruned == [(NOW - DAY_MS // 2, NOW - 3 * DAY_MS // 2, 500)]


async def test_a_full_batch_is_followed_by_the_next_at_once() -> None:
    """Many go in batches with no pause between them; when the last one was not full, there are ten minutes of rest."""
    shelf, clock = Shelf(old=1000), Clock()
    loop = janitor(shelf, clock)
    assert [await loop.run_once() for _ in range(3)] == [0.0, 0.0, HEARTBEAT_S]
    clock.seconds += 599.9
    assert await loop.run_once() == HEARTBEAT_S
    assert len(shelf.pruned) == 3
    clock.seconds += 0.1
    await loop.run_once()
    assert len(shelf.pruned) == 4


async def test_what_was_read_goes_ten_minutes_after_the_last_read() -> None:
    """Looked for every minute, and in batches: what is watched for 90 s, and then kept for 450, is gone."""
    shelf, clock = Shelf(unread=1000), Clock()
    loop = janitor(shelf, clock)
    assert [await loop.run_once() for _ in range(3)] == [0.0, 0.0, HEARTBEAT_S]
    clock.seconds += 59.9
    assert await loop.run_once() == HEARTBEAT_S
    assert shelf.read_before == [-450_000] * 3
    clock.seconds += 0.1
    await loop.run_once()
    assert shelf.read_before == [-450_000] * 4
    assert len(shelf.pruned) == 1, "callbacks have their own time"


async def test_creates_go_after_a_day_whatever_the_retention() -> None:
    """So long one may be repeated; of each client the last 50,000. They go in batches as callbacks do."""
    shelf, clock = Shelf(creates=1000), Clock()
    loop = janitor(shelf, clock, 0.5)
    assert [await loop.run_once() for _ in range(4)] == [0.0, 0.0, HEARTBEAT_S, HEARTBEAT_S]
    assert shelf.creates_pruned == [(NOW - DAY_MS, 50_000, 500)] * 3


async def test_a_failing_store_is_tried_every_round() -> None:
    """Nobody else may write while the gateway is not ready; a store that is well is not written to for nothing."""
    shelf, clock = Shelf(), Clock()
    loop = janitor(shelf, clock)
    await loop.run_once()
    assert shelf.probes == 0
    shelf.failing = "the last write failed: disk full"
    await loop.run_once()
    await loop.run_once()
    assert (shelf.probes, shelf.loaded) == (2, ["probe"] * 2)


async def test_every_round_looks_whether_the_file_is_still_there() -> None:
    """A gateway with nothing to write must not find out only with the next registration; nothing else is done then."""
    shelf, clock = Shelf(), Clock()
    loop = janitor(shelf, clock)
    await loop.run_once()
    await loop.run_once()
    assert shelf.looks == 2

    async def gone() -> None:
        raise StoreError("The database file has been removed or moved.")

    shelf.look = gone  # type: ignore[method-assign]
    clock.seconds += 700
    with pytest.raises(StoreError):
        await loop.run_once()
    assert len(shelf.pruned) == 1


def test_it_waits_as_long_as_it_is_told_to() -> None:
    """Nothing wakes it: what may go may go a little later."""

    async def main() -> float:
        loop = Janitor(cast("Housekeeping", Shelf()), VirtualClock(), 7.0)
        await loop.wait(12.5)
        await loop.drain(10)
        return VirtualClock().monotonic()

    assert run_virtual(main()) == 12.5


async def test_one_replica_deletes_at_a_time() -> None:
    """While another does, nothing is; each looks after its own connection all the same, and the last one resigns."""
    shelf, clock = Shelf(old=3), Clock()
    shelf.leads = None
    loop = janitor(shelf, clock, 7.0)
    assert await loop.run_once() == HEARTBEAT_S
    assert (shelf.pruned, shelf.read_before, shelf.creates_pruned, shelf.looks) == ([], [], [], 1)
    shelf.leads = 3
    await loop.run_once()
    assert len(shelf.pruned) == 1
    assert shelf.led == [("janitor", 3 * HEARTBEAT_S)] * 2, "for longer than until it comes round again"
    await loop.drain(0)
    assert shelf.resigned == ["janitor"]
