"""How Prometheus' families become OTLP's metrics: buckets that count between two bounds, units of the names' ends."""

from opentelemetry.sdk.metrics.export import Gauge, Histogram, Sum
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Counted
from prometheus_client import Gauge as Gauged
from prometheus_client import Histogram as Measured

import gateway.core.telemetry  # noqa: F401 - which has the library tell of no series when it began
from gateway.otel.metrics import metrics_data


def test_families_become_metrics() -> None:
    """Each series once, with its labels; what has none is left out."""
    registry = CollectorRegistry()
    polls = Counted("polls", "Polls made.", ["kind"], registry=registry)
    polls.labels("running").inc(3)
    Counted("unused", "Nothing yet.", ["kind"], registry=registry)
    Gauged("used_ratio", "Which part.", registry=registry).set(0.5)
    took = Measured("took_seconds", "How long.", ["upstream"], registry=registry, buckets=(1.0, 5.0))
    for seconds in (0.5, 1.0, 3.0, 9.0):
        took.labels("a").observe(seconds)
    took.labels("b").observe(2.0)

    data = metrics_data(registry.collect(), Resource({}), 1, 2)
    metrics = {metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    assert {name: (metric.unit, metric.description) for name, metric in metrics.items()} == {
        "polls": ("", "Polls made."),
        "used_ratio": ("1", "Which part."),
        "took_seconds": ("s", "How long."),
    }
    counted, gauged, measured = (metrics[name].data for name in ("polls", "used_ratio", "took_seconds"))
    assert isinstance(counted, Sum)
    assert isinstance(gauged, Gauge)
    assert isinstance(measured, Histogram)
    (point,) = counted.data_points
    assert (point.attributes, point.value, point.start_time_unix_nano, point.time_unix_nano) == (
        {"kind": "running"}, 3.0, 1, 2,
    )  # fmt: skip
    assert counted.is_monotonic
    assert [point.value for point in gauged.data_points] == [0.5]
    told = {str(p.attributes and p.attributes["upstream"]): p for p in measured.data_points}
    assert (told["a"].bucket_counts, told["a"].explicit_bounds, told["a"].count, told["a"].sum) == (
        [2, 1, 1], [1.0, 5.0], 4, 13.5,
    )  # fmt: skip
    assert told["b"].bucket_counts == [0, 1, 0]
