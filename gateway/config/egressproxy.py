"""An egress proxy, as the settings name it: the HTTP proxy through which the gateway goes out.

Pure, and never repeats what it refuses: a password may stand in it. ``gateway.net.proxied`` connects by it.
"""

from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes, urlsplit

from gateway.config.parsers import host

_ADVICE = "write http://host:port, or http://user:password@host:port with / ? # @ and : in a password as %2F %3F …"


@dataclass(frozen=True)
class EgressProxy:
    """Where it is, and what it wants for authorization. Neither repr nor str shows that."""

    host: str
    """A name, or an address without brackets."""
    port: int
    authorization: bytes | None = field(default=None, repr=False)
    """Its Proxy-Authorization header."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_proxy(text: str) -> EgressProxy:
    """Parse ``http://user:password@host:port``. Raises ValueError, which says what to write instead."""
    try:
        parts = urlsplit(text)
        hostname, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(_ADVICE) from None
    if parts.scheme in ("https", "socks", "socks4", "socks5", "socks5h"):
        raise ValueError("the gateway speaks to a proxy by plain HTTP (CONNECT), inside of which receivers' TLS stands")
    if parts.scheme != "http" or port is None or port == 0 or parts.path not in ("", "/") or "?" in text or "#" in text:
        raise ValueError(_ADVICE)
    user_info, at, _ = parts.netloc.rpartition("@")
    authorization = None
    if at:
        user, _, password = user_info.partition(":")
        pair = unquote_to_bytes(user), unquote_to_bytes(password)
        if not pair[0] or b":" in pair[0] or any(byte < 32 or byte == 127 for part in pair for byte in part):
            raise ValueError("write a user without a colon, and neither line breaks nor other control characters")
        authorization = b"Basic " + b64encode(b":".join(pair))
    try:
        return EgressProxy(host(hostname), port, authorization)
    except ValueError:
        raise ValueError(_ADVICE) from None
