"""How an answer leaves: its head and what of its body is there at once in one packet, and nothing waits for more."""

import asyncio
import socket
import struct
from typing import Any

import pytest

from gateway.serve.inbound import InboundProtocol
from tests.peer import GET, LIMIT_S, App, Peer, served

_DATA_SEGMENTS_IN = 152
"""Where ``struct tcp_info`` of linux/tcp.h tells how many packets with data have come."""


class Begun(App):
    """Begins an answer, and goes on with it once told to."""

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await self.release.wait()
        await send({"type": "http.response.body", "body": b"slow"})


class Headless(App):
    """Begins an answer and ends without a body."""

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})


def packets(peer: Peer) -> int:
    """Return how many packets with data have come to a client."""
    made: socket.socket = peer.writer.get_extra_info("socket")
    told = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (count,) = struct.unpack_from("=I", told, _DATA_SEGMENTS_IN)
    assert isinstance(count, int)
    return count


async def test_an_answer_is_one_packet() -> None:
    """A head does not go out by itself where its body follows at once: of each answer on a connection that is kept."""
    async with served(App()) as connect:
        peer = await connect()
        for count in range(1, 4):
            await peer.send(GET % b"a")
            assert await peer.answer() == (200, {"content-length": "2"}, b"/a")
            assert packets(peer) == count


async def test_answers_to_requests_that_come_together_are_whole_and_in_order() -> None:
    """Each one's head goes with its own body."""
    async with served(App()) as connect:
        peer = await connect()
        await peer.send(GET % b"a" + GET % b"bb" + b"HEAD /ccc HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await peer.answer())[2] == b"/a"
        assert (await peer.answer())[2] == b"/bb"
        assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        await peer.send(GET % b"d")
        assert (await peer.answer())[2] == b"/d"


async def test_a_head_whose_body_takes_its_time_goes_out_before_it() -> None:
    """A client of an answer that comes in parts sees at once that there is one."""
    app = Begun()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(GET % b"a")
        async with asyncio.timeout(LIMIT_S):
            assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        app.release.set()
        assert await peer.reader.readexactly(4) == b"slow"
        assert packets(peer) == 2


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_an_answer_reaches_a_client_that_has_ended_its_side(method: bytes) -> None:
    """Nothing follows a HEAD's head: it does not wait, and so is not lost where the client's end comes with it."""
    for _ in range(20):
        async with served(App()) as connect:
            peer = await connect()
            peer.writer.write(method + b" /a HTTP/1.1\r\nhost: x\r\n\r\n")
            peer.writer.write_eof()
            head = await peer.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert await peer.reader.read() == (b"/a" if method == b"GET" else b"")


async def test_a_head_that_is_begun_before_the_body_has_come_is_not_lost_with_it() -> None:
    """The client ends its side in the middle of its body: it sees how the answer begins."""

    class Early(App):
        async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
            self.held.set()
            await receive()
            await receive()

    for _ in range(20):
        app = Early()
        async with served(app) as connect:
            peer = await connect()
            peer.writer.write(b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc")
            peer.writer.write_eof()
            assert (await peer.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_head_that_waits_while_the_connection_is_closed_in_stages_is_dropped() -> None:
    """The application fails after its answer, while others wait behind it: nothing is written behind the end."""
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))

    class Failing(App):
        async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
            await super()._serve(scope, receive, send)
            if scope["path"] == "/fails":
                raise RuntimeError("after its answer")

    async with served(Failing()) as connect:
        peer = await connect()
        await peer.send(GET % b"fails" + b"HEAD /b HTTP/1.1\r\nhost: x\r\n\r\n" + GET % b"c")
        assert (await peer.answer())[2] == b"/fails"
        await peer.ended()
    assert not troubles


async def test_a_large_body_follows_its_head_whole() -> None:
    """Also where it is too large to go with it: nothing is lost between the two."""
    async with served(App(), InboundProtocol) as connect:
        peer = await connect()
        await peer.send(GET % b"big")
        head = await peer.reader.readuntil(b"\r\n\r\n")
        assert head == b"HTTP/1.1 200 OK\r\ncontent-length: 67108864\r\n\r\n"
        assert not (await peer.reader.readexactly(64 * 1024 * 1024)).strip(b"\0")


@pytest.mark.parametrize("body", [b"hello", b""])
async def test_what_says_to_go_on_is_no_head(body: bytes) -> None:
    """100 (Continue) is sent at once: its client sends the body only then."""
    async with served(App()) as connect:
        peer = await connect()
        fields = b"host: x\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body)
        await peer.send(b"POST /body HTTP/1.1\r\n" + fields)
        if body:
            async with asyncio.timeout(LIMIT_S):
                assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await peer.send(body)
        while (answer := await peer.answer())[0] == 100:
            pass
        assert answer == (200, {"content-length": str(len(body))}, body)


async def test_a_head_with_no_body_after_it_is_sent_before_the_connection_closes() -> None:
    """The client learns that the rest is missing, and that the gateway had begun to answer."""
    async with served(Headless()) as connect:
        peer = await connect()
        await peer.send(GET % b"a")
        assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n"
        await peer.ended()
