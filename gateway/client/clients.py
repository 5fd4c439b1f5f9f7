"""The client for threads and the one for asyncio: they open connections and take the steps of each call.

Own nothing but their I/O: what is asked, repeated and returned is ``gateway.client.calls``'.
"""

import asyncio
import inspect
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import cached_property, partial, wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, get_args

import httpx

from gateway import __version__
from gateway.client.calls import Calls
from gateway.client.exchange import Exchange, Pause, Reply, Send, Steps
from gateway.client.results import Callback, CallbackState

T = TypeVar("T")
P = ParamSpec("P")
M = TypeVar("M", bound=Callable[..., Any])

_PAGE = 200
_AT_ONCE = 100
"""Requests of one client that are under way; further ones wait for their turn."""


def _blocking(call: Callable[Concatenate[Calls, P], Steps[T]]) -> Callable[Concatenate["Client", P], T]:
    """Return a method that takes a call's steps one after the other."""

    @wraps(call)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(call(self._calls, *args, **kwargs))

    return _told_as(call, method)


def _awaited(
    call: Callable[Concatenate[Calls, P], Steps[T]],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    """Return the same as a coroutine."""

    @wraps(call)
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(call(self._calls, *args, **kwargs))

    return _told_as(call, method)


def _told_as(call: Callable[..., Any], method: M) -> M:
    """Have help() tell of a method what it returns, which is the last of its steps."""
    signature = inspect.signature(call)
    method.__signature__ = signature.replace(return_annotation=get_args(signature.return_annotation)[2])  # type: ignore[attr-defined]
    return method


class _Either:
    """What both clients are made with."""

    _http: Any
    _opened: Callable[..., Any]

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        retries: int = 4,
        backoff_s: float = 0.5,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``base_url`` may have a path, as of a gateway behind a proxy; ``token`` is yours at the gateway.

        ``timeout_s``: how long an answer may take, beside what a call waits for. ``retries``: how often a request is
        sent again that can be repeated safely, after ``backoff_s`` and twice as long each time, or after what the
        gateway asks for; a longer wait than 30 s is left to you. ``tls``: whom to trust, where it is not the usual
        authorities. Proxies that the environment names are not used.
        """
        try:
            url = httpx.URL(base_url)
        except (httpx.InvalidURL, UnicodeError) as exc:
            raise ValueError(f"base_url: {exc}; write it like http://127.0.0.1:8080") from exc
        if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
            raise ValueError("base_url: write it like http://127.0.0.1:8080, with a path or without")
        headers = {"user-agent": f"webhook-bridging-gateway-client/{__version__}", "accept": "application/json"}
        if token is not None:
            if not token or not (token.isascii() and token.isprintable()) or " " in token:
                raise ValueError("token: visible ASCII characters without spaces")
            headers["authorization"] = f"Bearer {token}"
        self._calls = Calls(Exchange(base_url, timeout_s=timeout_s, retries=retries, backoff_s=backoff_s))
        # Reading the usual authorities takes a while, which http:// need not wait for.
        verify = tls if tls is not None else url.scheme == "https"
        self._http = self._opened(base_url=url, headers=headers, trust_env=False, verify=verify)


class Client(_Either):
    """Talks to one gateway; to be closed, or used in a ``with``. Several threads may share it."""

    _http: httpx.Client
    _opened = httpx.Client

    register = _blocking(Calls.register)
    register_batch = _blocking(Calls.register_batch)
    get = _blocking(Calls.get)
    attempts = _blocking(Calls.attempts)
    list = _blocking(Calls.list)
    cancel = _blocking(Calls.cancel)
    redeliver = _blocking(Calls.redeliver)
    redeliver_dead = _blocking(Calls.redeliver_dead)
    task = _blocking(Calls.task)
    wait = _blocking(Calls.wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def iterate(
        self, *, state: CallbackState | None = None, task_id: str | None = None, client: str | None = None
    ) -> Iterator[Callback]:
        """Yield all callbacks, newest first, page by page; those that are registered meanwhile are not among them."""
        cursor: str | None = None
        while True:
            page = self.list(state=state, task_id=task_id, client=client, limit=_PAGE, cursor=cursor)
            yield from page.data
            if (cursor := page.next_cursor) is None:
                return

    def _run(self, steps: Steps[T]) -> T:
        reply: Reply = None
        while not isinstance(step := _next(steps, reply), _End):
            reply = None
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                continue
            try:
                reply = self._http.request(**_request(step))
            except httpx.RequestError as exc:
                reply = exc
        return step.result


class AsyncClient(_Either):
    """The same for asyncio; to be closed, or used in an ``async with``."""

    _http: httpx.AsyncClient
    # A pool with a limit loses a place where a call is cancelled as its connection comes about (httpcore 1.0.9).
    _opened = staticmethod(partial(httpx.AsyncClient, limits=httpx.Limits()))

    @cached_property
    def _turns(self) -> asyncio.Semaphore:
        return asyncio.Semaphore(_AT_ONCE)

    register = _awaited(Calls.register)
    register_batch = _awaited(Calls.register_batch)
    get = _awaited(Calls.get)
    attempts = _awaited(Calls.attempts)
    list = _awaited(Calls.list)
    cancel = _awaited(Calls.cancel)
    redeliver = _awaited(Calls.redeliver)
    redeliver_dead = _awaited(Calls.redeliver_dead)
    task = _awaited(Calls.task)
    wait = _awaited(Calls.wait)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def iterate(
        self, *, state: CallbackState | None = None, task_id: str | None = None, client: str | None = None
    ) -> AsyncIterator[Callback]:
        """Yield all callbacks, newest first, page by page; those that are registered meanwhile are not among them."""
        cursor: str | None = None
        while True:
            page = await self.list(state=state, task_id=task_id, client=client, limit=_PAGE, cursor=cursor)
            for callback in page.data:
                yield callback
            if (cursor := page.next_cursor) is None:
                return

    async def _run(self, steps: Steps[T]) -> T:
        reply: Reply = None
        while not isinstance(step := _next(steps, reply), _End):
            reply = None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                continue
            try:
                async with self._turns:
                    reply = await self._http.request(**_request(step))
            except httpx.RequestError as exc:
                reply = exc
        return step.result


class _End(Generic[T]):
    """There is no further step."""

    def __init__(self, result: T) -> None:
        self.result = result


def _next(steps: Steps[T], reply: Reply) -> Send | Pause | _End[T]:
    try:
        return steps.send(reply)
    except StopIteration as end:
        return _End(end.value)


def _request(step: Send) -> dict[str, Any]:
    body = {} if step.body is None else {"json": step.body}
    return {"method": step.method, "url": step.path, "params": step.params, "timeout": step.timeout_s} | body
