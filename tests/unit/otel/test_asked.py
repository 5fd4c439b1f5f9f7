"""Which of OpenTelemetry's variables have the gateway export something, and what is said of others."""

import pytest

from gateway.otel.asked import asked

AT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({}, False, False),
        (AT, True, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics"}, False, True),
        (AT | {"OTEL_TRACES_EXPORTER": "none"}, False, True),
        (AT | {"OTEL_METRICS_EXPORTER": "none"}, True, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True, False),  # to where the SDK looks by itself
        (AT | {"OTEL_TRACES_EXPORTER": "console, otlp"}, True, True),
        (AT | {"OTEL_SDK_DISABLED": "True"}, False, False),
        (AT | {"OTEL_SDK_DISABLED": "false"}, True, True),
        (AT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, True, True),
        ({"OTEL_SERVICE_NAME": "other"}, False, False),
    ],
)
def test_what_is_exported(environ: dict[str, str], traces: bool, metrics: bool) -> None:
    """What names a collector, or its exporter, and is not switched off."""
    found = asked(environ)
    assert (found.traces, found.metrics, found.problems) == (traces, metrics, ())
    assert found.any is (traces or metrics)


def test_what_cannot_be_done_is_said() -> None:
    """By the variable's name, with what to do; the other signal goes on."""
    grpc = asked(AT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_METRICS_EXPORTER": "none"})
    (problem,) = grpc.problems
    assert not grpc.any
    assert problem.startswith("OTEL_EXPORTER_OTLP_PROTOCOL: the gateway speaks http/protobuf, not grpc")
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in problem
    one = asked(AT | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"})
    assert (one.traces, one.metrics, len(one.problems)) == (False, True, 1)
    other = asked(AT | {"OTEL_METRICS_EXPORTER": "prometheus"})
    assert (other.traces, other.metrics) == (True, False)
    assert other.problems == (
        "OTEL_METRICS_EXPORTER: the gateway exports by otlp alone, so nothing is exported of these.",
    )


def test_a_collector_without_a_scheme_is_said() -> None:
    """Nothing could be sent there, which only the log of each export would tell; what is named is not shown."""
    at = asked({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318/canary"})
    (problem,) = at.problems
    assert not at.any
    assert problem.startswith("OTEL_EXPORTER_OTLP_ENDPOINT: a collector's URL begins with http:// or https://")
    assert "canary" not in problem
    one = asked(AT | {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "collector:4318/v1/metrics"})
    assert (one.traces, one.metrics, len(one.problems)) == (True, False, 1)
    assert asked({"OTEL_EXPORTER_OTLP_ENDPOINT": " HTTPS://collector"}).any
