"""The limits on one client's connection, over real sockets, and that well-behaved clients notice none of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import pytest

from gateway.asgi_server import serve_asgi
from gateway.inbound import InboundProtocol

Message = MutableMapping[str, Any]
GET = b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n"
BIG = 64 * 1024 * 1024
LIMIT_S = 20


class Hasty(InboundProtocol):
    """The same limits, sooner."""

    head_s = 0.2
    read_s = 0.3
    linger_s = 0.3


class Crowded(Hasty):
    max_connections = 2
    max_pipelined = 3


class App:
    """Answers each path with its name; ``/hold`` once told to, ``/body`` with what was sent, ``/big`` with 64 MiB."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self.disconnected = asyncio.Event()

    async def __call__(
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
        length = str(len(answer)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": answer})


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

    async def rest(self) -> int:
        """Read again, until the server has closed or cut the connection; return how many bytes came."""
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]
        count = 0
        with suppress(ConnectionError):
            while data := await self.reader.read(65536):
                count += len(data)
        return count


@asynccontextmanager
async def served(app: App, protocol: type[InboundProtocol] = Hasty) -> AsyncIterator[Callable[[], Awaitable[Peer]]]:
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


# What well-behaved clients do


async def test_keep_alive_and_pipelining_go_on_working() -> None:
    """Requests one after another and all at once are answered in order, on one connection, bodies included."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        for name in (b"a", b"b"):
            await peer.send(GET % name)
            assert (await peer.answer())[2] == b"/" + name
        post = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody"
        await peer.send(GET % b"1" + post + GET % b"2" + GET % b"3")
        assert [(await peer.answer())[2] for _ in range(4)] == [b"/1", b"body", b"/2", b"/3"]
    assert app.seen == ["/a", "/b", "/1", "/body", "/2", "/3"]


async def test_head_and_body_in_any_pieces() -> None:
    """A head byte by byte, and a body far larger than a head may be, chunked or not."""
    app = App()
    async with served(app, InboundProtocol) as connect:
        peer = await connect()
        for byte in GET % b"slow":
            await peer.send(bytes([byte]))
        assert (await peer.answer())[2] == b"/slow"
        large = bytes(300_000)
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n", large, GET % b"next")
        assert (await peer.answer())[2] == large
        assert (await peer.answer())[2] == b"/next"
        chunks = b"".join(b"%x\r\n%b\r\n" % (1000, bytes(1000)) for _ in range(300))
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", chunks, b"0\r\n\r\n")
        assert (await peer.answer())[2] == large


async def test_a_head_just_within_the_limit_is_served() -> None:
    """The limit is what it says: a head of nearly 64 KiB passes, also behind the body of another request."""
    app = App()
    async with served(app, InboundProtocol) as connect:
        peer = await connect()
        head = b"GET /%b HTTP/1.1\r\nhost: x\r\nx: " + b"h" * (64 * 1024 - 100) + b"\r\n\r\n"
        await peer.send(head % b"1")
        assert (await peer.answer())[2] == b"/1"
        body = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n" + bytes(60_000)
        await peer.send(body + head % b"2" + head % b"3")
        assert [len((await peer.answer())[2]) for _ in range(3)] == [60_000, 2, 2]


async def test_an_upgrade_that_is_not_spoken_is_answered_as_a_request() -> None:
    """A client that offers another protocol gets HTTP/1.1, as RFC 9110 §7.8 has it, and may go on."""
    async with served(App()) as connect:
        peer = await connect()
        await peer.send(b"GET /up HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        assert (await peer.answer())[2] == b"/up"
        await peer.send(GET % b"next")
        assert (await peer.answer())[2] == b"/next"


# Size


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: ", b"h" * 4096),
        (b"GET / HTTP/1.1\r\nhost: x\r\n", b"x: " + b"h" * 1000 + b"\r\n"),
        (b"GET /", b"u" * 4096),
        (b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nb\r\n0\r\nx: ", b"h" * 4096),
        (b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1;", b"e" * 4096),
    ],
    ids=["one-header", "many-headers", "url", "trailer", "chunk-extension"],
)
async def test_a_head_without_end_is_431(before: bytes, piece: bytes) -> None:
    """Whatever part grows, the client is told after 64 KiB, still while it is sending, and the connection closes."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(before, *[piece] * (200_000 // len(piece)))
        await peer.refused(431, "too_large")
    assert app.seen in ([], ["/body"])


async def test_a_large_head_in_one_read_is_431() -> None:
    """A head that arrives complete is measured too, before the application sees anything of it."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 20_000 + b"\r\n")
        await peer.refused(431, "too_large")
    assert app.seen == []


# Malformed requests


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"CONNECT example.com HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["tls", "words", "version", "url", "header", "length", "smuggling", "connect"],
)
async def test_malformed_http_is_400(garbage: bytes) -> None:
    """What is not HTTP gets a problem in HTTP, and the application never hears of it."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(garbage)
        await peer.refused(400, "invalid_request")
    assert app.seen == []


async def test_a_body_that_breaks_off_is_400() -> None:
    """Malformed chunks in a body that is being read: the client is told, the application sees it go."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")
        await peer.refused(400, "invalid_request")
        await app.disconnected.wait()


@pytest.mark.parametrize(
    "garbage",
    [b"garbage\r\n\r\n", b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
    ids=["head", "body"],
)
async def test_requests_before_a_malformed_one_keep_their_answers(garbage: bytes) -> None:
    """The refusal comes after the answers that are owed, so that none is taken for another's."""
    app = App()
    async with served(app, InboundProtocol) as connect:
        peer = await connect()
        await peer.send(GET % b"hold" + GET % b"second" + garbage)
        await app.held.wait()
        app.release.set()
        assert [(await peer.answer())[2] for _ in range(2)] == [b"/hold", b"/second"]
        await peer.refused(400, "invalid_request")
    assert app.seen == ["/hold", "/second"]


# Number


async def test_connections_beyond_the_limit_get_503_until_one_closes() -> None:
    """A client too many is told to come again, and is served once there is room."""
    async with served(App(), Crowded) as connect:
        first, second = await connect(), await connect()
        for peer in (first, second):
            await peer.send(GET % b"in")
            await peer.answer()
        for _ in range(3):
            third = await connect()
            headers = await third.refused(503, "unavailable")
            assert headers["retry-after"] == "1"
        first.writer.close()
        while True:
            third = await connect()
            await third.send(GET % b"in")
            if (await third.answer())[0] == 200:
                break


async def test_pipelined_requests_beyond_the_limit_get_503() -> None:
    """One read can hold thousands of requests: those that fit are answered, then the client is told."""
    app = App()
    async with served(app, Crowded) as connect:
        peer = await connect()
        await peer.send(GET % b"hold" + GET % b"x" * 100)
        await app.held.wait()
        app.release.set()
        assert [(await peer.answer())[0] for _ in range(4)] == [200] * 4
        await peer.refused(503, "unavailable")
    assert len(app.seen) == 4


# Time


async def test_a_client_that_says_nothing_is_closed() -> None:
    """A connection without a byte ends without an answer: there is no request to answer."""
    async with served(App()) as connect:
        await (await connect()).ended()


async def test_empty_lines_do_not_keep_a_connection() -> None:
    """The empty line that RFC 9112 §2.2 lets a client send before a request starts its time."""
    async with served(App()) as connect:
        peer = await connect()
        await peer.send(b"\r\n")
        await peer.ended()


@pytest.mark.parametrize("first", [False, True], ids=["first-request", "later-request"])
async def test_a_head_that_stops_is_408(first: bool) -> None:
    """A head must be complete in time, on a new connection and on one that has been used."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        if not first:
            await peer.send(GET % b"a")
            await peer.answer()
        await peer.send(b"GET /b HTTP/1.1\r\nhost: x\r\nx: ")
        await peer.refused(408, "invalid_request")
    assert "/b" not in app.seen


async def test_a_head_that_trickles_is_408() -> None:
    """Each byte on time is not enough: the head as a whole has one deadline."""
    async with served(App()) as connect:
        peer = await connect()
        refused = asyncio.create_task(peer.refused(408, "invalid_request"))
        await peer.send(b"GET / HTTP/1.1\r\nx: ")
        while not refused.done():
            await peer.send(b"h")
            await asyncio.wait([refused], timeout=Hasty.head_s / 10)
        await refused


async def test_half_a_request_behind_one_that_waits_is_not_blamed() -> None:
    """While the gateway does not read, a pipelined head is late through no fault of its client."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(GET % b"hold" + GET % b"second" + b"GET /third HTTP/1.1\r\n")
        await app.held.wait()
        overdue = asyncio.Event()
        asyncio.get_running_loop().call_later(3 * Hasty.head_s, overdue.set)
        await overdue.wait()
        app.release.set()
        await peer.send(b"host: x\r\n\r\n")
        assert [(await peer.answer())[2] for _ in range(3)] == [b"/hold", b"/second", b"/third"]


async def test_a_body_that_nobody_wants_ends_in_time() -> None:
    """After its answer a request has as long for the rest of its body as a head has; then the connection closes."""
    async with served(App()) as connect:
        peer = await connect()
        await peer.send(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nabc")
        assert (await peer.answer())[2] == b"/early"
        await peer.ended()


async def test_a_body_that_comes_after_its_answer_leaves_the_connection_usable() -> None:
    """A client that is answered before it has sent all may finish, and go on with the next request."""
    async with served(App(), InboundProtocol) as connect:
        peer = await connect()
        await peer.send(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        assert (await peer.answer())[2] == b"/early"
        await peer.send(b"def")
        await peer.send(GET % b"next")
        assert (await peer.answer())[2] == b"/next"


async def test_a_connection_that_goes_idle_after_a_late_body_is_closed_as_any() -> None:
    """The rest of a body ends the idle time that its answer began; when it is complete another begins."""

    class Idle(InboundProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.timeout_keep_alive = 0.2  # type: ignore[assignment]

    async with served(App(), Idle) as connect:
        peer = await connect()
        await peer.send(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        assert (await peer.answer())[2] == b"/early"
        await peer.send(b"def")
        await peer.ended()


# Clients that do not read


class Watched(Hasty):
    """Says when its connection has ended."""

    ended: ClassVar[asyncio.Event]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.ended.set()


@pytest.mark.parametrize("last", [b"", b"connection: close\r\n"], ids=["keep-alive", "close"])
async def test_an_answer_that_nobody_reads_is_given_up(last: bytes) -> None:
    """A client that takes nothing of a large answer is cut, so that its memory comes back."""
    Watched.ended = asyncio.Event()
    async with served(App(), Watched) as connect:
        peer = await connect()
        peer.pause()
        await peer.send(b"GET /big HTTP/1.1\r\nhost: x\r\n" + last + b"\r\n")
        await Watched.ended.wait()
        assert 0 < await peer.rest() < BIG


async def test_an_answer_that_nobody_reads_does_not_hold_the_shutdown() -> None:
    """Told to end, a connection has a moment to take its answer and is cut then, whatever else would end it."""

    class Ending(Watched):
        read_s = 3600.0

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.shutdown()  # as the server calls it when it ends

    Watched.ended = asyncio.Event()
    async with served(App(), Ending) as connect:
        peer = await connect()
        peer.pause()
        await peer.send(GET % b"big")
        await Watched.ended.wait()
        assert 0 < await peer.rest() < BIG
