"""What must be right before anything is opened or written: one report of all that ``serve`` would refuse.

Owns which upstreams there are, made of the settings and the profiles, and the checks that need more than the settings'
own text: profiles, keys, the database with its folder, the secret beside it. Writes nothing. ``serve``, its reload and
``check-config`` use the same function; a gateway that is built from settings alone takes ``configured_upstreams``.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from gateway.config import secretfile
from gateway.config.load import (
    DEFAULT_CLIENT,
    ClientSettings,
    Draft,
    Settings,
    UpstreamSettings,
    config_dir,
    load,
    path_of_database,
)
from gateway.config.profile import Profile
from gateway.config.profilefile import read_profiles
from gateway.config.settings import is_loopback, open_to_all
from gateway.core.errors import ConfigError, SecretError
from gateway.core.ratelimit import RateWindow
from gateway.net.allow import parse_allow
from gateway.signature import Signer, parse_secrets
from gateway.store.sqlite import peek
from gateway.store.sqlite.databasefile import beside

__all__ = ["ConfiguredUpstream", "Preflight", "callers", "configured_upstreams", "preflight", "upstream_of"]


class ConfiguredUpstream(NamedTuple):
    """One upstream: its name, key and limits, and how it is asked."""

    settings: UpstreamSettings
    """With nothing left open but the key: what no setting says is the profile's."""
    profile: Profile
    default: bool
    """Whether callbacks mean it that name none."""


class Preflight(NamedTuple):
    """Settings that can be served."""

    settings: Settings
    upstreams: tuple[ConfiguredUpstream, ...]


def preflight(environ: Mapping[str, str], config_path: Path | None) -> Preflight:
    """Read the settings and check all that can be checked without opening or writing anything.

    Raises ConfigError that holds every mistake.
    """
    upstreams: list[ConfiguredUpstream] = []

    def check_upstreams(draft: Draft) -> Iterator[str]:
        found, problems = _upstreams(draft)
        upstreams.extend(found)
        yield from problems
        yield from _missing_keys(found, draft)

    validators: dict[str, Callable[[Any], object]] = {
        "webhook_secret": lambda secrets: Signer(parse_secrets(" ".join(secrets))),
        "callback_allow": lambda entries: parse_allow(",".join(entries)),
    }
    settings = load(environ, config_path, validators, (check_upstreams, _check_files))
    return Preflight(settings, tuple(upstreams))


def configured_upstreams(settings: Settings) -> tuple[ConfiguredUpstream, ...]:
    """Return the upstreams, the default one first, where there is one. Raises ConfigError."""
    values = {name: getattr(settings, name) for name in settings.__struct_fields__}
    names = tuple(upstream.name for upstream in settings.upstreams)
    found, problems = _upstreams(Draft(values, settings.upstreams, names, settings.clients, clients_whole=True))
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _upstreams(draft: Draft) -> tuple[list[ConfiguredUpstream], list[str]]:
    """Return the upstreams that can be had, and what is wrong with them and with the profiles."""
    own = draft.values.get("profiles")
    profiles, problems = read_profiles([config_dir() / "upstreams"] + ([] if own is None else [Path(own)]))
    wanted = {upstream.name: upstream for upstream in draft.upstreams}
    default = draft.values.get("upstream")
    if default is not None and (default in wanted or default not in draft.upstream_names):
        own_settings = _default_upstream(default, wanted.pop(default, None), draft, problems)
        wanted = {default: own_settings, **wanted}
    found = []
    for name, upstream in wanted.items():
        profile = profiles.get(upstream.profile)
        if profile is None:
            place = f"[upstreams.{name}]" if name in draft.upstream_names else "GATEWAY_UPSTREAM"
            problems.append(
                f"{place}: there is no profile {upstream.profile}; there are: {', '.join(sorted(profiles))}"
            )
            continue
        upstream = msgspec.structs.replace(
            upstream,
            url=upstream.url or profile.base_url,
            rate=_windows(profile.limits.query) if upstream.rate is None else upstream.rate,
            create_rate=_windows(profile.limits.create) if upstream.create_rate is None else upstream.create_rate,
        )
        if name == default and _key_missing(upstream) and not _default_used(draft, name) and len(wanted) > 1:
            continue
        found.append(ConfiguredUpstream(upstream, profile, name == default))
    return found, problems


def _windows(of_profile: Sequence[RateWindow]) -> tuple[RateWindow, ...]:
    return tuple(RateWindow(window.limit, window.window_s) for window in of_profile)


def _default_upstream(name: str, table: UpstreamSettings | None, draft: Draft, problems: list[str]) -> UpstreamSettings:
    """Return the default upstream's settings: of its table, where it has one, and of GATEWAY_UPSTREAM_…."""
    table = table or UpstreamSettings(name=name, profile=name, url=None, api_key=None, rate=None, create_rate=None)
    given = {key: draft.values.get(f"upstream_{key}") for key in ("url", "api_key", "rate")}
    # Not one over the other: the key may be that of the upstream that was the default before.
    problems.extend(
        f"[upstreams.{name}]: got both {key} and GATEWAY_UPSTREAM_{key.upper()}, which is about the default upstream; "
        "remove one of them"
        for key, value in given.items()
        if value is not None and getattr(table, key) is not None
    )
    return msgspec.structs.replace(table, **{key: value for key, value in given.items() if value is not None})


def _default_used(draft: Draft, default: str) -> bool:
    """Whether a client's callbacks go to the default upstream, or could for all that is known."""
    if not draft.clients_whole or "token" not in draft.values:
        return True
    token, clients = draft.values["token"], draft.clients
    return default in {upstream_of(name, clients, default) for name in callers(token, clients)}


def callers(token: str | None, clients: Sequence[ClientSettings]) -> list[str]:
    """Return the names of the clients that may call."""
    with_tokens = [client.name for client in clients if client.token_hashes]
    return [DEFAULT_CLIENT, *with_tokens] if token is not None or open_to_all(token, with_tokens) else with_tokens


def upstream_of(client: str, clients: Sequence[ClientSettings], default: str) -> str:
    """Return the upstream of what the client registers without naming one."""
    return next((one.upstream for one in clients if one.name == client and one.upstream is not None), default)


def _key_missing(upstream: UpstreamSettings) -> bool:
    """Whether the upstream needs a key and has none; one on this machine needs none."""
    return upstream.api_key is None and not is_loopback(urlsplit(upstream.url or "").hostname or "")


def _missing_keys(upstreams: Sequence[ConfiguredUpstream], draft: Draft) -> Iterator[str]:
    for upstream, _, default in upstreams:
        if not _key_missing(upstream):
            continue
        if not default:
            yield (
                f"[upstreams.{upstream.name}]: no api_key; write api_key or api_key_file: your key for {upstream.url}, "
                "or any word where it asks for none"
            )
        elif "upstream_api_key" in draft.values:  # else what was given is mistaken, and reported
            others = [other.settings.name for other in upstreams if not other.default]
            way_out = f"name another default upstream in GATEWAY_UPSTREAM, such as {others[0]}, " if others else ""
            yield (
                f"GATEWAY_UPSTREAM_API_KEY: not set; set it to your API key for {upstream.url}, {way_out}"
                "or try `make demo` (`gateway demo` where it is installed), which needs no key"
            )


def _check_files(draft: Draft) -> Iterator[str]:
    """Look at the database and its place and, where one of there signs, at the secret beside it."""
    if "database_url" not in draft.values:
        return
    path = path_of_database(draft.values["database_url"])
    try:
        problem = _place_problem(path)
    except OSError as error:  # a folder on the way may not be searched, or links lead in a circle
        problem = f"{path}: {error.strerror}"
    if problem is not None:
        yield f"GATEWAY_DATABASE_URL: {problem}; mend that, or name another"
        return
    if (problem := peek.unusable(path)) is not None:
        yield problem
    if draft.values.get("webhook_secret", "mistaken") is None:  # then the one beside the database signs
        problem = _secret_problem(path)
        if problem is not None:
            yield problem


def _place_problem(path: Path) -> str | None:
    # Where a link leads, SQLite makes its files beside the file itself.
    folders = dict.fromkeys((path.parent, beside(path, "").parent))
    for folder in folders:
        if not folder.is_dir():
            return f"there is no folder {folder}"
    with suppress(FileNotFoundError, PermissionError):  # it will be made; or its folder tells
        if not stat.S_ISREG(path.stat().st_mode):
            return f"{path} is no file"
    for folder in folders:
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"this user may not write in the folder {folder}"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return f"this user may not read and write {path}"
    return None


def _secret_problem(database: Path) -> str | None:
    try:
        kept = secretfile.in_use(None, lambda: database)
    except SecretError as error:
        return error.message
    return None if kept else secretfile.missing(secretfile.secret_path(database), peek.count_callbacks(database))
