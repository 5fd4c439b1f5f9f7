"""The manual's routes: its pages, its pictures, its search. They need neither token nor database.

Owns that nothing of it is read before somebody asks, and that a page is made once. Called by ``application``.
"""

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gateway.core.errors import Forbidden
from gateway.dashboard.asked import text_of
from gateway.dashboard.frame import SECURITY_HEADERS, Frame
from gateway.dashboard.parts import PageParts
from gateway.dashboard.session import Visitor, is_secure

if TYPE_CHECKING:
    from gateway.dashboard.manual.book import Book
    from gateway.dashboard.manual.markdown import ManualPage
    from gateway.dashboard.manual.search import ManualSearch

_BASE = "/manual"
_CALLS = "calls"
_HERE = "http://127.0.0.1:8080"
"""Where the gateway stands in examples, until somebody asks who has found it elsewhere."""
_HOST = re.compile(r"([A-Za-z0-9.-]{1,255}|\[[0-9A-Fa-f:.]{1,64}\])(:[0-9]{1,5})?")
_KEPT = {"cache-control": "public, max-age=3600"}

Looks = Callable[[Request], Awaitable[Visitor | None]]
"""Tells who looks at a page, where that can be told."""


class Manual:
    """The pages of the manual."""

    def __init__(self, parts: PageParts, frame: Frame, looks: Looks) -> None:
        self._parts = parts
        self._frame = frame
        self._looks = looks
        self._calls = cache(self._read_calls)
        self._calls_shown: dict[bool, bytes] = {}
        """To whoever is not known, by whether a token is asked for: the largest page that needs none, which took a
        millisecond to write."""
        self._reading = threading.Lock()

    def routes(self) -> list[Route]:
        return [
            Route(_BASE, self._index),
            Route(f"{_BASE}/", self._to_index),
            Route(f"{_BASE}/index", self._to_index),
            Route(f"{_BASE}/search", self._find),
            Route(f"{_BASE}/{_CALLS}", self._all_calls),
            Route(f"{_BASE}/{{name:path}}", self._page),
        ]

    @cached_property
    def _book(self) -> "Book":
        from gateway.dashboard.manual.book import Book  # here: few gateways are ever asked

        return Book(self._frame.url(_BASE))

    @cached_property
    def _search(self) -> "ManualSearch":
        from gateway.dashboard.manual.search import ManualSearch

        return ManualSearch({**self._book.pages, _CALLS: self._calls_once(token=False)})

    async def _index(self, request: Request) -> Response:
        return await self._shown(request, "index")

    async def _page(self, request: Request) -> Response:
        name = request.path_params["name"]
        if "." in name and (file := (await asyncio.to_thread(lambda: self._book.files)).get(name)) is not None:
            return Response(file.content, 200, SECURITY_HEADERS | _KEPT, file.media_type)
        return await self._shown(request, name)

    async def _shown(self, request: Request, name: str) -> Response:
        pages = await asyncio.to_thread(lambda: self._book.pages)
        if name not in pages:
            raise HTTPException(404)
        context = {"page": pages[name], "around": self._book.neighbours(name), "text": ""}
        return await self._framed(request, "manual.html", context)

    async def _all_calls(self, request: Request) -> Response:
        self._refuse_foreign(request)
        return await self._parts.made_with_room(request, partial(self._calls_page, request))

    async def _calls_page(self, request: Request) -> Response:
        visitor, token = await self._looks(request), not self._parts.tokens.open
        if visitor is not None or token not in self._calls_shown:
            page = await asyncio.to_thread(self._calls_once, token=token)
        if visitor is None and token in self._calls_shown:  # by now: of many who ask first one has it made
            body = self._calls_shown[token]
        else:
            context = {"page": page, "around": None, "text": ""}
            body = bytes(self._shown_to(request, visitor, "manual.html", context).body)
        if visitor is None:
            self._calls_shown[token] = body
        if _HOST.fullmatch(host := request.headers.get("host", "")):
            base = f"{'https' if is_secure(request) else 'http'}://{host}"
            body = body.replace(_HERE.encode(), base.encode())
        return self._frame.made(body)

    def _refuse_foreign(self, request: Request) -> None:
        """Raise Forbidden where ``/openapi.json`` does: the page of all calls tells the same."""
        if self._parts.tokens.open:
            self._parts.refuse_foreign(request.method, request.scope["headers"])

    def _calls_once(self, *, token: bool) -> "ManualPage":
        """Return the page of all calls: many who ask first, at once, wait for one that makes it."""
        with self._reading:
            return self._calls(token=token)

    def _read_calls(self, *, token: bool) -> "ManualPage":
        from gateway.dashboard.manual.calls import calls_text
        from gateway.dashboard.manual.markdown import read_page

        text = calls_text(self._parts.description(), f"{_HERE}{self._frame.root_path}", token=token)
        return read_page(_CALLS, text, self._book.where)

    async def _find(self, request: Request) -> Response:
        text = text_of(request.query_params, "q") or ""
        hits = await asyncio.to_thread(lambda: self._search.find(text))
        try:
            self._refuse_foreign(request)
        except Forbidden:
            hits = [hit for hit in hits if hit.page != _CALLS]
        return await self._framed(request, "manual_search.html", {"hits": hits, "text": text})

    async def _to_index(self, request: Request) -> Response:
        return RedirectResponse(self._frame.url(_BASE), 308, SECURITY_HEADERS)

    async def _framed(self, request: Request, template: str, context: dict[str, Any]) -> Response:
        return self._shown_to(request, await self._looks(request), template, context)

    def _shown_to(self, request: Request, visitor: Visitor | None, template: str, context: dict[str, Any]) -> Response:
        return self._frame.page(request, template, section="manual", visitor=visitor, **context)
