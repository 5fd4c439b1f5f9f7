"""Three replicas that are replaced under load, one at a time: a fourth is started, then an old one gets SIGTERM.

Owns the order. No registration may fail that is tried once more, nothing may be sent twice, and the keys' limits hold
for all four.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.cluster import Cluster, cluster
from tests.crash.replicas import Replica
from tests.crash.sharedsides import SharedSides
from tests.postgres import Server

__all__ = ["Rolling", "rolling"]

_TOGETHER_S = 3.0


@dataclass
class Rolling:
    """The replacements, and what was seen of them."""

    cluster: Cluster
    spare: Replica
    """The place that is empty."""
    replaced: int = 0
    exits_s: list[float] = field(default_factory=list)

    async def play(self, rounds: int, together_s: float = _TOGETHER_S) -> None:
        """Replace each of the three so many times, then let them finish, and judge it all.

        ``together_s``: so long all four run side by side, each time.
        """
        run = self.cluster
        await run.begin()
        for number in range(rounds):
            run.round(number)
            for old in list(run.replicas):
                new, self.spare = self.spare, old
                run.replicas.append(new)
                await new.start()
                await run.load_for(together_s)
                await self._terminate(old)
                run.replicas.remove(old)
                self.replaced += 1
            await run.look()
        await run.end()
        for one in run.clients.second:
            run.problems.append(f"a registration failed that was tried once more: {one}")

    async def _terminate(self, old: Replica) -> None:
        began_at = time.monotonic()
        if (status := await old.terminate()) != 0:
            self.cluster.problems.append(f"{old.life}: exit status {status} at SIGTERM\n{old.tail()}")
        self.exits_s.append(time.monotonic() - began_at)


@asynccontextmanager
async def rolling(folder: Path, server: Server, seed: int, count: int = 3) -> AsyncIterator[Rolling]:
    """Run so many replicas on a server, with a place for one more."""

    async def make(stack: AsyncExitStack, sides: SharedSides) -> list[Replica]:
        return [Replica(f"r{number}", server.url(), sides, folder, None) for number in range(count + 1)]

    async with cluster(lambda: server.url(user="postgres"), seed, make) as run:
        yield Rolling(run, run.replicas.pop())
