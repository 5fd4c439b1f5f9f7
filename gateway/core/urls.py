"""What is made of a URL: its receiver, and whatever else is remembered of those that are met again and again.

Pure. Called by whatever is handed a URL.
"""

import re
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

import httpx

from gateway.core.addresses import address_text, parse_address

T = TypeVar("T")

_LONG_URL = 256
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_PORTS = {"http": 80, "https": 443}


def cached_by_url(function: Callable[[str], T]) -> Callable[[str], T]:
    """Remember what a function makes of the last 4,096 URLs: receivers are few, and parsing is dear.

    Not of long ones, which may have 2 KiB each, are seldom the same, and would fill ten times the memory.
    """
    cached = lru_cache(maxsize=4096)(function)

    @wraps(function)
    def remembered(url: str) -> T:
        return cached(url) if len(url) <= _LONG_URL else function(url)

    return remembered


@cached_by_url
def receiver_of(url: str) -> str:
    """Return scheme, host and port of a callback URL: who receives, and all of it that may be logged.

    However the URL is written, one receiver has one name: its host in ASCII, no default port, no final dot.
    """
    parts = httpx.URL(url)
    where = parts.raw_host.decode("ascii").rstrip(".")
    if ":" in where:
        address = parse_address(where)
        where = f"[{where if address is None else address_text(address)}]"
    if parts.port in (None, _PORTS.get(parts.scheme)):  # of HTTPS://host:443 httpx leaves it
        return f"{parts.scheme}://{where}"
    return f"{parts.scheme}://{where}:{parts.port}"


def prefix_of(url: str) -> tuple[str, tuple[str, ...]]:
    """Return a URL's receiver, and the segments of its path, however they are written. Raises httpx.InvalidURL.

    What needs no escape has none, and dots are resolved after that (RFC 3986 §6.2.2): who reads the path so, as many a
    receiver does, must not see another one than was compared.
    """
    segments: list[str] = []
    for segment in httpx.URL(url).raw_path.decode("ascii").partition("?")[0].split("/")[1:]:
        plain = _ESCAPE.sub(_unescaped, segment)
        if plain == "..":
            segments = segments[:-1]
        elif plain != ".":
            segments.append(plain)
    return receiver_of(url), tuple(segments)


def begins_with(segments: tuple[str, ...], prefix: tuple[str, ...]) -> bool:
    """Whether a path begins with another, whole segments of it: ``/hooks`` is no beginning of ``/hooksextra``."""
    while prefix and not prefix[-1]:  # a slash at its end
        prefix = prefix[:-1]
    return segments[: len(prefix)] == prefix


def _unescaped(escape: re.Match[str]) -> str:
    char = chr(int(escape[1], 16))
    return char if char.isascii() and (char.isalnum() or char in "-._~") else escape[0].upper()
