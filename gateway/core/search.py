"""What is looked for among callbacks or tasks, which receivers are meant, and what one part of the looking found. Pure.

Spoken by whoever looks and the store: it looks through so many rows at a time, the newest first, so that no question
takes long, whatever is asked and however many rows there are.
"""

import re
from typing import Generic, NamedTuple, TypeVar

import httpx

from gateway.core.urls import begins_with, cached_by_url, prefix_of, receiver_of

T = TypeVar("T")

_IS_URL = re.compile("https?://[^/]", re.IGNORECASE)
_SCHEME = re.compile("([^/]*:)?//")
_HAS_PATH = re.compile(
    r"(https?://)?(?:[^/?#@\s]*@)?(?:[\w-]+[.:][\w.:-]+|\[[0-9a-f:.]+\](?::\d+)?)/+[^/]", re.IGNORECASE
)
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

    Raises ValueError for a URL that cannot be read, and for what could only be a part of one: it would mean nobody.
    """
    if not _IS_URL.match(text):
        scheme = _SCHEME.match(text)
        if scheme is not None and not any(f"{one}://".endswith(scheme[0].lower()) for one in ("http", "https")):
            raise ValueError("begins with neither http:// nor https://: write how callback URLs begin, or a host alone")
        if re.search(r"/[^/]|[?#]", text[scheme.end() if scheme else 0 :]):
            raise ValueError(
                "has a path and no scheme: write how callback URLs begin, such as https://app.example.com/hooks, "
                "or a host alone"
            )
        return Sought(text)
    try:
        receiver, segments = prefix_of(text)
    except (httpx.InvalidURL, ValueError):
        raise ValueError("is no URL that can be read") from None
    while segments and not segments[-1]:  # a slash at its end
        segments = segments[:-1]
    return Sought(f"{receiver}/", segments)


def host_of(text: str) -> str | None:
    """Return host and port of what looks like a URL with a path, as receivers' names have them; None: it does not.

    These have no path, but for those of tables and pauses: who looks for a callback by its URL finds it by its host.
    """
    found = _HAS_PATH.match(text)
    if found is None:
        return None
    try:
        return receiver_of(text if found[1] else f"https://{text}").partition("://")[2]
    except (httpx.InvalidURL, ValueError):
        return None
