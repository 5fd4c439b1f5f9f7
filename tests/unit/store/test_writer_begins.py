"""The store's writer where transactions begin as they are made: when the next one does, and who waits for which."""

import asyncio
import gc
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from typing import Any

import pytest

from gateway.core.errors import StoreError
from gateway.store.engine import Work
from gateway.store.sqlite.engine import drive
from gateway.store.writer import Writer
from gateway.store.writes import BATCH, Kind
from tests.transactions import blame, no_locks


class _Eager:
    """Transactions that begin when they are made, as SQLite's do; each is told of, and ends, when it is said so."""

    def __init__(self) -> None:
        self.made: list[tuple[Callable[[], Work[Any]], Callable[[Any, bool], None], asyncio.Future[None]]] = []

    def __call__(self, make: Any, committed: Any, *, hasty: bool) -> Coroutine[Any, Any, None]:
        result: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.made.append((make, committed, result))

        async def end() -> None:
            await result

        return end()

    def tell(self, number: int) -> None:
        make, committed, _ = self.made[number]
        with closing(sqlite3.connect(":memory:")) as db:  # its work has no steps
            committed(drive(db, make()), True)

    def end(self, number: int, exc: Exception | None = None) -> None:
        result = self.made[number][2]
        result.set_result(None) if exc is None else result.set_exception(exc)


def _nothing(items: Sequence[Any]) -> Work[Sequence[Any]]:
    yield from ()
    return items


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.filterwarnings("error")
async def test_a_commit_that_is_told_of_before_its_turn_is_waited_for_all_the_same() -> None:
    """The thread's two notices of one transaction may come in two turns: by the second the next one may be through."""
    eager, kind = _Eager(), Kind("some", _nothing)
    writer = Writer((kind,), eager, blame, no_locks)
    writer.start()
    writes = [asyncio.create_task(writer.submit(kind, number, BATCH)) for number in range(4)]
    await _settled()
    eager.tell(0)
    assert len(eager.made) == 2
    eager.end(0)
    eager.tell(1)
    eager.end(1)
    assert len(eager.made) == 2
    for number in (2, 3):
        await _settled()
        eager.tell(number)
        eager.end(number)
    assert await asyncio.gather(*writes) == [0, 1, 2, 3]
    await writer.close()
    gc.collect()  # what is never awaited warns by then


async def test_what_waits_is_not_begun_between_the_parts_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch one of whose writes is refused is written in parts, all of them before what has come since."""
    monkeypatch.setattr("gateway.store.writer._WAITED_S", 0.0)
    eager, kind = _Eager(), Kind("some", _nothing)
    writer = Writer((kind,), eager, blame, no_locks)
    writer.start()
    writes = [asyncio.create_task(writer.submit(kind, number)) for number in range(2)]
    await _settled()
    writes.append(asyncio.create_task(writer.submit(kind, 2)))
    await _settled()
    eager.end(0, sqlite3.IntegrityError("CHECK"))
    await _settled()
    for number in (1, 2, 3):  # the two parts, and then what has come since
        assert len(eager.made) == number + 1
        eager.tell(number)
        assert len(eager.made) == (4 if number == 2 else number + 1)
        eager.end(number)
        await _settled()
    assert await asyncio.gather(*writes) == [0, 1, 2]
    await writer.close()


@pytest.mark.parametrize("told", [True, False])
async def test_a_transaction_that_cannot_be_begun_fails_as_others_do(
    monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Where memory has run out, as the one before is told of or later: its callers hear of it; the writer goes on."""
    monkeypatch.setattr("gateway.store.writer._WAITED_S", 0.0 if told else 3600.0)
    eager, kind = _Eager(), Kind("some", _nothing)
    lacking = [False, True, False]

    def begin(make: Any, committed: Any, *, hasty: bool) -> Coroutine[Any, Any, None]:
        if lacking.pop(0):
            raise MemoryError
        return eager(make, committed, hasty=hasty)

    writer = Writer((kind,), begin, blame, no_locks)
    writer.start()
    first = asyncio.create_task(writer.submit(kind, 1))
    await _settled()
    second = asyncio.create_task(writer.submit(kind, 2))
    await asyncio.sleep(0)
    eager.tell(0)
    eager.end(0)
    assert await first == 1
    with pytest.raises(StoreError, match="could not write"):
        await second
    third = asyncio.create_task(writer.submit(kind, 3))
    await _settled()
    eager.tell(1)
    eager.end(1)
    assert await third == 3
    await writer.close()


@pytest.mark.parametrize("when", ["one runs", "the next one is begun", "a part runs"])
async def test_nobody_waits_for_a_writer_that_was_ended(when: str) -> None:
    """All hear of it: whose transaction runs, whose is begun, whose part of a batch is still to come, and who waits."""
    eager, kind = _Eager(), Kind("some", _nothing)
    writer = Writer((kind,), eager, blame, no_locks)
    writer.start()
    writes = [asyncio.create_task(writer.submit(kind, number, BATCH // 2)) for number in range(6)]
    await _settled()
    stored = 0
    if when == "the next one is begun":
        eager.tell(0)
        stored = 2
    elif when == "a part runs":
        eager.end(0, sqlite3.IntegrityError("CHECK"))
        await _settled()
    assert len(eager.made) == (1 if when == "one runs" else 2)
    assert writer._task is not None
    writer._task.cancel()
    await asyncio.wait([writer._task, *writes])
    for number, write in enumerate(writes):
        if number < stored:
            assert await write == number
        else:
            with pytest.raises(StoreError, match="has ended"):
                await write
