"""A client of which a test decides every byte, and an application to talk to, behind the gateway's own connections.

Called by the tests of what one client's connection may cost.
"""

import asyncio
import gc
import json
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

from gateway.serve.asgi import serve_asgi
from gateway.serve.inbound import InboundProtocol
from gateway.serve.serverprotocol import ServerProtocol

__all__ = ["BIG", "GET", "LIMIT_S", "App", "Hasty", "Peer", "Watched", "freed", "served"]

Message = MutableMapping[str, Any]
GET = b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n"
BIG = 64 * 1024 * 1024
LIMIT_S = 20


class Hasty(InboundProtocol):
    """The same limits, sooner."""

    head_s = 0.2
    body_s = 0.25
    read_s = 0.3
    linger_s = 0.3


class Watched(Hasty):
    """Says when its connection has ended."""

    ended: ClassVar[asyncio.Event]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.ended.set()


class App:
    """Answers each path with its name; ``/hold`` once told to, ``/body`` with what was sent, ``/big`` with 64 MiB.

    ``/refuse`` closes the connection without a look at the body, ``/give-up`` after a part of it, ``/fail`` half way
    through the answer.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self.disconnected = asyncio.Event()
        self.cancelled: list[str] = []
        """The requests that ended with their client."""

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Any]
    ) -> None:
        try:
            await self._serve(scope, receive, send)
        except asyncio.CancelledError:
            self.cancelled.append(scope["path"])
            raise

    async def _serve(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Any]
    ) -> None:
        path = scope["path"]
        self.seen.append(path)
        answer = path.encode()
        if path == "/hold":
            self.held.set()
            await self.release.wait()
        elif path == "/body":
            answer = b""
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.disconnected.set()
                    return
                answer += message["body"]
                if not message["more_body"]:
                    break
        elif path == "/big":
            answer = bytes(BIG)
        elif path == "/give-up":
            await receive()
        headers = [(b"content-length", str(len(answer)).encode())]
        if path in ("/refuse", "/give-up"):
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer, "more_body": path == "/fail"})


class Peer:
    """A client of which the test decides every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer: its status, its headers by lower-case name, its body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert len(headers) == len(lines), "a header is there twice"
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(first.split()[1]), headers, body

    async def refused(self, status: int, code: str) -> dict[str, str]:
        """Read a problem after which the connection closes; return its headers."""
        got, headers, body = await self.answer()
        problem = json.loads(body)
        assert (got, problem["status"], problem["code"]) == (status, status, code)
        assert problem["detail"]
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        await self.ended()
        return headers

    async def ended(self) -> None:
        """Return once the server has closed; fail where it sends more."""
        assert await self.reader.read() == b""

    def pause(self) -> None:
        """Read nothing more."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def rest(self) -> int:
        """Read again, until the server has closed or cut the connection; return how many bytes came."""
        self.resume()
        count = 0
        with suppress(ConnectionError):
            while data := await self.reader.read(65536):
                count += len(data)
        return count


@asynccontextmanager
async def served(app: App, protocol: type[ServerProtocol] = Hasty) -> AsyncIterator[Callable[[], Awaitable[Peer]]]:
    """Serve the app, and yield what connects to it."""
    writers: list[asyncio.StreamWriter] = []
    async with asyncio.timeout(LIMIT_S), serve_asgi(app, protocol=protocol) as url:

        async def connect() -> Peer:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
            writers.append(writer)
            return Peer(reader, writer)

        try:
            yield connect
        finally:
            for writer in writers:
                writer.transport.abort()


@asynccontextmanager
async def freed(app: App) -> AsyncIterator[Callable[[], Awaitable[Peer]]]:
    """Serve the app for one connection, and return once it is freed: without the garbage collector, as by its end."""
    gone = asyncio.Event()
    refs: list[weakref.ref[ServerProtocol]] = []

    class Counted(InboundProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            refs.append(weakref.ref(self, lambda _: gone.set()))

    async with served(app, Counted) as connect:
        gc.disable()
        try:
            yield connect
            await gone.wait()
        finally:
            gc.enable()
