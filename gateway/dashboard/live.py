"""Pages that follow what happens: the part of a page that changes is sent again whenever it shows something else.

Owns the streams: how often they look, how many there may be, and when one ends. Only who looks costs anything: there
is no stream without a page that is open and in front, and nothing runs between streams. Called by the routes.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.core.clock import wait_for_event
from gateway.core.errors import RequestError, StoreError, Unavailable
from gateway.dashboard.asked import Asked, Shown, View
from gateway.dashboard.frame import SECURITY_HEADERS, Frame
from gateway.dashboard.parts import PageParts
from gateway.dashboard.session import Visitor

_LOOKS_S = 2.0
_LASTS_S = 600.0
"""After so long a browser asks anew, and proves anew who it is."""
_MOST = 32
"""In all; one client may have as many as are left besides: half of them alone, and there is always one for another."""


class Live:
    """The streams of one gateway."""

    def __init__(self, parts: PageParts, frame: Frame) -> None:
        self._clock = parts.clock
        self._draining = parts.draining
        self._frame = frame
        self.streams: Counter[str | None] = Counter()
        """How many each client has, and the operator."""

    def stream(
        self, view: View, asked: Asked, shown: Shown, who: Callable[[], Awaitable[Visitor | None]]
    ) -> StreamingResponse:
        """Return what sends the page's changing part: as ``shown`` shows it, and whenever it shows something else.

        ``who`` tells who looks now: it ends with the session. Raises Unavailable where too many look.
        """
        client = asked.visitor.client
        if self.streams[client] >= _MOST - self.streams.total():
            raise Unavailable("Too many pages are followed already; load this one again to see what is new.")
        headers = SECURITY_HEADERS | {"cache-control": "no-store", "x-accel-buffering": "no"}
        return _Followed(self.streams, client, self._events(view, asked, shown, who), headers)

    async def _events(
        self, view: View, asked: Asked, shown: Shown, who: Callable[[], Awaitable[Visitor | None]]
    ) -> AsyncIterator[bytes]:
        until = self._clock.monotonic() + _LASTS_S
        yield b"retry: 2000\n\n"
        yield _event("fresh", self._region(shown, asked.visitor))  # of what happened since the page itself was made
        troubled = False
        while self._clock.monotonic() < until:
            await wait_for_event(self._draining, _LOOKS_S)
            if self._draining.is_set():
                return
            try:
                visitor = await who()
                if visitor is None:
                    yield _event("gone", "")
                    return
                found = await view(asked._replace(visitor=visitor))
            except (RequestError, StoreError):
                yield _event("trouble", "")
                troubled = True
                continue
            if found == shown and not troubled:
                yield b": nothing new\n\n"  # so that a browser that has gone is noticed
                continue
            shown, troubled = found, False
            yield _event("fresh", self._region(found, visitor))

    def _region(self, shown: Shown, visitor: Visitor) -> str:
        about: dict[str, Any] = {"section": shown.section, "visitor": visitor, "now": self._clock.now()}
        return self._frame.region(shown.template, **about, **shown.context)


class _Followed(StreamingResponse):
    """A stream that counts from its start to its end, however it ends.

    The generator itself cannot tell: one that is cancelled while it hands on an event ends with a garbage collection.
    """

    def __init__(
        self,
        streams: Counter[str | None],
        client: str | None,
        events: AsyncIterator[bytes],
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(events, 200, headers, "text/event-stream")
        self._streams = streams
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._streams[self._client] += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams[self._client] -= 1
            if not self._streams[self._client]:
                del self._streams[self._client]


def _event(name: str, text: str) -> bytes:
    def lines() -> Iterator[str]:
        yield f"event: {name}"
        yield from (f"data: {line}" for line in text.splitlines() or [""])
        yield "\n"

    return "\n".join(lines()).encode()
