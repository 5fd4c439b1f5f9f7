"""Clients that end their side: what they asked for is answered, and nothing is left behind."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

import pytest

from tests.peer import BIG, GET, App, Peer, Watched, served


class Halved(Watched):
    """Says when its client has ended its side; only an answer that is not read ends it by time."""

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
