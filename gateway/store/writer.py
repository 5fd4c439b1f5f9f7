"""Group commit: the one writer takes every write that waits into one transaction.

Owns the order of writes and their futures; knows no SQL. The store submits, and hands over how a transaction is run and
how each kind of write is applied in it.

Why: with ``synchronous=FULL`` each commit waits for the disk. One row per commit was measured at 2,800 rows/s, 256 per
commit at 285,000.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec
import structlog

from gateway.errors import StoreError, StoreRefused

__all__ = ["Kind", "Writer"]

_log = structlog.get_logger()

_ONE_WRITES_FAULT = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    ValueError,  # text that is not UTF-8, or that the database gives back differently
    OverflowError,
    TypeError,
    AttributeError,
)
"""What a write's own values bring about; anything else is the database's trouble, and the next write's too."""

_BATCH = 512  # rows per transaction or so, so that a reader never waits long
_QUIET_TURNS = 3
"""Turns of the event loop in a row that bring nobody, after which a batch is closed. Each turn brings a request or two,
and who got an answer from the last commit needs a moment for the next request. Of 32 clients 21 shared a commit where
it waited for 16 turns in all and for no quiet one; 32 do now, at an eighth less processor time for each."""
_GATHER_S = 0.005  # a batch is closed after that at the latest: turns may take milliseconds of other work


Transaction = Callable[[Callable[[sqlite3.Connection], list[Sequence[Any]]]], Awaitable[list[Sequence[Any]]]]
"""Runs a function in the database's thread, and returns what it returned once that is durable."""


class Kind(msgspec.Struct, frozen=True, eq=False):
    """A kind of write: how a batch of it is applied inside a transaction, and what follows the commit."""

    name: str
    apply: Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
    """Takes the items, returns as many results. Runs in the database's thread, and touches nothing but the database."""
    committed: Callable[[Sequence[Any], Sequence[Any]], None] | None = None
    """Called in the event loop with the items and the results once they are durable, before a next batch is begun."""
    alone: bool = False
    """Whether it shares its transaction with no write that was asked for earlier or later; later ones fail with it."""


class _Write(msgspec.Struct, eq=False):
    kind: Kind
    item: Any
    rows: int
    future: "asyncio.Future[Any]"


class Writer:
    """The queue in front of the one write transaction."""

    def __init__(self, kinds: Sequence[Kind], transaction: Transaction) -> None:
        """Apply the kinds within a transaction in the order given."""
        self._kinds = tuple(kinds)
        self._transaction = transaction
        self._waiting: deque[_Write] = deque()
        self._waiting_rows = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self.failing: str | None = None
        """Why the last transaction failed; None once one succeeds."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="store-writer")

    async def close(self) -> None:
        """Commit what waits, then stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def submit(self, kind: Kind, item: Any, rows: int = 1) -> Any:
        """Return the write's result once it is durable; ``rows`` is how much of a transaction it takes.

        A caller that is cancelled meanwhile does not take its write back. Raises StoreError: nothing was written.
        """
        if self._closing or self._task is None or self._task.done():
            raise StoreError("The store is closed: the gateway is shutting down.")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(kind, item, rows, future))
        self._waiting_rows += rows
        self._wake.set()
        return await future

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    await self._gather()
                    await self._write(self._next_batch())
                if self._closing:
                    return
        finally:  # after a defect nobody may wait for ever
            _fail(self._waiting, StoreError("The store's writer has ended. Nothing was stored."))

    async def _gather(self) -> None:
        """Let whoever is about to write join the batch, until a few turns in a row bring nobody or it is full."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _GATHER_S
        quiet = 0
        while quiet < _QUIET_TURNS and self._waiting_rows < _BATCH and loop.time() < until:
            known = self._waiting_rows
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._waiting_rows == known else 0

    def _next_batch(self) -> list[_Write]:
        batch: list[_Write] = []
        rows = 0
        while self._waiting and rows < _BATCH and not (batch and (batch[0].kind.alone or self._waiting[0].kind.alone)):
            batch.append(self._waiting.popleft())
            rows += batch[-1].rows
        self._waiting_rows -= rows
        return batch

    async def _write(self, batch: list[_Write]) -> None:
        try:
            results = await self._commit(batch)
        except _ONE_WRITES_FAULT as exc:
            if len(batch) > 1:
                # One write that cannot be stored must not take the others down with it.
                for write in batch:
                    await self._write([write])
                return
            _fail(batch, StoreRefused(f"The database refused a write ({exc})."))
            _log.error("store.write_refused", kind=batch[0].kind.name, error=repr(exc))
        except Exception as exc:  # noqa: BLE001 - the writer must outlive whatever a transaction raises
            self.failing = f"the last write failed: {exc}"
            if batch[0].kind.alone:
                # What waits was asked for as if this had been done.
                batch = [*batch, *self._waiting]
                self._waiting.clear()
                self._waiting_rows = 0
            _fail(batch, StoreError(f"The database could not write ({exc}). Nothing was stored."))
            _log.error("store.write_failed", writes=len(batch), error=repr(exc))
        else:
            self.failing = None
            for write, result in results:
                if not write.future.done():
                    write.future.set_result(result)

    async def _commit(self, batch: list[_Write]) -> list[tuple[_Write, Any]]:
        groups = [(kind, group) for kind in self._kinds if (group := [w for w in batch if w.kind is kind])]

        def work(db: sqlite3.Connection) -> list[Sequence[Any]]:
            return [kind.apply(db, [write.item for write in group]) for kind, group in groups]

        applied = await self._transaction(work)
        results: list[tuple[_Write, Any]] = []
        for (kind, group), answers in zip(groups, applied, strict=True):
            if kind.committed is not None:
                try:
                    kind.committed([write.item for write in group], answers)
                except Exception:  # noqa: BLE001 - a defect; what is on disk must not be said to have failed
                    _log.exception("store.follow_up_failed", kind=kind.name)
            results.extend(zip(group, answers, strict=True))
        return results


def _fail(batch: Iterable[_Write], error: StoreError) -> None:
    for write in batch:
        if not write.future.done():
            write.future.set_exception(error)
