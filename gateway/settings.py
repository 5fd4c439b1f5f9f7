"""What the settings are: one table with each one's name, default, parser and sentence of documentation.

The only owner of that knowledge; a test holds ``config/gateway.toml`` and the README to it. Parsers turn text into
values and say what to write instead; they read no file and no environment, and what a setting is used for is not known
here. Called by ``config``, which reads and reports; the rest of the package takes these names from there.
"""

import math
import re
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from gateway import addresses
from gateway.tablesettings import ClientSettings, RateWindow, UpstreamSettings
from gateway.tokens import parse_hashes

__all__ = [
    "CLIENT_KEYS",
    "DEFAULT_CLIENT",
    "DEFAULT_UPSTREAM",
    "PREFIX",
    "SETTINGS",
    "UPSTREAM_KEYS",
    "ClientSettings",
    "RateWindow",
    "Setting",
    "Settings",
    "TableKey",
    "UpstreamSettings",
    "is_loopback",
]

PREFIX = "GATEWAY_"
DEFAULT_CLIENT = "default"
"""Whoever sends GATEWAY_TOKEN; everybody, where no client has a token."""
DEFAULT_UPSTREAM = "aigptimage"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator decided; fields are in the order of ``SETTINGS``. Its repr hides secrets."""

    host: str
    port: int
    database_url: str
    upstream: str
    """The default upstream's name."""
    upstream_url: str | None
    """Without a slash at its end. None: what its table says, else its profile; so with its rate."""
    upstream_api_key: str | None
    upstream_rate: tuple[RateWindow, ...] | None
    profiles: str | None
    webhook_secret: tuple[str, ...] | None
    token: str | None
    operator_token: str | None
    callback_allow: tuple[str, ...]
    poll_min_s: float
    poll_max_s: float
    result_max_bytes: int
    retry_schedule: tuple[float, ...]
    """Seconds before each attempt, at least one."""
    attempt_timeout_s: float
    drain_s: float
    retention_days: float
    ready_upstreams: Literal["any", "all"]
    log_format: Literal["console", "json"] | None
    """None: ``console`` on a terminal, else ``json``."""
    log_level: Literal["debug", "info", "warning", "error"]
    url: str | None
    """Where the commands that are clients find the gateway."""
    upstreams: tuple[UpstreamSettings, ...] = ()
    """Each table ``[upstreams.NAME]``; one of them may be the default upstream's."""
    clients: tuple[ClientSettings, ...] = ()
    """Clients besides the default one, or with more for it; only the TOML file names them."""
    webhook_secret_from: str = ""
    """Where ``webhook_secret`` stood: a variable, or the TOML file."""

    def __repr__(self) -> str:
        values = ((setting, getattr(self, setting.key)) for setting in SETTINGS)
        shown = (f"{row.key}={'***' if row.secret and value is not None else repr(value)}" for row, value in values)
        return f"Settings({', '.join(shown)})"


class Setting(msgspec.Struct, frozen=True):
    """One row of the table."""

    env: str
    default: str
    """As it would stand in the environment; the empty text where being absent has a meaning of its own."""
    parse: Callable[[str], Any]
    """From stripped, non-empty text; its ValueError says what to write instead and never repeats the text."""
    doc: str
    absent: tuple[()] | None = None
    """The value of the empty text where that is the default."""
    separator: str = ""
    """What joins the items of a TOML array; empty where an array makes no sense."""
    secret: bool = False
    of_profile: bool = False
    """Where it is not given the upstream's profile decides, and its value is None; ``default`` is the shipped one's."""

    @property
    def key(self) -> str:
        """The name in the TOML file and on ``Settings``."""
        return self.env.removeprefix(PREFIX).lower()


class TableKey(msgspec.Struct, frozen=True):
    """One key of a table ``[upstreams.NAME]`` or ``[clients.NAME]``; as in ``Setting``."""

    parse: Callable[[str], Any]
    separator: str = ""
    secret: bool = False
    """Not shown; may stand in a file of its own, which KEY_file names."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host; a name other than localhost never counts."""
    address = addresses.parse_address(host)
    return host.lower() == "localhost" if address is None else addresses.is_loopback(address)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return value

    return parse


def _number(low: float, high: float, unit: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:  # false for nan as well
            raise ValueError(f"write a number of {unit} from {low:g} to {high:.0f}")
        return value

    return parse


def _host(text: str) -> str:
    host = text.removeprefix("[").removesuffix("]")
    if (address := addresses.parse_address(host)) is not None:
        return addresses.address_text(address)
    # A name of digits and dots alone is a mistyped address, and the resolver would take it for another one.
    if not re.fullmatch(r"(?=.*[a-z])[a-z0-9]([a-z0-9.-]*[a-z0-9])?", host, re.IGNORECASE):
        raise ValueError("write an IP address or a host name alone, such as 127.0.0.1; the port goes into GATEWAY_PORT")
    return host.lower()


def _database_url(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if scheme in ("postgresql", "postgres"):
        raise ValueError("PostgreSQL needs a later version; use sqlite:///… for now")
    path = rest.removeprefix("/")
    if scheme != "sqlite" or not rest.startswith("/") or not path or path.endswith("/") or path == ":memory:":
        raise ValueError("write sqlite:///relative/file.db or sqlite:////absolute/file.db")
    if "?" in path or "#" in path:
        raise ValueError("write the file's path without options: no ? and no #")
    return text


def _upstream_url(text: str) -> str:
    return _base_url(text, "https://aigptimage.com", "the key goes into GATEWAY_UPSTREAM_API_KEY")


def _gateway_url(text: str) -> str:
    return _base_url(text, "http://127.0.0.1:8080", "the token goes into GATEWAY_TOKEN")


def _base_url(text: str, example: str, secret: str) -> str:
    advice = f"write an http or https URL, such as {example}"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port  # reading the port checks it
    except ValueError:
        raise ValueError(advice) from None
    if parts.scheme not in ("http", "https") or not host or re.search(r"\s", text):
        raise ValueError(advice)
    if "@" in parts.netloc:
        raise ValueError(f"write it without user and password; {secret}")
    if "?" in text or "#" in text:
        raise ValueError("write it without a query string and fragment")
    return text.rstrip("/")


def _upstream_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", text):
        raise ValueError("write the name of a profile or of a table [upstreams.NAME], such as kie")
    return text


def _rate(text: str) -> tuple[RateWindow, ...]:
    try:
        pairs = [item.split("/") for item in _items(text)]
        windows = tuple(
            RateWindow(_whole(1, 1_000_000)(limit), _number(0.001, 86_400, "seconds")(span)) for limit, span in pairs
        )
    except ValueError:
        windows = ()
    if not windows:
        raise ValueError(
            "write requests/seconds windows separated by commas, such as 2/1,60/60: "
            "1 to 1000000 requests in 0.001 to 86400 seconds"
        )
    return windows


def _schedule(text: str) -> tuple[float, ...]:
    items = _items(text)
    if not items:
        raise ValueError("write at least one number of seconds: there is one attempt for each, 0 for an immediate one")
    try:
        return tuple(_number(0, 2_592_000, "seconds")(item) for item in items)
    except ValueError as error:
        raise ValueError(f"for each attempt, {error}, separated by commas") from None


def _items(text: str) -> tuple[str, ...]:
    return tuple(item for part in text.split(",") if (item := part.strip()))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _credential(text: str) -> str:
    # It travels in an Authorization header, which anything else would break.
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("write visible ASCII characters without spaces")
    return text


def _one_of(*words: str, absent: str = "") -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"write {' or '.join(words)}{absent}")
        return text

    return parse


def _log_level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("write debug, info, warning or error")
    return text.lower()


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "GATEWAY_HOST",
        "127.0.0.1",
        _host,
        "Address it listens on. Anything but loopback needs a token.",
    ),
    Setting(
        "GATEWAY_PORT",
        "8080",
        _whole(0, 65535),
        "TCP port it listens on; 0 takes a free one.",
    ),
    Setting(
        "GATEWAY_DATABASE_URL",
        "sqlite:///gateway.db",
        _database_url,
        "SQLite file: sqlite:///relative.db (three slashes) or sqlite:////absolute.db (four).",
    ),
    Setting(
        "GATEWAY_UPSTREAM",
        DEFAULT_UPSTREAM,
        _upstream_name,
        "Upstream of callbacks that name none, and of the proxy's root paths: a profile, or a table [upstreams.NAME].",
    ),
    Setting(
        "GATEWAY_UPSTREAM_URL",
        "https://aigptimage.com",
        _upstream_url,
        "Base URL of that upstream; default: its profile's.",
        of_profile=True,
    ),
    Setting(
        "GATEWAY_UPSTREAM_API_KEY",
        "",
        _credential,
        "That upstream's Bearer key: never logged, never sent anywhere else.",
        secret=True,
    ),
    Setting(
        "GATEWAY_UPSTREAM_RATE",
        "2/1,60/60",
        _rate,
        "Requests/seconds windows for that key, all of them at once; default: its profile's.",
        separator=",",
        of_profile=True,
    ),
    Setting(
        "GATEWAY_PROFILES",
        "",
        str,
        "Folder of further upstream profiles, NAME.toml, read beside the shipped ones.",
    ),
    Setting(
        "GATEWAY_WEBHOOK_SECRET",
        "",
        _words,
        "whsec_…, several separated by spaces: all sign. Not set: made on first start, beside the database.",
        separator=" ",
        secret=True,
    ),
    Setting(
        "GATEWAY_TOKEN",
        "",
        _credential,
        "Token that clients send as Authorization: Bearer. Not set: anyone on this machine may call.",
        secret=True,
    ),
    Setting(
        "GATEWAY_OPERATOR_TOKEN",
        "",
        _credential,
        "Token that reads, redelivers and cancels for all clients, and registers nothing.",
        secret=True,
    ),
    Setting(
        "GATEWAY_CALLBACK_ALLOW",
        "",
        _items,
        "Hosts, host:port or CIDRs, separated by commas, that callbacks may reach besides public https hosts.",
        absent=(),
        separator=",",
    ),
    Setting(
        "GATEWAY_POLL_MIN_S",
        "1",
        _number(0.001, 86_400, "seconds"),
        "Least time between two polls of one task, in seconds; fractions allowed.",
    ),
    Setting(
        "GATEWAY_POLL_MAX_S",
        "30",
        _number(0.001, 86_400, "seconds"),
        "Greatest time between two polls of one task, in seconds; fractions allowed.",
    ),
    Setting(
        "GATEWAY_RESULT_MAX_BYTES",
        "33554432",
        _whole(1024, 134_217_728),
        "Largest answer of the upstream that is taken, in bytes: images in it count.",
    ),
    Setting(
        "GATEWAY_RETRY_SCHEDULE",
        "0,5,300,1800,7200,18000,36000,50400,72000,86400",
        _schedule,
        "Seconds before each attempt to deliver, separated by commas; its length is the number of attempts.",
        separator=",",
    ),
    Setting(
        "GATEWAY_ATTEMPT_TIMEOUT_S",
        "15",
        _number(0.001, 3600, "seconds"),
        "Time limit of one attempt in seconds: DNS, connect, TLS, sending and the answer, all included.",
    ),
    Setting(
        "GATEWAY_DRAIN_S",
        "10",
        _number(0, 3600, "seconds"),
        "Seconds it may take at SIGTERM to finish what is in flight.",
    ),
    Setting(
        "GATEWAY_RETENTION_DAYS",
        "30",
        _number(0.001, 36_500, "days"),
        "Days that delivered and cancelled callbacks are kept; dead ones three times that.",
    ),
    Setting(
        "GATEWAY_READY_UPSTREAMS",
        "any",
        _one_of("any", "all"),
        "/readyz needs any upstream that accepts its key, or all of them to.",
    ),
    Setting(
        "GATEWAY_LOG_FORMAT",
        "",
        _one_of("console", "json", absent=", or leave it out: console on a terminal, else json"),
        "console or json. Not set: console on a terminal, else json.",
    ),
    Setting(
        "GATEWAY_LOG_LEVEL",
        "info",
        _log_level,
        "The least that is logged: debug, info, warning or error.",
    ),
    Setting(
        "GATEWAY_URL",
        "",
        _gateway_url,
        "Where commands such as gateway list find the gateway. Not set: at the host and port above.",
    ),
)
"""Every setting, in the order of the README's table and of ``config/gateway.toml``."""

UPSTREAM_KEYS: dict[str, TableKey] = {
    "profile": TableKey(str),
    "url": TableKey(_upstream_url),
    "api_key": TableKey(_credential, secret=True),
    "rate": TableKey(_rate, ","),
    "create_rate": TableKey(_rate, ","),
}
"""What a table ``[upstreams.NAME]`` may hold."""

CLIENT_KEYS: dict[str, TableKey] = {
    "token_hash": TableKey(parse_hashes, " ", secret=True),
    "token_hashes": TableKey(parse_hashes, " ", secret=True),
    "webhook_secret": TableKey(_words, " ", secret=True),
    "upstream": TableKey(str),
    "rate": TableKey(_rate, ","),
}
"""What a table ``[clients.NAME]`` may hold, besides its ``headers`` or ``headers_file``."""
