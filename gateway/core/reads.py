"""What the proxy's readers wait for: a task as they see it, and their wishes that it be polled.

Pure types, beside those of ``model``. The API and the store speak in them.
"""

import msgspec

from gateway.core.model import Task

__all__ = ["PollAgain", "ReadTask", "ReadWatch"]


class ReadTask(msgspec.Struct, frozen=True, kw_only=True, gc=False, array_like=True):
    """A task as the proxy's readers see it, whoever registered what for it."""

    task: Task
    """Its outcome only where there is no record to answer from."""
    watchers: str
    """As in ``DueTask``."""
    read_until: int | None
    """Until when it is polled for readers, who prolong that; None: none have asked about it."""
    record: bytes | None
    """What the upstream last told of a task that is read, or the body of a webhook of format record; where it is small,
    else the store is asked for it."""
    record_bytes: int
    """How large that is."""


class ReadWatch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A reader's wish that a task be polled until then, with what the upstream has told of it."""

    upstream: str
    task_id: str
    client: str
    at: int
    read_until: int
    next_poll_at: int
    """When a task is asked about that nobody waits for yet."""
    told: bool = False
    """Whether the upstream has just told that it runs, so that this counts as a poll."""
    begins: bool = False
    """Whether no reader was known to wait for it before."""
    born_at: int | None = None
    model: str | None = None
    """Both as in ``PollRecord``."""
    record: bytes | None = None
    """What the upstream has told, as JSON; None keeps what is known."""


class PollAgain(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The wish that a task which is polled anyway be asked about at once, as there is news of it."""

    upstream: str
    task_id: str
    at: int
    record: bytes | None = None
    """What the upstream has told of its end, as JSON; None where that is not known."""
    read_until: int = 0
    """Until when that is kept for readers, at least."""
