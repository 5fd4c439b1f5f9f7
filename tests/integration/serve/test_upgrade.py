"""Requests that ask for an upgrade, byte by byte over real sockets: they are requests like any other."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.cli.receiver import Receiver
from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.serve.inbound import InboundProtocol
from gateway.serve.serverprotocol import ServerProtocol
from gateway.signature import Signer, make_secret, parse_secrets
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator

LIMIT_S = 30

JDK = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\nUpgrade: h2c\r\n"
WEBSOCKET = b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
LAST = b"Connection: upgrade, close\r\nUpgrade: h2c\r\n"
UPGRADES = {"jdk": JDK, "websocket": WEBSOCKET}

# Served, it would show what its sender has no right to see where a proxy checked only the request around it.
SMUGGLED = b"GET /v1/callbacks HTTP/1.1\r\nhost: x\r\n\r\n"
FRAMED = {
    "length": b"Content-Length: %d\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED),
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\n%b\r\n%x\r\n%b\r\n0\r\nx: y\r\n\r\n"
    % (SMUGGLED[:4], len(SMUGGLED) - 4, SMUGGLED[4:]),
}
NEXT = b"GET /next HTTP/1.1\r\nhost: x\r\n\r\n"

Said = tuple[str, str, str]
Ask = Callable[..., Awaitable[list[Said]]]


async def echo(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """Answer with the request's method, path and body."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = json.dumps([scope["method"], scope["path"], body.decode()]).encode()
    headers = [(b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next((line[15:] for line in head.split("\r\n") if line.startswith("content-length:")), "0")
    return int(head.split()[1]), await reader.readexactly(int(length))


@asynccontextmanager
async def served(protocol: type[ServerProtocol]) -> AsyncIterator[Ask]:
    """Serve ``echo``, and yield what sends packets over a connection of its own and reads so many answers."""
    read = asyncio.Event()

    class Seen(protocol):  # type: ignore[misc, valid-type]
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            read.set()

    async with asyncio.timeout(LIMIT_S), serve_asgi(echo, protocol=Seen) as url:

        async def ask(*packets: bytes, answers: int) -> list[Said]:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
            try:
                for packet in packets:
                    read.clear()
                    writer.write(packet)
                    await read.wait()  # so that the next one is a packet of its own
                return [tuple(json.loads((await read_answer(reader))[1])) for _ in range(answers)]
            finally:
                writer.transport.abort()

        yield ask


protocols = pytest.mark.parametrize("protocol", [ServerProtocol, InboundProtocol])


@protocols
@pytest.mark.parametrize("framing", FRAMED)
async def test_body_of_an_upgrade_at_every_split(protocol: type[ServerProtocol], framing: str) -> None:
    """In one packet, or in two wherever they part, the body is the request's and the next request is the next."""
    request = b"POST /hook HTTP/1.1\r\nhost: x\r\n" + JDK + FRAMED[framing] + NEXT
    wanted = [("POST", "/hook", SMUGGLED.decode()), ("GET", "/next", "")]
    async with served(protocol) as ask:
        assert await ask(request, answers=2) == wanted
        for at in range(1, len(request)):
            assert await ask(request[:at], request[at:], answers=2) == wanted, request[:at]


@protocols
@pytest.mark.parametrize("framing", FRAMED)
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_upgrades_one_after_another(protocol: type[ServerProtocol], framing: str, upgrade: str) -> None:
    """Pipelined, or byte by byte: each request that asks for an upgrade is read like one that does not."""
    request = b"POST /hook HTTP/1.1\r\nhost: x\r\n" + UPGRADES[upgrade] + FRAMED[framing]
    requests = request + NEXT + request + request
    post = ("POST", "/hook", SMUGGLED.decode())
    wanted = [post, ("GET", "/next", ""), post, post]
    async with served(protocol) as ask:
        assert await ask(requests, answers=4) == wanted
        assert await ask(*(requests[at : at + 1] for at in range(len(requests))), answers=4) == wanted


@protocols
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_handshake_without_a_body(protocol: type[ServerProtocol], upgrade: str) -> None:
    """It gets an ordinary answer, and its connection goes on."""
    request = b"GET /socket HTTP/1.1\r\nhost: x\r\n" + UPGRADES[upgrade] + b"\r\n"
    wanted = [("GET", "/socket", ""), ("GET", "/next", "")]
    async with served(protocol) as ask:
        assert await ask(request + NEXT, answers=2) == wanted
        assert await ask(request, NEXT, answers=2) == wanted


@protocols
async def test_upgrade_on_the_last_request(protocol: type[ServerProtocol]) -> None:
    """Where the client says that it closes, its body is read, and nothing after it is served."""
    request = b"POST /hook HTTP/1.1\r\nhost: x\r\n" + LAST + FRAMED["length"]
    async with served(protocol) as ask:
        assert await ask(request, answers=1) == [("POST", "/hook", SMUGGLED.decode())]
        with pytest.raises(asyncio.IncompleteReadError):
            await ask(request + NEXT, answers=2)


@protocols
async def test_connect_opens_no_tunnel(protocol: type[ServerProtocol]) -> None:
    """CONNECT with a path is a method like another; what follows its head is the next request, or its own body."""
    async with served(protocol) as ask:
        head = b"CONNECT /hook HTTP/1.1\r\nhost: x\r\n"
        assert await ask(head + b"\r\n" + NEXT, answers=2) == [("CONNECT", "/hook", ""), ("GET", "/next", "")]
        wanted = [("CONNECT", "/hook", SMUGGLED.decode()), ("GET", "/next", "")]
        for body in FRAMED.values():
            assert await ask(head + body + NEXT, answers=2) == wanted
            assert await ask(head + body[:30], body[30:] + NEXT, answers=2) == wanted


@protocols
@pytest.mark.parametrize(
    "framing",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        b"Content-Length: 1\r\nContent-Length: 2\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    ],
)
async def test_doubtful_framing_is_refused_as_without_an_upgrade(
    protocol: type[ServerProtocol], framing: bytes
) -> None:
    """An upgrade is no way around the checks of what frames a request: it is not served, and nothing after it."""
    seen: list[str] = []

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        await echo(scope, receive, send)

    for upgrade in (b"", *UPGRADES.values()):
        async with asyncio.timeout(LIMIT_S), serve_asgi(app, protocol=protocol) as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
            writer.write(b"POST /hook HTTP/1.1\r\nhost: x\r\n" + upgrade + framing + b"\r\n" + NEXT)
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
            writer.close()
    assert "/next" not in seen
    assert seen.count("/v1/callbacks") == 0


# The servers


async def test_listen_takes_a_webhook_with_an_upgrade() -> None:
    """A receiver of `listen` and `demo` verifies the body that came behind the head of an upgrade."""
    secrets = parse_secrets(make_secret())
    verified: list[bool] = []
    body = b'{"type":"task.succeeded"}'
    now_s = SystemClock().now() // 1000
    signature = Signer(secrets).sign("cb_1", now_s, body).encode()
    signed = b"webhook-id: cb_1\r\nwebhook-timestamp: %d\r\nwebhook-signature: %b\r\n" % (now_s, signature)
    head = b"POST /hook HTTP/1.1\r\nhost: x\r\n" + JDK + signed + b"Content-Length: %d\r\n\r\n" % len(body)
    receiver = Receiver(secrets, SystemClock(), lambda webhook: verified.append(webhook.verified))
    async with asyncio.timeout(LIMIT_S), serve_asgi(receiver) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        for _ in range(2):
            writer.write(head + body)
            assert (await read_answer(reader))[0] == 204
        writer.close()
    assert verified == [True, True]


async def test_simulator_takes_a_create_with_an_upgrade() -> None:
    """A task is created from the body that came behind the head of an upgrade."""
    body = b'{"model":"m","input":{}}'
    head = b"POST /api/v1/jobs/createTask HTTP/1.1\r\nhost: x\r\n" + JDK + b"Content-Length: %d\r\n\r\n" % len(body)
    simulator = SimulatedUpstream(SystemClock())
    async with asyncio.timeout(LIMIT_S), serve_simulator(simulator) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(head + body)
        status, answer = await read_answer(reader)
        writer.close()
    assert (status, json.loads(answer)["code"]) == (200, 200)
