"""The limits on one client's connection, over real sockets, and that well-behaved clients notice none of them."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from gateway.serve.inbound import InboundProtocol
from gateway.serve.serverprotocol import ServerProtocol
from tests.collector import nothing_left_to_the_collector
from tests.peer import BIG, GET, LIMIT_S, App, Hasty, Peer, served

MIB = 1024 * 1024


class Crowded(Hasty):
    max_connections = 2
    max_pipelined = 3
    linger_s = read_s = 3600.0


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


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("upgrade", [b"", b"connection: upgrade\r\nupgrade: h2c\r\n"])
async def test_a_trailer_is_no_header(pieces: int, upgrade: bytes) -> None:
    """What stands behind a body in chunks, a token say, is not the request's, in however many pieces it comes."""
    told: list[list[bytes]] = []

    class Telling(App):
        async def __call__(self, scope: Any, *others: Any) -> None:
            await super().__call__(scope, *others)
            told.append([name for name, _ in scope["headers"]])

    head = b"POST /body HTTP/1.1\r\nhost: x\r\n%btransfer-encoding: chunked\r\n\r\n" % upgrade
    rest = b"2\r\nok\r\n0\r\nauthorization: Bearer smuggled\r\ncontent-type: application/json\r\n\r\n"
    async with served(Telling()) as connect:
        peer = await connect()
        for piece in (head + rest,) if pieces == 1 else (head, rest):
            await peer.send(piece)
        assert (await peer.answer())[2] == b"ok"
        await peer.send(GET % b"next")
        assert (await peer.answer())[2] == b"/next"
    first, following = told
    assert [name for name in first if name not in (b"connection", b"upgrade")] == [b"host", b"transfer-encoding"]
    assert following == [b"host"]


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


@pytest.mark.parametrize("expect", [b"", b"expect: 100-continue\r\n"], ids=["sent", "waiting-for-100"])
async def test_a_body_that_breaks_off_is_400(expect: bytes) -> None:
    """Malformed chunks in a body that is being read: the client is told, the application sees it go."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        head = b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n" + expect
        await peer.send(head + b"\r\nzz\r\n")
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


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"content-length: " + length
            for length in (b"+5", b"0x10", b"1_000", b"-1", b"5 5", b"5,5", b"5;a", b"\xb2", b"1e1")
        ),
        *(b"content-length: " + length for length in (b"", b"9" * 30, b"18446744073709551616", b"\xd9\xa3")),
        b"content-length: 5\r\ncontent-length: 5",
        b"content-length: 5\r\ncontent-length: 6",
        b"content-length: 5\r\ntransfer-encoding: chunked",
        b"content-length : 5",
        *(
            b"transfer-encoding: " + coding
            for coding in (b"chunked, gzip", b"identity", b"xchunked", b"chunked;a", b"")
        ),
        *(b"transfer-encoding: " + coding for coding in (b"gzip", b"\x0bchunked", b'"chunked"', b"chunked, chunked,")),
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity",
        b"transfer-encoding:\r\n chunked\r\ntransfer-encoding: gzip",
    ],
)
async def test_a_body_whose_end_is_unclear_is_400(line: bytes) -> None:
    """However it is written: whoever reads it otherwise would take a part of it for a request."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\n" + line + b"\r\n\r\n")
        await peer.refused(400, "invalid_request")
    assert app.seen == []


async def test_a_length_with_zeros_before_it_is_a_length() -> None:
    """A number may begin with them, as many as a head has room for."""
    async with served(App()) as connect:
        peer = await connect()
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: " + b"0" * 5000 + b"3\r\n\r\nabc")
        assert (await peer.answer())[2] == b"abc"


async def test_a_trailer_of_a_thousand_lines_is_no_header() -> None:
    """What comes behind a body cannot name a host or a token, and costs nothing however many lines it has."""
    heads: list[Any] = []

    class Kept(App):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await super().__call__(scope, receive, send)
            heads.append(list(scope["headers"]))

    async with served(Kept()) as connect:
        peer = await connect()
        head = b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        await peer.send(
            head + b"3\r\nabc\r\n0\r\nauthorization: Bearer a\r\n" + b"a:\r\n" * 1000 + b"\r\n" + GET % b"next"
        )
        assert [(await peer.answer())[2] for _ in range(2)] == [b"abc", b"/next"]
    assert heads == [[(b"host", b"x"), (b"transfer-encoding", b"chunked")], [(b"host", b"x")]]


async def test_a_body_in_chunks_of_one_byte_is_400() -> None:
    """12 MB of them are six seconds' work; larger ones are served, and as many small ones as a client may want."""
    head = b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    app = App()
    async with served(app, InboundProtocol) as connect:
        peer = await connect()
        for size in (1, 16):
            await peer.send(head, 65_000 * (b"%x\r\n%b\r\n" % (size, bytes(size))), b"0\r\n\r\n")
            status, _, body = await peer.answer()
            assert (status, len(body)) == (200, 65_000 * size)
        await peer.send(head, 65_537 * b"1\r\nx\r\n")
        await peer.refused(400, "invalid_request")
        assert app.disconnected.is_set()


async def test_refused_heads_leave_nothing_to_the_collector() -> None:
    """What could not be read is freed as soon as it is refused, and not when the collector looks through everything."""
    with nothing_left_to_the_collector():
        async with served(App()) as connect:
            for head in (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 2000, b"What?\r\n\r\n"):
                peer = await connect()
                await peer.send(head)
                assert (await peer.answer())[0] in (400, 431)


@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["endless", "whole"])
async def test_headers_without_number_are_431(end: bytes) -> None:
    """The shortest ones cost most: tens of times their bytes in memory."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 127 + b"\r\n")
        assert (await peer.answer())[0] == 200
        await peer.send(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 129 + end)
        await peer.refused(431, "too_large")
    assert app.seen == ["/"]


async def test_no_memory_for_what_comes_is_503() -> None:
    """That is no fault of the client's."""

    class Full(Hasty):
        def on_body(self, body: bytes) -> None:
            raise MemoryError

    async with served(App(), Full) as connect:
        peer = await connect()
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
        await peer.refused(503, "unavailable")


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://evil.test/x", b"evil.test"),
        (b"http://evil.test:80/x?host=x", b"evil.test:80"),
        (b"http://x@evil.test/x", b"x@evil.test"),
        (b"/x?http://evil.test/", b"x"),
    ],
)
async def test_a_target_in_absolute_form_names_the_host(target: bytes, host: bytes) -> None:
    """RFC 9112 §3.2.2: the header counts for nothing then, or each of two readers would take another name."""
    hosts: list[Any] = []

    class Kept(App):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            hosts.append([value for name, value in scope["headers"] if name == b"host"])
            await super().__call__(scope, receive, send)

    async with served(Kept()) as connect:
        peer = await connect()
        await peer.send(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await peer.answer())[0] == 200
    assert hosts == [[host]]


@pytest.mark.parametrize("protocol", [Hasty, ServerProtocol])
@pytest.mark.parametrize("blanks", [b" ", b"\t", b" \t  "])
async def test_blanks_around_a_value_are_no_part_of_it(blanks: bytes, protocol: type[ServerProtocol]) -> None:
    """RFC 9110 §5.5: else a request id, an API key or the wish for a 100 is another one."""
    heads: list[Any] = []

    class Kept(App):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            heads.append(scope["headers"])
            await super().__call__(scope, receive, send)

    fields = {b"host": b"x", b"x-request-id": b"a b", b"expect": b"100-continue", b"content-length": b"2", b"x": b""}
    lines = [name + b":" + blanks + value + blanks for name, value in fields.items()]
    async with served(Kept(), protocol) as connect:
        peer = await connect()
        await peer.send(b"\r\n".join([b"POST /body HTTP/1.1", *lines, b"", b""]))
        assert (await peer.answer())[0] == 100
        await peer.send(b"ab")
        assert (await peer.answer())[::2] == (200, b"ab")
    assert heads == [list(fields.items())]


# Number


async def test_requests_beyond_the_limit_get_503_until_one_ends() -> None:
    """Where every connection has a request, a client too many is told to come again, and is served once one is done."""
    app = App()
    async with served(app, Crowded) as connect:
        first, second = await connect(), await connect()
        for peer in (first, second):
            app.held.clear()
            await peer.send(GET % b"hold")
            await app.held.wait()
        for size in (0, 0, 10_000_000):
            third = await connect()
            third.pause()
            await third.send(GET % b"out", bytes(size))  # whatever it sends before it reads
            third.resume()
            headers = await third.refused(503, "unavailable")
            assert headers["retry-after"] == "1"
        app.release.set()
        await first.answer()
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


@pytest.mark.parametrize("sent", [b"", b"abc"], ids=["nothing", "a-part"])
async def test_a_body_that_stops_is_408(sent: bytes) -> None:
    """The application learns that its client is gone, the client what it owes."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n" + sent)
        await peer.refused(408, "invalid_request")
        await asyncio.wait_for(app.disconnected.wait(), LIMIT_S)


async def test_a_body_that_trickles_is_408() -> None:
    """Each byte on time is not enough: the body as a whole has one deadline."""
    async with served(App()) as connect:
        peer = await connect()
        refused = asyncio.create_task(peer.refused(408, "invalid_request"))
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        while not refused.done():
            await peer.send(b"b")
            await asyncio.wait([refused], timeout=Hasty.body_s / 10)
        await refused


async def test_a_body_that_comes_in_time_leaves_no_deadline_behind() -> None:
    """A request whose body came in parts, and in time, may then take longer than its body might have."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(b"POST /hold HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        await app.held.wait()
        await peer.send(b"def")
        overdue = asyncio.Event()
        asyncio.get_running_loop().call_later(2 * Hasty.body_s, overdue.set)
        await overdue.wait()
        app.release.set()
        assert (await peer.answer())[2] == b"/hold"


async def test_a_body_that_is_answered_while_it_comes_gets_the_shorter_deadline() -> None:
    """From its answer on the rest is not wanted, and has as long as any such body."""

    class Early(Hasty):
        body_s = 3600.0

    app = App()
    async with served(app, Early) as connect:
        peer = await connect()
        await peer.send(b"POST /hold HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        await app.held.wait()
        app.release.set()
        assert (await peer.answer())[2] == b"/hold"
        await peer.ended()


async def test_half_a_body_behind_a_request_that_waits_is_not_blamed() -> None:
    """Its time begins when the gateway reads on, and not while the request before it is held."""

    class Unhurried(Hasty):
        body_s = 1.0

    app = App()
    async with served(app, Unhurried) as connect:
        peer = await connect()
        await peer.send(GET % b"hold" + b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        await app.held.wait()
        most = asyncio.Event()
        asyncio.get_running_loop().call_later(0.9 * Unhurried.body_s, most.set)
        await most.wait()
        app.release.set()
        assert (await peer.answer())[2] == b"/hold"
        some = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3 * Unhurried.body_s, some.set)
        await some.wait()
        await peer.send(b"def")
        assert (await peer.answer())[2] == b"abcdef"


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


# Answers before the end of a body


class Watched(Hasty):
    """Says when its connection has ended."""

    ended: ClassVar[asyncio.Event]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.ended.set()


class Patient(Watched):
    """Nothing ends by time."""

    head_s = body_s = read_s = linger_s = 3600.0


class Halved(Watched):
    """The same; says when its client has ended its side."""

    head_s = body_s = linger_s = ended_s = 3600.0
    halved: ClassVar[asyncio.Event]

    def eof_received(self) -> bool:  # type: ignore[override]
        self.halved.set()
        return super().eof_received()


async def half_closed(connect: Callable[[], Awaitable[Peer]], sent: bytes) -> Peer:
    """Connect, send that, and end the client's side."""
    Watched.ended = asyncio.Event()
    Halved.halved = asyncio.Event()
    peer = await connect()
    await peer.send(sent)
    peer.writer.write_eof()
    return peer


# Clients that end their side


POST_BODY = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc"


@pytest.mark.parametrize(
    ("behind", "answers"),
    [
        (b"", []),
        (POST_BODY, [b"abc"]),
        (GET % b"1" + POST_BODY + GET % b"2", [b"/1", b"abc", b"/2"]),
        (GET % b"1" + b"GET /half HTT", [b"/1"]),
    ],
    ids=["one", "two", "four", "half"],
)
async def test_a_client_that_ends_its_side_reads_what_it_asked_for(behind: bytes, answers: list[bytes]) -> None:
    """Each request that came whole is answered, though its client sends no more; then the connection ends."""
    app = App()
    async with served(app, Halved) as connect:
        peer = await half_closed(connect, GET % b"hold" + behind)
        await app.held.wait()
        if not answers:  # else it is not read so far before the first answer
            await Halved.halved.wait()
        app.release.set()
        assert [(await peer.answer())[2] for _ in range(1 + len(answers))] == [b"/hold", *answers]
        await peer.ended()
        await Watched.ended.wait()


async def test_the_answer_to_a_client_that_has_ended_its_side_says_that_it_is_the_last() -> None:
    """So that nobody between the two keeps the connection."""
    app = App()
    async with served(app, Halved) as connect:
        peer = await half_closed(connect, GET % b"hold")
        await Halved.halved.wait()
        app.release.set()
        assert (await peer.answer())[1]["connection"] == "close"


@pytest.mark.parametrize("sent", [b"", b"GET /half HTT", POST_BODY[:-1]], ids=["nothing", "head", "body"])
async def test_a_client_that_ends_its_side_within_a_request_is_closed(sent: bytes) -> None:
    """What cannot become whole has no answer, and waits for none of the limits."""
    async with served(App(), Halved) as connect:
        peer = await half_closed(connect, sent)
        await peer.ended()
        await Watched.ended.wait()


async def test_an_idle_client_that_ends_its_side_is_closed() -> None:
    """It has its answers, and nothing is left to wait for."""
    async with served(App(), Halved) as connect:
        peer = await connect()
        Watched.ended, Halved.halved = asyncio.Event(), asyncio.Event()
        await peer.send(GET % b"x")
        await peer.answer()
        peer.writer.write_eof()
        await peer.ended()
        await Watched.ended.wait()


async def test_a_client_that_has_ended_its_side_and_does_not_read_is_cut() -> None:
    """The time to take an answer is limited as for any."""
    async with served(App(), Halved) as connect:
        peer = await half_closed(connect, GET % b"big")
        peer.pause()
        await Watched.ended.wait()
        assert await peer.rest() < BIG


async def test_a_client_that_is_gone_leaves_no_connection_behind() -> None:
    """Its end looks the same until it is answered."""
    app = App()
    async with served(app, Halved) as connect:
        peer = await half_closed(connect, GET % b"hold")
        await Halved.halved.wait()
        peer.writer.transport.abort()
        app.release.set()
        await Watched.ended.wait()


LENGTH = b"content-length: 30000000\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n1c9c380\r\n"  # the same in one chunk
framed = pytest.mark.parametrize("framing", [LENGTH, CHUNKED], ids=["length", "chunked"])


@framed
@pytest.mark.parametrize("path", [b"/refuse", b"/give-up", b"/fail"])
@pytest.mark.parametrize("last", [b"", b"connection: close\r\n"], ids=["keep-alive", "close"])
async def test_a_client_that_sends_all_before_it_reads_gets_its_answer(
    framing: bytes, path: bytes, last: bytes
) -> None:
    """The connection is not reset under a body of 30 MB, however the application ended its answer."""
    Watched.ended = asyncio.Event()
    async with served(App(), Patient) as connect:
        peer = await connect()
        peer.pause()
        await peer.send(b"POST %b HTTP/1.1\r\nhost: x\r\n%b%b" % (path, last, framing), *[bytes(1_000_000)] * 30)
        peer.resume()
        assert (await peer.answer())[2] == path
        await peer.ended()
        peer.writer.write_eof()
        await Watched.ended.wait()


@framed
async def test_nothing_after_a_body_that_was_not_taken_is_a_request(framing: bytes) -> None:
    """The rest of the body, and all that follows it, is thrown away whatever it looks like."""
    app = App()
    Watched.ended = asyncio.Event()
    async with served(app, Patient) as connect:
        peer = await connect()
        await peer.send(b"POST /refuse HTTP/1.1\r\nhost: x\r\n" + framing + GET % b"in-the-body")
        assert (await peer.answer())[2] == b"/refuse"
        await peer.send(GET % b"sent-later", bytes(30_000_000), b"\r\n0\r\n\r\n", GET % b"next", b"garbage\r\n\r\n")
        await peer.ended()
        peer.writer.write_eof()
        await Watched.ended.wait()
    assert app.seen == ["/refuse"]


@pytest.mark.parametrize(
    "behind",
    [GET % b"1" + GET % b"2", GET % b"1" + b"garbage\r\n\r\n", b"garbage\r\n\r\n", b"GET /x HTTP/1.1\r\n"],
    ids=["whole", "whole-and-garbage", "garbage", "half"],
)
async def test_requests_behind_the_last_one_are_not_answered(behind: bytes) -> None:
    """What was pipelined behind a request whose answer closes the connection costs the client none of that answer."""
    app = App()
    Watched.ended = asyncio.Event()
    async with served(app, Patient) as connect:
        peer = await connect()
        peer.pause()
        await peer.send(GET % b"hold" + GET % b"refuse" + behind)
        await app.held.wait()
        app.release.set()
        await peer.send(*[GET % b"more" * 1000] * 10)
        peer.resume()
        assert [(await peer.answer())[2] for _ in range(2)] == [b"/hold", b"/refuse"]
        await peer.ended()
        peer.writer.write_eof()
        await Watched.ended.wait()
    assert app.seen == ["/hold", "/refuse"]


@pytest.mark.parametrize("path", [b"/refuse", b"/give-up", b"/fail", b"/early"])
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "reads-nothing"])
async def test_a_body_that_trickles_for_ever_is_cut(path: bytes, reads: bool) -> None:
    """A client that goes on sending has a limited time, whether it reads its answer or not."""
    Watched.ended = asyncio.Event()
    async with served(App(), Watched) as connect:
        peer = await connect()
        if not reads:
            peer.pause()
        await peer.send(b"POST " + path + b" HTTP/1.1\r\nhost: x\r\n" + LENGTH)
        ended = asyncio.create_task(Watched.ended.wait())
        while not ended.done():
            with suppress(ConnectionError):
                await peer.send(b"b")
            await asyncio.wait([ended], timeout=Watched.read_s / 10)


class InParts(App):
    """Answers with 16 MiB, a part after the other."""

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(256):
            await send({"type": "http.response.body", "body": bytes(64 * 1024), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(("least_bytes_per_s", "is_cut"), [(1e9, True), (1.0, False)], ids=["late", "in time"])
async def test_an_answer_in_parts_is_to_be_read_at_a_pace(least_bytes_per_s: float, is_cut: bool) -> None:
    """Whoever takes a little of it now and then holds its memory no longer than others may wait for that."""

    class Paced(Watched):
        pass

    Paced.least_bytes_per_s = least_bytes_per_s
    Watched.ended = asyncio.Event()
    async with served(InParts(), Paced) as connect:
        peer = await connect()
        await peer.send(GET % b"parts")
        ended = asyncio.create_task(Watched.ended.wait())
        taken = 0
        while not ended.done() and taken < 16 * MIB:
            await asyncio.wait([ended], timeout=Paced.read_s / 30)
            with suppress(ConnectionError):
                taken += len(await peer.reader.read(512 * 1024))
        assert (taken < 16 * MIB) is is_cut
        ended.cancel()


async def test_a_body_that_floods_is_cut() -> None:
    """A client that goes on sending has a limited number of bytes."""

    class Sparing(Patient):
        max_dropped_bytes = 1_000_000

    Watched.ended = asyncio.Event()
    async with served(App(), Sparing) as connect:
        peer = await connect()
        await peer.send(b"POST /refuse HTTP/1.1\r\nhost: x\r\n" + LENGTH)
        assert (await peer.answer())[2] == b"/refuse"
        await peer.send(bytes(900_000))
        await peer.ended()
        assert not Watched.ended.is_set()
        with pytest.raises(ConnectionError):
            await peer.send(*[bytes(100_000)] * 200)
        await Watched.ended.wait()


async def test_a_body_that_nobody_wants_does_not_hold_the_shutdown() -> None:
    """Told to end, a connection that throws away what comes has a moment only, and its answer is still read."""

    class Ending(Watched):
        head_s = read_s = 3600.0

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.shutdown()  # as the server calls it when it ends

    for path in (b"/refuse", b"/early"):
        Watched.ended = asyncio.Event()
        async with served(App(), Ending) as connect:
            peer = await connect()
            await peer.send(b"POST " + path + b" HTTP/1.1\r\nhost: x\r\n" + LENGTH + bytes(1000))
            assert (await peer.answer())[2] == path
            await peer.ended()
            await Watched.ended.wait()


@pytest.mark.parametrize("path", [b"/body", b"/refuse"])
async def test_an_ended_connection_leaves_nothing_to_collect(path: bytes) -> None:
    """Its memory comes back with its end, not with the next garbage collection, however it closed."""
    freed = asyncio.Event()

    class Counted(InboundProtocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            refs.append(weakref.ref(self, lambda _: freed.set()))

    refs: list[weakref.ref[Counted]] = []
    async with served(App(), Counted) as connect:
        peer = await connect()
        gc.disable()
        try:
            await peer.send(b"POST " + path + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nbo")
            if path == b"/body":
                await peer.send(b"d")
            await peer.answer()
            peer.writer.write_eof()
            await freed.wait()
        finally:
            gc.enable()


# Clients that do not read


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


async def test_a_body_that_is_not_complete_does_not_hold_the_shutdown() -> None:
    """Told to end, a connection has a moment for the rest of a body; a client that sends none hears why it goes."""
    told = asyncio.Event()

    class Ending(Hasty):
        body_s = 3600.0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not told.is_set():
                self.shutdown()  # as the server calls it when it ends
                told.set()

    app = App()
    async with served(app, Ending) as connect:
        for rest in (b"def", b""):
            told.clear()
            peer = await connect()
            await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
            await told.wait()
            await peer.send(rest)
            if rest:
                assert (await peer.answer())[2] == b"abcdef"
                await peer.ended()
            else:
                await peer.refused(503, "unavailable")
                await app.disconnected.wait()


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
