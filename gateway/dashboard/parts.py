"""What the pages are made with: the registry, and what only the wiring can hand in of other floors.

Owns no logic. Made by ``gateway.app.build``; imports nothing that the first page alone needs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope, Send

from gateway.config.settings import Settings
from gateway.core.clientrequests import ClientRequests
from gateway.core.clock import Clock
from gateway.core.memory import Memory
from gateway.core.model import Backlog
from gateway.core.shares import Shares
from gateway.dashboard.facts import Counts, ModelFacts, Paused, ReceiverFacts, UpstreamFacts
from gateway.store import Registry


class OwnTokens(Protocol):
    """The tokens that somebody may sign in with."""

    @property
    def open(self) -> bool:
        """Whether anybody may call, as no client has a token."""

    def digests(self) -> Iterable[tuple[bytes, str | None]]:
        """Yield each token's digest and whose it is, None being the operator."""


class PageParts(NamedTuple):
    """What the pages ask."""

    registry: Registry
    clock: Clock
    tokens: OwnTokens
    requests: ClientRequests
    """Those under way, the API's too."""
    shares: Shares
    """Each client's of the database, for forms as for the API's calls."""
    refuse_foreign: Callable[[str, Iterable[tuple[bytes, bytes]]], None]
    """Raises Forbidden where another site's page may have sent a request; for where no token is asked for."""
    ready: Callable[[], bool]
    """Whether the store is open."""
    draining: asyncio.Event
    """Set once nothing may be held any more."""
    troubles: Callable[[], Sequence[tuple[str, str | None]]]
    """What is wrong, in words for everybody to see; and what else the operator may see of it."""
    backlog: Callable[[], Awaitable[Backlog | None]]
    """What waits now, or a moment ago; None where it cannot be counted."""
    counts: Callable[[], Counts]
    upstreams: Callable[[], Sequence[UpstreamFacts]]
    models: Callable[[str | None, str | None], Sequence[ModelFacts]]
    """Of one upstream or all, of one model or all kinds of tasks."""
    receivers: Callable[[], Sequence[ReceiverFacts]]
    paused: Callable[[str, str, str | None], Paused | None]
    """Whether a client's webhooks to a receiver are paused; or those to one URL of it."""
    pause: Callable[[str, str, str], Awaitable[None]]
    """Make no attempt at a client's receiver; the last says who wants that. Raises RequestError and StoreError."""
    resume: Callable[[str, str, str], Awaitable[bool]]
    """End a pause of that receiver itself; returns whether there was one. Raises StoreError."""
    settings: Callable[[], Settings]
    """Those that are in force."""
    description: Callable[[], Mapping[str, Any]]
    """The API as an OpenAPI document."""
    memory: Memory
    """Of which what is large has a part."""
    made_with_room: Callable[[Request, Callable[[], Awaitable[Response]]], Awaitable[Response]]
    """Return a page that this makes; a large one is made anew, once there is room for it."""
    send_large: Callable[[Response, Scope, Send], Awaitable[None]]
    """Send a large answer, once there is room for it, a part after the other."""
    root_path: str
    """What stands before every path in the browser: empty, or ``/prefix``."""
