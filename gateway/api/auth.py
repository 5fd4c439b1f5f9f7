"""Who is asking: bearer token → client name, for every path that is not public.

Owns the comparison of tokens, and that a client's rate is counted. An ASGI middleware, so that a route which is added
later is closed unless it is listed here.
"""

import hmac
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.limits import ClientLimits
from gateway.api.problems import ErrorAnswers
from gateway.config import DEFAULT_CLIENT
from gateway.errors import RequestError, Unauthorized
from gateway.tokens import token_digest

__all__ = ["PUBLIC", "AuthMiddleware", "client_of"]

PUBLIC = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json"})
"""What needs no token, and so shows no URL, task or secret."""


def client_of(request: Request) -> str:
    """Return the name of the client that the request's token proved."""
    client: str = request.scope["client_name"]
    return client


class AuthMiddleware:
    """Asks for a token; ``clients`` has each token's digest and its client. Where it is empty all are the default."""

    def __init__(self, app: ASGIApp, clients: Mapping[bytes, str], limits: ClientLimits, errors: ErrorAnswers) -> None:
        self._app = app
        self._clients = dict(clients)
        self._limits = limits
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC:
            try:
                client = self._client(scope)
                self._limits.count(client)
            except RequestError as error:
                await self._errors.answer(scope["path"], error)(scope, receive, send)
                return
            scope["client_name"] = client
        await self._app(scope, receive, send)

    def _client(self, scope: Scope) -> str:
        if not self._clients:
            return DEFAULT_CLIENT
        authorization = Headers(scope=scope).get("authorization")
        if authorization is None:
            raise Unauthorized("Send the gateway's token as `Authorization: Bearer TOKEN`.")
        scheme, _, token = authorization.partition(" ")
        found = None
        if scheme.lower() == "bearer":
            digest = token_digest(token.strip())
            # Every one of them, in constant time: how long it takes tells neither a token's digest nor whose it is.
            for known, client in self._clients.items():
                if hmac.compare_digest(digest, known):
                    found = client
        if found is None:
            raise Unauthorized("The token is not one of this gateway's.")
        return found
