"""What belongs to one upstream: how it is asked, its key with what that may spend, its timetable, its poller.

Built once for each upstream, by ``build``; opens and starts nothing.
"""

import random
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from gateway.config.settings import Settings, UpstreamSettings
from gateway.core.clock import Clock
from gateway.core.memory import Memory
from gateway.core.ratelimit import RateWindow
from gateway.core.telemetry import Metrics
from gateway.loops.poller import MOST_POLLS, Poller
from gateway.net.resolver import Resolver
from gateway.net.transport import PooledTransport
from gateway.store import Store
from gateway.upstream.api import Upstream
from gateway.upstream.budget import Budget
from gateway.upstream.key import UpstreamKey
from gateway.upstream.schedule import PollSchedule
from gateway.upstream.timetable import Timetable
from gateway.upstream.turns import MOST_UNDER_WAY

__all__ = ["MOST_CONNECTIONS", "MOST_IDLE", "Shared", "Watch", "build_watch"]

MOST_CONNECTIONS = MOST_POLLS + 2 * MOST_UNDER_WAY
"""To one upstream: as many as there are requests, so that none waits."""
MOST_IDLE = 64
"""Connections to one upstream that are kept for the next request."""
_UNLIMITED_PER_S = 1e6


class Shared(NamedTuple):
    """What many parts of a gateway are made with."""

    store: Store
    clock: Clock
    metrics: Metrics
    memory: Memory
    resolver: Resolver


class Watch(NamedTuple):
    """One upstream's."""

    upstream: Upstream
    transport: PooledTransport
    key: UpstreamKey
    timetable: Timetable
    poller: Poller
    default: bool
    """Whether callbacks mean it that name none."""


def build_watch(own: UpstreamSettings, settings: Settings, shared: Shared) -> Watch:
    store, clock, metrics, memory, resolver = shared
    name, limits = own.name, own.profile.limits
    key = UpstreamKey(
        name,
        _budget(f"queries:{name}", own.rate, store, clock),
        _budget(f"creates:{name}", own.create_rate, store, clock),
        metrics,
    )
    # Of its own: one that hangs holds all of its connections, and nobody else's.
    transport = PooledTransport(guard=None, resolve=resolver.resolve, limit=MOST_CONNECTIONS, limit_idle=MOST_IDLE)
    upstream = Upstream(
        own.profile,
        transport,
        clock,
        base_url=own.url,
        api_key=own.api_key,
        name=name,
        max_answer=settings.result_max_bytes,
        memory=memory,
    )
    min_s = max(settings.poll_min_s, limits.poll_min_s or 0.0)
    schedule = PollSchedule(min_s, max(settings.poll_max_s, min_s))
    per_s = min((window.limit / window.window_s for window in own.rate), default=_UNLIMITED_PER_S)
    timetable = Timetable(schedule, per_s, clock, random.Random())  # noqa: S311 - jitter, not a secret
    poller = Poller(store.tasks, upstream, key, timetable, clock, metrics)
    _show(metrics, name, key, poller)
    return Watch(upstream, transport, key, timetable, poller, own.default)


def _budget(name: str, windows: Sequence[RateWindow], store: Store, clock: Clock) -> Budget:
    return Budget(windows, clock, partial(store.load, name), partial(store.swap, name))


def _show(metrics: Metrics, name: str, key: UpstreamKey, poller: Poller) -> None:
    for kind, budget in (("query", key.queries), ("create", key.creates)):
        metrics.budget_used.labels(name, kind).set_function(budget.used)
    for gauge in (metrics.waiting, metrics.poll_overdue_seconds):
        gauge.labels(name)  # stands at 0 from the start
    metrics.upstream_nonsense.labels(name).set_function(lambda: float(poller.makes_no_sense))
    metrics.upstream_limited.labels(name).set_function(lambda: float(key.limited))
