"""What the settings are: one table with each one's name, default, parser and sentence of documentation.

The only owner of that knowledge; a test holds ``config/gateway.toml`` and the manual to it. What a setting is used for
is not known here; how its text is read stands in ``settingtexts``. Called by ``config``, which reads and reports; the
rest of the package takes these names from there.
"""

from collections.abc import Callable, Collection
from typing import Any, Literal

import msgspec

from gateway.config import texts as texts
from gateway.config.tablesettings import ClientSettings, UpstreamSettings
from gateway.config.tokens import parse_hashes
from gateway.core import addresses
from gateway.core.ratelimit import RateWindow

__all__ = [
    "CLIENT_KEYS",
    "DEFAULT_CLIENT",
    "DEFAULT_UPSTREAM",
    "PREFIX",
    "SETTINGS",
    "UPSTREAM_KEYS",
    "ClientSettings",
    "Setting",
    "Settings",
    "TableKey",
    "UpstreamSettings",
    "is_loopback",
    "open_to_all",
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
    memory_bytes: int
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
    secret_files: tuple[str, ...] = ()
    """The files that a secret was read from, the TOML file too where it holds one."""

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


def open_to_all(token: str | None, of_clients: Collection[object]) -> bool:
    """Whether anyone may call, without a token: there is no GATEWAY_TOKEN, and none of ``of_clients``, their tokens."""
    return token is None and not of_clients


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "GATEWAY_HOST",
        "127.0.0.1",
        texts.host,
        "Address it listens on. Anything but loopback needs a token.",
    ),
    Setting(
        "GATEWAY_PORT",
        "8080",
        texts.whole(0, 65535),
        "TCP port it listens on; 0 takes a free one.",
    ),
    Setting(
        "GATEWAY_DATABASE_URL",
        "sqlite:///gateway.db",
        texts.database_url,
        "SQLite file: sqlite:///relative.db (three slashes) or sqlite:////absolute.db (four).",
    ),
    Setting(
        "GATEWAY_UPSTREAM",
        DEFAULT_UPSTREAM,
        texts.upstream_name,
        "Upstream of callbacks that name none, and of the proxy's root paths: a profile, or a table [upstreams.NAME].",
    ),
    Setting(
        "GATEWAY_UPSTREAM_URL",
        "https://aigptimage.com",
        texts.upstream_url,
        "Base URL of that upstream; default: its profile's.",
        of_profile=True,
    ),
    Setting(
        "GATEWAY_UPSTREAM_API_KEY",
        "",
        texts.credential,
        "That upstream's Bearer key: never logged, never sent anywhere else.",
        secret=True,
    ),
    Setting(
        "GATEWAY_UPSTREAM_RATE",
        "2/1,60/60",
        texts.rate,
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
        texts.words,
        "whsec_…, several separated by spaces: all sign. Not set: made on first start, beside the database.",
        separator=" ",
        secret=True,
    ),
    Setting(
        "GATEWAY_TOKEN",
        "",
        texts.credential,
        "Token that clients send as Authorization: Bearer. Not set: anyone on this machine may call.",
        secret=True,
    ),
    Setting(
        "GATEWAY_OPERATOR_TOKEN",
        "",
        texts.credential,
        "Token that reads, redelivers and cancels for all clients, and registers nothing.",
        secret=True,
    ),
    Setting(
        "GATEWAY_CALLBACK_ALLOW",
        "",
        texts.items,
        "Hosts, host:port or CIDRs, separated by commas, that callbacks may reach besides public https hosts.",
        absent=(),
        separator=",",
    ),
    Setting(
        "GATEWAY_POLL_MIN_S",
        "1",
        texts.number(0.001, 86_400, "seconds"),
        "Least time between two polls of one task, in seconds; fractions allowed.",
    ),
    Setting(
        "GATEWAY_POLL_MAX_S",
        "30",
        texts.number(0.001, 86_400, "seconds"),
        "Greatest time between two polls of one task, in seconds; fractions allowed.",
    ),
    Setting(
        "GATEWAY_RESULT_MAX_BYTES",
        "33554432",
        texts.whole(1024, 134_217_728),
        "Largest answer of the upstream that is taken, in bytes: images in it count.",
    ),
    Setting(
        "GATEWAY_MEMORY_BYTES",
        "67108864",
        texts.whole(1_048_576, 68_719_476_736),
        "Bytes of large answers, webhooks and requests in memory, all together; one that is larger comes alone.",
    ),
    Setting(
        "GATEWAY_RETRY_SCHEDULE",
        "0,5,300,1800,7200,18000,36000,50400,72000,86400",
        texts.schedule,
        "Seconds before each attempt to deliver, separated by commas; its length is the number of attempts.",
        separator=",",
    ),
    Setting(
        "GATEWAY_ATTEMPT_TIMEOUT_S",
        "15",
        texts.number(0.001, 3600, "seconds"),
        "Time limit of one attempt in seconds: DNS, connect, TLS, sending and the answer, all included.",
    ),
    Setting(
        "GATEWAY_DRAIN_S",
        "10",
        texts.number(0, 3600, "seconds"),
        "Seconds it may take at SIGTERM to finish what is in flight.",
    ),
    Setting(
        "GATEWAY_RETENTION_DAYS",
        "30",
        texts.number(0.001, 36_500, "days"),
        "Days that delivered and cancelled callbacks are kept; dead ones three times that.",
    ),
    Setting(
        "GATEWAY_READY_UPSTREAMS",
        "any",
        texts.one_of("any", "all"),
        "/readyz needs any upstream that accepts its key, or all of them to.",
    ),
    Setting(
        "GATEWAY_LOG_FORMAT",
        "",
        texts.one_of("console", "json", absent=", or leave it out: console on a terminal, else json"),
        "console or json. Not set: console on a terminal, else json.",
    ),
    Setting(
        "GATEWAY_LOG_LEVEL",
        "info",
        texts.log_level,
        "The least that is logged: debug, info, warning or error.",
    ),
    Setting(
        "GATEWAY_URL",
        "",
        texts.gateway_url,
        "Where commands such as gateway list find the gateway. Not set: at the host and port above.",
    ),
)
"""Every setting, in the order of the manual's table and of ``config/gateway.toml``."""

UPSTREAM_KEYS: dict[str, TableKey] = {
    "profile": TableKey(str),
    "url": TableKey(texts.upstream_url),
    "api_key": TableKey(texts.credential, secret=True),
    "rate": TableKey(texts.rate, ","),
    "create_rate": TableKey(texts.rate, ","),
}
"""What a table ``[upstreams.NAME]`` may hold."""

CLIENT_KEYS: dict[str, TableKey] = {
    "token_hash": TableKey(parse_hashes, " ", secret=True),
    "token_hashes": TableKey(parse_hashes, " ", secret=True),
    "webhook_secret": TableKey(texts.words, " ", secret=True),
    "upstream": TableKey(str),
    "rate": TableKey(texts.rate, ","),
}
"""What a table ``[clients.NAME]`` may hold, besides its ``headers`` or ``headers_file``."""
