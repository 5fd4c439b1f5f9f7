"""What a page is asked for and what it shows: the words between routes and views. Nouns, and how a query is read."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from starlette.datastructures import QueryParams

from gateway.dashboard.session import Visitor

_MOST_TEXT = 255


class Asked(NamedTuple):
    """What a page is asked for."""

    visitor: Visitor
    path_params: Mapping[str, Any]
    query: QueryParams


class Shown(NamedTuple):
    """A page's template, the part of the navigation that it belongs to, and what it shows."""

    template: str
    section: str
    context: dict[str, Any]


View = Callable[[Asked], Awaitable[Shown]]
"""Makes a page; it only reads. Raises RequestError."""

Action = Callable[[Asked, Mapping[str, str]], Awaitable[str]]
"""Does what a form asks for; returns the path of the page to show then. Raises RequestError."""


def text_of(given: Mapping[str, str], name: str) -> str | None:
    """Return what somebody has written into a field; None for nothing. No control characters: no text here has any."""
    text = "".join(c for c in given.get(name, "") if c.isprintable()).strip()
    return text[:_MOST_TEXT] or None


def one_of(asked: Asked, name: str, values: type[Any]) -> Any:
    """Return what is chosen of an enumeration's values; None for nothing, and for what is none of them."""
    try:
        return values(asked.query.get(name, ""))
    except ValueError:
        return None
