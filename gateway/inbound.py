"""What one client's connection may cost: the HTTP protocol that ``gateway serve`` listens with.

Owns the limits that uvicorn leaves open, and the answers where a request never becomes one: the size and the time of
a request's head, the time of its body, malformed HTTP, connections and pipelined requests beyond their number, and
answers that nobody reads. Owns how a connection closes, so that its last answer can be read. It must not know a route;
how large a body may be belongs to ``api.schema``. Handed to uvicorn by the wiring.

A request that costs nothing extra is the common case, so a timer starts only where a client still owes something once
its bytes have been parsed; a request that arrives in one piece starts none.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any, ClassVar, cast

import httptools
import msgspec
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from gateway.api.problems import PROBLEM_TYPE, problem
from gateway.errors import HeadTooLarge, MalformedRequest, RequestError, RequestTimeout, Unavailable
from gateway.serverprotocol import ServerProtocol

__all__ = ["InboundProtocol"]

_log = structlog.get_logger()


class _Transport:
    """The connection's transport, of which closing is the protocol's, wherever in uvicorn it is called."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None], is_closing: Callable[[], bool]) -> None:
        self._transport = transport
        self.write = transport.write
        self.close = close
        self.is_closing = is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def let_go(self) -> None:
        """Forget the protocol: each would keep the other, after the connection, until a garbage collection."""
        self.close = self._transport.close
        self.is_closing = self._transport.is_closing


class InboundProtocol(ServerProtocol):
    """uvicorn's HTTP/1.1 connection with limits; their values are class attributes, so that a subclass may differ.

    The number of connections is uvicorn's ``limit_concurrency`` where that is set.
    """

    max_connections: ClassVar[int] = 4096
    max_head_bytes: ClassVar[int] = 64 * 1024
    max_pipelined: ClassVar[int] = 64
    """Requests that may wait on one connection: one read can hold thousands, at a few KiB of memory each."""
    head_s: ClassVar[float] = 10.0
    """From connecting to the first byte, from there to the end of the head, and for a body that is no longer wanted."""
    body_s: ClassVar[float] = 30.0
    """From the end of the head to the end of a body that is wanted."""
    read_s: ClassVar[float] = 30.0
    """For the client to take an answer that has been written, and with the last one to end what it is sending."""
    linger_s: ClassVar[float] = 2.0
    """For the client to read why it was refused, or to go when the gateway ends."""
    max_dropped_bytes: ClassVar[int] = 128 * 1024 * 1024
    """Of what is thrown away: clients that read once they have sent all must get there with the files people send."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._max_connections = config.limit_concurrency or self.max_connections
        self.limit_concurrency = None  # uvicorn's own check answers in plain text
        self._in_body = False
        self._ended_head: object = None  # where headers go once a head has ended: others belong to one that has not
        self._unclaimed = 0  # bytes since the parser last ended a head or a message, or handed on a part of a body
        self._oversized = False  # the bytes being parsed may hold a head above the limit
        self._refusal: RequestError | None = None
        self._client_ended = False  # its side: it may still read
        self._lingering = False  # nothing more is said, and what still comes is thrown away
        self._dropped = 0
        self._deadline: asyncio.TimerHandle | None = None  # for what the client owes
        self._stalled: asyncio.TimerHandle | None = None  # for what it does not read
        self._cut: asyncio.TimerHandle | None = None  # after which a closing connection is cut

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection = transport
        self._closes_here = _Transport(transport, self._close, self._is_closing)
        super().connection_made(cast("asyncio.Transport", self._closes_here))
        # Tasks too: a client that hangs up while its request waits leaves the task running.
        if max(len(self.connections), len(self.tasks)) > self._max_connections:
            self.connections.discard(self)
            _log.warning("inbound.connection_refused", limit=self._max_connections)
            self._refuse(Unavailable(f"The gateway serves at most {self._max_connections} connections; try again."))
            return
        self._deadline = self.loop.call_later(self.head_s, self._overdue)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._stalled, self._cut):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._closes_here.let_go()
        if self.flow is not None:
            self._unset_keepalive_if_required()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether the connection stays: a client that ends its side alone still reads what it has asked for."""
        # Nothing of the API watches for a client that goes. Receiver and simulator do, so this is not their protocol's.
        cycle = self.cycle  # of the last request
        asked = cycle is not None and not cycle.more_body and not cycle.response_complete
        if not asked or self._is_closing():
            return False
        self._client_ended = True
        self._forget_deadline()  # what it had begun behind those will not come
        cycle.keep_alive = False
        return True

    def data_received(self, data: bytes) -> None:
        """Replace uvicorn's, which logs each malformed request and answers it before those that came first."""
        if self._lingering or self._refusal is not None:
            self._dropped += len(data)
            if self._dropped > self.max_dropped_bytes:
                self._connection.abort()
            return
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        if self._deadline is not None and not self._unclaimed and not self._in_body and not self._in_head():
            self._forget_deadline()  # the first byte came in time; the head has its own
        self._unclaimed += len(data)
        self._oversized = self._unclaimed > self.max_head_bytes
        try:
            self.feed(data)
        except httptools.HttpParserError as exc:
            cause = exc.__context__
            malformed = MalformedRequest("This is not HTTP/1.1 as RFC 9112 writes it.")
            self._refuse(cause if isinstance(cause, RequestError) else malformed)
            return
        # Not only heads: what a chunked body has between its parts and in its trailer is bounded by this too.
        if self._unclaimed > self.max_head_bytes:
            self._refuse(self._too_large())
            return
        # Most often the request is complete, and it is the gateway's turn.
        if self._unclaimed or self._in_body or self._deadline is not None or self._in_head():
            self._await_client()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._cut_after(self.linger_s)
        elif self._in_body and self._refusal is None:
            # A moment for what is on its way; uvicorn would wait as long as it may, and then answer a defect's 500.
            self._forget_deadline()
            graceful_s = self.config.timeout_graceful_shutdown or math.inf  # after which uvicorn cancels the request
            self._deadline = self.loop.call_later(min(self.linger_s, graceful_s / 2), self._cut_short)

    # What the parser finds

    def on_headers_complete(self) -> None:
        if self.retold:
            self._ended_head = self.headers
            self._in_body = True
            return
        # The bytes counted may belong to a body too, so they only say when it is worth adding up the head itself.
        if self._oversized and self._head_bytes() > self.max_head_bytes:
            raise self._too_large()
        if len(self.pipeline) >= self.max_pipelined:
            raise Unavailable(f"At most {self.max_pipelined} requests may wait on one connection.")
        self._in_body = True
        self._unclaimed = 0
        if self._deadline is not None:
            self._forget_deadline()
        super().on_headers_complete()
        self._ended_head = self.headers

    def on_body(self, body: bytes) -> None:
        self._unclaimed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._unclaimed = 0
        super().on_message_complete()

    # Clients that take their time

    def _await_client(self) -> None:
        """Give the client a deadline where it has begun something that it must end."""
        if self._in_head() or self._in_body or self._unclaimed:
            if self._deadline is None:
                wanted = self._in_body and not self.cycle.response_complete
                self._deadline = self.loop.call_later(self.body_s if wanted else self.head_s, self._overdue)
            return
        if self._deadline is not None:
            self._forget_deadline()
        if self.cycle.response_complete and self.timeout_keep_alive_task is None:
            # Its answer came before the end of its body, which took the place of the idle time that began with it.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _overdue(self) -> None:
        self._deadline = None
        if self.flow.read_paused:
            # The requests before it are not answered yet: it is the gateway that does not read.
            self._await_client()
        elif self._in_head():
            self._refuse(RequestTimeout(f"The request's head did not arrive within {self.head_s:g} s."))
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        elif self._in_body:
            self._refuse(RequestTimeout(f"The request's body did not arrive within {self.body_s:g} s."))

    def _cut_short(self) -> None:
        self._deadline = None
        self._refuse(Unavailable("The gateway is shutting down, and the request's body was not complete."))

    def _in_head(self) -> bool:
        return self.headers is not self._ended_head

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.read_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def on_response_complete(self) -> None:
        others_wait = bool(self.pipeline)
        if not others_wait:
            self.cycle.body.clear()  # what the application left there would stay as long as the connection
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if others_wait:
            self._forget_deadline()  # until now it may have been the gateway that did not read
            if self._in_head() or self._in_body or self._unclaimed:
                self._await_client()
            return
        if self._refusal is not None:
            self._answer(self._refusal)
        elif self._in_body:
            self._forget_deadline()  # it was for a body that is wanted
            self._await_client()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._cut_after(self.linger_s)

    # The end of the connection

    def _close(self) -> None:
        """Close in bounded time, and in stages where the client may still be sending.

        A socket that is closed with bytes unread, or that more bytes reach, answers them with a reset, and a reset
        takes the last answer from a client that has not read it. So RFC 9112 §9.6 has a server end its own side, read
        on until the client ends its side, and close then. What is read so never reaches the parser: the rest of a body
        must not be taken for a request, and no request that follows is answered.
        """
        if self._is_closing():
            return
        self._cut_after(self.read_s)
        sends = self._in_body or self._in_head() or self.pipeline or self._refusal is not None
        if self._client_ended or not sends:
            self.pipeline.clear()
            self._connection.close()
            return
        self._lingering = True
        self._forget_deadline()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self._connection.write_eof()
        self.flow.resume_reading()  # it may have stopped at a body that nobody takes

    def _is_closing(self) -> bool:
        return self._lingering or self._connection.is_closing()

    def _cut_after(self, seconds: float) -> None:
        """Cut the closing connection then, or sooner where that was said: closing alone may wait for ever."""
        if self._cut is not None:
            if self._cut.when() <= self.loop.time() + seconds:
                return
            self._cut.cancel()
        self._cut = self.loop.call_later(seconds, self._connection.abort)

    # Refusals

    def _refuse(self, refusal: RequestError) -> None:
        """Take nothing more from this client, and tell it why once the requests before have their answers."""
        self._refusal = refusal
        self._forget_deadline()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if cycle.more_body and not self.pipeline:
                # It is this request that is broken: the application is told that its client went.
                cycle.disconnected = True
                cycle.message_event.set()
                if cycle.response_started:
                    self.transport.abort()
                    return
            else:
                if cycle.more_body:
                    self.pipeline.popleft()  # the same, but it has not begun
                self.flow.pause_reading()
                return
        self._answer(refusal)

    def _answer(self, refusal: RequestError) -> None:
        """Write the refusal and close."""
        body = msgspec.json.encode(problem(refusal))
        headers = refusal.headers | {
            "content-type": PROBLEM_TYPE,
            "content-length": str(len(body)),
            "connection": "close",
        }
        pairs = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers + pairs)
        self.transport.write(STATUS_LINE[refusal.status] + head + b"\r\n" + body)
        self.transport.close()
        self._cut_after(self.linger_s)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(f"The request's head may have at most {self.max_head_bytes} bytes.")
