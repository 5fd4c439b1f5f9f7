"""uvicorn's HTTP/1.1 connection, parsed in turns: a flood of small parts on some connections must not hold up others.

Owns that what one read has brought is parsed in order, all of it before the client's end or the gateway's is looked
at, none of it once the connection is lost, and how many small parts a body may have. ``net.unparsed`` is what waits;
``inbound`` says how requests are read.
"""

import asyncio
from typing import Any, ClassVar, cast
from weakref import WeakKeyDictionary

import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from gateway.core.errors import MalformedRequest
from gateway.net.unparsed import ParsingTurns, Unparsed
from gateway.serve.closing import ClosingProtocol

__all__ = ["PacedProtocol"]

_log = structlog.get_logger()

_SMALL_PART = 16
_turns: WeakKeyDictionary[ServerState, ParsingTurns] = WeakKeyDictionary()


class PacedProtocol(ClosingProtocol):
    """A connection whose subclass parses what ``take`` is handed, in steps."""

    parts = 0
    """Of bodies and their trailers, and headers of requests behind others, so far."""
    small_parts = 0
    """… of this one, below 16 bytes; the lines of its trailer among them."""
    max_small_parts: ClassVar[int] = 65_536
    """Of one body: each is half a microsecond's work. Who streams JSON by its tokens sends many."""
    max_unwanted_parts: ClassVar[int] = 1024
    """Of a body and its trailer whose answer was written before their end. More are not worth a connection: twenty
    floods that had been refused took a fifth of the gateway's time under attack."""
    least_step = 4 * 1024
    """Bytes that are parsed at once whatever they are; ``step`` is never less. What follows a head or a part of a body
    in them is only counted from the next on."""

    def __init__(self, config: Config, server_state: ServerState, **others: Any) -> None:
        self._found: list[bytes] = []  # of the body, in what is parsed now
        # In the method's place, before the parser is made, which keeps it: there are a thousand of the smallest chunks
        # in a few KiB, and with calls into the protocol for each they took four times as long.
        self.on_body = self._found.append  # type: ignore[assignment, method-assign]
        super().__init__(config, server_state, **others)
        if server_state not in _turns:
            _turns[server_state] = ParsingTurns()
        self._turns = _turns[server_state]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unparsed = Unparsed(self, transport, self._turns)
        # uvicorn resumes reading wherever it wants more: not while something waits.
        self.flow = FlowControl(cast("asyncio.Transport", self._unparsed))

    def connection_lost(self, exc: Exception | None) -> None:
        self._unparsed.let_go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if len(data) <= self.least_step and not (self._unparsed.owes or self.small_parts or self._unparsed.reads):
            self._unparsed.cuts = False
            known = self.parts
            self.take(data)  # most requests come so, and whole
            if self.parts > known + 1:
                self._turns.spend(self.parts - known)
                self._unparsed.found(self.parts - known, len(data))
        elif self._is_closing():
            self._drop(data)
        else:
            self._unset_keepalive_if_required()  # it may wait for its turn, and its client for an answer
            self._unparsed.add(data)

    def on_headers_complete(self) -> None:
        if self.pipeline:  # one request alone has few headers; of many in one read they are as much work as parts are
            self._count(len(self.headers), 0)
        super().on_headers_complete()

    def _hand_on_body(self) -> None:
        """Give the request what was found of its body, in one piece."""
        # Where a read is parsed in several steps, the first and the last part of each may be cut by them.
        whole = self._found[1:-1] if self._unparsed.cuts else self._found
        self._count(len(self._found), sum(map(_SMALL_PART.__gt__, map(len, whole))))
        if self.small_parts > self.max_small_parts:
            raise MalformedRequest(
                f"A body may come in at most {self.max_small_parts} parts below {_SMALL_PART} bytes."
            )
        body = self._found[0] if len(self._found) == 1 else b"".join(self._found)
        self._found.clear()
        super().on_body(body)

    def _count(self, parts: int, small: int) -> None:
        self.parts += parts
        self.small_parts += small

    @property
    def step(self) -> int:
        """Bytes of what comes next that are parsed at once."""
        raise NotImplementedError

    def take(self, data: bytes) -> None:
        """Parse what comes next."""
        raise NotImplementedError

    def give_up(self, *, floods: bool) -> None:
        if floods:
            _log.warning("inbound.flood_ended", waiting_bytes=self._turns.flooding)
        self._connection.abort()

    def shutdown(self) -> None:
        self._unparsed.finish()
        super().shutdown()
