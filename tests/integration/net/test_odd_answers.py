"""Answers that common clients read and a strict parser does not, over real sockets, in both roles.

What each row was held against: curl 7.88, Python's http.client, urllib3, h11, Node's fetch, Perl's HTTP::Tiny and wget.
Each of the rows that are read here is read by most of them.
"""

import asyncio
import gc
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from gateway.config.profilefile import config_dir, read_profiles
from gateway.core.clock import SystemClock
from gateway.net.errors import ExchangeFailed
from gateway.net.http1 import Connection
from gateway.net.transport import PooledTransport
from gateway.net.unparsed import ParsingTurns
from gateway.upstream.answer import PollKind
from gateway.upstream.api import Answer, NoAnswer, Upstream
from gateway.webhook.sender import Sender

LIMIT_S = 20
KEY = "sk-do-not-repeat"
BODY = b'{"ok":1}'
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 8\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"8\r\n%b\r\n0\r\n\r\n" % BODY

READ = {
    # Values over several lines, as nginx sends a Content-Security-Policy.
    "folded": OK + b"CSP: default-src 'self';\r\n  img-src *;\r\n\tx\r\n" + LENGTH + b"\r\n" + BODY,
    "folded, the first line empty": OK + LENGTH + b"X-A:\r\n a\r\n\r\n" + BODY,
    "folded length": OK + b"Content-Length:\r\n 8\r\n\r\n" + BODY,
    "folded coding": OK + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKS,
    # Line ends.
    "bare LF": (OK + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
    "bare LF in one line": OK + b"X-A: a\n" + LENGTH + b"\r\n" + BODY,
    "bare LF at the end": OK + LENGTH + b"\n" + BODY,
    "bare LF, chunked": (OK + CHUNKED + b"\r\n").replace(b"\r\n", b"\n") + CHUNKS,
    "a CR too many": OK + b"X-A: a\r\r\n" + LENGTH + b"\r\n" + BODY,
    "a CR within": OK + b"X-A: a\rb\r\n" + LENGTH + b"\r\n" + BODY,
    # Characters.
    "control in a cookie": OK + b"Set-Cookie: a=\x01b\r\n" + LENGTH + b"\r\n" + BODY,
    "zero byte": OK + b"X-A: a\0b\r\n" + LENGTH + b"\r\n" + BODY,
    "blank before the colon": OK + b"Content-Length : 8\r\n\r\n" + BODY,
    "blank within a name": OK + b"X A: a\r\n" + LENGTH + b"\r\n" + BODY,
    "name beyond ASCII": OK + b"X-\xc3\xa9: a\r\n" + LENGTH + b"\r\n" + BODY,
    "blank before a name": OK + b" X-A: a\r\n" + LENGTH + b"\r\n" + BODY,
    "no name": OK + b": a\r\n" + LENGTH + b"\r\n" + BODY,
    "no colon": OK + b"X-A\r\n" + LENGTH + b"\r\n" + BODY,
    # The first line.
    "blanks in the first line": b"HTTP/1.1  200 OK\r\n" + LENGTH + b"\r\n" + BODY,
    "version 1.2": b"HTTP/1.2 200 OK\r\n" + LENGTH + b"\r\n" + BODY,
    "version 2": b"HTTP/2 200\r\n" + LENGTH + b"\r\n" + BODY,
    # Framing that is said twice.
    "length twice": OK + LENGTH + LENGTH + b"\r\n" + BODY,
    "length as a list": OK + b"Content-Length: 8, 8\r\n\r\n" + BODY,
    "length with a sign": OK + b"Content-Length: +8\r\n\r\n" + BODY,
    "coding and length": OK + CHUNKED + b"Content-Length: 3\r\n\r\n" + CHUNKS,
    "length and coding": OK + b"Content-Length: 300\r\n" + CHUNKED + b"\r\n" + CHUNKS,
    "identity and length": OK + b"Transfer-Encoding: identity\r\n" + LENGTH + b"\r\n" + BODY,
    "chunked twice": OK + CHUNKED + CHUNKED + b"\r\n" + CHUNKS,
    "tab after the coding": OK + b"Transfer-Encoding: chunked\t \r\n\r\n" + CHUNKS,
    # Chunks.
    "blanks after a size": OK + CHUNKED + b"\r\n8  \r\n%b\r\n0  \r\n\r\n" % BODY,
    "tab after a size": OK + CHUNKED + b"\r\n8\t\r\n%b\r\n0\r\n\r\n" % BODY,
    "bare LF after a chunk": OK + CHUNKED + b"\r\n8\r\n%b\n0\r\n\r\n" % BODY,
    "bare LF at the end of the chunks": OK + CHUNKED + b"\r\n8\r\n%b\r\n0\r\n\n" % BODY,
    "blank in an extension": OK + CHUNKED + b"\r\n8; a=b\r\n%b\r\n0\r\n\r\n" % BODY,
    "blanks around an extension": OK + CHUNKED + b"\r\n8  ; a = b \r\n%b\r\n0 ; c\r\n\r\n" % BODY,
    "empty extension": OK + CHUNKED + b"\r\n8;\r\n%b\r\n0;\r\n\r\n" % BODY,
    "odd extension at the end": OK + CHUNKED + b"\r\n3\r\n%b\r\n5\r\n%b\r\n0; a\r\n\r\n" % (BODY[:3], BODY[3:]),
    "odd extension in between": OK + CHUNKED + b"\r\n3\r\n%b\r\n5; a\r\n%b\r\n0\r\n\r\n" % (BODY[:3], BODY[3:]),
    "bare LF after a size": OK + CHUNKED + b"\r\n8\n%b\r\n0\r\n\r\n" % BODY,
    "bare LF around the last chunk": OK + CHUNKED + b"\r\n8\r\n%b\r\n0\n\n" % BODY,
    "bare LF everywhere": (OK + CHUNKED + b"\r\n" + CHUNKS).replace(b"\r\n", b"\n"),
    "bare LF in a trailer": OK + CHUNKED + b"\r\n8\r\n%b\r\n0\nx: a\ny: b\n\n" % BODY,
    "empty lines and announcements first": b"\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n\r\n"
    + (OK + CHUNKED + b"\r\n8; a\r\n%b\r\n0\r\n\r\n" % BODY),
    "odd announcement, odd chunks": b"HTTP/1.1 103 Early Hints\nX: \x01\n\n"
    + (OK + CHUNKED + b"\r\n8; a\r\n%b\r\n0\n\n" % BODY),
    "trailer folded": OK + CHUNKED + b"\r\n8\r\n%b\r\n0\r\nX: a\r\n b\r\n\r\n" % BODY,
    "control in a trailer": OK + CHUNKED + b"\r\n8\r\n%b\r\n0\r\nX: \x01\n\r\n" % BODY,
    "folded, and blanks after a size": OK + b"X-A: a\r\n b\r\n" + CHUNKED + b"\r\n8 \r\n%b\r\n0\r\n\r\n" % BODY,
    # What comes before the answer.
    "announcement that closes": b"HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\n" + OK + LENGTH + b"\r\n" + BODY,
    "announcement of an odd length": b"HTTP/1.1 103 Early Hints\r\nContent-Length: x\r\n\r\n"
    + OK
    + LENGTH
    + b"\r\n"
    + BODY,
    "odd announcement": b"HTTP/1.1 103 Early Hints\r\nLink: \x01\r\n\r\n" + OK + LENGTH + b"\r\n" + BODY,
    "announcement, odd answer": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH + LENGTH + b"\r\n" + BODY,
    "both odd": b"HTTP/1.1 100 Continue\n\n" + OK + b"X: \x01\r\n" + LENGTH + b"\r\n" + BODY,
}

REFUSED = {
    "not HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "Expected HTTP/, RTSP/ or ICE/"),
    "not HTTP, no line": (b"\x15\x03\x01\x00\x02\x02", "Expected HTTP/, RTSP/ or ICE/"),
    "no status": (b"HTTP/1.1 abc OK\r\n", "Invalid status code"),
    "four digits": (b"HTTP/1.1 2000 OK\r\n\r\n", "Invalid response status"),
    "two lengths": (OK + LENGTH + b"Content-Length: 9\r\n\r\n" + BODY, "Content-Length is given more than once"),
    "two lengths in one": (OK + b"Content-Length: 8, 9\r\n\r\n" + BODY, "Content-Length is given more than once"),
    "length in words": (OK + b"Content-Length: %b\r\n\r\n" % KEY.encode() + BODY, "Content-Length is not a number"),
    "no length": (OK + b"Content-Length: \r\n\r\n" + BODY, "Content-Length is not a number"),
    "negative length": (OK + b"Content-Length: -8\r\n\r\n" + BODY, "Content-Length is not a number"),
    "endless length": (OK + b"Content-Length: 8%b\r\n\r\n" % (b"0" * 30), "Content-Length is not a number"),
    "size in words": (OK + CHUNKED + b"\r\n%b\r\n" % KEY.encode(), "Invalid character in chunk size"),
    "size in words after a chunk": (
        OK + CHUNKED + b"\r\n8;\r\n%b\r\n%b" % (BODY, KEY.encode()),
        "Invalid character in chunk",
    ),
    "no size": (OK + CHUNKED + b"\r\n; a\r\n%b\r\n" % BODY, "Invalid character in chunk size"),
    "negative size": (OK + CHUNKED + b"\r\n-8\r\n%b\r\n" % BODY, "Invalid character in chunk size"),
    "no end of a chunk": (OK + CHUNKED + b"\r\n8\r\n%b%b" % (BODY, KEY.encode()), "after chunk data"),
}


@pytest.fixture
async def transport() -> Any:
    one = PooledTransport(guard=None, resolve=None, limit=10)  # type: ignore[arg-type]
    yield one
    await one.aclose()


def in_pieces(answer: bytes, size: int) -> Any:
    """Answer each request with these bytes, so many at a time."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"{}"):
            for at in range(0, len(answer), size):
                writer.write(answer[at : at + size])
                await writer.drain()
                await asyncio.sleep(0)

    return handle


async def post(transport: PooledTransport, url: str) -> httpx.Response:
    async with asyncio.timeout(LIMIT_S):
        response = await transport.handle_async_request(httpx.Request("POST", url, content=b"{}"))
        await response.aread()
        return response


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("name", READ)
async def test_odd_answer_is_read(
    transport: PooledTransport, raw_server: Callable[..., Any], name: str, size: int
) -> None:
    """It is read like an ordinary one, in however many packets it comes, and its connection is not used again."""
    server = await raw_server(in_pieces(READ[name], size))
    for _ in range(2):
        response = await post(transport, server.url())
        assert (response.status_code, response.content) == (200, BODY)
    assert server.connections == 2


@pytest.mark.parametrize("name", READ)
async def test_nothing_after_an_odd_answer_is_taken_for_the_next(
    transport: PooledTransport, raw_server: Callable[..., Any], name: str
) -> None:
    """Bytes behind an answer whose end is in doubt are nobody's answer."""
    forged = b"HTTP/1.1 500 Forged\r\nContent-Length: 0\r\n\r\n"
    server = await raw_server(in_pieces(READ[name] + forged, 10_000))
    for _ in range(2):
        response = await post(transport, server.url())
        assert (response.status_code, response.content) == (200, BODY)


async def test_what_an_odd_head_says(transport: PooledTransport, raw_server: Callable[..., Any]) -> None:
    """Folded lines are one value, control characters become blanks, and the reason is the answer's."""
    answer = (
        b"HTTP/1.1  429\tSlow\x01 down\nX-A: a\n b\r\n\tc \nX-B: d\x01\x7fe\nRetry-After : 7\n" + LENGTH + b"\n" + BODY
    )
    response = await post(transport, (await raw_server(in_pieces(answer, 10_000))).url())
    assert (response.status_code, response.reason_phrase) == (429, "Slow  down")
    assert response.headers["x-a"] == "a b c"
    assert response.headers["x-b"] == "d  e"
    assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("name", REFUSED)
async def test_refused_answer_says_why(
    transport: PooledTransport, raw_server: Callable[..., Any], name: str, size: int
) -> None:
    """What nobody reads is refused at once, though the peer does not end it, with the parser's reason and no more."""
    answer, reason = REFUSED[name]
    server = await raw_server(in_pieces(answer, size))
    with pytest.raises(ExchangeFailed, match=reason) as caught:
        await post(transport, server.url())
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"1 ; a\r\nx\r\n", b"0f\n" + b"x" * 15 + b"\n"])
async def test_chunks_that_cost_more_than_they_bring(
    transport: PooledTransport, raw_server: Callable[..., Any], chunk: bytes
) -> None:
    """Thousands of the smallest are an answer like another; without end they are refused, however they are framed."""
    last = b"0\r\n\r\n"
    server = await raw_server(in_pieces(OK + CHUNKED + b"\r\n" + chunk * 8000 + last, 10_000))
    assert len((await post(transport, server.url())).content) == 8000 * chunk.count(b"x")
    server = await raw_server(in_pieces(OK + CHUNKED + b"\r\n" + chunk * 20_000 + last, 10_000))
    with pytest.raises(ExchangeFailed, match="more than 8192 chunks below 16 bytes"):
        await post(transport, server.url())


@pytest.mark.parametrize(
    "before",
    [OK, OK + CHUNKED + b"\r\n0\r\n", OK + CHUNKED + b"\r\n1 ; a\r\nx\r\n0 \r\n"],
    ids=["head", "trailer", "odd"],
)
async def test_what_is_bounded_is_bounded_within_one_read(before: bytes) -> None:
    """Of a quarter of a megabyte of the smallest lines, which one read may bring, few are looked at."""
    looked_at = 0

    class Counting(Connection):
        def on_header(self, name: bytes, value: bytes) -> None:
            nonlocal looked_at
            looked_at += 1
            super().on_header(name, value)

    connection = Counting(lambda _: None, ParsingTurns())
    connection.connection_made(Mock(asyncio.Transport))
    asking = asyncio.create_task(connection.ask([], no_body=False))
    await asyncio.sleep(0)
    connection.data_received(before + b"a:\r\n" * 65_536)
    assert looked_at < 13_000

    async def answer() -> None:
        await asking
        while await connection.read():
            pass

    with pytest.raises(ExchangeFailed, match=r"larger than 32768 bytes|more than 1000 headers"):
        await answer()


@pytest.mark.parametrize(
    "answer",
    [
        OK + LENGTH + b"Connection: close\r\n\r\n" + BODY,
        OK + CHUNKED + b"\r\n5\r\n",
        OK + b"a: b\r\n" * 1001 + LENGTH + b"\r\n" + BODY,
        OK + b" folded\r\n" + b"X: " + b"x" * 40_000,
    ],
    ids=["complete", "cut off", "too many headers", "read loosely, too large"],
)
async def test_an_ended_connection_leaves_nothing_to_collect(
    transport: PooledTransport,
    raw_server: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    answer: bytes,
) -> None:
    """What it held of its answers is free with its end: thousands at once held the gateway up for 80 ms."""
    freed = asyncio.Event()
    refs: list[weakref.ref[Connection]] = []

    class Counted(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            refs.append(weakref.ref(self, lambda _: freed.set()))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(answer)
        writer.close()

    monkeypatch.setattr("gateway.net.transport.Connection", Counted)
    server = await raw_server(handle)
    gc.disable()
    request.addfinalizer(gc.enable)
    async with asyncio.timeout(LIMIT_S):
        with suppress(ExchangeFailed):
            response = await transport.handle_async_request(httpx.Request("POST", server.url(), content=b"{}"))
            await response.aread()
        await freed.wait()
    assert len(refs) == 1


@pytest.mark.parametrize("line", [b"X-A: a\x01\r\n", b" folded\r\n", b"no colon\n", b"x: y\r\r\n", b"a"])
async def test_odd_head_without_end(transport: PooledTransport, raw_server: Callable[..., Any], line: bytes) -> None:
    """A head that is read loosely is bounded like another."""
    sent = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"{}")
        writer.write(OK + b"X-A: \x01\r\n")
        while sent < 64 * 1024 * 1024:
            writer.write(line * 1000)
            await writer.drain()
            sent += len(line) * 1000

    server = await raw_server(handle)
    with pytest.raises(ExchangeFailed, match="is larger than 32768 bytes"):
        await post(transport, server.url())
    assert sent < 16 * 1024 * 1024


async def test_odd_head_that_is_too_large(transport: PooledTransport, raw_server: Callable[..., Any]) -> None:
    """Nor is one taken that ends beyond the bound, though it comes with its end at once."""
    answer = OK + b"X-A: \x01\r\n" * 5000 + LENGTH + b"\r\n" + BODY
    server = await raw_server(in_pieces(answer, len(answer)))
    with pytest.raises(ExchangeFailed, match="is larger than 32768 bytes"):
        await post(transport, server.url())


@pytest.mark.parametrize("line", [b"a:\r\n", b"a: \x01\r\n"], ids=["plain", "odd"])
async def test_headers_without_number(transport: PooledTransport, raw_server: Callable[..., Any], line: bytes) -> None:
    """The shortest ones cost most: tens of times their bytes in memory."""
    few = OK + line * 900 + LENGTH + b"\r\n" + BODY
    assert (await post(transport, (await raw_server(in_pieces(few, len(few)))).url())).status_code == 200
    many = OK + line * 1001 + LENGTH + b"\r\n" + BODY
    with pytest.raises(ExchangeFailed, match="more than 1000 headers"):
        await post(transport, (await raw_server(in_pieces(many, len(many)))).url())


async def test_loose_trailer_without_end(transport: PooledTransport, raw_server: Callable[..., Any]) -> None:
    """So is what frames a body that is read loosely."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(OK + CHUNKED + b"\r\n8 \r\n%b\r\n0\r\n" % BODY)
        for _ in range(64):
            writer.write(b"x: a\n b\n" * 100_000)
            await writer.drain()

    server = await raw_server(handle)
    with pytest.raises(ExchangeFailed, match="is larger than 32768 bytes"):
        await post(transport, server.url())


@pytest.mark.parametrize("sent", [b"8; ", b"8\r\n%b\r\n0; " % BODY, b"8\n%b\n8 ;" % BODY])
async def test_loose_extension_without_end(
    transport: PooledTransport, raw_server: Callable[..., Any], sent: bytes
) -> None:
    """An extension is passed over, and bounded like a trailer."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(OK + CHUNKED + b"\r\n" + sent)
        for _ in range(64):
            writer.write(b"a = b; " * 100_000)
            await writer.drain()

    server = await raw_server(handle)
    with pytest.raises(ExchangeFailed, match="larger than 32768 bytes"):
        await post(transport, server.url())


async def test_extensions_of_any_number(transport: PooledTransport, raw_server: Callable[..., Any]) -> None:
    """The bound is on what stands between two parts of a body, not on all of it."""
    body = bytes(range(256))
    chunks = b"".join(b"1; %b\n%b\n" % (b"a" * 1000, body[at : at + 1]) for at in range(len(body)))
    server = await raw_server(in_pieces(OK + CHUNKED + b"\r\n" + chunks + b"0\n\n", 50_000))
    assert (await post(transport, server.url())).content == body


@pytest.mark.parametrize("padding", [b"", b"    "])
async def test_large_body_in_chunks(transport: PooledTransport, raw_server: Callable[..., Any], padding: bytes) -> None:
    """Blanks after the sizes of a body of megabytes cost its connection and nothing else; without them it is kept."""
    body = bytes(range(256)) * 8192
    parts = [body[at : at + 8000] for at in range(0, len(body), 8000)]
    chunks = [b"%x%b\r\n%b\r\n" % (len(part), padding if at > 100 else b"", part) for at, part in enumerate(parts)]
    server = await raw_server(in_pieces(OK + CHUNKED + b"\r\n" + b"".join(chunks) + b"0\r\n\r\n", 50_000))
    for _ in range(2):
        assert (await post(transport, server.url())).content == body
    assert server.connections == (2 if padding else 1)


async def test_strictly_again_after_chunks(transport: PooledTransport, raw_server: Callable[..., Any]) -> None:
    """After a body in chunks the next answer of a kept connection is held to the standard anew."""
    answers = [OK + CHUNKED + b"\r\n" + CHUNKS, OK + LENGTH + b"\n" + BODY, OK + LENGTH + b"\r\n" + BODY]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"{}"):
            writer.write(answers.pop(0))

    server = await raw_server(handle)
    for connections in (1, 1, 2):
        assert (await post(transport, server.url())).content == BODY
        assert server.connections == connections


# In both roles


@pytest.mark.parametrize("name", READ)
async def test_odd_receiver_has_taken_its_webhook(
    transport: PooledTransport, raw_server: Callable[..., Any], name: str
) -> None:
    """A 2xx is one however it is written."""
    sender = Sender(transport, SystemClock(), timeout_s=LIMIT_S)
    result = await sender.send((await raw_server(in_pieces(READ[name], 10_000))).url(), {}, b"{}")
    assert (result.status_code, result.reason, result.error, result.excerpt) == (200, None, None, BODY)


@pytest.mark.parametrize("name", ["not HTTP", "two lengths", "length in words"])
async def test_refused_receiver_is_told_why(
    transport: PooledTransport, raw_server: Callable[..., Any], name: str
) -> None:
    """An attempt whose answer nobody reads names the parser's reason."""
    answer, reason = REFUSED[name]
    sender = Sender(transport, SystemClock(), timeout_s=LIMIT_S)
    result = await sender.send((await raw_server(in_pieces(answer, 10_000))).url(), {}, b"{}")
    assert (result.status_code, result.reason) == (None, "protocol")
    assert reason in (result.error or "")
    assert KEY not in (result.error or "")


def upstream(transport: PooledTransport, url: str) -> Upstream:
    profile = read_profiles([config_dir() / "upstreams"])[0]["aigptimage"]
    return Upstream(profile, transport, SystemClock(), base_url=url, api_key=KEY, timeout_s=LIMIT_S)


@pytest.mark.parametrize("name", READ)
async def test_odd_upstream_is_read(transport: PooledTransport, raw_server: Callable[..., Any], name: str) -> None:
    """Polls, creates and proxied reads have the answer."""
    one = upstream(transport, (await raw_server(in_pieces(READ[name], 10_000))).url(""))
    answer = await one.forward("POST", "/api/v1/jobs/createTask", content=b"{}")
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body) == (200, BODY)


async def test_odd_upstream_ends_a_task(transport: PooledTransport, raw_server: Callable[..., Any]) -> None:
    """A poll that is answered in an odd way tells the task's end."""
    body = b'{"code":200,"data":{"taskId":"t","state":"success"}}'

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        length = b"Content-Length: %d\n" % len(body)
        writer.write(OK + b"CSP: a;\r\n b\r\n" + length + length + b"\n" + body)

    result = await upstream(transport, (await raw_server(handle)).url("")).poll("t")
    assert (result.kind, result.error) == (PollKind.TERMINAL, None)


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_upstream_is_told_why(
    transport: PooledTransport, raw_server: Callable[..., Any], name: str
) -> None:
    """A poll or create whose answer nobody reads names the parser's reason, and nothing that the answer repeats."""
    answer, reason = REFUSED[name]
    one = upstream(transport, (await raw_server(in_pieces(answer, 10_000))).url(""))
    no_answer = await one.forward("POST", "/api/v1/jobs/createTask", content=b"{}")
    assert isinstance(no_answer, NoAnswer)
    assert (no_answer.kind, no_answer.sent) == (PollKind.UNREACHABLE, True)
    assert reason in no_answer.error
    assert KEY not in no_answer.error
