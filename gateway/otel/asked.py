"""OpenTelemetry's own environment variables → what is to be exported, and what of it cannot be.

Owns when the SDK is used at all; everything else about it (endpoints, headers, sampling, queues) the SDK reads from the
same variables itself. They may be meant for other programs of the same pod: a mistake in them is told of, and stops
nothing. Pure; called by ``gateway.app.exporting`` and ``check-config``.
"""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Exported", "asked"]

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_SPOKEN = "http/protobuf"
INSTALL = "pip install 'opentelemetry-exporter-otlp-proto-http>=1.45,<2'"


class Exported(NamedTuple):
    """What is to be exported."""

    traces: bool
    metrics: bool
    problems: tuple[str, ...] = ()
    """What is asked for and cannot be done, a sentence each."""

    @property
    def any(self) -> bool:
        return self.traces or self.metrics


def asked(environ: Mapping[str, str]) -> Exported:
    """Return what the environment asks for: a variable that is empty is as if it were not set."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Exported(traces=False, metrics=False)
    problems: list[str] = []
    traces, metrics = (_signal(environ, name, problems) for name in ("TRACES", "METRICS"))
    return Exported(traces, metrics, tuple(dict.fromkeys(problems)))


def _signal(environ: Mapping[str, str], name: str, problems: list[str]) -> bool:
    exporter = f"OTEL_{name}_EXPORTER"
    wanted = [one.strip().lower() for one in environ.get(exporter, "").split(",") if one.strip()]
    if not wanted:
        if not (environ.get(_ENDPOINT) or environ.get(f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT")):
            return False
    elif "otlp" not in wanted:
        if wanted != ["none"]:
            problems.append(f"{exporter}: the gateway exports by otlp alone, so nothing is exported of these.")
        return False
    variable = next((one for one in (f"OTEL_EXPORTER_OTLP_{name}_PROTOCOL", _PROTOCOL) if environ.get(one)), None)
    if variable is not None and (protocol := environ[variable].strip().lower()) != _SPOKEN:
        problems.append(
            f"{variable}: the gateway speaks {_SPOKEN}, not {protocol}, so nothing is exported. Name the collector's "
            f"port for that (4318 usually) in OTEL_EXPORTER_OTLP_{name}_ENDPOINT, and set "
            f"OTEL_EXPORTER_OTLP_{name}_PROTOCOL={_SPOKEN}."
        )
        return False
    variable = next((one for one in (f"OTEL_EXPORTER_OTLP_{name}_ENDPOINT", _ENDPOINT) if environ.get(one)), None)
    if variable is not None and not environ[variable].strip().lower().startswith(("http://", "https://")):
        problems.append(f"{variable}: a collector's URL begins with http:// or https://, so nothing is exported.")
        return False
    return True
