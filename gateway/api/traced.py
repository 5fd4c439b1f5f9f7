"""The span of a request to the API, around all that answers it.

Owns which requests have one: not those of probes and scrapes. An ASGI middleware that is there only where spans are
made; whoever registers asks here for what a request is a part of.
"""

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.auth import PUBLIC
from gateway.core.tracecontext import trace_in
from gateway.core.tracing import Tracing


def trace_of(request: Request) -> str | None:
    """Return what follows a request is a part of: its span, or where it has none what it came with."""
    span = request.scope.get("span")
    trace: str | None = trace_in(request.scope["headers"]) if span is None else span.trace
    return trace


class TracingMiddleware:
    """Tells of each request, and hears from the endpoint which call it is."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC:
            await self._app(scope, receive, send)
            return
        with self._tracing.request(scope, trace_in(scope["headers"])) as span:
            scope["span"] = span

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.answered(message["status"])
                await send(message)

            await self._app(scope, receive, answer)
