"""What an SDK does that fails, or a client's header that it does not take: neither a webhook nor the log suffers."""

from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from structlog.testing import capture_logs

from gateway.core.model import Attempt, AttemptResult
from gateway.core.tracecontext import trace_in
from gateway.core.tracing import current
from gateway.otel import exporting
from gateway.otel.tracing import OtelAttempt, OtelTracing

SCOPE = {"method": "GET", "path": "/", "scheme": "http", "http_version": "1.1"}
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
MADE = Attempt(number=1, started_at=0, duration_ms=1, status_code=204, error=None, result=AttemptResult.DELIVERED)


class Broken(SpanProcessor):
    """Fails at each span's end, as it must not."""

    def on_end(self, span: Any) -> None:
        raise RuntimeError("broken")


def test_a_span_that_cannot_be_ended_fails_alone() -> None:
    """Else the attempt would count as not made, and the webhook would be sent again."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken())
    span = OtelAttempt(provider.get_tracer("t").start_span("POST"))
    with capture_logs() as log, span:
        span.came_to(MADE, None)
    assert [line["event"] for line in log] == ["telemetry.not_exported"]


def test_what_fails_within_a_span_goes_on() -> None:
    """A span hides no error of what it tells of."""
    tracing = OtelTracing(TracerProvider(shutdown_on_exit=False))
    with pytest.raises(KeyError), tracing.request(SCOPE, None):
        raise KeyError("its own")
    current.set(None)


def test_a_tracestate_that_the_sdk_leaves_out_is_no_line_of_the_log() -> None:
    """It is valid by level 2 of the recommendation; a client could fill the log with it."""
    exporting._say_once()
    tracing = OtelTracing(TracerProvider(shutdown_on_exit=False))
    with capture_logs() as log, tracing.request(SCOPE, trace_in([(b"traceparent", PARENT), (b"tracestate", b"1a=v")])):
        pass
    current.set(None)
    assert log == []
