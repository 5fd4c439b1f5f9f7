"""Programs that use one life of the gateway as their upstream: they create tasks through its proxy, and read them.

Owns the proxy over that life, as ``gateway.app.build`` ties it together, and its requests: they end with the life.
"""

import asyncio
import sys
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.auth import AuthMiddleware, ClientLimits, Tokens
from gateway.api.problems import ErrorAnswers
from gateway.api.proxied import Proxied
from gateway.api.proxy import UpstreamProxy
from gateway.core.clientrequests import ClientRequests
from gateway.core.model import Format
from gateway.core.shares import Shares
from tests.life import PROFILE, Life

__all__ = ["CREATE", "WATCH_S", "Readers"]

RECORD, CREATE = "/api/v1/jobs/recordInfo", "/api/v1/jobs/createTask"
WATCH_S = 60.0


class Readers:
    """The clients of one life."""

    def __init__(self, life: Life) -> None:
        self._draining = asyncio.Event()
        upstream = life.poller._upstream
        proxied = Proxied(
            registry=life.store.registry,
            clock=life.clock,
            metrics=life.metrics,
            upstream=upstream,
            key=life.key,
            timetable=life.timetable,
            poller_wake=life.store.tasks.due(upstream.name),
            draining=self._draining,
            polls_here=lambda: True,
            recheck_s=15.0,
            has_replicas=False,
        )

        async def any_url(_: str) -> None:
            return None

        self._proxy = UpstreamProxy(
            proxied, life.store, callback_format=Format.RECORD, check_url=any_url, watch_s=WATCH_S
        )
        errors = ErrorAnswers(lambda _: PROFILE)

        async def create(request: Request) -> Response:
            return await self._proxy.create("", request)

        app = Starlette(
            routes=[Route(RECORD, self._proxy.read), Route(CREATE, create, methods=["POST"])],
            middleware=[
                Middleware(
                    AuthMiddleware,
                    tokens=Tokens({}),
                    limits=ClientLimits({}, life.clock),
                    requests=ClientRequests(sys.maxsize),
                    errors=errors,
                )
            ],
            exception_handlers=errors.handlers(),
        )
        app.state.memory, app.state.shares = life.memory, Shares()
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=None, trust_env=False
        )
        self._requests: set[asyncio.Task[httpx.Response]] = set()

    async def read(self, task_id: str, patience_s: float) -> httpx.Response | None:
        """Return what a read is answered; None: it has no answer, within its patience or this life."""
        return await self._ask("GET", RECORD, patience_s, params={"taskId": task_id})

    async def create(self, number: int, receiver: int | None, patience_s: float) -> httpx.Response | None:
        """Create the task of that number, under a request id that is the same each time."""
        body: dict[str, Any] = {"model": "m", "input": {"task": number}}
        if receiver is not None:
            body["callBackUrl"] = f"https://receiver-{receiver}.example/hook"
        return await self._ask("POST", CREATE, patience_s, json=body, headers={"x-request-id": f"create-{number}"})

    async def _ask(self, method: str, path: str, patience_s: float, **about: Any) -> httpx.Response | None:
        request = asyncio.create_task(self._client.request(method, path, **about), name="proxy-request")
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        done, _ = await asyncio.wait([request], timeout=patience_s)
        request.cancel()
        return request.result() if done and not request.cancelled() and request.exception() is None else None

    async def stop(self, drain_s: float) -> None:
        """Let what is under way come to its end, as the gateway does when it stops."""
        self._draining.set()
        if self._requests:
            await asyncio.wait(self._requests, timeout=drain_s)
        for request in self._requests:
            request.cancel()
        await self._proxy.drain(1.0)
