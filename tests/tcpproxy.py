"""A TCP proxy that cuts its clients off: in silence, as a network that drops all packets, or with resets.

In silence nobody is told: connections stand, new ones are taken, and nothing passes in either direction. What was
on its way then arrives late, or never, as the harness says. Called by the tests of several replicas and of failover.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

__all__ = ["TcpProxy", "tcp_proxy"]

_AT_ONCE = 65_536


class TcpProxy:
    """Between any number of clients and one server."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        """Where it listens."""
        self.connections = 0
        """How many were made since it began."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._open: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    def silence(self) -> None:
        """Let nothing through from now on."""
        self._flowing.clear()

    def reset(self) -> None:
        """Reset all connections, and from now on each new one."""
        self._refusing = True
        for writers in self._open.values():
            _reset(writers)

    def mend(self, *, late: bool = False) -> None:
        """Let all through again; ``late``: also what was on its way meanwhile, else its connections are reset."""
        if not late and not self._flowing.is_set():
            for writers in self._open.values():
                _reset(writers)
        self._refusing = False
        self._flowing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        writers = self._open[task] = [writer]
        try:
            if self._refusing:
                return
            with suppress(OSError, asyncio.CancelledError):
                await self._flowing.wait()
                from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
                writers.append(to_server)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass_on(reader, to_server, writers))
                    group.create_task(self._pass_on(from_server, writer, writers))
        finally:
            _reset(writers)
            del self._open[task]

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, writers: list[asyncio.StreamWriter]
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_AT_ONCE):
                await self._flowing.wait()
                if writer.is_closing():  # with uvloop a write would be a RuntimeError
                    break
                writer.write(data)
                await writer.drain()
            await self._flowing.wait()
            if not writer.is_closing():
                writer.write_eof()
                return
        _reset(writers)

    async def close(self) -> None:
        """Reset what is open, and return when it has ended."""
        for task, writers in self._open.items():
            _reset(writers)
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)


@asynccontextmanager
async def tcp_proxy(port: int) -> AsyncIterator[TcpProxy]:
    """Run one in front of a port of this machine until the block ends."""
    proxy = TcpProxy(port)
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.close()


def _reset(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        transport = writer.transport
        if transport.is_closing():
            continue
        found: socket.socket = transport.get_extra_info("socket")
        with suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
