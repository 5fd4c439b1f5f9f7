"""Whose turn it is at the one connection: one who writes, or those who read.

Owns the turns; knows no database. Called by ``database``.

Whoever waits to read when a write ends goes before the next write, sixteen together: so a read waits for one
transaction for every sixteen that wait before it, and not for one each. Who comes while they read waits for the next
write's end where somebody waits to write: so a write waits for one such turn.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

__all__ = ["ConnectionLock"]

_READS_AT_ONCE = 16  # of one turn, so that a write never waits long: most take a tenth of a millisecond, lists a few


class ConnectionLock:
    """Held by one who writes, or by some who read."""

    def __init__(self) -> None:
        self._reading = 0
        self._writing = False
        self._readers: deque[asyncio.Future[None]] = deque()  # that wait
        self._writers: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Wait until nobody reads or writes, and be alone until the block ends."""
        await self.begin_write()
        try:
            yield
        finally:
            self.end_write()

    async def begin_write(self) -> None:
        """Wait for a turn to write; ``end_write`` is to follow."""
        if self._writing or self._reading:  # else nobody waits
            await self._wait(self._writers, self.end_write)
        else:
            self._writing = True

    def end_write(self) -> None:
        """End a turn to write."""
        self._writing = False
        self._let_readers_in()
        self._let_writer_in()

    async def begin_read(self) -> None:
        """Wait for a turn to read, which others may share; ``end_read`` is to follow."""
        if self._writing or self._writers or self._reading >= _READS_AT_ONCE:
            await self._wait(self._readers, self.end_read)
        else:
            self._reading += 1

    def end_read(self) -> None:
        """End a turn to read."""
        self._reading -= 1
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
        self._let_writer_in()
        if not self._writers:
            self._let_readers_in()

    def _let_writer_in(self) -> None:
        if not self._writing and not self._reading and (turn := _next(self._writers)) is not None:
            self._writing = True
            turn.set_result(None)

    def _let_readers_in(self) -> None:
        while not self._writing and self._reading < _READS_AT_ONCE and (turn := _next(self._readers)) is not None:
            self._reading += 1
            turn.set_result(None)


def _next(row: deque[asyncio.Future[None]]) -> asyncio.Future[None] | None:
    """Take the first one out that still waits: one that was cancelled stands in the row until its task has run."""
    while row:
        turn = row.popleft()
        if not turn.done():
            return turn
    return None
