"""What has come on a connection and is not parsed yet: one read may bring thousands of small parts.

Owns that others have their turn between these, that nothing more is read meanwhile, and that what waits so is bounded.
Must not know what the parts are. ``http1`` parses answers with it, and the gateway's own server requests.
"""

import asyncio
from collections import deque
from typing import Protocol

__all__ = ["Row", "Unparsed"]

_PARTS_A_TURN = 256  # after so many others have their turn: half a millisecond at most
_MOST_WAITING = 8 * 1024 * 1024  # bytes: what comes when there are more is parsed at once, and a read is a quarter MiB
_LARGE_STEP = 8 * 1024  # bytes: who may take such steps is at a place where parts are not small, and waits for nobody


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


class Row:
    """Connections of one kind of which something waits: one or two of them go on in each turn of the loop.

    Of 35 peers whose floods came in the same turn, each with a step of its own, others waited for 20 ms.
    """

    def __init__(self) -> None:
        self.size = 0
        """Bytes that wait."""
        self.spent = 0
        """Parts that were found in this turn of the loop."""
        self._waiting: dict[Unparsed, None] = {}  # whose turn is next first
        self._turn: asyncio.Handle | None = None

    def __contains__(self, unparsed: "Unparsed") -> bool:
        return unparsed in self._waiting

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def join(self, unparsed: "Unparsed") -> None:
        """Have it go on in one of the next turns."""
        self._waiting[unparsed] = None
        self._await_turn()

    def leave(self, unparsed: "Unparsed") -> None:
        self._waiting.pop(unparsed, None)

    def spend(self, parts: int) -> None:
        if parts:
            self.spent += parts
            self._await_turn()

    def _await_turn(self) -> None:
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._turn = None
        self.spent = 0
        try:
            while self._waiting and self.spent < _PARTS_A_TURN:
                unparsed = next(iter(self._waiting))
                del self._waiting[unparsed]
                unparsed.go_on()
        finally:
            if self._waiting:
                self._await_turn()


class Unparsed:
    """One connection's, and whether its transport reads: while nothing waits here, and its owner wants it to.

    Of twenty peers that send the smallest parts there are, each with a whole buffer full, others waited for a quarter
    of a second.
    """

    def __init__(self, owner: _Parsing, transport: asyncio.Transport, row: Row) -> None:
        self._owner = owner
        self._transport = transport
        self._row = row
        self.reads: deque[bytes] = deque()
        """What waits."""
        self._at = 0  # where in the first of them the rest begins
        self._stopped = False
        self.paused = False
        """By its owner."""

    def add(self, data: bytes) -> None:
        """Parse what one read has brought, of many small parts some and the rest in later turns of the loop."""
        step = self._owner.step
        if not self.reads and len(data) <= step:
            self._owner.take(data)
            return
        waits = bool(self.reads) or (self._row.spent >= _PARTS_A_TURN and step < _LARGE_STEP)
        self.reads.append(data)
        self._row.size += len(data)
        if not waits or self._row.size > _MOST_WAITING:
            self._parse()
        elif self not in self._row:
            self._row.join(self)
        self._settle()

    def go_on(self) -> None:
        """Parse some of what waits: it is this one's turn."""
        try:
            self._parse()
            self._settle()
        except BaseException:  # as the loop itself ends a connection whose read raises
            self.drop()
            self._transport.abort()
            raise

    def finish(self) -> None:
        """Parse at once what waits: its connection has come to an end."""
        while self.reads:
            self._owner.take(self._next())
        self._settle()

    def drop(self) -> None:
        """Forget what waits; reads no more either."""
        self._row.size -= sum(map(len, self.reads)) - self._at
        self._at = 0
        self.reads.clear()
        self._row.leave(self)

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

    def _parse(self) -> None:
        owner = self._owner
        before = known = owner.parts
        while self.reads:
            owner.take(self._next())
            self._row.spend(owner.parts - known)
            known = owner.parts
            if known - before >= _PARTS_A_TURN and self._row.size <= _MOST_WAITING:
                break
        if self.reads:
            self._row.join(self)

    def _next(self) -> bytes:
        data, step = self.reads[0], self._owner.step
        piece = data[self._at : self._at + step]
        self._at += len(piece)
        self._row.size -= len(piece)
        if self._at >= len(data):
            self.reads.popleft()
            self._at = 0
        return piece

    def _settle(self) -> None:
        if not self.reads:
            self._row.leave(self)
        stop = self.paused or bool(self.reads)
        if stop != self._stopped:
            self._stopped = stop
            (self._transport.pause_reading if stop else self._transport.resume_reading)()
