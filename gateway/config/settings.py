"""What can be set: each setting once, with its name, type, default, how its text is read, and its sentence.

A field of ``Settings`` is the variable GATEWAY_FIELD and a key of the TOML file; a field of ``UpstreamSettings``,
``ClientSettings`` or ``ReceiverSettings`` is a key of the file's tables ``[upstreams.NAME]``, ``[clients.NAME]`` and
``[[receivers]]``. Tests hold ``config/gateway.toml`` and the manual to it. Where a setting is given and what it is used
for is not known here.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from gateway.config import parsers
from gateway.config.databaseurl import is_postgres, without_password
from gateway.config.egressproxy import EgressProxy, parse_proxy
from gateway.config.tokens import parse_hashes
from gateway.core.ratelimit import RateWindow

if TYPE_CHECKING:  # a command that asks a running gateway needs no profiles, and starts often
    from gateway.config.profile import Profile

PREFIX = "GATEWAY_"
DEFAULT_CLIENT = "default"
"""Whoever sends GATEWAY_TOKEN; everybody, where no client has a token."""
DEFAULT_UPSTREAM = "aigptimage"


class Setting(msgspec.Struct, frozen=True):
    """What is declared of a setting beside its name and type."""

    parse: Callable[[str], Any]
    """From stripped text; its ValueError says what to write instead and never repeats the text."""
    default: str | None = None
    """As it would stand in the environment; the empty text where being absent has a meaning of its own.

    None, of a table's key: what is not written there is decided elsewhere, and the empty text is a mistake.
    """
    doc: str = ""
    absent: tuple[()] | str | None = None
    """The value of the empty text where that is the default."""
    separator: str = ""
    """What joins the items of a TOML array; empty where an array makes no sense."""
    secret: bool = False
    """Not shown; may stand in a file of its own, which GATEWAY_…_FILE names, or a table's …_file."""
    counts: Literal["restart", "reload", "command"] = "restart"
    """When a new value counts: once the gateway is restarted, or reloaded too, or with a client's next command."""
    of_profile: bool = False
    """Where it is not given the upstream's profile decides, and its value is None; ``default`` is the shipped one's."""
    key: str = ""
    """The field's name, which it has in the TOML file too."""

    @property
    def env(self) -> str:
        """The variable."""
        return f"{PREFIX}{self.key.upper()}"


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream: what its table, GATEWAY_UPSTREAM_… and its profile say together. Its repr hides the key."""

    name: str
    # fmt: off
    profile: Annotated["Profile", Setting(str,
        doc="Name of its profile; default: the table's name.")]
    """In the table it is named."""
    url: Annotated[str, Setting(parsers.upstream_url,
        doc="Its base URL; default: its profile's.")]
    api_key: Annotated[str | None, Setting(parsers.credential, secret=True, counts="reload",
        doc="Its key.")]
    rate: Annotated[tuple[RateWindow, ...], Setting(parsers.rate, separator=",",
        doc="How often it may be asked for tasks' states; default: its profile's.")]
    """Empty: not limited."""
    create_rate: Annotated[tuple[RateWindow, ...], Setting(parsers.rate, separator=",",
        doc="How many tasks may be created through the gateway; default: its profile's.")]
    proxy: Annotated[EgressProxy | None, Setting(parse_proxy, secret=True,
        doc="HTTP proxy that it is reached through, as upstream_proxy has it; default: none.")] = None
    # fmt: on
    default: bool
    """Whether callbacks mean it that name none."""

    def __repr__(self) -> str:
        return f"UpstreamSettings(name={self.name!r}, profile={self.profile.name!r}, url={self.url!r})"


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One client, a table ``[clients.NAME]`` of the TOML file. Its repr hides all that is secret."""

    name: str
    # fmt: off
    token_hashes: Annotated[tuple[bytes, ...], Setting(parse_hashes, separator=" ", secret=True,
        doc="Hashes of the tokens that it may send, as `gateway make-secret --token` prints them.")]
    """SHA-256 digests of the tokens it may send."""
    webhook_secret: Annotated[tuple[str, ...] | None, Setting(parsers.words, separator=" ", secret=True,
        doc="What signs its webhooks; default: GATEWAY_WEBHOOK_SECRET.")]
    """None: signed with ``Settings.webhook_secret``."""
    upstream: Annotated[str | None, Setting(str,
        doc="Upstream of its callbacks that name none; default: GATEWAY_UPSTREAM.")]
    """Where its callbacks name none; None: the default one."""
    headers: Mapping[str, str]
    """Sent to its receivers with each webhook; lower-case names. A table within the table, or the file headers_file."""
    rate: Annotated[tuple[RateWindow, ...] | None, Setting(parsers.rate, separator=",",
        doc="How many calls it may make, a batch being one; above it 429 with Retry-After. Default: no limit.")]
    """None: not limited."""
    # fmt: on

    def __repr__(self) -> str:
        return f"ClientSettings(name={self.name!r}, upstream={self.upstream!r})"


class ReceiverSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is particular to the URLs below one, a table ``[[receivers]]`` of the TOML file. Its repr hides secrets.

    Of a file there are two: the path, and what it held when the settings were read.
    """

    place: str
    """How messages call the table, such as ``receivers[2]``."""
    # fmt: off
    match: Annotated[str, Setting(parsers.url_prefix,
        doc="How the URLs of these receivers begin: scheme, host, optional port and path, whole segments of it. "
        "Of several tables that match a URL the longest counts.")]
    """As it is written one way, without a slash at its end."""
    headers: Mapping[str, str]
    """Sent with each webhook; lower-case names. A table within the table."""
    secret_file: Annotated[str | None, Setting(str,
        doc="File of what signs their webhooks, whsec_… or whsk_…, several: all sign. Default: the client's, "
        "else GATEWAY_WEBHOOK_SECRET.")]
    secret: tuple[str, ...] | None
    ca_file: Annotated[str | None, Setting(str,
        doc="File in PEM format of the authorities whose certificates these have, instead of the system's.")]
    ca: str | None
    client_cert_file: Annotated[str | None, Setting(str,
        doc="File in PEM format of the certificate, and those between it and its authority, that is shown to them.")]
    client_cert: str | None
    client_key_file: Annotated[str | None, Setting(str,
        doc="File in PEM format of that certificate's key, not encrypted.")]
    client_key: str | None
    proxy: Annotated[EgressProxy | None, Setting(parse_proxy, secret=True,
        doc="HTTP proxy that they are reached through: http://host:port, or http://user:password@host:port.")]
    concurrency: Annotated[int | None, Setting(parsers.whole(1, 256),
        doc="How many attempts may be under way at once. Default: no limit of their own.")]
    rate: Annotated[tuple[RateWindow, ...] | None, Setting(parsers.rate, separator=",",
        doc="How many attempts may be made. Default: no limit.")]
    timeout_s: Annotated[float | None, Setting(parsers.number(0.001, 3600, "seconds"),
        doc="Time limit of one attempt, all included. Default: GATEWAY_ATTEMPT_TIMEOUT_S.")]
    # fmt: on

    def __repr__(self) -> str:
        return f"ReceiverSettings(match={self.match!r})"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator decided, in the order of the manual and of ``config/gateway.toml``. Its repr hides secrets."""

    # A setting's name, type, parser and default, and below them its sentence.
    # fmt: off
    host: Annotated[str, Setting(parsers.host, "127.0.0.1",
        "Address it listens on. Anything but loopback needs a token.")]
    port: Annotated[int, Setting(parsers.whole(0, 65535), "8080",
        "TCP port it listens on; 0 takes a free one.")]
    root_path: Annotated[str, Setting(parsers.root_path, "",
        "Path that a proxy shows the gateway below, such as /gateway; not set: it stands at the root.", absent="")]
    """Empty, or without a slash at its end."""
    database_url: Annotated[str, Setting(parsers.database_url, "sqlite:///gateway.db",
        "sqlite:///relative.db, sqlite:////absolute.db or, for several replicas, postgresql://user@host/database.")]
    database_password: Annotated[str | None, Setting(str, "",
        "PostgreSQL's password, where it does not stand in the URL or in libpq's passfile.", secret=True)]
    upstream: Annotated[str, Setting(parsers.upstream_name, DEFAULT_UPSTREAM,
        "Upstream of callbacks that name none, and of the proxy's root paths: "
        "a profile, or a table [upstreams.NAME].")]
    """The default upstream's name."""
    upstream_url: Annotated[str | None, Setting(parsers.upstream_url, "https://aigptimage.com",
        "Base URL of that upstream; default: its profile's.", of_profile=True)]
    """Without a slash at its end. None: what its table says, else its profile; so with its rate."""
    upstream_api_key: Annotated[str | None, Setting(parsers.credential, "",
        "That upstream's Bearer key: never logged, never sent anywhere else.", secret=True, counts="reload")]
    upstream_rate: Annotated[tuple[RateWindow, ...] | None, Setting(parsers.rate, "2/1,60/60",
        "Requests/seconds windows for that key, all of them at once; default: its profile's.",
        separator=",", of_profile=True)]
    upstream_proxy: Annotated[EgressProxy | None, Setting(parse_proxy, "",
        "HTTP proxy that this upstream is reached through: http://host:port, or http://user:password@host:port.",
        secret=True)]
    profiles: Annotated[str | None, Setting(str, "",
        "Folder of further upstream profiles, NAME.toml, read beside the shipped ones.")]
    proxy_format: Annotated[Literal["record", "standard"], Setting(parsers.one_of("record", "standard"), "record",
        "Format of the webhooks that creates through the proxy ask for: record or standard.")]
    webhook_secret: Annotated[tuple[str, ...] | None, Setting(parsers.words, "",
        "whsec_…, several separated by spaces: all sign. Not set: made on first start, beside the database.",
        separator=" ", secret=True, counts="reload")]
    record_hmac_key: Annotated[str | None, Setting(parsers.credential, "",
        "Key that signs webhooks of format record the way the upstream signs its own, beside the secrets above.",
        secret=True, counts="reload")]
    token: Annotated[str | None, Setting(parsers.credential, "",
        "Token that clients send as Authorization: Bearer. Not set: anyone on this machine may call.",
        secret=True, counts="reload")]
    operator_token: Annotated[str | None, Setting(parsers.credential, "",
        "Token that reads, redelivers and cancels for all clients, and registers nothing.",
        secret=True, counts="reload")]
    callback_allow: Annotated[tuple[str, ...], Setting(parsers.items, "",
        "Hosts, host:port or CIDRs, separated by commas, that callbacks may reach besides public https hosts.",
        absent=(), separator=",")]
    poll_min_s: Annotated[float, Setting(parsers.number(0.001, 86_400, "seconds"), "1",
        "Least time between two polls of one task, in seconds; fractions allowed.")]
    poll_max_s: Annotated[float, Setting(parsers.number(0.001, 86_400, "seconds"), "30",
        "Greatest time between two polls of one task, in seconds; fractions allowed.")]
    proxy_watch_s: Annotated[float, Setting(parsers.number(0, 86_400, "seconds"), "60",
        "Seconds, or up to half more, that a task is polled for readers after its last read; 0: they are forwarded.")]
    result_max_bytes: Annotated[int, Setting(parsers.whole(1024, 134_217_728), "33554432",
        "Largest answer of the upstream that is taken, and largest request that goes on to it, in bytes.")]
    memory_bytes: Annotated[int, Setting(parsers.whole(1_048_576, 68_719_476_736), "67108864",
        "Bytes of large answers, webhooks and requests in memory, all together; one that is larger comes alone.")]
    retry_schedule: Annotated[tuple[float, ...], Setting(
        parsers.schedule, "0,5,300,1800,7200,18000,36000,50400,72000,86400",
        "Seconds before each attempt to deliver, separated by commas; its length is the number of attempts.",
        separator=",")]
    """Seconds before each attempt, at least one."""
    attempt_timeout_s: Annotated[float, Setting(parsers.number(0.001, 3600, "seconds"), "15",
        "Time limit of one attempt in seconds: DNS, connect, TLS, sending and the answer, all included.")]
    drain_s: Annotated[float, Setting(parsers.number(0, 3600, "seconds"), "10",
        "Seconds it may take at SIGTERM to finish what is in flight.")]
    retention_days: Annotated[float, Setting(parsers.number(0.001, 36_500, "days"), "30",
        "Days that delivered and cancelled callbacks are kept; dead ones three times that.")]
    ready_upstreams: Annotated[Literal["any", "all"], Setting(parsers.one_of("any", "all"), "any",
        "/readyz needs any upstream that accepts its key, or all of them to.")]
    events_url: Annotated[str | None, Setting(str, "",
        "Where operator events go, signed like every webhook. Not set: nobody is told.", secret=True)]
    log_format: Annotated[Literal["console", "json"] | None, Setting(
        parsers.one_of("console", "json", absent=", or leave it out: console on a terminal, else json"), "",
        "console or json. Not set: console on a terminal, else json.")]
    """None: ``console`` on a terminal, else ``json``."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Setting(parsers.log_level, "info",
        "The least that is logged: debug, info, warning or error.")]
    url: Annotated[str | None, Setting(parsers.gateway_url, "",
        "Where commands such as gateway list find the gateway. Not set: at the host and port above.", counts="command")]
    """Where the commands that are clients find the gateway."""
    # fmt: on
    upstreams: tuple[UpstreamSettings, ...] = ()
    """The default one first, where there is one, then those of the tables."""
    clients: tuple[ClientSettings, ...] = ()
    """Clients besides the default one, or with more for it; only the TOML file names them."""
    receivers: tuple[ReceiverSettings, ...] = ()
    """What is particular to some receivers; only the TOML file names them."""
    webhook_secret_from: str = ""
    """Where ``webhook_secret`` stood: a variable, or the TOML file."""
    secret_files: tuple[str, ...] = ()
    """The files that a secret was read from, the TOML file too where it holds one."""

    def __repr__(self) -> str:
        database_url = without_password(self.database_url)
        values = [(row, database_url if row.key == "database_url" else getattr(self, row.key)) for row in SETTINGS]
        shown = (f"{row.key}={'***' if row.secret and value is not None else repr(value)}" for row, value in values)
        return f"Settings({', '.join(shown)})"


def _declared(group: type[msgspec.Struct]) -> dict[str, Setting]:
    """Return the settings among a struct's fields, by key."""
    declared = ((name, getattr(kind, "__metadata__", ())) for name, kind in group.__annotations__.items())
    return {name: msgspec.structs.replace(setting, key=name) for name, of_field in declared for setting in of_field}


SETTINGS = tuple(_declared(Settings).values())
UPSTREAMS, CLIENTS, RECEIVERS = "upstreams", "clients", "receivers"
"""The groups of tables in the TOML file."""
UPSTREAM_KEYS = _declared(UpstreamSettings)
"""What a table ``[upstreams.NAME]`` may hold."""
CLIENT_KEYS = _declared(ClientSettings)
"""What a table ``[clients.NAME]`` may hold, besides its ``headers``."""
CLIENT_KEYS["token_hash"] = msgspec.structs.replace(
    CLIENT_KEYS["token_hashes"], key="token_hash", doc="The same, where it is one."
)

RECEIVER_KEYS = _declared(ReceiverSettings)
"""What a table ``[[receivers]]`` may hold, besides its ``headers``."""


def written(value: Any) -> str:
    """Return a setting's value as the environment has it; an empty text for none."""
    if isinstance(value, tuple):
        return ",".join(map(written, value))
    if isinstance(value, RateWindow):
        return f"{value.limit}/{value.window_s:g}"
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def database_path(url: str) -> Path | None:
    """Return the file of GATEWAY_DATABASE_URL, whole; a relative one starts at the working directory.

    None where the database is a server's.
    """
    if is_postgres(url):
        return None
    return Path(url.removeprefix("sqlite:///")).absolute()
