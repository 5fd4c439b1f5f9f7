"""Without OpenTelemetry's variables nothing of it is imported; with them and without the package the start goes on."""

import asyncio
import json
import logging
import os
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from gateway.app import exporting as app_exporting
from gateway.app.exporting import checked, exporting, wanted
from gateway.core.clock import SystemClock

AT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
START = """
import os, sys
from gateway.app.build import build
from gateway.app.preflight import preflight
from gateway.core.clock import SystemClock
import gateway.serve.process
gateway = build(preflight(os.environ, None), SystemClock(), os.environ)
heavy = {"opentelemetry", "google", "requests", "urllib3"} & sys.modules.keys()
print(gateway.exporting is not None, sorted(heavy))
"""


@pytest.mark.parametrize("asked", [False, True])
def test_the_sdk_is_imported_where_it_is_asked_for(asked: bool) -> None:
    """And nowhere else: neither it, nor protobuf, nor the client that it sends with."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OTEL_"))}
    environ["GATEWAY_UPSTREAM_API_KEY"] = "k"
    environ["GATEWAY_DATABASE_URL"] = "sqlite:///gateway.db"
    done = subprocess.run(
        [sys.executable, "-c", START],
        env=environ | (AT if asked else {"OTEL_SERVICE_NAME": "other"}),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    all_of_it = "['google', 'opentelemetry', 'requests', 'urllib3']"
    assert done.stdout.splitlines()[-1] == (f"True {all_of_it}" if asked else "False []")


def test_a_package_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to install; nothing else is different: the variables may be another program's."""
    monkeypatch.setattr(app_exporting, "_NEEDED", ("opentelemetry_absent.sdk",))
    found = wanted(AT)
    assert not found.any
    with capture_logs() as log:
        assert exporting(AT, SystemClock(), "r") is None
    assert [(line["event"], line["log_level"]) for line in log] == [("telemetry.off", "warning")]
    assert "pip install 'opentelemetry-exporter-otlp-proto-http" in json.dumps(log)
    assert exporting({}, SystemClock(), "r") is None


@pytest.mark.parametrize(
    "mistake",
    [{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4096"}, {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"}],
)
def test_what_the_sdk_refuses_stops_no_start(monkeypatch: pytest.MonkeyPatch, mistake: dict[str, str]) -> None:
    """It raises for some of its variables, which may be another program's, and for the gateway that is no reason."""
    for name, value in mistake.items():
        monkeypatch.setenv(name, value)
    with capture_logs() as log:
        assert exporting({**AT, **mistake}, SystemClock(), "r") is None
    assert [(line["event"], line["log_level"]) for line in log] == [("telemetry.off", "warning")]
    found = checked({**AT, **mistake}, SystemClock())
    assert (found.any, list(found.problems)) == (False, [log[0]["error"]])


def test_what_the_sdk_says_is_heard_before_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """check-config finds the mistakes that the log would have, and sends nothing."""
    for name, value in (AT | {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization: Bearer canary"}).items():
        monkeypatch.setenv(name, value)
    with capture_logs() as log:
        found = checked(AT, SystemClock())
    assert (found.traces, found.metrics, log) == (True, True, [])
    assert {problem.partition(" is not ")[0] for problem in found.problems} == {
        "A header of OTEL_EXPORTER_OTLP_HEADERS"
    }
    assert checked({}, SystemClock()) == wanted({})


@pytest.mark.parametrize("interval", ["0", "-5", "nan", "inf", "soon"])
def test_an_interval_that_is_none_is_said(monkeypatch: pytest.MonkeyPatch, interval: str) -> None:
    """Of 0 and less metrics would go as fast as they can, and of what is no number or has no end never."""
    for name, value in AT.items():
        monkeypatch.setenv(name, value)
    found = checked({**AT, "OTEL_METRIC_EXPORT_INTERVAL": interval}, SystemClock())
    assert found.metrics
    assert found.problems == (
        "OTEL_METRIC_EXPORT_INTERVAL: it is no number of milliseconds from 1 on, so metrics go every 60 s.",
    )
    assert checked({**AT, "OTEL_METRIC_EXPORT_INTERVAL": "1.5"}, SystemClock()).problems == ()
    silent = {**AT, "OTEL_METRICS_EXPORTER": "none", "OTEL_METRIC_EXPORT_INTERVAL": interval}
    assert checked(silent, SystemClock()).problems == (), "nobody waits for it"


def test_no_key_is_told_of_what_the_sdk_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises with: a header's value, or what stands in a URL."""

    def broken(*_: object) -> None:
        raise ValueError("Bearer s3cret-token is none, nor is http://u:s3cret@collector")

    monkeypatch.setattr("gateway.otel.exporting.Exporting.__init__", broken)
    at = {**AT, "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=Bearer%20s3cret-token"}
    (problem,) = checked(at, SystemClock()).problems
    assert problem == "OpenTelemetry's SDK refuses the OTEL_ variables: *** is none, nor is …"


def test_no_key_of_a_collector_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK repeats a header that it cannot read, and the endpoint's path: vendors have keys in both."""
    headers = "Authorization: Bearer canary,api-key=Bearer s3cret-in-a-header%21"
    at = {
        "OTEL_EXPORTER_OTLP_HEADERS": headers,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://s3cret-user:s3cret-password@127.0.0.1:9",
    }
    for name, value in at.items():
        monkeypatch.setenv(name, value)
    with capture_logs() as log:
        made = exporting(at, SystemClock(), "r")
        assert made is not None
        for words in (
            "Max retries exceeded with url: /canary/v1/traces (Caused by …)",
            "Invalid URL '//canary/v1/traces': No scheme supplied. Perhaps you meant https:////canary/v1/traces?",
            "No connection adapters were found for 'collector:4318/canary/v1/traces'",
            "https://user:canary@collector/v1/traces is odd",
        ):
            logging.getLogger("opentelemetry.exporter").warning(words)
        words = "The collector says: no key s3cret-in-a-header%21, s3cret-in-a-header!, s3cret-user, s3cret-password"
        logging.getLogger("opentelemetry.exporter").warning(words)
    asyncio.run(made.stop(1))
    assert len(log) > 6
    assert "s3cret" not in json.dumps(log)
    assert "name=value" in json.dumps(log)
    assert "canary" not in json.dumps(log)
