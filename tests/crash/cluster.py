"""Several replicas under load on one PostgreSQL, from their start to the judgement of all that was promised.

Owns the parts and the end; what happens in between is ``turmoil``'s, ``failover``'s and ``rolling``'s.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg

from tests.crash.audit import Audit, install
from tests.crash.clients import Clients
from tests.crash.process import LIMIT_S
from tests.crash.replicas import Replica
from tests.crash.sharedchecker import SharedChecker
from tests.crash.sharedsides import SharedSides
from tests.crash.sides import serve_sides
from tests.crash.snapshot import of_postgres

__all__ = ["Cluster", "cluster", "until"]

_OWED = "SELECT count(*) FROM callbacks WHERE state = 'waiting' OR state = 'pending'"
_LATEST_S = 3 * LIMIT_S


class Cluster:
    """The replicas and what they are between."""

    def __init__(self, sides: SharedSides, admin_url: Callable[[], str], seed: int) -> None:
        """``admin_url``: where a superuser finds the database now."""
        self.sides = sides
        self.checker = SharedChecker(sides)
        self.places: list[Replica] = []
        """All that there are."""
        self.replicas: list[Replica] = []
        """Those that are to run."""
        self.clients = Clients(sides, self.checker, self.there, seed)
        self.problems: list[str] = []
        self.audit = Audit()
        """Of the end."""
        self.beyond: list[str] = []
        """Where a key's limit was exceeded."""
        self._admin_url = admin_url
        self._load: asyncio.Task[None] | None = None

    @property
    def ok(self) -> bool:
        return self.checker.ok and not (self.problems or self.clients.problems or self.beyond or self.audit.wrong)

    def report(self) -> str:
        """Return what was wrong, a sentence a line."""
        kinds = {
            "lost": self.checker.lost,
            "corrupted": self.checker.corrupted,
            "stale write": self.audit.wrong,
            "limit": self.beyond,
            "problem": self.problems + self.clients.problems,
        }
        return "\n".join(f"{kind}: {sentence}" for kind, sentences in kinds.items() for sentence in sentences[:20])

    def there(self) -> Sequence[Replica]:
        """Return the replicas that run; one that is paused or cut off is among them."""
        return [one for one in self.replicas if one.gateways and one.gateway.process.returncode is None]

    @asynccontextmanager
    async def admin(self) -> "AsyncIterator[asyncpg.Connection[Any]]":
        connection = await asyncpg.connect(self._admin_url())
        try:
            yield connection
        finally:
            await connection.close()

    async def begin(self) -> None:
        """Start the replicas, the first alone, and the load."""
        first, *others = self.replicas
        await first.start()
        async with self.admin() as db:
            await install(db, first.life)
        await asyncio.gather(*(one.start() for one in others))
        self._load = asyncio.create_task(self.clients.run(), name="load")

    def round(self, number: int) -> None:
        self.sides.round = number

    async def load_for(self, seconds: float) -> None:
        """Let the clients go on for so long."""
        at = time.monotonic() + seconds
        await until(lambda: time.monotonic() > at, seconds + 1)

    async def look(self) -> None:
        """Judge what the database holds at this moment.

        In a thread: the upstream and the receivers, in this one, would keep all waiting meanwhile.
        """
        promised = list(self.checker.promised)
        async with self.admin() as db:
            snapshot = await of_postgres(db)
        await asyncio.to_thread(self.checker.judge, snapshot, promised)
        if self._load is not None and self._load.done():
            await self._load  # raises what ended it

    async def end(self) -> None:
        """Stop the load, let the replicas finish what is owed, end them, and judge it all."""
        assert self._load is not None
        self.clients.stop()
        await self._load
        async with self.admin() as db:

            async def nothing_owed() -> bool:
                return await db.fetchval(_OWED) == 0

            if not await until(nothing_owed, _LATEST_S):
                self.problems.append(f"{await db.fetchval(_OWED)} callbacks were owed after {_LATEST_S} s")
        for one in self.there():
            if (status := await one.terminate()) != 0:
                self.problems.append(f"{one.life}: exit status {status} at the end\n{one.tail()}")
        await self.sides.settled()
        async with self.admin() as db:
            self.checker.judge_at_the_end(await of_postgres(db))
            self.audit = await Audit.read(db)
        self.beyond = self.sides.beyond_limits()
        for one in self.places:
            for gateway in one.gateways:
                text = "".join(gateway.text)
                if "Traceback" in text:
                    self.problems.append(f"{one.name} logged a traceback: {text[text.index('Traceback') :][:2000]}")

    async def give_up(self) -> None:
        """End the load, where that still runs."""
        if self._load is not None:
            self._load.cancel()
            await asyncio.gather(self._load, return_exceptions=True)

    @property
    def stale_writes(self) -> float:
        return sum(one.stale_writes for one in self.places)


async def until(holds: Callable[[], Any], within_s: float) -> bool:
    """Return whether it comes to hold within that time; it may be asked for as a coroutine."""
    deadline = time.monotonic() + within_s
    while True:
        found = holds()
        if await found if asyncio.iscoroutine(found) else found:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)


@asynccontextmanager
async def cluster(
    admin_url: Callable[[], str], seed: int, make: Callable[[AsyncExitStack, SharedSides], Any]
) -> AsyncIterator[Cluster]:
    """Serve the sides; ``make`` makes the replicas, which end with the block."""
    async with AsyncExitStack() as stack:
        sides = await stack.enter_async_context(serve_sides(SharedSides()))
        run = Cluster(sides, admin_url, seed)
        run.places = await make(stack, sides)
        run.replicas = list(run.places)
        for one in run.places:
            stack.push_async_callback(one.close)
        stack.push_async_callback(run.give_up)
        yield run
