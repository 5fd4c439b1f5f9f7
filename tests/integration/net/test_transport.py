"""The transport over real sockets: pooling, cancellation, what is on the wire, and its end."""

import asyncio
import gc
import random
import warnings

import httpx
import pytest

from gateway.net.guard import Netguard
from gateway.net.http1 import Connection
from gateway.net.transport import PooledTransport
from tests.transports import OK, failing, post, resolving


async def test_connections_are_reused(make, raw_server, answering) -> None:
    """Requests one after another share one connection."""
    server = await raw_server(answering(OK))
    transport = make()
    for _ in range(20):
        response = await post(transport, server.url())
        assert (response.status_code, response.content) == (200, b"ok")
    assert server.connections == 1


async def test_reuse_after_a_body_that_was_not_read(make, raw_server, answering) -> None:
    """An answer that has arrived in full frees its connection for reuse even when nobody reads it."""
    server = await raw_server(answering(OK))
    transport = make()
    for _ in range(3):
        response = await transport.handle_async_request(httpx.Request("POST", server.url(), content=b"{}"))
        await response.aclose()
        await response.aclose()  # closing twice does no harm
    assert server.connections == 1


async def test_the_request_on_the_wire(make, raw_server, read_request) -> None:
    """What is sent is what the httpx request holds, byte for byte: no header is added, Host is the URL's."""
    seen = []

    async def handle(reader, writer) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(5))
        writer.write(OK)

    server = await raw_server(handle)
    transport = make(resolve=resolving(hooks_example_test=["127.0.0.1"]))
    url = server.url("/a%2Fb/ü?q=1&r=%20#frag", host="hooks.example.test")
    await post(transport, url, b"hello", **{"X-Some": "Value"})
    assert seen == [
        f"POST /a%2Fb/%C3%BC?q=1&r=%20 HTTP/1.1\r\nHost: hooks.example.test:{server.port}\r\n"
        "X-Some: Value\r\nContent-Length: 5\r\n\r\nhello".encode()
    ]


@pytest.mark.parametrize("name", ["x-bad", "x-bad\r\nx-more"])
async def test_header_cannot_be_split(make, raw_server, answering, name: str) -> None:
    """A line break in a header's name or value is refused before anything is sent."""
    server = await raw_server(answering(OK))
    with failing("protocol", sent=False):
        await post(make(), server.url(), **{name: "a\r\nx-evil: 1" if name == "x-bad" else "a"})
    assert server.connections == 0


async def test_redirect_is_returned_not_followed(make, raw_server, answering) -> None:
    """A redirect is an answer like any other."""
    target = await raw_server(answering(OK))
    answer = f"HTTP/1.1 302 Found\r\nLocation: {target.url()}\r\nContent-Length: 0\r\n\r\n".encode()
    server = await raw_server(answering(answer))
    assert (await post(make(), server.url())).status_code == 302
    assert target.connections == 0


async def test_body_is_not_decoded(make, raw_server, answering) -> None:
    """A compressed body arrives as it was sent."""
    server = await raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nraw!"))
    response = await make().handle_async_request(httpx.Request("POST", server.url(), content=b"{}"))
    chunks = [chunk async for chunk in response.stream]
    assert b"".join(chunks) == b"raw!"
    await response.aclose()


async def test_cookies_are_not_kept(make, raw_server, read_request) -> None:
    """What one answer sets is not sent with the next request."""
    seen = []

    async def handle(reader, writer) -> None:
        while True:
            seen.append((await read_request(reader))[1])
            writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")

    server = await raw_server(handle)
    transport = make(resolve=resolving(a_test=["127.0.0.1"]))
    for _ in range(2):
        await post(transport, server.url(host="a.test"))
    assert all("cookie" not in headers for headers in seen)
    assert len(seen) == 2


async def test_environment_proxies_are_ignored(make, raw_server, answering, monkeypatch) -> None:
    """A proxy variable does not redirect webhooks around the address check."""
    proxy = await raw_server(answering(OK))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url())
    server = await raw_server(answering(OK))
    await post(make(), server.url())
    assert (server.connections, proxy.connections) == (1, 0)


async def test_interim_answers_are_skipped(make, raw_server, answering) -> None:
    """100 and 103 only announce the answer."""
    server = await raw_server(answering(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK))
    assert (await post(make(), server.url())).content == b"ok"


async def test_cancelled_requests_give_their_places_back(make, raw_server, read_request) -> None:
    """After 300 requests cancelled at random moments, with two places, both still work; no socket is left over."""
    release = asyncio.Event()

    async def handle(reader, writer) -> None:
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
            if not release.is_set():
                for _ in range(rng.randrange(6)):
                    await asyncio.sleep(0)
            writer.write(b"ok")

    rng = random.Random(1)
    server = await raw_server(handle)
    transport = make(limit=2)
    for _ in range(100):
        tasks = [asyncio.create_task(post(transport, server.url())) for _ in range(3)]
        for _ in range(rng.randrange(30)):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    release.set()
    async with asyncio.timeout(5):
        responses = await asyncio.gather(*(post(transport, server.url()) for _ in range(10)))
    assert [response.content for response in responses] == [b"ok"] * 10
    assert not transport._busy
    assert transport._places._value == 2
    assert len(transport._idle) <= 2


async def test_cancelled_while_waiting_for_a_place(make, raw_server, answering, read_request) -> None:
    """A request cancelled in the queue for a connection leaves the queue whole."""
    arrived, release = asyncio.Event(), asyncio.Event()

    async def handle(reader, writer) -> None:
        while True:
            await read_request(reader)
            arrived.set()
            await release.wait()
            writer.write(OK)

    server = await raw_server(handle)
    transport = make(limit=1)
    first = asyncio.create_task(post(transport, server.url()))
    await arrived.wait()
    waiting = [asyncio.create_task(post(transport, server.url())) for _ in range(5)]
    await asyncio.sleep(0)
    for task in waiting[:4]:
        task.cancel()
    release.set()
    async with asyncio.timeout(5):
        results = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert [type(result) for result in results[1:5]] == [asyncio.CancelledError] * 4
    assert results[0].status_code == results[5].status_code == 200


async def test_answer_that_nobody_asked_for_is_not_taken_for_the_next(make, raw_server, read_request) -> None:
    """A pooled connection on which the server went on talking is dropped, not read from."""
    spoke = asyncio.Event()

    async def handle(reader, writer) -> None:
        while True:
            await read_request(reader)
            writer.write(OK)
            await writer.drain()
            if server.connections == 1:
                writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                spoke.set()

    server = await raw_server(handle)
    transport = make()
    assert (await post(transport, server.url())).status_code == 200
    await spoke.wait()
    assert (await post(transport, server.url())).status_code == 200
    assert (await post(transport, server.url())).status_code == 200


@pytest.mark.parametrize("close", ["at once", "after the request"])
async def test_server_that_closes_without_an_answer(make, raw_server, read_request, close: str) -> None:
    """A closed connection is a reset, and is not tried again and again."""

    async def handle(reader, writer) -> None:
        if close == "after the request":
            await read_request(reader)

    server = await raw_server(handle)
    with failing("reset"):
        await post(make(), server.url())
    assert server.connections <= 3


async def test_server_that_closes_an_idle_connection(make, raw_server, read_request) -> None:
    """A connection that the server closed after its answer is replaced without anyone noticing."""
    closed = asyncio.Event()

    async def handle(reader, writer) -> None:
        await read_request(reader)
        writer.write(OK)
        writer.close()
        await writer.wait_closed()
        closed.set()

    server = await raw_server(handle)
    transport = make()
    for _ in range(3):
        closed.clear()
        assert (await post(transport, server.url())).status_code == 200
        await closed.wait()
        while transport._idle:  # noqa: ASYNC110 - until the loop has seen the end of it
            await asyncio.sleep(0)
    assert server.connections == 3


def test_made_outside_of_a_loop() -> None:
    """A transport may be made before any loop runs, and closed unused, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transport = PooledTransport(guard=Netguard(), resolve=resolving(), limit=1)
        asyncio.run(transport.aclose())


async def test_closed_transport_refuses(make, raw_server, answering) -> None:
    """After aclose the sockets are gone, a further request is an error, and closing again does nothing."""
    server = await raw_server(answering(OK))
    transport = make()
    await post(transport, server.url())
    await transport.aclose()
    await transport.aclose()
    with failing("refused", sent=False):
        await post(transport, server.url())
    del transport
    gc.collect()  # would warn of an unclosed connection


@pytest.mark.parametrize(("size", "parts"), [(1000, 1), (1_000_000, 2)])
async def test_a_large_body_is_sent_as_it_is(make, raw_server, read_request, monkeypatch, size, parts) -> None:
    """A webhook of megabytes is not copied behind its head, which takes milliseconds and as much memory again."""
    body, sent, arrived = b"x" * size, [], []

    async def handle(reader, writer) -> None:
        arrived.append((await read_request(reader))[-1])
        writer.write(OK)

    async def ask(self, request, *, no_body) -> None:
        sent.append(list(request))
        await original(self, request, no_body=no_body)

    original = Connection.ask
    monkeypatch.setattr(Connection, "ask", ask)
    server = await raw_server(handle)
    answer = await make().handle_async_request(httpx.Request("POST", server.url(), content=body))
    assert (await answer.aread(), arrived) == (b"ok", [body])
    assert len(sent[0]) == parts
    assert (sent[0][-1] is body) == (parts > 1)


async def test_body_that_is_not_in_memory_is_refused(make, raw_server, answering) -> None:
    """A streamed request body is a programming error, found before a connection is made."""
    server = await raw_server(answering(OK))

    async def chunks():
        yield b"x"

    with pytest.raises(httpx.RequestNotRead):
        await make().handle_async_request(httpx.Request("POST", server.url(), content=chunks()))
    assert server.connections == 0


async def test_works_under_an_httpx_client(make, raw_server, answering) -> None:
    """The transport fits httpx's own client, redirects and cookies being that client's choice."""
    server = await raw_server(answering(OK))
    async with httpx.AsyncClient(transport=make(), trust_env=False) as client:
        response = await client.post(server.url(), json={"a": 1})
    assert response.text == "ok"
    assert response.http_version == "HTTP/1.1"
    assert response.reason_phrase == "OK"


async def test_head_request(make, raw_server, answering) -> None:
    """An answer to HEAD has no body whatever its length says."""
    server = await raw_server(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"))
    response = await make().handle_async_request(httpx.Request("HEAD", server.url()))
    assert await response.aread() == b""
