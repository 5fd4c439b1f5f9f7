"""What the proxy reads and changes: creates that their clients may repeat, and tasks that are polled for readers.

Owns no logic: it is the proxy's part of ``gateway.store.Registry``.
"""

from collections.abc import Sequence
from typing import Protocol

from gateway.core.creates import CreateAnswer, KnownCreate, NewCreate
from gateway.core.model import NewCallback, Registration
from gateway.core.reads import PollAgain, ReadTask, ReadWatch, Watched


class ProxyRegistry(Protocol):
    """Creates, and what readers wait for."""

    # Creates that their clients may repeat. They are forgotten after a while: see ``Housekeeping.prune_creates``.

    async def known_create(self, create: NewCreate) -> KnownCreate | None:
        """Return what is known of a create under this client's, upstream's and request's id; None: it is new."""

    async def begin_create(self, create: NewCreate) -> bool:
        """Take down that a create is about to be forwarded; False where one under its id has been taken down before."""

    async def end_create(
        self, create: NewCreate, answer: CreateAnswer, new: Sequence[NewCallback]
    ) -> list[Registration]:
        """Keep a create's answer, and register the callbacks that it asked for, in one transaction."""

    async def lose_create(self, create: NewCreate, now: int) -> None:
        """Take down that a create's answer will never be known, so that nobody waits for it; one that is kept stays."""

    async def forget_create(self, create: NewCreate) -> None:
        """Forget a create of which no answer is kept: it is known that it has made no task."""

    # What the proxy's readers wait for. Nobody is told of others' callbacks by it.

    async def proxied_task(self, upstream: str, task_id: str) -> ReadTask | None:
        """Return the task, whoever asked for it."""

    async def record(self, seq: int) -> bytes | None:
        """Return a task's record, however large; None where it has none any more."""

    async def watch(self, wish: ReadWatch) -> Watched | None:
        """Have a task polled for its readers, or for longer; return what became of that.

        Where there is no such task it is made. None: readers wait for too many others.
        """

    async def poll_again(self, wish: PollAgain) -> None:
        """Have a task asked about at once, where it is polled: also where a poll is under way, once that has ended.

        What its wish tells of the task's end is its record from then on.
        """
