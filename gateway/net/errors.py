"""Why a request has no answer: the one error of the outbound client, which carries all that is known.

Owns the reasons, and what they make of the operating system's errors. Knows no advice, which differs for a receiver
and an upstream. Raised by the modules beside it; told by ``sender`` and ``upstream.api``.
"""

import asyncio
import errno
import os
import resource
import socket
import ssl
from typing import Literal

import httpx

from gateway.core.errors import GatewayError

Reason = Literal[
    "dns",
    "refused",
    "tls",
    "timeout",
    "reset",
    "protocol",
    "blocked",
    "resources",
    "proxy_unreachable",
    "proxy_auth",
    "proxy_failed",
    "proxy_timeout",
]
"""``resources``: this machine has no file or memory left. That, and what a proxy does, says nothing about the peer."""

_WITH_ADDRESS = ("Connect call failed", "Multiple exceptions: ")
"""So begins what asyncio says of an address, as a tuple, and what is said of several that failed alike."""
_LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ExchangeFailed(GatewayError, httpx.TransportError):
    """A request has no answer, or not the whole of one.

    Its words quote nothing of an answer, and of a URL no more than host and port.
    """

    def __init__(self, message: str, reason: Reason, *, sent: bool = True, why: str | None = None) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.sent = sent
        """Whether the peer may have had the request, and acted on it."""
        self.why = message if why is None else why
        """The message in short: without the peer's name."""

    @property
    def of_proxy(self) -> bool:
        """Whether it is our own egress proxy's: then its words name that, which is none of a client's business."""
        return self.reason.startswith("proxy_")

    def again(self) -> "ExchangeFailed":
        """Return an error to raise where this one is kept: raised, it would hold the frames that it is kept in."""
        return ExchangeFailed(self.message, self.reason, sent=self.sent, why=self.why)


def not_connected(peer: object, cause: Exception) -> ExchangeFailed:
    """Return the error for a look-up, a dial or a handshake that ended so."""
    otherwise: Reason = "timeout" if isinstance(cause, TimeoutError) else "refused"
    return ExchangeFailed(f"{peer}: {_words(cause)}", _reason(cause, otherwise), sent=False, why=_why(cause))


def cut_short_by(cancelled: asyncio.CancelledError, failure: ExchangeFailed) -> None:
    """Say what it was that a time limit around an exchange has ended: ``cut_short`` tells."""
    cancelled.args = (failure,)


def cut_short(late: TimeoutError) -> ExchangeFailed | None:
    """Return what ``asyncio.timeout`` has ended; None where that is not said: it was the peer's turn."""
    cancelled = late.__cause__ or late.__context__  # Python 3.11.2 tells no cause
    said = cancelled.args[0] if isinstance(cancelled, asyncio.CancelledError) and cancelled.args else None
    return said if isinstance(said, ExchangeFailed) else None


def cut_off(cause: Exception | None, *, answered: bool) -> ExchangeFailed:
    """Return the error for a connection that was lost within an exchange; ``answered``: its status is known."""
    reason = _reason(cause, "reset")
    if answered and reason == "resources":
        reason = "reset"
    message = "the connection was closed before the answer was complete"
    return ExchangeFailed(message, reason, why=None if cause is None else _why(cause))


def _reason(cause: Exception | None, otherwise: Reason) -> Reason:
    if isinstance(cause, socket.gaierror):
        return "dns"
    if isinstance(cause, ssl.SSLError):
        return "tls"
    if isinstance(cause, OSError) and cause.errno in _LACKS:
        return "resources"
    if isinstance(cause, ConnectionError) and not isinstance(cause, ConnectionRefusedError):
        return "reset"
    return otherwise


def _why(cause: Exception) -> str:
    if isinstance(cause, ssl.SSLError):
        # Certificate errors have both attributes, others only the second.
        why: str = getattr(cause, "verify_message", None) or getattr(cause, "reason", None) or str(cause)
        return why.replace("_", " ")
    return _words(cause)


def _words(cause: Exception) -> str:
    if isinstance(cause, OSError) and cause.errno == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"{cause.strerror}: this process may have {limit:,} (ulimit -n)"
    if isinstance(cause, OSError) and cause.errno and (cause.strerror or "").startswith(_WITH_ADDRESS):
        return os.strerror(cause.errno)
    return (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
