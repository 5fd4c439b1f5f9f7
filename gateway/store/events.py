"""Operator events in the database: one small value, which each change replaces within its transaction.

Owns how the value is read and changed; what a change is ``core.eventledger`` says. Called through
``gateway.store.Events``, and by the outbox, which notes what dies in the transaction that records it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from gateway.core.claims import AttemptRecord, Lane
from gateway.core.eventledger import Died, Ledger
from gateway.store.engine import Engine, Run, Work
from gateway.store.writer import Writer
from gateway.store.writes import Kind

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
        changed: tuple[T, int] = await self._writer.submit(self.change_kind, change)
        return changed[0]

    async def owed(self, lane: Lane, most: int) -> int:
        ((count,),) = await self._engine.read(self._engine.deliversql.COUNT_OWED, (*lane, most))
        return int(count)

    async def watched(self, upstream: str, most: int) -> int:
        ((count,),) = await self._engine.read(self._sql.COUNT_POLLED_TASKS, (upstream, most))
        return int(count)

    def died(self, records: Sequence[AttemptRecord]) -> Work[int]:
        """Note callbacks that these attempts have ended; return how many events were dropped for that."""
        died = []
        for record in records:
            claim, made = record.claim, record.attempt
            died.append(Died(claim.id, claim.lane, made.error, made.started_at + made.duration_ms))
        _, dropped = yield from self._changed([lambda ledger: ledger.died(died, died[-1].at)])
        return dropped

    def moved(self, step_ms: int) -> Work[None]:
        """Follow a wall clock that was set."""
        yield from self._changed([lambda ledger: ledger.move(step_ms)])

    def _apply(self, changes: Sequence[Callable[[Ledger], Any]]) -> Work[list[tuple[Any, int]]]:
        done, dropped = yield from self._changed(changes)
        return [(one, dropped) for one in done]

    def _changes_made(self, _: object, results: Sequence[tuple[Any, int]]) -> None:
        self.dropped += results[0][1]

    def _changed(self, changes: Sequence[Callable[[Ledger], Any]]) -> Work[tuple[list[Any], int]]:
        """Change the value that stands, which another replica may have replaced when its turn comes.

        Return what each change has returned, and how many events they have dropped.
        """
        sql = self._sql
        while True:
            found = (yield Run(sql.SELECT_META, (_KEY,))).rows
            ledger = _decoded(found)
            before, dropped = msgspec.json.encode(ledger), ledger.dropped
            done = [change(ledger) for change in changes]
            after, dropped = msgspec.json.encode(ledger), ledger.dropped - dropped
            if after == before:
                return done, dropped
            old = bytes(found[0][0]) if found else None
            step = Run(sql.INSERT_META, (_KEY, after)) if old is None else Run(sql.SWAP_META, (after, _KEY, old))
            if (yield step).count:
                return done, dropped


def _decoded(found: Sequence[Any]) -> Ledger:
    return msgspec.json.decode(bytes(found[0][0]), type=Ledger) if found else Ledger()
