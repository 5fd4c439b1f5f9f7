"""Where the upstreams' own calls stand: each upstream's at ``/u/NAME``, the default one's at the root as well.

Owns which upstreams' calls stand together, and whose paths a request's path is among: its errors then have that API's
envelope, and its token may stand where that API's key does. And that a base URL may end with a slash. Called by the
wiring; the table makes the calls.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.proxy import UpstreamProxy
from gateway.config.profile import Profile

OWN = ("/v1/callbacks", "/v1/tasks", "/v1/redeliveries", "/healthz", "/readyz", "/metrics", "/openapi.json")
"""Below these the gateway's own calls stand, whatever paths the default upstream has; its pages come before all."""
_BELOW = "/u/"
_BASE_SLASH = re.compile(rb"(/u/[^/]*)?//+")


class Mount(NamedTuple):
    """Upstreams whose calls stand together."""

    prefix: str
    """What stands before an upstream's own path; the empty text at the root."""
    proxies: Sequence[UpstreamProxy]
    """The mount's own first, then the others with the same base URL: of one path the first counts."""


class Mounts:
    """All mounts of these upstreams; ``root`` is the one that the root paths are for."""

    def __init__(self, proxies: Sequence[UpstreamProxy], root: UpstreamProxy | None) -> None:
        self.all = [Mount(f"{_BELOW}{proxy.name}", _beside(proxy, proxies)) for proxy in proxies]
        self._named = {proxy.name: proxy.profile for proxy in proxies}
        self._root = None if root is None else root.profile
        self._prefixes: tuple[str, ...] = ()
        if root is not None:
            self.all.insert(0, Mount("", _beside(root, proxies)))
            self._prefixes = tuple({_first(path) for proxy in self.all[0].proxies for path in proxy.paths})

    def profile_of(self, path: str) -> Profile | None:
        """Return the API that a path belongs to; None for the gateway's own."""
        if path.startswith(_BELOW):
            return self._named.get(path.split("/", 3)[2])
        return self._root if path.startswith(self._prefixes) and not path.startswith(OWN) else None


class BaseSlash:
    """Takes ``http://gateway/`` and ``http://gateway/u/NAME/``, before a path, as the base URLs without their slash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (doubled := _BASE_SLASH.match(scope["raw_path"])) is not None:
            raw = (doubled[1] or b"") + b"/" + scope["raw_path"][doubled.end() :]
            scope = {**scope, "raw_path": raw, "path": unquote(raw.decode("ascii"))}
        await self._app(scope, receive, send)


def _beside(own: UpstreamProxy, proxies: Sequence[UpstreamProxy]) -> list[UpstreamProxy]:
    return [own, *(other for other in proxies if other is not own and other.base_url == own.base_url)]


def _first(path: str) -> str:
    """Return a path up to its second slash: one next to a call's is a client's mistake about the same API."""
    fixed = path.partition("{")[0]
    end = fixed.find("/", 1)
    return fixed if end < 0 else fixed[: end + 1]
