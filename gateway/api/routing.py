"""One route for each path, with a handler for each method: so a 405 names all the methods that are allowed there.

Owns which parameters a path's query may have: a typo in one must not pass in silence.
"""

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.api.large import send_response
from gateway.core.errors import InvalidRequest

__all__ = ["route"]

Handler = Callable[[Request], Awaitable[Response]]


def route(path: str, *, query: Sequence[str] | None = (), **handlers: Handler) -> Route:
    """Serve ``path``; the keywords are methods. HEAD goes where GET does.

    ``query``: the parameters that GET takes; all others are refused, and other methods take none. None: not for us to
    say.
    """
    if "GET" in handlers:
        handlers["HEAD"] = handlers["GET"]
    return Route(path, _Endpoint(handlers, query), methods=list(handlers))


class _Endpoint:
    """An ASGI application, which Starlette leaves as it is.

    What it wraps around a function catches exceptions once more than the one place that answers them.
    """

    def __init__(self, handlers: dict[str, Handler], query: Sequence[str] | None) -> None:
        self._handlers = handlers
        self._query = query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        if scope["query_string"] and self._query is not None:
            _refuse_unknown(request, self._query if scope["method"] in ("GET", "HEAD") else ())
        response = await self._handlers[scope["method"]](request)
        await send_response(response, scope, receive, send)


def _refuse_unknown(request: Request, known: Sequence[str]) -> None:
    there_is = f"there is: {', '.join(known)}" if known else "there is none"
    errors = [
        (name, f"is not a parameter of this query; {there_is}") for name in request.query_params if name not in known
    ]
    if errors:
        raise InvalidRequest(": ".join(errors[0]), errors=errors)
