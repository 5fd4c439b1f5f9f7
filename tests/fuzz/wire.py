"""A connection in memory: what a protocol of asyncio's does to it, and an event loop that is stepped by hand.

Sockets would make a fuzzer a hundred times slower and put the kernel's cuts in the place of the drawn ones.
"""

import asyncio
from typing import Any

__all__ = ["Steps", "Wire"]

_MOST_TURNS = 200


class Wire(asyncio.Transport):
    """The protocol's end of the connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self.written = bytearray()
        self.paused = False
        self.gone = False
        """Closed or cut by the protocol, or lost."""
        self.half = False
        """The protocol has ended its side."""
        self._lost = False
        protocol.connection_made(self)

    def writelines(self, parts: Any) -> None:
        for part in parts:
            self.write(part)

    def write(self, data: Any) -> None:
        assert not self.half, "written after the end"
        if not self.gone:
            self.written += data

    def write_eof(self) -> None:
        self.half = True

    def close(self) -> None:
        if not self.gone:
            self.gone = True
            self._loop.call_soon(self.lose)

    def abort(self) -> None:
        self.close()

    def lose(self) -> None:
        """The connection is over, for either side's reasons."""
        self.gone = True
        if not self._lost:
            self._lost = True
            self._protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self.gone

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_reading(self) -> bool:
        return not self.paused

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Steps:
    """An event loop that runs for as long as something is ready, never until a timer."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.troubles: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.troubles.append(str(context)))

    def settle(self) -> None:
        """Run what is ready, and what that makes ready."""
        for _ in range(_MOST_TURNS):
            if not self.loop._ready:  # type: ignore[attr-defined]
                return
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        raise AssertionError("it never comes to rest")

    def feed(self, protocol: asyncio.Protocol, wire: Wire, piece: bytes) -> bool:
        """Hand over a piece once it may be read; False where the connection ended, or stays paused for good."""
        if wire.paused:
            self.settle()
        if wire.gone or wire.paused:
            return False
        asyncio._set_running_loop(self.loop)  # in which a protocol's callbacks are called
        try:
            protocol.data_received(piece)
        finally:
            asyncio._set_running_loop(None)
        return True

    def close(self) -> None:
        self.loop.close()
