"""Who looks at the pages: a signed cookie in the place of a token, and proof that a form came from a page of ours.

Owns the sessions. One is a random name and, once somebody has signed in, the mark of that token: so a session ends
when its token is rotated away, on every replica, and no token or hash of one stands in a cookie. Where no token is
asked for a session has no mark, and proves only that forms come from these pages. That somebody has signed out this
process alone knows, until it ends: a cookie that was copied before is no good here. Called by the pages.
"""

import hashlib
import hmac
import math
import secrets
from collections import OrderedDict
from typing import NamedTuple

from itsdangerous import BadData, Signer, TimestampSigner, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import Response

from gateway.config.settings import DEFAULT_CLIENT
from gateway.config.tokens import token_digest
from gateway.core.clock import Clock
from gateway.core.errors import Forbidden, RateLimited, Unauthorized, without_frames
from gateway.core.ratelimit import RateLimiter, RateWindow
from gateway.dashboard.parts import PageParts
from gateway.store import Registry

_LASTS_S = 12 * 3600
_RENEWED_S = 3600
"""A session that is used is given a new cookie after so long."""
_WRONG = (RateWindow(limit=10, window_s=60),)
"""So many wrong tokens one address may try."""
_ADDRESSES = 1000
_SIGNED_OUT = 10_000
"""So many sessions that were signed out of are remembered."""
_NO_MARK = ""


class BrowserSession(NamedTuple):
    """What a cookie says."""

    name: str
    mark: str
    """Of the token that has signed in; empty: none has."""
    old: bool
    """Whether the cookie is to be given anew."""


class Visitor(NamedTuple):
    """Who looks at a page."""

    session: BrowserSession
    client: str | None
    """Whose callbacks are shown; None: everybody's, as it is the operator."""
    csrf: str
    """What a form of this session must send."""
    sees_all: bool
    """Whether it is shown what is nobody's own: the operator, and everybody where no token is asked for."""

    @property
    def signed_in(self) -> bool:
        return self.session.mark != _NO_MARK

    @property
    def name(self) -> str:
        return "operator" if self.client is None else self.client


class Sessions:
    """The sessions of one gateway."""

    def __init__(self, parts: PageParts) -> None:
        self._registry: Registry = parts.registry
        self._clock: Clock = parts.clock
        self._tokens = parts.tokens
        self._root_path = parts.root_path
        self._key: bytes | None = None
        self._wrong: OrderedDict[str, RateLimiter] = OrderedDict()
        self._signed_out: OrderedDict[str, None] = OrderedDict()

    async def of(self, request: Request) -> BrowserSession:
        """Return the session that a request's cookie proves, or a new one."""
        text = request.cookies.get(_cookie_name(request))
        if text is not None and len(text) < 1024:
            try:
                (name, mark), made = (await self._cookies()).loads(text, max_age=_LASTS_S, return_timestamp=True)
            except (BadData, ValueError, TypeError) as error:
                without_frames(error)  # one of them keeps it
            else:
                return BrowserSession(str(name), str(mark), self._clock.now() / 1000 - made.timestamp() > _RENEWED_S)
        return BrowserSession(secrets.token_urlsafe(16), _NO_MARK, old=True)

    async def visitor(self, session: BrowserSession) -> Visitor | None:
        """Return who it is; None for somebody who must sign in, as the token's time is over too."""
        csrf = await self.csrf(session)
        if session.mark != _NO_MARK and session.name not in self._signed_out:
            key = await self._secret()
            for digest, client in self._tokens.digests():
                if hmac.compare_digest(_mark(key, digest), session.mark):
                    return Visitor(session, client, csrf, client is None or self._tokens.open)
        if self._tokens.open:
            return Visitor(session._replace(mark=_NO_MARK), DEFAULT_CLIENT, csrf, sees_all=True)
        return None

    async def sign_in(self, request: Request, token: str) -> BrowserSession:
        """Return a new session for a token. Raises Unauthorized, and RateLimited for who has tried too many."""
        limiter = self._limiter(_address(request))
        now = self._clock.monotonic()
        if limiter.available(now) <= 0:
            at = limiter.next_available(now)
            wait_s = max(1, math.ceil((now if at is None else at) - now))
            raise RateLimited(f"Too many wrong tokens; try again in {wait_s} s.", retry_after_s=wait_s)
        digest = token_digest(token.strip())
        found = None
        for known, _ in self._tokens.digests():  # every one, in constant time
            if hmac.compare_digest(digest, known):
                found = known
        if found is None:
            limiter.start()
            limiter.end(now)
            raise Unauthorized("The token is not one of this gateway's.")
        return BrowserSession(secrets.token_urlsafe(16), _mark(await self._secret(), found), old=True)

    async def check_form(self, session: BrowserSession, csrf: str | None) -> None:
        """Return where a form was one of this session's pages. Raises Forbidden."""
        if csrf is None or not hmac.compare_digest(csrf.encode(), (await self.csrf(session)).encode()):
            raise Forbidden("This form is too old, or was not one of the gateway's: load the page again.")

    async def keep(self, request: Request, response: Response, session: BrowserSession) -> None:
        """Have the browser keep a session."""
        text = (await self._cookies()).dumps([session.name, session.mark])
        value = text if isinstance(text, str) else text.decode()
        self._set(request, response, value, _LASTS_S)

    def end(self, request: Request, response: Response, session: BrowserSession) -> None:
        """Have the browser forget its session, and know no copy of it; what it follows ends."""
        if session.mark != _NO_MARK:  # of others, who need no token, any number could be made
            self._signed_out[session.name] = None
            if len(self._signed_out) > _SIGNED_OUT:
                self._signed_out.popitem(last=False)
        self._set(request, response, "", 0)

    def _set(self, request: Request, response: Response, value: str, lasts_s: int) -> None:
        secure = is_secure(request)
        # A cookie named __Host- is for the whole host, and browsers take it from no other name or without TLS.
        path = "/" if secure else self._root_path or "/"
        response.set_cookie(
            _cookie_name(request), value, max_age=lasts_s, path=path, secure=secure, httponly=True, samesite="strict"
        )

    def _limiter(self, address: str) -> RateLimiter:
        limiter = self._wrong.pop(address, None) or RateLimiter(_WRONG)
        self._wrong[address] = limiter
        if len(self._wrong) > _ADDRESSES:
            self._wrong.popitem(last=False)
        return limiter

    async def _secret(self) -> bytes:
        if self._key is None:
            self._key = await self._registry.secret_key()
        return self._key

    async def csrf(self, session: BrowserSession) -> str:
        """Return what a form of this session must send."""
        # itsdangerous' defaults are SHA-1 and a plain concatenation: name better ones, here and below.
        signer = Signer(
            await self._secret(), salt="dashboard-form", digest_method=hashlib.sha256, key_derivation="hmac"
        )
        return signer.get_signature(f"{session.name} {session.mark}").decode()

    async def _cookies(self) -> URLSafeTimedSerializer:
        clock = self._clock

        class ByClock(TimestampSigner):
            def get_timestamp(self) -> int:
                return clock.now() // 1000

        return URLSafeTimedSerializer(
            await self._secret(),
            salt="dashboard-session",
            signer=ByClock,
            signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
        )


def _mark(key: bytes, digest: bytes) -> str:
    """Return what stands for a token in a cookie: nobody can try tokens by it."""
    return hmac.new(key, b"dashboard-mark" + digest, hashlib.sha256).hexdigest()


def _address(request: Request) -> str:
    """Return where a request came from: behind a proxy what that has added, else all would share the proxy's.

    Without a proxy anybody can name another; but then tokens can be tried at the API as well, where nothing limits it.
    """
    peer = request.client.host if request.client else ""
    told = request.headers.getlist("x-forwarded-for")
    return f"{peer} {told[-1].rpartition(',')[2].strip()[:64]}" if told else peer


def is_secure(request: Request) -> bool:
    """Whether the browser came by TLS, which may end before the gateway. Who lies about it harms only himself."""
    told = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return (told or request.url.scheme) == "https"


def _cookie_name(request: Request) -> str:
    return "__Host-gateway-session" if is_secure(request) else "gateway-session"
