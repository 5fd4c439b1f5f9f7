"""Tasks that are to be polled: put off and settled.

Owns what each of these writes does; which tasks are due, and their claims, are ``duetasks``' to know. Called through
``gateway.store.TaskQueue``; tells ``outbox.py`` of the webhooks that a settlement makes due.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from sqlite3 import Connection

from msgspec import convert

from gateway.core.model import DueTask, ExpiredTask, Format, Lane, PollRecord, Settlement
from gateway.store.sqlite import outcomes, rows, sql, statements
from gateway.store.sqlite.database import Database
from gateway.store.sqlite.duetasks import DueTasks
from gateway.store.sqlite.outbox import SqliteOutbox
from gateway.store.sqlite.statements import parts
from gateway.store.sqlite.watches import Watches
from gateway.store.sqlite.writer import Kind, Writer

__all__ = ["SqliteTaskQueue"]


class SqliteTaskQueue(DueTasks):
    """``gateway.store.TaskQueue`` on one SQLite file."""

    def __init__(self, database: Database, writer: Writer, outbox: SqliteOutbox, first_attempt_delay_ms: int) -> None:
        """Tell the outbox of what falls due; a webhook does so that long after its task's end."""
        super().__init__(database)
        self._writer = writer
        self._outbox = outbox
        self.watches = Watches(database, writer, self)
        self._first_attempt_delay_ms = first_attempt_delay_ms
        self._no_expiry_before: defaultdict[str, int] = defaultdict(int)  # per upstream, its callbacks' first at most
        self._settle_waiters: dict[int, set[asyncio.Future[None]]] = {}
        self.settle_kind = Kind("settle", self._apply_settle, self._settled)
        self.reschedule_kind = Kind("reschedule", self._apply_reschedule, self._rescheduled)
        self.poll_now_kind = Kind("poll_now", self._apply_poll_now, self._polls_advanced)

    def registered(self, upstream: str, expires_at: Iterable[int]) -> None:
        """Hear of new callbacks on an upstream's tasks, and wake its poller."""
        self._events[upstream].set()
        self._no_expiry_before[upstream] = min(self._no_expiry_before[upstream], *expires_at)

    def forget_times(self) -> None:
        """Know nothing of when tasks are due, callbacks expire or readers have gone: the clock was set."""
        self.watches.forget_times()
        self._no_expiry_before.clear()
        super().forget_times()

    async def reschedule(self, record: PollRecord) -> None:
        await self._writer.submit(self.reschedule_kind, record)
        await self.watches.polled(record.seq, record.polled_at)

    def _apply_reschedule(self, db: Connection, items: Sequence[PollRecord]) -> None:
        for part in parts(items, _record_size):
            statements.run(db, sql.RESCHEDULE_TASKS, rows.polls(part))
        for item in items:
            if item.record is not None:
                self.watches.write_record(db, item.seq, item.record)

    def _rescheduled(self, items: Sequence[PollRecord], _: object) -> None:
        for item in items:
            group = self._end(item.seq)
            if group is not None:  # else it has settled meanwhile
                group.note(item.next_poll_at)

    async def settle(self, settlement: Settlement) -> list[str]:
        owed: list[tuple[str, Lane]] = await self._writer.submit(self.settle_kind, settlement)
        return [callback_id for callback_id, _ in owed]

    def _apply_settle(self, db: Connection, items: Sequence[Settlement]) -> list[list[tuple[str, Lane]]]:
        """Return the id and the lane of each webhook that is owed now, where its settlement stands."""
        # Whoever settled a task first has settled it.
        ends = list({item.seq: item for item in reversed(items) if item.expired_by is None}.values())
        expiries = [item for item in items if item.expired_by is not None]
        owed: defaultdict[tuple[int, bool], list[tuple[str, Lane]]] = defaultdict(list)
        # The upstream's word first: a time-out of some of the same task's callbacks must not end it as abandoned.
        for settled in (*parts(ends, _settlement_size), *parts(expiries, _settlement_size)):
            expired = settled[0].expired_by is not None
            its = rows.owed(settled, self._first_attempt_delay_ms)
            records = {one.seq for one in settled if one.read}
            for seq, callback_id, client, receiver, shape in statements.run(db, sql.OWE_WEBHOOKS, its):
                owed[seq, expired].append((callback_id, Lane(client, receiver)))
                if shape == Format.RECORD:
                    records.add(seq)
            statements.run(db, sql.SETTLE_TASKS, rows.settled(settled, records))
            for one in settled:
                outcomes.write_large(db, one.seq, "outcome", (one.outcome.data,))
                if one.seq in records and one.record is not None:
                    outcomes.write_large(db, one.seq, "record", one.record)
        # Each webhook is told of once.
        return [owed.pop((item.seq, item.expired_by is not None), []) for item in items]

    def _settled(self, items: Sequence[Settlement], results: Sequence[Sequence[tuple[str, Lane]]]) -> None:
        for item in items:
            # A settlement by time-out claims nothing: the task may be being polled.
            if item.expired_by is None:
                self._end(item.seq)
                self.watches.let_go(item.seq)
            for future in self._settle_waiters.pop(item.seq, ()):
                future.set_result(None)
        earliest = min(item.settled_at for item in items) + self._first_attempt_delay_ms
        for lane in {lane for owed in results for _, lane in owed}:
            self._outbox.note(lane, earliest)

    async def wait_settled(self, seq: int, timeout_s: float) -> None:
        """As ``Registry.wait_settled``."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._settle_waiters.setdefault(seq, set())
        waiters.add(future)
        try:
            await asyncio.wait((future,), timeout=timeout_s)
        finally:
            waiters.discard(future)
            if not waiters and self._settle_waiters.get(seq) is waiters:
                del self._settle_waiters[seq]

    async def release(self, claims: Sequence[DueTask]) -> None:
        for claim in claims:
            self.watches.let_go(claim.seq)
        await super().release(claims)

    async def expired(self, upstream: str, now: int, limit: int) -> tuple[list[ExpiredTask], int | None]:
        before = self._no_expiry_before[upstream]
        if now < before:
            return [], before
        # Whatever is registered from here on lowers it; a read that fails has found nothing out.
        self._no_expiry_before[upstream] = rows.FOREVER
        again_at = [before]
        try:
            async with self._database.reading():
                found = await self._database.rows(sql.SELECT_EXPIRED, (before, now, upstream, limit))
                ((next_expiry_at,),) = await self._database.rows(sql.SELECT_NEXT_EXPIRY, (now,))
            expired = convert(found, list[ExpiredTask])
            # Expired ones stay so until they are settled: they are asked for again.
            again_at = [task.expires_at for task in expired]
            again_at += [] if next_expiry_at is None else [next_expiry_at]
        finally:
            self._no_expiry_before[upstream] = min([self._no_expiry_before[upstream], *again_at])
        return expired, next_expiry_at

    async def unwatch(self, now: int) -> int:
        return await self.watches.unwatch(now)

    async def poll_now(self, seqs: Sequence[int], now: int) -> None:
        await self._writer.submit(self.poll_now_kind, (seqs, now))

    def _apply_poll_now(
        self, db: Connection, items: Sequence[tuple[Sequence[int], int]]
    ) -> list[list[tuple[str, str, int]]]:
        return [
            [row for seq in seqs for row in db.execute(sql.POLL_NOW, (now, seq, now)).fetchall()] for seqs, now in items
        ]

    def _polls_advanced(self, _: object, results: Sequence[Sequence[tuple[str, str, int]]]) -> None:
        for row in (row for result in results for row in result):
            self.note(*row)


def _settlement_size(settlement: Settlement) -> int:
    return len(settlement.outcome.data) + sum(map(len, settlement.record or ()))


def _record_size(record: PollRecord) -> int:
    return 0 if record.record is None else len(record.record)
