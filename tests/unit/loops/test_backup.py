"""One backup at a time, whatever becomes of it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.core.clock import SystemClock
from gateway.core.errors import StoreError
from gateway.loops import janitor as module
from gateway.loops.janitor import Backups

PATH = Path("gateway.db.backup")


class SlowStore:
    """Makes backups that end when told, or fail."""

    def __init__(self) -> None:
        self.asked: list[Path] = []
        self.go_on = asyncio.Event()
        self.failure: StoreError | None = None

    async def backup(self, target: Path) -> int:
        self.asked.append(target)
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        return 4096


class Lines:
    """Takes the log lines."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.fields: list[dict[str, Any]] = []

    def info(self, event: str, **fields: Any) -> None:
        self.events.append(event)
        self.fields.append(fields)

    warning = error = info


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Lines:
    lines = Lines()
    monkeypatch.setattr(module, "_log", lines)
    return lines


async def test_one_at_a_time(log: Lines) -> None:
    """What is asked for while one is being made is refused, and said; afterwards the next one is made."""
    store = SlowStore()
    backups = Backups(store, SystemClock(), PATH)  # type: ignore[arg-type]
    for _ in range(2):
        backups.begin()
        await asyncio.sleep(0)
        backups.begin()
        store.go_on.set()
        assert backups._task is not None
        await backups._task
        store.go_on.clear()
    assert store.asked == [PATH] * 2
    assert log.events == ["backup.started", "backup.refused", "backup.finished"] * 2
    assert log.fields[2]["bytes"] == 4096


async def test_one_that_fails_is_said(log: Lines) -> None:
    """With the store's own words; the gateway goes on, and so may the next backup."""
    store = SlowStore()
    store.failure = StoreError("The disk is full.")
    store.go_on.set()
    backups = Backups(store, SystemClock(), PATH)  # type: ignore[arg-type]
    backups.begin()
    assert backups._task is not None
    await backups._task
    assert (log.events[-1], log.fields[-1]["error"]) == ("backup.failed", "The disk is full.")


async def test_the_end_gives_it_up(log: Lines) -> None:
    """The shutdown does not wait for it; without one there is nothing to give up."""
    backups = Backups(SlowStore(), SystemClock(), PATH)  # type: ignore[arg-type]
    await backups.stop()
    backups.begin()
    await asyncio.sleep(0)
    await backups.stop()
    assert log.events == ["backup.started"]


async def test_a_server_is_backed_up_with_its_own_means(log: Lines) -> None:
    """The log says so: nothing is made that looks like a backup and is none."""
    Backups(SlowStore(), SystemClock(), None).begin()  # type: ignore[arg-type]
    assert log.events == ["backup.refused"]
    assert "pg_dump" in log.fields[0]["reason"]
