"""Operator events in the database: one small value, which each change replaces within its transaction.

Owns how the value is read and changed; what a change is ``core.eventledger`` says. Called through
``gateway.store.Events``, and by the outbox, which notes what dies in the transaction that records it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from gateway.core.eventledger import Died, Ledger
from gateway.core.model import AttemptRecord, Lane
from gateway.store.engine import Engine, Run, Work
from gateway.store.writer import Kind, Writer

__all__ = ["StoreEvents"]

T = TypeVar("T")

_KEY = "events"


class StoreEvents:
    """``gateway.store.Events`` on an engine."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine = engine
        self._sql = engine.sql
        self._writer = writer
        self.kept = False
        self.dropped = 0
        self.change_kind = Kind("events", self._apply, self._changes_made)

    async def read(self) -> Ledger:
        return _decoded(await self._engine.read(self._sql.SELECT_META, (_KEY,)))

    async def change(self, change: Callable[[Ledger], T]) -> T:
        changed: T = await self._writer.submit(self.change_kind, change)
        return changed

    async def owed(self, lane: Lane, most: int) -> int:
        ((count,),) = await self._engine.read(self._sql.COUNT_OWED, (*lane, most))
        return int(count)

    async def watched(self, upstream: str) -> int:
        ((count,),) = await self._engine.read(self._sql.COUNT_POLLED_TASKS, (upstream,))
        return int(count)

    def died(self, records: Sequence[AttemptRecord]) -> Work[int]:
        """Note callbacks that these attempts have ended; return how many are not told of."""
        died = []
        for record in records:
            claim, made = record.claim, record.attempt
            died.append(Died(claim.id, claim.lane, made.error, made.started_at + made.duration_ms))
        return (yield from self._changed(lambda ledger: ledger.died(died, died[-1].at)))

    def moved(self, step_ms: int) -> Work[None]:
        """Follow a wall clock that was set."""
        yield from self._changed(lambda ledger: ledger.move(step_ms))

    def _apply(self, changes: Sequence[Callable[[Ledger], Any]]) -> Work[list[Any]]:
        return (yield from self._changed(lambda ledger: [change(ledger) for change in changes]))

    def _changes_made(self, _: object, results: Sequence[Any]) -> None:
        self.dropped += sum(result is False for result in results)

    def _changed(self, change: Callable[[Ledger], T]) -> Work[T]:
        """Change the value that stands, which another replica may have replaced when its turn comes."""
        sql = self._sql
        while True:
            found = (yield Run(sql.SELECT_META, (_KEY,))).rows
            ledger = _decoded(found)
            before = msgspec.json.encode(ledger)
            done = change(ledger)
            after = msgspec.json.encode(ledger)
            if after == before:
                return done
            old = bytes(found[0][0]) if found else None
            step = Run(sql.INSERT_META, (_KEY, after)) if old is None else Run(sql.SWAP_META, (after, _KEY, old))
            if (yield step).count:
                return done


def _decoded(found: Sequence[Any]) -> Ledger:
    return msgspec.json.decode(bytes(found[0][0]), type=Ledger) if found else Ledger()
