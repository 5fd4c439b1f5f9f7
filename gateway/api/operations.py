"""``/healthz``, ``/readyz`` and ``/metrics``: what operators and their machines ask.

These need no token and so show no URL, task or secret.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from prometheus_client import Metric
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.problems import PROBLEM_TYPE, Problem, problem
from gateway.api.schema import Wire
from gateway.api.scrapes import BacklogMetrics, Scrapes
from gateway.api.views import json_response
from gateway.core.claims import Lane
from gateway.core.clock import Clock
from gateway.core.errors import Unavailable
from gateway.core.telemetry import METRICS_CONTENT_TYPE, Metrics
from gateway.store import Registry


class Health(Wire, frozen=True, kw_only=True):
    status: Literal["ok"]


class Readiness(Health, frozen=True, kw_only=True):
    reasons: Annotated[list[str], msgspec.Meta(description="What is wrong and does not stop new work.")]


class NotReady(Problem):
    """Why new work is not taken; ``reasons`` has all that is wrong."""

    reasons: list[str]


class Trouble(NamedTuple):
    """Something that is wrong, in words for everybody to see."""

    reason: str
    stops_work: bool
    """Whether the gateway can take no new work for it: then it is not ready."""
    detail: str | None = None
    """What else the operator alone may see of it."""


class Operations:
    """The calls; ``unhealthy`` returns why, or None, ``troubles`` all that is wrong, and ``paused`` which
    lanes get no attempts.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        metrics: Metrics,
        *,
        unhealthy: Callable[[], str | None],
        troubles: Callable[[], Sequence[Trouble]],
        paused: Callable[[], Awaitable[Collection[Lane]]],
    ) -> None:
        self._metrics = metrics
        self.backlog = BacklogMetrics(registry, clock, metrics, paused)
        self._scrapes = Scrapes(clock, self.backlog.refresh, self._render)
        self._unhealthy = unhealthy
        self._troubles = troubles

    async def healthz(self, request: Request) -> Response:
        return _verdict(self._unhealthy(), "The gateway makes no progress", Health(status="ok"))

    async def readyz(self, request: Request) -> Response:
        troubles = sorted(self._troubles(), key=lambda trouble: not trouble.stops_work)
        stops = troubles[0].reason if troubles and troubles[0].stops_work else None
        reasons = [trouble.reason for trouble in troubles]
        good = Readiness(status="ok", reasons=reasons)
        return _verdict(stops, "The gateway is not ready", good, reasons=reasons)

    async def metrics(self, request: Request) -> Response:
        return Response(await self._scrapes.text(), media_type=METRICS_CONTENT_TYPE)

    async def families(self) -> Sequence[Metric]:
        """Return all metrics as they are now, for who exports them."""
        await self.backlog.refresh()
        self._tell_ready()
        return list(self._metrics.registry.collect())

    def _render(self) -> Iterator[bytes]:
        self._tell_ready()
        return self._metrics.render()

    def _tell_ready(self) -> None:
        self._metrics.ready.set(not any(trouble.stops_work for trouble in self._troubles()))


def _verdict(reason: str | None, what: str, good: Health, **members: Any) -> Response:
    """Return ``good``, or where there is a reason against it, a problem with the members."""
    if reason is None:
        return json_response(good)
    error = Unavailable(f"{what}: {reason}.")
    return Response(msgspec.json.encode({**problem(error), **members}), error.status, error.headers, PROBLEM_TYPE)
