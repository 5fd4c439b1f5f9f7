"""What is looked for among callbacks or tasks, which receivers are meant, and what one part of the looking found. Pure.

Spoken by whoever looks and the store: it looks through so many rows at a time, the newest first, so that no question
takes long, whatever is asked and however many rows there are.
"""

import re
from typing import Generic, NamedTuple, TypeVar

import httpx

from gateway.core.urls import begins_with, cached_by_url, prefix_of

T = TypeVar("T")

_IS_URL = re.compile("https?://[^/]", re.IGNORECASE)
_prefix_of = cached_by_url(prefix_of)


class Wanted(NamedTuple):
    """What is looked for; None: whatever it is."""

    client: str | None = None
    """Whose callbacks, or whose tasks: those that it has callbacks for."""
    state: str | None = None
    upstream: str | None = None
    text: str | None = None
    """Stands in the task's id, the receiver or the metadata; ``name=value`` is a member of the metadata as well."""


class Looked(NamedTuple, Generic[T]):
    """What a part of the rows had."""

    found: list[T]
    """The newest first."""
    before: int | None
    """Where to look on: at rows whose seq is below this; None: there are no more."""


class Sought(NamedTuple):
    """Which receivers are meant, or which of their callbacks."""

    text: str
    """Stands in the receiver's name, once that has a slash at its end."""
    path: tuple[str, ...] = ()
    """Segments that the path of a callback's URL begins with; none: whatever it is."""

    def has(self, url: str) -> bool:
        """Whether a callback is meant, of a receiver with that text in its name: by the URL, where a path counts.

        Not by the name: that is of the tables ``[[receivers]]`` that there were then.
        """
        if not self.path:
            return True
        try:
            receiver, segments = _prefix_of(url.partition("?")[0])  # a query often is of one callback alone
        except (httpx.InvalidURL, ValueError):
            return False
        return f"{receiver}/" == self.text and begins_with(segments, self.path)


def sought(text: str) -> Sought:
    """Return what somebody has written: how callbacks' URLs begin, else a part of receivers' names.

    Raises ValueError for a URL that cannot be read.
    """
    if not _IS_URL.match(text):
        return Sought(text)
    try:
        receiver, segments = prefix_of(text)
    except (httpx.InvalidURL, ValueError):
        raise ValueError("is no URL that can be read") from None
    while segments and not segments[-1]:  # a slash at its end
        segments = segments[:-1]
    return Sought(f"{receiver}/", segments)
