"""Who is asking: bearer token → client name, or the operator, for every path that is not public.

Owns the comparison of tokens, and that a client's rate is counted; the operator has none. Where no token is asked for,
``webpages`` judges who may be asking, on public paths too. An ASGI middleware, so that a route which is added later is
closed unless it is listed here.
"""

import hmac
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.limits import ClientLimits
from gateway.api.problems import ErrorAnswers
from gateway.api.webpages import refuse_web_pages
from gateway.config.settings import DEFAULT_CLIENT
from gateway.config.tokens import token_digest
from gateway.core.errors import Forbidden, RequestError, Unauthorized

__all__ = ["PUBLIC", "AuthMiddleware", "Tokens", "client_of", "scope_of"]

PUBLIC = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json"})
"""What needs no token, and so shows no URL, task or secret."""


def client_of(request: Request) -> str:
    """Return the name of the client that the request's token proved. Raises Forbidden for the operator's."""
    client = scope_of(request)
    if client is None:
        raise Forbidden("The operator's token reads, redelivers and cancels; send a client's for this.")
    return client


def scope_of(request: Request) -> str | None:
    """Return whose callbacks the request's token is for: one client's, or None, which is all of them."""
    client: str | None = request.scope["client_name"]
    return client


class Tokens:
    """Each token's digest and its client; where there is none all are the default. And the operator's digest."""

    def __init__(self, clients: Mapping[bytes, str], operator: bytes | None = None) -> None:
        self.replace(clients, operator)

    def replace(self, clients: Mapping[bytes, str], operator: bytes | None) -> None:
        """Take others in the place of these."""
        self._clients = dict(clients)
        self._operator = operator

    @property
    def open(self) -> bool:
        """Whether anybody may call, as no client has a token."""
        return not self._clients

    def owner(self, authorization: str | None) -> str | None:
        """Return whose the token of an Authorization header is, None for the operator. Raises Unauthorized."""
        scheme, _, token = (authorization or "").partition(" ")
        digest = token_digest(token.strip()) if scheme.lower() == "bearer" else b""
        if self._operator is not None and hmac.compare_digest(digest, self._operator):
            return None
        if not self._clients:
            return DEFAULT_CLIENT
        if authorization is None:
            raise Unauthorized("Send the gateway's token as `Authorization: Bearer TOKEN`.")
        found = None
        # Every one of them, in constant time: how long it takes tells neither a token's digest nor whose it is.
        for known, client in self._clients.items():
            if hmac.compare_digest(digest, known):
                found = client
        if found is None:
            raise Unauthorized("The token is not one of this gateway's.")
        return found


class AuthMiddleware:
    """Asks for one of the tokens."""

    def __init__(self, app: ASGIApp, tokens: Tokens, limits: ClientLimits, errors: ErrorAnswers) -> None:
        self._app = app
        self._tokens = tokens
        self._limits = limits
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._admit(scope)
            except RequestError as error:
                await self._errors.answer(scope["path"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Note whose request it is. Raises RequestError."""
        if scope["path"] in PUBLIC:
            if self._tokens.open:
                refuse_web_pages(scope["method"], scope["headers"])
            return
        client = self._tokens.owner(Headers(scope=scope).get("authorization"))
        if client is not None:
            if self._tokens.open:  # the operator's token proves itself
                refuse_web_pages(scope["method"], scope["headers"])
            self._limits.count(client)
        scope["client_name"] = client
