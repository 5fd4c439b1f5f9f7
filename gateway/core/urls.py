"""What is made of a URL: its receiver, and whatever else is remembered of those that are met again and again.

Pure. Called by whatever is handed a URL.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

import httpx

from gateway.core.addresses import address_text, parse_address

__all__ = ["cached_by_url", "receiver_of"]

T = TypeVar("T")

_LONG_URL = 256
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
