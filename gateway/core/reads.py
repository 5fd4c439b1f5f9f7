"""What the proxy's readers wait for: a task as they see it, and their wishes that it be polled.

Pure types, beside those of ``model``. The API and the store speak in them.
"""

from typing import NamedTuple

import msgspec

from gateway.core.model import Task

END_TOLD = 2**62
"""Stands in the place of when a task's record was told, where that tells of its end: nothing is newer than that."""


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
    told_at: int | None = None
    """When the record was told while the task ran, or ``END_TOLD``: of one that has ended where it is kept for good."""
    denied_at: int | None = None
    """Since when the upstream has been found to have long denied that there is the task, of which it had told; None: it
    does not. Readers are to hear so from the upstream itself."""

    @property
    def end_told(self) -> bool:
        """Whether the record tells of the task's end; of one that is polled that is yet to be stored."""
        return self.record_bytes > 0 and self.told_at == END_TOLD


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
    asked_at: int | None = None
    """When it was asked for that; None: at the same moment. What was told after that is newer, and stays."""


class Watched(NamedTuple):
    """What became of a reader's wish."""

    seq: int | None
    """Of the task's row; None: it has ended, or was given up and the upstream has not told of it since."""
    overtaken: bool
    """Whether what the wish tells of the task is not what stands, as another was told more meanwhile, or its end."""


class PollAgain(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The wish that a task which is polled anyway be asked about at once, as there is news of it."""

    upstream: str
    task_id: str
    at: int
    record: bytes | None = None
    """What the upstream has told of its end, as JSON; None where that is not known."""
    read_until: int = 0
    """Until when that is kept for readers, at least."""
