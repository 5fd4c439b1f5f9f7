"""uvicorn's HTTP/1.1 connection, parsed in turns: a flood of small parts on some connections must not hold up others.

Owns that what one read has brought is parsed in order, all of it before the client's end or the gateway's is looked
at, and none of it once the connection is lost. ``net.unparsed`` is what waits; ``inbound`` says how requests are read.
"""

import asyncio
from typing import ClassVar, cast

from uvicorn.protocols.http.flow_control import FlowControl

from gateway.net.unparsed import Unparsed
from gateway.serve.closing import ClosingProtocol

__all__ = ["PacedProtocol"]


class PacedProtocol(ClosingProtocol):
    """A connection whose subclass parses what ``take`` is handed, in steps."""

    parts = 0
    """Of bodies so far."""
    _behind: ClassVar[set[Unparsed]] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unparsed = Unparsed(self, transport, self._behind)
        # uvicorn resumes reading wherever it wants more: not while something waits.
        self.flow = FlowControl(cast("asyncio.Transport", self._unparsed))

    def connection_lost(self, exc: Exception | None) -> None:
        self._unparsed.let_go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unparsed.add(data)

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
