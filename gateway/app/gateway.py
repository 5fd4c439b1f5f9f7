"""The wiring: the only place that builds the objects and ties them together.

Owns what is built, in which order it starts and drains, and what a reload changes. Knows no signals and no sockets that
listen: ``process`` has those.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway.api.auth import PUBLIC, AuthMiddleware, Tokens
from gateway.api.callbacks import Callbacks
from gateway.api.limits import ClientLimits
from gateway.api.operations import Operations, Trouble
from gateway.api.problems import ErrorAnswers
from gateway.api.proxy import UpstreamProxy
from gateway.api.shares import Shares
from gateway.api.tasks import Tasks
from gateway.app.preflight import ConfiguredUpstream, configured_upstreams
from gateway.app.reload import Changed
from gateway.config import secretfile
from gateway.config.load import DEFAULT_CLIENT, Settings, database_path
from gateway.config.tokens import token_digest
from gateway.core import private
from gateway.core.clock import Clock, FollowingClock
from gateway.core.errors import StoreError, Unavailable
from gateway.core.memory import Memory
from gateway.core.ratelimit import RateWindow
from gateway.core.telemetry import Metrics
from gateway.loops.backup import Backups
from gateway.loops.clocksteps import ClockSteps
from gateway.loops.deliverer import Deliverer
from gateway.loops.janitor import Janitor
from gateway.loops.poller import MOST_POLLS, Poller
from gateway.loops.supervisor import Loop, Supervisor
from gateway.net.guard import Netguard, parse_allow
from gateway.net.resolver import Resolver
from gateway.net.transport import PooledTransport
from gateway.signature import Signer, parse_secrets
from gateway.store.sqlite.store import SqliteStore
from gateway.upstream.api import Upstream
from gateway.upstream.budget import Budget
from gateway.upstream.key import UpstreamKey
from gateway.upstream.schedule import PollSchedule
from gateway.upstream.timetable import Timetable
from gateway.upstream.turns import MOST_UNDER_WAY
from gateway.webhook.headers import ClientHeaders, ClientWebhooks
from gateway.webhook.retry import RetryPolicy
from gateway.webhook.sender import Sender

__all__ = ["PUBLIC", "Gateway", "own_files"]

_log = structlog.get_logger()

_USER_AGENT = f"webhook-bridging-gateway/{__version__}"
_STOPPED = "The gateway shut down before this request was answered; send it again."
_CONNECTIONS = 256  # towards receivers, all together
_IDLE_CONNECTIONS = 128  # kept for the next webhook to the same receiver
_UPSTREAM_CONNECTIONS = MOST_POLLS + 2 * MOST_UNDER_WAY  # of each: as many as there are requests, so that none waits
_IDLE_UPSTREAM_CONNECTIONS = 64
_OTHER_FILES = 64  # the database, the event loop, the name server, the log
_UNLIMITED_PER_S = 1e6


def own_files(upstreams: int) -> int:
    """Return how many files the gateway may have open beside its clients' connections, with so many upstreams."""
    theirs = upstreams * (_UPSTREAM_CONNECTIONS + _IDLE_UPSTREAM_CONNECTIONS)
    return _CONNECTIONS + _IDLE_CONNECTIONS + theirs + _OTHER_FILES


class Gateway:
    """One gateway: an ASGI application, its store and its loops."""

    def __init__(self, settings: Settings, clock: Clock, upstreams: Sequence[ConfiguredUpstream] | None = None) -> None:
        """Build everything; nothing is opened, written or started. ``upstreams``: as found before, else found here.

        Raises ConfigError.
        """
        clock = FollowingClock(clock)
        self._drain_s = settings.drain_s
        self._ready_upstreams = settings.ready_upstreams
        self._draining = asyncio.Event()
        self.started = asyncio.Event()
        """Set once the store is open and the loops run."""
        self.secret = ""
        self._settings = settings
        self._database = database = database_path(settings)
        metrics = Metrics()
        if upstreams is None:
            upstreams = configured_upstreams(settings)
        self._guard = Netguard(parse_allow(",".join(settings.callback_allow)))
        self._resolver = Resolver()
        resolve = self._resolver.resolve
        self._callback_transport = PooledTransport(
            guard=self._guard,
            resolve=resolve,
            limit=_CONNECTIONS,
            limit_idle=_IDLE_CONNECTIONS,
            repeats_posts=True,  # receivers know a webhook by its id
        )
        self._memory = Memory(settings.memory_bytes)
        self._store = SqliteStore(database, first_attempt_delay_s=settings.retry_schedule[0])
        self._backup = database.with_name(database.name + ".backup")
        self._backups = Backups(self._store, clock, self._backup)
        self._client_headers = ClientHeaders()
        self._watches = [self._watch(upstream, settings, clock, metrics) for upstream in upstreams]
        self._clock_steps = ClockSteps(self._store, clock)
        self._supervisor = Supervisor(self._loops(settings, clock, metrics), clock, metrics, self._clock_steps)
        default = next((watch for watch in self._watches if watch.default), None)
        proxied = None if default is None or default.upstream.profile.proxy is None else default
        self._callbacks = self._build_callbacks(default, settings, clock, metrics)
        self._proxy = None if proxied is None else self._build_proxy(proxied, clock, metrics)
        self._errors = ErrorAnswers(None if proxied is None else proxied.upstream.profile)
        self._tokens = Tokens(*_tokens(settings))
        self._limits = ClientLimits(_rates(settings), clock)
        self._app = Starlette(
            routes=self._routes(proxied, clock, metrics),
            middleware=[Middleware(AuthMiddleware, tokens=self._tokens, limits=self._limits, errors=self._errors)],
            exception_handlers=self._errors.handlers(),
        )
        self._app.state.memory = self._memory
        self._app.state.shares = Shares()
        self._app.router.redirect_slashes = False  # an unknown path is a 404, not a redirect to what Host says

    def _watch(self, configured: ConfiguredUpstream, bounds: Settings, clock: Clock, metrics: Metrics) -> "_Watch":
        settings, profile, is_default = configured
        name, rate = settings.name, settings.rate or ()
        rng = random.Random()  # noqa: S311 - jitter, not a secret
        key = UpstreamKey(
            name,
            self._budget(f"queries:{name}", rate, clock),
            self._budget(f"creates:{name}", settings.create_rate or (), clock),
            metrics,
        )
        for kind, budget in (("query", key.queries), ("create", key.creates)):
            metrics.budget_used.labels(name, kind).set_function(budget.used)
        for gauge in (metrics.waiting, metrics.poll_overdue_seconds):
            gauge.labels(name)  # stands at 0 from the start
        # Of its own: one that hangs holds all of its connections, and nobody else's.
        transport = PooledTransport(
            guard=None,
            resolve=self._resolver.resolve,
            limit=_UPSTREAM_CONNECTIONS,
            limit_idle=_IDLE_UPSTREAM_CONNECTIONS,
        )
        upstream = Upstream(
            profile,
            transport,
            clock,
            base_url=settings.url or profile.base_url,
            api_key=settings.api_key,
            name=name,
            max_answer=bounds.result_max_bytes,
            memory=self._memory,
        )
        min_s = max(bounds.poll_min_s, profile.limits.poll_min_s or 0.0)
        schedule = PollSchedule(min_s, max(bounds.poll_max_s, min_s))
        timetable = Timetable(schedule, min((w.limit / w.window_s for w in rate), default=_UNLIMITED_PER_S), clock, rng)
        poller = Poller(self._store.tasks, upstream, key, timetable, clock, metrics)
        metrics.upstream_nonsense.labels(name).set_function(lambda: float(poller.makes_no_sense))
        metrics.upstream_limited.labels(name).set_function(lambda: float(key.limited))
        return _Watch(upstream, transport, key, timetable, poller, is_default)

    def _budget(self, key: str, windows: Sequence[RateWindow], clock: Clock) -> Budget:
        return Budget(windows, clock, partial(self._store.load, key), partial(self._store.swap, key))

    def _loops(self, settings: Settings, clock: Clock, metrics: Metrics) -> list[Loop]:
        deliverer = Deliverer(
            self._store.outbox,
            Sender(
                self._callback_transport,
                clock,
                timeout_s=settings.attempt_timeout_s,
                user_agent=_USER_AGENT,
                names=self._callback_transport,
            ),
            self._client_headers,
            RetryPolicy(settings.retry_schedule),
            self._memory,
            clock,
            metrics,
            random.Random(),  # noqa: S311 - jitter, not a secret
        )
        janitor = Janitor(self._store, clock, settings.retention_days)
        return [*(watch.poller for watch in self._watches), deliverer, janitor]

    def _build_callbacks(
        self, default: "_Watch | None", settings: Settings, clock: Clock, metrics: Metrics
    ) -> Callbacks:
        return Callbacks(
            self._store.registry,
            clock,
            metrics,
            check_url=self._check_url,
            first_poll_at={watch.upstream.name: watch.timetable.first_poll_at for watch in self._watches},
            default_upstream=None if default is None else default.upstream.name,
            client_upstreams=_client_upstreams(settings),
        )

    def _build_proxy(self, proxied: "_Watch", clock: Clock, metrics: Metrics) -> UpstreamProxy:
        return UpstreamProxy(
            self._store.registry,
            self._store,
            clock,
            metrics,
            proxied.upstream,
            proxied.key,
            proxied.timetable,
            check_url=self._check_url,
            poller_wake=self._store.tasks.due(proxied.upstream.name),
            draining=self._draining,
        )

    def _routes(self, proxied: "_Watch | None", clock: Clock, metrics: Metrics) -> list[Route]:
        tasks = Tasks(self._store.registry, clock, self._draining, [watch.upstream.name for watch in self._watches])
        operations = Operations(
            self._store.registry,
            clock,
            metrics,
            unhealthy=self._supervisor.problem,
            troubles=self._troubles,
            calls=None if proxied is None else proxied.upstream.profile.proxy,
        )
        routes = [*self._callbacks.routes(), *tasks.routes(), *operations.routes()]
        return routes if self._proxy is None else [*routes, *self._proxy.routes()]

    async def _check_url(self, url: str) -> None:
        await self._guard.check_registration(url, self._resolver.resolve)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.started.is_set() and scope["type"] == "http" and scope["path"] not in PUBLIC:
            # Nothing may be spent before it is known what an earlier process spent.
            answer = self._errors.answer(scope["path"], Unavailable("The gateway is starting."))
            await answer(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            # Where its client has gone, nobody reads this. Where the answer has begun, only its end can tell.
            if not self._draining.is_set() or scope["type"] != "http" or scope.get("answer_begun", False):
                raise
            answer = self._errors.answer(scope["path"], Unavailable(_STOPPED))
            await answer(scope, receive, send)

    async def start(self) -> None:
        """Open the store, find the webhook secret and start the loops. Raises StoreUnusable and SecretError."""
        self._tell_exposed(self._settings)
        await self._store.open()
        await self._clock_steps.catch_up()
        private.tighten(self._backup)
        signer = await self._signer()
        self._client_headers.use(
            signer, _client_webhooks(self._settings, signer), _signing_secrets(self._settings, self.secret)
        )
        for watch in self._watches:
            await watch.poller.prepare()
        for name, tasks in (
            await self._store.registry.tasks_of_others([w.upstream.name for w in self._watches])
        ).items():
            _log.warning("upstream.not_configured", upstream=name, tasks=tasks)
        self._supervisor.start()
        self.started.set()

    def _tell_exposed(self, settings: Settings) -> None:
        for path in settings.secret_files:
            if private.is_exposed(Path(path)):
                _log.warning("secret.exposed", path=path)

    async def _signer(self) -> Signer:
        """Return who signs where a client has no secret of its own, and log where the secret came from."""
        configured = self._settings.webhook_secret
        path = secretfile.secret_path(self._database)
        kept = secretfile.in_use(configured, lambda: self._database)
        if kept is None:
            # Only now that the database is open, and known to owe nothing that the lost one was to sign.
            callbacks = await self._store.registry.count_callbacks()
            kept = secretfile.make(path, callbacks)
            known = sum(callbacks.values())
            _log.log(logging.WARNING if known else logging.INFO, "secret.made", source=str(path), callbacks=known)
        else:
            _log.info("secret.loaded", source=self._settings.webhook_secret_from if configured else str(path))
        if not configured:
            private.tighten(path)
        self.secret = kept
        return Signer(parse_secrets(kept))

    def reload(self, changed: Changed) -> None:
        """Take changed settings over, all of them at once: what is under way ends as it began."""
        settings = changed.settings
        self._tell_exposed(settings)
        self._tokens.replace(*_tokens(settings))
        self._limits.replace(_rates(settings))
        self._callbacks.client_upstreams = _client_upstreams(settings)
        self.secret = changed.secret
        signer = Signer(parse_secrets(self.secret))
        self._client_headers.use(signer, _client_webhooks(settings, signer), _signing_secrets(settings, self.secret))
        for watch in self._watches:
            if watch.upstream.name in changed.keys:
                watch.upstream.use_key(changed.keys[watch.upstream.name])
                watch.key.renewed()
                self._store.tasks.due(watch.upstream.name).set()

    def begin_backup(self) -> None:
        """Begin to copy the database into a file beside it."""
        self._backups.begin()

    def begin_drain(self) -> None:
        """Answer requests that are held, and stop being ready."""
        self._draining.set()

    async def drain(self) -> None:
        """Claim nothing more; finish or interrupt what is in flight within the drain time."""
        self.begin_drain()
        drains = [self._supervisor.drain(self._drain_s), self._backups.stop()]
        if self._proxy is not None:
            drains.append(self._proxy.drain(self._drain_s))
        await asyncio.gather(*drains)
        with suppress(StoreError):  # then the next start finds its last write in the future
            await self._clock_steps.finish()

    async def close(self) -> None:
        """Let everything go; safe when nothing was started."""
        self.started.clear()
        await self._store.close()
        await self._callback_transport.aclose()
        for watch in self._watches:
            await watch.transport.aclose()
        await self._resolver.close()
        self._memory.close()

    def _troubles(self) -> list[Trouble]:
        """Return all that is wrong, for everybody to see: no message of an upstream, a database or an exception."""
        found = []
        if self._draining.is_set():
            found.append(Trouble("it is shutting down", stops_work=True))
        elif not self.started.is_set():
            found.append(Trouble("it is starting", stops_work=True))
        if (lost := self._store.lost) is not None:
            found.append(Trouble(lost, stops_work=True))
        elif self._store.failing is not None:
            found.append(Trouble("the store is failing", stops_work=True))
        refused = [watch.upstream.name for watch in self._watches if watch.key.refusal is not None]
        stops_work = self._ready_upstreams == "all" or len(refused) == len(self._watches)
        found += [Trouble(f"the upstream {name} refuses the key", stops_work) for name in refused]
        found += [
            Trouble(f"the upstream {watch.upstream.name} accepts the key and refuses some of the tasks", False)
            for watch in self._watches
            if watch.poller.refuses_tasks
        ]
        found += [
            Trouble(f"the upstream {watch.upstream.name} answers nonsense, or denies tasks that it has told of", False)
            for watch in self._watches
            if watch.poller.makes_no_sense
        ]
        found += [
            Trouble(f"the upstream {watch.upstream.name} allows fewer requests than are configured", False)
            for watch in self._watches
            if watch.key.limited
        ]
        if (problem := self._supervisor.problem()) is not None:
            found.append(Trouble(problem, stops_work=True))
        return found


class _Watch(NamedTuple):
    """What belongs to one upstream."""

    upstream: Upstream
    transport: PooledTransport
    key: UpstreamKey
    timetable: Timetable
    poller: Poller
    default: bool


def _tokens(settings: Settings) -> tuple[dict[bytes, str], bytes | None]:
    """Return whose token each digest is, GATEWAY_TOKEN being the default client's, and the operator's."""
    tokens = {digest: client.name for client in settings.clients for digest in client.token_hashes}
    if settings.token is not None:
        tokens[token_digest(settings.token)] = DEFAULT_CLIENT
    return tokens, None if settings.operator_token is None else token_digest(settings.operator_token)


def _rates(settings: Settings) -> dict[str, tuple[RateWindow, ...]]:
    return {client.name: client.rate for client in settings.clients if client.rate is not None}


def _client_upstreams(settings: Settings) -> dict[str, str]:
    return {client.name: client.upstream for client in settings.clients if client.upstream is not None}


def _client_webhooks(settings: Settings, default: Signer) -> dict[str, ClientWebhooks]:
    """Return what is particular to each client's webhooks. Raises SecretError."""
    clients = {DEFAULT_CLIENT: ClientWebhooks(default, {})}
    for client in settings.clients:
        own = client.webhook_secret
        signer = default if own is None else Signer(parse_secrets(" ".join(own)))
        clients[client.name] = ClientWebhooks(signer, client.headers)
    return clients


def _signing_secrets(settings: Settings, default: str) -> list[str]:
    """Return all that signs webhooks, as it is written."""
    return [*default.split(), *(secret for client in settings.clients for secret in client.webhook_secret or ())]
