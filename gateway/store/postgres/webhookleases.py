"""Whose each webhook is that is being sent: a lease in its row, which is longer than any attempt and not prolonged.

A replica that dies leaves its claims to lapse, and others claim them at that moment; one that was stopped for longer
than that finds them fenced off. Called by ``gateway.store.outbox`` through the engine.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from gateway.core.claims import DueCallback, Share
from gateway.core.clock import Clock
from gateway.core.errors import StoreError
from gateway.store import rows
from gateway.store.engine import Due, Left, Rows, Touched, Work
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.deliversql import CLAIM_WEBHOOKS, KEEP_WEBHOOK, RELEASE_WEBHOOKS
from gateway.store.writer import Writer
from gateway.store.writes import Kind

TAKEN_OVER_S = 30.0
"""So long after its claim, and as long as an attempt takes, another replica has a webhook that its owner has left."""
_BEGUN_S = 15.0
"""So long after its claim an attempt may begin: a replica that was stopped for longer leaves it to others."""
_GIVE_BACK_S = 2.0
"""How long a shutdown waits for a claim that was just made, to give it back."""
_RECORDED_S = TAKEN_OVER_S - _BEGUN_S - 1.0
"""How long what came of it may take to be recorded; and a second, in which others notice that the claim has lapsed."""
_LOCKED_MS = 50
"""So long what others have locked is left to them: they are claiming it."""


class WebhookLeases:
    """``gateway.store.engine.WebhookClaims`` of one replica among others."""

    def __init__(self, database: PostgresDatabase, clock: Clock, attempt_s: float) -> None:
        """An attempt takes ``attempt_s`` seconds at most."""
        self._database = database
        self._clock = clock
        self._lease_ms = round((attempt_s + _BEGUN_S + _RECORDED_S) * 1000)
        self._begin_until: dict[tuple[int, int], float] = {}  # by seq and fence, by the monotonic clock
        self._claiming = asyncio.Lock()
        self.writer: Writer | None = None
        """What claims are given back through."""
        self.release_kind = Kind("release", self._apply_release, touches=_released)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._claiming:
            yield

    async def claim(self, shares: Sequence[Share], since: Sequence[int], now: int) -> Due:
        asked_at = self._clock.monotonic()
        clients, receivers = zip(*(share.lane for share in shares), strict=True)
        rooms, retries = [share.room for share in shares], [share.retries for share in shares]
        about = clients, receivers, rooms, retries, since, now, self._lease_ms
        claiming = asyncio.ensure_future(self._database.write(CLAIM_WEBHOOKS, about, always=False))
        try:
            found = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # It may be committed all the same; nobody would send these before the claims lapse.
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(_GIVE_BACK_S):
                    await self.release(_due(await claiming, shares, now).webhooks)
            raise
        due = _due(found, shares, now)
        for claim in due.webhooks:
            self._begin_until[claim.claim] = asked_at + _BEGUN_S
        return due

    def holds(self, claim: DueCallback) -> bool:
        return self._clock.monotonic() < self._begin_until.get(claim.claim, 0.0)

    async def keep(self, claim: DueCallback) -> bool:
        asked_at = self._clock.monotonic()
        kept = bool(await self._database.write(KEEP_WEBHOOK, (*claim.claim, self._lease_ms)))
        if kept:
            self._begin_until[claim.claim] = asked_at + _BEGUN_S
        return kept

    async def release(self, claims: Sequence[DueCallback]) -> None:
        self.recorded(claims)
        if claims and self.writer is not None:
            with suppress(StoreError):  # then they lapse
                await self.writer.submit(self.release_kind, [claim.claim for claim in claims])

    def _apply_release(self, items: Sequence[list[tuple[int, int]]]) -> Work[None]:
        yield Rows(RELEASE_WEBHOOKS, [row for item in items for row in item])

    def recorded(self, claims: Iterable[DueCallback]) -> None:
        for claim in claims:  # what records an attempt ends its claim
            self._begin_until.pop(claim.claim, None)


def _due(found: Sequence[Any], shares: Sequence[Share], now: int) -> Due:
    """Read CLAIM_WEBHOOKS' rows: a webhook each, and one of what is left of each share."""
    webhooks = [rows.due_callback(row) for row in found if row[1] is not None]
    claimed = Counter(webhook.lane for webhook in webhooks)
    left = [Left(None, only_retries=False)] * len(shares)
    for place, *_, due_at, first_at in (row[:12] for row in found if row[1] is None):
        share = shares[place - 1]
        only_retries = not share.retries and due_at is not None and due_at <= now
        only_retries = only_retries and (first_at is None or first_at > now)
        if due_at is not None and due_at <= now and claimed[share.lane] < share.room:
            due_at = now + _LOCKED_MS
        left[place - 1] = Left(due_at, only_retries)
    return Due(webhooks, left)


def _released(items: Sequence[list[tuple[int, int]]]) -> Touched:
    return Touched(webhooks=[seq for item in items for seq, _ in item])
