"""What goes wrong at the transport's sockets, and the word that each error has."""

import asyncio
import errno
import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import httpx
import pytest

from gateway.core.errors import AddressNotAllowed
from gateway.net.guard import Netguard, parse_allow
from tests.transports import OK, failing, post, resolving
from tests.waiting import LIMIT_S, until


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


async def test_refused_port(make) -> None:
    """A closed port is refused, with the system's own error as the cause, over several addresses as well."""
    url = f"http://127.0.0.1:{closed_port()}/?canary"
    with failing("refused", sent=False) as caught:
        await post(make(), url)
    assert "canary" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    two = make(resolve=resolving(two=["127.0.0.1", "127.0.0.2"]))
    with failing("refused", sent=False):
        await post(two, url.replace("127.0.0.1", "two"))


@contextmanager
def never_accepting(host: str, port: int = 0) -> Iterator[int]:
    """Lend a port where connections are never established, as its queue is full."""
    with closing(socket.socket()) as listener, ExitStack() as stack:
        listener.bind((host, port))
        listener.listen(0)
        stack.enter_context(socket.create_connection(listener.getsockname()))
        assert select.select([listener], [], [], LIMIT_S)[0], "the queue of one is not full"
        yield listener.getsockname()[1]


async def test_a_name_with_hundreds_of_addresses(make, monkeypatch) -> None:
    """Four of them are tried, two at a time, and then it has failed: each is a socket."""
    monkeypatch.setattr("gateway.net.transport._NEXT_ADDRESS_S", 0.001)
    monkeypatch.setattr("gateway.net.transport._NEXT_PAIR_S", 0.5)  # a machine may well stop for 0.1 s
    addresses = [f"127.0.1.{number}" for number in range(1, 251)]
    transport = make(resolve=resolving(many=addresses), guard=Netguard(parse_allow("127.0.0.0/8")))
    opened: list[socket.socket] = []
    most = 0

    def counted(*args: Any) -> socket.socket:
        nonlocal most
        opened.append(sockets(*args))
        most = max(most, sum(one.fileno() >= 0 for one in opened))
        return opened[-1]

    sockets, transport._open_socket = transport._open_socket, counted
    with never_accepting("0.0.0.0") as port:
        asking = asyncio.create_task(post(transport, f"http://many:{port}/"))
        await until(lambda: len(opened) == 4)
        await asyncio.sleep(0.6)  # in which more would be tried
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert (len(opened), most) == (4, 2)
    assert not [one for one in opened if one.fileno() >= 0]


async def test_the_third_address_answers(make, raw_server, answering, monkeypatch) -> None:
    """Two that hang, or refuse, make room for the next two."""
    monkeypatch.setattr("gateway.net.transport._NEXT_PAIR_S", 0.05)
    server = await raw_server(answering(OK))
    transport = make(resolve=resolving(some=["127.0.0.2", "127.0.0.3", "127.0.0.1"]), limit_idle=0)
    assert (await post(transport, server.url(host="some"))).status_code == 200
    with never_accepting("127.0.0.2", server.port), never_accepting("127.0.0.3", server.port):
        assert (await post(transport, server.url(host="some"))).status_code == 200


async def test_addresses_are_tried_v6_and_v4_by_turns(make) -> None:
    """However many of one kind come first, none of the four tries is spent on the same twice: RFC 8305.

    What is not tried is not kept: a name may have thousands.
    """
    transport = make(resolve=resolving(both=["::1", "::2", "::1", "::3", "192.0.2.1", "192.0.2.2"]))
    found = await transport.find(httpx.URL("http://both/"))
    assert found == ["::1", "192.0.2.1", "::2", "192.0.2.2"]


async def test_every_address_of_a_name_is_checked(make) -> None:
    """Not only those that would be dialled; others have their turns where there are thousands."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    public = [f"8.8.{number // 250}.{number % 250 + 1}" for number in range(4000)]
    transport = make(guard=Netguard(), resolve=resolving(many_example_com=[*public, "127.0.0.1"]))
    with pytest.raises(AddressNotAllowed, match=r"127\.0\.0\.1"):
        await post(transport, "https://many.example.com/")
    counting.cancel()
    assert turns > 40


async def test_a_name_that_is_looked_up_holds_no_place(make, raw_server, answering) -> None:
    """Connections are for those who know where to."""
    never = asyncio.Event()

    async def resolve(host: str, port: int) -> list[str]:
        if host == "dead":
            await never.wait()
        return ["127.0.0.1"]

    server = await raw_server(answering(OK))
    transport = make(resolve=resolve, limit=2)
    dead = [asyncio.create_task(post(transport, "http://dead/")) for _ in range(50)]
    async with asyncio.timeout(5):
        assert (await post(transport, server.url(host="live"))).status_code == 200
    for task in dead:
        task.cancel()
    await asyncio.gather(*dead, return_exceptions=True)
    assert transport._places._value == 2


@pytest.mark.parametrize("names", [{}, {"gone_example_test": []}])
async def test_name_that_does_not_resolve(make, names) -> None:
    """A DNS failure, or an answer without addresses: nothing was sent, and the cause is a gaierror."""
    with failing("dns", sent=False) as caught:
        await post(make(resolve=resolving(**names)), "http://gone.example.test/")
    assert isinstance(caught.value.__cause__, socket.gaierror)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "http:///path", "http://127.0.0.1:70000/", "/relative"])
async def test_unusable_url(make, url: str) -> None:
    """A URL that cannot be dialled is blocked."""
    with failing("blocked", sent=False):
        await post(make(), url)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00\x01\x02\x03garbage\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=lambda answer: ascii(answer)[2:40],
)
async def test_garbage_answer(make, raw_server, answering, answer: bytes) -> None:
    """What is not HTTP is a protocol error, head or body."""
    server = await raw_server(answering(answer))
    with failing("protocol"):
        await post(make(), server.url())


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal"])
async def test_reset(make, raw_server, read_request, sent: bytes) -> None:
    """A reset before or within the answer is one."""

    async def handle(reader, writer) -> None:
        await read_request(reader)
        writer.write(sent)
        await writer.drain()
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.transport.abort()

    server = await raw_server(handle)
    with failing("reset"):
        await post(make(), server.url())


@pytest.mark.parametrize("framing", [b"Content-Length: 10\r\n\r\nhal", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhal"])
async def test_body_cut_short(make, raw_server, read_request, framing: bytes) -> None:
    """A body that ends before its announced length is a reset, not a short body."""

    async def handle(reader, writer) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing)
        writer.close()

    server = await raw_server(handle)
    with failing("reset"):
        await post(make(), server.url())


@pytest.mark.parametrize(
    ("raised", "reason", "why"),
    [
        (OSError("x"), "refused", "x"),
        (OSError(113, "No route to host"), "refused", "No route to host"),
        (ConnectionRefusedError(111, "x"), "refused", "x"),
        (ConnectionResetError(104, "x"), "reset", "x"),
        (socket.gaierror(-2, "x"), "dns", "x"),
        (ssl.SSLError(1, "[SSL] x_y"), "tls", "[SSL] x y"),
        (ssl.SSLCertVerificationError(1, "x"), "tls", "x"),
        (TimeoutError(110, "x"), "timeout", "x"),
        (RuntimeError("the handler is closed"), "refused", "the handler is closed"),
        (RuntimeError(), "refused", "RuntimeError"),
        *((OSError(number, "x"), "resources", "x") for number in (errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("stage", ["look-up", "connect", "handshake"])
async def test_every_connect_failure_has_a_reason(
    make, raw_server, answering, monkeypatch, stage: str, raised: Exception, reason: str, why: str
) -> None:
    """Whatever the system raises while connecting leaves as one error, which says that nothing was sent."""
    server = await raw_server(answering(OK))

    async def fail(*_: object, sock: socket.socket | None = None, **__: object) -> None:
        if sock is not None:
            sock.close()  # as both loops do
        raise raised

    if stage == "connect":
        monkeypatch.setattr("aiohappyeyeballs.start_connection", fail)
    if stage == "handshake":
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fail)
    transport = make(resolve=fail if stage == "look-up" else resolving(a_test=["127.0.0.1"]))
    with failing(reason, sent=False) as caught:
        await post(transport, server.url(host="a.test"))
    assert caught.value.__cause__ is raised
    assert caught.value.why == why
    assert caught.value.message.startswith(f"a.test:{server.port}: ")
    assert not transport._busy
    assert transport._places._value == 10


@pytest.mark.parametrize(
    ("raised", "reasons"),
    [
        (None, ("reset", "reset")),
        (ConnectionResetError(104, "x"), ("reset", "reset")),
        (TimeoutError(110, "x"), ("reset", "reset")),
        (OSError("x"), ("reset", "reset")),
        (ssl.SSLError(1, "x"), ("tls", "tls")),
        (OSError(errno.ENOBUFS, "x"), ("resources", "reset")),
    ],
    ids=repr,
)
@pytest.mark.parametrize("stage", ["head", "body"])
async def test_every_read_failure_has_a_reason(
    make, raw_server, answering, stage: str, raised: Exception | None, reasons: tuple[str, str]
) -> None:
    """A connection that is lost within an answer says so, with the system's own error as the cause."""
    part = b"HTTP/1.1 200 OK\r\n" if stage == "head" else b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"
    server = await raw_server(answering(part))
    transport = make()
    asked = asyncio.create_task(post(transport, server.url()))
    while not transport._busy:  # noqa: ASYNC110 - until it has connected
        await asyncio.sleep(0)
    (connection,) = transport._busy
    while (not connection._unclaimed) if stage == "head" else (not connection._buffered):  # noqa: ASYNC110
        await asyncio.sleep(0)
    connection.connection_lost(raised)
    with failing(reasons[stage == "body"]):
        await asked
    assert not transport._busy
    assert not transport._idle


async def test_written_to_a_socket_that_is_closed(make, raw_server, answering, monkeypatch) -> None:
    """uvloop's RuntimeError for a write to a closed socket leaves as a reset."""
    server = await raw_server(answering(OK))
    transport = make()
    await post(transport, server.url())
    ((connection, _),) = transport._idle.items()

    class Closed:
        def writelines(self, parts: list[bytes]) -> None:
            raise RuntimeError("the handler is closed")

        def abort(self) -> None:
            pass

    connection._transport.abort()
    connection._transport = Closed()
    with failing("reset"):
        await post(transport, server.url())
    assert not transport._busy


async def test_body_that_lasts_until_the_connection_ends(make, raw_server, read_request) -> None:
    """Without a length the body ends with the connection, which then serves nobody else."""

    async def handle(reader, writer) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nto the ")
        await writer.drain()
        writer.write(b"end")
        writer.close()

    server = await raw_server(handle)
    transport = make()
    for _ in range(2):
        assert (await post(transport, server.url())).content == b"to the end"
    assert server.connections == 2


async def test_chunked_body_with_a_trailer(make, raw_server, answering) -> None:
    """A chunked body arrives without its framing, its trailer is not a header, and the connection is used again."""
    chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n"
    server = await raw_server(answering(b"HTTP/1.1 200 OK\r\n" + chunked))
    transport = make()
    for _ in range(2):
        response = await post(transport, server.url())
        assert response.content == b"hello world"
        assert "x-trailer" not in response.headers
    assert server.connections == 1


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nConnection: close", b"HTTP/1.0 200 OK"])
async def test_connection_that_the_server_gives_up(make, raw_server, answering, answer: bytes) -> None:
    """After ``Connection: close``, or with HTTP/1.0, the next request takes another connection."""
    server = await raw_server(answering(answer + b"\r\nContent-Length: 2\r\n\r\nok"))
    transport = make()
    for _ in range(2):
        assert (await post(transport, server.url())).content == b"ok"
    assert server.connections == 2


async def test_switching_protocols_is_an_answer(make, raw_server, answering) -> None:
    """101 is returned like any other status, without a body, and its connection is not used again."""
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nnoise"
    server = await raw_server(answering(upgrade))
    transport = make()
    for _ in range(2):
        response = await post(transport, server.url())
        assert (response.status_code, response.content) == (101, b"")
    assert server.connections == 2


async def test_announcements_without_end(make, raw_server, read_request) -> None:
    """Interim answers count towards the bound on the head: a server that only announces is a protocol error."""

    async def handle(reader, writer) -> None:
        await read_request(reader)
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100)
            await writer.drain()

    server = await raw_server(handle)
    with failing("protocol"):
        await post(make(), server.url())


@pytest.mark.parametrize("after", [b"0\r\nx: ", b"1;"])
async def test_trailer_without_end(make, raw_server, read_request, after: bytes) -> None:
    """What frames a body is bounded like the head: the parser would keep all of it, and copy it again and again."""
    sent = 0

    async def handle(reader, writer) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + after)
        while sent < 64 * 1024 * 1024:
            writer.write(b"a" * 65536)
            await writer.drain()
            sent += 65536

    server = await raw_server(handle)
    with failing("protocol"):
        await post(make(), server.url())
    assert sent < 16 * 1024 * 1024


@pytest.mark.parametrize("coding", [b"identity", b"xchunked-not"])
async def test_transfer_coding_that_is_not_chunked(make, raw_server, read_request, coding: bytes) -> None:
    """Such a body lasts until the connection ends, and is whole then."""

    async def handle(reader, writer) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding + b"\r\n\r\nok")
        writer.close()

    server = await raw_server(handle)
    assert (await post(make(), server.url())).content == b"ok"


async def test_connection_whose_request_has_not_gone_is_not_used_again(make, raw_server) -> None:
    """An answer may come before its request was taken: the next request must not wait behind the rest of that."""

    async def handle(reader, writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n" if server.connections == 1 else OK)
        await reader.read(1)
        await asyncio.Event().wait()  # takes no more

    server = await raw_server(handle)
    transport = make()
    async with asyncio.timeout(5):
        assert (await post(transport, server.url(), bytes(32 * 1024 * 1024))).status_code == 413
        assert not transport._idle
        assert (await post(transport, server.url())).status_code == 200


async def test_paused_connection_is_not_used_again(make, raw_server, read_request) -> None:
    """A request cancelled just as a large answer has arrived leaves its socket unread: it serves nobody else."""
    size = 70_000

    async def handle(reader, writer) -> None:
        while True:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, bytes(size)))

    server = await raw_server(handle)
    transport = make()
    response = await transport.handle_async_request(httpx.Request("POST", server.url(), content=b"{}"))
    (connection,) = transport._busy
    while connection._asking or not connection._unparsed.paused:  # noqa: ASYNC110 - until all of it has come, and none was read
        await asyncio.sleep(0)
    await response.aclose()
    assert not transport._idle
    assert len((await post(transport, server.url())).content) == size


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_idle_connection_that_ends_as_it_is_used(make, raw_server, read_request, method: str) -> None:
    """Where a kept connection ends before any answer the request is sent once more, unless it may not be sent twice."""
    closing = asyncio.Event()

    async def handle(reader, writer) -> None:
        await read_request(reader)
        writer.write(OK)
        if server.connections == 1:
            await read_request(reader)  # its idle time ends just now: nobody looks at this
            closing.set()
            writer.transport.abort()
            return
        await reader.read()

    server = await raw_server(handle)
    for repeatable in (False, True):
        server.connections = 0
        transport = make()
        await post(transport, server.url())
        extensions = {"repeatable": repeatable}  # such as a POST that only asks
        again = transport.handle_async_request(httpx.Request(method, server.url(), content=b"", extensions=extensions))
        if method == "POST" and not repeatable:
            with failing("reset"):
                await again
            assert server.connections == 1
        else:
            response = await again
            assert await response.aread() == b"ok"
            await response.aclose()
            assert server.connections == 2
        assert not transport._busy
        assert transport._places._value == 10


async def test_large_body_is_read_as_fast_as_it_is_wanted(make, raw_server, read_request) -> None:
    """A body that nobody reads stays with its sender but for a bounded part; read on, all of it arrives."""
    size = 32 * 1024 * 1024
    written = 0

    async def handle(reader, writer) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(bytes(64 * 1024))
            await writer.drain()
            written += 64 * 1024

    server = await raw_server(handle)
    transport = make()
    response = await transport.handle_async_request(httpx.Request("POST", server.url(), content=b"{}"))
    (connection,) = transport._busy
    while not connection._unparsed.paused:  # noqa: ASYNC110 - until what arrives is left in the socket
        await asyncio.sleep(0)
    assert connection._buffered < 1024 * 1024
    assert sum([len(chunk) async for chunk in response.stream]) == size
    await response.aclose()
    assert written == size


@pytest.mark.parametrize("target", [b"/a b", b"/a\r\nx: 1", "/ü".encode()])
async def test_target_that_would_break_the_request(make, raw_server, answering, target: bytes) -> None:
    """A target is sent as it is given, so one that is not visible ASCII is refused before anything is sent."""
    server = await raw_server(answering(OK))
    request = httpx.Request("GET", server.url(), extensions={"target": target})
    with failing("protocol", sent=False):
        await make().handle_async_request(request)
    assert server.connections == 0
