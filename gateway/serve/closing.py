"""How a server's connection ends: so that its last answer can be read, in bounded time, and its request with it.

Owns the stages of closing, the answer to a client that is refused, that what still comes is thrown away, that nothing
is done any more for a client that has gone, and that an answer's head leaves with its body. Knows neither limits nor
reasons. ``paced`` builds on it.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import msgspec
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from gateway.api.problems import PROBLEM_TYPE, problem
from gateway.core.errors import RequestError
from gateway.serve.serverprotocol import ServerProtocol

_MOST_JOINED = 64 * 1024
"""Bytes of what follows a head up to which it is copied, to go with it."""


class _Transport:
    """The connection's transport, of which closing is the protocol's, wherever in uvicorn it is called.

    uvicorn writes an answer's head by itself, and the loop sends what it is given at once. So the head waits for what
    of the body comes in the same turn: one call of the system and one packet instead of two, a tenth of what it costs
    to register a callback.
    """

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None], is_closing: Callable[[], bool]) -> None:
        self._transport = transport
        self.close = close
        self.is_closing = is_closing
        self._unanswered: RequestResponseCycle | None = None
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def await_head(self, cycle: RequestResponseCycle) -> None:
        """Take for its head what is written first once this answer has begun: 100 (Continue) may come before."""
        self._unanswered = cycle

    def write(self, data: bytes) -> None:
        """Write, or let a head wait until the loop's next turn."""
        if self._unanswered is not None and self._unanswered.response_started:
            self._unanswered = None
            self._head = data
            asyncio.get_running_loop().call_soon(self.flush)
        elif self._head and len(data) <= _MOST_JOINED:
            data = self._head + data
            self._head = b""
            self._transport.write(data)
        else:
            self.flush()
            self._transport.write(data)

    def flush(self) -> None:
        """Write a head that waits."""
        head, self._head = self._head, b""
        if head and not self.is_closing():
            self._transport.write(head)

    def let_go(self) -> None:
        """Forget the protocol: each would keep the other, after the connection, until a garbage collection."""
        self._unanswered = None
        self.close = self._transport.close
        self.is_closing = self._transport.is_closing


class ClosingProtocol(ServerProtocol):
    """uvicorn's HTTP/1.1 connection, closed in stages; subclasses say when its client may still be sending.

    A request is cancelled when its connection is lost, where uvicorn lets it go on: what must come to its end all the
    same runs in a task of its own.
    """

    read_s: ClassVar[float] = 30.0
    """For the client to take an answer that has been written, and with the last one to end what it is sending."""
    linger_s: ClassVar[float] = 2.0
    """For the client to read why it was refused, or to go when the gateway ends."""
    max_dropped_bytes: ClassVar[int] = 128 * 1024 * 1024
    """Of what is thrown away: clients that read once they have sent all must get there with the files people send."""

    _served: RequestResponseCycle | None = None  # the request that is being served, and its task
    _serving: asyncio.Task[None] | None = None
    _client_ended = False  # its side: it may still read
    _lingering = False  # nothing more is said, and what still comes is thrown away
    _dropped = 0
    _cut: asyncio.TimerHandle | None = None  # after which a closing connection is cut

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection = transport
        self._closes_here = _Transport(transport, self._close, self._is_closing)
        super().connection_made(cast("asyncio.Transport", self._closes_here))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._cut is not None:
            self._cut.cancel()
        self.pipeline.clear()
        if self._served is not None and self._serving is not None and not self._serving.done():
            self._served.disconnected = True
            self._serving.cancel()
        super().connection_lost(exc)
        if self._served is not None:
            self.cycle = self._served  # a later one that is never served keeps the protocol, as that does it
        self._closes_here.let_go()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Replace uvicorn's, whose requests do not end with their client."""
        self._served = cycle
        if cycle.scope["method"] != "HEAD":  # nothing is written after that one's
            self._closes_here.await_head(cycle)
        self._serving = self.loop.create_task(cycle.run_asgi(partial(_for_its_client, cycle, app)))
        self._serving.add_done_callback(self.tasks.discard)
        self.tasks.add(self._serving)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._cut_after(self.linger_s)

    def _client_sends(self) -> bool:
        """Return whether the client may still be sending what nobody takes."""
        raise NotImplementedError

    def _answer(self, refusal: RequestError) -> None:
        """Write why nothing more is taken from this client, and close."""
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

    def _close(self) -> None:
        """Close in bounded time, and in stages where the client may still be sending.

        A socket that is closed with bytes unread, or that more bytes reach, answers them with a reset, and a reset
        takes the last answer from a client that has not read it. So RFC 9112 §9.6 has a server end its own side, read
        on until the client ends its side, and close then. What is read so never reaches the parser: the rest of a body
        must not be taken for a request, and no request that follows is answered.
        """
        if self._is_closing():
            return
        self._closes_here.flush()
        self._cut_after(self.read_s)
        if self._client_ended or not self._client_sends():
            self.pipeline.clear()
            self._connection.close()
            return
        self._lingering = True
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        try:
            self._connection.write_eof()
        except OSError:  # asyncio's own transports: the client has gone, and nobody has been told yet
            self._connection.abort()
            return
        self.flow.resume_reading()  # it may have stopped at a body that nobody takes

    def _drop(self, data: bytes) -> None:
        """Throw away what has come, but not endlessly."""
        self._dropped += len(data)
        if self._dropped > self.max_dropped_bytes:
            self._connection.abort()

    def _is_closing(self) -> bool:
        return self._lingering or self._connection.is_closing()

    def _cut_after(self, seconds: float) -> None:
        """Cut the closing connection then, or sooner where that was said: closing alone may wait for ever."""
        if self._cut is not None:
            if self._cut.when() <= self.loop.time() + seconds:
                return
            self._cut.cancel()
        self._cut = self.loop.call_later(seconds, self._connection.abort)


async def _for_its_client(
    cycle: RequestResponseCycle,
    app: ASGI3Application,
    scope: Scope,
    receive: ASGIReceiveCallable,
    send: ASGISendCallable,
) -> None:
    """Serve a request, which is cancelled where its client goes, or at the stop: that is no failure."""
    try:
        await app(scope, receive, send)
    except asyncio.CancelledError:
        if cycle.disconnected:
            return
        if not cycle.response_started:
            raise
        # The rest of its answer will not come, which only the connection's end can tell.
        cycle.disconnected = True
        cycle.transport.abort()
