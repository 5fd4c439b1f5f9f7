"""Bearer token → client, each client's rate and how many it has under way, before anything else sees the request."""

import asyncio
import json
from typing import Any

import pytest

from gateway.api.auth import AuthMiddleware, ClientLimits, Tokens
from gateway.api.problems import ErrorAnswers
from gateway.config.tokens import hash_line, make_token, parse_hashes, token_digest
from gateway.core.clientrequests import ClientRequests
from gateway.core.ratelimit import RateWindow


class SteppedClock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> int:
        return round(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds


_NOBODY = object()


class Asked:
    """The middleware over an app that notes who asked."""

    def __init__(self, clients: dict[str, str], **windows: tuple[RateWindow, ...]) -> None:
        self.clock = SteppedClock()
        digests = {token_digest(token): client for token, client in clients.items()}
        self.tokens, self.limits = Tokens(digests), ClientLimits(windows, self.clock)
        self.requests = ClientRequests(8)
        errors = ErrorAnswers(lambda path: None)
        self.middleware = AuthMiddleware(self.app, self.tokens, self.limits, self.requests, errors)
        self.seen: Any = _NOBODY
        self.answered = asyncio.Event()
        self.answered.set()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen = scope.get("client_name", "nobody asked")
        await self.answered.wait()

    async def ask(self, authorization: str | None, path: str = "/v1/callbacks") -> Any:
        """Return the client's name that the app saw, else status, headers and problem of the refusal."""
        headers = [(b"host", b"localhost")]
        if authorization is not None:
            headers.append((b"authorization", authorization.encode("latin-1")))
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        self.seen = _NOBODY
        scope = {"type": "http", "path": path, "method": "GET", "headers": headers, "query_string": b""}
        await self.middleware(scope, None, send)  # type: ignore[arg-type]
        if self.seen is not _NOBODY:
            return self.seen
        return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])


async def test_each_token_is_its_clients() -> None:
    """Whoever sends a token is its client; a client may have several."""
    asked = Asked({"gwt_a": "shop", "gwt_b": "shop", "gwt_c": "studio", "own": "default"})
    assert [await asked.ask(f"Bearer {token}") for token in ("gwt_a", "gwt_b", "gwt_c", "own")] == [
        *("shop", "shop", "studio", "default")
    ]
    assert await asked.ask("bearer  gwt_a ") == "shop", "RFC 9110: the scheme's case does not matter"


@pytest.mark.parametrize(
    "authorization",
    [
        *(None, "", "gwt_a", "Bearer", "Bearer ", "Bearer gwt_", "Bearer gwt_aa", "Basic gwt_a", "Bearer gwt_a gwt_b"),
        *("Bearer \xff\xfe", f"Bearer {hash_line('gwt_a')}", f"Bearer {token_digest('gwt_a').hex()}"),
        "Bearer GWT_A",
    ],
)
async def test_anything_else_is_401(authorization: str | None) -> None:
    """No token, another scheme, a part of a token or its hash: refused, before the route is looked at."""
    asked = Asked({"gwt_a": "shop", "gwt_b": "studio"})
    status, headers, problem = await asked.ask(authorization)
    assert (status, problem["code"], headers[b"www-authenticate"]) == (401, "unauthorized", b"Bearer")
    assert "gwt_" not in json.dumps(problem)


async def test_with_no_token_at_all_everybody_is_the_default_client() -> None:
    """What is sent does not matter then; with any client configured, nobody is the default one without its token."""
    assert await Asked({}).ask(None) == await Asked({}).ask("Bearer any") == "default"
    assert (await Asked({"gwt_a": "shop"}).ask(None))[0] == 401


async def test_public_paths_ask_nobody() -> None:
    """Probes and metrics need no token and count against no rate."""
    asked = Asked({"gwt_a": "shop"}, default=(RateWindow(1, 1.0),))
    for _ in range(3):
        assert await asked.ask(None, "/healthz") == "nobody asked"


async def test_a_client_that_is_too_fast_gets_429() -> None:
    """Every window holds; Retry-After says when it goes on, and refused requests do not count."""
    asked = Asked({"a": "shop", "b": "studio"}, shop=(RateWindow(2, 1.0), RateWindow(3, 60.0)))
    assert await asked.ask("Bearer a") == await asked.ask("Bearer a") == "shop"
    for _ in range(3):
        status, headers, problem = await asked.ask("Bearer a")
        assert (status, problem["code"], headers[b"retry-after"]) == (429, "rate_limited", b"1")
    assert await asked.ask("Bearer b") == "studio", "the rate is each client's own"
    asked.clock.seconds += 1
    assert await asked.ask("Bearer a") == "shop"
    status, headers, _ = await asked.ask("Bearer a", "/api/v1/jobs/recordInfo")
    assert (status, headers[b"retry-after"]) == (429, b"59")
    asked.clock.seconds += 59
    assert await asked.ask("Bearer a") == "shop"


async def test_without_a_rate_there_is_no_limit() -> None:
    """A client is limited only where its table says so."""
    asked = Asked({"a": "shop"}, studio=(RateWindow(1, 60.0),))
    assert {await asked.ask("Bearer a") for _ in range(100)} == {"shop"}


async def test_a_wrong_token_costs_nobody_anything() -> None:
    """Guessing does not use up a client's rate."""
    asked = Asked({"a": "shop"}, shop=(RateWindow(1, 60.0),))
    for _ in range(5):
        assert (await asked.ask("Bearer x"))[0] == 401
    assert await asked.ask("Bearer a") == "shop"


def test_tokens_that_are_made() -> None:
    """Each is new, fits into a header, and its hash is read back as its digest, upper case or lower."""
    first, second = make_token(), make_token()
    assert first != second
    assert len(first) > 40
    assert first.isascii()
    assert first.isprintable()
    assert parse_hashes(f"{hash_line(first)}\n{hash_line(second)}") == (token_digest(first), token_digest(second))
    upper = "sha256:" + token_digest(first).hex().upper()
    assert parse_hashes(upper) == (token_digest(first),)


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "a" * 63, "md5:" + "a" * 64, "sha256:" + "g" * 64])
def test_what_is_no_hash(text: str) -> None:
    """It is refused with the command that makes one."""
    with pytest.raises(ValueError, match="make-secret --token"):
        parse_hashes(text)


async def test_other_tokens_and_rates_take_the_place_of_these() -> None:
    """From the next request on; a client whose rate is what it was keeps its count."""
    window = (RateWindow(1, 60.0),)
    asked = Asked({"a": "shop", "b": "inn"}, shop=window, inn=window)
    assert [await asked.ask(f"Bearer {token}") for token in ("a", "b")] == ["shop", "inn"]
    asked.tokens.replace({token_digest("a2"): "shop", token_digest("b"): "inn"}, token_digest("o"))
    asked.limits.replace({"shop": window, "inn": (RateWindow(2, 60.0),)})
    assert (await asked.ask("Bearer a"))[0] == 401
    assert (await asked.ask("Bearer a2"))[0] == 429
    assert await asked.ask("Bearer b") == "inn"
    assert await asked.ask("Bearer o") is None


async def test_the_operator_has_no_rate_and_no_name() -> None:
    """Its token is known beside the clients', and where there is none of those."""
    for clients in ({}, {"a": "shop"}):
        asked = Asked(clients, default=(RateWindow(1, 60.0),))
        asked.tokens.replace({token_digest(token): client for token, client in clients.items()}, token_digest("o"))
        assert [await asked.ask("Bearer o") for _ in range(3)] == [None] * 3


async def test_a_client_that_has_too_many_under_way_gets_503() -> None:
    """With Retry-After, and nothing is begun; others, the operator and public paths are answered."""
    asked = Asked({"a": "shop", "b": "inn"})
    asked.tokens.replace({token_digest("a"): "shop", token_digest("b"): "inn"}, token_digest("o"))
    asked.answered.clear()
    held = [asyncio.create_task(asked.ask("Bearer a")) for _ in range(7)]
    await asyncio.sleep(0)
    status, headers, problem = await asked.ask("Bearer a")
    assert (status, problem["code"], headers[b"retry-after"]) == (503, "unavailable", b"1")
    assert "7 requests under way" in problem["detail"]
    others = [asyncio.create_task(asked.ask(*which)) for which in ((None, "/healthz"), ("Bearer b",))]
    await asyncio.sleep(0)
    asked.answered.set()
    await asyncio.gather(*held, *others)
    assert [await asked.ask(f"Bearer {token}") for token in ("a", "b", "o")] == ["shop", "inn", None]
    assert not asked.requests._of


async def test_however_a_request_ends_it_is_under_way_no_more() -> None:
    """Be it refused, a defect, or given up by its client; nor does a public one or one of nobody's count."""
    asked = Asked({"a": "shop"}, shop=(RateWindow(1, 60.0),))
    asked.answered.clear()
    given_up = asyncio.create_task(asked.ask("Bearer a"))
    await asyncio.sleep(0)
    assert asked.requests._of == {"shop": 1}
    for authorization, path in (("Bearer a", "/v1/callbacks"), ("Bearer x", "/v1/callbacks")):
        assert (await asked.ask(authorization, path))[0] in (429, 401)
    given_up.cancel()
    await asyncio.wait([given_up])
    assert not asked.requests._of

    async def defect(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    asked.limits.replace({})
    asked.middleware._app = defect
    with pytest.raises(ZeroDivisionError):
        await asked.ask("Bearer a")
    assert not asked.requests._of
    assert not asked.requests._count
