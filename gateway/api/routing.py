"""One route for each path, with a handler for each method: so a 405 names all the methods that are allowed there."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

__all__ = ["route"]

Handler = Callable[[Request], Awaitable[Response]]


def route(path: str, **handlers: Handler) -> Route:
    """Serve ``path``; the keywords are methods. HEAD goes where GET does."""
    if "GET" in handlers:
        handlers["HEAD"] = handlers["GET"]
    return Route(path, _Endpoint(handlers), methods=list(handlers))


class _Endpoint:
    """An ASGI application, which Starlette leaves as it is.

    What it wraps around a function catches exceptions once more than the one place that answers them.
    """

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handlers[scope["method"]](Request(scope, receive, send))
        await response(scope, receive, send)
