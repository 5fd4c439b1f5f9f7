"""Group commit: the one writer takes every write that waits into one transaction.

Owns the commits and their writes' futures; knows no SQL. The ports submit, and say how each kind of write is applied in
a transaction, which is the engine's; ``writes`` has those that wait.

Each commit waits for a disk: with SQLite one row a commit was measured at 2,800 rows/s, 256 at 285,000.

Where one write is at fault, or wants what somebody else has locked, the others are written all the same: what has
failed is tried again in halves.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple, Protocol

import structlog

from gateway.core.errors import StoreDefect, StoreError, StoreLocked, StoreRefused
from gateway.store.engine import Blame, Touched, Work
from gateway.store.writes import BATCH, Kind, Wish, WriteRow

_log = structlog.get_logger()

_QUIET_TURNS = 3
"""Turns of the event loop in a row that bring nobody, after which a batch is closed. Each turn brings a request or two,
and who got an answer from the last commit needs a moment for the next request. Of 32 clients 21 shared a commit where
it waited for 16 turns in all and for no quiet one; 32 do now, at an eighth less processor time for each."""
_GATHER_S = 0.005
"""A batch is closed so long after its first write at the latest: turns may take milliseconds of other work."""
_WAITED_S = 0.002
"""What has waited so long as a commit is told of is begun there, and waits for no turn more. Under attack, of 14 ms
from one transaction's end to the next one's seven went by in the loop, and a create waits for two or three of them."""
_PARTS_S = 3.0
"""So long writes that share somebody's lock are tried in ever smaller parts: in a batch of 512 one is found in two
seconds. Where a whole table is locked there is none to find."""
_HASTY_S = 2 * StoreLocked.longest_pause_s
"""So long after somebody's lock was met none is waited for for long: who comes again must not hold up all others."""
_LOCKED_S = 5.0
"""Where nothing but locks has been met for so long, the store fails, and not a write or two."""
_STEADY_S = 30.0
"""What fails again within so long after it had recovered has recovered only once nothing has failed for so long: on a
disk that is nearly full small writes find room, and large ones do not."""


_Applied = list[tuple[Kind, list[tuple[Wish, Any]]]]
"""Of each kind its writes, and what each of them answers."""


class Transaction(Protocol):
    """``Engine.transaction``."""

    def __call__(
        self, make: Callable[[], Work[_Applied]], committed: Callable[[_Applied, bool], None], *, hasty: bool
    ) -> Coroutine[Any, Any, object]: ...


class _Commit(NamedTuple):
    """A transaction that may have begun."""

    batch: list[Wish]
    end: Coroutine[Any, Any, object]


class Writer:
    """The queue in front of the one write transaction."""

    def __init__(
        self,
        kinds: Sequence[Kind],
        transaction: Transaction,
        blame: Callable[[Exception], Blame],
        lock_all: Callable[[Iterable[Touched]], Work[None]],
    ) -> None:
        """Apply the kinds within a transaction in the order given; they may be given until the first write."""
        self._lock_all = lock_all
        self._kinds = kinds
        self._transaction = transaction
        self._blame = blame
        self._waiting = WriteRow()
        self._waiting_since = -inf  # the loop's time, of the first of them
        self._parts: deque[list[Wish]] = deque()  # of the batch that is written, which are still to come
        self._current: _Commit | None = None
        self._next: _Commit | None = None  # begun as the one before was told of
        self._wake = asyncio.Event()
        self._closing = False
        self._told = False  # that it fails, here: an engine that raises StoreError has told of it
        self._hasty_until = -inf
        self._locked_since: float | None = None  # nothing was written since, and somebody's lock was met
        self._recovered_at = -inf
        self._flaps = False
        self._steady: asyncio.TimerHandle | None = None  # while it flaps and the last write did not fail
        self._task: asyncio.Task[None] | None = None
        self.failing: str | None = None
        """Why the last transaction failed; None once one has written something: one that did not needs no disk.

        Where some writes fail and others do not, why the last of these did, until none has for a while."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="store-writer")

    async def close(self) -> None:
        """Commit what waits, then stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        self._end_wait()

    async def submit(self, kind: Kind, item: Any, rows: int = 1) -> Any:
        """Return the write's result once it is durable; ``rows`` is how much of a transaction it takes, in small rows.

        A caller that is cancelled meanwhile does not take its write back. Raises StoreError: nothing was written.
        """
        if self._closing or self._task is None or self._task.done():
            raise StoreError("The store is closed: the gateway is shutting down.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not self._waiting:
            self._waiting_since = loop.time()
        self._waiting.add(Wish(kind, item, rows, future))
        self._wake.set()
        return await future

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting or self._next is not None:
                    if self._next is None:
                        await self._gather()
                        self._next = self._begin(self._waiting.batch())
                    self._current, self._next = self._next, None
                    await self._write()
                    self._current = None
                if self._closing:
                    return
        finally:  # after a defect nobody may wait for ever
            left = [self._waiting.all(), *self._parts]
            for begun in filter(None, (self._current, self._next)):
                begun.end.close()
                left.append(begun.batch)
            for batch in left:
                _fail(batch, StoreError("The store's writer has ended. What was to be stored may not be."))

    async def _gather(self) -> None:
        """Let whoever is about to write join the batch, until a few turns in a row bring nobody or it is full."""
        quiet = 0
        while quiet < _QUIET_TURNS and not self._has_waited(_GATHER_S):
            known = self._waiting.rows
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._waiting.rows == known else 0

    def _has_waited(self, for_s: float) -> bool:
        """Whether those who wait have done so for so long, or are enough."""
        return self._waiting.rows >= BATCH or asyncio.get_running_loop().time() >= self._waiting_since + for_s

    async def _write(self) -> None:
        """Write the current batch; one write that cannot be stored must not take the others down with it."""
        parts, until = self._parts, inf
        while self._current is not None:
            part = self._current.batch
            try:
                await self._current.end
            except Exception as exc:  # noqa: BLE001 - the writer must outlive whatever a transaction raises
                blame = self._blame(exc)
                if part[0].kind.alone or blame is Blame.DATABASES:
                    self._failed(part, exc)
                    self._waiting.put_back([write for rest in parts for write in rest])
                    parts.clear()
                    return
                now = asyncio.get_running_loop().time()
                if blame is Blame.LOCKS:
                    until, self._hasty_until = min(until, now + _PARTS_S), now + _HASTY_S
                if len(part) > 1 and (blame is not Blame.LOCKS or now < until):
                    middle = len(part) // 2
                    parts += (part[:middle], part[middle:])
                elif blame is Blame.LOCKS:
                    self._locked(part, exc, now)
                else:
                    _refuse(part, exc, blame)
            self._current = self._begin(parts.popleft()) if parts else None

    def _locked(self, part: list[Wish], exc: Exception, now: float) -> None:
        _log.warning("store.locked", writes=len(part), kind=part[0].kind.name, error=str(exc))
        _fail(part, StoreLocked(str(exc), reason="slow"))
        if self._locked_since is None:
            self._locked_since = now
        elif now - self._locked_since > _LOCKED_S:
            self._told, self.failing = True, f"each write meets somebody else's lock: {exc}"

    def _failed(self, batch: list[Wish], exc: Exception) -> None:
        self._end_wait()
        now = asyncio.get_running_loop().time()
        # What an engine raises has been judged by it: a server that was away twice is there all the same.
        self._flaps |= now < self._recovered_at + _STEADY_S and not isinstance(exc, StoreError)
        known, self.failing = self.failing, f"{'some writes fail' if self._flaps else 'the last write failed'}: {exc}"
        if batch[0].kind.alone:
            # What waits was asked for as if this had been done.
            batch = [*batch, *self._waiting.all()]
        if isinstance(exc, StoreError) and exc.reason is not None:
            _fail(batch, type(exc)(exc.message, reason=exc.reason))  # which says all, and what is known of the write
        else:
            _fail(batch, StoreError(f"The database could not write ({exc}). Nothing was stored."))
        if self.failing != known and not isinstance(exc, StoreError):  # it fails many times a second while that lasts
            self._told = True
            _log.error("store.write_failed", writes=len(batch), error=_words(exc))

    def _recovers(self) -> None:
        self._end_wait()
        self.failing, self._flaps, self._recovered_at = None, False, asyncio.get_running_loop().time()
        if self._told:
            self._told = False
            _log.info("store.recovered")

    def _end_wait(self) -> None:
        if self._steady is not None:
            self._steady.cancel()
            self._steady = None

    def _begin(self, batch: list[Wish]) -> _Commit:
        """Begin a batch's transaction; where that cannot be, it fails as any other."""
        try:
            return _Commit(batch, self._transacted(batch))
        except Exception as exc:  # noqa: BLE001 - it is judged where the others are
            return _Commit(batch, _raise(exc))

    def _transacted(self, batch: list[Wish]) -> Coroutine[Any, Any, object]:
        by_kind: defaultdict[Kind, list[Wish]] = defaultdict(list)
        for write in batch:
            by_kind[write.kind].append(write)
        groups = [(kind, by_kind[kind]) for kind in self._kinds if kind in by_kind]

        def work() -> Work[_Applied]:
            applied: _Applied = []
            if len(groups) > 1 or (groups[0][0].singly and len(batch) > 1):
                yield from self._lock_all(_touched(groups))
            for kind, group in groups:
                answers = yield from kind.apply([write.item for write in group])
                applied.append((kind, list(zip(group, answers or [None] * len(group), strict=True))))
            return applied

        hasty = asyncio.get_running_loop().time() < self._hasty_until
        return self._transaction(work, self._committed, hasty=hasty)

    def _committed(self, applied: _Applied, wrote: bool) -> None:
        """Hear of a commit as soon as it is durable: what follows from it is done, and its writes' callers go on."""
        loop = asyncio.get_running_loop()
        for kind, written in applied:
            try:
                if kind.committed is not None:
                    kind.committed([write.item for write, _ in written], [answer for _, answer in written])
            except Exception:  # noqa: BLE001 - a defect; what is on disk must not be said to have failed
                _log.exception("store.follow_up_failed", kind=kind.name)
            finally:
                for write, answer in written:
                    if not write.future.done():
                        write.future.set_result(answer)
        if wrote:
            self._locked_since = None
            if self._flaps and self._steady is None:
                self._steady = loop.call_later(_STEADY_S, self._recovers)
            elif not self._flaps and self.failing is not None:
                with suppress(Exception):  # a logger's: what is on disk must not be written again
                    self._recovers()
        # Here, and not turns later. Where there is one already it is this one, and the writer has its turn yet to come.
        if self._next is None and not self._parts and self._waiting and self._has_waited(_WAITED_S):
            self._next = self._begin(self._waiting.batch())


async def _raise(exc: Exception) -> None:
    raise exc


def _touched(groups: Iterable[tuple[Kind, list[Wish]]]) -> Iterator[Touched]:
    """Yield what each statement or so of these touches, in their order."""
    for kind, group in groups:
        if kind.touches is None:
            yield Touched()
        else:
            items = [write.item for write in group]
            yield from map(kind.touches, ([item] for item in items) if kind.singly else (items,))


def _refuse(part: list[Wish], exc: Exception, blame: Blame) -> None:
    """Tell a write's caller that it cannot be stored, and whose fault that is."""
    kind = part[0].kind.name
    if blame is Blame.VALUES:
        _fail(part, StoreRefused(f"The database refused a write ({exc})."))
        _log.error("store.write_refused", kind=kind, error=_words(exc))
    else:
        _fail(part, StoreDefect("The gateway failed on a write, and its log says why. Nothing was stored."))
        _log.error("store.write_defect", kind=kind, exc_info=exc)


def _words(exc: Exception) -> str:
    """Return what an error says; its repr may hold the values that it complains of."""
    return f"{type(exc).__name__}: {exc}"


def _fail(batch: Iterable[Wish], error: StoreError) -> None:
    for write in batch:
        if not write.future.done():
            write.future.set_exception(error)
