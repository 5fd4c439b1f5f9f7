"""Who is asking: bearer token → client name, for every path that is not public.

Owns the comparison of tokens. An ASGI middleware, so that a route which is added later is closed unless it is listed
here.
"""

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.problems import ErrorAnswers
from gateway.errors import Unauthorized

__all__ = ["DEFAULT_CLIENT", "AuthMiddleware", "client_of"]

DEFAULT_CLIENT = "default"
_PUBLIC = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json"})


def client_of(request: Request) -> str:
    """Return the name of the client that the request's token proved."""
    client: str = request.scope["client_name"]
    return client


class AuthMiddleware:
    """Asks for ``token``, where there is one."""

    def __init__(self, app: ASGIApp, token: str | None, errors: ErrorAnswers) -> None:
        self._app = app
        self._errors = errors
        self._digest = None if token is None else _digest(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _PUBLIC:
            try:
                scope["client_name"] = self._client(Headers(scope=scope).get("authorization"))
            except Unauthorized as error:
                await self._errors.answer(scope["path"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _client(self, authorization: str | None) -> str:
        if self._digest is None:
            return DEFAULT_CLIENT
        if authorization is None:
            raise Unauthorized("Send the gateway's token as `Authorization: Bearer TOKEN`.")
        scheme, _, token = authorization.partition(" ")
        # Digests have one length: the comparison tells nothing about the token's.
        if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(token.strip()), self._digest):
            raise Unauthorized("The token is not one of this gateway's.")
        return DEFAULT_CLIENT


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("latin-1", "replace")).digest()
