"""Webhooks that are to be sent: claimed, given back, recorded.

Owns what recording an attempt does; when each lane's next webhook falls due is ``lanes``' to know, the claims are the
engine's. Called through ``gateway.store.Outbox``.
"""

import asyncio
import heapq
from collections.abc import Sequence

import structlog

from gateway.core.claims import AttemptRecord, BodyParts, DueCallback, Lane, Share
from gateway.core.model import AttemptResult
from gateway.store import Choose, Claimed, rows
from gateway.store.engine import Engine, Rows, Touched, Work
from gateway.store.events import StoreEvents
from gateway.store.lanes import LanesDue
from gateway.store.writer import Writer
from gateway.store.writes import Kind

_log = structlog.get_logger()

_LAPSED_MS = 200
"""So much later than claims lapse, by the database's clock, are they claimed: this process's may be ahead."""
_LANES_AT_ONCE = 1000  # ten milliseconds: any number of receivers may have something due


class StoreOutbox:
    """``gateway.store.Outbox`` on an engine."""

    def __init__(self, engine: Engine, writer: Writer, events: StoreEvents) -> None:
        """Nothing is due until it is opened."""
        self._events = events
        self._engine = engine
        self._deliversql = engine.deliversql
        self._writer = writer
        self._claims = engine.webhooks
        self._lanes = LanesDue()
        self._lapses: list[tuple[int, Lane]] = []  # a heap: when which claims lapse, as the last look has found
        self.due = asyncio.Event()
        self.stale_writes = 0
        """How many were void: their claims had lapsed and were another's, or their callbacks were gone."""
        self.record_kind = Kind("record_attempt", self._apply_record, self._recorded, _claimed)
        self.hand_over_kind = Kind("hand_over", self._apply_hand_over, self._handed_over, _to_hand_over)

    async def open(self) -> None:
        """Find out when which lane has something due, and when claims lapse. Raises StoreError."""
        lapses: list[tuple[int, Lane]] = []
        last, more = ("", ""), True
        while more:
            found = await self._engine.read(self._deliversql.SELECT_LANES, (*last, _LANES_AT_ONCE))
            for client, receiver, due_at, lapse_at in found:
                lane = Lane(client, receiver)
                if due_at is not None:
                    self._lanes.note(lane, due_at)
                lapses += [(at + _LAPSED_MS, lane) for at in lapse_at or ()]
                last = client, receiver
            more = len(found) == _LANES_AT_ONCE
        heapq.heapify(lapses)
        # Whoever lives records what it has claimed, and the next look finds later lapses: so nobody claims in vain.
        self._lapses = lapses

    async def look_again(self) -> None:
        """Find out anew what falls due: other processes have changed it. Raises StoreError."""
        await self.open()
        self.due.set()

    def note(self, lane: Lane, due_at: int) -> None:
        """Hear that a webhook falls due then, or later than that, and wake the deliverer."""
        self._lanes.note(lane, due_at)
        self.due.set()

    def tell(self, lane: Lane, due_at: int) -> None:
        """As ``note``, of what this process has changed: others are told."""
        self.note(lane, due_at)
        self._engine.hints.lane(lane, due_at)

    def move(self, step_ms: int) -> None:
        """Let all of them fall due so much later, as the clock was set."""
        self._lanes.move(step_ms)
        self.due.set()

    async def claim(self, choose: Choose, now: int) -> Claimed:
        shares: Sequence[Share] = ()
        since: Sequence[int] = ()
        try:
            async with self._claims.turn():
                self._engine.require()
                while self._lapses and self._lapses[0][0] <= now:
                    self._lanes.note(heapq.heappop(self._lapses)[1], 0)  # it has long been due
                shares = choose(self._lanes.take(now))
                if not shares:
                    return Claimed([], [], self._next_due_at)
                since = [self._lanes.since(share.lane) for share in shares]
                due = await self._claims.claim(shares, since, now)
                only_retries = []
                for share, left in zip(shares, due.left, strict=True):
                    if left.only_retries:
                        only_retries.append(share.lane)
                    elif left.next_due_at is not None:
                        self._lanes.note(share.lane, left.next_due_at)
                    elif not self._lanes.knows(share.lane):  # else one has come meanwhile, of which others are told
                        self._engine.hints.emptied(share.lane)
                return Claimed(due.webhooks, only_retries, self._next_due_at)
        except BaseException:
            for share, due_at in zip(shares, since, strict=False):
                self._lanes.note(share.lane, self._by_now(due_at))
            raise

    @property
    def _next_due_at(self) -> int | None:
        due_at = self._lanes.next_due_at
        if not self._lapses:
            return due_at
        lapse_at, _ = self._lapses[0]
        return lapse_at if due_at is None else min(due_at, lapse_at)

    def holds(self, claim: DueCallback) -> bool:
        return self._claims.holds(claim)

    async def body(self, claim: DueCallback) -> BodyParts | bytes | None:
        if not await self._claims.keep(claim):
            return None
        for task_seq, stored, column, *told in await self._engine.read(self._deliversql.SELECT_BODY, (claim.seq,)):
            found = None if column is None else await self._engine.large(task_seq, column)
            return found if column == "record" else rows.body(stored, found, *told)
        return None

    async def release(self, claims: Sequence[DueCallback]) -> None:
        await self._claims.release(claims)
        for claim in claims:
            self._note_again(claim)

    async def hand_over(self, claims: Sequence[tuple[DueCallback, str]]) -> None:
        try:
            await self._writer.submit(self.hand_over_kind, claims, len(claims))
        except BaseException:
            await self.release([claim for claim, _ in claims])
            raise

    def _apply_hand_over(self, items: Sequence[Sequence[tuple[DueCallback, str]]]) -> Work[None]:
        moves = [(claim.seq, receiver, claim.fence) for item in items for claim, receiver in item]
        yield Rows(self._deliversql.HAND_OVER_WEBHOOKS, moves)

    def _handed_over(self, items: Sequence[Sequence[tuple[DueCallback, str]]], _: object) -> None:
        for claim, receiver in (one for item in items for one in item):
            self._claims.recorded([claim])
            self.tell(Lane(claim.client, receiver), self._by_now(claim.due_at))

    async def record(self, record: AttemptRecord) -> None:
        await self._writer.submit(self.record_kind, record)

    def _apply_record(self, items: Sequence[AttemptRecord]) -> Work[list[tuple[int, int]]]:
        """Return with each how many of them are void, and how many events were dropped."""
        died: list[AttemptRecord] = []
        if self._events.kept and (last := [one for one in items if one.attempt.result is AttemptResult.DEAD]):
            # By themselves, and first: only what one of these has ended is told of, and that once.
            ended = {seq for (seq,) in (yield Rows(self._deliversql.RECORD_DEAD, rows.recorded(last))).rows}
            died = [one for one in last if one.claim.seq in ended]
        void = yield from self._apply_all(items)
        if interrupted := [one for one in items if one.attempt.result is AttemptResult.INTERRUPTED]:
            # However long our own proxy is down, or however often this is restarted, their log stays small.
            yield Rows(self._deliversql.FORGET_INTERRUPTED, [one.claim.claim for one in interrupted])
        dropped = (yield from self._events.died(died)) if died else 0
        return [(void, dropped)] * len(items)

    def _apply_all(self, items: Sequence[AttemptRecord]) -> Work[int]:
        if (yield from self._engine.record(items)):
            return 0
        kept = (yield Rows(self._deliversql.INSERT_ATTEMPTS, rows.attempts(items))).count
        if (yield Rows(self._deliversql.RECORD_ATTEMPTS, rows.recorded(items))).count < len(items):
            yield Rows(self._deliversql.COUNT_ATTEMPTS, rows.counted(items))
        return len(items) - kept

    def _recorded(self, items: Sequence[AttemptRecord], results: Sequence[tuple[int, int]]) -> None:
        void, dropped = results[0]
        self._events.dropped += dropped
        if void:
            self.stale_writes += void
            _log.warning("store.stale_writes", kind="record_attempt", writes=void)
        self._claims.recorded(item.claim for item in items)
        for item in items:
            if item.attempt.result is not AttemptResult.DELIVERED:
                self._note_again(item.claim)

    def _note_again(self, claim: DueCallback) -> None:
        """Have a webhook found that was passed over while it was claimed.

        When it is due is for a look to find out: a redelivery may have made it due at once. Not before it was.
        """
        self.note(claim.lane, self._by_now(claim.due_at))

    def _by_now(self, due_at: int) -> int:
        """Return that, or earlier where this process goes by its own wall clock: it may have been set since."""
        return due_at if self._engine.shared else 0


def _claimed(items: Sequence[AttemptRecord]) -> Touched:
    return Touched(webhooks=[item.claim.seq for item in items])


def _to_hand_over(items: Sequence[Sequence[tuple[DueCallback, str]]]) -> Touched:
    return Touched(webhooks=[claim.seq for item in items for claim, _ in item])
