"""Clients that do not read what they have asked for: all but a little of it stays with the gateway.

The kernel would take megabytes for them. From a server in another process it takes some 90 KB, as what they can take is
small; from one in this process 12, as its own buffers are made small, too.
"""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.responses import Response

from gateway.core.memory import SMALL
from gateway.serve.asgi import open_listener

__all__ = ["first_begun", "keep_send_buffers_small", "large_answers", "unread"]

_BYTES = 4096
_SEGMENT = 536


def keep_send_buffers_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel take little of what is sent by this process's servers that are started from here on."""

    def small(*address: Any) -> socket.socket:
        listener = open_listener(*address)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BYTES)  # what it accepts inherits this
        return listener

    monkeypatch.setattr("gateway.serve.asgi.open_listener", small)


@asynccontextmanager
async def unread(url: str, path: str, *headers: str) -> AsyncIterator[asyncio.StreamReader]:
    """Ask for a path, and yield what could read the answer; the connection is cut at the end."""
    address = urlsplit(url)
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BYTES)
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)  # of which the other side has room for some
    own.setblocking(False)
    await asyncio.get_running_loop().sock_connect(own, (address.hostname, address.port))
    reader, writer = await asyncio.open_connection(sock=own, limit=1024)
    try:
        writer.write("\r\n".join([f"GET {path} HTTP/1.1", "host: 127.0.0.1", *headers, "", ""]).encode())
        yield reader
    finally:
        writer.transport.abort()


async def first_begun(readers: Iterable[asyncio.StreamReader]) -> bytes:
    """Return how the answer begins that begins first, whoever's that is: its first twelve bytes."""
    begun = [asyncio.ensure_future(reader.readexactly(12)) for reader in readers]
    done, left = await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)
    for one in left:
        one.cancel()
    await asyncio.wait(begun)
    return done.pop().result()


def large_answers() -> list[Response]:
    """Return those that are in this process's memory, whether they are being sent or not."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, Response) and len(one.body) > SMALL]
