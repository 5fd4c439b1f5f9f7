"""An httpx transport on aiohttp's connection pool, with the callback policy at the socket.

Owns connections: pooling, TLS, and that each dialled address was allowed by the guard. Does not follow redirects,
keep cookies, decode bodies, read proxy settings, retry, or limit time: whoever calls holds one ``asyncio.timeout``
over the whole exchange. The sender uses it with a guard, the upstream client without one.

httpx's own pool is not used because it loses a slot whenever a request is cancelled (encode/httpcore#830), and a
time limit is a cancellation. aiohttp's ``ClientSession`` is not used because its connector and parser alone serve a
third more requests per second; what is used of them is public by name.
"""

import errno
import resource
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from functools import lru_cache
from typing import NoReturn, cast

import aiohttp
import httpx
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import AddrInfoType, Connection
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import ContentLengthError, TransferEncodingError

from gateway.errors import AddressNotAllowed
from gateway.netguard import Netguard, Resolve

__all__ = ["AiohttpTransport"]

_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_read=None, sock_connect=None)
_FAILURES = (aiohttp.ClientError, aiohttp.EofStream, HttpProcessingError, OSError, RuntimeError)
"""What a connection raises when the network or the peer misbehaves. RuntimeError: uvloop on a closed socket."""
_DIRTY_CONNECTIONS = 3


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Send requests whose body is in memory; every failure is an ``httpx.TransportError`` or AddressNotAllowed.

    The operating system's error stands in the ``__cause__`` chain. A cancelled request closes its connection and
    gives its place in the pool back at once. ``limit`` connections in use at once, ``limit_per_host`` of them per host
    and port (0: as many as ``limit`` lets), and besides them ``limit_idle`` that wait for the next request to their
    host; of more, the one unused for longest is closed.
    """

    def __init__(
        self,
        *,
        guard: Netguard | None,
        resolve: Resolve,
        limit: int,
        limit_per_host: int = 0,
        limit_idle: int = 128,
        verify: ssl.SSLContext | bool = True,
        keepalive_s: float = 15,
    ) -> None:
        self._guard = guard
        self._limit = limit
        self._limit_per_host = limit_per_host
        self._limit_idle = limit_idle
        self._verify = verify
        self._keepalive_s = keepalive_s
        self._resolve = resolve
        self._connector: aiohttp.TCPConnector | None = None
        self._idle: OrderedDict[ResponseHandler, None] = OrderedDict()
        """The connections given back, the last one last. Some may be closed by now: those the connector skips."""
        self._closed = False
        # Receivers are few and requests many: their policy verdict and pool key are worked out once.
        self._destination = lru_cache(maxsize=4096)(self._new_destination)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; returns once the answer's head is there. Its stream must be closed, also when cancelled."""
        message_bytes = _head(request) + request.content
        url = request.url
        destination = self._destination(url.scheme, url.netloc)
        connection = await self._connect(destination)
        protocol = connection.protocol
        try:
            if protocol is None or protocol.transport is None:
                _raise_read_failure(aiohttp.ServerDisconnectedError())
            protocol.set_response_params(
                skip_payload=request.method == "HEAD", read_until_eof=True, auto_decompress=False
            )
            protocol.transport.write(message_bytes)
            while True:
                message, payload = await protocol.read()
                if message.code >= 200 or message.code == 101:  # the other 1xx only announce the answer
                    break
        except _FAILURES as exc:
            connection.close()
            _raise_read_failure(exc)
        except BaseException:
            connection.close()
            raise
        return httpx.Response(
            message.code,
            headers=message.raw_headers,
            stream=_Body(connection, payload, self._give_back),
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": message.reason.encode("ascii", "replace")},
        )

    async def aclose(self) -> None:
        """Close every connection; requests under way fail."""
        self._closed = True
        self._idle.clear()
        if self._connector is not None:
            await self._connector.close()

    async def _connect(self, destination: "_Destination") -> Connection:
        dial = _Dial(destination)
        _dialling.set(dial)
        for _ in range(_DIRTY_CONNECTIONS):
            try:
                connection = await self._pool().connect(cast(aiohttp.ClientRequest, destination), [], _NO_TIMEOUT)
            except _FAILURES as exc:
                _raise_connect_failure(dial.failure or exc, destination)
            protocol = connection.protocol
            if protocol is not None:
                self._idle.pop(protocol, None)
                # A pooled connection on which the peer spoke unasked would answer this request with that.
                if not protocol.should_close:
                    return connection
            connection.close()
        raise httpx.ReadError(f"{destination.netloc} closed the connection, or spoke, before it was asked")

    def _give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request to its host.

        The connector bounds what is in use only: thousands of receivers, each with a connection that is kept for some
        seconds, would take every file that the process may open.
        """
        protocol = connection.protocol
        connection.release()
        if protocol is None or not protocol.is_connected():
            return
        self._idle[protocol] = None
        if len(self._idle) > self._limit_idle:
            # Aborted: over TLS a close waits for the peer's, with the file open.
            self._idle.popitem(last=False)[0].abort()

    def _pool(self) -> aiohttp.TCPConnector:
        """Return the connector, made on first use: it belongs to the loop that runs then."""
        if self._closed:
            raise httpx.ConnectError("The transport is closed.")
        if self._connector is None:
            self._connector = aiohttp.TCPConnector(
                resolver=_CheckedResolver(self._resolve, self._guard),
                socket_factory=self._open_checked_socket,
                ssl=self._verify,
                limit=self._limit,
                limit_per_host=self._limit_per_host,
                keepalive_timeout=self._keepalive_s,
            )
        return self._connector

    def _open_checked_socket(self, addr_info: AddrInfoType) -> socket.socket:
        """Make the socket for one address, which the connector dials next.

        The resolver has refused answers with a forbidden address already; here come the literals that no resolver
        sees, and answers out of aiohttp's cache of names.
        """
        family, kind, proto, _, address = addr_info
        dial = _dialling.get()
        if self._guard is not None:
            to = dial.destination
            try:
                self._guard.check_address(to.host, to.port, str(address[0]), to.scheme)
            except AddressNotAllowed as exc:
                raise _RefusedError(exc) from None
        try:
            return socket.socket(family, kind, proto)
        except OSError as exc:
            dial.failure = exc
            while self._idle:  # what only waits for a next request gives its file to one that is there
                self._idle.popitem()[0].abort()
            raise

    def _new_destination(self, scheme: str, netloc: bytes) -> "_Destination":
        if scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol("The URL must start with http:// or https://.")
        try:
            # encoded: the bytes that httpx has parsed are not to be read in another way.
            destination = _Destination(yarl.URL(f"{scheme}://{netloc.decode('ascii')}", encoded=True))
        except ValueError as exc:
            raise httpx.UnsupportedProtocol("The URL has no valid host and port.") from exc
        if self._guard is not None:
            self._guard.check_target(scheme, destination.host, destination.port)
        return destination


class _Destination:
    """What the connector reads of an ``aiohttp.ClientRequest``, the same for all requests to one host and port."""

    proxy = None
    server_hostname = None
    ssl = True

    def __init__(self, url: yarl.URL) -> None:
        if not url.raw_host or url.port is None:
            raise ValueError("no host")
        self.url = url
        self.scheme = url.scheme
        self.host = url.raw_host
        self.port = url.port
        self.netloc = url.host_port_subcomponent
        self.connection_key = ConnectionKey(self.host, self.port, self.is_ssl(), self.ssl, None, None, None)

    def is_ssl(self) -> bool:
        return self.scheme == "https"


class _Dial:
    """For whom sockets are made, which aiohttp does not tell the socket factory, and why one could not be made.

    Of several addresses that fail in different ways aiohttp keeps the words only, and no error number.
    """

    __slots__ = ("destination", "failure")

    def __init__(self, destination: _Destination) -> None:
        self.destination = destination
        self.failure: OSError | None = None


_dialling: ContextVar[_Dial] = ContextVar("dialling")


class _RefusedError(OSError):
    """Carries the guard's refusal through aiohttp, which understands only OSError from a socket factory."""

    def __init__(self, refusal: AddressNotAllowed) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class _CheckedResolver(AbstractResolver):
    """Resolve a name and refuse the whole answer when one of its addresses is forbidden."""

    def __init__(self, resolve: Resolve, guard: Netguard | None) -> None:
        self._resolve = resolve
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._resolve(host, port)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        if self._guard is not None:
            for address in addresses:
                # One look-up serves http and https requests that wait for it together, so the scheme is left to
                # the socket's check.
                self._guard.check_address(host, port, address, "https")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        pass


class _Body(httpx.AsyncByteStream):
    """The answer's body as it comes, undecoded; its end gives the connection back, anything else closes it."""

    def __init__(
        self, connection: Connection, payload: aiohttp.StreamReader, give_back: Callable[[Connection], None]
    ) -> None:
        self._connection: Connection | None = connection
        self._payload = payload
        self._give_back = give_back

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise StopAsyncIteration
        try:
            chunk = await self._payload.readany()
        except _FAILURES as exc:
            self._leave(whole=False)
            _raise_read_failure(exc)
        except BaseException:
            self._leave(whole=False)
            raise
        if not chunk:
            self._leave(whole=True)
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Release the connection when the body has arrived in full, else close it. Never waits."""
        self._leave(whole=self._payload.is_eof() and self._payload.exception() is None)

    def _leave(self, *, whole: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._give_back(connection) if whole else connection.close()


def _head(request: httpx.Request) -> bytes:
    fields = [b"%b: %b" % field for field in request.headers.raw]
    head = b"\r\n".join((b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path), *fields))
    # A line break inside a value would add a header, or a whole request.
    if head.count(b"\r") != len(fields) or head.count(b"\n") != len(fields) or b"\0" in head:
        raise httpx.LocalProtocolError("A request header holds a line break or a zero byte.")
    return head + b"\r\n\r\n"


def _raise_connect_failure(exc: BaseException, destination: _Destination) -> NoReturn:
    reason = exc.__cause__ or exc
    if isinstance(reason, _RefusedError):
        raise reason.refusal from None
    kind = httpx.ConnectTimeout if isinstance(reason, TimeoutError) else httpx.ConnectError
    raise kind(f"{destination.netloc}: {_words(reason)}") from exc


def _raise_read_failure(exc: BaseException) -> NoReturn:
    broken = isinstance(exc, (HttpProcessingError, aiohttp.ClientPayloadError)) and not _cut_short(exc)
    kind = httpx.RemoteProtocolError if broken else httpx.ReadError
    raise kind(_words(exc.__cause__ or exc)) from exc


def _cut_short(exc: BaseException) -> bool:
    """Whether a body ended early: a lost connection, not a malformed answer."""
    return isinstance(exc.__cause__, (ContentLengthError, TransferEncodingError))


def _words(exc: BaseException) -> str:
    if isinstance(exc, OSError) and exc.errno == errno.EMFILE:
        return f"{exc.strerror}: this process may have {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} (ulimit -n)"
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
