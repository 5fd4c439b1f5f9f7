"""What has come on a connection and is not parsed yet: one read may bring thousands of small parts.

Owns that others have their turn between these, that nothing more is read meanwhile, and that what waits so is bounded.
Must not know what the parts are. ``http1`` parses answers with it, and the gateway's own server requests.
"""

import asyncio
from collections import deque
from typing import Protocol

__all__ = ["LARGE_STEP", "ParsingTurns", "Unparsed"]

LARGE_STEP = 8 * 1024
"""Bytes. Who takes such steps, or larger ones, is at a place where no parts are small: unless it has flooded before, it
waits for nobody."""
_PARTS_A_TURN = 256  # after so many others have their turn: half a millisecond at most
_PARTS_A_READ = 32  # hold up nobody: a connection that has flooded is one as others are after some such reads
_LARGE_PART = 256  # bytes: nor do parts of that size, however many they are, as of an upload in chunks
_MOST_OWED = 2 * _PARTS_A_TURN
_MOST_WAITING = 8 * 1024 * 1024  # bytes of floods, and as many of others; a read is a quarter MiB


class _Parsing(Protocol):
    """Whose bytes they are."""

    @property
    def parts(self) -> int:
        """Found so far; never less than before."""

    @property
    def step(self) -> int:
        """Bytes of what comes next that are parsed at once, before ``parts`` is looked at."""

    def take(self, data: bytes) -> None:
        """Parse what comes next."""

    def give_up(self, *, floods: bool) -> None:
        """End the connection: what has come on it is thrown away, as it ``floods``, or as ``take`` has raised."""


class ParsingTurns:
    """Who of the connections of one kind is parsed next: in each turn of the event loop so many parts of all of them.

    Those that have flooded go on one in a turn, one after the other; the others before them, in the order of coming, so
    that none of these waits behind a flood. While more of floods waits than may, the one of which most does comes to
    its end; while more of others does, what they bring is parsed as it comes. Of 35 peers whose floods came in one
    turn, each with a step of its own, others waited for 20 ms; of 160 that were parsed at once, as too much waited, for
    a second.
    """

    def __init__(self) -> None:
        self.size = 0
        """Bytes that wait."""
        self.flooding = 0
        """… of floods."""
        self._spent = 0  # parts that were found in this turn of the loop
        self._floods: dict[Unparsed, None] = {}  # that wait, whose turn is next first
        self._others: dict[Unparsed, None] = {}
        self._turn: asyncio.Handle | None = None

    def __contains__(self, unparsed: "Unparsed") -> bool:
        return unparsed in self._floods or unparsed in self._others

    @property
    def is_full(self) -> bool:
        """Whether more of what is no flood waits than may."""
        return self.size - self.flooding > _MOST_WAITING

    @property
    def is_spent(self) -> bool:
        """Whether so many parts were found in this turn that the rest has to wait."""
        return self._spent >= _PARTS_A_TURN

    def join(self, unparsed: "Unparsed") -> None:
        """Have it go on in one of the next turns."""
        self._await_turn()
        if not unparsed.floods:
            self._others[unparsed] = None
            return
        self._floods[unparsed] = None
        self.flooding += unparsed.size
        while self.flooding > _MOST_WAITING:
            max(self._floods, key=lambda one: one.size).end()

    def leave(self, unparsed: "Unparsed") -> None:
        self._others.pop(unparsed, None)
        if unparsed in self._floods:
            del self._floods[unparsed]
            self.flooding -= unparsed.size

    def count(self, unparsed: "Unparsed", size: int) -> None:
        """Hear that so many bytes more wait of one, or fewer."""
        self.size += size
        if unparsed in self._floods:
            self.flooding += size

    def spend(self, parts: int) -> None:
        if parts:
            self._spent += parts
            self._await_turn()

    def _await_turn(self) -> None:
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._turn = None
        self._spent = 0
        try:
            while self._others and not self.is_spent:
                self._next(self._others).go_on()
            if self._floods:
                self._next(self._floods).go_on()
        finally:
            if self._floods or self._others:
                self._await_turn()

    def _next(self, waiting: "dict[Unparsed, None]") -> "Unparsed":
        unparsed = next(iter(waiting))
        self.leave(unparsed)
        return unparsed


class Unparsed:
    """One connection's, and whether its transport reads: while nothing waits here, and its owner wants it to.

    Of twenty peers that send the smallest parts there are, each with a whole buffer full, others waited for a quarter
    of a second.
    """

    def __init__(self, owner: _Parsing, transport: asyncio.Transport, turns: ParsingTurns) -> None:
        self._owner = owner
        self._transport = transport
        self._turns = turns
        self.reads: deque[bytes] = deque()
        """What waits."""
        self.owes = 0
        """Parts that it has brought of late above what each read may have."""
        self.size = 0
        """Bytes that wait."""
        self.cuts = False
        """Whether what is parsed now is not all of a read: it begins, or ends, within some part."""
        self._at = 0  # where in the first of the reads the rest begins
        self._stopped = False
        self.paused = False
        """By its owner."""

    def add(self, data: bytes) -> None:
        """Parse what one read has brought, of many small parts some and the rest in later turns of the loop."""
        waits = bool(self.reads)
        self.reads.append(data)
        self._count(len(data))
        if waits:
            return
        at_once = not self._turns.is_spent or self._turns.is_full or self._owner.step >= LARGE_STEP
        if at_once and not self.floods:
            self._parse()
        else:
            self._turns.join(self)
        self._settle()

    @property
    def floods(self) -> bool:
        """Whether it has brought more parts of late than all may have in one turn."""
        return self.owes >= _PARTS_A_TURN

    def found(self, parts: int, size: int) -> None:
        """Hear how many parts were in a read, or in as many of its bytes as were parsed at once."""
        self.owes = min(max(self.owes + parts - max(_PARTS_A_READ, size // _LARGE_PART), 0), _MOST_OWED)

    def go_on(self) -> None:
        """Parse some of what waits: it is this one's turn."""
        try:
            self._parse()
            self._settle()
        except BaseException:  # as the loop itself ends a connection whose read raises
            self.drop()
            self._owner.give_up(floods=False)
            raise

    def end(self) -> None:
        """End the connection of a flood, and forget what waits."""
        self.drop()
        self._owner.give_up(floods=True)

    def finish(self) -> None:
        """Parse at once what waits: its connection has come to an end."""
        while self.reads:
            self._owner.take(self._next())
        self._settle()

    def drop(self) -> None:
        """Forget what waits; reads no more either."""
        self._turns.leave(self)
        self._count(-self.size)
        self._at = 0
        self.reads.clear()

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

    def _count(self, size: int) -> None:
        self.size += size
        self._turns.count(self, size)

    def _parse(self) -> None:
        owner, size = self._owner, self.size
        before = known = owner.parts
        while self.reads:
            owner.take(self._next())
            self._turns.spend(owner.parts - known)
            known = owner.parts
            if known - before >= _PARTS_A_TURN:
                break
        self.found(known - before, size - self.size)
        if self.reads:
            self._turns.join(self)

    def _next(self) -> bytes:
        data, step = self.reads[0], self._owner.step
        piece = data[self._at : self._at + step]
        self.cuts = len(piece) < len(data)
        self._at += len(piece)
        self._count(-len(piece))
        if self._at >= len(data):
            self.reads.popleft()
            self._at = 0
        return piece

    def _settle(self) -> None:
        if not self.reads:
            self._turns.leave(self)
        stop = self.paused or bool(self.reads)
        if stop != self._stopped:
            self._stopped = stop
            (self._transport.pause_reading if stop else self._transport.resume_reading)()
