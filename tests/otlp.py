"""A collector: takes what OpenTelemetry's exporters send over OTLP/HTTP, and reads it with the protocol's own messages.

Called by the tests of what the gateway exports, and of what others do beside it.
"""

import gzip
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.requests import Request
from starlette.responses import Response

from tests.waiting import until

__all__ = ["Collector", "Told"]


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def _attributes(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


class Told:
    """One span, in words that a test compares."""

    def __init__(self, span: Span, resource: dict[str, Any]) -> None:
        self.name = span.name
        self.kind = Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower()
        self.trace_id, self.span_id = span.trace_id.hex(), span.span_id.hex()
        self.parent_id = span.parent_span_id.hex()
        self.links = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
        self.attributes = _attributes(span.attributes)
        self.failed = span.status.code == 2
        self.resource = resource
        self.took_ns = span.end_time_unix_nano - span.start_time_unix_nano
        self.whole = str(span)

    def __repr__(self) -> str:
        return f"{self.resource.get('service.name')}: {self.kind} {self.name} {self.attributes}"


class Collector:
    """An ASGI application; ``status``: what it answers."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self.metrics: dict[str, Metric] = {}
        self.resource: dict[str, Any] = {}
        self.status = 200
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        body = await request.body()
        self.requests += 1
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert request.headers["content-type"] == "application/x-protobuf"
        if self.status != 200:
            answer = Response(status_code=self.status)
        elif request.url.path == "/v1/traces":
            self._take_spans(ExportTraceServiceRequest.FromString(body))
            answer = Response(ExportTraceServiceResponse().SerializeToString(), media_type="application/x-protobuf")
        else:
            assert request.url.path == "/v1/metrics"
            self._take_metrics(ExportMetricsServiceRequest.FromString(body))
            answer = Response(ExportMetricsServiceResponse().SerializeToString(), media_type="application/x-protobuf")
        await answer(scope, receive, send)

    def _take_spans(self, asked: ExportTraceServiceRequest) -> None:
        for resource_spans in asked.resource_spans:
            resource = _attributes(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                self.spans += [Told(span, resource) for span in scope_spans.spans]

    def _take_metrics(self, asked: ExportMetricsServiceRequest) -> None:
        for resource_metrics in asked.resource_metrics:
            self.resource = _attributes(resource_metrics.resource.attributes)
            for scope_metrics in resource_metrics.scope_metrics:
                self.metrics |= {metric.name: metric for metric in scope_metrics.metrics}

    async def until(self, condition: Callable[["Collector"], bool]) -> None:
        """Wait until the condition holds of what has come."""
        try:
            await until(lambda: condition(self))
        except TimeoutError:
            last = self.spans[-20:]
            raise AssertionError(f"there came {len(self.spans)} spans, {last}, and {sorted(self.metrics)}") from None

    def named(self, name: str) -> list[Told]:
        """Return the spans of that name, in the order in which they came."""
        return [span for span in self.spans if span.name == name]

    def points(self, name: str) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield the attributes and the point of each of a metric's series."""
        metric = self.metrics[name]
        for point in getattr(metric, str(metric.WhichOneof("data"))).data_points:
            yield _attributes(point.attributes), point
