"""What the proxy's readers ask of a store, and what they find there.

Called by the tests of what each port of a store has for them.
"""

from typing import Any

from gateway.core.claims import DueTask
from gateway.core.model import PollRecord
from gateway.core.reads import ReadTask, ReadWatch
from gateway.store import Store
from tests.claims import claim_tasks
from tests.storing import NOW

__all__ = ["RECORD", "again", "due", "reschedule", "seen", "wish"]

RECORD = b'{"taskId":"t","state":"generating","progress":"0.3"}'


def wish(task_id: str = "task-1", *, at: int = NOW, for_ms: int = 60_000, **about: Any) -> ReadWatch:
    """Return a reader's wish: by default after an answer that told of the task."""
    told = {"told": True, "begins": True, "born_at": at - 5000, "model": "m", "record": RECORD, "client": "rob"}
    return ReadWatch(
        upstream="up",
        task_id=task_id,
        at=at,
        read_until=at + for_ms,
        next_poll_at=at + 2000,
        **(told | about),
    )


def again(task_id: str = "task-1", *, at: int = NOW, for_ms: int = 60_000, client: str = "rob") -> ReadWatch:
    """Return the wish of a reader that is answered from what is known."""
    return ReadWatch(upstream="up", task_id=task_id, client=client, at=at, read_until=at + for_ms, next_poll_at=at)


async def seen(store: Store, task_id: str = "task-1") -> ReadTask:
    found = await store.registry.proxied_task("up", task_id)
    assert found is not None
    return found


async def due(store: Store, at: int, upstream: str = "up") -> list[DueTask]:
    tasks, _ = await claim_tasks(store, upstream, at, 99)
    return tasks


async def reschedule(store: Store, claim: DueTask, at: int, record: bytes | None = None, **about: Any) -> None:
    await store.tasks.reschedule(
        PollRecord(
            **{"seq": claim.seq, "upstream": "up", "polled_at": at, "next_poll_at": at + 5000, "error": None, **about},
            record=record,
        )
    )
