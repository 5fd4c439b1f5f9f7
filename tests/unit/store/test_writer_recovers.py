"""When a store's writer fails, and when it has recovered: what is told of it, and how long others' locks count."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable

import pytest
from structlog.testing import capture_logs

from gateway.core.errors import StoreError, StoreLocked
from gateway.store.writer import Writer
from gateway.store.writes import Kind
from tests.transactions import Transactions, blame, no_locks, others_blame

FULL = sqlite3.OperationalError("database or disk is full")
GONE = sqlite3.OperationalError("disk I/O error")


class Steered:
    """A writer, and the time that its event loop tells."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.due: list[tuple[float, Callable[[], object]]] = []
        self.transactions = Transactions()
        self.transactions.go_on.set()
        self._kind = Kind("some", self.transactions.apply)
        self.writer = Writer((self._kind,), self.transactions, others_blame, no_locks)

    @property
    def failing(self) -> str | None:
        return self.writer.failing

    def call_later(self, delay_s: float, call: Callable[[], object]) -> "Steered":
        self.due.append((self.now_s + delay_s, call))
        return self

    def cancel(self) -> None:
        self.due.clear()

    async def fails(self, trouble: Exception) -> None:
        self.transactions._failing.append(trouble)
        with pytest.raises(StoreError):
            await self.writer.submit(self._kind, 1)

    async def writes(self) -> None:
        assert await self.writer.submit(self._kind, 1) == 1


@pytest.fixture
async def steered(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Steered]:
    steered = Steered()
    with monkeypatch.context() as patched:
        loop = asyncio.get_running_loop()
        patched.setattr("gateway.store.writer._GATHER_S", 0.0)
        patched.setattr(loop, "time", lambda: steered.now_s)
        patched.setattr(loop, "call_later", steered.call_later)
        steered.writer.start()
        yield steered
        await steered.writer.close()


async def test_a_trouble_that_lasts_is_told_once() -> None:
    """However many writes meet it: it is told again where it is another, or has come back; its end is told, too."""
    full, gone = sqlite3.OperationalError("database or disk is full"), sqlite3.OperationalError("disk I/O error")
    transactions = Transactions(full, full, gone, gone)
    transactions.go_on.set()
    kind = Kind("some", transactions.apply)
    writer = Writer((kind,), transactions, blame, no_locks)
    writer.start()
    with capture_logs() as log:
        for _ in range(4):
            with pytest.raises(StoreError):
                await writer.submit(kind, 1)
        assert await writer.submit(kind, 1) == 1
        transactions._failing.append(gone)
        with pytest.raises(StoreError):
            await writer.submit(kind, 1)
    assert [line.get("error", line["event"]) for line in log] == [
        "OperationalError: database or disk is full",
        "OperationalError: disk I/O error",
        "store.recovered",
        "OperationalError: disk I/O error",
    ]
    await writer.close()


async def test_what_fails_now_and_then_has_recovered_once_nothing_does(steered: Steered) -> None:
    """On a disk that is nearly full large writes fail between small ones: that is told, and its end, and no more."""
    with capture_logs() as log:
        for _ in range(20):
            await steered.fails(FULL)
            steered.now_s += 1
            await steered.writes()
            steered.now_s += 5
        assert steered.failing == "some writes fail: database or disk is full"
        ((at, recovers),) = steered.due
        assert at == steered.now_s - 5 + 30
        recovers()
    assert steered.failing is None
    failed, recovered = "store.write_failed", "store.recovered"
    assert [line["event"] for line in log] == [failed, recovered, failed, recovered]


@pytest.mark.parametrize(("later_s", "flaps"), [(29.9, True), (30.0, False)])
async def test_what_fails_half_a_minute_after_it_had_recovered_fails_anew(
    later_s: float, flaps: bool, steered: Steered
) -> None:
    """Then one write that finds room is its end."""
    await steered.fails(FULL)
    await steered.writes()
    steered.now_s += later_s
    await steered.fails(FULL)
    assert steered.failing == f"{'some writes fail' if flaps else 'the last write failed'}: {FULL}"
    await steered.writes()
    assert (steered.failing is not None) is flaps


async def test_what_failed_now_and_then_and_has_recovered_fails_like_any_other(steered: Steered) -> None:
    """Long after that, nothing is known of it any more."""
    for _ in range(2):
        await steered.fails(FULL)
        await steered.writes()
    ((at, recovers),) = steered.due
    steered.now_s = at
    recovers()
    steered.now_s += 3600
    await steered.fails(GONE)
    assert steered.failing == f"the last write failed: {GONE}"
    await steered.writes()
    assert steered.failing is None


async def test_what_an_engine_has_judged_does_not_fail_now_and_then(steered: Steered) -> None:
    """A server that was away twice is there all the same; and of what it has told of, the end is its own to tell."""
    await steered.fails(FULL)
    with capture_logs() as log:
        await steered.writes()
        for _ in range(2):
            await steered.fails(StoreError("The server is away."))
            assert steered.failing == "the last write failed: The server is away."
            await steered.writes()
            assert steered.failing is None
    assert [line["event"] for line in log] == ["store.recovered"]


@pytest.mark.parametrize(("later_s", "hasty"), [(63.9, True), (64.0, False)])
async def test_after_somebodys_lock_none_is_waited_for_for_a_minute(
    later_s: float, hasty: bool, steered: Steered
) -> None:
    """Who comes again comes sooner, and must not hold up all others once more."""
    await steered.fails(StoreLocked("somebody holds it"))
    steered.now_s += later_s
    await steered.writes()
    assert steered.transactions.hasty == [False, hasty]
