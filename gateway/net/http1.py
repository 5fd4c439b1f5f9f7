"""One HTTP/1.1 connection as a client sees it: a request goes out, its answer comes in through httptools' parser.

Owns the answer's framing (RFC 9112), the bounds on its head, and the flow control of its body. Does not dial, pool,
follow redirects or limit time. Used by ``transport``, which turns its errors over unchanged.

The parser reads strictly. A head that it refuses is read again by ``OddHead``, and where it refuses how chunks are
framed, ``OddChunks`` reads on. Either way the connection serves no second request.

httptools is the parser of Node.js (llhttp) with a thin binding; uvicorn reads requests with it. A bare GET over it, no
httpx types around it, took about 11 µs of processor time where one by aiohttp's session took about 90, in one run.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import httptools

from gateway.core.errors import without_frames
from gateway.net.errors import ExchangeFailed, cut_off
from gateway.net.oddanswers import CONTROLS, OddChunks, OddHead
from gateway.net.unparsed import LARGE_STEP, ParsingTurns, Unparsed

_MAX_HEAD = 32 * 1024  # bytes before the body, interim answers included, and of what frames a body between its parts
_MAX_HEADERS = 1000  # each costs more than a hundred bytes of memory, however short it is
_FEW_HEADERS = 32  # each beyond them is a part, and as much work as a chunk is
_STEP = LARGE_STEP  # bytes that are parsed before the bounds are looked at: one read may bring thirty times as many
_SMALL_STEP = 2 * 1024  # … where they may be the smallest parts: of a head, and of a body in chunks
_MAX_BUFFERED = 64 * 1024  # bytes of a body that nobody has read yet, above which the peer is not read from
_SWITCHING = 101
_HEAD_END = re.compile(rb"\r[\r\n]\r\n")  # the parser takes a second CR for the LF of the first line


class Connection(asyncio.Protocol):
    """One connection; ``unusable`` is called where it ends, or its peer speaks unasked, between two requests."""

    def __init__(self, unusable: Callable[["Connection"], object], turns: ParsingTurns) -> None:
        """``turns``: of all whose answers are parsed."""
        self._unusable = unusable
        self._turns = turns
        self.parts = 0
        """Announcements of answers, headers beyond the first ones, chunks, and lines of trailers, so far."""
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser  # while it is connected: it refers to this, and this to it
        self._unparsed: Unparsed
        self._waiter: asyncio.Future[None] | None = None
        self._error: ExchangeFailed | None = None
        self._asking = False  # a request has been sent whose answer is not complete
        self._no_body = False
        self._keep_alive = False
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self._unclaimed = 0  # bytes since the head began, or since the parser found its end or a part of the body
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._head: list[bytes] = []  # what the parser was fed until the head ended, for whoever has to read it again
        self._heads = 0  # that ended in there, announcements included
        self._odd_head: OddHead | None = None  # where the parser refused the head
        self._odd_chunks: OddChunks | None = None  # beside the parser, while a body in chunks is read
        self._found = 0  # bytes of the body that the parser found in what it was fed last
        self._loose = False  # others may see the body end elsewhere
        self._chunked = False
        self._framed = False  # the body's end is told by its length or its last chunk, not by the connection's end

    # What the transport calls

    @property
    def usable(self) -> bool:
        """Whether the last answer is complete and another request may be sent."""
        return (
            self._keep_alive
            and not self._asking
            and self._error is None
            and self._transport is not None
            and not self._unparsed.paused
            and not self._unparsed.reads
            # The answer may have come before its request had gone: the next one would wait behind the rest of that.
            and not self._transport.get_write_buffer_size()
        )

    @property
    def silent(self) -> bool:
        """Whether nothing has come since the last request."""
        return not self.status and not self._unclaimed

    async def ask(self, request: Sequence[bytes], *, no_body: bool) -> None:
        """Send a request's parts and return when the head of its answer is in ``status``, ``reason`` and ``headers``.

        ``no_body``: as for HEAD. Raises ExchangeFailed.
        """
        self._begin()
        self._no_body = no_body
        self._asking = True
        self._keep_alive = False
        if self._error is None and self._transport is not None:
            try:
                self._transport.writelines(request)
            except RuntimeError as exc:  # uvloop on a socket that is closed already
                self._fail(cut_off(exc, answered=False))
        while not self.status and self._error is None:
            await self._change()
        if not self.status and self._error is not None:
            raise self._error.again()

    async def read(self) -> bytes:
        """Return some of the body, empty at its end. Raises as ``ask`` where it ends too early."""
        while not self._chunks:
            if not self._asking:
                return b""  # whatever became of the connection since
            if self._error is not None:
                raise self._error.again()
            await self._change()
        chunk = self._chunks.popleft() if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._transport is not None and self._unparsed.paused:
            self._unparsed.resume_reading()
        return chunk

    def close(self) -> None:
        """Close at once; nothing is sent or read any more. Never waits."""
        self._keep_alive = False
        if self._transport is not None:
            self._unparsed.drop()
            # Not close(): with TLS that waits for the peer's last word, up to half a minute.
            self._transport.abort()

    def _change(self) -> asyncio.Future[None]:
        """Return what is done once anything has come, or the connection has ended."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def give_up(self, *, floods: bool) -> None:
        told = (
            "of what it sends in small parts more waits than there is room for" if floods else "it was not read whole"
        )
        self._fail(ExchangeFailed(told, "protocol"))

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._unparsed = Unparsed(self, self._transport, self._turns)

    def data_received(self, data: bytes) -> None:
        small = len(data) <= _SMALL_STEP and self._odd_chunks is None
        if small and not (self._unparsed.reads or self._unparsed.owes or self._turns.is_spent):
            known = self.parts
            self.take(data)  # most answers come so, and whole
            if self.parts > known + 1:
                self._turns.spend(self.parts - known)
                self._unparsed.found(self.parts - known, len(data))
        else:
            self._unparsed.add(data)

    @property
    def step(self) -> int:
        """Bytes that are parsed at once."""
        return _STEP if self.status and self._odd_chunks is None else _SMALL_STEP

    def take(self, data: bytes) -> None:
        """Parse what comes next."""
        if self._error is not None:
            return
        self._unclaimed += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserUpgrade:
            self.on_message_complete()  # to nothing that is spoken here: an answer without a body
            self._keep_alive = False
            return
        except httptools.HttpParserError as exc:
            self._fail(_ours(exc) or ExchangeFailed(str(exc), "protocol"))
            without_frames(exc)  # one of them holds it
            return
        except ExchangeFailed as exc:
            self._fail(exc)
            return
        if self._asking and self._unclaimed > _MAX_HEAD:
            # The head, or what comes between the parts of a chunked body, or after them: the parser keeps all of it.
            self._fail(_too_large())
        elif self._buffered > _MAX_BUFFERED:
            self._unparsed.pause_reading()  # until somebody reads what has come of the body

    def _feed(self, data: bytes) -> None:
        if self._odd_head is not None:
            self.parts += data.count(b"\n")  # each of them is read once the head has ended
            data = self._odd_head.feed(data)
        if self._asking and not self.status:
            self._head.append(data)
        refusal: httptools.HttpParserError | None = None
        self._found = 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            # Raised later: while another error is handled it would lose its context, the reason.
            refusal = exc.with_traceback(None)
        if self.status and self._head:  # it ended in these bytes
            raw = self._head[0] if len(self._head) == 1 else b"".join(self._head)
            self._head.clear()
            if self._odd_chunks is not None or (self._keep_alive and b"\r\r" in raw):
                data = _after_heads(raw, self._heads)
                if b"\r\r" in raw[: len(raw) - len(data)]:
                    self._keep_alive = False  # others do not take the second one for a line's end, as the parser does
        if self._odd_chunks is not None:
            self._follow_chunks(self._odd_chunks, data, refusal)
            return
        if refusal is None:
            return
        if self.status or not self._asking or self._odd_head is not None or _ours(refusal) is not None:
            raise refusal
        raw = b"".join(self._head)
        self._odd_head = OddHead(str(refusal), _MAX_HEAD, _MAX_HEADERS)
        self._loose = True
        self._parser = httptools.HttpResponseParser(self)
        self._forget_head()
        self._head.clear()
        self._heads = 0
        self._feed(raw)

    def _follow_chunks(self, chunks: OddChunks, data: bytes, refusal: httptools.HttpParserError | None) -> None:
        """Have ``chunks`` keep up with the parser, and tell what that does not find once it refuses to go on."""
        seen = chunks.seen
        try:
            parts = chunks.feed(data)
        except httptools.HttpParserError:
            if refusal is not None:
                raise
            self._odd_chunks = None  # the parser reads what this cannot
            return
        finally:
            self.parts += chunks.seen - seen
        if refusal is None and not chunks.ended:
            return
        # A parser that has refused does so again, whatever it is fed.
        self._keep_alive = False
        body = b"".join(parts)[self._found :]
        if body:
            self.on_body(body)
        if chunks.ended:
            self.on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self._unparsed.finish()
        finally:
            self._unparsed.let_go()
        self._transport = None
        if self._asking and exc is None and self.status and not self._framed and self._error is None:
            self._asking = False  # the body that lasts until the connection ends has ended
            self._wake()
        self._fail(cut_off(exc, answered=bool(self.status)))
        # Else only the garbage collector would free the two: thousands at once, with a thousand headers each.
        del self._parser

    # What the parser finds

    def on_message_begin(self) -> None:
        if not self._asking:
            # Taken for the answer to the next request, it would settle the wrong webhook.
            raise ExchangeFailed("it came before it was asked for", "protocol")

    def on_status(self, reason: bytes) -> None:
        self.reason += reason
        if CONTROLS.search(reason):
            self._loose = True  # there others may read no answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        self.headers.append((name, value))
        if len(self.headers) > _FEW_HEADERS:
            self.parts += 1
        if len(self.headers) > _MAX_HEADERS:
            raise ExchangeFailed(f"its head has more than {_MAX_HEADERS} headers", "protocol")
        field = name.lower()
        if field == b"content-length":
            self._framed = True
        elif field == b"transfer-encoding":
            # RFC 9112 §6.3: where the last coding is not chunked, the body lasts until the connection ends.
            self._loose = self._loose or self._framed or value.lower() != b"chunked"
            self._chunked = self._framed = value.lower().rpartition(b",")[2].strip() == b"chunked"
            if self._chunked and not value.rstrip(b" ").lower().endswith(b"chunked"):
                raise ValueError("a tab after the coding")  # to the parser it would be another one; OddHead reads it
        elif field == b"connection" and b"\t" in value:
            self._loose = True  # "close" is no such word to the parser, with a tab behind it

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._heads += 1
        self.parts += 1
        if status < 200 and status != _SWITCHING:
            # It only announces the answer. Its bytes count, so that announcing must end some time.
            self.parts += min(len(self.headers), _FEW_HEADERS)
            self._forget_head()
            return
        if self._unclaimed > _MAX_HEAD and sum(len(name) + len(value) + 4 for name, value in self.headers) > _MAX_HEAD:
            raise _too_large()
        self.status = status
        self._unclaimed = 0
        self._keep_alive = not self._loose and self._parser.should_keep_alive()
        if self._chunked and not self._no_body:
            self._odd_chunks = OddChunks(_MAX_HEAD)
        if self._no_body:
            # The parser expects what the length says: whatever comes now would be misread.
            self._keep_alive = self._asking = False
        self._wake()

    def _forget_head(self) -> None:
        self.headers.clear()
        self.reason = b""
        self._chunked = self._framed = False

    def on_body(self, body: bytes) -> None:
        self._unclaimed = 0
        self._found += len(body)
        if self._asking:
            self._chunks.append(body)
            self._buffered += len(body)
            if self._waiter is not None:
                self._wake()

    def on_message_complete(self) -> None:
        if self.status:
            self._asking = False
            self._odd_chunks = None
            if self._waiter is not None:
                self._wake()

    def _fail(self, error: ExchangeFailed) -> None:
        idle = not self._asking
        if self._error is None:
            self._error = without_frames(error)
        self.close()
        self._wake()
        if idle:
            self._unusable(self)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def _after_heads(data: bytes, count: int) -> bytes:
    """Return what follows so many heads that the parser has read."""
    at = 0
    for _ in range(count):
        while data[at : at + 1] in (b"\r", b"\n"):
            at += 1  # empty lines before a head are passed over
        end = _HEAD_END.search(data, at)
        assert end is not None  # noqa: S101 - the parser has found it
        at = end.end()
    return data[at:]


def _ours(refusal: httptools.HttpParserError) -> ExchangeFailed | None:
    """Return what a callback of the parser's raised."""
    context = refusal.__context__
    return context if isinstance(context, ExchangeFailed) else None


def _too_large() -> ExchangeFailed:
    return ExchangeFailed(f"its head or trailer is larger than {_MAX_HEAD} bytes", "protocol")
