"""A flood of small chunks in requests' bodies, and a server's connection to a client that is not there."""

import asyncio
from typing import Any

from uvicorn.server import ServerState

from gateway.serve.asgi import server_config
from gateway.serve.inbound import InboundProtocol
from tests.fuzz.wire import Wire

__all__ = [
    "ANSWER",
    "HEAD",
    "LAST",
    "MOST_TURNS",
    "ONES",
    "SIXTEEN",
    "SMALLEST",
    "STEP",
    "connected",
    "flood",
    "one_step",
    "until_written",
]

HEAD = b"POST /%b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
SMALLEST, SIXTEEN = b"1\r\n%b\r\n", b"10\r\n%b" + b"x" * 15 + b"\r\n"
ONES = b"1\r\nx\r\n" * 6000
ANSWER = b"\r\n\r\n" + b"x" * 6000  # to ONES
MOST_TURNS = 1000
STEP = 4096


def flood(chunk: bytes) -> tuple[bytes, bytes]:
    """Return 6,000 chunks, each with a digit of its own, and the body that they are."""
    digits = [b"%d" % (number % 10) for number in range(6000)]
    return b"".join(chunk % digit for digit in digits), b"".join(digits)


def one_step(path: bytes) -> bytes:
    """Return a request of many chunks that ends where its first step does."""
    head, chunks = HEAD % path, b"1\r\nx\r\n" * 500
    padded = head.replace(b"host: x", b"host: x\r\nx: " + b"x" * (STEP - len(head + chunks + LAST) - 5))
    assert len(padded + chunks + LAST) == STEP
    return padded + chunks + LAST


def connected(
    app: Any, protocol_class: type[InboundProtocol] = InboundProtocol, server: ServerState | None = None
) -> tuple[InboundProtocol, Wire]:
    """Return a server's connection to a client that is not there, whose reads the test hands over."""
    config = server_config(app, protocol_class)
    config.load()
    protocol = protocol_class(config, server or ServerState(), app_state={})
    return protocol, Wire(asyncio.get_running_loop(), protocol)


async def until_written(wire: Wire, end: bytes) -> int:
    """Let the loop turn until the answers end so; return the turns that it took."""
    for turn in range(MOST_TURNS):
        if wire.written.endswith(end):
            return turn
        await asyncio.sleep(0)
    raise AssertionError(bytes(wire.written[-200:]))
