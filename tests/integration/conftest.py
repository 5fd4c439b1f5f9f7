"""Servers on real sockets whose every byte the test decides."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial

import pytest

from gateway.app import build
from gateway.net.resolver import Resolver

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def _no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole gateways ask no name server of this machine: a port where nobody listens refuses at once."""
    monkeypatch.setattr(build, "Resolver", partial(Resolver, nameservers=["127.0.0.1:9"]))


@pytest.fixture(autouse=True)
def on_ready_files(ready_files: None) -> None:
    """Have gateways find databases with the schema. Tests of how these come to be define one that does nothing."""


class RawServer:
    """A server on 127.0.0.1 that hands each connection to a handler and counts them."""

    def __init__(self, handler: Handler) -> None:
        self.connections = 0
        self.host = "127.0.0.1"
        self.port = 0
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def netloc(self) -> str:
        return f"{self.host}:{self.port}"

    def url(self, path: str = "/", *, scheme: str = "http", host: str | None = None) -> str:
        return f"{scheme}://{host or self.host}:{self.port}{path}"

    async def start(self, tls: ssl.SSLContext | None, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, self.host, port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # A client that hangs up, or the end of the test, is an ordinary end of a connection here.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._handler(reader, writer)
        finally:
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)


@pytest.fixture
async def raw_server() -> AsyncIterator[Callable[..., Awaitable[RawServer]]]:
    """Start a server: ``server = await raw_server(handler, tls=None, port=0)``, with ``.url()``, ``.connections``."""
    servers: list[RawServer] = []

    async def start(handler: Handler, *, tls: ssl.SSLContext | None = None, port: int = 0) -> RawServer:
        server = RawServer(handler)
        await server.start(tls, port)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
def read_request() -> Callable[[asyncio.StreamReader], Awaitable[tuple[str, dict[str, str], bytes]]]:
    """Read one HTTP request from a stream: its first line, its headers by lower-case name, its body."""

    async def read(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return first, headers, await reader.readexactly(int(headers.get("content-length", "0")))

    return read


@pytest.fixture
def answering(
    read_request: Callable[[asyncio.StreamReader], Awaitable[tuple[str, dict[str, str], bytes]]],
) -> Callable[[bytes], Handler]:
    """Make a handler that answers every request on a connection with the same bytes: ``answering(b"HTTP/1.1 …")``."""

    def make(answer: bytes) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await read_request(reader)
                writer.write(answer)
                await writer.drain()

        return handle

    return make
