"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else can happen.

A day of timers runs in as long as its work takes, and the same way every time. Nothing may wait for another thread or
a socket: while a thread works, timers would go off in no time. So SQLite runs inline here, still the real one, on a
real file, and so does what is large.
"""

import asyncio
import selectors
import sqlite3
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from math import floor
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import aiosqlite

from gateway.core.memory import Memory

__all__ = ["EPOCH", "InlineConnection", "VirtualClock", "run_virtual"]

T = TypeVar("T")

EPOCH = 1_777_460_000_000
"""What the wall clock (ms) shows when a virtual loop starts."""

_TURNS_PER_INSTANT = 200_000
"""A loop that turns so often without time passing will do so for ever."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in its own time, from 0 s."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self._now_s

    def jump(self, seconds: float) -> None:
        self._now_s += seconds


class _Jump(selectors.SelectSelector):
    """Stands where the loop would sleep: lets the time pass at once, and looks at no socket."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and no timer is set: this would hang for ever")
        self._turns += 1
        if timeout > 0:
            self._turns = 0
            self._loop.jump(timeout)
        if self._turns > _TURNS_PER_INSTANT:
            raise RuntimeError("the time stands still: something comes round and round without a pause")
        return []


class VirtualClock:
    """``gateway.core.clock.Clock`` on the running virtual loop."""

    def __init__(self) -> None:
        self._set_by_ms = 0

    def now(self) -> int:
        return EPOCH + floor(self.monotonic() * 1000 + 1e-6) + self._set_by_ms

    def step(self, seconds: float) -> None:
        """Set the wall clock forward, or back."""
        self._set_by_ms += round(seconds * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class _Connection(sqlite3.Connection):
    """As the store opens it, but without waiting for the disk."""

    broken: str | None = None

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if self.broken is not None and sql.startswith("BEGIN"):
            raise sqlite3.OperationalError(self.broken)
        # A killed process loses nothing that the operating system has; only a power cut would.
        return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), *parameters)


class InlineConnection:
    """What the store uses of ``aiosqlite.Connection``, without its thread."""

    def __init__(self, path: Path, **options: Any) -> None:
        self._conn: _Connection = sqlite3.connect(path, factory=_Connection, **options)
        self.latency_s: Callable[[], float] = lambda: 0.0
        """How long the way back from the database takes: what it did is done by then."""
        self.after: Callable[[], None] = lambda: None
        """Called after everything that it did."""
        self._told_at = 0.0

    @property
    def broken(self) -> str | None:
        """Why transactions fail from now on; None: they do not."""
        return self._conn.broken

    @broken.setter
    def broken(self, why: str | None) -> None:
        self._conn.broken = why

    def __await__(self) -> Generator[Any, None, "InlineConnection"]:
        yield from asyncio.sleep(0).__await__()
        return self

    @property
    def _tx(self) -> "InlineConnection":
        return self

    def put_nowait(self, work: "tuple[asyncio.Future[T], Callable[[], T]]") -> None:
        """Stand where the thread's queue is: do it now, and tell of it later.

        As with the thread others run meanwhile, and a caller that is cancelled then has written all the same.
        """
        future, function = work
        tell: Callable[[Any], None]
        try:
            told, tell = function(), future.set_result
        except Exception as exc:  # noqa: BLE001 - it is the caller's
            told, tell = exc, future.set_exception
        self.after()
        loop = asyncio.get_running_loop()
        self._told_at = max(self._told_at, loop.time() + self.latency_s())  # in the thread's order
        loop.call_at(self._told_at, lambda: future.done() or tell(told))

    async def executescript(self, script: str) -> sqlite3.Cursor:
        return self._conn.executescript(script)

    async def close(self) -> None:
        self._conn.close()

    def kill(self) -> None:
        """Let the file go as a killed process does: what is not committed is gone, and nothing works any more."""
        self._conn.close()


async def _work(_memory: Memory, function: Callable[..., T], *args: Any) -> T:
    """Stands where ``Memory.work`` has a thread for it."""
    await asyncio.sleep(0)  # others run meanwhile
    return function(*args)


@contextmanager
def _inline() -> Iterator[None]:
    with mock.patch.object(aiosqlite, "connect", InlineConnection), mock.patch.object(Memory, "work", _work):
        yield


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time, and cancel what it leaves behind."""
    with _inline(), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
