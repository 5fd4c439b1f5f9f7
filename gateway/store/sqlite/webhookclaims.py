"""Whose each webhook is that is being sent, in memory: no other process has the file, so a crash leaves no claim.

Called by ``gateway.store.outbox`` through the engine, within a turn. What is written meanwhile is told to the outbox,
which looks again: an attempt that was recorded, and what fell due.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from sqlite3 import Connection

from gateway.core.claims import DueCallback, Lane, Share
from gateway.store import rows
from gateway.store.engine import Due, Left
from gateway.store.sqlite import deliversql
from gateway.store.sqlite.atonce import fetch
from gateway.store.sqlite.database import Database


class ClaimsInMemory:
    """``gateway.store.engine.WebhookClaims`` of one process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._claimed: defaultdict[Lane, set[int]] = defaultdict(set)
        self._claiming = asyncio.Lock()  # else two that read at once claim the same

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._claiming, self._database.reading():
            yield

    async def claim(self, shares: Sequence[Share], since: Sequence[int], now: int) -> Due:
        claimed = [frozenset(self._claimed.get(share.lane, ())) for share in shares]
        found = await self._database.call(_due_callbacks, now, shares, claimed)
        for callback in found.webhooks:
            self._claimed[callback.lane].add(callback.seq)
        return found

    def holds(self, claim: DueCallback) -> bool:
        return True

    async def keep(self, claim: DueCallback) -> bool:
        return True

    async def release(self, claims: Sequence[DueCallback]) -> None:
        self.recorded(claims)

    def recorded(self, claims: Iterable[DueCallback]) -> None:
        for claim in claims:
            lane = claim.lane
            claimed = self._claimed[lane]
            claimed.discard(claim.seq)
            if not claimed:
                del self._claimed[lane]


def _due_callbacks(db: Connection, now: int, shares: Sequence[Share], claimed: Sequence[Collection[int]]) -> Due:
    """Return due webhooks of the lanes. ``claimed``: of each lane, which ones are claimed already."""
    found: list[int] = []
    left: list[Left] = []
    for share, known in zip(shares, claimed, strict=True):
        limit = share.room + len(known)
        waiting = fetch(db, deliversql.SELECT_NEXT_DUE, (*share.lane, limit + 1))
        if share.retries:
            due = [seq for seq, at in waiting if at <= now and seq not in known]
        else:
            due = [seq for (seq,) in fetch(db, deliversql.SELECT_FIRST_ATTEMPTS_DUE, (*share.lane, now, limit))]
            due = [seq for seq in due if seq not in known]
        due = due[: share.room]
        taken = {*known, *due}
        next_due_at = next((at for seq, at in waiting if seq not in taken), None)
        is_due = next_due_at is not None and next_due_at <= now
        left.append(Left(next_due_at, is_due and len(due) < share.room))
        found += due
    claimable = db.execute(deliversql.SELECT_DUE_CALLBACKS, (rows.array(found),)) if found else ()
    return Due([rows.due_callback(row) for row in claimable], left)
