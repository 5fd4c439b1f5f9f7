"""Group commit: the one writer takes every write that waits into one transaction.

Owns the order of writes and their futures; knows no SQL. The ports submit, and say how each kind of write is applied in
a transaction, which is the engine's.

Each commit waits for a disk: with SQLite one row a commit was measured at 2,800 rows/s, 256 at 285,000.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any

import msgspec
import structlog

from gateway.core.errors import StoreDefect, StoreError, StoreRefused
from gateway.store.engine import Blame, Touched, Work

__all__ = ["Kind", "Writer"]

_log = structlog.get_logger()

_BATCH = 512  # rows per transaction or so, so that a reader never waits long
_QUIET_TURNS = 3
"""Turns of the event loop in a row that bring nobody, after which a batch is closed. Each turn brings a request or two,
and who got an answer from the last commit needs a moment for the next request. Of 32 clients 21 shared a commit where
it waited for 16 turns in all and for no quiet one; 32 do now, at an eighth less processor time for each."""
_GATHER_S = 0.005  # a batch is closed after that at the latest: turns may take milliseconds of other work


_Applied = list[Sequence[Any]]
"""What each kind of write answers."""

Transaction = Callable[[Callable[[], Work[_Applied]]], Awaitable[tuple[_Applied, bool]]]
"""``Engine.transaction``."""


class Kind(msgspec.Struct, frozen=True, eq=False):
    """A kind of write: how a batch of it is applied inside a transaction, and what follows the commit."""

    name: str
    apply: Callable[[Sequence[Any]], Work[Sequence[Any] | None]]
    """Takes the items, returns as many results, if any. May run in the database's thread, and several times."""
    committed: Callable[[Sequence[Any], Sequence[Any]], None] | None = None
    """Called in the event loop with the items and the results once they are durable, before a next batch is begun."""
    touches: Callable[[Sequence[Any]], Touched] | None = None
    """Which tasks the items change, where any: they are locked first, unless only this kind's are, and it is applied
    first."""
    apart: bool = False
    """Whether it has a transaction of its own, as it finds out within it which tasks it changes."""
    alone: bool = False
    """Whether it shares its transaction with no write that was asked for earlier or later; later ones fail with it."""


class _Wish(msgspec.Struct, eq=False):
    kind: Kind
    item: Any
    rows: int
    future: "asyncio.Future[Any]"


class Writer:
    """The queue in front of the one write transaction."""

    def __init__(
        self,
        kinds: Sequence[Kind],
        transaction: Transaction,
        blame: Callable[[Exception], Blame],
        lock_all: Callable[[Collection[Touched]], Work[None]],
    ) -> None:
        """Apply the kinds within a transaction in the order given; they may be given until the first write."""
        self._lock_all = lock_all
        self._kinds = kinds
        self._transaction = transaction
        self._blame = blame
        self._waiting: deque[_Wish] = deque()
        self._waiting_rows = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self.failing: str | None = None
        """Why the last transaction failed; None once one has written something: one that did not needs no disk."""

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
        self._waiting.append(_Wish(kind, item, rows, future))
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

    def _next_batch(self) -> list[_Wish]:
        batch: list[_Wish] = []
        rows = 0
        while self._waiting and rows < _BATCH:
            if batch and (_by_itself(batch[0]) or _by_itself(self._waiting[0])):
                break
            batch.append(self._waiting.popleft())
            rows += batch[-1].rows
        self._waiting_rows -= rows
        return batch

    async def _write(self, batch: list[_Wish]) -> None:
        try:
            results = await self._commit(batch)
        except Exception as exc:  # noqa: BLE001 - the writer must outlive whatever a transaction raises
            blame = self._blame(exc)
            if batch[0].kind.alone or blame is Blame.DATABASES:
                self._failed(batch, exc)
            elif len(batch) > 1:
                # One write that cannot be stored must not take the others down with it.
                for write in batch:
                    await self._write([write])
            else:
                _refuse(batch[0], exc, blame)
        else:
            for write, result in results:
                if not write.future.done():
                    write.future.set_result(result)

    def _failed(self, batch: list[_Wish], exc: Exception) -> None:
        known, self.failing = self.failing, f"the last write failed: {exc}"
        if batch[0].kind.alone:
            # What waits was asked for as if this had been done.
            batch = [*batch, *self._waiting]
            self._waiting.clear()
            self._waiting_rows = 0
        if isinstance(exc, StoreError) and exc.reason is not None:
            _fail(batch, type(exc)(exc.message, reason=exc.reason))  # which says all, and what is known of the write
        else:
            _fail(batch, StoreError(f"The database could not write ({exc}). Nothing was stored."))
        if self.failing != known:  # it fails so many times a second while the trouble lasts
            _log.error("store.write_failed", writes=len(batch), error=repr(exc))

    async def _commit(self, batch: list[_Wish]) -> list[tuple[_Wish, Any]]:
        by_kind: defaultdict[Kind, list[_Wish]] = defaultdict(list)
        for write in batch:
            by_kind[write.kind].append(write)
        groups = [(kind, by_kind[kind]) for kind in self._kinds if kind in by_kind]

        def work() -> Work[_Applied]:
            applied: _Applied = []
            touched = [kind.touches([write.item for write in group]) for kind, group in groups if kind.touches]
            # Who comes first locks first by itself.
            if any(kind.touches for kind, _ in groups[1:]) or any(len(one.callbacks) > 1 for one in touched):
                yield from self._lock_all(touched)
            for kind, group in groups:
                answers = yield from kind.apply([write.item for write in group])
                applied.append(answers or [None] * len(group))
            return applied

        applied, wrote = await self._transaction(work)
        if wrote:
            self.failing = None
        results: list[tuple[_Wish, Any]] = []
        for (kind, group), answers in zip(groups, applied, strict=True):
            if kind.committed is not None:
                try:
                    kind.committed([write.item for write in group], answers)
                except Exception:  # noqa: BLE001 - a defect; what is on disk must not be said to have failed
                    _log.exception("store.follow_up_failed", kind=kind.name)
            results.extend(zip(group, answers, strict=True))
        return results


def _by_itself(write: _Wish) -> bool:
    return write.kind.alone or write.kind.apart


def _refuse(write: _Wish, exc: Exception, blame: Blame) -> None:
    """Tell a write's caller that it cannot be stored, and whose fault that is."""
    if blame is Blame.VALUES:
        _fail([write], StoreRefused(f"The database refused a write ({exc})."))
        _log.error("store.write_refused", kind=write.kind.name, error=repr(exc))
    else:
        _fail([write], StoreDefect("The gateway failed on a write, and its log says why. Nothing was stored."))
        _log.error("store.write_defect", kind=write.kind.name, exc_info=exc)


def _fail(batch: Iterable[_Wish], error: StoreError) -> None:
    for write in batch:
        if not write.future.done():
            write.future.set_exception(error)
