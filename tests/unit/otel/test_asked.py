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
        "OTEL_METRICS_EXPORTER: got 'prometheus'; the gateway exports by otlp alone, so nothing is exported of these.",
    )


def test_another_programs_exporter_stops_nothing() -> None:
    """Its name may be any: a package has it that this gateway has not, and another program of the pod may."""
    other = asked(AT | {"OTEL_TRACES_EXPORTER": "gcp_trace", "OTEL_METRICS_EXPORTER": "gcp_metrics,otlp"})
    assert (other.traces, other.metrics, other.mistakes) == (False, True, ())
    assert other.problems == (
        "OTEL_TRACES_EXPORTER: got 'gcp_trace'; the gateway exports by otlp alone, so nothing is exported of these.",
    )


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("collector:4318/canary", "it does not begin with http:// or https://"),
        ("http://", "it names no host"),
        ("http:///canary", "it names no host"),
        ("http://collector:99999/canary", "its port is none"),
        ("http://collector:canary", "its port is none"),
        ("http://[::1/canary", "its host is none"),
        ("http://collector:4318 /canary", "its port is none"),
        ("http://collector:4318/can ary", "there is a blank in it"),
    ],
)
def test_what_is_no_collectors_url_is_a_mistake(url: str, wrong: str) -> None:
    """Nothing could be sent there, which only the log of each export would tell; what is named is not shown."""
    at = asked({"OTEL_EXPORTER_OTLP_ENDPOINT": url})
    assert not at.any
    assert at.mistakes == (
        f"OTEL_EXPORTER_OTLP_ENDPOINT: {wrong}; write a collector's URL, such as http://127.0.0.1:4318",
    )
    one = asked(AT | {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": url})
    assert (one.traces, one.metrics, len(one.mistakes)) == (True, False, 1)
    assert asked({"OTEL_EXPORTER_OTLP_ENDPOINT": " HTTPS://collector"}).any


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (
            {f"OTEL_EXPORTER_OTLP_{of}PROTOCOL": "bogus"},
            f"OTEL_EXPORTER_OTLP_{of}PROTOCOL: got 'bogus'; write http/protobuf, or unset it",
        )
        for of in ("", "TRACES_", "METRICS_")
    ],
)
def test_what_opentelemetry_does_not_know_is_a_mistake(mistake: dict[str, str], told: str) -> None:
    """Unlike what it knows and the gateway does not do, which may be another program's."""
    assert asked(AT | mistake).mistakes == (told,)
    known = asked(AT | {"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json"})
    assert (known.any, known.mistakes, len(known.problems)) == (False, (), 2)
