"""What a row of the table of calls holds, and the routes that are made of the rows.

Owns that a path has one route, so that a 405 names all methods that are allowed there; and which parameters a query may
have, each once: a typo in one must not pass in silence. The rows themselves are in ``table``.
"""

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route, Router
from starlette.types import Receive, Scope, Send

from gateway.api.large import send_response
from gateway.api.problems import PROBLEM_TYPE, Problem
from gateway.core.errors import InvalidRequest

_CONVERTOR = re.compile(r":\w+}")
Handler = Callable[[Request], Awaitable[Response]]
Schema = Any
"""A type that goes over the wire, or a JSON Schema."""


class Parameter(NamedTuple):
    """A part of a query or of the path, or a header."""

    name: str
    schema: dict[str, Any]
    place: str = "query"
    required: bool = False
    text: str = ""
    example: Any = None


class Group(NamedTuple):
    """Calls that are alike: what holds of each of them."""

    tag: str
    text: str
    errors: tuple[int, ...]
    error_type: str = PROBLEM_TYPE
    """The content type of errors."""
    error_body: Schema = Problem
    any_query: bool = False
    """Whether a query may have parameters that the call does not name."""
    any_status: bool = False
    """Whether somebody else's answers are passed on, whatever they are."""


class Call(NamedTuple):
    """One call of the API: what serves it, and all that ``/openapi.json`` says of it."""

    group: Group
    method: str
    path: str
    """As the router takes it: ``{name:path}`` may hold slashes. Below the mount, where there is one."""
    handler: Handler
    id: str
    """Its operationId: generated clients name their functions by it."""
    summary: str
    answers: Mapping[int, tuple[str, Schema | None]]
    """By status, what an answer means and holds; of errors those that hold more than others."""
    errors: tuple[int, ...] = ()
    """Those beside the group's."""
    body: Schema | None = None
    parameters: Sequence[Parameter] = ()
    """Of the query and the headers; the path names its own."""
    mount: str = ""
    """What stands before the path: ``/u/NAME`` for an upstream's own calls."""
    headers: Mapping[str, str] = MappingProxyType({})
    """Those that every good answer has beside the usual ones, and what they say."""
    like: str = ""
    """Which text of ``calltexts`` tells of it; without one that of its id."""


def routes(calls: Iterable[Call]) -> list[BaseRoute]:
    """Return one route for each path, in the order of the calls; those of a mount stand together below it."""
    mounts: dict[str, list[Call]] = {}
    for call in calls:
        mounts.setdefault(call.mount, []).append(call)
    own = _routes(mounts.pop("", []))
    # Else a request for the last upstream's calls would be held against those of all others first.
    return [*own, *(Mount(at, app=Router(_routes(below), redirect_slashes=False)) for at, below in mounts.items())]


def _routes(calls: Iterable[Call]) -> list[Route]:
    """HEAD goes where GET does. Paths without a name come first: a 405 tells of the first path that matches."""
    paths: dict[str, dict[str, Call]] = {}
    for call in calls:
        methods = paths.setdefault(call.path, {})
        methods.setdefault(call.method, call)
        if call.method == "GET":
            methods.setdefault("HEAD", call)
    return [_route(path, paths[path]) for path in sorted(paths, key=lambda path: "{" in path)]


def _route(path: str, calls: Mapping[str, Call]) -> Route:
    own = not any(call.group.any_status for call in calls.values())
    return (_Fixed if own and "{" not in path else Route)(path, _Endpoint(calls), methods=list(calls))


class _Fixed(Route):
    """A path of the gateway's own that is never somebody's name: ``/v1/callbacks/batch`` is no callback."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        return Match.NONE if match is Match.NONE else Match.FULL, child_scope  # it says itself what is allowed


class _Endpoint:
    """An ASGI application: around a function Starlette catches exceptions once more than where they are answered."""

    def __init__(self, calls: Mapping[str, Call]) -> None:
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        call = self._calls[scope["method"]]
        if scope["query_string"] and not call.group.any_query:
            _refuse_query(request, [one.name for one in call.parameters if one.place == "query"])
        if (span := scope.get("span")) is not None:
            span.routed(call.mount + _CONVERTOR.sub("}", call.path), scope["client_name"])
        response = await call.handler(request)
        await send_response(response, scope, receive, send)


def _refuse_query(request: Request, known: Sequence[str]) -> None:
    there_is = f"there is: {', '.join(known)}" if known else "there is none"
    errors = [
        (
            name,
            "stands in this query more than once" if name in known else f"is not a parameter of this query; {there_is}",
        )
        for name, count in Counter(name for name, _ in request.query_params.multi_items()).items()
        if name not in known or count > 1
    ]
    if errors:
        raise InvalidRequest(": ".join(errors[0]), errors=errors)
