"""What a setting's text means: parsers from text to values, which say what to write instead.

Pure: they read no file and no environment, and never repeat the text that they refuse. ``settings`` names them.
"""

import math
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from gateway.config import databaseurl
from gateway.core import addresses
from gateway.core.ratelimit import RateWindow

# The gateway's own, those that frame the message, and those that belong to one connection (RFC 9110 §7.6.1).
_OUR_HEADERS = re.compile(
    r"(?:x-)?webhook-.*|content-.*|host|user-agent|accept|accept-encoding|expect|connection|keep-alive|proxy-.*|te|trailer"
    r"|transfer-encoding|upgrade|http2-settings"
)
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110 §5.6.2
# Visible ASCII, with spaces and tabs inside: above all no line break, which would begin a header of its own.
_HEADER_VALUE = re.compile(r"[!-~]([\t -~]*[!-~])?")
_MAX_HEADER_VALUE = 4096


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return value

    return parse


def number(low: float, high: float, unit: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:  # false for nan as well
            raise ValueError(f"write a number of {unit} from {low:g} to {high:.0f}")
        return value

    return parse


def host(text: str) -> str:
    name = text.removeprefix("[").removesuffix("]")
    if (address := addresses.parse_address(name)) is not None:
        return addresses.address_text(address)
    # A name of digits and dots alone is a mistyped address, and the resolver would take it for another one.
    if not re.fullmatch(r"(?=.*[a-z])[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name, re.IGNORECASE):
        raise ValueError("write an IP address or a host name alone, such as 127.0.0.1; the port goes into GATEWAY_PORT")
    return name.lower()


_OWN_PATHS = ("/dashboard", "/manual", "/v1", "/u", "/api", "/api/v1")
"""Below these the gateway's own paths begin: what a proxy leaves of one could be either."""


def root_path(text: str) -> str:
    path = text.rstrip("/")
    if not re.fullmatch(r"(/[0-9A-Za-z._~-]+)*", path) or re.search(r"/\.{1,2}(/|$)", path):
        raise ValueError("write a path such as /gateway: letters, digits, and - . _ ~ between slashes")
    if path in _OWN_PATHS:
        raise ValueError("take another path: the gateway's own stand below this one")
    return path


def database_url(text: str) -> str:
    scheme, _, rest = text.partition("://")
    if scheme.split("+")[0] in ("postgresql", "postgres"):
        databaseurl.parse_postgres(text)
        return text
    path = rest.removeprefix("/")
    if scheme != "sqlite" or not rest.startswith("/") or not path or path.endswith("/") or path == ":memory:":
        raise ValueError(
            "write sqlite:///relative/file.db, sqlite:////absolute/file.db or postgresql://user@host/database"
        )
    if "?" in path or "#" in path:
        raise ValueError("write the file's path without options: no ? and no #")
    return text


def base_url(example: str, secret: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        advice = f"write an http or https URL, such as {example}"
        try:
            parts = urlsplit(text)
            hostname, _ = parts.hostname, parts.port  # reading the port checks it
        except ValueError:
            raise ValueError(advice) from None
        if parts.scheme not in ("http", "https") or not hostname or re.search(r"\s", text):
            raise ValueError(advice)
        if "@" in parts.netloc:
            raise ValueError(f"write it without user and password; {secret}")
        if "?" in text or "#" in text:
            raise ValueError("write it without a query string and fragment")
        return text.rstrip("/")

    return parse


upstream_url = base_url("https://aigptimage.com", "the key goes into GATEWAY_UPSTREAM_API_KEY")
gateway_url = base_url("http://127.0.0.1:8080", "the token goes into GATEWAY_TOKEN")


def url_prefix(text: str) -> str:
    """Return the beginning of URLs as it is written one way: host in ASCII, no default port, no slash at the end."""
    import httpx  # late: many a command asks a running gateway, and needs none of this

    from gateway.core.urls import prefix_of

    advice = "write the beginning of URLs, such as https://hooks.example.com or https://hooks.example.com:8443/orders"
    if not re.match("https?://[^/]", text, re.IGNORECASE) or re.search(r"[\s\\\0-\x1f]", text):
        raise ValueError(advice)
    if "@" in text.split("/")[2]:
        raise ValueError(f"{advice}, without user and password")
    if "?" in text or "#" in text:
        raise ValueError(f"{advice}, without a query string and fragment")
    if "*" in text:  # in a path it may be meant as it stands: then the URL can be named up to there
        raise ValueError(
            "write it without *, such as https://hooks.example.com/orders: it stands for all URLs that begin so; "
            "of several hosts each has a table of its own"
        )
    try:
        receiver, segments = prefix_of(text)
        port = httpx.URL(text).port
    except httpx.InvalidURL:
        raise ValueError(advice) from None
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{advice}, with a port from 1 to 65535")
    return "/".join((receiver, *segments)).rstrip("/")


def upstream_name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", text):
        raise ValueError("write the name of a profile or of a table [upstreams.NAME], such as kie")
    return text


def rate(text: str) -> tuple[RateWindow, ...]:
    try:
        pairs = [item.split("/") for item in items(text)]
        windows = tuple(
            RateWindow(whole(1, 1_000_000)(limit), number(0.001, 86_400, "seconds")(span)) for limit, span in pairs
        )
    except ValueError:
        windows = ()
    if not windows:
        raise ValueError(
            "write requests/seconds windows separated by commas, such as 2/1,60/60: "
            "1 to 1000000 requests in 0.001 to 86400 seconds"
        )
    return windows


def schedule(text: str) -> tuple[float, ...]:
    spans = items(text)
    if not spans:
        raise ValueError("write at least one number of seconds: there is one attempt for each, 0 for an immediate one")
    try:
        return tuple(number(0, 2_592_000, "seconds")(item) for item in spans)
    except ValueError as error:
        raise ValueError(f"for each attempt, {error}, separated by commas") from None


def items(text: str) -> tuple[str, ...]:
    return tuple(item for part in text.split(",") if (item := part.strip()))


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def credential(text: str) -> str:
    # It travels in an Authorization header, which anything else would break.
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("write visible ASCII characters without spaces")
    return text


def one_of(*words: str, absent: str = "") -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"write {', '.join(words[:-1])} or {words[-1]}{absent}")
        return text

    return parse


def log_level(text: str) -> str:
    return one_of("debug", "info", "warning", "error")(text.lower())


def header_problem(name: str, value: str) -> str | None:
    """Return what is wrong with a client's extra header, or None; a name is repeated only where it is one."""
    if not _HEADER_NAME.fullmatch(name):
        return "a header's name is not one; write letters, digits and hyphens, such as Authorization"
    if _OUR_HEADERS.fullmatch(name.lower()):
        return f"{name}: the gateway sets or forbids this header itself; remove it"
    if not _HEADER_VALUE.fullmatch(value) or len(value) > _MAX_HEADER_VALUE:
        return f"{name}: write 1 to {_MAX_HEADER_VALUE} visible ASCII characters, spaces within, no line breaks"
    return None
