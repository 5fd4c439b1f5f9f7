"""uvicorn's HTTP/1.1 connection, parsed in turns: a flood of small parts on some connections must not hold up others.

Owns that what one read has brought is parsed in order, all of it before the client's end or the gateway's is looked
at, and none of it once the connection is lost. ``net.unparsed`` is what waits; ``inbound`` says how requests are read.
"""

import asyncio
from typing import Any, cast
from weakref import WeakKeyDictionary

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from gateway.net.unparsed import Row, Unparsed
from gateway.serve.closing import ClosingProtocol

__all__ = ["PacedProtocol"]

_rows: WeakKeyDictionary[ServerState, Row] = WeakKeyDictionary()


class PacedProtocol(ClosingProtocol):
    """A connection whose subclass parses what ``take`` is handed, in steps."""

    parts = 0
    """Of bodies and their trailers so far."""
    least_step = 4 * 1024
    """Bytes that are parsed at once whatever they are; ``step`` is never less. What follows a head or a part of a body
    in them is only counted from the next on."""

    def __init__(self, config: Config, server_state: ServerState, **others: Any) -> None:
        self._found: list[bytes] = []  # of the body, in what is parsed now
        # In the method's place, before the parser is made, which keeps it: there are a thousand of the smallest chunks
        # in a few KiB, and with calls into the protocol for each they took four times as long.
        self.on_body = self._found.append  # type: ignore[assignment, method-assign]
        super().__init__(config, server_state, **others)
        self._row = _rows.setdefault(server_state, Row())

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unparsed = Unparsed(self, transport, self._row)
        # uvicorn resumes reading wherever it wants more: not while something waits.
        self.flow = FlowControl(cast("asyncio.Transport", self._unparsed))

    def connection_lost(self, exc: Exception | None) -> None:
        self._unparsed.let_go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if len(data) <= self.least_step and not self._unparsed.reads:
            self.take(data)  # most requests come so, and whole
        else:
            self._unparsed.add(data)

    def _hand_on_body(self) -> None:
        """Give the request what was found of its body, in one piece."""
        self.parts += len(self._found)
        body = self._found[0] if len(self._found) == 1 else b"".join(self._found)
        self._found.clear()
        super().on_body(body)

    @property
    def step(self) -> int:
        """Bytes of what comes next that are parsed at once."""
        raise NotImplementedError

    def take(self, data: bytes) -> None:
        """Parse what comes next."""
        raise NotImplementedError

    def shutdown(self) -> None:
        self._unparsed.finish()
        super().shutdown()
