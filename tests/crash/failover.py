"""Replicas whose primary is killed under load, again and again, while a standby takes its place.

Owns the failovers, and for how long clients that try once more saw an error. Each commit is on the standby before it is
confirmed, so that nothing that was answered 201 may be missing.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.cluster import Cluster, cluster, until
from tests.crash.replicas import Replica
from tests.crash.sharedchecker import Fault
from tests.crash.sharedsides import SharedSides
from tests.pgpair import Failover, Pair

__all__ = ["DETECT_S", "Failovers", "failovers"]

DETECT_S = 6.0
"""How long somebody takes to notice that the primary has gone: longer than clients are told to wait."""
_BETWEEN_S = 3.0
_BACK_S = 30.0
_RECONNECTED_S = 1.0
"""So soon after the promotion each replica has found the new primary."""


@dataclass
class Failovers:
    """The failovers, and what clients saw of them."""

    cluster: Cluster
    pair: Pair
    done: list[Failover] = field(default_factory=list)
    errors_s: list[float] = field(default_factory=list)
    """When the last client got an error, so many seconds after the promotion."""
    second_errors_s: list[float] = field(default_factory=list)
    """The same of clients that had asked once more, as they were told to; below 0: before it."""

    async def play(self, failovers: int, detect_s: float = DETECT_S) -> None:
        """Fail over so many times, then let the replicas finish, and judge it all."""
        run = self.cluster
        run.clients.patient, run.clients.workers = True, 24
        await run.begin()
        for number in range(failovers):
            run.round(number)
            await run.load_for(_BETWEEN_S)
            await self._fail_over(detect_s)
            await self.pair.rebuild()
            await run.look()
            if not run.ok:
                run.problems.append(f"seen after failover {number}")
                return
        await run.end()

    async def _fail_over(self, detect_s: float) -> None:
        run, clients = self.cluster, self.cluster.clients
        failed = len(clients.first), len(clients.second)
        faults = [Fault("failover", one.name, time.monotonic(), float("inf")) for one in run.replicas]
        run.checker.faults += faults
        failover = await self.pair.fail_over(detect_s)
        self.done.append(failover)
        clients.answered.clear()
        if not await until(clients.answered.is_set, _BACK_S):
            run.problems.append(f"nothing was answered for {_BACK_S} s after a promotion")
        for one in run.replicas:
            await one.ready()
        for fault in faults:
            fault.until = time.monotonic()
        await run.load_for(_BETWEEN_S)
        for kept, failures, before in zip(
            (self.errors_s, self.second_errors_s), (clients.first, clients.second), failed, strict=True
        ):
            kept.append(max((one.ended_at for one in failures[before:]), default=failover.killed_at))
            kept[-1] -= failover.promoted_at
            if kept[-1] > _RECONNECTED_S:
                late = [one for one in failures[before:] if one.ended_at > failover.promoted_at + _RECONNECTED_S]
                run.problems.append(f"errors long after a promotion: {late[:3]}")


@asynccontextmanager
async def failovers(folder: Path, pair: Pair, seed: int, count: int = 3) -> AsyncIterator[Failovers]:
    """Run so many replicas on both servers."""

    async def make(stack: AsyncExitStack, sides: SharedSides) -> list[Replica]:
        return [Replica(f"r{number}", pair.url, sides, folder, None) for number in range(count)]

    async with cluster(lambda: pair.primary.url(user="postgres"), seed, make) as run:
        yield Failovers(run, pair)
