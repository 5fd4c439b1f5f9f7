"""How a task is told where its upstream is not configured: the API and the pages say the same.

Owns those words. Pure.
"""

from collections.abc import Container

import msgspec

from gateway.core.model import Task

__all__ = ["told"]


def told(task: Task, upstreams: Container[str]) -> Task:
    """Return a task as it is told: one that nobody polls, as its upstream is not configured, says so."""
    if task.next_poll_at is None or task.upstream in upstreams:
        return task
    return msgspec.structs.replace(
        task, last_error=f"The upstream {task.upstream} is not configured: nobody polls this task.", next_poll_at=None
    )
