"""One gateway, of ready parts: how it starts, drains and closes, what a reload changes, and whether it is ready.

Knows no signals and no sockets that listen: ``process`` has those. What it is made of ``build`` knows, which makes it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog
from prometheus_client import Metric
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.auth import PUBLIC, ClientLimits, Tokens
from gateway.api.operations import Trouble
from gateway.api.problems import ErrorAnswers
from gateway.api.proxy import UpstreamProxy
from gateway.api.registering import Registering
from gateway.api.routing import Call
from gateway.config import secretfile
from gateway.config.receivers import table_of
from gateway.config.settings import DEFAULT_CLIENT, Settings, database_path
from gateway.config.tokens import token_digest
from gateway.core import private
from gateway.core.clientrequests import ClientRequests
from gateway.core.errors import SecretError, StoreError, Unavailable
from gateway.core.memory import Memory
from gateway.core.model import Backlog
from gateway.core.ratelimit import RateWindow
from gateway.core.shares import Shares
from gateway.dashboard.site import Site
from gateway.loops.clocksteps import ClockSteps
from gateway.loops.janitor import Backups
from gateway.loops.leading import Leading
from gateway.loops.poller import Poller
from gateway.loops.supervisor import Supervisor
from gateway.net.resolver import Resolver
from gateway.net.transport import PooledTransport
from gateway.signature import Signer, parse_secrets
from gateway.store import Store
from gateway.upstream.api import Upstream
from gateway.upstream.key import UpstreamKey
from gateway.upstream.timetable import Timetable
from gateway.webhook.headers import ClientHeaders, ClientWebhooks
from gateway.webhook.receivers import Receivers

if TYPE_CHECKING:
    from gateway.otel.exporting import Exporting

_log = structlog.get_logger()

_FULL = "disk is full"
"""What SQLite says then, among other words."""
_STOPPED = "The gateway shut down before this request was answered; send it again."


class Api(NamedTuple):
    """What answers requests."""

    app: ASGIApp
    tokens: Tokens
    limits: ClientLimits
    requests: ClientRequests
    """Those under way, the pages' too."""
    shares: Shares
    """What has been asked of the database for them, and for the pages' forms."""
    registering: Registering
    proxies: Sequence[UpstreamProxy]
    errors: ErrorAnswers
    backlog: Callable[[], Awaitable[Backlog | None]]
    """What waits, as the metrics tell it."""
    calls: Sequence[Call]
    """All that is served."""
    families: Callable[[], Awaitable[Sequence[Metric]]]
    """All metrics, as they are now."""


class Watch(NamedTuple):
    """What belongs to one upstream."""

    upstream: Upstream
    transport: PooledTransport
    key: UpstreamKey
    timetable: Timetable
    poller: Poller
    default: bool
    """Whether callbacks mean it that name none."""


FLAWS: Sequence[tuple[str, Callable[[Watch], bool]]] = (
    ("accepts the key and refuses some of the tasks", lambda watch: watch.poller.refuses_tasks),
    ("answers nonsense, or denies tasks that it has told of", lambda watch: watch.poller.makes_no_sense),
    ("gives no answer, or errors alone", lambda watch: watch.poller.gives_no_answer),
    ("allows fewer requests than are configured", lambda watch: watch.key.limited),
)
"""What may be wrong with an upstream that accepts its key: what it does, and whether it does so."""


class ReadyCheck:
    """Whether a gateway has started, whether it is shutting down, and what its parts say, for everybody to see.

    So no message of an upstream, a database or an exception is among it.
    """

    def __init__(
        self,
        store: Store,
        watches: Sequence[Watch],
        supervisor: Supervisor,
        leading: Leading | None = None,
        *,
        needs_all: bool,
    ) -> None:
        """``leading``: where there are replicas. ``needs_all``: every upstream has to accept its key, not just any."""
        self.started = asyncio.Event()
        """Set once the store is open and the loops run."""
        self.draining = asyncio.Event()
        """Set once it is to take nothing more."""
        self.supervisor = supervisor
        self._store = store
        self._watches = watches
        self._leading = leading
        self._needs_all = needs_all
        self.events_error: Callable[[], str | None] = lambda: None
        """Why what the operator is to be told does not get through; None where it does."""
        self.export_fails: Callable[[], bool] = bool
        """Whether spans or metrics do not get through to their collector."""
        self.failing_proxies: Callable[[], Sequence[str]] = list
        """Host and port of each egress proxy that cannot be used."""

    def troubles(self) -> list[Trouble]:
        found = []
        if self.draining.is_set():
            found.append(Trouble("it is shutting down", stops_work=True))
        elif not self.started.is_set():
            found.append(Trouble("it is starting", stops_work=True))
        if (lost := self._store.lost) is not None:
            found.append(Trouble(lost, stops_work=True))
        elif (why := self._store.failing) is not None:
            full = ": its disk is full" if _FULL in why else ""
            found.append(Trouble(f"the store is failing{full}", stops_work=True))
        found.extend(self._of_upstreams())
        if proxies := self.failing_proxies():
            found.append(Trouble("an egress proxy cannot be used", stops_work=False, detail=", ".join(proxies)))
        if (problem := self.supervisor.problem()) is not None:
            found.append(Trouble(problem, stops_work=True))
        if (error := self.events_error()) is not None:
            found.append(Trouble("operator events do not get through", stops_work=False, detail=error))
        if self.export_fails():
            found.append(Trouble("spans or metrics do not get through to their collector", stops_work=False))
        return found

    def _of_upstreams(self) -> Iterator[Trouble]:
        refused = [watch.upstream.name for watch in self._watches if watch.key.refused]
        stops_work = self._needs_all or len(refused) == len(self._watches)
        for name in refused:
            yield Trouble(f"the upstream {name} refuses the key", stops_work)
        for words, holds in FLAWS:
            for watch in filter(holds, self._watches):
                yield Trouble(f"the upstream {watch.upstream.name} {words}", stops_work=False)
        for name in () if self._leading is None else self._leading.leaderless():
            yield Trouble(f"no replica polls the upstream {name}", stops_work=False)


class Changed(NamedTuple):
    """What a reload comes to."""

    settings: Settings
    """Those that are in force from then on."""
    keys: Mapping[str, str | None]
    """By upstream, each key that is another one."""
    secret: str
    """What signs for clients without a secret of their own."""
    names: list[str]
    """What has changed, and counts from then on."""
    restart: list[str]
    """What has changed, and counts after a restart only."""


@dataclass(eq=False, kw_only=True, repr=False)
class Gateway:
    """One gateway: an ASGI application, its store and its loops."""

    settings: Settings
    """Those that it was built with."""
    store: Store
    clock_steps: ClockSteps | None
    """None: all go by the database's clock."""
    supervisor: Supervisor
    watches: Sequence[Watch]
    client_headers: ClientHeaders
    receivers: Receivers
    api: Api
    site: Site
    """Its pages."""
    readiness: ReadyCheck
    backup: Path | None
    """Where a backup stands; None: the database is a server's."""
    backups: Backups
    callback_transport: PooledTransport
    events_transport: PooledTransport | None
    """None: there are no operator events."""
    events_receivers: Receivers | None
    """The same tables, for whoever is told of them."""
    resolver: Resolver
    memory: Memory
    exporting: "Exporting | None" = None
    """What sends spans and metrics to a collector."""
    in_force: Settings = field(init=False)
    """What counts now: the same, but for what was reloaded."""
    secret: str = field(default="", init=False)
    """What signs for clients without a secret of their own; empty until it has started."""

    def __post_init__(self) -> None:
        self.in_force = self.settings
        if (exporting := self.exporting) is not None:
            self.readiness.export_fails = lambda: exporting.failing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.api.app
        if scope["type"] == "http":
            scope = _below(scope, self.settings.root_path)
            if self.site.has(scope["path"]):
                app = self.site
            elif not self.readiness.started.is_set() and scope["path"] not in PUBLIC:
                # Nothing may be spent before it is known what an earlier process spent.
                app = self.api.errors.answer(scope["path"], Unavailable("The gateway is starting."))
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            # Where its client has gone, nobody reads this. Where the answer has begun, only its end can tell.
            if not self.readiness.draining.is_set() or scope["type"] != "http" or scope.get("answer_begun", False):
                raise
            answer = self.api.errors.answer(scope["path"], Unavailable(_STOPPED))
            await answer(scope, receive, send)

    async def start(self) -> None:
        """Open the store, find the webhook secret and start the loops. Raises StoreUnusable and SecretError."""
        _tell_exposed(self.settings)
        await self.store.open()
        if self.clock_steps is not None:
            await self.clock_steps.catch_up()
        if self.backup is not None:
            private.tighten(self.backup)
        self._sign(self.settings, await self._find_secret())
        for watch in self.watches:
            await watch.poller.prepare()
        for name, tasks in (await self.store.registry.tasks_of_others([w.upstream.name for w in self.watches])).items():
            _log.warning("upstream.not_configured", upstream=name, tasks=tasks)
        self.supervisor.start()
        self.readiness.started.set()
        if self.exporting is not None:
            self.exporting.start(self.api.families)

    async def _find_secret(self) -> str:
        """Return what signs where a client has no secret of its own, and log where it came from."""
        configured = self.settings.webhook_secret
        database = database_path(self.settings.database_url)
        kept = secretfile.in_use(configured, lambda: database)
        if database is None:
            if kept is None:
                raise SecretError(secretfile.NOT_SHARED)
            _log.info("secret.loaded", source=self.settings.webhook_secret_from)
            return kept
        path = secretfile.secret_path(database)
        if kept is None:
            # Only now that the database is open, and known to owe nothing that the lost one was to sign.
            callbacks = await self.store.registry.count_callbacks()
            kept = secretfile.make(path, callbacks)
            known = sum(callbacks.values())
            _log.log(logging.WARNING if known else logging.INFO, "secret.made", source=str(path), callbacks=known)
        else:
            _log.info("secret.loaded", source=self.settings.webhook_secret_from if configured else str(path))
        if not configured:
            private.tighten(path)
        return kept

    def _sign(self, settings: Settings, secret: str) -> None:
        """Sign each client's webhooks with its own secrets from now on, else with ``secret``."""
        self.secret = secret
        default = Signer(parse_secrets(secret))
        clients = {DEFAULT_CLIENT: ClientWebhooks(default, {})}
        written = secret.split()
        for client in settings.clients:
            own = client.webhook_secret
            signer = default if own is None else Signer(parse_secrets(" ".join(own)))
            clients[client.name] = ClientWebhooks(signer, client.headers)
            written.extend(own or ())
        self.receivers.use(settings.receivers)
        if self.events_receivers is not None and settings.events_url is not None:
            its = table_of(settings.receivers, settings.events_url)
            self.events_receivers.use([] if its is None else [its])
        written.extend(self.receivers.secrets)
        self.client_headers.use(default, clients, written, settings.record_hmac_key)

    def reload(self, changed: Changed) -> None:
        """Take changed settings over, all of them at once: what is under way ends as it began."""
        self.in_force = settings = changed.settings
        _tell_exposed(settings)
        self.api.tokens.replace(*token_owners(settings))
        self.api.limits.replace(client_rates(settings))
        self.api.registering.client_upstreams = client_upstreams(settings)
        self._sign(settings, changed.secret)
        for watch in self.watches:
            if watch.upstream.name in changed.keys:
                watch.upstream.use_key(changed.keys[watch.upstream.name])
                watch.key.renewed()
                self.store.tasks.due(watch.upstream.name).set()

    def begin_drain(self) -> None:
        """Answer requests that are held, and stop being ready."""
        self.readiness.draining.set()

    async def drain(self) -> None:
        """Claim nothing more; finish or interrupt what is in flight within the drain time."""
        self.begin_drain()
        drain_s, loop = self.settings.drain_s, asyncio.get_running_loop()
        ends_at = loop.time() + drain_s
        proxies = (proxy.drain(drain_s) for proxy in self.api.proxies)
        await asyncio.gather(self.supervisor.drain(drain_s), self.backups.stop(), *proxies)
        for watch in self.watches:
            with suppress(StoreError):  # then others count what is left of them as used, for a few seconds
                await watch.key.close()
        if self.clock_steps is not None:
            with suppress(StoreError):  # then the next start finds its last write in the future
                await self.clock_steps.finish()
        if self.exporting is not None:
            await self.exporting.stop(ends_at - loop.time())

    async def close(self) -> None:
        """Let everything go; safe when nothing was started."""
        self.readiness.started.clear()
        await self.store.close()
        await self.callback_transport.aclose()
        if self.events_transport is not None:
            await self.events_transport.aclose()
        if self.events_receivers is not None:
            await self.events_receivers.aclose()
        await self.receivers.aclose()
        for watch in self.watches:
            await watch.transport.aclose()
        await self.resolver.close()
        self.memory.close()


def _below(scope: Scope, root_path: str) -> Scope:
    """Return a request as it stands below ``root_path``, which many a proxy leaves before its path."""
    root, raw = root_path.encode(), scope["raw_path"]
    if not root or not (raw == root or raw.startswith(root + b"/")):
        return scope
    return {**scope, "raw_path": raw[len(root) :] or b"/", "path": scope["path"][len(root_path) :] or "/"}


def _tell_exposed(settings: Settings) -> None:
    for path in settings.secret_files:
        if private.is_exposed(Path(path)):
            _log.warning("secret.exposed", path=path)


def token_owners(settings: Settings) -> tuple[dict[bytes, str], bytes | None]:
    """Return whose token each digest is, GATEWAY_TOKEN being the default client's, and the operator's."""
    tokens = {digest: client.name for client in settings.clients for digest in client.token_hashes}
    if settings.token is not None:
        tokens[token_digest(settings.token)] = DEFAULT_CLIENT
    return tokens, None if settings.operator_token is None else token_digest(settings.operator_token)


def client_rates(settings: Settings) -> dict[str, tuple[RateWindow, ...]]:
    return {client.name: client.rate for client in settings.clients if client.rate is not None}


def client_upstreams(settings: Settings) -> dict[str, str]:
    return {client.name: client.upstream for client in settings.clients if client.upstream is not None}


def longest_attempt_s(settings: Settings) -> float:
    """Return how long an attempt may take, whomever it is to."""
    own = (one.timeout_s for one in settings.receivers if one.timeout_s is not None)
    return max((settings.attempt_timeout_s, *own))
