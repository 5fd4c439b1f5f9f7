"""SIGHUP: what has changed in the settings and their files is taken over by the running gateway, or needs a restart.

Owns which settings can change while it runs, and that a configuration with a mistake changes nothing. The files are
read in a thread; all that changes does so at once, between two steps of the event loop. Called by the wiring.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from gateway.app.preflight import ConfiguredUpstream, Preflight, callers, upstream_of
from gateway.config import secretfile
from gateway.config.load import SETTINGS, Settings, database_path
from gateway.config.settings import is_loopback, open_to_all
from gateway.core.errors import ConfigError, GatewayError, SecretError

__all__ = ["Changed", "Reloads", "changes"]

_log = structlog.get_logger()

_RELOADED = ("webhook_secret", "token", "operator_token", "clients")
_NOT_OURS = ("url", "upstream_api_key")  # the client commands', and what the upstreams' keys are made of


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


class Reloadable(Protocol):
    """The running gateway."""

    started: asyncio.Event
    """Set once it runs; only then can it change."""
    secret: str
    """What signs for clients without a secret of their own."""

    def reload(self, changed: Changed) -> None:
        """Take the changes over."""


def changes(running: Preflight, secret: str, new: Preflight) -> Changed:
    """Compare what runs with what was read. Raises ConfigError and SecretError for what would not be right together."""
    settings = msgspec.structs.replace(running.settings, **{key: getattr(new.settings, key) for key in _RELOADED})
    there = {upstream.settings.name for upstream in running.upstreams}
    wanted = {
        client: upstream_of(client, settings.clients, settings.upstream)
        for client in callers(settings.token, settings.clients)
    }
    problems = [
        f"[clients.{client}]: upstream: {upstream} is not there before a restart"
        for client, upstream in wanted.items()
        if upstream not in there
    ]
    if not is_loopback(settings.host) and open_to_all(settings.token, [c for c in settings.clients if c.token_hashes]):
        problems.append(f"GATEWAY_HOST: it still listens on {settings.host}: without a token anyone could use it")
    if problems:
        raise ConfigError(problems)
    secret_path = secretfile.secret_path(database_path(settings))
    new_secret = secretfile.in_use(settings.webhook_secret, lambda: database_path(settings))
    if new_secret is None:
        raise SecretError(f"{secret_path}: there is no secret any more; put it back, or set GATEWAY_WEBHOOK_SECRET")
    names = [row.env for row in SETTINGS if row.key in _RELOADED and _differ(row.key, running, new)]
    if new_secret != secret and "GATEWAY_WEBHOOK_SECRET" not in names:
        names.append(str(secret_path))
    names += [f"[clients.{name}]" for name in _differing(running.settings.clients, new.settings.clients)]
    restart = [
        row.env for row in SETTINGS if row.key not in (*_RELOADED, *_NOT_OURS) and _differ(row.key, running, new)
    ]
    old, found = (_by_name(preflight.upstreams) for preflight in (running, new))
    keys = {}
    for name in old.keys() | found.keys():
        before, after = old.get(name), found.get(name)
        if before is None or after is None or _without_key(before) != _without_key(after):
            restart.append(f"[upstreams.{name}]")
        elif before.settings.api_key != after.settings.api_key:
            keys[name] = after.settings.api_key
            names.append(f"[upstreams.{name}] api_key")
    return Changed(settings, keys, new_secret, names, sorted(restart))


class Reloads:
    """Reloads one after another; ``read`` reads everything anew. It begins with what the gateway was started with."""

    def __init__(self, gateway: Reloadable, running: Preflight, read: Callable[[], Preflight]) -> None:
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
            await self._gateway.started.wait()
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
        upstreams = tuple(_with_key(upstream, changed.keys) for upstream in self._running.upstreams)
        self._running = Preflight(changed.settings, upstreams)
        _log.info("config.reloaded", changed=changed.names)
        if changed.restart:
            _log.warning("config.restart_needed", settings=changed.restart)


def _differ(key: str, running: Preflight, new: Preflight) -> bool:
    return bool(getattr(running.settings, key) != getattr(new.settings, key))


def _differing(old: Any, new: Any) -> list[str]:
    before, after = ({one.name: one for one in group} for group in (old, new))
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def _by_name(upstreams: tuple[ConfiguredUpstream, ...]) -> dict[str, ConfiguredUpstream]:
    return {upstream.settings.name: upstream for upstream in upstreams}


def _without_key(upstream: ConfiguredUpstream) -> ConfiguredUpstream:
    return upstream._replace(settings=msgspec.structs.replace(upstream.settings, api_key=None))


def _with_key(upstream: ConfiguredUpstream, keys: Mapping[str, str | None]) -> ConfiguredUpstream:
    own = upstream.settings
    return upstream._replace(settings=msgspec.structs.replace(own, api_key=keys.get(own.name, own.api_key)))
