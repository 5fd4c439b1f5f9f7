"""What GATEWAY_DATABASE_URL names: a file of SQLite's, or PostgreSQL's servers, as libpq writes them.

Pure: it reads no file and no environment, and never repeats what it refuses: a password may stand in it. ``parsers``
checks with it, and ``gateway.store.postgres.url`` connects by it.
"""

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from urllib.parse import unquote

_FORM = re.compile(r"postgres(?:ql)?://([^/?#]*)(/[^/?#]*)?(?:\?([^#]*))?", re.DOTALL)
_EXAMPLE = "postgresql://user@host/database"
_DEFAULT_PORT = 5432
_WRITABLE = ("any", "primary", "read-write")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_FILES = ("passfile", "sslrootcert", "sslcert", "sslkey", "sslcrl")
_TLS = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "ssl_min_protocol_version")
_OPTIONS = {*_FILES, *_TLS, "target_session_attrs", "application_name", "options"}
_PARTS = ("host", "port", "user", "password", "dbname")
"""What may stand in the query, in the place of where it usually stands."""


@dataclass(frozen=True)
class PostgresUrl:
    """PostgreSQL's servers, any of which may be the one to ask, and how to ask it."""

    hosts: tuple[tuple[str, int], ...]
    """Names, addresses, or folders of sockets; each with its port."""
    database: str
    user: str | None
    password: str | None = field(repr=False)
    options: dict[str, str]
    """By libpq's names."""

    @property
    def target(self) -> str:
        """Which of several servers is asked; of one by itself its errors tell more."""
        return self.options.get("target_session_attrs", "read-write" if len(self.hosts) > 1 else "any")

    @property
    def tls(self) -> dict[str, str]:
        return {name: value for name, value in self.options.items() if name in _TLS}

    @property
    def files(self) -> dict[str, str]:
        return {name: value for name, value in self.options.items() if name in _FILES and value != "system"}

    def __str__(self) -> str:
        """Say where the database is, for everybody."""
        return f"{', '.join(where(*address) for address in self.hosts)}, database {self.database}"


def where(host: str, port: int) -> str:
    """Write a server's address as one reads it."""
    return (
        f"{host}/.s.PGSQL.{port}" if host.startswith("/") else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    )


def is_postgres(url: str) -> bool:
    return url.startswith(("postgresql://", "postgres://"))


def without_password(url: str) -> str:
    """Return a database's URL, as it may be shown: of PostgreSQL's what says where it is."""
    return f"postgresql: {parse_postgres(url)}" if is_postgres(url) else url


def parse_postgres(text: str) -> PostgresUrl:
    """Parse ``postgresql://user:password@host:port,host:port/database?option=value``, as libpq does.

    Raises ValueError, which says what to write instead.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise ValueError(f"write {_EXAMPLE}; write / ? # @ and : in a password as %2F %3F %23 %40 and %3A")
    netloc, path, query = form.groups(default="")
    options = _options(query)
    user_info, _, host_list = netloc.rpartition("@")
    user, colon, password = user_info.partition(":")
    given = {
        "user": _decoded(user),
        "password": _decoded(password) if colon else "",
        "dbname": _decoded(path.removeprefix("/")),
    }
    for name in given:
        given[name] = options.pop(name, "") or given[name]
    hosts = _hosts(options.pop("host", "") or _decoded(host_list), options.pop("port", ""))
    if not given["dbname"]:
        raise ValueError(f"name the database, as in {_EXAMPLE}")
    _check(options)
    return PostgresUrl(hosts, given["dbname"], given["user"] or None, given["password"] or None, options)


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    known = {*_OPTIONS, *_PARTS}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if name not in known or not equals:
            close = get_close_matches(name, sorted(known), n=1)
            advice = f"did you mean {close[0]}=…?" if close else f"there are {', '.join(sorted(known))}"
            raise ValueError(f"an option after ? is not known; {advice}")
        options[name] = _decoded(value)
    return options


def _hosts(host_list: str, port_list: str) -> tuple[tuple[str, int], ...]:
    ports = [int(text) if text.isascii() and text.isdigit() else 0 for text in filter(None, port_list.split(","))]
    texts = host_list.split(",")
    if ports and len(ports) not in (1, len(texts)):
        raise ValueError("write one port for all hosts, or one for each")
    found = []
    for place, text in enumerate(texts):
        default = ports[place % len(ports)] if ports else _DEFAULT_PORT
        found.append((text, default) if text.startswith("/") else _host(text, default))
    if not all(0 < port < 65536 for _, port in found):
        raise ValueError("write ports from 1 to 65535")
    return tuple(found)


def _host(text: str, default: int) -> tuple[str, int]:
    form = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+(?:%\w+)?)\]|([^\s\[\]:/@]+))(?::(\d{1,5})?)?", text, re.ASCII)
    if form is None:
        raise ValueError(
            f"write hosts as host, host:port or [address]:port with commas between, as in {_EXAMPLE}, "
            "or ?host=/folder of a socket"
        )
    address, name, port = form.groups()
    return address or name, int(port) if port else default


def _check(options: dict[str, str]) -> None:
    if options.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError(f"write sslmode={', '.join(_SSL_MODES[:-1])} or {_SSL_MODES[-1]}")
    if options.get("target_session_attrs", "any") not in _WRITABLE:
        raise ValueError("the gateway writes: write target_session_attrs=read-write, primary or any")
    if options.get("sslmode", "").startswith("verify") and "sslrootcert" not in options:
        raise ValueError("sslmode=verify-… needs sslrootcert=/path of the authorities' certificates, or system")
    if options.get("sslrootcert") == "system" and options.get("sslmode") != "verify-full":
        raise ValueError("sslrootcert=system needs sslmode=verify-full: anybody can have a certificate of these")
    if ("sslcert" in options) != ("sslkey" in options):
        raise ValueError("sslcert and sslkey go together")
    for name in _FILES:
        if not options.get(name, "/").startswith("/") and options[name] != "system":
            raise ValueError(f"write the whole path of {name}, which begins with /")


def _decoded(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("what stands after % is no text in UTF-8") from None
    if "\0" in decoded:
        raise ValueError("leave %00 out: no text has it")
    return decoded
