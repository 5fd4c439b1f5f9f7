"""The only reader of settings: of GATEWAY_… in the environment and of the TOML file, with all mistakes in one report.

Owns where a setting is looked for, which of several places counts, and which settings do not go together. Never shows
a secret's value. Checks that need more than ``config`` may know are handed in, so that what they find joins the same
report. Called by ``cli`` and the wiring; modules below them are given plain values.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gateway.config.clients import check_tokens, open_to_all, read_clients
from gateway.config.databaseurl import is_postgres, parse_postgres
from gateway.config.reading import Reader, shown, suggest
from gateway.config.settings import CLIENTS, PREFIX, RECEIVERS, SETTINGS, UPSTREAMS, Setting, Settings
from gateway.core.addresses import is_loopback_host
from gateway.core.errors import ConfigError

CONFIG_VARIABLE = "GATEWAY_CONFIG"
"""Names the TOML file where the command line does not."""

_DEFAULT = "_DEFAULT"
# What Kubernetes injects for each Service of the namespace whose name is gateway, or begins with gateway-. Nobody wrote
# these, and nobody who names a Service thinks of us. Of one of its names only the value tells it from a setting's.
_SERVICE_LINK = re.compile(
    r"GATEWAY_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT = re.compile(r"GATEWAY_([A-Z0-9_]+_)?PORT")
_SERVICE_URL = re.compile(r"\s*(tcp|udp|sctp)://", re.IGNORECASE)
_TABLE_SECRETS = ("api_key", "webhook_secret", "headers", "secret", "client_key")
"""Keys of tables that hold what nobody else may know; of tokens there are only hashes."""


def load(
    environ: Mapping[str, str],
    config_path: Path | None = None,
    validators: Mapping[str, Callable[[Any], object]] = MappingProxyType({}),
    checks: Sequence[Callable[[Mapping[str, Any]], Iterable[str]]] = (),
) -> Settings:
    """Read the settings: the environment wins over the TOML file, which wins over the defaults.

    A variable ``GATEWAY_…_DEFAULT`` takes the place of a default.

    ``config_path`` is the file that the command line names, else ``GATEWAY_CONFIG`` does. ``validators`` maps a
    field's name to a check of its parsed value (not None) that raises ValueError or GatewayError with a message that
    is safe to show. ``checks`` look at what could be read, by the names of the fields of ``Settings``, and return the
    mistakes that they find. An empty variable or key counts as not given where the default is empty.

    Raises ConfigError that holds every mistake, one line for each: its name, what was given, what to write instead.
    """
    # Late: a command that asks a running gateway needs no profiles, and some are started every few seconds.
    from gateway.config.receivers import read_receivers
    from gateway.config.upstreams import join_upstreams, read_upstreams

    if strangers := validators.keys() - {setting.key for setting in SETTINGS}:
        raise LookupError(f"validators for no setting: {', '.join(sorted(strangers))}")
    reader = Reader(validators)
    environ = _without_service_links(environ)
    _read_file(reader, environ, config_path)
    _report_unknown(reader, environ)
    values, places = _values(reader, environ, SETTINGS)
    _check_together(reader, values, places)
    reader.check_group(UPSTREAMS, "runway")
    reader.check_group(CLIENTS, "shop")
    tables = read_upstreams(reader)
    before = len(reader.problems)
    clients = tuple(read_clients(reader, [*dict.fromkeys((values.get("upstream"), *reader.tables(UPSTREAMS)))]))
    if reader.keys is not None and len(reader.problems) == before:
        values["clients"] = clients
    check_tokens(reader, values.get("token"), values.get("operator_token"), clients)
    values["upstreams"] = join_upstreams(reader, tables, values)
    values["receivers"] = read_receivers(reader)
    for check in checks:
        reader.problems.extend(check(values))
    if reader.problems:
        raise ConfigError(reader.problems)
    secret_from = places["webhook_secret"] if values["webhook_secret"] else ""
    return Settings(**values, webhook_secret_from=secret_from, secret_files=tuple(_secret_files(reader, environ)))


def load_some(environ: Mapping[str, str], config_path: Path | None, keys: Sequence[str]) -> dict[str, Any]:
    """Read these settings alone, by key; what is mistaken elsewhere does not matter. Raises ConfigError."""
    reader = Reader(MappingProxyType({}))
    wanted = [setting for setting in SETTINGS if setting.key in keys]
    environ = _without_service_links(environ)
    if not all(environ.get(s.env, "").strip() or environ.get(f"{s.env}_FILE", "").strip() for s in wanted):
        _read_file(reader, environ, config_path)
    values, _ = _values(reader, environ, wanted)
    if reader.problems:
        raise ConfigError(reader.problems)
    return values


def _without_service_links(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if not (_SERVICE_LINK.fullmatch(name) or (_SERVICE_PORT.fullmatch(name) and _SERVICE_URL.match(value)))
    }


def _read_file(reader: Reader, environ: Mapping[str, str], config_path: Path | None) -> None:
    if config_path is not None:
        reader.read_file("--config", config_path)
    elif named := environ.get(CONFIG_VARIABLE, "").strip():
        reader.read_file(CONFIG_VARIABLE, Path(named))


def _values(
    reader: Reader, environ: Mapping[str, str], settings: Sequence[Setting]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what each setting is, and where that stands; without those that are mistaken."""
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for setting in settings:
        given = _find(reader, environ, setting)
        if given is None:
            continue
        places[setting.key], raw = given
        if raw is None:
            values[setting.key] = None
        else:
            reader.read_value(setting, places[setting.key], raw, values)
    return values, places


def _find(reader: Reader, environ: Mapping[str, str], setting: Setting) -> tuple[str, Any] | None:
    """Return where a setting is given and its raw value; None where that cannot be told, which is then reported."""
    text = environ.get(setting.env, "").strip()
    path_variable = f"{setting.env}_FILE"
    path = environ.get(path_variable, "").strip() if setting.secret else ""
    if text and path:
        reader.problems.append(f"{setting.env}, {path_variable}: got both; unset one of them")
        return None
    if path:
        secret = reader.read_secret(path_variable, path)
        return None if secret is None else (path_variable, secret)
    # An empty variable says "not set" where that has a meaning; elsewhere it is more likely a script's slip.
    if text or (setting.env in environ and setting.default):
        return setting.env, text
    if reader.keys is None:
        return None
    if setting.key in reader.keys:
        return f"{setting.key} in {reader.file}", reader.keys[setting.key]
    # An image's own, say: below what its user wrote, wherever that stands.
    default = setting.env + _DEFAULT
    if environ.get(default):
        return default, environ[default]
    return setting.env, None if setting.of_profile else setting.default


def _secret_files(reader: Reader, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the files that the secrets stand in."""
    for setting in SETTINGS:
        if setting.secret and (path := environ.get(f"{setting.env}_FILE", "").strip()):
            yield path
    inside = any(setting.secret and (reader.keys or {}).get(setting.key) for setting in SETTINGS)
    groups = reader.tables(UPSTREAMS).values(), reader.tables(CLIENTS).values(), reader.list_of_tables(RECEIVERS)
    for table in chain.from_iterable(groups):
        inside = inside or any(table.get(key) for key in _TABLE_SECRETS) or "@" in str(table.get("proxy", ""))
        yield from (str(table[f"{key}_file"]) for key in (*_TABLE_SECRETS, "proxy") if f"{key}_file" in table)
    if inside:
        yield reader.file


def _report_unknown(reader: Reader, environ: Mapping[str, str]) -> None:
    secret_files = {f"{setting.env}_FILE" for setting in SETTINGS if setting.secret}
    defaults = {setting.env + _DEFAULT for setting in SETTINGS if setting.default}
    variables = {setting.env for setting in SETTINGS} | secret_files | defaults | {CONFIG_VARIABLE}
    strangers = sorted(name for name in environ if name.startswith(PREFIX) and name not in variables)
    reader.problems.extend(f"{name}: no such setting; {suggest(name, variables, 'unset it')}" for name in strangers)
    keys = {setting.key for setting in SETTINGS}
    for key in reader.keys or ():
        if key not in keys and key not in (UPSTREAMS, CLIENTS, RECEIVERS):
            variable = f"{PREFIX}{key.upper()}"
            if variable in secret_files:
                advice = f"a secret's file is named by the variable {variable}"
            else:
                advice = suggest(key.lower().removeprefix(PREFIX.lower()), keys, "remove it")
            reader.problems.append(f"{key} in {reader.file}: no such setting; {advice}")


def _check_together(reader: Reader, values: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """Check the settings that depend on one another, where each of them is usable by itself."""
    if {"poll_min_s", "poll_max_s"} <= values.keys() and values["poll_min_s"] > values["poll_max_s"]:
        reader.problems.append(
            f"{places['poll_min_s']}, {places['poll_max_s']}: got {values['poll_min_s']:g} and "
            f"{values['poll_max_s']:g}; write a least time that is not above the greatest"
        )
    url = values.get("database_url", "")
    if values.get("database_password") and is_postgres(url) and parse_postgres(url).password is not None:
        reader.problems.append(
            f"{places['database_url']}, {places['database_password']}: got two passwords; take the one in the URL out"
        )
    # A client's token counts also where it is mistaken, which is reported as what it is.
    tokens = [key for table in reader.tables(CLIENTS).values() for key in table if key.startswith("token_hash")]
    open_to_others = {"host", "token"} <= values.keys() and not is_loopback_host(values["host"])
    if open_to_others and open_to_all(values["token"], tokens):
        reader.problems.append(
            f"{places['host']}: got {shown(values['host'])} and no token, so that anyone who reaches it could use it; "
            "set GATEWAY_TOKEN or listen on 127.0.0.1"
        )
