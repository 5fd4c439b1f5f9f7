"""Claiming tasks as they come, for tests that are not about whose turn it is."""

from gateway.core.model import DueTask
from gateway.store import Store

__all__ = ["claim_tasks"]


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
