"""Webhooks that are to be sent: claimed, given back, recorded.

Owns the claims, in memory, and what recording an attempt does; when each lane's next webhook falls due is ``lanes``' to
know. The statements stand in ``sql.py``, the mapping of rows in ``rows.py``. Called through ``gateway.store.Outbox``.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from sqlite3 import Connection

from gateway.core.model import AttemptRecord, AttemptResult, DueCallback, Lane
from gateway.store.sqlite import outcomes, rows, sql
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.lanes import LanesDue
from gateway.store.sqlite.writer import Kind, Writer
from gateway.webhook.bulkhead import Bulkhead, Share

__all__ = ["SqliteOutbox"]


class SqliteOutbox:
    """``gateway.store.Outbox`` on one SQLite file."""

    def __init__(self, database: Database, writer: Writer) -> None:
        """Nothing is due until it is opened."""
        self._database = database
        self._writer = writer
        self._claimed: defaultdict[Lane, set[int]] = defaultdict(set)
        self._lanes = LanesDue()
        self.due = asyncio.Event()
        self.record_kind = Kind("record_attempt", self._apply_record, self._recorded)

    async def open(self) -> None:
        """Find out when which lane has something due. Raises StoreError."""
        for client, receiver, due_at in await self._database.read(sql.SELECT_LANES):
            self._lanes.note(Lane(client, receiver), due_at)

    def note(self, lane: Lane, due_at: int) -> None:
        """Hear that a webhook falls due then, or later than that, and wake the deliverer."""
        self._lanes.note(lane, due_at)
        self.due.set()

    def move(self, step_ms: int) -> None:
        """Let all of them fall due so much later, as the clock was set."""
        self._lanes.move(step_ms)
        self.due.set()

    async def claim(
        self, now: int, limit: int, bulkhead: Bulkhead | None = None
    ) -> tuple[list[DueCallback], int | None]:
        # Reading until the claims are made: what another call claims, or a commit gives back, is seen whole or not.
        async with self._database.reading():
            self._database.require_file()
            asked = self._shares(now, limit, bulkhead)
            claimed = [frozenset(self._claimed.get(share.lane, ())) for share in asked]
            try:
                found, later = await self._database.call(_due_callbacks, now, asked, claimed)
            except BaseException:
                for share in asked:
                    self._lanes.note(share.lane, now)
                raise
            counts = Counter(callback.lane for callback in found)
            for share, at in zip(asked, later, strict=True):
                exhausted = counts[share.lane] < share.room
                if bulkhead is not None and at is not None and at <= now and exhausted:
                    # Whatever is still due are retries, which were not even asked for.
                    bulkhead.wait_for_retries(share.lane)
                elif at is not None:
                    self._lanes.note(share.lane, at)
            claims: list[DueCallback] = []
            for callback in found:
                if bulkhead is None or bulkhead.admit(callback):
                    self._claimed[callback.lane].add(callback.seq)
                    claims.append(callback)
                else:
                    self._lanes.note(callback.lane, callback.due_at)
            if bulkhead is not None and bulkhead.in_line and len(claims) < sum(share.room for share in asked):
                return claims, now  # others may have the places that these had no webhooks for
            return claims, self._lanes.next_due_at

    def _shares(self, now: int, limit: int, bulkhead: Bulkhead | None) -> list[Share]:
        due = self._lanes.take(now)
        if bulkhead is not None:
            for lane in due:
                bulkhead.wait(lane)
            return bulkhead.shares(limit)
        for lane in due[limit:]:
            self._lanes.note(lane, now)
        return [Share(lane, max(1, limit // len(due)), True) for lane in due[:limit]]

    async def body(self, claim: DueCallback) -> bytes | None:
        async with self._database.reading():
            return await self._database.call(_body, claim)

    def release(self, claim: DueCallback) -> None:
        self._end_claim(claim)
        self.note(claim.lane, 0)  # as in _recorded

    def _end_claim(self, claim: DueCallback) -> None:
        lane = claim.lane
        claimed = self._claimed[lane]
        claimed.discard(claim.seq)
        if not claimed:
            del self._claimed[lane]

    async def record(self, record: AttemptRecord) -> None:
        await self._writer.submit(self.record_kind, record)

    def _apply_record(self, db: Connection, items: Sequence[AttemptRecord]) -> list[None]:
        sql.run_over_rows(db, sql.INSERT_ATTEMPTS, rows.attempts(items))
        sql.run_over_rows(db, sql.RECORD_ATTEMPTS, rows.recorded(items))
        sql.run_over_rows(db, sql.COUNT_ATTEMPTS, rows.counted(items))
        return [None] * len(items)

    def _recorded(self, items: Sequence[AttemptRecord], _: object) -> None:
        for item in items:
            self._end_claim(item.claim)
            if item.attempt.result is not AttemptResult.DELIVERED:
                # It was passed over while it was claimed. When it is due is for a look to find out: a redelivery may
                # have made it due at once, and the wall clock may have been set.
                self.note(item.claim.lane, 0)


def _due_callbacks(
    db: Connection, now: int, asked: Sequence[Share], claimed: Sequence[Collection[int]]
) -> tuple[list[DueCallback], list[int | None]]:
    """Return due webhooks of the lanes, the first ones first, and when the next one of each lane falls due.

    ``claimed``: of each lane, which ones are claimed already.
    """
    found: list[int] = []
    later: list[int | None] = []
    for share, known in zip(asked, claimed, strict=True):
        limit = share.room + len(known)
        waiting = db.execute(sql.SELECT_NEXT_DUE, (*share.lane, limit + 1)).fetchall()
        if share.retries:
            due = [seq for seq, at in waiting if at <= now and seq not in known]
        else:
            due = [seq for (seq,) in db.execute(sql.SELECT_FIRST_ATTEMPTS_DUE, (*share.lane, now, limit))]
            due = [seq for seq in due if seq not in known]
        due = due[: share.room]
        taken = {*known, *due}
        later.append(next((at for seq, at in waiting if seq not in taken), None))
        found += due
    claimable = db.execute(sql.SELECT_DUE_CALLBACKS, (rows.array(found),)) if found else ()
    return [rows.due_callback(row) for row in claimable], later


def _body(db: Connection, claim: DueCallback) -> bytes | None:
    for task_seq, stored, *parts in db.execute(sql.SELECT_BODY, (claim.seq,)).fetchall():
        return rows.body(claim.id, [stored, None if stored else outcomes.read_outcome(db, task_seq), *parts])
    return None
