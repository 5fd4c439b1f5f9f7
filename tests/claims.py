"""Claiming tasks as they come, for tests that are not about whose turn it is; and what a loop has claimed."""

import asyncio
from collections.abc import Iterable
from typing import Any

from gateway.core.claims import DueCallback, DueTask
from gateway.store import Outbox, Store, TaskQueue

__all__ = ["Claiming", "claim_tasks"]


async def claim_tasks(store: Store, upstream: str, now: int, limit: int) -> tuple[list[DueTask], int | None]:
    """Claim due tasks of one group after the other; also return when the next unclaimed one is due."""
    due, next_due_at = await store.tasks.waiting(upstream, now)
    claims: list[DueTask] = []
    instants = [next_due_at]
    for group in due:
        tasks, later = await store.tasks.longest_due(upstream, group.watchers, now, limit - len(claims))
        claims += await store.tasks.claim(tasks)
        instants.append(later)
    return claims, min((at for at in instants if at is not None), default=None)


class Claiming:
    """A ``TaskQueue`` or an ``Outbox`` in a loop's hands: ``held`` is what the loop has claimed of it and not ended."""

    def __init__(self, port: TaskQueue | Outbox) -> None:
        self._port: Any = port
        self.held: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)

    async def claim(self, *about: Any) -> Any:
        claimed = await self._port.claim(*about)
        self.held.update(one.seq for one in getattr(claimed, "webhooks", claimed))
        return claimed

    async def release(self, claims: Iterable[DueTask | DueCallback]) -> None:
        await self._port.release(claims)
        self.held.difference_update(one.seq for one in claims)

    async def reschedule(self, record: Any) -> None:
        await self._written(record.seq, self._port.reschedule(record))

    async def settle(self, settlement: Any) -> Any:
        ends = None if settlement.expired_by is not None else settlement.seq
        return await self._written(ends, self._port.settle(settlement))

    async def record(self, record: Any) -> None:
        await self._written(record.claim.seq, self._port.record(record))

    async def _written(self, seq: int | None, write: Any) -> Any:
        try:
            result = await write
        except asyncio.CancelledError:
            self.held.discard(seq)  # it is written all the same
            raise
        self.held.discard(seq)
        return result
