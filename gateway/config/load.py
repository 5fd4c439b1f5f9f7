"""The only reader of the environment, and with it of the TOML file and the files of secrets: all mistakes at once.

Never shows a secret's value, and knows nothing of what a setting is used for: deeper checks are handed in by the
wiring (``validators`` and ``checks``), so that what they find joins the same report. What settings there are stands in
``settings``, the file's tables in ``configtables``. Called by ``cli`` and the wiring; modules below them are given
plain values.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from gateway.config.settings import (
    DEFAULT_CLIENT,
    DEFAULT_UPSTREAM,
    PREFIX,
    SETTINGS,
    ClientSettings,
    Setting,
    Settings,
    UpstreamSettings,
    is_loopback,
    open_to_all,
)
from gateway.config.sources import HIDDEN, TomlFile, as_text, read_file, read_secret, shown, suggest
from gateway.config.tables import (
    CLIENTS,
    SECRET_KEYS,
    UPSTREAMS,
    check_groups,
    check_tokens,
    read_clients,
    read_upstreams,
    tables,
)
from gateway.core.errors import ConfigError, GatewayError

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_CLIENT",
    "DEFAULT_UPSTREAM",
    "SETTINGS",
    "ClientSettings",
    "Draft",
    "Setting",
    "Settings",
    "UpstreamSettings",
    "config_dir",
    "database_path",
    "load",
    "load_some",
    "path_of_database",
]

CONFIG_VARIABLE = "GATEWAY_CONFIG"
"""Names the TOML file where the command line does not."""

_DEFAULT = "_DEFAULT"
_UNNAMED = TomlFile("", {})
# What Kubernetes injects for each Service of the namespace whose name is gateway, or begins with gateway-. Nobody wrote
# these, and nobody who names a Service thinks of us. Of one of its names only the value tells it from a setting's.
_SERVICE_LINK = re.compile(
    r"GATEWAY_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT = re.compile(r"GATEWAY_([A-Z0-9_]+_)?PORT")
_SERVICE_URL = re.compile(r"\s*(tcp|udp|sctp)://", re.IGNORECASE)


class Draft(msgspec.Struct, frozen=True):
    """What could be read of settings, for checks that look at several of them: what is mistaken is not in it."""

    values: Mapping[str, Any]
    """By ``Setting.key``."""
    upstreams: Sequence[UpstreamSettings]
    upstream_names: Sequence[str]
    """Every table's, those included that are mistaken."""
    clients: Sequence[ClientSettings]
    clients_whole: bool
    """Whether none of them is missing."""


def load(
    environ: Mapping[str, str],
    config_path: Path | None = None,
    validators: Mapping[str, Callable[[Any], object]] = MappingProxyType({}),
    checks: Sequence[Callable[[Draft], Iterable[str]]] = (),
) -> Settings:
    """Read the settings: the environment wins over the TOML file, which wins over the defaults.

    A variable ``GATEWAY_…_DEFAULT`` takes the place of a default.

    ``config_path`` is the file that the command line names, else ``GATEWAY_CONFIG`` does. ``validators`` maps a
    field's name to a check of its parsed value (not None) that raises ValueError or GatewayError with a message that
    is safe to show. ``checks`` look at everything that could be read, and return the mistakes that they find. An empty
    variable or key counts as not given where the default is empty.

    Raises ConfigError that holds every mistake, one line for each: its name, what was given, what to write instead.
    """
    if strangers := validators.keys() - {setting.key for setting in SETTINGS}:
        raise LookupError(f"validators for no setting: {', '.join(sorted(strangers))}")
    problems: list[str] = []
    environ = _without_service_links(environ)
    file = _file(environ, config_path, problems)
    _report_unknown(environ, file, problems)
    values, places = _values(SETTINGS, environ, file, validators, problems)
    _check_together(values, places, file, problems)
    check_groups(file, problems)
    upstreams = tuple(read_upstreams(file, problems))
    before = len(problems)
    clients = tuple(read_clients(file, values.get("upstream"), validators.get("webhook_secret"), problems))
    clients_whole = file.keys is not None and len(problems) == before
    check_tokens(values.get("token"), values.get("operator_token"), clients, problems)
    draft = Draft(values, upstreams, tuple(tables(file, UPSTREAMS)), clients, clients_whole)
    for check in checks:
        problems.extend(check(draft))
    if problems:
        raise ConfigError(problems)
    secret_from = places["webhook_secret"] if values["webhook_secret"] else ""
    return Settings(
        **values,
        upstreams=upstreams,
        clients=clients,
        webhook_secret_from=secret_from,
        secret_files=tuple(_secret_files(environ, file)),
    )


def load_some(environ: Mapping[str, str], config_path: Path | None, keys: Sequence[str]) -> dict[str, Any]:
    """Read these settings alone, for a command that needs no others: mistakes elsewhere are not its business.

    The values by key. Raises ConfigError as ``load`` does.
    """
    problems: list[str] = []
    wanted = [setting for setting in SETTINGS if setting.key in keys]
    environ = _without_service_links(environ)
    in_environ = all(environ.get(s.env, "").strip() or environ.get(f"{s.env}_FILE", "").strip() for s in wanted)
    file = _UNNAMED if in_environ else _file(environ, config_path, problems)
    values, _ = _values(wanted, environ, file, MappingProxyType({}), problems)
    if problems:
        raise ConfigError(problems)
    return values


def database_path(settings: Settings) -> Path:
    """Return the SQLite file, its path whole for logs and advice."""
    return path_of_database(settings.database_url)


def path_of_database(url: str) -> Path:
    """Return the file of GATEWAY_DATABASE_URL; whole; a relative one starts at the working directory."""
    return Path(url.removeprefix("sqlite:///")).absolute()


def config_dir() -> Path:
    """Return the folder of the shipped configuration: inside an installed wheel, or the checkout's ``config``."""
    package = Path(__file__).parents[1]
    installed = package / "_config"
    return installed if installed.is_dir() else package.parent / "config"


def _without_service_links(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if not (_SERVICE_LINK.fullmatch(name) or (_SERVICE_PORT.fullmatch(name) and _SERVICE_URL.match(value)))
    }


def _file(environ: Mapping[str, str], config_path: Path | None, problems: list[str]) -> TomlFile:
    if config_path is not None:
        return read_file("--config", config_path, problems)
    named = environ.get(CONFIG_VARIABLE, "").strip()
    return read_file(CONFIG_VARIABLE, Path(named), problems) if named else _UNNAMED


def _values(
    settings: Sequence[Setting],
    environ: Mapping[str, str],
    file: TomlFile,
    validators: Mapping[str, Callable[[Any], object]],
    problems: list[str],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what each setting is, and where that stands; without those that are mistaken."""
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for setting in settings:
        given = _find(setting, environ, file, problems)
        if given is None:
            continue
        place, raw = given
        try:
            value = _parse(setting, raw)
            if value is not None and setting.key in validators:
                validators[setting.key](value)
        except (ValueError, GatewayError) as error:
            problems.append(f"{place}: got {HIDDEN if setting.secret else shown(raw)}; {error}")
        else:
            values[setting.key] = value
            places[setting.key] = place
    return values, places


def _find(setting: Setting, environ: Mapping[str, str], file: TomlFile, problems: list[str]) -> tuple[str, Any] | None:
    """Return where a setting is given and its raw value; None where that cannot be told, which is then reported."""
    text = environ.get(setting.env, "").strip()
    path_variable = f"{setting.env}_FILE"
    path = environ.get(path_variable, "").strip() if setting.secret else ""
    if text and path:
        problems.append(f"{setting.env}, {path_variable}: got both; unset one of them")
        return None
    if path:
        return read_secret(path_variable, path, problems)
    # An empty variable says "not set" where that has a meaning; elsewhere it is more likely a script's slip.
    if text or (setting.env in environ and setting.default):
        return setting.env, text
    if file.keys is None:
        return None
    if setting.key in file.keys:
        return f"{setting.key} in {file.name}", file.keys[setting.key]
    # An image's own, say: below what its user wrote, wherever that stands.
    default = setting.env + _DEFAULT
    if environ.get(default):
        return default, environ[default]
    return setting.env, None if setting.of_profile else setting.default


def _secret_files(environ: Mapping[str, str], file: TomlFile) -> Iterator[str]:
    """Yield the files that the secrets stand in."""
    for setting in SETTINGS:
        if setting.secret and (path := environ.get(f"{setting.env}_FILE", "").strip()):
            yield path
    inside = any(setting.secret and (file.keys or {}).get(setting.key) for setting in SETTINGS)
    for table in (*tables(file, UPSTREAMS).values(), *tables(file, CLIENTS).values()):
        inside = inside or any(table.get(key) for key in SECRET_KEYS)
        yield from (str(table[f"{key}_file"]) for key in SECRET_KEYS if f"{key}_file" in table)
    if inside:
        yield file.name


def _report_unknown(environ: Mapping[str, str], file: TomlFile, problems: list[str]) -> None:
    secret_files = {f"{setting.env}_FILE" for setting in SETTINGS if setting.secret}
    defaults = {setting.env + _DEFAULT for setting in SETTINGS if setting.default}
    variables = {setting.env for setting in SETTINGS} | secret_files | defaults | {CONFIG_VARIABLE}
    strangers = sorted(name for name in environ if name.startswith(PREFIX) and name not in variables)
    problems.extend(f"{name}: no such setting; {suggest(name, variables, 'unset it')}" for name in strangers)
    keys = {setting.key for setting in SETTINGS}
    for key in file.keys or ():
        if key not in keys and key not in (UPSTREAMS, CLIENTS):
            variable = f"{PREFIX}{key.upper()}"
            if variable in secret_files:
                advice = f"a secret's file is named by the variable {variable}"
            else:
                advice = suggest(key.lower().removeprefix(PREFIX.lower()), keys, "remove it")
            problems.append(f"{key} in {file.name}: no such setting; {advice}")


def _check_together(values: Mapping[str, Any], places: Mapping[str, str], file: TomlFile, problems: list[str]) -> None:
    """Check the settings that depend on one another, where each of them is usable by itself."""
    if {"poll_min_s", "poll_max_s"} <= values.keys() and values["poll_min_s"] > values["poll_max_s"]:
        problems.append(
            f"{places['poll_min_s']}, {places['poll_max_s']}: got {values['poll_min_s']:g} and "
            f"{values['poll_max_s']:g}; write a least time that is not above the greatest"
        )
    # A client's token counts also where it is mistaken, which is reported as what it is.
    tokens = [key for table in tables(file, CLIENTS).values() for key in table if key.startswith("token_hash")]
    open_to_others = {"host", "token"} <= values.keys() and not is_loopback(values["host"])
    if open_to_others and open_to_all(values["token"], tokens):
        problems.append(
            f"{places['host']}: got {shown(values['host'])} and no token, so that anyone who reaches it could use it; "
            "set GATEWAY_TOKEN or listen on 127.0.0.1"
        )


def _parse(setting: Setting, raw: object) -> Any:
    if raw is None:
        return None
    text = as_text(raw, setting.separator).strip()
    if not text and not setting.default:
        return setting.absent
    return setting.parse(text)
