"""Webhooks that are to be sent: claimed, given back, recorded.

Owns the claims, in memory, and what recording an attempt does; when each lane's next webhook falls due is ``lanes``' to
know. The statements stand in ``sql.py``, the mapping of rows in ``rows.py``. Called through ``gateway.store.Outbox``.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from sqlite3 import Connection

from gateway.core.model import AttemptRecord, AttemptResult, BodyParts, DueCallback, Lane, Share
from gateway.store import Choose, Claimed
from gateway.store.sqlite import outcomes, rows, sql, statements
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.lanes import LanesDue
from gateway.store.sqlite.writer import Kind, Writer

__all__ = ["SqliteOutbox"]


class SqliteOutbox:
    """``gateway.store.Outbox`` on one SQLite file."""

    def __init__(self, database: Database, writer: Writer) -> None:
        """Nothing is due until it is opened."""
        self._database = database
        self._writer = writer
        self._claimed: defaultdict[Lane, set[int]] = defaultdict(set)
        self._lanes = LanesDue()
        self._claiming = asyncio.Lock()  # else two that read at once claim the same
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

    async def claim(self, choose: Choose, now: int) -> Claimed:
        shares: Sequence[Share] = ()
        try:
            # Reading until the claims are made: what another call claims, or a commit gives back, is seen whole or not.
            async with self._claiming, self._database.reading():
                self._database.require_file()
                shares = choose(self._lanes.take(now))
                if not shares:
                    return Claimed([], [], self._lanes.next_due_at)
                claimed = [frozenset(self._claimed.get(share.lane, ())) for share in shares]
                found, left = await self._database.call(_due_callbacks, now, shares, claimed)
                only_retries = []
                for share, (next_due_at, is_retry) in zip(shares, left, strict=True):
                    if is_retry:
                        only_retries.append(share.lane)
                    elif next_due_at is not None:
                        self._lanes.note(share.lane, next_due_at)
                for callback in found:
                    self._claimed[callback.lane].add(callback.seq)
                return Claimed(found, only_retries, self._lanes.next_due_at)
        except BaseException:
            for share in shares:
                self._lanes.note(share.lane, now)
            raise

    async def body(self, claim: DueCallback) -> BodyParts | bytes | None:
        async with self._database.reading():
            return await self._database.call(_body, claim.seq)

    async def release(self, claims: Sequence[DueCallback]) -> None:
        for claim in claims:
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
        statements.run(db, sql.INSERT_ATTEMPTS, rows.attempts(items))
        before = db.total_changes
        statements.run(db, sql.RECORD_ATTEMPTS, rows.recorded(items))
        if db.total_changes - before < len(items):
            statements.run(db, sql.COUNT_ATTEMPTS, rows.counted(items))
        return [None] * len(items)

    def _recorded(self, items: Sequence[AttemptRecord], _: object) -> None:
        for item in items:
            self._end_claim(item.claim)
            if item.attempt.result is not AttemptResult.DELIVERED:
                # It was passed over while it was claimed. When it is due is for a look to find out: a redelivery may
                # have made it due at once, and the wall clock may have been set.
                self.note(item.claim.lane, 0)


def _due_callbacks(
    db: Connection, now: int, shares: Sequence[Share], claimed: Sequence[Collection[int]]
) -> tuple[list[DueCallback], list[tuple[int | None, bool]]]:
    """Return due webhooks of the lanes, the first ones first; and when the next one of each lane falls due.

    With that, whether it is due already, and a retry for which the lane's share has no room. ``claimed``: of each lane,
    which ones are claimed already.
    """
    found: list[int] = []
    left: list[tuple[int | None, bool]] = []
    for share, known in zip(shares, claimed, strict=True):
        limit = share.room + len(known)
        waiting = db.execute(sql.SELECT_NEXT_DUE, (*share.lane, limit + 1)).fetchall()
        if share.retries:
            due = [seq for seq, at in waiting if at <= now and seq not in known]
        else:
            due = [seq for (seq,) in db.execute(sql.SELECT_FIRST_ATTEMPTS_DUE, (*share.lane, now, limit))]
            due = [seq for seq in due if seq not in known]
        due = due[: share.room]
        taken = {*known, *due}
        next_due_at = next((at for seq, at in waiting if seq not in taken), None)
        is_due = next_due_at is not None and next_due_at <= now
        left.append((next_due_at, is_due and len(due) < share.room))
        found += due
    claimable = db.execute(sql.SELECT_DUE_CALLBACKS, (rows.array(found),)) if found else ()
    return [rows.due_callback(row) for row in claimable], left


def _body(db: Connection, seq: int) -> BodyParts | bytes | None:
    for task_seq, stored, column, *told in db.execute(sql.SELECT_BODY, (seq,)).fetchall():
        found = None if column is None else outcomes.read_large(db, task_seq, column)
        return found if column == "record" else rows.body(stored, found, *told)
    return None
