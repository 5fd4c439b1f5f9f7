"""The frame of every page: templates, the headers that keep a page to itself, and what its own files are called.

Owns that nothing which somebody else wrote becomes markup, script, style or a link elsewhere: texts are escaped, links
pass ``web_link``, and a browser is told to take nothing from anywhere but here. Must not know what a page shows.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway.core.memory import SMALL
from gateway.dashboard.meanings import meaning
from gateway.dashboard.words import FILTERS

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": _POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_PRIVATE = {"cache-control": "no-store"}
_MOST_LINK = 8192
_REGION = "live"
"""The block of a template, and the element of a page, that follows what happens."""


class Frame:
    """Makes pages; ``root_path`` stands before every path of their links."""

    def __init__(self, root_path: str) -> None:
        self.root_path = root_path
        self._files = {path.name: _OwnFile(path) for path in (_HERE / "static").iterdir() if path.suffix in _TYPES}
        self._env = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
            auto_reload=False,
        )
        self._env.filters |= {**FILTERS, "web_link": web_link, "meaning": meaning}
        self._env.globals |= {"url": self.url, "static": self.static, "version": __version__}
        for name in self._env.list_templates(["html"]):
            self._env.get_template(name)  # made now, in a thread, and not while somebody waits

    def url(self, path: str) -> str:
        """Return one of the gateway's own paths as a browser must ask for it."""
        return f"{self.root_path}{path}"

    def static(self, name: str) -> str:
        """Return where one of the pages' own files is: another place once it holds something else."""
        return self.url(f"/dashboard/static/{name}?{self._files[name].digest}")

    async def file(self, request: Request) -> Response:
        """Answer with one of the pages' own files."""
        found = self._files.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        headers = SECURITY_HEADERS | {"cache-control": "public, max-age=31536000, immutable", "etag": found.etag}
        if request.headers.get("if-none-match") == found.etag:
            return Response(status_code=304, headers=headers)
        return Response(found.content, 200, headers, found.media_type)

    def page(
        self,
        request: Request,
        template: str,
        *,
        section: str = "",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **context: Any,
    ) -> Response:
        """Return a page; ``section`` is the part of the navigation that it belongs to."""
        about = {"section": section, "path": request.scope["path"], **context}
        return self.made(self._env.get_template(template).render(about), status, headers)

    def made(self, body: str | bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """Return a page whose text is there already."""
        return _Page(body, status, SECURITY_HEADERS | _PRIVATE | dict(headers or {}), "text/html; charset=utf-8")

    def changes(self, template: str) -> bool:
        """Whether a page has a part that follows what happens."""
        return _REGION in self._env.get_template(template).blocks

    def region(self, template: str, **context: Any) -> str:
        """Return the part of a page that follows what happens."""
        found = self._env.get_template(template)
        return "".join(found.blocks[_REGION](found.new_context(context)))


class _Page(Response):
    """A page, of which a large one is sent in the way that the application has for what is large."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) > SMALL:
            await scope["app"].state.send_large(self, scope, send)
        else:
            await super().__call__(scope, receive, send)


class _OwnFile:
    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()
        self.media_type = _TYPES[path.suffix]
        self.digest = hashlib.sha256(self.content).hexdigest()[:12]
        self.etag = f'"{self.digest}"'


def web_link(text: object) -> str | None:
    """Return a URL that may be followed from a page, None for whatever else it is: another scheme, or no URL."""
    if not isinstance(text, str) or len(text) > _MOST_LINK or not text.isascii() or not text.isprintable():
        return None
    if any(character in text for character in " \\\"'<>"):
        return None
    try:
        parts = urlsplit(text)
        named = bool(parts.hostname)
    except ValueError:
        return None
    return (
        text if named and parts.scheme in ("http", "https") and text.lower().startswith(f"{parts.scheme}://") else None
    )
