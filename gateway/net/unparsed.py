"""What has come on a connection and is not parsed yet: one read may bring thousands of small parts.

Owns that others have their turn between these, that nothing more is read meanwhile, and that only some connections
keep a read waiting so. Must not know what the parts are. ``http1`` parses answers with it, and the gateway's own
server requests.
"""

import asyncio
from collections import deque
from typing import Protocol

__all__ = ["Unparsed"]

_PARTS_A_TURN = 256  # after so many others have their turn: half a millisecond at most
_MOST_BEHIND = 32  # connections of which something waits for that: a read is a quarter of a megabyte


class _Parsing(Protocol):
    """Whose bytes they are."""

    @property
    def parts(self) -> int:
        """Found so far."""

    @property
    def step(self) -> int:
        """Bytes of what comes next that are parsed at once, before ``parts`` is looked at."""

    def take(self, data: bytes) -> None:
        """Parse what comes next."""


class Unparsed:
    """One connection's, and whether its transport reads: while nothing waits here, and its owner wants it to.

    Of twenty peers that send the smallest parts there are, each with a whole buffer full, others waited for a quarter
    of a second.
    """

    def __init__(self, owner: _Parsing, transport: asyncio.Transport, behind: set["Unparsed"]) -> None:
        """``behind``: those of the same kind of which something waits; of others, when it is full, nothing does."""
        self._owner = owner
        self._transport = transport
        self._behind = behind
        self.reads: deque[bytes] = deque()
        """What waits."""
        self._at = 0  # where in the first of them the rest begins
        self._skip = 0  # turns of the loop until this one's next
        self._stopped = False
        self.paused = False
        """By its owner."""

    def add(self, data: bytes) -> None:
        """Parse what one read has brought, of many small parts some and the rest in the next turns of the loop."""
        if self.reads:
            self.reads.append(data)
        elif len(data) <= self._owner.step:
            self._owner.take(data)
        else:
            self.reads.append(data)
            self._take_turn()

    def finish(self) -> None:
        """Parse at once what waits: its connection has come to an end."""
        while self.reads:
            self._owner.take(self._next())
        self._settle()

    def drop(self) -> None:
        """Forget what waits; reads no more either."""
        self.reads.clear()
        self._behind.discard(self)

    def let_go(self) -> None:
        """Forget its owner too, of whom nothing comes any more: they refer to each other."""
        self.drop()
        del self._owner

    def pause_reading(self) -> None:
        self.paused = True
        self._settle()

    def resume_reading(self) -> None:
        self.paused = False
        self._settle()

    def _take_turn(self) -> None:
        owner, before = self._owner, self._owner.parts
        may_wait = self in self._behind or len(self._behind) < _MOST_BEHIND
        while self.reads:
            owner.take(self._next())
            if may_wait and owner.parts - before >= _PARTS_A_TURN:
                break
        if self.reads:
            self._behind.add(self)
            self._skip = len(self._behind) - 1  # so that in each turn it is about one of them
            asyncio.get_running_loop().call_soon(self._go_on)
        self._settle()

    def _go_on(self) -> None:
        if self._skip and self.reads:
            self._skip -= 1
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        try:
            if self.reads:
                self._take_turn()
        except BaseException:  # as the loop itself ends a connection whose read raises
            self.drop()
            self._transport.abort()
            raise

    def _next(self) -> bytes:
        data, step = self.reads[0], self._owner.step
        piece = data[self._at : self._at + step]
        self._at += step
        if self._at >= len(data):
            self.reads.popleft()
            self._at = 0
        return piece

    def _settle(self) -> None:
        if not self.reads:
            self._behind.discard(self)
        stop = self.paused or bool(self.reads)
        if stop != self._stopped:
            self._stopped = stop
            (self._transport.pause_reading if stop else self._transport.resume_reading)()
