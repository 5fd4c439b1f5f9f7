"""The gateway's metrics as OTLP has them, of the same registry that ``/metrics`` is written from.

Owns the way from Prometheus' types to OTLP's; names, labels and texts are ``gateway.core.telemetry``'s, and the unit is
what a name ends with. No SDK instrument counts anything a second time.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as OtlpMetric
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import Metric
from prometheus_client.samples import Sample

from gateway import __version__

_UNITS = {"_seconds": "s", "_bytes": "By", "_ratio": "1"}
_SCOPE = InstrumentationScope("gateway", __version__)
_Labels = tuple[tuple[str, str], ...]


def metrics_data(families: Iterable[Metric], resource: Resource, since_ns: int, now_ns: int) -> MetricsData:
    """Return what is exported of the registry's families, counted from ``since_ns`` on, as it is at ``now_ns``.

    Both in nanoseconds since the epoch.
    """
    metrics = [_metric(family, since_ns, now_ns) for family in families if family.samples]
    scope = ScopeMetrics(scope=_SCOPE, metrics=metrics, schema_url="")
    return MetricsData([ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url="")])


def _metric(family: Metric, since_ns: int, now_ns: int) -> OtlpMetric:
    data: Sum | Gauge | Histogram
    if family.type == "histogram":
        data = Histogram(list(_histograms(family.samples, since_ns, now_ns)), AggregationTemporality.CUMULATIVE)
    elif family.type == "counter":
        data = Sum(list(_numbers(family.samples, since_ns, now_ns)), AggregationTemporality.CUMULATIVE, True)
    else:
        data = Gauge(list(_numbers(family.samples, 0, now_ns)))
    unit = next((unit for end, unit in _UNITS.items() if family.name.endswith(end)), "")
    return OtlpMetric(name=family.name, description=family.documentation, unit=unit, data=data)


def _numbers(samples: Iterable[Sample], since_ns: int, now_ns: int) -> Iterator[NumberDataPoint]:
    for sample in samples:
        yield NumberDataPoint(
            attributes=sample.labels, start_time_unix_nano=since_ns, time_unix_nano=now_ns, value=sample.value
        )


def _histograms(samples: Iterable[Sample], since_ns: int, now_ns: int) -> Iterator[HistogramDataPoint]:
    """Yield a point for each set of labels: Prometheus counts what is at most a bound, OTLP what is between two."""
    buckets: dict[_Labels, list[tuple[float, float]]] = {}
    sums: dict[_Labels, float] = {}
    for sample in samples:
        labels = _without_bound(sample.labels)
        if sample.name.endswith("_bucket"):
            buckets.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_sum"):
            sums[labels] = sample.value
    for labels, bounds in buckets.items():
        below = [0.0, *(count for _, count in sorted(bounds))]
        yield HistogramDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=since_ns,
            time_unix_nano=now_ns,
            count=int(below[-1]),
            sum=sums[labels],
            bucket_counts=[int(upper - lower) for lower, upper in pairwise(below)],
            explicit_bounds=[bound for bound, _ in sorted(bounds)[:-1]],  # the last one is +Inf
            min=None,  # type: ignore[arg-type]  # not known, which the encoder takes
            max=None,  # type: ignore[arg-type]
        )


def _without_bound(labels: Mapping[str, str]) -> _Labels:
    return tuple((name, value) for name, value in labels.items() if name != "le")
