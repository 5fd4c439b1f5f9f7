"""Which paths are pages, and the application that serves them, made at the first of them.

Owns that a gateway at whose pages nobody looks has neither read nor made anything for them: templates and what reads
them take 60 ms and some megabytes. Called by ``gateway.app`` before the API's token check: pages have their own.
"""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.dashboard.parts import PageParts

_PAGES = ("/", "/dashboard", "/manual")
_BELOW = ("/dashboard/", "/manual/")


class Site:
    """The pages, as an ASGI application."""

    def __init__(self, parts: PageParts) -> None:
        self._parts = parts
        self._making: asyncio.Task[ASGIApp] | None = None

    def has(self, path: str) -> bool:
        """Whether a path is a page's, or of what pages consist of."""
        return path in _PAGES or path.startswith(_BELOW)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._making is None or (self._making.done() and self._making.exception() is not None):
            self._making = asyncio.create_task(asyncio.to_thread(_make, self._parts), name="pages")
        app = await asyncio.shield(self._making)
        await app(scope, receive, send)


def _make(parts: PageParts) -> ASGIApp:
    from gateway.dashboard.application import application  # here: see above

    return application(parts)
