"""Keeps foreign web pages out where no token proves who asks: a visitor's browser reaches this machine's loopback too.

Owns which requests a browser may have made for somebody else's page. Called by the token check and the dashboard's
pages, and by nobody where tokens do it: a browser sends none on its own. The simulated upstream and ``gateway listen``
are in ``PagesRefused``.

Three ways in, and what closes each. A page sends a request that needs no leave, and never sees the answer: browsers say
in ``Origin`` or ``Sec-Fetch-Site`` that they do. A page has its own name resolve to this machine, so that all of it is
one origin to the browser: ``Host`` tells that name. A browser that says neither can send a body only as a form or as
text: a body has to call itself JSON, or come with a Bearer token, whatever that is: for either a page must ask leave,
and nobody gives it.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.schema import is_json
from gateway.core.addresses import is_loopback_host
from gateway.core.errors import Forbidden, UnsupportedMediaType

_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]%]*)\]|(?P<name>[^\[\]:]*))(?::[0-9]{0,5})?")
_OWN_SITES = (b"same-origin", b"none")  # none: somebody has typed the address, or has a bookmark
_ADVICE = "Set GATEWAY_TOKEN, and send it, to be served under any name."


def refuse_web_pages(method: str, headers: Iterable[tuple[bytes, bytes]], *, forms: bool = False) -> None:
    """Return where no foreign page can have sent this request. Raises Forbidden and UnsupportedMediaType.

    ``forms`` are taken too: whoever takes them asks each for a proof that its page was the gateway's own.
    """
    hosts: list[bytes] = []
    origin = site = content_type = None
    has_body = has_token = False
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"content-type":
            content_type = value
        elif name == b"content-length":
            has_body = has_body or value.strip(b"0") != b""
        elif name == b"transfer-encoding":
            has_body = True
        elif name == b"origin":
            origin = value
        elif name == b"sec-fetch-site":
            site = value
        elif name == b"authorization":
            # A browser sends Basic on its own, from a URL with a password.
            has_token = value[:7].lower().startswith((b"bearer ", b"token "))
    if len(hosts) != 1 or not _is_loopback(hosts[0]):
        raise Forbidden(f"Without a token only localhost, 127.0.0.1 and [::1] are taken as Host. {_ADVICE}")
    if (site is not None and not _is_own_site(site)) or (origin is not None and not _is_own(origin, hosts[0])):
        raise Forbidden(f"Without a token no request of another site's page is taken. {_ADVICE}")
    if forms:
        return
    if has_body and method == "POST" and not has_token and not is_json((content_type or b"").decode("latin-1")):
        raise UnsupportedMediaType("Send the body as content-type: application/json.")


class PagesRefused:
    """A server that has no pages, and so answers none: whatever a browser says to have sent for one gets 403.

    With every request that may change something a browser sends ``Origin``, whatever name it has found the server by:
    that name is no matter here, and these servers may stand behind a tunnel.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = PlainTextResponse("No web page is answered here.", 403) if _is_of_a_page(scope) else self._app
        await app(scope, receive, send)


def _is_of_a_page(scope: Scope) -> bool:
    headers = scope.get("headers", ())
    return any(name == b"origin" or (name == b"sec-fetch-site" and not _is_own_site(value)) for name, value in headers)


def _is_own_site(site: bytes) -> bool:
    return site.strip().lower() in _OWN_SITES


@lru_cache(maxsize=64)
def _is_loopback(host: bytes) -> bool:
    """Whether a Host header names this machine, and no name that somebody else may have resolve to it."""
    found = _HOST.fullmatch(host.decode("latin-1").strip())
    if found is None:
        return False
    if found["v6"] is not None:
        return ":" in found["v6"] and is_loopback_host(found["v6"])
    return is_loopback_host(found["name"].removesuffix("."))


def _is_own(origin: bytes, host: bytes) -> bool:
    """Whether a page of the gateway's own sent this; TLS may end before the gateway."""
    scheme, _, authority = origin.strip().lower().partition(b"://")
    return scheme in (b"http", b"https") and authority == host.strip().lower()
