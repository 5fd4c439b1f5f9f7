"""An httpx transport: a pool of HTTP/1.1 connections, with the callback policy at the socket.

Owns connections: dialling, TLS, pooling, and that each dialled address was allowed by the guard. Does not follow
redirects, keep cookies, decode bodies, read proxy settings, retry, or limit time: whoever calls holds one
``asyncio.timeout`` over the whole exchange. The sender uses it with a guard, the upstream client without one.

httpx's own pool is not used because it loses a slot whenever a request is cancelled (encode/httpcore#830), and a time
limit is a cancellation.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import zip_longest

import aiohappyeyeballs
import httpx
from aiohappyeyeballs import AddrInfoType

from gateway.core.addresses import parse_address
from gateway.core.errors import without_frames
from gateway.net.errors import ExchangeFailed, Reason, not_connected
from gateway.net.guard import DEFAULT_PORTS, Netguard, Resolve, Target
from gateway.net.http1 import Connection
from gateway.net.tls import client_context
from gateway.net.unparsed import ParsingTurns

MOST_ADDRESSES = 4
"""Of a name that are tried: it may have hundreds, and each is a socket."""
_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_TARGET = re.compile(rb"[!-~]+")
_JOINED_BYTES = 64 * 1024  # of a request that goes as one part: with TLS each part is a record of its own
_NEXT_ADDRESS_S = 0.25  # RFC 8305 §5: after this the next address of a name is tried beside the one before
_AT_ONCE = 2
_NEXT_PAIR_S = 3.0  # after this two addresses that have not answered make room for the next two


class PooledTransport(httpx.AsyncBaseTransport):
    """Send requests whose body is in memory; every failure is ExchangeFailed or AddressNotAllowed.

    A cancelled request closes its connection and gives its place back at once. ``limit`` connections are in use at
    once; ``limit_idle`` more are kept for ``keepalive_s`` seconds after their use, of more than that the longest unused
    is closed.

    A kept connection may end just as it is used again. Where it does before any answer came, a request that may be sent
    twice is sent once more, on a new one (RFC 9112 §9.3.1).

    A request's ``target`` extension (as httpx and httpcore know it) takes the place of its URL's path and query. Its
    ``addresses`` are what ``find`` has returned for its URL; without them a name is looked up before a place is taken.
    ``repeatable`` says that a POST may be sent twice.
    """

    def __init__(
        self,
        *,
        guard: Netguard | None,
        resolve: Resolve,
        limit: int,
        limit_idle: int = 128,
        verify: ssl.SSLContext | None = None,
        keepalive_s: float = 15,
    ) -> None:
        """``verify``: None trusts the system's authorities."""
        self._guard = guard
        self._places = asyncio.Semaphore(limit)
        self._limit_idle = limit_idle
        self._tls = verify
        self._keepalive_s = keepalive_s
        self._resolve = resolve
        self._closed = False
        self._busy: set[Connection] = set()
        self._idle: dict[Connection, tuple[Target, float]] = {}  # and since when, the longest idle first
        self._idle_at: dict[Target, list[Connection]] = {}  # shared by target, never by address
        self._sweep: asyncio.TimerHandle | None = None
        self._parsing = ParsingTurns()
        # Receivers are few and requests many: their policy verdict is worked out once.
        self._destination = lru_cache(maxsize=4096)(self._new_destination)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; returns once the answer's head is there. Its stream must be closed, also when cancelled."""
        url = request.url
        destination = self._destination(url.scheme, url.raw_host, url.port)
        message = _message(request)
        addresses: Sequence[str] = request.extensions.get("addresses") or await self._find(destination)
        await self._places.acquire()
        connection: Connection | None = None
        try:
            connection, kept = await self._connection(destination, addresses)
            no_body = request.method == "HEAD"
            try:
                await connection.ask(message, no_body=no_body)
            except ExchangeFailed:
                repeatable = request.method in _IDEMPOTENT or request.extensions.get("repeatable", False)
                if not (kept and connection.silent and repeatable):
                    raise
                self._busy.discard(connection)
                connection = await self._connect(destination, await self._find(destination))
                await connection.ask(message, no_body=no_body)
        except BaseException:
            self._give_back(connection, destination)
            raise
        return httpx.Response(
            connection.status,
            headers=connection.headers,
            stream=_Body(self, connection, destination),
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": connection.reason},
        )

    def must_look_up(self, url: httpx.URL) -> bool:
        """Whether a request would have to look a name up: no connection is kept, and the host is no address."""
        destination = self._destination(url.scheme, url.raw_host, url.port)
        return destination not in self._idle_at and parse_address(destination.host) is None

    async def find(self, url: httpx.URL) -> Sequence[str]:
        """Return the addresses that a request would dial. Raises as ``handle_async_request`` does."""
        return await self._addresses(self._destination(url.scheme, url.raw_host, url.port))

    @property
    def in_use(self) -> bool:
        return bool(self._busy)

    def retire(self) -> None:
        """Keep no connection any more: those in use are closed as their requests end."""
        self._limit_idle = 0
        for connection in [*self._idle]:
            self._forget(connection).close()

    async def aclose(self) -> None:
        """Close every connection; requests under way fail."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in [*self._idle, *self._busy]:
            self._forget(connection).close()

    # The pool

    async def _connection(self, destination: Target, addresses: Sequence[str]) -> tuple[Connection, bool]:
        """Return a connection, and whether it was kept from a request before."""
        idle = self._idle_at.get(destination)
        if not idle:
            return await self._connect(destination, addresses), False
        # The last one first: the rest may then grow old and go.
        connection = self._forget(idle[-1])
        self._busy.add(connection)
        return connection, True

    async def _connect(self, destination: Target, addresses: Sequence[str]) -> Connection:
        if self._closed:
            raise _not_sent("The transport is closed.", "refused")
        # A request that waited for a place had a kept connection in view, and no address: it may be gone by now.
        connection = await self._dial(destination, addresses or await self._addresses(destination))
        self._busy.add(connection)
        return connection

    def _give_back(self, connection: Connection | None, destination: Target) -> None:
        """Free a place; keep its connection where it can serve again, else close it. Never waits."""
        self._places.release()
        if connection is None:
            return
        self._busy.discard(connection)
        if not connection.usable or self._closed or not self._limit_idle:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        self._idle[connection] = destination, loop.time()
        self._idle_at.setdefault(destination, []).append(connection)
        if len(self._idle) > self._limit_idle:
            self._forget(next(iter(self._idle))).close()
        if self._sweep is None:
            self._sweep = loop.call_later(self._keepalive_s, self._close_old)

    def _forget(self, connection: Connection) -> Connection:
        """Take a connection out of the idle ones, if it is one of them."""
        if (kept := self._idle.pop(connection, None)) is not None:
            same = self._idle_at[kept[0]]
            same.remove(connection)
            if not same:
                del self._idle_at[kept[0]]
        return connection

    def _close_old(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        while self._idle:
            connection, (_, since) = next(iter(self._idle.items()))
            if (left_s := since + self._keepalive_s - loop.time()) > 0:
                self._sweep = loop.call_later(left_s, self._close_old)
                return
            self._forget(connection).close()

    # Dialling

    async def _find(self, destination: Target) -> Sequence[str]:
        """Return what is to be dialled; nothing where a connection is kept."""
        return () if destination in self._idle_at or self._closed else await self._addresses(destination)

    async def _dial(self, destination: Target, addresses: Sequence[str]) -> Connection:
        loop = asyncio.get_running_loop()
        no_file: list[OSError] = []
        try:
            # uvloop and asyncio close the socket where this fails or is cancelled.
            _, connection = await loop.create_connection(
                lambda: Connection(self._forget, self._parsing),
                sock=await self._connected_socket(destination, addresses, no_file),
                ssl=self._tls_context() if destination.scheme == "https" else None,
                server_hostname=destination.host.rstrip(".") if destination.scheme == "https" else None,
            )
        except (OSError, RuntimeError) as exc:  # RuntimeError: uvloop on a closed socket
            # Of several addresses that fail in different ways only the words would be left, and no error number.
            raise not_connected(destination, no_file[0] if no_file else exc) from without_frames(exc)
        return connection

    async def _connected_socket(
        self, destination: Target, addresses: Sequence[str], failures: list[OSError]
    ) -> socket.socket:
        """Return the first socket that connects to one of the addresses, of which two are tried at a time."""
        infos = [self._addr_info(address, destination) for address in addresses]
        *earlier, last = [infos[start : start + _AT_ONCE] for start in range(0, len(infos), _AT_ONCE)]
        for pair in earlier:
            with suppress(OSError, RuntimeError):
                async with asyncio.timeout(_NEXT_PAIR_S):
                    return await self._race(pair, failures)
        return await self._race(last, failures)

    async def _race(self, addr_infos: Sequence[AddrInfoType], failures: list[OSError]) -> socket.socket:
        return await aiohappyeyeballs.start_connection(
            addr_infos, happy_eyeballs_delay=_NEXT_ADDRESS_S, socket_factory=partial(self._open_socket, failures)
        )

    def _open_socket(self, failures: list[OSError], addr_info: AddrInfoType) -> socket.socket:
        try:
            return socket.socket(*addr_info[:3])
        except OSError as exc:
            failures.append(without_frames(exc))
            while self._idle:  # what only waits for a next request gives its file to one that is there
                self._forget(next(iter(self._idle))).close()
            raise

    async def _addresses(self, destination: Target) -> Sequence[str]:
        """Return a host's addresses, v6 and v4 by turns. Raises AddressNotAllowed where even one is forbidden."""
        addresses = await self._look_up(destination)
        if self._guard is not None and addresses[0] != destination.host:
            await self._guard.check_addresses(destination, addresses)
        return _by_turns(addresses)[:MOST_ADDRESSES]

    async def _look_up(self, destination: Target) -> Sequence[str]:
        """Return at least one address. Raises ExchangeFailed."""
        if parse_address(destination.host) is not None:
            return (destination.host,)
        try:
            addresses = await self._resolve(destination.host, destination.port)
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        except (OSError, RuntimeError) as exc:
            raise not_connected(destination, exc) from without_frames(exc)
        return addresses

    def _addr_info(self, address: str, destination: Target) -> AddrInfoType:
        if self._guard is not None:
            self._guard.check_address(destination, address)
        return tcp(address, destination.port)

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = client_context()
        return self._tls

    def _new_destination(self, scheme: str, raw_host: bytes, port: int | None) -> Target:
        if scheme not in DEFAULT_PORTS:
            raise _not_sent("The URL must start with http:// or https://.", "blocked")
        port = DEFAULT_PORTS[scheme] if port is None else port
        if not raw_host or not 0 <= port < 65536:
            raise _not_sent("The URL has no valid host and port.", "blocked")
        destination = Target(scheme, raw_host.decode("ascii"), port)
        self._check(destination)
        return destination

    def _check(self, destination: Target) -> None:
        if self._guard is not None:
            self._guard.check_target(destination)


class _Body(httpx.AsyncByteStream):
    """The answer's body as it comes, undecoded; its end gives the connection back, anything else closes it."""

    def __init__(self, transport: PooledTransport, connection: Connection, destination: Target) -> None:
        self._transport = transport
        self._connection: Connection | None = connection
        self._destination = destination

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise StopAsyncIteration
        try:
            chunk = await self._connection.read()
        except BaseException:
            await self.aclose()
            raise
        if not chunk:
            await self.aclose()
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Give the connection back, to be used again where the body has arrived in full. Never waits."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport._give_back(connection, self._destination)  # noqa: SLF001 - the other half of one class


def _message(request: httpx.Request) -> list[bytes]:
    """Return the request's bytes, of a large one in parts. Raises RequestNotRead for a body that is not in memory."""
    if not isinstance(request.stream, httpx.ByteStream):
        raise httpx.RequestNotRead
    target: bytes = request.extensions.get("target") or request.url.raw_path
    if not _TARGET.fullmatch(target):
        raise _not_sent("The request's target holds a space, a control character or more than ASCII.", "protocol")
    fields = request.headers.raw
    first = b"%b %b HTTP/1.1" % (request.method.encode("ascii"), target)
    head = b"\r\n".join([first, *map(b": ".join, fields), b"", b""])
    # A line break inside a value would add a header, or a whole request.
    if head.count(b"\r") != len(fields) + 2 or head.count(b"\n") != len(fields) + 2 or b"\0" in head:
        raise _not_sent("A request header holds a line break or a zero byte.", "protocol")
    parts = [head, *request.stream]
    return [b"".join(parts)] if sum(map(len, parts)) <= _JOINED_BYTES else parts


def tcp(address: str, port: int) -> AddrInfoType:
    """Return what to connect to, as ``getaddrinfo`` would."""
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)


def _by_turns(addresses: Sequence[str]) -> list[str]:
    """Return the different ones of a name's addresses, v6 and v4 by turns: RFC 8305 §4. The first stays the first."""
    first, *_ = different = list(dict.fromkeys(addresses))
    same = [address for address in different if (":" in address) == (":" in first)]
    other = [address for address in different if (":" in address) != (":" in first)]
    return [address for pair in zip_longest(same, other) for address in pair if address is not None]


def _not_sent(message: str, reason: Reason) -> ExchangeFailed:
    return ExchangeFailed(message, reason, sent=False)
