"""What one client's connection may cost: the HTTP protocol that ``gateway serve`` listens with.

Owns the limits that uvicorn leaves open, and the answers where a request never becomes one: the size and the time of
a request's head, the time of its body, malformed HTTP, connections and pipelined requests beyond their number, and
answers that nobody reads. How large a body may be belongs to ``api.schema``, and how a connection ends to ``closing``.

A request that costs nothing extra is the common case, so a timer starts only where a client still owes something once
its bytes have been parsed; a request that arrives in one piece starts none.
"""

import asyncio
from typing import Any, ClassVar, cast

import httptools
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from gateway.core.errors import (
    HeadTooLarge,
    MalformedRequest,
    RequestError,
    RequestTimeout,
    Unavailable,
    without_frames,
)
from gateway.net.unparsed import LARGE_STEP
from gateway.serve.paced import PacedProtocol
from gateway.serve.places import places_of

__all__ = ["InboundProtocol"]

_log = structlog.get_logger()

_BODY_STEP = 4 * LARGE_STEP  # bytes of a body that comes in no chunks which are parsed at once
_LENGTH_DIGITS = 18
_WAITING_BYTES = 4096  # that a request takes that waits behind another one
_HEADER_BYTES = 128
_DRAINED_BYTES = 48 * 1024  # that the client has taken at least when a transport wants more: between its two marks


class InboundProtocol(PacedProtocol):
    """uvicorn's HTTP/1.1 connection with limits; their values are class attributes, so that a subclass may differ.

    The number of connections is uvicorn's ``limit_concurrency`` where that is set.
    """

    max_connections: ClassVar[int] = 4096
    reserved: ClassVar[int] = 64
    """Connections beyond them, for what is always answered."""
    always_answered: ClassVar[frozenset[bytes]] = frozenset()
    """Paths that are served though every connection is busy with a request."""
    max_head_bytes: ClassVar[int] = 64 * 1024
    max_headers: ClassVar[int] = 128
    """Of one head: each costs more than a hundred bytes of memory, however short it is."""
    max_pipelined: ClassVar[int] = 64
    """Requests that may wait on one connection: one read can hold thousands, at a few KiB of memory each."""
    max_ahead_bytes: ClassVar[int] = 64 * 1024
    """Of such requests, what is read while another one is served; its client's end is seen only as far as is read."""
    head_s: ClassVar[float] = 10.0
    """From connecting to the first byte, from there to the end of the head, and for a body that is no longer wanted."""
    body_s: ClassVar[float] = 30.0
    """From the end of the head to the end of a body that is wanted."""
    least_bytes_per_s: ClassVar[float] = 32 * 1024
    """In which a client takes an answer in parts, as large ones are: it may be late by ``read_s`` in all."""
    ended_s: ClassVar[float] = 5.0
    """From the client's end of its side to the answer that it may still wait for: most often it has gone for good."""

    def __init__(self, config: Config, server_state: ServerState, **others: Any) -> None:
        super().__init__(config, server_state, **others)
        self._max_connections = config.limit_concurrency or self.max_connections
        self.limit_concurrency = None  # uvicorn's own check answers in plain text
        self._places = places_of(server_state)
        self._in_body = False
        self._body_left = 0  # bytes, of one whose length its head has told
        self._ended_head: object = None  # where headers go once a head has ended: others belong to one that has not
        self._unclaimed = 0  # bytes since the parser last ended a head or a message, or handed on a part of a body
        self._oversized = False  # the bytes being parsed may hold a head above the limit
        self._refusal: RequestError | None = None
        self._holds = 0  # bytes, as far as they are noted
        self._ahead = 0  # bytes that have come while another request was served
        self._deadline: asyncio.TimerHandle | None = None  # for what the client owes
        self._stalled: asyncio.TimerHandle | None = None  # for what it does not read
        self._patience_s = self.read_s  # of that answer, as far as it is left
        self._gone: asyncio.TimerHandle | None = None  # after which a client that has ended its side counts as gone

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._has_place():
            self._places.wait_for(self)
        else:
            self._places.go_beyond(self, self.reserved)
        self._deadline = self.loop.call_later(self.head_s, self._overdue)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in filter(None, (self._deadline, self._stalled, self._gone)):
            timer.cancel()
        super().connection_lost(exc)
        self._places.leave(self)
        if self.flow is not None:
            self._unset_keepalive_if_required()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether the connection stays: a client that ends its side alone still reads what it has asked for."""
        self._unparsed.finish()
        if self.pipeline and self.cycle.more_body:
            # What it had begun behind the others will not come.
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else cast("RequestResponseCycle", self._served)
            self._in_body = False
        cycle = self.cycle  # of the last request
        asked = cycle is not None and not cycle.more_body and not cycle.response_complete
        if not asked or self._is_closing():
            self._closes_here.flush()  # the loop closes now, and knows of no head that waits
            return False
        self._client_ended = True
        self._forget_deadline()
        cycle.keep_alive = False
        self._places.wait_for(self)
        self._gone = self.loop.call_later(self.ended_s, self._give_up)
        return True

    def _give_up(self) -> None:
        if self._served is not None and not self._served.response_started:
            self._connection.abort()

    @property
    def step(self) -> int:
        # No further than to the body's end: behind it anything may come.
        return max(self.least_step, min(_BODY_STEP, self._body_left)) if self._in_body else self.least_step

    def take(self, data: bytes) -> None:
        """Replace uvicorn's way, which logs each malformed request and answers it before those that came first."""
        if self._refusal is not None or self._is_closing():
            self._drop(data)
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
            if self._found:
                self._hand_on_body()
        except (httptools.HttpParserError, MalformedRequest, MemoryError) as exc:
            self._refuse(_refusal(exc.__context__ if isinstance(exc, httptools.HttpParserError) else exc))
            return
        # Not only heads: what a chunked body has between its parts and in its trailer is bounded by this too.
        if self._unclaimed > self.max_head_bytes:
            self._refuse(self._too_large())
            return
        if self._in_body and self.cycle.response_complete and self.small_parts > self.max_unwanted_parts:
            self.transport.close()  # in stages: what still comes is thrown away unparsed
            return
        if self.pipeline:
            self._ahead += len(data)  # read on for the client's end, where uvicorn would stop
            (self.flow.resume_reading if self._ahead <= self.max_ahead_bytes else self.flow.pause_reading)()
        self._take_turns()
        # Most often the request is complete, and it is the gateway's turn.
        if self._unclaimed or self._in_body or self._deadline is not None or self._in_head():
            self._await_client()
        if self._unclaimed or self.pipeline or self._holds:
            self._hold()

    def _hold(self) -> None:
        """Note what memory this connection takes with what is no request yet, or waits behind another."""
        self._holds = self._unclaimed + self._ahead + _WAITING_BYTES * len(self.pipeline)
        if self._in_head():
            self._holds += _HEADER_BYTES * len(self.headers)
        if not self._places.hold(self, self._holds):
            self.flow.pause_reading()
            self._take_turns()

    def shutdown(self) -> None:
        super().shutdown()
        if self.transport.is_closing():
            self._cut_after(self.linger_s)
        elif self._in_body and self._refusal is None:
            # A moment for what is on its way; uvicorn would wait as long as it may, and then answer a defect's 500.
            self._forget_deadline()
            late = Unavailable("The gateway is shutting down, and the request's body was not complete.")
            self._deadline = self.loop.call_later(self.linger_s, self._refuse, late)

    # What the parser finds

    def on_header(self, name: bytes, value: bytes) -> None:
        """Replace uvicorn's, which takes any number of them, and a trailer's for the head's."""
        if self._in_body:
            self._count(1, 1)
            return
        name, value = self.field(name, value)
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        elif name == b"content-length":
            self._body_left = int(value) if len(value) <= _LENGTH_DIGITS and value.isdigit() else 0
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            # The parser would say so too, but only once the application has the request.
            raise MalformedRequest("A body may be sent in chunks, and in no other transfer coding.")
        self.headers.append((name, value))
        if len(self.headers) > self.max_headers:
            raise HeadTooLarge(f"The request's head may have at most {self.max_headers} headers.")

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
        if self in self._places.beyond:
            self._admit()
        self._in_body = True
        self.small_parts = 0
        self._unclaimed = 0
        if self._deadline is not None:
            self._forget_deadline()
        self._places.serve(self)  # if the body is waited for, then from now on
        super().on_headers_complete()
        self._ended_head = self.headers
        if self in self._places.beyond:
            self.cycle.keep_alive = False

    def _admit(self) -> None:
        """Refuse what a connection too many asks, unless there is room by now or it is answered always."""
        if self._has_place():
            del self._places.beyond[self]
        elif self.url.partition(b"?")[0] not in self.always_answered:
            _log.warning("inbound.connection_refused", limit=self._max_connections)
            self._places.leave(self)
            self.connections.discard(self)
            raise Unavailable(f"The gateway serves at most {self._max_connections} connections; try again.")

    def _hand_on_body(self) -> None:
        self._unclaimed = 0
        self._body_left -= sum(map(len, self._found))
        super()._hand_on_body()

    def on_message_complete(self) -> None:
        if self._found:
            self._hand_on_body()
        self._in_body = False
        self._body_left = self._unclaimed = 0
        super().on_message_complete()

    # Clients that take their time

    def _await_client(self) -> None:
        """Give the client a deadline where it has begun something that it must end."""
        if self._in_head() or self._in_body or self._unclaimed:
            if self._deadline is None:
                wanted = self._in_body and not self.cycle.response_complete
                self._deadline = self.loop.call_later(self.body_s if wanted else self.head_s, self._overdue)
            return
        self._forget_deadline()
        if self.cycle.response_complete and self.timeout_keep_alive_task is None:
            # Its answer came before the end of its body, which took the place of the idle time that began with it.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _overdue(self) -> None:
        self._deadline = None
        behind = self.pipeline or (self._in_head() and self.cycle is not None and not self.cycle.response_complete)
        if self.flow.read_paused or behind or self._unparsed.reads:
            # The requests before it are not answered yet: it is the gateway that does not read.
            self._await_client()
        elif self._in_head():
            self._refuse(RequestTimeout(f"The request's head did not arrive within {self.head_s:g} s."))
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        elif self._in_body:
            self._refuse(RequestTimeout(f"The request's body did not arrive within {self.body_s:g} s."))

    def _take_turns(self) -> None:
        """Note whose turn it is: the gateway's, or that of the client, who may have to give way."""
        cycle = self.cycle
        asked = self.pipeline or (cycle is not None and not cycle.more_body and not cycle.response_complete)
        if not asked or self._client_ended or self.flow.write_paused or self.flow.read_paused or self._is_closing():
            self._places.wait_for(self)
        else:
            self._places.serve(self)

    def _in_head(self) -> bool:
        return self.headers is not self._ended_head

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self._patience_s, self.transport.abort)
        self._places.wait_for(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._take_turns()
        if self._stalled is not None:
            # Not as long again for each part: it takes memory that others wait for.
            left_s = self._stalled.when() - self.loop.time()
            self._patience_s = min(self.read_s, max(left_s, 0.0) + _DRAINED_BYTES / self.least_bytes_per_s)
            self._stalled.cancel()
            self._stalled = None

    def on_response_complete(self) -> None:
        others_wait = bool(self.pipeline)
        if not others_wait:
            self.cycle.body.clear()  # what the application left there would stay as long as the connection
        super().on_response_complete()
        self._patience_s = self.read_s
        if self.transport.is_closing():
            return
        self._ahead = 0
        if self._holds:
            self._hold()
        if others_wait:
            self._forget_deadline()  # until now it may have been the gateway that did not read
            if self._in_head() or self._in_body or self._unclaimed:
                self._await_client()
            return
        self._places.wait_for(self)
        if self._refusal is not None:
            self._answer(self._refusal)
        elif self._in_body or self._in_head():
            self._forget_deadline()  # it was for a body that is wanted, or for what came while another was served
            self._await_client()

    # The end of the connection

    def _client_sends(self) -> bool:
        sends = self._in_body or self._in_head() or self.pipeline or self._unparsed.reads
        return bool(sends) or self._refusal is not None

    def _close(self) -> None:
        if self in self.connections:
            self._places.wait_for(self)
        super()._close()
        if self._lingering:
            self._forget_deadline()

    # Refusals

    def _refuse(self, refusal: RequestError) -> None:
        """Take nothing more from this client, and tell it why once the requests before have their answers."""
        self._refusal = without_frames(refusal)
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
                return
        self._answer(refusal)

    def _has_place(self) -> bool:
        """Whether there is a place for this connection, for which another one may have had to give way."""
        return not self._is_crowded() or (self._places.make_room() and not self._is_crowded())

    def _is_crowded(self) -> bool:
        beyond = self._places.beyond
        # Tasks too: a client that hangs up may leave one to a moment's work.
        return max(len(self.connections) - len(beyond) + (self in beyond), len(self.tasks)) > self._max_connections

    def give_way(self) -> None:
        """End at once: others need the place, and this one's client has been waited for the longest."""
        self.connections.discard(self)
        self._connection.abort()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(f"The request's head may have at most {self.max_head_bytes} bytes.")


def _refusal(cause: BaseException | None) -> RequestError:
    """Return what a client is told whose bytes could not be parsed; ``cause`` is what a callback raised, if one did."""
    if isinstance(cause, RequestError):
        return cause
    if isinstance(cause, MemoryError):
        return Unavailable("The gateway has no memory left for this request.")
    return MalformedRequest("This is not HTTP/1.1 as RFC 9112 writes it.")
