"""The small ASGI server that the simulator, the demo and the tests share."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

import httpx
import pytest
import uvloop

from gateway.serve.asgi import serve_asgi
from gateway.serve.serverprotocol import ServerProtocol
from tests.peer import LIMIT_S

Message = MutableMapping[str, Any]


async def hello(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Any]) -> None:
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_it_serves_within_the_block_and_not_after() -> None:
    """The URL works at once, and is refused once the block has ended."""
    async with httpx.AsyncClient(trust_env=False) as client:
        async with serve_asgi(hello) as base_url:
            assert (await client.get(base_url)).text == "ok"
        with pytest.raises(httpx.ConnectError):
            await client.get(base_url)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_no_piece_of_an_answer_waits_for_the_one_before(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Each goes out at once, on either loop: the body would come 40 ms after the head otherwise."""
    no_delay: list[int] = []

    class Looking(ServerProtocol):
        def connection_made(self, transport: Any) -> None:
            accepted = transport.get_extra_info("socket")
            no_delay.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            super().connection_made(transport)

    async def main() -> None:
        async with httpx.AsyncClient(trust_env=False) as client, serve_asgi(hello, protocol=Looking) as base_url:
            assert (await client.get(base_url)).text == "ok"

    run(main())
    assert len(no_delay) == 1
    assert no_delay[0] != 0


async def test_an_idle_connection_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keep-alive connection that a client still holds is closed at once, and not after the time for an answer."""
    monkeypatch.setattr("gateway.serve.asgi._GRACE_S", 30)
    async with (
        httpx.AsyncClient(trust_env=False) as client,
        asyncio.timeout(LIMIT_S),
        serve_asgi(hello) as base_url,
    ):
        await client.get(base_url)


async def test_a_taken_port_is_an_oserror() -> None:
    """The caller decides what a taken port means; the process is not ended."""
    async with serve_asgi(hello) as base_url:
        with pytest.raises(OSError, match="in use"):
            async with serve_asgi(hello, port=int(base_url.rsplit(":", 1)[1])):
                pass


async def test_a_request_in_flight_is_answered_during_the_end() -> None:
    """What finishes within the grace time reaches its client."""
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def patient(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Any]
    ) -> None:
        arrived.set()
        await go_on.wait()
        await hello(scope, receive, send)

    async with httpx.AsyncClient(trust_env=False) as client:
        async with serve_asgi(patient) as base_url:
            request = asyncio.create_task(client.get(base_url))
            await arrived.wait()
            asyncio.get_running_loop().call_later(0.05, go_on.set)
        assert (await request).text == "ok"


@pytest.mark.parametrize("deaf", [False, True], ids=["waits-for-the-client", "waits-for-ever"])
async def test_a_request_without_an_end_is_cut_at_the_servers(deaf: bool) -> None:
    """An application that answers nothing, and even one that ignores that its client is gone, cannot hold the end."""
    arrived = asyncio.Event()

    async def endless(
        scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Any]
    ) -> None:
        arrived.set()
        if deaf:
            await asyncio.Event().wait()
        while (await receive())["type"] != "http.disconnect":
            pass

    async with httpx.AsyncClient(trust_env=False) as client:
        async with asyncio.timeout(LIMIT_S), serve_asgi(endless) as base_url:
            request = asyncio.create_task(client.get(base_url))
            await arrived.wait()
        with pytest.raises(httpx.TransportError):
            await request
