"""What an SDK does that fails, or a client's header that it does not take: neither a webhook nor the log suffers."""

from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import TraceState
from structlog.testing import capture_logs

from gateway.core.model import Attempt, AttemptResult
from gateway.core.tracecontext import headers_of, trace_in
from gateway.core.tracing import PollCall, current
from gateway.otel.tracing import OtelTracing
from gateway.otel.words import Words, hear
from tests.lanes import lane, webhook

SCOPE = {"method": "GET", "path": "/", "scheme": "http", "http_version": "1.1"}
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = f"{PARENT.decode()} 1a=v,rojo=2"
CALL = PollCall("GET", "https://up.example", "/recordInfo", "/recordInfo")
MADE = Attempt(number=1, started_at=0, duration_ms=1, status_code=204, error=None, result=AttemptResult.DELIVERED)


class Broken(SpanProcessor):
    """Fails at each span's end, as it must not."""

    def on_end(self, span: Any) -> None:
        raise RuntimeError("broken")


class Refusing(Sampler):
    """Fails at each span's begin, as an extension of the SDK's may."""

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        raise RuntimeError("broken")

    def get_description(self) -> str:
        return "refusing"


class Marking(Sampler):
    """Adds to the tracestate, as a sampler may."""

    def should_sample(self, *given: Any, **more: Any) -> SamplingResult:
        found = ALWAYS_ON.should_sample(*given, **more)
        return SamplingResult(found.decision, found.attributes, TraceState([("ot", "th:0")]))

    def get_description(self) -> str:
        return "marking"


def sent(tracing: OtelTracing, trace: str | None) -> dict[str, str]:
    """Return what the receiver of a webhook is told of its trace."""
    headers = headers_of(trace)
    with tracing.attempt(msgspec.structs.replace(webhook(lane("a")), trace=trace), headers) as span:
        span.came_to(MADE, None)
    current.set(None)
    return headers


def test_a_span_that_cannot_be_ended_fails_alone() -> None:
    """Else the attempt would count as not made, and the webhook would be sent again."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken())
    with capture_logs() as log:
        assert sent(OtelTracing(provider, Words({})), None).keys() == {"traceparent"}
    assert [line["event"] for line in log] == ["telemetry.not_exported"]


def test_what_fails_tells_no_secret() -> None:
    """An extension's error may hold what it sends with."""

    class Telling(Broken):
        def on_end(self, span: Any) -> None:
            raise RuntimeError("Bearer s3cret-token at https://user:s3cret@collector/s3cret?s3cret was refused")

        on_start = on_end  # type: ignore[assignment]

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Telling())
    words = Words({"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer s3cret-token"})
    with capture_logs() as log, OtelTracing(provider, words).request(SCOPE, None):
        pass
    current.set(None)
    assert log
    assert "s3cret" not in str(log)


@pytest.mark.parametrize("trace", [None, PARENT.decode(), TRACE])
def test_a_span_that_cannot_be_begun_fails_alone(trace: str | None) -> None:
    """Requests, polls, settlements and attempts go on, and what follows is a part of what they were to be a part of."""
    tracing = OtelTracing(TracerProvider(sampler=Refusing(), shutdown_on_exit=False), Words({}))
    traces = () if trace is None else (trace,)
    with capture_logs() as log:
        with tracing.request(SCOPE, trace) as request:
            request.routed("/", None)
            request.answered(500)
        with tracing.poll(CALL, "up", "t", traces) as poll:
            poll.came_to("terminal", failed=False)
            with tracing.settlement("up", "t", "success") as settlement:
                settlement.owed(["cb_1"])
        current.set(None)
        assert sent(tracing, trace) == headers_of(trace)
    assert [line["event"] for line in log] == ["telemetry.not_exported"] * 4
    assert [one.trace for one in (request, poll, settlement)] == [trace] * 3


@pytest.mark.parametrize(
    "call",
    [
        *(f"gateway.otel.tracing.{name}" for name in ("SpanContext", "TraceFlags", "NonRecordingSpan", "Link")),
        "gateway.otel.tracing.set_span_in_context",
        *(f"opentelemetry.trace.TraceState.{name}" for name in ("from_header", "to_header")),
        "opentelemetry.sdk.trace.Tracer.start_span",
        *(
            f"opentelemetry.sdk.trace.Span.{name}"
            for name in ("get_span_context", "set_attribute", "set_status", "update_name", "end")
        ),
    ],
)
def test_whatever_the_sdk_fails_at_hinders_nothing(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of it: all goes on, and the receiver is told of the trace that the registration came with."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(call)

    tracing = OtelTracing(TracerProvider(sampler=Marking(), shutdown_on_exit=False), Words({}))
    monkeypatch.setattr(call, broken)
    with capture_logs() as log:
        with tracing.request(SCOPE, TRACE) as request:
            request.routed("/", "ann")
            request.answered(500)
        with tracing.poll(CALL, "up", "t", [TRACE, TRACE.replace("4bf9", "4bf8")]) as poll:
            poll.answered(500)
            poll.came_to("terminal", failed=True)
            with tracing.settlement("up", "t", "success") as settlement:
                settlement.owed(None)
        current.set(None)
        told = sent(tracing, TRACE)
    assert any(call in line["error"] for line in log)
    traces = [request.trace, poll.trace, settlement.trace, told["traceparent"]]
    assert {(trace or "").split("-")[1] for trace in traces} == {PARENT.decode().split("-")[1]}


def test_what_a_span_cannot_begin_with_names_no_line_of_the_log() -> None:
    """A line that names a trace of zeros would be found under it with all others."""
    tracing = OtelTracing(TracerProvider(sampler=Refusing(), shutdown_on_exit=False), Words({}))
    with tracing.request(SCOPE, None):
        assert current.get() is None
    with tracing.request(SCOPE, TRACE) as span:
        assert current.get() is span
        assert span.ids == tuple(PARENT.decode().split("-")[1:3])
    current.set(None)


def test_what_fails_within_a_span_goes_on() -> None:
    """A span hides no error of what it tells of."""
    tracing = OtelTracing(TracerProvider(shutdown_on_exit=False), Words({}))
    with pytest.raises(KeyError), tracing.request(SCOPE, None):
        raise KeyError("its own")
    current.set(None)


def test_a_tracestate_that_the_sdk_leaves_out_goes_on() -> None:
    """It is valid by level 2 of the recommendation; nor does it fill the log, which a client could have it do."""
    said: list[str] = []
    hear(said.append, Words({}))
    tracing = OtelTracing(TracerProvider(shutdown_on_exit=False), Words({}))
    told = [(b"traceparent", PARENT), (b"tracestate", b"1a=v, rojo=2")]
    with tracing.request(SCOPE, trace_in(told)) as request:
        pass
    current.set(None)
    headers = sent(tracing, request.trace)
    assert headers["tracestate"] == "1a=v,rojo=2"
    assert headers["traceparent"].split("-")[1] == PARENT.decode().split("-")[1]
    assert said == []


def test_a_tracestate_that_a_sampler_has_changed_counts() -> None:
    """Whoever is asked whether to record may have a word for those behind it."""
    tracing = OtelTracing(TracerProvider(sampler=Marking(), shutdown_on_exit=False), Words({}))
    assert sent(tracing, TRACE)["tracestate"] == "ot=th:0"


def test_flags_of_a_later_version_are_not_passed_on() -> None:
    """Version 00 has two; that the trace's id is random stays said."""
    tracing = OtelTracing(TracerProvider(sampler=Refusing(), shutdown_on_exit=False), Words({}))
    with tracing.request(SCOPE, f"01-{'a' * 32}-{'b' * 16}-ff") as request:
        pass
    current.set(None)
    assert request.trace == f"00-{'a' * 32}-{'b' * 16}-03"
