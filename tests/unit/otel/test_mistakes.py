"""A mistake in OpenTelemetry's variables is refused as any setting's is; what is nobody's mistake is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from gateway.app.exporting import mistakes
from gateway.app.preflight import preflight
from gateway.core.errors import ConfigError

AT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
PAIRS = "write name=value, with its value URL-encoded, and commas between several"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates: ca.pem, client.pem with client.key, both.pem, other.key, empty.pem."""
    folder, ca = tmp_path_factory.mktemp("pem"), trustme.CA()
    client, other = ca.issue_cert("client.example.com"), ca.issue_cert("other.example.com")
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    client.private_key_pem.write_to_path(str(folder / "client.key"))
    client.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    other.private_key_pem.write_to_path(str(folder / "other.key"))
    (folder / "empty.pem").touch()
    return folder


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("OTEL_PYTHON_CONTEXT=bogus", "got 'bogus'; write contextvars_context, or unset it"),
        ("OTEL_PYTHON_METER_PROVIDER=bogus", "got 'bogus'; write "),
        ("OTEL_PYTHON_TRACER_PROVIDER=bogus", "got 'bogus'; write "),
        ("OTEL_PROPAGATORS=tracecontext,bogus", "got 'bogus'; write baggage or tracecontext, or unset it"),
        ("OTEL_TRACES_SAMPLER=bogus", "got 'bogus'; write always_on, "),
        ("OTEL_TRACES_SAMPLER= always_off", "got ' always_off'; write always_on, "),
        ("OTEL_TRACES_SAMPLER=traceidratio ", "got 'traceidratio '; write always_on, "),
        ("OTEL_TRACES_SAMPLER_ARG=2", "got '2'; write a share from 0 to 1"),
        ("OTEL_PYTHON_ID_GENERATOR=bogus", "got 'bogus'; write random, or unset it"),
        ("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS=bogus", "got 'bogus'; write "),
        ("OTEL_RESOURCE_ATTRIBUTES=team", PAIRS),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=many", "got 'many'; write a whole number from 0 on"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT=-1", "got '-1'; write a whole number from 0 on"),
        ("OTEL_BSP_SCHEDULE_DELAY=0", "got '0'; write a whole number from 1 to 2147483647"),
        ("OTEL_BSP_MAX_QUEUE_SIZE=1.5", "got '1.5'; write a whole number from 1 to 2147483647"),
        ("OTEL_METRIC_EXPORT_INTERVAL=inf", "got 'inf'; write a number of milliseconds from 1 to 2147483647"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT=soon", "got 'soon'; write a number of seconds above 0"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT=0", "got '0'; write a number of seconds above 0"),
        ("OTEL_EXPORTER_OTLP_HEADERS=Authorization: Bearer canary", f"{PAIRS} (what was given is not shown)"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS=a=b,=canary", f"{PAIRS} (what was given is not shown)"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION=zip", "got 'zip'; write none, gzip or deflate"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=bogus", "got 'bogus'; write cumulative, "),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER=bogus", "got 'bogus'; none is installed: unset it"),
        ("OTEL_BSP_SCHEDULE_DELAY=10000000000000", "got '10000000000000'; write a whole number from 1 to "),
        ("OTEL_BSP_MAX_QUEUE_SIZE=99999999999999999999999", "got '99999999999999999999999'; write a whole number "),
        ("OTEL_EXPORTER_OTLP_TIMEOUT=10000000000", "got '10000000000'; write a number of seconds above 0, up to "),
        ("OTEL_EXPORTER_OTLP_HEADERS=authorization=Basic%20cana%0Acanary", "a value is URL-encoded and has control "),
        ("OTEL_SDK_DISABLED=perhaps", "got 'perhaps'; write true or false"),
    ],
)
def test_a_value_that_is_none_is_told(variable: str, told: str) -> None:
    """By the variable's name, with what is allowed, once."""
    name, _, value = variable.partition("=")
    ratio = {"OTEL_TRACES_SAMPLER": "traceidratio"} if name == "OTEL_TRACES_SAMPLER_ARG" else {}
    (found,) = mistakes({**AT, **ratio, name: value})
    assert found.startswith(f"{name}: {told}")
    assert "canary" not in found
    assert not list(mistakes({name: value})), "nothing is exported, so that it is another program's"


def test_a_batch_that_no_queue_holds_is_told() -> None:
    """The SDK raises for it, without a name."""
    (found,) = mistakes({**AT, "OTEL_BSP_MAX_QUEUE_SIZE": "100"})
    assert found.startswith("OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_EXPORT_BATCH_SIZE: 100 and 512; write a batch")


@pytest.mark.parametrize(
    "variable",
    [
        "OTEL_PROPAGATORS=b3,xray",
        "OTEL_PYTHON_ID_GENERATOR=xray",
        "OTEL_TRACES_SAMPLER=Parentbased_Always_On",
        "OTEL_TRACES_SAMPLER=jaeger_remote",
        "OTEL_TRACES_SAMPLER_ARG=endpoint=http://localhost:14250",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT=",
        "OTEL_EXPORTER_OTLP_HEADERS= api-key=a%2Cb , authorization=Bearer x=,",
        "OTEL_EXPORTER_OTLP_TIMEOUT=0.5",
        "OTEL_RESOURCE_ATTRIBUTES=a=b,c=,",
        "OTEL_LOGS_EXPORTER=bogus",
        "OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE=/nowhere",
    ],
)
def test_what_others_may_need_is_no_mistake(variable: str) -> None:
    """What OpenTelemetry knows may be another program's, and of what the gateway does not export it asks nothing."""
    name, _, value = variable.partition("=")
    assert not list(mistakes({**AT, name: value}))


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (
            "OTEL_EXPORTER_OTLP_CERTIFICATE=PEM/none.pem",
            ["CERTIFICATE: got 'PEM/none.pem'; No such file or directory, write the path of a file"],
        ),
        (
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE=PEM/empty.pem",
            ["TRACES_CERTIFICATE: got 'PEM/empty.pem'; there is no certificate in it: no BEGIN CERTIFICATE"],
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE=PEM/none.pem",
            ["METRICS_CLIENT_CERTIFICATE: got 'PEM/none.pem'; No such file"],
        ),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=PEM/client.pem OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY=PEM/none.pem",
            [
                "TRACES_CLIENT_KEY: got 'PEM/none.pem'; No such file or directory",
                "CLIENT_CERTIFICATE: got 'PEM/client.pem'; ",  # of metrics, where it is to hold the key too
            ],
        ),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=PEM/client.pem OTEL_EXPORTER_OTLP_CLIENT_KEY=PEM/other.key",
            ["CLIENT_KEY: got 'PEM/other.key'; it is not the certificate's key"],
        ),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_KEY=PEM/client.key",
            ["CLIENT_KEY: without a certificate it is not used; name that in OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"],
        ),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE=PEM/ca.pem OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=PEM/both.pem", []),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=PEM/client.pem OTEL_EXPORTER_OTLP_CLIENT_KEY=PEM/client.key",
            [],
        ),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE=PEM", []),
    ],
)
def test_a_file_that_cannot_be_used_is_told(variables: str, told: list[str], pem: Path) -> None:
    """Each export would fail with it; the signal's own variable counts before that of all."""
    environ = dict(one.split("=") for one in variables.replace("PEM", str(pem)).split())
    found = list(mistakes({**AT, **environ}))
    assert len(found) == len(told)
    for problem, begin in zip(found, told, strict=True):
        assert problem.startswith(f"OTEL_EXPORTER_OTLP_{begin.replace('PEM', str(pem))}")


def test_they_join_the_one_report(tmp_path: Path) -> None:
    """With those of the gateway's own settings, before anything is opened or written."""
    environ = {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/gateway.db", "GATEWAY_PORT": "none"}
    with pytest.raises(ConfigError) as caught:
        preflight({**environ, **AT, "OTEL_EXPORTER_OTLP_CERTIFICATE": f"{tmp_path}/none.pem"}, None)
    names = [problem.partition(":")[0] for problem in caught.value.problems]
    assert {"GATEWAY_PORT", "OTEL_EXPORTER_OTLP_CERTIFICATE"} <= set(names)
    assert not list(tmp_path.iterdir())


def test_the_sdk_is_heard_from_its_import_on() -> None:
    """It tells of a component that it does not find with a traceback, where nobody hears it."""
    program = """
from gateway.app.exporting import checked
from gateway.core.clock import SystemClock
import os
print(checked(os.environ, SystemClock()).problems)
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environ | AT | {"OTEL_PYTHON_CONTEXT": "bogus"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("('Failed to load context: bogus")
