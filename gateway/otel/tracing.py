"""Spans by OpenTelemetry's SDK: ``gateway.core.tracing.Tracing``.

Owns the names of spans and attributes: HTTP's are the stable ones of the semantic conventions (1.23 and later), the
gateway's own begin with ``gateway.``. No secret, body, query, and of a receiver no path gets into one: a callback URL's
path may be a secret itself. Sampling is the SDK's.
"""

from collections.abc import Callable, Mapping, Sequence
from contextvars import Token
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar
from urllib.parse import urlsplit

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_REQUEST_METHOD_ORIGINAL,
    HTTP_REQUEST_RESEND_COUNT,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.network_attributes import NETWORK_PROTOCOL_VERSION
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.attributes.url_attributes import URL_FULL, URL_PATH, URL_SCHEME
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from gateway import __version__
from gateway.core.claims import DueCallback
from gateway.core.model import Attempt
from gateway.core.tracecontext import headers_of
from gateway.core.tracing import MOST_TRACES, PollCall, Span, current
from gateway.core.urls import cached_by_url, receiver_of
from gateway.otel.words import Words

_METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"))
_UPSTREAM, _TASK, _CALLBACK, _CLIENT = "gateway.upstream", "gateway.task.id", "gateway.callback.id", "gateway.client"
_CALLBACKS_TOLD = 10
_FLAGS = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID
"""All that version 00 has: what a later one sends beside them is not passed on as its."""
_NO_IDS = "0" * 32, "0" * 16
_PORTS = {"http": 80, "https": 443}

P = ParamSpec("P")
S = TypeVar("S", bound="OtelSpan")

_log = structlog.get_logger()


def _harmless(tell: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """Have what a span is told fail alone: a webhook that was sent and is not recorded would be sent again."""

    @wraps(tell)
    def told(span: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(span, *args, **kwargs)
        except Exception as exc:  # noqa: BLE001 - whatever the SDK, or who extends it, has done
            _log.warning("telemetry.not_exported", error=span.words(repr(exc)))

    return told


class OtelTracing:
    """Makes spans of one provider."""

    def __init__(self, provider: TracerProvider, words: Words) -> None:
        """``words``: what may be logged of an error."""
        self._words = words
        self._tracer = provider.get_tracer("gateway", __version__, schema_url=Schemas.V1_44_0.value)

    def request(self, scope: Any, trace: str | None) -> "OtelRequest":
        method: str = scope["method"]
        known = method in _METHODS
        attributes = {
            HTTP_REQUEST_METHOD: method if known else "_OTHER",
            URL_PATH: scope["path"],
            URL_SCHEME: scope["scheme"],
            NETWORK_PROTOCOL_VERSION: scope["http_version"],
        }
        if not known:
            attributes[HTTP_REQUEST_METHOD_ORIGINAL] = method
        name = method if known else "HTTP"
        return OtelRequest(self._start(name, SpanKind.SERVER, attributes, () if trace is None else (trace,)), name)

    def poll(self, call: PollCall, upstream: str, task_id: str, traces: Sequence[str]) -> "OtelPoll":
        traces = tuple(dict.fromkeys(traces))
        attributes = {
            HTTP_REQUEST_METHOD: call.method,
            URL_FULL: f"{call.origin}{call.path}",
            _UPSTREAM: upstream,
            _TASK: task_id,
            **_server(call.origin),
        }
        return OtelPoll(self._start(f"{call.method} {call.template}", SpanKind.CLIENT, attributes, traces), traces)

    def settlement(self, upstream: str, task_id: str, state: str, traces: Sequence[str] = ()) -> "OtelSettlement":
        attributes = {_UPSTREAM: upstream, _TASK: task_id, "gateway.task.state": state}
        parent = current.get()
        if isinstance(parent, OtelPoll):
            traces = () if parent.trace is None else (parent.trace, *parent.traces[1:])
        traces = tuple(dict.fromkeys(traces))
        return OtelSettlement(self._start("settle", SpanKind.INTERNAL, attributes, traces))

    def attempt(self, claim: DueCallback, headers: dict[str, str]) -> "OtelAttempt":
        attributes = {
            HTTP_REQUEST_METHOD: "POST",
            URL_FULL: receiver_of(claim.receiver),  # without the path of a table
            _CALLBACK: claim.id,
            _TASK: claim.task_id,
            _CLIENT: claim.client,
            "gateway.attempt.number": claim.attempts + 1,
            **_server(claim.receiver),
        }
        if claim.attempts:
            attributes[HTTP_REQUEST_RESEND_COUNT] = claim.attempts
        span = OtelAttempt(
            self._start("POST", SpanKind.CLIENT, attributes, () if claim.trace is None else (claim.trace,))
        )
        headers.update(headers_of(span.trace))
        return span

    def _start(self, name: str, kind: SpanKind, attributes: Mapping[str, Any], traces: Sequence[str]) -> "_Begun":
        """Begin a span; where the SDK cannot, what it would tell of goes on, a part of what it was to be a part of."""
        try:
            return self._begun(name, kind, attributes, traces)
        except Exception as exc:  # noqa: BLE001 - a sampler's, a processor's, the SDK's own
            _log.warning("telemetry.not_exported", error=self._words(repr(exc)))
        if not traces:
            return _Begun(INVALID_SPAN, _NO_IDS, None, self._words)
        parent, _, state = traces[0].partition(" ")
        _, trace_id, span_id, flags = parent.split("-")[:4]
        return _Begun(
            INVALID_SPAN, (trace_id, span_id), _trace((trace_id, span_id), int(flags, 16), state), self._words
        )

    def _begun(self, name: str, kind: SpanKind, attributes: Mapping[str, Any], traces: Sequence[str]) -> "_Begun":
        contexts = list(map(_context, traces[:MOST_TRACES]))
        parent = contexts[0] if contexts else INVALID_SPAN_CONTEXT
        around = set_span_in_context(NonRecordingSpan(parent), Context())
        span = self._tracer.start_span(name, around, kind, attributes, [Link(context) for context in contexts[1:]])
        context = span.get_span_context()
        # What the sampler has not changed goes on as it came: the SDK drops all of it for one key of level 2.
        state = traces[0].partition(" ")[2] if contexts else ""
        if context.trace_state != parent.trace_state:
            state = context.trace_state.to_header()
        ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        if not context.is_valid:
            return _Begun(span, ids, None, self._words)
        return _Begun(span, ids, _trace(ids, context.trace_flags, state), self._words)


class _Begun(NamedTuple):
    """A span that has begun, its ids, and what follows it is a part of."""

    span: SdkSpan
    ids: tuple[str, str]
    trace: str | None
    words: Words


class OtelSpan:
    """A span of the SDK's; one that could not begin tells of nothing, and passes on what it was to be a part of."""

    def __init__(self, begun: _Begun) -> None:
        self._span, self.ids, self.trace, self.words = begun
        self._before: Token[Span | None]

    def __enter__(self) -> Self:
        self._before = current.set(None if self.trace is None else self)
        return self

    @_harmless
    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        if self._before.old_value not in (None, Token.MISSING):
            current.reset(self._before)  # else what is logged of it later still names it
        if kind is not None:
            self._fail(kind.__qualname__)
        self._span.end()

    def _tell(self, name: str, value: Any) -> None:
        self._span.set_attribute(name, value)

    def _fail(self, error_type: str) -> None:
        self._span.set_attribute(ERROR_TYPE, error_type)
        self._span.set_status(StatusCode.ERROR)


class OtelRequest(OtelSpan):
    """``core.tracing.SpanOfRequest``."""

    def __init__(self, begun: _Begun, name: str) -> None:
        super().__init__(begun)
        self._name = name

    @_harmless
    def routed(self, route: str, client: str | None) -> None:
        self._span.update_name(f"{self._name} {route}")
        self._tell(HTTP_ROUTE, route)
        if client is not None:
            self._tell(_CLIENT, client)

    @_harmless
    def answered(self, status: int) -> None:
        self._tell(HTTP_RESPONSE_STATUS_CODE, status)
        if status >= 500:
            self._fail(str(status))


class OtelPoll(OtelSpan):
    """``core.tracing.SpanOfPoll``."""

    def __init__(self, begun: _Begun, traces: Sequence[str]) -> None:
        super().__init__(begun)
        self.traces = traces
        self._status: int | None = None

    @_harmless
    def answered(self, status: int) -> None:
        self._status = status
        self._tell(HTTP_RESPONSE_STATUS_CODE, status)

    @_harmless
    def came_to(self, kind: str, *, failed: bool) -> None:
        self._tell("gateway.poll.kind", kind)
        if failed or (self._status or 0) >= 400:
            self._fail(str(self._status) if (self._status or 0) >= 400 else kind)


class OtelSettlement(OtelSpan):
    """``core.tracing.SpanOfSettlement``."""

    @_harmless
    def owed(self, callback_ids: Sequence[str] | None) -> None:
        if callback_ids is None:
            self._fail("not_leading")
        else:
            self._tell("gateway.callbacks", len(callback_ids))
            self._tell("gateway.callback.ids", callback_ids[:_CALLBACKS_TOLD])


class OtelAttempt(OtelSpan):
    """``core.tracing.SpanOfAttempt``."""

    @_harmless
    def came_to(self, attempt: Attempt, reason: str | None) -> None:
        self._tell("gateway.attempt.result", attempt.result.value)
        if attempt.status_code is not None:
            self._tell(HTTP_RESPONSE_STATUS_CODE, attempt.status_code)
        if reason is not None:
            self._fail(str(attempt.status_code) if reason == "status" else reason)


def _trace(ids: tuple[str, str], flags: int, state: str) -> str:
    parent = f"00-{ids[0]}-{ids[1]}-{flags & _FLAGS:02x}"
    return f"{parent} {state}" if state else parent


def _context(trace: str) -> SpanContext:
    parent, _, state = trace.partition(" ")
    _, trace_id, span_id, flags = parent.split("-")[:4]
    return SpanContext(
        int(trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
        trace_state=TraceState.from_header([state]) if state else None,
    )


@cached_by_url
def _server(url: str) -> Mapping[str, Any]:
    parts = urlsplit(url)
    return {SERVER_ADDRESS: parts.hostname or "", SERVER_PORT: parts.port or _PORTS.get(parts.scheme, 0)}
