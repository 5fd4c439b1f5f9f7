"""The tests' own proxy between the gateway and its database: what it keeps back, and how it lets go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.peer import LIMIT_S
from tests.tcpproxy import TcpProxy, tcp_proxy


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[TcpProxy, list[bytes]]]:
    """Yield a proxy to a server that gives back what it gets, and what that got."""
    heard: list[bytes] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                heard.append(data)
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(LIMIT_S), tcp_proxy(server.sockets[0].getsockname()[1]) as proxy:
            yield proxy, heard
    finally:
        server.close()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    writer.write(data)
    return await reader.readexactly(len(data))


async def test_what_was_sent_in_silence_arrives_late() -> None:
    """Nothing passes and nobody is told; once it is mended all arrives, in its order, on the old and the new."""
    async with echoing() as (proxy, heard):
        old = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await _ask(*old, b"before") == b"before"
        proxy.silence()
        new = await asyncio.open_connection("127.0.0.1", proxy.port)
        asked = [asyncio.ensure_future(_ask(*old, b"old")), asyncio.ensure_future(_ask(*new, b"new"))]
        await asyncio.wait(asked, timeout=0.05)
        assert not any(task.done() for task in asked)
        assert heard == [b"before"]
        proxy.mend(late=True)
        assert await asyncio.gather(*asked) == [b"old", b"new"]
        for _, writer in (old, new):
            writer.close()


async def test_what_was_sent_in_silence_never_arrives() -> None:
    """Mended, the connections from before are reset, and what was on its way is gone."""
    async with echoing() as (proxy, heard):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await _ask(reader, writer, b"before") == b"before"
        proxy.silence()
        writer.write(b"lost")
        await asyncio.wait([asyncio.ensure_future(reader.read(1))], timeout=0.05)
        proxy.mend()
        with pytest.raises(ConnectionResetError):
            await writer.wait_closed()
        assert heard == [b"before"]
        again = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await _ask(*again, b"after") == b"after"
        again[1].close()


async def test_reset() -> None:
    """What is open is reset, and so is each new one until it is mended."""
    async with echoing() as (proxy, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await _ask(reader, writer, b"before") == b"before"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        reader, refused = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
        refused.close()
        proxy.mend()
        again = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await _ask(*again, b"after") == b"after"
        again[1].close()
