"""What must be right before anything is opened or written: one report of all that ``serve`` would refuse.

Owns the checks that need more than the settings' own text: keys, the database with its folder, the secret beside it.
Writes nothing. Called by ``serve``, its reload and ``check-config``.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gateway.app import exporting
from gateway.config import secretfile
from gateway.config.load import load
from gateway.config.settings import Settings, database_path
from gateway.config.upstreams import key_missing
from gateway.core import private
from gateway.core.errors import SecretError
from gateway.net.guard import Netguard, parse_allow
from gateway.net.tls import TlsFilesUnusable, client_context, ends_at
from gateway.signature import Signer, parse_secrets
from gateway.store.sqlite import databasefile

_SOON_S = 14 * 86_400.0
_SHORT = 24
"""Characters of a token below which it may well be one that somebody made up: one of 128 random bits has 22 or more."""


def preflight(environ: Mapping[str, str], config_path: Path | None) -> Settings:
    """Read the settings and check all that can be checked without opening or writing anything.

    Raises ConfigError that holds every mistake.
    """
    return load(
        environ,
        config_path,
        {
            "webhook_secret": lambda secrets: Signer(parse_secrets(" ".join(secrets))),
            "events_url": Netguard.for_url,
            "callback_allow": lambda entries: parse_allow(",".join(entries)),
        },
        (_missing_keys, _check_files, _check_tls, lambda _: exporting.mistakes(environ)),
    )


def _missing_keys(values: Mapping[str, Any]) -> Iterator[str]:
    for upstream in filter(key_missing, values["upstreams"]):
        if not upstream.default:
            yield (
                f"[upstreams.{upstream.name}]: no api_key; write api_key or api_key_file: your key for {upstream.url}, "
                "or any word where it asks for none"
            )
        elif "upstream_api_key" in values:  # else what was given is mistaken, and reported
            others = [other.name for other in values["upstreams"] if not other.default]
            way_out = f"name another default upstream in GATEWAY_UPSTREAM, such as {others[0]}, " if others else ""
            yield (
                f"GATEWAY_UPSTREAM_API_KEY: not set; set it to your API key for {upstream.url}, {way_out}"
                "or try `make demo` (`gateway demo` where it is installed), which needs no key"
            )


def _check_tls(values: Mapping[str, Any]) -> Iterator[str]:
    """See whether the certificates and keys of receivers can be used, and fit."""
    for one in values["receivers"]:
        if one.ca is None and one.client_cert is None:
            continue
        try:
            client_context(one.ca, one.client_cert, one.client_key)
        except TlsFilesUnusable as error:
            path = getattr(one, f"{error.part}_file")
            yield f"{one.place}: {error.part}_file: got {path!r}; {error.message}"


def warnings(settings: Settings, now_s: float) -> Iterator[str]:
    """Yield what serve would not refuse, and somebody should know: of secrets that all can read or guess, and of a
    certificate's end.
    """
    for name, token in (("GATEWAY_TOKEN", settings.token), ("GATEWAY_OPERATOR_TOKEN", settings.operator_token)):
        if token is not None and len(token) < _SHORT:
            yield f"{name}: so short a token can be guessed; take one that `gateway make-secret --token` makes"
    for path in settings.secret_files:
        if private.is_exposed(Path(path)):
            yield f"everybody on this machine may read {path}, which holds a secret"
    for one in settings.receivers:
        if one.client_cert is not None and (left_s := ends_at(one.client_cert) - now_s) < _SOON_S:
            end = "has ended" if left_s < 0 else f"ends in {left_s / 86_400:.0f} days"
            yield f"{one.place}: client_cert_file: {one.client_cert_file} {end}; its receivers will refuse it"


def _check_files(values: Mapping[str, Any]) -> Iterator[str]:
    """Look at the database and its place and, where one of there signs, at the secret beside it."""
    if "database_url" not in values:
        return
    path = database_path(values["database_url"])
    if path is None:
        yield from _check_server(values)
        return
    try:
        problem = _place_problem(path)
    except OSError as error:  # a folder on the way may not be searched, or links lead in a circle
        problem = f"{path}: {error.strerror}"
    if problem is not None:
        yield f"GATEWAY_DATABASE_URL: {problem}; mend that, or name another"
        return
    if (problem := databasefile.unusable(path)) is not None:
        yield problem
    if values.get("webhook_secret", "mistaken") is None:  # then the one beside the database signs
        problem = _secret_problem(path)
        if problem is not None:
            yield problem


def _check_server(values: Mapping[str, Any]) -> Iterator[str]:
    """Look at what replicas need that share a server's database, which is asked nothing."""
    if find_spec("asyncpg") is None:
        yield "GATEWAY_DATABASE_URL: PostgreSQL needs a package more: pip install 'asyncpg>=0.32,<0.33'"
    else:
        from gateway.store.postgres.url import Servers  # with the package it needs, and only where that is used

        problems = Servers(values["database_url"], values.get("database_password")).problems()
        yield from (f"GATEWAY_DATABASE_URL: {problem}" for problem in problems)
    if values.get("webhook_secret", "mistaken") is None:
        yield secretfile.NOT_SHARED


def _place_problem(path: Path) -> str | None:
    # Where a link leads, SQLite makes its files beside the file itself.
    folders = dict.fromkeys((path.parent, databasefile.beside(path, "").parent))
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
    if kept:
        return None
    return secretfile.missing(secretfile.secret_path(database), databasefile.count_callbacks(database))
