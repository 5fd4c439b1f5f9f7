"""What the API and the pages say alike: of a task that nobody polls, and of what cannot be done to a callback.

Owns those words. Pure.
"""

from collections.abc import Container

import msgspec

from gateway.core.errors import Conflict
from gateway.core.model import CallbackState, Task


def told(task: Task, upstreams: Container[str]) -> Task:
    """Return a task as it is told: one that nobody polls, as its upstream is not configured, says so."""
    if task.next_poll_at is None or task.upstream in upstreams:
        return task
    return msgspec.structs.replace(
        task, last_error=f"The upstream {task.upstream} is not configured: nobody polls this task.", next_poll_at=None
    )


def refuse_cancelling(found: CallbackState) -> None:
    """Raise Conflict where a callback was found in a state in which it is not cancelled."""
    if found in (CallbackState.DELIVERED, CallbackState.DEAD):
        raise Conflict(f"The callback is {found} already: there is nothing left to cancel.")


def refuse_redelivering(found: CallbackState) -> None:
    """Raise Conflict where a callback was found in a state in which it is not redelivered."""
    if found is CallbackState.WAITING:
        raise Conflict("The task still runs: there is no webhook to redeliver yet.")
    if found is CallbackState.CANCELLED:
        raise Conflict("The callback was cancelled; register it anew.")
