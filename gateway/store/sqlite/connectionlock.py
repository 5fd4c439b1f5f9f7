"""Who may use the one connection: all who need it for one call each, or one who is alone.

Owns the turns; knows no database. Called by ``database``.

Each read and each transaction is one call in the database's thread, which takes them one after the other: so they share
the connection, and none waits in the event loop for another's end. Under load that was most of what a write waited
for. Who is to be alone, as a backup's pages are, waits until those within have ended, and who comes meanwhile waits
until it has.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class ConnectionLock:
    """Held by one who is alone, or by some who share it."""

    def __init__(self) -> None:
        self._sharing = 0
        self._alone = False
        self._sharers: deque[asyncio.Future[None]] = deque()  # that wait
        self._loners: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait until nobody else has it, and keep others out until the block ends."""
        await self.begin_alone()
        try:
            yield
        finally:
            self.end_alone()

    async def begin_alone(self) -> None:
        """Wait for a turn alone, after all who wait by now to share; ``end_alone`` is to follow."""
        if self._alone or self._sharing:  # else nobody waits
            await self._wait(self._loners, self.end_alone)
        else:
            self._alone = True

    def end_alone(self) -> None:
        self._alone = False
        self._let_sharers_in()
        self._let_loner_in()

    async def begin_share(self) -> None:
        """Wait for a turn that others may share; ``end_share`` is to follow."""
        if not self.share_at_once():
            await self._wait(self._sharers, self.end_share)

    def share_at_once(self) -> bool:
        """Begin to share where nobody is waited for; return whether that is so, and ``end_share`` is to follow."""
        if self._alone or self._loners:
            return False
        self._sharing += 1
        return True

    def end_share(self) -> None:
        self._sharing -= 1
        self._go_on()

    async def _wait(self, row: deque[asyncio.Future[None]], end: Callable[[], None]) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        row.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # passed over already
                    row.remove(turn)
                self._go_on()
            else:
                end()
            raise

    def _go_on(self) -> None:
        self._let_loner_in()
        if not self._loners:
            self._let_sharers_in()

    def _let_loner_in(self) -> None:
        if not self._alone and not self._sharing and (turn := _next(self._loners)) is not None:
            self._alone = True
            turn.set_result(None)

    def _let_sharers_in(self) -> None:
        while not self._alone and (turn := _next(self._sharers)) is not None:
            self._sharing += 1
            turn.set_result(None)


def _next(row: deque[asyncio.Future[None]]) -> asyncio.Future[None] | None:
    """Take the first one out that still waits: one that was cancelled stands in the row until its task has run."""
    while row:
        turn = row.popleft()
        if not turn.done():
            return turn
    return None
