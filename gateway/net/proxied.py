"""The transport through an egress proxy: each connection is one that the proxy has opened for it (CONNECT).

Owns what is asked of the proxy, and that its faults are told apart from those of the server behind it. The server's
name is not looked up here, as the proxy does that: so the policy (``guard``) says what host and port it may be asked
for, and sees no address. Used by the sender and by the upstreams' clients, where a proxy is named for them.
"""

import asyncio
import errno
import re
import socket
from collections.abc import Sequence
from os import strerror
from typing import Any

import httpx
from aiohappyeyeballs import AddrInfoType

from gateway.config.egressproxy import EgressProxy
from gateway.core.errors import without_frames
from gateway.net.errors import ExchangeFailed, Reason, cut_short_by, not_connected
from gateway.net.guard import Target
from gateway.net.transport import MOST_ADDRESSES, PooledTransport, tcp

_DIAL_S = 5.0
"""For so long the proxy itself is dialled: well below an attempt's time, else a dead one looks like a slow receiver."""
_CONNECT_S = 8.0
"""For so long it may take to connect: together with the dial still less than an attempt's time by default."""
_MAX_HEAD = 16 * 1024
_TOO_LATE = TimeoutError(errno.ETIMEDOUT, f"it did not answer within {_DIAL_S:g} s")
_NO_TIME = "it did not answer within the attempt's time"
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class ProxiedTransport(PooledTransport):
    """``PooledTransport`` whose connections go through ``proxy``.

    What the proxy does wrong is ExchangeFailed with a reason of its own: ``proxy_unreachable``, ``proxy_auth`` where it
    asks for other credentials, ``proxy_failed`` where it opens no connection or answers nonsense, ``proxy_timeout``
    where it says nothing at all.
    """

    def __init__(self, proxy: EgressProxy, **kept: Any) -> None:
        super().__init__(**kept)
        self._proxy = proxy
        self._at = Target("http", proxy.host, proxy.port)

    def must_look_up(self, url: httpx.URL) -> bool:
        self._destination(url.scheme, url.raw_host, url.port)
        return False

    def _check(self, destination: Target) -> None:
        if self._guard is not None:
            self._guard.check_proxied(destination)

    async def _addresses(self, destination: Target) -> Sequence[str]:
        """Return nothing that is known: it is the proxy that is dialled, whatever was found for the server before."""
        return (destination.host,)

    def _addr_info(self, address: str, destination: Target) -> AddrInfoType:
        return tcp(address, self._proxy.port)

    async def _connected_socket(
        self, destination: Target, addresses: Sequence[str], failures: list[OSError]
    ) -> socket.socket:
        try:
            async with asyncio.timeout(_DIAL_S):
                its = (await self._look_up(self._at))[:MOST_ADDRESSES]
                opened = await super()._connected_socket(destination, its, failures)
        except ExchangeFailed as exc:
            raise self._failed(exc) from without_frames(exc)
        except (OSError, RuntimeError) as exc:
            cause = failures[0] if failures else exc if exc.args else _TOO_LATE
            raise self._failed(not_connected(self._at, _without_address(cause))) from without_frames(exc)
        except asyncio.CancelledError as exc:
            cut_short_by(exc, self._failure("proxy_unreachable", _NO_TIME))
            raise
        try:
            async with asyncio.timeout(_CONNECT_S):
                await self._ask(opened, str(destination))
        except TimeoutError as exc:
            opened.close()
            why = f"it did not answer within {_CONNECT_S:g} s when asked to connect"
            raise self._failure("proxy_timeout", why) from without_frames(exc)
        except BaseException as exc:
            opened.close()
            if isinstance(exc, asyncio.CancelledError):
                cut_short_by(exc, self._failure("proxy_timeout", _NO_TIME))
            raise
        return opened

    def _failed(self, why: ExchangeFailed) -> ExchangeFailed:
        """Return what a failure to reach the proxy is to those behind it."""
        if why.reason == "resources":
            return why
        return self._failure("proxy_unreachable", why.why)

    def _failure(self, reason: Reason, why: str) -> ExchangeFailed:
        return ExchangeFailed(f"the proxy {self._proxy}: {why}", reason, sent=False, why=why)

    async def _ask(self, opened: socket.socket, authority: str) -> None:
        """Have the proxy connect; return once all that is sent goes to the server."""
        fields = [b"CONNECT %b HTTP/1.1" % authority.encode("ascii"), b"Host: " + authority.encode("ascii")]
        if self._proxy.authorization is not None:
            fields.append(b"Proxy-Authorization: " + self._proxy.authorization)
        loop = asyncio.get_running_loop()
        head = b""
        try:
            await loop.sock_sendall(opened, b"\r\n".join([*fields, b"", b""]))
            while (end := _HEAD_END.search(head)) is None:
                if len(head) > _MAX_HEAD:
                    raise self._failure("proxy_failed", f"its answer's head is larger than {_MAX_HEAD} bytes")
                more = await loop.sock_recv(opened, 4096)
                if not more:
                    raise self._failure("proxy_failed", "it closed the connection when asked to connect")
                head += more
        except (OSError, RuntimeError) as exc:
            why = (exc.strerror if isinstance(exc, OSError) else None) or "it was cut off"
            raise self._failure("proxy_failed", why) from without_frames(exc)
        status = _STATUS.match(head)
        if status is None:
            raise self._failure("proxy_failed", "what it answered is not HTTP/1.1")
        code = int(status[1])
        if code == 407:
            raise self._failure("proxy_auth", "it answered 407")
        if not 200 <= code < 300:
            raise self._failure("proxy_failed", f"it answered {code} when asked to connect")
        if end.end() < len(head):
            raise self._failure("proxy_failed", "it sent more than its answer")


def _without_address(cause: Exception) -> Exception:
    """Return the same error without the proxy's address: clients are shown its words."""
    if cause is _TOO_LATE:
        return cause
    number = cause.errno if isinstance(cause, OSError) else None
    if number is None:
        return OSError("none of its addresses could be connected to")
    return OSError(number, strerror(number))


def pooled(proxy: EgressProxy | None, **kept: Any) -> PooledTransport:
    """Return a transport, through a proxy where there is one. ``kept``: what ``PooledTransport`` takes."""
    return PooledTransport(**kept) if proxy is None else ProxiedTransport(proxy, **kept)
