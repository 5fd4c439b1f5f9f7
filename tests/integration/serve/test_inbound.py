"""The limits of size and number on one client's connection, and that well-behaved clients notice none of them."""

from typing import Any

import pytest

from gateway.serve.inbound import InboundProtocol
from gateway.serve.serverprotocol import ServerProtocol
from tests.peer import GET, App, Hasty, served


class Crowded(Hasty):
    max_connections = 2
    max_pipelined = 3
    head_s = body_s = linger_s = read_s = 3600.0  # else a busy machine ends what was to be held


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
        def _hand_on_body(self) -> None:
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


@pytest.mark.parametrize("protocol", [Hasty, ServerProtocol])
@pytest.mark.parametrize(
    ("said", "closes"),
    [
        (b"close\t", True),
        (b"Close\t, x", True),
        (b"keep-alive,\tclose\t", True),
        (b"keep-alive\t", False),
        (b"x\tclose\t", False),
    ],
)
async def test_close_closes_whatever_blanks_are_around_it(
    said: bytes, closes: bool, protocol: type[ServerProtocol]
) -> None:
    """A tab is a blank (RFC 9110 §5.6.3); what is said of one request says nothing of the next one."""
    async with served(App(), protocol) as connect:
        peer = await connect()
        await peer.send(b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: " + said + b"\r\n\r\n")
        status, headers, body = await peer.answer()
        assert (status, body, headers.get("connection")) == (200, b"/a", "close" if closes else None)
        if closes:
            await peer.ended()
        else:
            await peer.send(GET % b"b")
            assert (await peer.answer())[2] == b"/b"


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
