"""Tasks that are to be polled: put off and settled.

Owns what each of these writes does; which tasks are due, and their claims, are ``duetasks``' to know, and whose time
has passed ``expiries``'. Called through ``gateway.store.TaskQueue``; tells ``outbox.py`` of the webhooks that a
settlement makes due.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import structlog

from gateway.core.claims import Lane
from gateway.core.model import ExpiredTask, Format, PollRecord, Settlement, weight
from gateway.core.tracing import MOST_TRACES
from gateway.store import rows
from gateway.store.dialect import OWED_AT_ONCE
from gateway.store.duetasks import DueTasks
from gateway.store.engine import Engine, Lead, Rows, Touched, Work
from gateway.store.expiries import Expiries
from gateway.store.outbox import StoreOutbox
from gateway.store.rows import parts
from gateway.store.watches import Watches, write_large
from gateway.store.writer import Writer
from gateway.store.writes import Kind

_log = structlog.get_logger()


class StoreTasks(DueTasks):
    """``gateway.store.TaskQueue`` on an engine."""

    def __init__(self, engine: Engine, writer: Writer, outbox: StoreOutbox, first_attempt_delay_ms: int) -> None:
        """Tell the outbox of what falls due; a webhook does so that long after its task's end."""
        super().__init__(engine)
        self._writer = writer
        self._outbox = outbox
        self.watches = Watches(engine, writer, self)
        self._first_attempt_delay_ms = first_attempt_delay_ms
        self._expiries = Expiries(engine)
        self._settle_waiters: dict[int, set[asyncio.Future[None]]] = {}
        self.stale_writes = 0
        """How many were left out, as another process leads the polls of their upstream."""
        self.settle_kind = Kind("settle", self._apply_settle, self._settled, _of_seqs)
        self.reschedule_kind = Kind("reschedule", self._apply_reschedule, self._rescheduled, _of_seqs)
        self.poll_now_kind = Kind("poll_now", self._apply_poll_now, self._polls_advanced, _to_be_polled)

    def note_expiry(self, upstream: str, expires_at: int) -> None:
        """Hear of new callbacks on an upstream's tasks, which expire then or later, and wake its poller."""
        self._events[upstream].set()
        self._expiries.note(upstream, expires_at)

    def tell_expiry(self, upstream: str, expires_at: int) -> None:
        """As ``note_expiry``, of what this process has changed: whoever leads is told."""
        self.note_expiry(upstream, expires_at)
        self._engine.hints.expiries(upstream, expires_at)

    async def look_again(self) -> None:
        self._expiries.look_again()
        self.watches.look_again()
        await super().look_again()

    def forget_times(self) -> None:
        """Know nothing of when tasks are due, callbacks expire or readers have gone: the clock was set."""
        self.watches.forget_times()
        self._expiries.forget_times()
        super().forget_times()

    async def reschedule(self, record: PollRecord) -> None:
        lead = self.lead(record.upstream)
        if lead is None:
            self._left_out("reschedule", 1)
        else:
            await self._writer.submit(self.reschedule_kind, (lead, record), weight(rows.record_size(record)))

    def _apply_reschedule(self, items: Sequence[tuple[Lead, PollRecord]]) -> Work[list[int | None]]:
        """Return when each is due next; None where its lead has ended."""
        led = yield from self.led(items)
        records = [record for (_, record), goes_on in zip(items, led, strict=True) if goes_on]
        due_at: dict[int, int | None] = {}
        several = list(parts(records, rows.record_size))
        if len(several) > 1:
            yield from self._engine.lock([record.seq for record in records])
        for part in several:
            due_at.update((yield Rows(self._sql.RESCHEDULE_TASKS, rows.polls(part))).rows)
        for record in records:
            if record.record is not None:
                yield from self.watches.write_record(record.seq, record.record)
        return [
            (due_at.get(record.seq) or record.next_poll_at) if goes_on else None
            for (_, record), goes_on in zip(items, led, strict=True)
        ]

    def _rescheduled(self, items: Sequence[tuple[Lead, PollRecord]], due: Sequence[int | None]) -> None:
        self._left_out("reschedule", due.count(None))
        for (_, record), due_at in zip(items, due, strict=True):
            group = None if due_at is None else self._end(record.seq)
            if group is None or due_at is None:
                continue  # it has settled meanwhile
            group.note(due_at)
            if due_at < record.next_poll_at:  # than whoever has polled it knows of
                self._events[record.upstream].set()

    async def settle(self, settlement: Settlement) -> list[str] | None:
        lead = self.lead(settlement.upstream)
        if lead is None:
            self._left_out("settle", 1)
            return None
        owed: list[tuple[str, Lane]] | None = await self._writer.submit(
            self.settle_kind, (lead, settlement), weight(_settlement_size(settlement))
        )
        return None if owed is None else [callback_id for callback_id, _ in owed]

    def _apply_settle(self, items: Sequence[tuple[Lead, Settlement]]) -> Work[list[list[tuple[str, Lane]] | None]]:
        """Return the id and the lane of each webhook that is owed now, where its settlement stands.

        None where its lead has ended.
        """
        led = yield from self.led(items, [one.seq for _, one in items])
        settlements = [one for (_, one), goes_on in zip(items, led, strict=True) if goes_on]
        owed = yield from self._settle(settlements)
        return [next(owed) if goes_on else None for goes_on in led]

    def _settle(self, items: Sequence[Settlement]) -> Work[Iterator[list[tuple[str, Lane]]]]:
        # Whoever settled a task first has settled it.
        ends = list({item.seq: item for item in reversed(items) if item.expired_by is None}.values())
        expiries = [item for item in items if item.expired_by is not None]
        owed: defaultdict[tuple[int, bool], list[tuple[str, Lane]]] = defaultdict(list)
        # The upstream's word first: a time-out of some of the same task's callbacks must not end it as abandoned.
        for settled in (*parts(ends, _settlement_size), *parts(expiries, _settlement_size)):
            expired = settled[0].expired_by is not None
            its = rows.owed(settled, self._first_attempt_delay_ms)
            records = {one.seq for one in settled if one.read or one.keeps_record}
            more = True
            while more:
                found = (yield Rows(self._sql.OWE_WEBHOOKS, its)).rows
                more = len(found) >= OWED_AT_ONCE
                for seq, callback_id, client, receiver, shape in found:
                    owed[seq, expired].append((callback_id, Lane(client, receiver)))
                    if shape == Format.RECORD:
                        records.add(seq)
            yield Rows(self._sql.SETTLE_TASKS, rows.settled(settled, records))
            for one in settled:
                yield from write_large(one.seq, "outcome", (one.outcome.data,))
                if one.seq in records and one.record is not None:
                    yield from write_large(one.seq, "record", one.record)
        # Each webhook is told of once.
        return iter([owed.pop((item.seq, item.expired_by is not None), []) for item in items])

    def _settled(
        self, items: Sequence[tuple[Lead, Settlement]], results: Sequence[Sequence[tuple[str, Lane]] | None]
    ) -> None:
        self._left_out("settle", results.count(None))
        settled = [item for (_, item), owed in zip(items, results, strict=True) if owed is not None]
        for item in settled:
            # A settlement by time-out claims nothing: the task may be being polled.
            if item.expired_by is None:
                self._end(item.seq)
            self.note_settled(item.seq)
        earliest = min(item.settled_at for _, item in items) + self._first_attempt_delay_ms
        for lane in {lane for owed in results for _, lane in owed or ()}:
            self._outbox.tell(lane, earliest)
        self._engine.hints.settled(item.seq for item in settled)

    def _left_out(self, kind: str, count: int) -> None:
        if count:
            self.stale_writes += count
            _log.warning("store.stale_writes", kind=kind, writes=count)

    def note_settled(self, seq: int) -> None:
        """Hear that a task may have ended: whoever waits for that looks."""
        for future in self._settle_waiters.pop(seq, ()):
            future.set_result(None)

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

    async def expired(self, upstream: str, now: int, limit: int) -> tuple[list[ExpiredTask], int | None]:
        return await self._expiries.expired(upstream, now, limit) if self.leads(upstream) else ([], None)

    async def traces(self, seq: int) -> list[str]:
        return rows.first_column(await self._engine.read(self._sql.SELECT_TRACES, (seq, MOST_TRACES)))

    async def unwatch(self, now: int) -> int:
        return await self.watches.unwatch(now)

    async def poll_now(self, upstream: str, seqs: Sequence[int], now: int) -> None:
        lead = self.lead(upstream)
        if lead is not None:
            await self._writer.submit(self.poll_now_kind, (lead, [(seq, now) for seq in seqs]))

    def _apply_poll_now(self, items: Sequence[tuple[Lead, list[tuple[int, int]]]]) -> Work[list[list[Any]]]:
        led = yield from self.led(items)
        wanted = [row for (_, its), goes_on in zip(items, led, strict=True) if goes_on for row in its]
        moved = yield Rows(self._sql.POLL_TASKS_NOW, wanted)
        return [moved.rows] * len(items)

    def _polls_advanced(self, _: object, results: Sequence[Sequence[tuple[str, str, int]]]) -> None:
        for row in results[0]:
            self.note(*row)


def _of_seqs(items: Sequence[tuple[Lead, Settlement | PollRecord]]) -> Touched:
    return Touched(seqs=[one.seq for _, one in items])


def _to_be_polled(items: Sequence[tuple[Lead, list[tuple[int, int]]]]) -> Touched:
    return Touched(seqs=[seq for _, its in items for seq, _ in its])


def _settlement_size(settlement: Settlement) -> int:
    return len(settlement.outcome.data) + sum(map(len, settlement.record or ()))
