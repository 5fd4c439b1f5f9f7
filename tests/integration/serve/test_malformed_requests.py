"""Requests that nobody can read, or whose end is unclear: each is refused, and its connection closes."""

from typing import Any

import pytest

from gateway.serve.inbound import InboundProtocol
from tests.collector import nothing_left_to_the_collector
from tests.peer import GET, App, served


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
        await peer.send(head, 66_000 * b"1\r\nx\r\n")  # those that the steps of parsing cut do not count
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
