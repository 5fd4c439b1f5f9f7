"""The pages' routes: who may see each, what is done with forms, and how errors look.

Owns that every page of the dashboard asks who looks and counts as a request of that client, and that every form proves
where it comes from; the manual, which holds no secret, asks nobody. What a page shows stands in modules beside this.
Called by ``site``.
"""

import asyncio
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import structlog
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.core.clientrequests import ClientRequests
from gateway.core.errors import (
    Forbidden,
    NotFound,
    RequestError,
    StoreError,
    StorePartly,
    TooLarge,
    Unavailable,
    without_frames,
)
from gateway.core.shares import Shares
from gateway.dashboard.actions import Actions
from gateway.dashboard.asked import Action, Asked, Shown, View
from gateway.dashboard.frame import SECURITY_HEADERS, Frame
from gateway.dashboard.lists import Lists
from gateway.dashboard.live import Live
from gateway.dashboard.manual.routes import Manual
from gateway.dashboard.now import Now
from gateway.dashboard.operating import Operating
from gateway.dashboard.parts import PageParts
from gateway.dashboard.session import BrowserSession, Sessions, Visitor
from gateway.dashboard.timeline import TimeLine

_log = structlog.get_logger()

_MOST_FORM = 16 * 1024
_MOST_FIELDS = 50
_MOST_BACK = 1024
"""Characters of a path to come back to: many a proxy takes no long Location."""
_AT_ONCE = 8
"""Pages that are made at the same time: however many look, the loops have the database as well."""
_PAGE = 40
"""Of a visitor's share of the pages: six are made at once while nobody else looks, so that another's finds a place at
once, and then one. They have shares of their own: whoever looks does not hold up the calls of the same client."""
_LONGEST_S = 10.0
"""So long a page may take, with its turn: what it would tell is old by then, and others wait for theirs."""
_HOME = "/"
_SIGN_IN = "/dashboard/sign-in"
_OWN_SITES = ("same-origin", "none")


class Pages:
    """The dashboard's own pages, over views and forms."""

    def __init__(self, parts: PageParts, frame: Frame) -> None:
        self._parts = parts
        self._frame = frame
        self._sessions = Sessions(parts)
        self._live = Live(parts, frame)
        self._views: list[tuple[Route, View]] = []
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._shares = Shares()

    def route(self, path: str, view: View) -> Route:
        """Return the route of a page for who is signed in."""

        async def in_turn(asked: Asked) -> Shown:
            try:
                client = asked.visitor.client
                async with asyncio.timeout(_LONGEST_S), self._shares.of(client, _PAGE), self._turns:
                    return await view(asked)
            except TimeoutError:
                raise Unavailable(
                    f"The database took longer than {_LONGEST_S:g} s for this page. Try again in a moment, or ask for "
                    "less: a state, a client, a shorter span of time.",
                    retry_after_s=5,
                ) from None

        async def get(request: Request) -> Response:
            session, visitor = await self._who(request)
            if visitor is None:
                return self._to_sign_in(request)
            self._count(request, visitor)
            asked = Asked(visitor, request.path_params, request.query_params)

            async def page() -> Response:
                shown = await in_turn(asked)
                return self._frame.page(
                    request, shown.template, section=shown.section, visitor=visitor, now=self._now(), **shown.context
                )

            response = await self._parts.made_with_room(request, page)
            if session.old:
                await self._sessions.keep(request, response, session)
            return response

        route = Route(path, get)
        self._views.append((route, in_turn))
        return route

    async def live(self, request: Request) -> Response:
        """Follow a page that is shown: the query names it."""
        session, visitor = await self._who(request)
        if visitor is None:
            raise Forbidden("Nobody is signed in any more.")
        self._count(request, visitor)
        path, _, query = request.query_params.get("page", _HOME).partition("?")
        for route, view in self._views:
            matched, found = route.matches({"type": "http", "method": "GET", "path": path})
            if matched is Match.FULL:
                asked = Asked(visitor, found["path_params"], QueryParams(query))
                shown = await view(asked)
                if not self._frame.changes(shown.template):
                    break
                request.scope["answer_begun"] = True  # no other one can be given from here on
                return self._live.stream(view, asked, shown, lambda: self._sessions.visitor(session))
        raise NotFound(f"There is no page at {path} that can be followed.")

    def form(self, path: str, action: Action) -> Route:
        """Return the route of a form of who is signed in; then another page is shown, which tells what was done."""

        async def post(request: Request) -> Response:
            fields, session, visitor = await self._form(request)
            if visitor is None:
                raise Forbidden("Nobody is signed in any more: sign in on the first page, and try again.")
            self._count(request, visitor)
            await self._sessions.check_form(session, fields.get("csrf"))
            return self._redirect(await action(Asked(visitor, request.path_params, request.query_params), fields))

        return Route(path, post, methods=["POST"])

    async def home(self, request: Request) -> Response:
        return self._redirect(_HOME)

    async def sign_in_page(self, request: Request) -> Response:
        session, visitor = await self._who(request)
        to = _own_path(request.query_params.get("next", _HOME))
        if visitor is not None and visitor.signed_in:
            return self._redirect(to)
        if request.headers.get("sec-fetch-site") == "cross-site":
            # A link of another site's page leads here, and so the browser keeps the cookie to itself. The form's own
            # one would take its place, and sign out whoever is signed in: so ask once more, from a page of ours.
            onward, again = f"{_SIGN_IN}?next={quote(to, safe='')}&again=1", "again" in request.query_params
            return self._frame.page(request, "arrived.html", onward=onward, again=again)
        return await self._sign_in_page(request, session, visitor, to)

    async def sign_in(self, request: Request) -> Response:
        form, session, visitor = await self._form(request)
        to = _own_path(form.get("next", _HOME))
        try:
            await self._sessions.check_form(session, form.get("csrf"))
        except Forbidden:
            if visitor is not None and visitor.signed_in:  # in another tab, since this form was shown
                return self._redirect(to)
            raise
        try:
            signed_in = await self._sessions.sign_in(request, form.get("token", ""))
        except RequestError as error:
            return await self._sign_in_page(request, session, visitor, to, without_frames(error))
        response = self._redirect(to)
        await self._sessions.keep(request, response, signed_in)
        return response

    async def sign_out(self, request: Request) -> Response:
        form, session, _ = await self._form(request)
        await self._sessions.check_form(session, form.get("csrf"))
        response = self._redirect(_HOME if self._parts.tokens.open else _SIGN_IN)
        self._sessions.end(request, response, session)
        return response

    async def _sign_in_page(
        self,
        request: Request,
        session: BrowserSession,
        visitor: Visitor | None,
        to: str,
        error: RequestError | None = None,
    ) -> Response:
        response = self._frame.page(
            request,
            "sign_in.html",
            section="sign-in",
            visitor=visitor,
            csrf=await self._sessions.csrf(session),
            to=to,
            error=None if error is None else error.message,
            status=200 if error is None else error.status,
            headers={} if error is None else {k: v for k, v in error.headers.items() if k == "retry-after"},
        )
        if session.old:
            await self._sessions.keep(request, response, session)
        return response

    def _count(self, request: Request, visitor: Visitor) -> None:
        """Count a request as its visitor's, until it is answered. Raises Unavailable."""
        self._parts.requests.begin(visitor.client)
        request.scope["client_name"] = visitor.client

    async def _who(self, request: Request) -> tuple[BrowserSession, Visitor | None]:
        """Return the session of a request, and who it is. Raises Forbidden and Unavailable."""
        if not self._parts.ready():
            raise Unavailable("The gateway is starting.")
        if self._parts.tokens.open:
            self._parts.refuse_foreign(request.method, request.scope["headers"])
        session = await self._sessions.of(request)
        return session, await self._sessions.visitor(session)

    async def looks(self, request: Request) -> Visitor | None:
        """Return who looks at a page that everybody may see; None also where that cannot be told now."""
        if not request.cookies and not self._parts.tokens.open:
            return None
        try:
            return (await self._who(request))[1]
        except (RequestError, StoreError):
            return None

    async def _form(self, request: Request) -> tuple[dict[str, str], BrowserSession, Visitor | None]:
        """Return a form's fields, and who sent it; that it is of one of the session's pages is still to be proved.

        Raises RequestError.
        """
        site = request.headers.get("sec-fetch-site")
        if site is not None and site not in _OWN_SITES:
            raise Forbidden("No form of another site's page is taken.")
        fields = await _fields(request)
        return fields, *await self._who(request)

    def _to_sign_in(self, request: Request) -> Response:
        path = request.scope["path"]
        query = request.scope["query_string"].decode("latin-1")
        back = f"{path}?{query}" if query else path
        return self._redirect(f"{_SIGN_IN}?next={quote(back if len(back) <= _MOST_BACK else _HOME, safe='')}")

    def _redirect(self, path: str) -> Response:
        headers = SECURITY_HEADERS | {"cache-control": "no-store"}
        return RedirectResponse(self._frame.url(path), HTTPStatus.SEE_OTHER, headers)

    def _now(self) -> int:
        return self._parts.clock.now()


class _CountedRequests:
    """Ends the count of each request that was counted, once it is answered, or given up: an ASGI middleware."""

    def __init__(self, app: ASGIApp, requests: ClientRequests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            if "client_name" in scope:
                self._requests.end(scope["client_name"])


class _Errors:
    """Errors as pages."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def handlers(self) -> dict[Any, Any]:
        return {
            RequestError: self._request_error,
            StoreError: self._store_error,
            HTTPException: self._http_exception,
            ClientDisconnect: _client_gone,
            Exception: self._defect,
        }

    def _answer(self, request: Request, error: RequestError) -> Response:
        return self._frame.page(
            request,
            "error.html",
            status=error.status,
            headers=error.headers,
            title=error.title,
            message=error.message,
        )

    async def _request_error(self, request: Request, error: RequestError) -> Response:
        return self._answer(request, without_frames(error))

    async def _store_error(self, request: Request, error: StoreError) -> Response:
        _log.warning("request.store_failed", path=request.scope["path"], error=str(error))
        told = error.message if isinstance(error, StorePartly) else "The database cannot be used at the moment."
        return self._answer(request, Unavailable(told, retry_after_s=5))

    async def _http_exception(self, request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        told = {
            HTTPStatus.NOT_FOUND: f"There is no page at {request.scope['path']}.",
            HTTPStatus.METHOD_NOT_ALLOWED: "A form is sent here, from its page; there is nothing to see.",
        }.get(status, "")
        return self._frame.page(
            request, "error.html", status=status, headers=error.headers, title=status.phrase, message=told
        )

    async def _defect(self, request: Request, error: Exception) -> Response:
        _log.error("request.failed", method=request.method, path=request.scope["path"], exc_info=error)
        return self._answer(request, RequestError("The gateway failed on this page; its log says why."))


def application(parts: PageParts) -> Starlette:
    """Return what serves the pages."""
    frame = Frame(parts.root_path)
    pages, lists, actions, operating = Pages(parts, frame), Lists(parts), Actions(parts), Operating(parts)
    manual = Manual(parts, frame, pages.looks)
    routes: list[BaseRoute] = [
        pages.route("/", Now(parts).show),
        pages.route("/dashboard/callbacks", lists.callbacks),
        pages.route("/dashboard/callbacks/{id}", TimeLine(parts).show),
        Route("/dashboard/live", pages.live),
        pages.form("/dashboard/callbacks/{id}/redeliver", actions.redeliver),
        pages.form("/dashboard/callbacks/{id}/cancel", actions.cancel),
        pages.route("/dashboard/redeliver", actions.ask_redeliver_dead),
        pages.form("/dashboard/redeliver", actions.redeliver_dead),
        pages.route("/dashboard/tasks", lists.tasks),
        pages.route("/dashboard/receivers", operating.receivers),
        pages.form("/dashboard/receivers/pause", actions.pause),
        pages.form("/dashboard/receivers/resume", actions.resume),
        pages.route("/dashboard/upstreams", operating.upstreams),
        pages.route("/dashboard/configuration", operating.configuration),
        *(Route(path, pages.home) for path in ("/dashboard", "/dashboard/")),
        Route(_SIGN_IN, pages.sign_in_page, methods=["GET"]),
        Route(_SIGN_IN, pages.sign_in, methods=["POST"]),
        Route("/dashboard/sign-out", pages.sign_out, methods=["POST"]),
        Route("/dashboard/static/{name}", frame.file),
        *manual.routes(),
    ]
    counted = Middleware(_CountedRequests, requests=parts.requests)
    app = Starlette(routes=routes, middleware=[counted], exception_handlers=_Errors(frame).handlers())
    app.router.redirect_slashes = False
    app.state.memory, app.state.send_large = parts.memory, parts.send_large
    return app


async def _fields(request: Request) -> dict[str, str]:
    """Return the fields of a form, of those with one name the first. Raises RequestError."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise Forbidden("Only a form of the gateway's own pages is taken here.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_FORM:
            raise TooLarge(f"A form may have at most {_MOST_FORM} bytes.")
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Forbidden("This is no form of the gateway's own pages.") from None
    return dict(reversed(pairs))


def _own_path(text: str) -> str:
    """Return where to go on, which is a page of our own: nobody is led elsewhere by what stands in a link."""
    path = text.partition("?")[0]
    mine = path == _HOME or path == "/dashboard" or path.startswith("/dashboard/")
    dotted = not {".", ".."}.isdisjoint(unquote(path).split("/"))  # which a browser resolves
    if not mine or dotted or not text.isascii() or not text.isprintable() or "\\" in text or path.startswith(_SIGN_IN):
        return _HOME
    return text


async def _client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it
