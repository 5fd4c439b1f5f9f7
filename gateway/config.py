"""The only reader of the environment, the TOML file and the files of secrets; reports all their mistakes at once.

Never shows a secret's value, and knows nothing of what a setting is used for: deeper checks are handed in by the
wiring (``validators``), so that what they find joins the same report. What settings there are stands in ``settings``.
Called by ``cli`` and ``app``; modules below them are given plain values.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gateway.errors import ConfigError, GatewayError
from gateway.extraheaders import header_problem
from gateway.settings import (
    CLIENT_KEYS,
    DEFAULT_CLIENT,
    DEFAULT_UPSTREAM,
    PREFIX,
    SERVICE_LINK_ADVICE,
    SETTINGS,
    UPSTREAM_KEYS,
    ClientSettings,
    RateWindow,
    Setting,
    Settings,
    TableKey,
    UpstreamSettings,
    is_loopback,
)
from gateway.tokens import token_digest

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_CLIENT",
    "DEFAULT_UPSTREAM",
    "SETTINGS",
    "ClientSettings",
    "RateWindow",
    "Setting",
    "Settings",
    "UpstreamSettings",
    "config_dir",
    "database_path",
    "listening",
    "load",
    "require_upstream_key",
]

CONFIG_VARIABLE = "GATEWAY_CONFIG"
"""Names the TOML file where the command line does not."""

_DEFAULT = "_DEFAULT"
_MAX_SHOWN = 80
_UPSTREAMS, _CLIENTS = "upstreams", "clients"
_HIDDEN = "a value that is not shown here"
# Injected by Kubernetes for a Service named "gateway": nobody wrote these, so the report says where they come from.
_SERVICE_LINK = re.compile(r"GATEWAY_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))")


def load(
    environ: Mapping[str, str],
    config_path: Path | None = None,
    validators: Mapping[str, Callable[[Any], object]] = MappingProxyType({}),
) -> Settings:
    """Read the settings: the environment wins over the TOML file, which wins over the defaults.

    A variable ``GATEWAY_…_DEFAULT`` takes the place of a default.

    ``config_path`` is the file that the command line names, else ``GATEWAY_CONFIG`` does. ``validators`` maps a
    field's name to a check of its parsed value (not None) that raises ValueError or GatewayError with a message that
    is safe to show. An empty variable or key counts as not given where the default is empty.

    Raises ConfigError that holds every mistake, one line for each: its name, what was given, what to write instead.
    """
    if strangers := validators.keys() - {setting.key for setting in SETTINGS}:
        raise LookupError(f"validators for no setting: {', '.join(sorted(strangers))}")
    problems: list[str] = []
    file = _read_file(environ, config_path, problems)
    _report_unknown(environ, file, problems)
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for setting in SETTINGS:
        given = _find(setting, environ, file, problems)
        if given is None:
            continue
        place, raw = given
        try:
            value = _parse(setting, raw)
            if value is not None and setting.key in validators:
                validators[setting.key](value)
        except (ValueError, GatewayError) as error:
            shown = _HIDDEN if setting.secret else _shown(raw)
            problems.append(f"{place}: got {shown}; {error}")
        else:
            values[setting.key] = value
            places[setting.key] = place
    _check_together(values, places, file, problems)
    _check_groups(file, problems)
    upstreams = tuple(_read_upstreams(file, problems))
    clients = tuple(_read_clients(file, validators.get("webhook_secret"), problems))
    _check_tokens(values.get("token"), clients, problems)
    if problems:
        raise ConfigError(problems)
    secret_from = places["webhook_secret"] if values["webhook_secret"] else ""
    return Settings(**values, upstreams=upstreams, clients=clients, webhook_secret_from=secret_from)


def listening(environ: Mapping[str, str], config_path: Path | None = None) -> tuple[str, int]:
    """Return host and port alone, whatever the other settings are. Raises ConfigError."""
    problems: list[str] = []
    file = _read_file(environ, config_path, problems)
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        if setting.key in ("host", "port") and (given := _find(setting, environ, file, problems)) is not None:
            try:
                values[setting.key] = _parse(setting, given[1])
            except ValueError as error:
                problems.append(f"{given[0]}: got {_shown(given[1])}; {error}")
    if problems:
        raise ConfigError(problems)
    return values["host"], values["port"]


def require_upstream_key(settings: Settings) -> None:
    """Raise ConfigError when the upstream needs a key and none is set; one on this machine needs none."""
    if settings.upstream_api_key is None and not is_loopback(urlsplit(settings.upstream_url).hostname or ""):
        problem = (
            f"GATEWAY_UPSTREAM_API_KEY: not set; set it to your API key for {settings.upstream_url}, "
            "or try `make demo` (`gateway demo` where it is installed), which needs no key"
        )
        raise ConfigError([problem])


def database_path(settings: Settings) -> Path:
    """Return the SQLite file, its path whole for logs and advice; a relative one starts at the working directory."""
    return Path(settings.database_url.removeprefix("sqlite:///")).absolute()


def config_dir() -> Path:
    """Return the folder of the shipped configuration: inside an installed wheel, or the checkout's ``config``."""
    package = Path(__file__).parent
    installed = package / "_config"
    return installed if installed.is_dir() else package.parent / "config"


class _File(msgspec.Struct, frozen=True):
    """The TOML file; ``keys`` is None where it could not be read: then nothing is known of what it sets."""

    name: str
    keys: dict[str, Any] | None


def _read_file(environ: Mapping[str, str], config_path: Path | None, problems: list[str]) -> _File:
    place = "--config"
    if config_path is None:
        named = environ.get(CONFIG_VARIABLE, "").strip()
        if not named:
            return _File("", {})
        place, config_path = CONFIG_VARIABLE, Path(named)
    name = str(config_path)
    try:
        text = config_path.read_text("utf-8")
    except (OSError, ValueError) as error:
        problems.append(f"{place}: got {name!r}; {_reason(error)}, write the path of a readable TOML file")
        return _File(name, None)
    # Imported late: most starts have no file, and idle memory is counted.
    import tomllib

    try:
        return _File(name, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{name}: not valid TOML; {error}")
        return _File(name, None)


def _find(setting: Setting, environ: Mapping[str, str], file: _File, problems: list[str]) -> tuple[str, Any] | None:
    """Return where a setting is given and its raw value; None where that cannot be told, which is then reported."""
    text = environ.get(setting.env, "").strip()
    path_variable = f"{setting.env}_FILE"
    path = environ.get(path_variable, "").strip() if setting.secret else ""
    if text and path:
        problems.append(f"{setting.env}, {path_variable}: got both; unset one of them")
        return None
    if path:
        return _read_secret(path_variable, path, problems)
    # An empty variable says "not set" where that has a meaning; elsewhere it is more likely a script's slip.
    if text or (setting.env in environ and setting.default):
        return setting.env, text
    if file.keys is None:
        return None
    if setting.key in file.keys:
        return f"{setting.key} in {file.name}", file.keys[setting.key]
    # An image's own, say: below what its user wrote, wherever that stands.
    default = setting.env + _DEFAULT
    return (default, environ[default]) if environ.get(default) else (setting.env, setting.default)


def _read_secret(variable: str, path: str, problems: list[str]) -> tuple[str, str] | None:
    # What is no absolute path may be the secret itself, put into the wrong variable.
    shown = repr(path) if path.startswith("/") else "a path that is not shown here"
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        problems.append(f"{variable}: got {shown}; {_reason(error)}, write the path of a file that holds the secret")
        return None
    if not text:
        problems.append(f"{variable}: got {shown}; the file is empty, write the secret into it")
        return None
    return variable, text


def _tables(file: _File, group: str) -> dict[str, dict[str, Any]]:
    """Return the tables ``[group.NAME]``; none where they are no tables, which ``_check_groups`` reports."""
    tables = (file.keys or {}).get(group, {})
    usable = isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values())
    return tables if usable else {}


def _check_groups(file: _File, problems: list[str]) -> None:
    for group, example in ((_UPSTREAMS, "runway"), (_CLIENTS, "shop")):
        if (file.keys or {}).get(group, {}) != {} and not _tables(file, group):
            problems.append(f"{group} in {file.name}: write a table for each {group[:-1]}, such as [{group}.{example}]")


def _read_table(
    section: str,
    table: dict[str, Any],
    keys: Mapping[str, TableKey],
    problems: list[str],
    others: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return the values of one table's keys, those of secrets also from the files that KEY_file names.

    ``others`` are keys that the caller reads.
    """
    values: dict[str, Any] = {}
    files = {f"{name}_file": name for name, key in keys.items() if key.secret}
    for given, raw in table.items():
        name = files.get(given, given)
        if given in others:
            continue
        if name not in keys:
            advice = _suggest(given, {*keys, *files, *others}, "remove it")
            problems.append(f"{section}: {given}: no such setting; {advice}")
            continue
        if given in files and name in table:
            problems.append(f"{section}: got both {name} and {given}; remove one of them")
            continue
        key = keys[name]
        try:
            if given in files:
                read = _read_secret(f"{section}: {given}", _as_text(raw, ""), problems)
                if read is None:
                    continue
                raw = read[1]
            values[name] = key.parse(_as_text(raw, key.separator).strip())
        except ValueError as error:
            problems.append(f"{section}: {given}: got {_HIDDEN if key.secret else _shown(raw)}; {error}")
    return values


def _read_upstreams(file: _File, problems: list[str]) -> Iterator[UpstreamSettings]:
    """Read the tables ``[upstreams.NAME]``."""
    for name, table in _tables(file, _UPSTREAMS).items():
        section = f"[{_UPSTREAMS}.{name}] in {file.name}"
        before = len(problems)
        _check_name(section, name, problems)
        values = _read_table(section, table, UPSTREAM_KEYS, problems)
        if len(problems) == before:
            absent = dict.fromkeys(("url", "api_key", "rate", "create_rate"))
            yield UpstreamSettings(**{"name": name, "profile": name, **absent, **values})


def _read_clients(
    file: _File, check_secret: Callable[[Any], object] | None, problems: list[str]
) -> Iterator[ClientSettings]:
    """Read the tables ``[clients.NAME]``."""
    upstreams = [DEFAULT_UPSTREAM, *_tables(file, _UPSTREAMS)]
    for name, table in _tables(file, _CLIENTS).items():
        section = f"[{_CLIENTS}.{name}] in {file.name}"
        before = len(problems)
        _check_name(section, name, problems)
        values = _read_table(section, table, CLIENT_KEYS, problems, others=("headers", "headers_file"))
        headers = _read_headers(section, table, problems)
        hashes = values.pop("token_hash", ()) + values.pop("token_hashes", ())
        if name == DEFAULT_CLIENT:
            if "webhook_secret" in values:
                problems.append(f"{section}: webhook_secret: the default client's is GATEWAY_WEBHOOK_SECRET")
        elif not any(key.startswith("token_hash") for key in table):
            problems.append(f"{section}: token_hash: missing; `gateway make-secret --token` prints one for a new token")
        if values.get("upstream", DEFAULT_UPSTREAM) not in upstreams:
            problems.append(
                f"{section}: upstream: got {_shown(values['upstream'])}; write one of: {', '.join(upstreams)}"
            )
        if check_secret is not None and "webhook_secret" in values:
            try:
                check_secret(values["webhook_secret"])
            except (ValueError, GatewayError) as error:
                problems.append(f"{section}: webhook_secret: got {_HIDDEN}; {error}")
        if len(problems) == before:
            absent = dict.fromkeys(("webhook_secret", "upstream", "rate"))
            yield ClientSettings(**{"name": name, "token_hashes": hashes, "headers": headers, **absent, **values})


def _read_headers(section: str, table: dict[str, Any], problems: list[str]) -> dict[str, str]:
    """Return a client's extra headers, from the table ``headers`` or the lines of the file ``headers_file``."""
    given = table.get("headers", {})
    pairs: list[tuple[str, str]] = []
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        problems.append(f'{section}: headers: got {_HIDDEN}; write a table of strings: {{ Authorization = "…" }}')
    elif "headers_file" in table and given:
        problems.append(f"{section}: got both headers and headers_file; remove one of them")
    elif "headers_file" in table:
        read = _read_secret(f"{section}: headers_file", str(table["headers_file"]), problems)
        lines = [] if read is None else read[1].splitlines()
        if not all(":" in line for line in lines):  # such a line may be a secret: not shown
            problems.append(f"{section}: headers_file: write a line for each header, such as Authorization: Bearer …")
            lines = []
        pairs = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    else:
        pairs = list(given.items())
    headers: dict[str, str] = {}
    for name, value in pairs:
        if (found := header_problem(name, value)) is not None:
            problems.append(f"{section}: headers: {found}")
        elif name.lower() in headers:
            problems.append(f"{section}: headers: {name}: given twice; remove one of them")
        headers[name.lower()] = value
    return headers


def _check_name(section: str, name: str, problems: list[str]) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
        problems.append(f"{section}: name it with at most 64 small letters, digits and hyphens")


def _check_tokens(token: str | None, clients: tuple[ClientSettings, ...], problems: list[str]) -> None:
    """Check that no token is two clients': one of them would see the other's callbacks."""
    owners = {} if token is None else {token_digest(token): "GATEWAY_TOKEN"}
    for client in clients:
        for digest in client.token_hashes:
            owner = owners.setdefault(digest, f"[{_CLIENTS}.{client.name}]")
            if owner != f"[{_CLIENTS}.{client.name}]":
                problems.append(f"[{_CLIENTS}.{client.name}]: its token is also that of {owner}; give each its own")


def _report_unknown(environ: Mapping[str, str], file: _File, problems: list[str]) -> None:
    secret_files = {f"{setting.env}_FILE" for setting in SETTINGS if setting.secret}
    defaults = {setting.env + _DEFAULT for setting in SETTINGS if setting.default}
    variables = {setting.env for setting in SETTINGS} | secret_files | defaults | {CONFIG_VARIABLE}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in variables:
            advice = SERVICE_LINK_ADVICE if _SERVICE_LINK.match(name) else _suggest(name, variables, "unset it")
            problems.append(f"{name}: no such setting; {advice}")
    keys = {setting.key for setting in SETTINGS}
    for key in file.keys or ():
        if key not in keys and key not in (_UPSTREAMS, _CLIENTS):
            variable = f"{PREFIX}{key.upper()}"
            if variable in secret_files:
                advice = f"a secret's file is named by the variable {variable}"
            else:
                advice = _suggest(key.lower().removeprefix(PREFIX.lower()), keys, "remove it")
            problems.append(f"{key} in {file.name}: no such setting; {advice}")


def _suggest(name: str, known: set[str], otherwise: str) -> str:
    import difflib  # late: only a mistake needs it

    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise


def _check_together(values: Mapping[str, Any], places: Mapping[str, str], file: _File, problems: list[str]) -> None:
    """Check the settings that depend on one another, where each of them is usable by itself."""
    if {"poll_min_s", "poll_max_s"} <= values.keys() and values["poll_min_s"] > values["poll_max_s"]:
        problems.append(
            f"{places['poll_min_s']}, {places['poll_max_s']}: got {values['poll_min_s']:g} and "
            f"{values['poll_max_s']:g}; write a least time that is not above the greatest"
        )
    # A client's token counts also where it is mistaken, which is reported as what it is.
    tokens = [key for table in _tables(file, _CLIENTS).values() for key in table if key.startswith("token_hash")]
    open_to_all = "token" in values and values["token"] is None and not tokens
    if "host" in values and open_to_all and not is_loopback(values["host"]):
        problems.append(
            f"{places['host']}: got {_shown(values['host'])} and no token, so that anyone who reaches it could use it; "
            "set GATEWAY_TOKEN or listen on 127.0.0.1"
        )


def _parse(setting: Setting, raw: object) -> Any:
    text = _as_text(raw, setting.separator).strip()
    if not text and not setting.default:
        return setting.absent
    return setting.parse(text)


def _as_text(raw: object, separator: str) -> str:
    """Bring a TOML value into the form that it would have in the environment."""
    if isinstance(raw, list) and separator:
        return separator.join(_as_text(item, "") for item in raw)
    if isinstance(raw, str):
        return raw
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return str(raw)
    raise ValueError(f"write a string or a number{', or an array of them' if separator else ''}")


def _shown(raw: object) -> str:
    """Quote what was given: no user and password, no query string, not endlessly."""
    text = re.sub(r"^([a-z0-9+.-]+://)?.*@", r"\1***@", str(raw), flags=re.DOTALL)
    text = re.sub(r"\?.+", "?…", text, flags=re.DOTALL)
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…")


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "it is not a text file"
