"""What a client's request to the upstream takes, whichever call it is: its turn, its count, and what is passed on.

Owns that whoever waits for the rate limit is told when to come again, and which of an answer's headers clients see.
Must not know the calls: ``reading``, ``creating`` and ``passing`` have one each, and ``proxy`` puts them together.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.proxied import Proxied
from gateway.core.errors import (
    InvalidRequest,
    NotFound,
    RateLimited,
    RequestError,
    StoreError,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.upstream.api import Answer, NoAnswer
from gateway.upstream.budget import Budget
from gateway.upstream.turns import Waiter

T = TypeVar("T")

OPERATOR = ""
"""Stands in the turns beside the clients, whose names are longer."""
_PATIENCE_S = 10.0
"""How long a client's request waits for its turn in the rate limit."""
_REFUSED_S = 10
"""When to come again where another replica finds out whether the key is accepted again."""
# Anything else would speak for the upstream's host, where the client sees only the gateway's.
_PASSED_ON = ("content-type", "content-disposition", "retry-after", "x-should-retry")
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
_SLASHES = re.compile(r"[/\\]")
_STATUSES = range(200, 600)  # below they are no answers, and above there are none (RFC 9110 §15)


class Forwarding:
    """Turns at one upstream's key for clients' requests, and the work that outlives its client."""

    def __init__(self, proxied: Proxied) -> None:
        self._key = proxied.key
        self._metrics = proxied.metrics
        self._tasks: set[asyncio.Task[Any]] = set()

    async def turn(self, budget: Budget, waiter: Waiter) -> RequestError | None:
        """Wait for a turn in the rate limit and take it; or return why there is none."""
        if self._key.refused_elsewhere and budget is self._key.queries:
            text = "The upstream refuses the gateway's key; the log of the replica that polls it says why."
            return Unavailable(text, retry_after_s=_REFUSED_S)
        try:
            wait_s = await budget.acquire(_PATIENCE_S, waiter)
        except StoreError:
            return store_unavailable()
        if self._key.refusal is not None and budget is self._key.queries:
            if wait_s is None:  # the pause is over: it is for the poller to ask whether the key is accepted again
                budget.give_back(1, waiter)
            retry_after_s = math.ceil(wait_s or 1.0)
            return Unavailable("The upstream refuses the gateway's key; its log says why.", retry_after_s=retry_after_s)
        if wait_s is None:
            return None
        retry_after_s = math.ceil(wait_s)
        return RateLimited(
            f"The upstream's rate limit is used up, or too many requests wait for it; try again in {retry_after_s} s.",
            retry_after_s=retry_after_s,
        )

    def begin(self, work: Coroutine[Any, Any, T], name: str) -> "Detached[T]":
        """As ``spawn``, for one who waits for its end: each turn of the event loop may take milliseconds."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self.spawn(_telling(ended, work), name)

        def end(_: object) -> None:  # it may be cancelled before it has begun
            work.close()
            _tell(ended)

        task.add_done_callback(end)
        return Detached(task, ended)

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run something that a client who goes away does not stop."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, timeout_s: float) -> None:
        """Let what was forwarded come to its end, registrations included, for ``timeout_s`` seconds; then stop it."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            late = set(self._tasks)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def counted(self, call: str, work: Awaitable[tuple[str, Response]]) -> Response:
        """Count a call's outcome, which ``work`` tells beside the answer."""
        outcome = "failed"
        try:
            outcome, response = await work
        except RequestError as error:
            if isinstance(error, RateLimited):
                outcome = "limited"
            elif error.status < 500:
                outcome = "refused"
            raise
        finally:
            self._metrics.proxied_requests.labels(call, outcome).inc()
        return response


class Detached(NamedTuple, Generic[T]):
    """Work that one waits for, who may go away meanwhile."""

    task: asyncio.Task[T]
    ended: asyncio.Future[None]
    """Done as the work ends. Who waits for it may be cancelled, and the work goes on; with ``shield`` or ``wait`` too,
    but they tell a turn of the event loop later."""

    async def result(self) -> T:
        """Wait for the end, and return or raise what it brought."""
        await self.ended
        return self.task.result()  # it has ended: nothing is waited for after that is told


async def _telling(ended: "asyncio.Future[None]", work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    finally:
        _tell(ended)


def _tell(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)


async def result_of(work: "Awaitable[T | RequestError]") -> T:
    """Wait for what clients may go away from while it goes on, and raise the error that it is."""
    result = await work
    if isinstance(result, RequestError):
        raise result
    return result


def target(request: Request, mount: str) -> str:
    """Return path and query of a request as they go on: as they came, but for the mount. Raises NotFound."""
    raw: bytes = request.scope["raw_path"]
    before = mount.encode()
    # A URL's dot segments are resolved, encoded or not: the key would be shown to another of the API's pages.
    dotted = not {".", ".."}.isdisjoint(_SLASHES.split(request.scope["path"]))
    if dotted or not raw.startswith(before + b"/"):
        raise NotFound(f"There is nothing at {request.scope['path']}; write the path as the API's pages do.")
    path, query = raw[len(before) :], request.scope["query_string"]
    return quote(path + b"?" * bool(query) + query, safe=_VISIBLE)


def sent_on(request: Request, names: Sequence[str]) -> dict[str, str]:
    """Return those of a request's headers that go on, by their names in small letters. Raises InvalidRequest."""
    given = ((name.lower(), request.headers.get(name)) for name in names)
    found = {name: value for name, value in given if value is not None}
    for name, value in found.items():
        if not value.isascii():
            raise InvalidRequest(f"{name}: must be ASCII. Nothing was forwarded.")
    return found


def passed_on(answer: Answer, location: Callable[[str], str] | None = None) -> Response:
    """Return what a client gets of an upstream's answer; ``location`` says what its Location is here."""
    # What no HTTP answer can carry, or would mean something between us and the client, is left out: the body matters.
    found = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    if location is not None and "location" in answer.headers:
        found["location"] = location(answer.headers["location"])
    headers = {name: value for name, value in found.items() if value.isascii() and value.isprintable()}
    status = answer.status if answer.status in _STATUSES else UpstreamFailed.status
    return Response(answer.body, status, headers)


def below(mount: str, base_url: str, location: str) -> str:
    """Return a Location of the upstream's own as it is called at the mount; another host's stays as it is."""
    if location.startswith(f"{base_url}/"):
        return mount + location[len(base_url) :]
    if not location.startswith("/") or location.startswith("//"):
        return location  # what is relative to the path is the same here
    return mount + location.removeprefix(urlsplit(base_url).path)


def no_answer(answer: NoAnswer) -> RequestError:
    """Return the error of a request that changes nothing at the upstream."""
    return (UpstreamTimeout if answer.timed_out else UpstreamFailed)(answer.error)


def store_unavailable() -> Unavailable:
    return Unavailable("The database cannot be used at the moment; nothing was forwarded.", retry_after_s=5)


def shutting_down() -> Unavailable:
    return Unavailable("The gateway is shutting down; nothing was forwarded. Send it again.")
