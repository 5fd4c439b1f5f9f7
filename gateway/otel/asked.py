"""OpenTelemetry's own environment variables → what is to be exported, and what of it cannot be.

Owns when the SDK is used at all; everything else about it (endpoints, headers, sampling, queues) the SDK reads from the
same variables itself. They may be meant for other programs of the same pod: what OpenTelemetry knows and the gateway
does not do is told of, and stops nothing; what nobody can heed is a mistake. Pure; called by ``gateway.app.exporting``.
"""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from gateway.config.reading import shown

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_SPOKEN = "http/protobuf"
_PROTOCOLS = (_SPOKEN, "grpc", "http/json")
INSTALL = "pip install 'opentelemetry-exporter-otlp-proto-http>=1.45,<2'"


class Exported(NamedTuple):
    """What is to be exported."""

    traces: bool
    metrics: bool
    problems: tuple[str, ...] = ()
    """What is asked for and cannot be done, a sentence each."""
    mistakes: tuple[str, ...] = ()
    """What is no value of its variable, a sentence each."""

    @property
    def any(self) -> bool:
        return self.traces or self.metrics


def asked(environ: Mapping[str, str]) -> Exported:
    """Return what the environment asks for: a variable that is empty is as if it were not set."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Exported(traces=False, metrics=False)
    problems: list[str] = []
    mistakes: list[str] = []
    traces, metrics = (_signal(environ, name, problems, mistakes) for name in ("TRACES", "METRICS"))
    return Exported(traces, metrics, tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(mistakes)))


def _signal(environ: Mapping[str, str], name: str, problems: list[str], mistakes: list[str]) -> bool:
    exporter = f"OTEL_{name}_EXPORTER"
    wanted = [one.strip().lower() for one in environ.get(exporter, "").split(",") if one.strip()]
    if not wanted:
        if not (environ.get(_ENDPOINT) or environ.get(f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")):
            return False
    elif "otlp" not in wanted:
        if wanted != ["none"]:  # another's name may be that of a package which another program of the pod has
            what = f"got {shown(wanted[0])}; the gateway exports by otlp alone, so nothing is exported of these."
            problems.append(f"{exporter}: {what}")
        return False
    variable = next((one for one in (f"OTEL_EXPORTER_OTLP_{name}_PROTOCOL", _PROTOCOL) if environ.get(one)), None)
    if variable is not None and (protocol := environ[variable].strip().lower()) != _SPOKEN:
        if protocol not in _PROTOCOLS:
            mistakes.append(f"{variable}: got {shown(protocol)}; write {_SPOKEN}, or unset it")
            return False
        problems.append(
            f"{variable}: the gateway speaks {_SPOKEN}, not {protocol}, so nothing is exported. Name the collector's "
            f"port for that (4318 usually) in OTEL_EXPORTER_OTLP_{name}_ENDPOINT, and set "
            f"OTEL_EXPORTER_OTLP_{name}_PROTOCOL={_SPOKEN}."
        )
        return False
    variable = next((one for one in (f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT", _ENDPOINT) if environ.get(one)), None)
    if variable is not None and (wrong := _url_problem(environ[variable].strip())) is not None:
        mistakes.append(f"{variable}: {wrong}; write a collector's URL, such as http://127.0.0.1:4318")
        return False
    return True


def _url_problem(url: str) -> str | None:
    """Return what is wrong with an endpoint, without showing it: its path may be a key."""
    if not url.lower().startswith(("http://", "https://")):
        return "it does not begin with http:// or https://"
    try:
        parts = urlsplit(url)
        if not parts.hostname:
            return "it names no host"
        if parts.port == 0:
            return "its port is none"
    except ValueError as error:
        return "its port is none" if "port" in str(error).lower() else "its host is none"
    return None if url.isprintable() and " " not in url else "there is a blank in it"
