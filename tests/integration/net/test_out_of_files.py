"""A process that may open no further file, over the real transport: its own trouble, and nobody else's failure."""

import errno
import gc
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config.profilefile import config_dir, read_profiles
from gateway.core.clock import SystemClock
from gateway.core.errors import OutOfResources
from gateway.net.errors import not_connected
from gateway.net.guard import Netguard, parse_allow
from gateway.net.resolver import Resolver
from gateway.net.transport import PooledTransport
from gateway.upstream.answer import PollKind
from gateway.upstream.api import Upstream
from gateway.webhook.sender import Sender
from tests.waiting import until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def files() -> list[int]:
    """Return the numbers of this process's open files."""
    return [int(file.name) for file in Path("/proc/self/fd").iterdir()]


@contextmanager
def no_file_left() -> Iterator[int]:
    """Forbid this process to open anything before it closes a file; gives the limit that the process is told."""
    gc.collect()  # what is closed meanwhile would be a free place
    # A limit forbids numbers, not files: every number below it is taken, so that whichever file is closed gives one.
    highest = max(files())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filling: list[int] = []
    try:
        while not filling or filling[-1] < highest:
            filling.append(os.dup(0))
        limit = filling[-1] + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for place in filling:
            os.close(place)


@pytest.fixture
async def resolver() -> AsyncIterator[Resolver]:
    before = len(files())
    one = Resolver(nameservers=["127.0.0.1:9"], limit_s=2)
    yield one
    await one.close()
    await until(lambda: len(files()) <= before)  # closed by a thread of c-ares: the next test's place


@pytest.fixture
async def transport(resolver: Resolver) -> AsyncIterator[PooledTransport]:
    guard = Netguard(parse_allow("127.0.0.0/8, localhost, two.test"))

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1", "127.0.0.2"] if host == "two.test" else await resolver.resolve(host, port)

    one = PooledTransport(guard=guard, resolve=resolve, limit=10)
    yield one
    await one.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "two.test"])
async def test_an_attempt_is_not_made(
    transport: PooledTransport,
    raw_server: Callable[..., Awaitable[Any]],
    answering: Callable[[bytes], Any],
    host: str,
) -> None:
    """An address, a name that cannot be looked up either, several addresses: no result, and words with the limit."""
    server = await raw_server(answering(OK))
    sender = Sender(transport, SystemClock(), timeout_s=5)
    url = server.url("/hook?canary", host=host)
    with no_file_left() as limit, pytest.raises(OutOfResources) as caught:
        await sender.send(url, {}, b"{}")
    assert caught.value.message == (
        f"No attempt could be made: {host}:{server.port}: Too many open files: "
        f"this process may have {limit:,} (ulimit -n)"
    )
    assert server.connections == 0
    assert (await sender.send(url, {}, b"{}")).reason is None


async def test_idle_connections_give_their_files(
    transport: PooledTransport, raw_server: Callable[..., Awaitable[Any]], answering: Callable[[bytes], Any]
) -> None:
    """An attempt that finds no file closes what only waits for a next request, and the next attempt finds one."""
    server = await raw_server(answering(OK))
    sender = Sender(transport, SystemClock(), timeout_s=5)
    earlier = os.dup(0)
    for host in ("127.0.0.1", "localhost"):
        await sender.send(server.url(host=host), {}, b"{}")
    os.close(earlier)  # a place below the connections', as a collection may leave one
    with no_file_left():
        with pytest.raises(OutOfResources):
            await sender.send(server.url(host="two.test"), {}, b"{}")
        await until(lambda: not server._tasks)  # the server's end of them is closed too
        assert (await sender.send(server.url(host="two.test"), {}, b"{}")).reason is None


async def test_a_file_short_for_the_second_address(transport: PooledTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address refused and none left to try the second with: the attempt was not a whole one."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    real, made = socket.socket, 0

    def opened(*arguments: Any) -> socket.socket:
        nonlocal made
        made += 1
        if made % 2 == 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*arguments)

    sender = Sender(transport, SystemClock(), timeout_s=5)
    monkeypatch.setattr("gateway.net.transport.socket.socket", opened)
    with pytest.raises(OutOfResources, match="Too many open files"):
        await sender.send(f"http://two.test:{port}/", {}, b"{}")
    monkeypatch.undo()
    assert (await sender.send(f"http://two.test:{port}/", {}, b"{}")).reason == "refused"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_each_lack_is_our_own(number: int) -> None:
    """Files of the process, files of the system, buffers and memory: no attempt was made, and the words say why."""

    class Lacking(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            raise not_connected(request.url.host, OSError(number, os.strerror(number)))

    sender = Sender(Lacking(), SystemClock(), timeout_s=5)
    with pytest.raises(OutOfResources) as caught:
        await sender.send("https://hooks.example.test/?canary", {}, b"{}")
    assert caught.value.message.startswith(f"No attempt could be made: hooks.example.test: {os.strerror(number)}")


async def test_a_poll_says_so(transport: PooledTransport) -> None:
    """The upstream counts as unreachable, and the error names the limit."""
    profile = read_profiles([config_dir() / "upstreams"])[0]["aigptimage"]
    upstream = Upstream(profile, transport, SystemClock(), base_url="http://127.0.0.1:9", api_key="k")
    with no_file_left() as limit:
        result = await upstream.poll("task")
    assert (result.kind, result.error) == (
        PollKind.UNREACHABLE,
        "The upstream could not be reached: 127.0.0.1:9: Too many open files: "
        f"this process may have {limit:,} (ulimit -n).",
    )
