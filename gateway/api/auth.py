"""Who is asking, and how often: bearer token → client name, or the operator, for every path that is not public.

Owns the comparison of tokens, and the count of each client's requests, by time and of those under way: in memory, as it
protects this process, nothing that anyone pays for. Where no token is asked for, ``webpages`` judges who may be asking,
on public paths too. An ASGI middleware, so that a route which is added later is closed unless it is listed here.
"""

import hmac
import math
from collections.abc import Iterator, Mapping, Sequence

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.problems import ErrorAnswers
from gateway.api.schema import header_of
from gateway.api.webpages import refuse_web_pages
from gateway.config.settings import DEFAULT_CLIENT
from gateway.config.tokens import token_digest
from gateway.core.clientrequests import ClientRequests
from gateway.core.clock import Clock
from gateway.core.errors import Forbidden, RateLimited, RequestError, Unauthorized
from gateway.core.ratelimit import RateLimiter, RateWindow

PUBLIC = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})
"""What needs no token, and so shows no URL, task or secret."""
_ONCE_BEARER = "token"
"""The scheme of Replicate's older pages and programs, which it takes as Bearer."""


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

    def digests(self) -> Iterator[tuple[bytes, str | None]]:
        """Yield each token's digest and whose it is, None being the operator."""
        if self._operator is not None:
            yield self._operator, None
        yield from self._clients.items()

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


class ClientLimits:
    """One limiter for each client that has ``windows``; the others are not limited."""

    def __init__(self, windows: Mapping[str, Sequence[RateWindow]], clock: Clock) -> None:
        self._windows: Mapping[str, Sequence[RateWindow]] = {}
        self._limiters: dict[str, RateLimiter] = {}
        self._clock = clock
        self.replace(windows)

    def replace(self, windows: Mapping[str, Sequence[RateWindow]]) -> None:
        """Take others from now on; who keeps its windows keeps its count."""
        self._limiters = {
            client: self._limiters[client] if self._windows.get(client) == its else RateLimiter(its)
            for client, its in windows.items()
        }
        self._windows = dict(windows)

    def count(self, client: str) -> None:
        """Count one request; raise RateLimited, and count nothing, where there is no room for it."""
        limiter = self._limiters.get(client)
        if limiter is None:
            return
        now = self._clock.monotonic()
        if limiter.available(now) <= 0:
            at = limiter.next_available(now)
            wait_s = 1.0 if at is None else at - now  # None cannot be: nothing is ever in flight
            retry_after_s = max(1, math.ceil(wait_s))
            raise RateLimited(
                f"This client has used up its rate; try again in {retry_after_s} s.", retry_after_s=retry_after_s
            )
        # A request counts when it comes, however long it is held.
        limiter.start()
        limiter.end(now)


class AuthMiddleware:
    """Asks for one of the tokens."""

    def __init__(
        self, app: ASGIApp, tokens: Tokens, limits: ClientLimits, requests: ClientRequests, errors: ErrorAnswers
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._limits = limits
        self._requests = requests
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            is_counted = self._admit(scope)
        except RequestError as error:
            await self._errors.answer(scope["path"], error)(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            if is_counted:
                self._requests.end(scope["client_name"])

    def _admit(self, scope: Scope) -> bool:
        """Note whose request it is; return whether it is counted as that one's. Raises RequestError."""
        if scope["path"] in PUBLIC:
            if self._tokens.open:
                refuse_web_pages(scope["method"], scope["headers"])
            return False
        client = self._tokens.owner(self._authorization(scope))
        if client is not None:
            if self._tokens.open:  # the operator's token proves itself
                refuse_web_pages(scope["method"], scope["headers"])
            self._limits.count(client)
        self._requests.begin(client)
        scope["client_name"] = client
        return True

    def _authorization(self, scope: Scope) -> str | None:
        """Return what the Authorization header says; below an API's paths what stands where its own key would."""
        if (profile := self._errors.profile_of(scope["path"])) is not None:
            headers, asked = Headers(scope=scope), profile.request
            given = headers.get(asked.auth_header)
            if given is not None and given.lower().startswith(asked.auth_prefix.lower()):
                token = given[len(asked.auth_prefix) :]
                return token if token.lower().startswith("bearer ") else f"Bearer {token}"
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() == _ONCE_BEARER:
                return f"Bearer {token}"
        return header_of(scope, b"authorization")
