"""Answers before the end of a body: the client reads its answer, and the rest of the body has limits."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from gateway.serve.inbound import InboundProtocol
from tests.peer import GET, App, Watched, freed, served


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


class Patient(Watched):
    """Nothing ends by time."""

    head_s = body_s = read_s = linger_s = 3600.0


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
    async with freed(App()) as connect:
        peer = await connect()
        await peer.send(b"POST " + path + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nbo")
        if path == b"/body":
            await peer.send(b"d")
        await peer.answer()
        peer.writer.write_eof()


async def test_a_connection_that_is_lost_with_requests_behind_leaves_nothing_to_collect() -> None:
    """The requests that were never served know their connection: it is freed all the same once it is lost."""
    app = App()
    async with freed(app) as connect:
        peer = await connect()
        await peer.send(GET % b"hold" + GET % b"second" + GET % b"third")
        await app.held.wait()
        peer.writer.transport.abort()
