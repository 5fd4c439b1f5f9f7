"""``/healthz``, ``/readyz``, ``/metrics`` and ``/openapi.json``: what operators and their machines ask.

These need no token and so show no URL, task or secret.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.backlog import BacklogMetrics
from gateway.api.openapi import document
from gateway.api.problems import PROBLEM_TYPE, problem
from gateway.api.routing import route
from gateway.api.schema import json_response
from gateway.api.scrapes import Scrapes
from gateway.config.profile import Proxy
from gateway.core.clock import Clock
from gateway.core.errors import Unavailable
from gateway.core.telemetry import METRICS_CONTENT_TYPE, Metrics
from gateway.store import Registry

__all__ = ["Operations", "Trouble"]


class Trouble(NamedTuple):
    """Something that is wrong, in words for everybody to see."""

    reason: str
    stops_work: bool
    """Whether the gateway can take no new work for it: then it is not ready."""


class Operations:
    """The routes; ``unhealthy`` returns why, or None, and ``troubles`` all that is wrong."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
        *,
        unhealthy: Callable[[], str | None],
        troubles: Callable[[], Sequence[Trouble]],
        calls: Proxy | None,
    ) -> None:
        """``calls``: the upstream's own calls, where the gateway serves them."""
        self._metrics = metrics
        backlog = BacklogMetrics(registry, clock, metrics)
        self._scrapes = Scrapes(clock, backlog.refresh, self._render)
        self._unhealthy = unhealthy
        self._troubles = troubles
        self._calls = calls
        self._openapi: bytes | None = None

    def routes(self) -> list[Route]:
        return [
            route("/healthz", query=None, GET=self.healthz),
            route("/readyz", query=None, GET=self.readyz),
            route("/metrics", query=None, GET=self.metrics),
            route("/openapi.json", query=None, GET=self.openapi),
        ]

    async def healthz(self, request: Request) -> Response:
        return _verdict(self._unhealthy(), "The gateway makes no progress")

    async def readyz(self, request: Request) -> Response:
        troubles = sorted(self._troubles(), key=lambda trouble: not trouble.stops_work)
        stops = troubles[0].reason if troubles and troubles[0].stops_work else None
        return _verdict(stops, "The gateway is not ready", reasons=[trouble.reason for trouble in troubles])

    async def metrics(self, request: Request) -> Response:
        return Response(await self._scrapes.text(), media_type=METRICS_CONTENT_TYPE)

    def _render(self) -> bytes:
        self._metrics.ready.set(not any(trouble.stops_work for trouble in self._troubles()))
        return self._metrics.render()

    async def openapi(self, request: Request) -> Response:
        if self._openapi is None:
            self._openapi = msgspec.json.encode(document(self._calls))
        return Response(self._openapi, media_type="application/json")


def _verdict(reason: str | None, what: str, **members: Any) -> Response:
    if reason is None:
        return json_response({"status": "ok", **members})
    error = Unavailable(f"{what}: {reason}.")
    return Response(msgspec.json.encode({**problem(error), **members}), error.status, error.headers, PROBLEM_TYPE)
