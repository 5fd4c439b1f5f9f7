"""Whether a gateway can take new work, and all that is wrong with it, in words for everybody to see.

No message of an upstream, a database or an exception is among them. Asked by ``/readyz``.
"""

import asyncio
from collections.abc import Iterator, Sequence

from gateway.api.operations import Trouble
from gateway.app.watch import Watch
from gateway.loops.supervisor import Supervisor
from gateway.store import Store

__all__ = ["ReadyCheck"]


class ReadyCheck:
    """The state of one gateway: whether it has started, whether it is shutting down, and what its parts say."""

    def __init__(self, store: Store, watches: Sequence[Watch], supervisor: Supervisor, *, needs_all: bool) -> None:
        """``needs_all``: every upstream has to accept its key, not just any."""
        self.started = asyncio.Event()
        """Set once the store is open and the loops run."""
        self.draining = asyncio.Event()
        """Set once it is to take nothing more."""
        self.supervisor = supervisor
        self._store = store
        self._watches = watches
        self._needs_all = needs_all

    def troubles(self) -> list[Trouble]:
        """Return all that is wrong."""
        found = []
        if self.draining.is_set():
            found.append(Trouble("it is shutting down", stops_work=True))
        elif not self.started.is_set():
            found.append(Trouble("it is starting", stops_work=True))
        if (lost := self._store.lost) is not None:
            found.append(Trouble(lost, stops_work=True))
        elif self._store.failing is not None:
            found.append(Trouble("the store is failing", stops_work=True))
        found.extend(self._of_upstreams())
        if (problem := self.supervisor.problem()) is not None:
            found.append(Trouble(problem, stops_work=True))
        return found

    def _of_upstreams(self) -> Iterator[Trouble]:
        refused = [watch.upstream.name for watch in self._watches if watch.key.refusal is not None]
        stops_work = self._needs_all or len(refused) == len(self._watches)
        for name in refused:
            yield Trouble(f"the upstream {name} refuses the key", stops_work)
        flaws = (
            ("accepts the key and refuses some of the tasks", lambda watch: watch.poller.refuses_tasks),
            ("answers nonsense, or denies tasks that it has told of", lambda watch: watch.poller.makes_no_sense),
            ("allows fewer requests than are configured", lambda watch: watch.key.limited),
        )
        for words, holds in flaws:
            for watch in filter(holds, self._watches):
                yield Trouble(f"the upstream {watch.upstream.name} {words}", stops_work=False)
