"""Answers that their client does not read, or too slowly: it is cut, so that their memory comes back."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from tests.peer import BIG, GET, App, Watched, served

MIB = 1024 * 1024


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


async def test_an_answer_that_nobody_reads_and_that_holds_up_nothing_ends_with_the_idle_time() -> None:
    """One that the connection's buffers take whole starts no clock; it is closed as any idle one, and cut soon."""

    class Idle(Watched):
        read_s = 3600.0

        def connection_made(self, transport: Any) -> None:
            transport.set_write_buffer_limits(2 * BIG)
            super().connection_made(transport)
            self.timeout_keep_alive = 0.1  # type: ignore[assignment]

    Watched.ended = asyncio.Event()
    async with served(App(), Idle) as connect:
        peer = await connect()
        peer.pause()
        await peer.send(GET % b"big")
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
