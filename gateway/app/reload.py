"""SIGHUP: what has changed in the settings and their files is taken over by the running gateway, or needs a restart.

Owns which settings can change while it runs, and that a configuration with a mistake changes nothing. The files are
read in a thread; all that changes does so at once, between two steps of the event loop. Called by ``serve.process``.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from gateway.app.gateway import Changed, Gateway, longest_attempt_s
from gateway.config import secretfile
from gateway.config.clients import callers, open_to_all, upstream_of
from gateway.config.settings import SETTINGS, Settings, UpstreamSettings, database_path
from gateway.core.addresses import is_loopback_host
from gateway.core.errors import ConfigError, GatewayError, SecretError

_log = structlog.get_logger()

_KEY = "upstream_api_key"  # what an upstream's key is made of, which is compared with the upstreams
_RELOADED = (*(row.key for row in SETTINGS if row.counts == "reload" and row.key != _KEY), "clients", "receivers")


def changes(running: Settings, secret: str, new: Settings) -> Changed:
    """Compare what runs with what was read. Raises ConfigError and SecretError for what would not be right together."""
    settings = msgspec.structs.replace(running, **{key: getattr(new, key) for key in _RELOADED})
    if problems := _not_together(settings, running):
        raise ConfigError(problems)
    database = database_path(settings.database_url)
    secret_path = None if database is None else secretfile.secret_path(database)
    new_secret = secretfile.in_use(settings.webhook_secret, lambda: database)
    if new_secret is None:
        gone = f"{secret_path}: there is no secret any more; put it back, or set GATEWAY_WEBHOOK_SECRET"
        raise SecretError(secretfile.NOT_SHARED if secret_path is None else gone)
    differing = [row for row in SETTINGS if getattr(running, row.key) != getattr(new, row.key)]
    names = [row.env for row in differing if row.key in _RELOADED]
    if new_secret != secret and "GATEWAY_WEBHOOK_SECRET" not in names:
        names.append(str(secret_path))
    clients, others = _by_name(running.clients), _by_name(new.clients)
    names += [f"[clients.{name}]" for name in clients | others if clients.get(name) != others.get(name)]
    # Of a table it does not matter where it stands among the others.
    tables, others = (
        {one.match: msgspec.structs.replace(one, place="") for one in each.receivers} for each in (running, new)
    )
    names += [f"[[receivers]] {match}" for match in tables | others if tables.get(match) != others.get(match)]
    restart = [row.env for row in differing if row.counts == "restart"]
    old, found = _by_name(running.upstreams), _by_name(new.upstreams)
    keys = {}
    for name in old.keys() | found.keys():
        before, after = old.get(name), found.get(name)
        if before is None or after is None or before != _with_key(after, before.api_key):
            restart.append(f"[upstreams.{name}]")
        elif before.api_key != after.api_key:
            keys[name] = after.api_key
            names.append(f"[upstreams.{name}] api_key")
    upstreams = tuple(_with_key(one, keys.get(one.name, one.api_key)) for one in running.upstreams)
    settings = msgspec.structs.replace(settings, upstreams=upstreams)
    return Changed(settings, keys, new_secret, names, sorted(restart))


def _not_together(settings: Settings, began_with: Settings) -> list[str]:
    """Return the mistakes of settings of which some are new, and the others those that the process began with."""
    there = {upstream.name for upstream in settings.upstreams}
    wanted = {
        client: upstream_of(client, settings.clients, settings.upstream)
        for client in callers(settings.token, settings.clients)
    }
    problems = [
        f"[clients.{client}]: upstream: {upstream} is not there before a restart"
        for client, upstream in wanted.items()
        if upstream not in there
    ]
    longest_s = longest_attempt_s(began_with)
    problems += [
        f"{one.place}: timeout_s: claims last for attempts of {longest_s:g} s; restart the gateway for longer ones"
        for one in settings.receivers
        if (one.timeout_s or 0.0) > longest_s and database_path(settings.database_url) is None
    ]
    with_tokens = [client for client in settings.clients if client.token_hashes]
    if not is_loopback_host(settings.host) and open_to_all(settings.token, with_tokens):
        problems.append(f"GATEWAY_HOST: it still listens on {settings.host}: without a token anyone could use it")
    return problems


class Reloads:
    """Reloads one after another; ``read`` reads everything anew. It begins with what the gateway was started with."""

    def __init__(self, gateway: Gateway, running: Settings, read: Callable[[], Settings]) -> None:
        self._gateway = gateway
        self._running = running
        self._read = read
        self._wanted = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin to reload; asked for once more meanwhile, it reloads once more afterwards."""
        self._wanted = True
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="reload")

    async def stop(self) -> None:
        """Let go of a reload that is not done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        try:
            await self._gateway.readiness.started.wait()
            while self._wanted:
                self._wanted = False
                await self._reload()
        finally:
            self._task = None

    async def _reload(self) -> None:
        try:
            changed = await asyncio.to_thread(lambda: changes(self._running, self._gateway.secret, self._read()))
        except GatewayError as error:
            problems = error.problems if isinstance(error, ConfigError) else [error.message]
            _log.error("config.refused", problems=list(problems))  # what was before stays in force
            return
        self._gateway.reload(changed)
        self._running = changed.settings
        _log.info("config.reloaded", changed=changed.names)
        if changed.restart:
            _log.warning("config.restart_needed", settings=changed.restart)


def _by_name(group: Sequence[Any]) -> dict[str, Any]:
    return {one.name: one for one in group}


def _with_key(upstream: UpstreamSettings, api_key: str | None) -> UpstreamSettings:
    return msgspec.structs.replace(upstream, api_key=api_key)
