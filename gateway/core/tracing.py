"""The seam between what the gateway does and the spans that tell of it, wherever these are sent.

Owns what each span is told, and which one is under way. Whoever may be traced is handed a ``Tracing``, or None: then
nothing is traced, and that costs the look at it. What makes spans stands in ``gateway.otel``. A span is a block: it
begins where it is entered, and has failed where an exception leaves it.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from gateway.core.claims import DueCallback
from gateway.core.model import Attempt

OFF: "nullcontext[None]" = nullcontext()
"""In the place of a span where nothing is traced."""
MOST_TRACES = 32
"""A poll is told of in so many of the traces that wait for it."""

current: ContextVar["Span | None"] = ContextVar("current", default=None)
"""The span that is under way, or was the last one in this task: lines of the log name it."""


class Span(Protocol):
    """One piece of work, from where its block is entered to where that is left."""

    @property
    def trace(self) -> str | None:
        """What follows is a part of, as ``gateway.core.tracecontext`` writes it; None: of nothing."""

    @property
    def ids(self) -> tuple[str, str]:
        """The ids of its trace and its own, in hexadecimal digits."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None: ...


class PollCall(NamedTuple):
    """The request that asks for one task."""

    method: str
    origin: str
    """Scheme, host and port."""
    path: str
    """Without a query."""
    template: str
    """The same with a name in the place of the task's id."""


class SpanOfRequest(Span, Protocol):
    """A request to the API."""

    def routed(self, route: str, client: str | None) -> None:
        """Hear which call it is, and whose."""

    def answered(self, status: int) -> None:
        """Hear what it is answered."""


class SpanOfPoll(Span, Protocol):
    """A request to an upstream about one task."""

    def answered(self, status: int) -> None:
        """Hear what it was answered."""

    def came_to(self, kind: str, *, failed: bool) -> None:
        """Hear what that means."""


class SpanOfSettlement(Span, Protocol):
    """The transaction that ends a task and makes its webhooks due."""

    def owed(self, callback_ids: Sequence[str] | None) -> None:
        """Hear which webhooks are due; None: it was another replica's to settle."""


class SpanOfAttempt(Span, Protocol):
    """One POST of a webhook."""

    def came_to(self, attempt: Attempt, reason: str | None) -> None:
        """Hear what it came to, and why it failed."""


class Tracing(Protocol):
    """Makes spans. ``traces``: those that the work is a part of; the first is its parent."""

    def request(self, scope: Any, trace: str | None) -> SpanOfRequest:
        """Begin to tell of an ASGI application's request."""

    def poll(self, call: PollCall, upstream: str, task_id: str, traces: Sequence[str]) -> SpanOfPoll:
        """Begin to tell of a poll."""

    def settlement(self, upstream: str, task_id: str, state: str, traces: Sequence[str] = ()) -> SpanOfSettlement:
        """Begin to tell of a task's end: a part of the span that is under way, where one is."""

    def attempt(self, claim: DueCallback, headers: dict[str, str]) -> SpanOfAttempt:
        """Begin to tell of an attempt, and put what its receiver is to go on with into its headers."""
