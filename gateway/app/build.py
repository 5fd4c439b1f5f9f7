"""The wiring: builds the objects and ties them together, with ``delivering``, ``events``, ``exporting`` and ``gauges``.

Owns what a gateway is made of. Validates, opens, writes and starts nothing. Called by ``serve``, ``demo`` and tests.
"""

import asyncio
import random
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware

from gateway.api import large
from gateway.api.auth import AuthMiddleware, ClientLimits, Tokens
from gateway.api.callbacks import Callbacks
from gateway.api.mounts import BaseSlash, Mounts
from gateway.api.operations import Operations
from gateway.api.problems import ErrorAnswers
from gateway.api.proxied import Proxied
from gateway.api.proxy import UpstreamProxy
from gateway.api.registering import Registering
from gateway.api.routing import routes
from gateway.api.table import table
from gateway.api.tasks import Ends, Tasks
from gateway.api.traced import TracingMiddleware
from gateway.api.webpages import refuse_web_pages
from gateway.app import delivering, events, facts, gauges
from gateway.app.exporting import exporting
from gateway.app.gateway import (
    Api,
    Gateway,
    ReadyCheck,
    Watch,
    client_rates,
    client_upstreams,
    longest_attempt_s,
    token_owners,
)
from gateway.app.shared import Shared
from gateway.config.settings import Settings, UpstreamSettings, database_path
from gateway.core.clientrequests import ClientRequests
from gateway.core.clock import Clock, FollowingClock, SteeredClock
from gateway.core.memory import Memory
from gateway.core.model import Format
from gateway.core.ratelimit import RateWindow
from gateway.core.shares import Shares
from gateway.core.telemetry import Metrics
from gateway.dashboard.parts import PageParts
from gateway.dashboard.site import Site
from gateway.loops.clocksteps import ClockSteps
from gateway.loops.deliverer import Deliverer
from gateway.loops.janitor import Backups, Janitor
from gateway.loops.leading import Leading, Lease
from gateway.loops.pauses import Pauses
from gateway.loops.poller import MOST_POLLS, Poller
from gateway.loops.supervisor import Loop, Supervisor
from gateway.net.guard import Netguard, parse_allow
from gateway.net.proxied import pooled
from gateway.net.resolver import Resolver
from gateway.net.transport import PooledTransport
from gateway.store import Store
from gateway.store.sqlite.store import SqliteStore
from gateway.upstream.api import Upstream
from gateway.upstream.budget import Budget
from gateway.upstream.key import UpstreamKey
from gateway.upstream.learned import Learned
from gateway.upstream.reservations import Load, Swap
from gateway.upstream.schedule import PollSchedule
from gateway.upstream.spending import ALONE
from gateway.upstream.timetable import Timetable
from gateway.upstream.turns import MOST_UNDER_WAY
from gateway.webhook.headers import ClientHeaders
from gateway.webhook.receivers import MOST_IDLE, Receivers

_CONNECTIONS = 256  # towards receivers, all together
_IDLE_CONNECTIONS = 128  # kept for the next webhook to the same receiver
_OTHER_FILES = 64  # the database, the event loop, the name server, the log
MOST_CONNECTIONS = MOST_POLLS + 2 * MOST_UNDER_WAY
"""To one upstream: as many as there are requests, so that none waits."""
_MOST_IDLE = 64
"""Connections to one upstream that are kept for the next request."""
_UNLIMITED_PER_S = 1e6
_RECHECK_S = (15.0, 1.0)
"""How often a request that is held for a task's end looks for it, without being told: alone, and beside replicas."""


def own_files(upstreams: int, receivers: int = 0) -> int:
    """Return how many files the gateway may have open beside its clients' connections.

    With so many upstreams, and tables of receivers.
    """
    idle = _IDLE_CONNECTIONS + receivers * MOST_IDLE
    return _CONNECTIONS + idle + upstreams * (MOST_CONNECTIONS + _MOST_IDLE) + _OTHER_FILES


def build(
    settings: Settings, clock: Clock, environ: Mapping[str, str] = MappingProxyType({}), connections: int = sys.maxsize
) -> Gateway:
    """Build a gateway of checked settings.

    ``environ``: what OpenTelemetry's SDK is told, where it is wanted. ``connections``: how many its server takes.
    """
    replica = secrets.token_hex(6)
    exported = exporting(environ, clock, replica)
    clock = FollowingClock(clock) if database_path(settings.database_url) else SteeredClock(clock)
    store = _store(settings, clock, replica)
    memory, tracing = Memory(settings.memory_bytes), None if exported is None else exported.tracing
    shared = Shared(store, clock, Metrics(), memory, Resolver(), replica if store.shared else ALONE, tracing)
    guard = Netguard(parse_allow(",".join(settings.callback_allow)))
    callback_transport = PooledTransport(
        guard=guard, resolve=shared.resolver.resolve, limit=_CONNECTIONS, limit_idle=_IDLE_CONNECTIONS
    )
    watches = [_watch(upstream, settings, shared) for upstream in settings.upstreams]
    receivers = Receivers(guard, shared.resolver.resolve, _CONNECTIONS, clock.monotonic)
    client_headers = ClientHeaders(receivers)
    pauses = Pauses(store, clock, store.outbox.due.set)
    deliverer = delivering.deliverer(settings, shared, callback_transport, client_headers, pauses, receivers)
    database = database_path(settings.database_url)
    gauges.show_own(shared, deliverer, pauses, database)
    janitor = Janitor(store, clock, settings.retention_days)
    clock_steps = ClockSteps(store, clock) if isinstance(clock, FollowingClock) else None
    loops: list[Loop] = [*(watch.poller for watch in watches), deliverer, janitor]
    leading = _leading(shared, watches)
    telling = events.telling(settings, shared, deliverer, watches, client_headers)
    loops.extend(one for one in (leading, telling and telling.loop) if one is not None)
    supervisor = Supervisor(loops, clock, shared.metrics, clock_steps)
    readiness = ReadyCheck(store, watches, supervisor, leading, needs_all=settings.ready_upstreams == "all")
    readiness.failing_proxies = partial(_failing_proxies, receivers, telling)
    shared.metrics.egress_proxies_failing.set_function(lambda: len(readiness.failing_proxies()))
    if telling is not None:
        readiness.events_error = telling.error
    api = _api(settings, shared, watches, readiness, receivers, pauses, ClientRequests(connections))
    backup = None if database is None else database.with_name(database.name + ".backup")
    gateway = Gateway(
        settings=settings,
        store=store,
        clock_steps=clock_steps,
        supervisor=supervisor,
        watches=watches,
        client_headers=client_headers,
        receivers=receivers,
        api=api,
        site=_site(settings, shared, api, readiness, watches, deliverer, pauses, lambda: gateway.in_force),
        readiness=readiness,
        backup=backup,
        backups=Backups(store, clock, backup),
        callback_transport=callback_transport,
        events_transport=None if telling is None else telling.transport,
        events_receivers=None if telling is None else telling.receivers,
        resolver=shared.resolver,
        memory=shared.memory,
        exporting=exported,
    )
    return gateway


def _failing_proxies(receivers: Receivers, telling: events.Telling | None) -> list[str]:
    found = receivers.failing_proxies
    return found if telling is None else [*found, *(one for one in telling.failing_proxies if one not in found)]


def _store(settings: Settings, clock: FollowingClock | SteeredClock, replica: str) -> Store:
    delay_s = settings.retry_schedule[0]
    database = database_path(settings.database_url)
    if database is not None:
        return SqliteStore(database, first_attempt_delay_s=delay_s)
    assert isinstance(clock, SteeredClock)  # noqa: S101 - made so
    # With the package that it needs, and only where it is used.
    from gateway.store.postgres.store import PostgresStore
    from gateway.store.postgres.url import Servers

    return PostgresStore(
        Servers(settings.database_url, settings.database_password),
        replica=replica,
        clock=clock,
        attempt_s=longest_attempt_s(settings),
        first_attempt_delay_s=delay_s,
    )


def _leading(shared: Shared, watches: Sequence[Watch]) -> Leading | None:
    if not shared.replica:
        for watch in watches:
            shared.metrics.leading.labels(watch.upstream.name).set(1)
        return None
    pollers = {watch.upstream.name: watch.poller for watch in watches}
    return Leading(shared.store, shared.clock, shared.metrics, pollers)


def _watch(own: UpstreamSettings, settings: Settings, shared: Shared) -> Watch:
    store, clock, metrics, memory, resolver, replica, tracing = shared
    name, limits = own.name, own.profile.limits
    key = UpstreamKey(
        name,
        _budget(f"queries:{name}", own.rate, shared),
        _budget(f"creates:{name}", own.create_rate, shared),
        metrics,
    )
    # Of its own: one that hangs holds all of its connections, and nobody else's.
    transport = pooled(own.proxy, guard=None, resolve=resolver.resolve, limit=MOST_CONNECTIONS, limit_idle=_MOST_IDLE)
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
    learned = Learned(*_kept(f"durations:{name}", store))
    timetable = Timetable(schedule, per_s, clock, random.Random(), learned)  # noqa: S311 - jitter, not a secret
    lease = Lease(clock) if replica else None
    poller = Poller(store.tasks, upstream, key, timetable, clock, metrics, lease, tracing)
    gauges.show_upstream(metrics, name, key, poller)
    return Watch(upstream, transport, key, timetable, poller, own.default)


def _budget(name: str, windows: Sequence[RateWindow], shared: Shared) -> Budget:
    return Budget(windows, shared.clock, *_kept(name, shared.store), shared.replica)


def _kept(name: str, store: Store) -> tuple[Load, Swap]:
    """Return how to get and change the small durable value of that name."""
    return partial(store.load, name), partial(store.swap, name)


def _api(
    settings: Settings,
    shared: Shared,
    watches: Sequence[Watch],
    readiness: ReadyCheck,
    receivers: Receivers,
    pauses: Pauses,
    requests: ClientRequests,
) -> Api:
    registry, clock, metrics = shared.store.registry, shared.clock, shared.metrics
    names = [watch.upstream.name for watch in watches]
    default = next((watch for watch in watches if watch.default), None)
    proxies = {
        watch.upstream.name: _proxy(watch, settings, shared, receivers, readiness.draining)
        for watch in watches
        if watch.upstream.profile.proxy is not None
    }
    mounts = Mounts(list(proxies.values()), None if default is None else proxies.get(default.upstream.name))
    registering = Registering(
        registry,
        clock,
        metrics,
        check_url=receivers.check,
        check_now=receivers.check_now,
        receiver_name=receivers.name_of,
        first_poll_at={watch.upstream.name: partial(_first_poll_at, watch) for watch in watches},
        default_upstream=None if default is None else default.upstream.name,
        client_upstreams=client_upstreams(settings),
        root_path=settings.root_path,
    )
    unhealthy = readiness.supervisor.problem
    operations = Operations(
        registry, clock, metrics, unhealthy=unhealthy, troubles=readiness.troubles, paused=pauses.follow
    )
    ends = Ends(registry, clock, readiness.draining, _recheck_s(shared))
    callbacks, tasks = Callbacks(registry, clock, names), Tasks(registry, clock, ends, names)
    errors = ErrorAnswers(mounts.profile_of)
    tokens, limits = Tokens(*token_owners(settings)), ClientLimits(client_rates(settings), clock)
    calls = table(registering, callbacks, tasks, operations, mounts.all)
    app = Starlette(
        routes=routes(calls),
        middleware=[
            *([] if shared.tracing is None else [Middleware(TracingMiddleware, tracing=shared.tracing)]),
            Middleware(BaseSlash),
            Middleware(AuthMiddleware, tokens=tokens, limits=limits, requests=requests, errors=errors),
        ],
        exception_handlers=errors.handlers(),
    )
    app.state.memory = shared.memory
    app.state.shares = shares = Shares()
    app.router.redirect_slashes = False  # an unknown path is a 404, not a redirect to what Host says
    backlog, families, mounted = operations.backlog.refresh, operations.families, list(proxies.values())
    return Api(app, tokens, limits, requests, shares, registering, mounted, errors, backlog, calls, families)


def _site(
    settings: Settings,
    shared: Shared,
    api: Api,
    readiness: ReadyCheck,
    watches: Sequence[Watch],
    deliverer: Deliverer,
    pauses: Pauses,
    in_force: Callable[[], Settings],
) -> Site:
    return Site(
        PageParts(
            registry=shared.store.registry,
            clock=shared.clock,
            tokens=api.tokens,
            requests=api.requests,
            shares=api.shares,
            refuse_foreign=partial(refuse_web_pages, forms=True),
            ready=readiness.started.is_set,
            draining=readiness.draining,
            troubles=lambda: [(trouble.reason, trouble.detail) for trouble in readiness.troubles()],
            backlog=api.backlog,
            counts=partial(facts.counts, shared.metrics, deliverer),
            upstreams=partial(facts.upstreams, watches, settings),
            models=partial(facts.models, watches),
            receivers=partial(facts.receivers, deliverer, pauses),
            paused=partial(facts.paused, pauses),
            pause=pauses.pause,
            resume=pauses.resume,
            settings=in_force,
            description=partial(_description, api),
            memory=shared.memory,
            made_with_room=large.made_with_room,
            send_large=large.send_large,
            root_path=settings.root_path,
        )
    )


def _description(api: Api) -> Mapping[str, Any]:
    from gateway.api.openapi import document  # here: few gateways are ever asked

    return document(api.calls, api.registering.upstreams, api.registering.root_path)


def _first_poll_at(watch: Watch, task_id: str, now: int, client: str, model: str | None) -> int:
    """Return when a task is first polled that is registered now: at once where a client was told of its end."""
    if watch.upstream.last_answers.ended(task_id) is not None:
        return now
    return watch.timetable.first_poll_at(now, client, model)


def _recheck_s(shared: Shared) -> float:
    return _RECHECK_S[bool(shared.replica)]


def _proxy(
    watch: Watch,
    settings: Settings,
    shared: Shared,
    receivers: Receivers,
    draining: asyncio.Event,
) -> UpstreamProxy:
    proxied = Proxied(
        registry=shared.store.registry,
        clock=shared.clock,
        metrics=shared.metrics,
        upstream=watch.upstream,
        key=watch.key,
        timetable=watch.timetable,
        poller_wake=shared.store.tasks.due(watch.upstream.name),
        draining=draining,
        polls_here=lambda: watch.poller.lease.lasts,
        recheck_s=_recheck_s(shared),
        has_replicas=bool(shared.replica),
    )
    return UpstreamProxy(
        proxied,
        shared.store,
        callback_format=Format(settings.proxy_format),
        check_url=receivers.check,
        receiver_name=receivers.name_of,
        watch_s=settings.proxy_watch_s,
    )
