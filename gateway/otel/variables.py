"""Mistakes in OpenTelemetry's environment variables, each by its name with what is allowed.

Owns which value is none at all: those ``serve`` refuses as it does any other setting's. What OpenTelemetry knows and
the gateway does not do is none; ``asked`` tells of that. Looked at are the variables of what is exported. Pure, but for
asking which components are installed; the SDK is not imported. Called by ``gateway.app.exporting``.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote

from gateway.config.reading import shown
from gateway.otel.asked import Exported

_BOOLEANS = ("OTEL_SDK_DISABLED", "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED")
_LIMITS = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
)
_QUEUE, _BATCH = ("OTEL_BSP_MAX_QUEUE_SIZE", 2048), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
"""With the SDK's defaults."""
_MOST = 2**31 - 1
"""A time that is much longer overflows in the SDK, or in the sockets that it waits for."""
_RATIOS = ("traceidratio", "parentbased_traceidratio")
_SAMPLERS = ("always_on", "always_off", "parentbased_always_on", "parentbased_always_off", *_RATIOS)
_PAIRS = "write name=value, with its value URL-encoded, and commas between several"
_HEADER = re.compile(r"[ \t]*[!#-'*+\-.0-9A-Z^-z|~]+[ \t]*=[ !#-+\--:<-\[\]-~]*")
"""What the SDK takes: a value's comma, semicolon, quote and backslash are URL-encoded."""


class _Components(NamedTuple):
    """What a variable names, of those that are installed."""

    group: str
    elsewhere: tuple[str, ...] = ()
    """Further names that OpenTelemetry knows, and that do the gateway no harm."""
    several: bool = False


_OF_ALL = {
    "OTEL_PYTHON_CONTEXT": _Components("opentelemetry_context"),
    "OTEL_PYTHON_METER_PROVIDER": _Components("opentelemetry_meter_provider"),
    "OTEL_PYTHON_TRACER_PROVIDER": _Components("opentelemetry_tracer_provider"),
    "OTEL_PROPAGATORS": _Components(
        "opentelemetry_propagator", ("b3", "b3multi", "jaeger", "none", "ottrace", "xray"), several=True
    ),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": _Components("opentelemetry_resource_detector", ("*",), several=True),
}
_GENERATORS = _Components("opentelemetry_id_generator", ("xray",))
_CREDENTIALS = _Components("opentelemetry_otlp_credential_provider")


def given(environ: Mapping[str, str], signal: str, what: str) -> tuple[str, str] | None:
    """Return the variable of OTLP's that counts for a signal, and what it says; the signal's own before that of all."""
    for name in (f"OTEL_EXPORTER_OTLP_{signal}_{what}", f"OTEL_EXPORTER_OTLP_{what}"):
        if environ.get(name, "").strip():
            return name, environ[name]
    return None


def mistakes(environ: Mapping[str, str], exported: Exported) -> Iterator[str]:
    """Yield what is wrong with the values, a sentence each; one may come twice. No header or URL is shown."""
    if not exported.any:
        return
    for name in _BOOLEANS:
        yield from _one_of(environ, name, ("true", "false"))
    for name, components in _OF_ALL.items():
        yield from _installed(environ, name, components)
    pairs = [pair.partition("=") for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",") if pair.strip()]
    if not all(key.strip() and equals for key, equals, _ in pairs):
        yield f"OTEL_RESOURCE_ATTRIBUTES: {_PAIRS}"
    for signal, on in (("TRACES", exported.traces), ("METRICS", exported.metrics)):
        if on:
            yield from _of_exporter(environ, signal)
    if exported.traces:
        yield from _of_spans(environ)
    if exported.metrics:
        yield from _number(
            environ, "OTEL_METRIC_EXPORT_INTERVAL", _milliseconds, f"a number of milliseconds from 1 to {_MOST}"
        )
        yield from _number(
            environ, "OTEL_METRIC_EXPORT_TIMEOUT", _milliseconds, f"a number of milliseconds from 1 to {_MOST}"
        )
        prefix = "OTEL_EXPORTER_OTLP_METRICS"
        yield from _one_of(environ, f"{prefix}_TEMPORALITY_PREFERENCE", ("cumulative", "delta", "lowmemory"))
        histograms = ("explicit_bucket_histogram", "base2_exponential_bucket_histogram")
        yield from _one_of(environ, f"{prefix}_DEFAULT_HISTOGRAM_AGGREGATION", histograms)


def _of_exporter(environ: Mapping[str, str], signal: str) -> Iterator[str]:
    """Look at what OTLP's exporter of a signal is told, but for its endpoint, protocol and files."""
    if (headers := given(environ, signal, "HEADERS")) is not None:
        name, value = headers
        if not all(_HEADER.fullmatch(one) for one in re.split(r"[ \t]*,[ \t]*", value.strip()) if one):
            yield f"{name}: {_PAIRS} (what was given is not shown)"
        elif not unquote(value).isprintable():  # no header has a line's end, which wrapped base64 brings along
            yield f"{name}: a value is URL-encoded and has control characters in it (what was given is not shown)"
    if (timeout := given(environ, signal, "TIMEOUT")) is not None:
        yield from _number(environ, timeout[0], _seconds, f"a number of seconds above 0, up to {_MOST}")
    if (compression := given(environ, signal, "COMPRESSION")) is not None:
        yield from _one_of(environ, compression[0], ("none", "gzip", "deflate"))
    for name in (
        "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
        f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal}_CREDENTIAL_PROVIDER",
    ):
        yield from _installed(environ, name, _CREDENTIALS)


def _of_spans(environ: Mapping[str, str]) -> Iterator[str]:
    """Look at how many spans are made, and how many wait."""
    others = ("jaeger_remote", "parentbased_jaeger_remote", "xray")  # of which the SDK says that it has none
    given = environ.get("OTEL_TRACES_SAMPLER", "")
    sampler = given.lower()
    if given.strip() and sampler not in (*others, *_SAMPLERS):  # with blanks the SDK knows none, and samples all
        yield f"OTEL_TRACES_SAMPLER: got {shown(given)}; write {_listed(_SAMPLERS)}"
    if sampler in _RATIOS:
        yield from _number(environ, "OTEL_TRACES_SAMPLER_ARG", _share, "a share from 0 to 1, such as 0.1")
    yield from _installed(environ, "OTEL_PYTHON_ID_GENERATOR", _GENERATORS)
    for name in _LIMITS:
        yield from _number(environ, name, lambda text: int(text) >= 0, "a whole number from 0 on")
    sizes = [name for name, _ in (_QUEUE, _BATCH)]
    wrong = False
    for name in (*sizes, "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT"):
        for problem in _number(environ, name, _count, f"a whole number from 1 to {_MOST}"):
            wrong = True
            yield problem
    if not wrong:
        queue, batch = (int(environ.get(name, "").strip() or default) for name, default in (_QUEUE, _BATCH))
        if batch > queue:
            yield f"{', '.join(sizes)}: {queue} and {batch}; write a batch that is not above what may wait"


def _one_of(environ: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> Iterator[str]:
    value = environ.get(name, "")
    if value.strip() and value.strip().lower() not in allowed:
        yield f"{name}: got {shown(value)}; write {_listed(allowed)}"


def _installed(environ: Mapping[str, str], name: str, components: _Components) -> Iterator[str]:
    text = environ.get(name, "").strip()
    wanted = [one.strip() for one in text.split(",") if one.strip()] if components.several else [text]
    if not text or set(wanted) <= set(components.elsewhere):
        return
    from importlib.metadata import entry_points  # late: few name a component, and it reads what is installed

    found = sorted({one.name for one in entry_points(group=components.group)})
    if unknown := [one for one in wanted if one not in found and one not in components.elsewhere]:
        way_out = f"write {_listed(tuple(found))}, or unset it" if found else "none is installed: unset it"
        yield f"{name}: got {shown(unknown[0])}; {way_out}"


def _number(environ: Mapping[str, str], name: str, fits: Callable[[str], bool], wanted: str) -> Iterator[str]:
    text = environ.get(name, "").strip()
    try:
        right = not text or fits(text)
    except ValueError:
        right = False
    if not right:
        yield f"{name}: got {shown(text)}; write {wanted}"


def _count(text: str) -> bool:
    return 1 <= int(text) <= _MOST


def _milliseconds(text: str) -> bool:
    return 1 <= float(text) <= _MOST


def _seconds(text: str) -> bool:
    return 0 < float(text) <= _MOST


def _share(text: str) -> bool:
    return 0 <= float(text) <= 1


def _listed(words: tuple[str, ...]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]
