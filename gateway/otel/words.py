"""What may be told of OpenTelemetry's SDK and of a collector: no header's value, no URL, no end of either's words.

Owns what of the variables is secret, and who hears the SDK. Needs no SDK, so that what it says of itself while it is
imported is heard too. Called by ``exporting``, ``tracing`` and ``gateway.app.exporting``.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import unquote, urlsplit

from gateway.core.masking import Mask

_PRIVATE = re.compile(r"(?<=with url: )\S+|(?<=Invalid URL ')[^']+|(?<=were found for ')[^']+|[\w+.-]*://[^\s'\"]+")
"""Of the SDK's words, a collector's URL: its path may be a key."""
_MOST_WORDS = 500
_USUAL = frozenset(("v1", "traces", "metrics"))
_OTLP = ("OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_TRACES", "OTEL_EXPORTER_OTLP_METRICS")


class Words:
    """Returns of a text what may be logged, by what the variables say."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._mask = Mask(sorted(_secrets(environ), key=len, reverse=True))

    def __call__(self, text: str) -> str:
        masked = self._mask.masked(_PRIVATE.sub("…", text).encode(errors="backslashreplace"))
        return masked.decode(errors="replace")[:_MOST_WORDS]


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    for prefix in _OTLP:
        for header in environ.get(f"{prefix}_HEADERS", "").split(","):
            value = header.partition("=")[2].strip() or header.strip()
            for text in (value, unquote(value)):
                yield text
                yield text.rpartition(" ")[2]  # of "Bearer …" the token, which may stand alone
        yield from _in_url(environ.get(f"{prefix}_ENDPOINT", ""))


def _in_url(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    found = [*parts.netloc.rpartition("@")[0].split(":", 1), *parts.path.split("/"), parts.query]
    for text in found:
        if text not in _USUAL:
            yield text
            yield unquote(text)


class _SdkLines(logging.Handler):
    """Passes on what the SDK says against a collector or a variable, without what is secret in it."""

    def __init__(self, say: Callable[[str], None], told: Callable[[str], str]) -> None:
        super().__init__(logging.WARNING)
        self._say, self._told = say, told

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "opentelemetry.trace.span":  # a client's tracestate that it leaves out: as often as they like
            return
        if record.name == "opentelemetry.util.re":  # which repeats the header, with the collector's key
            error = "A header of OTEL_EXPORTER_OTLP_HEADERS is not name=value, with its value URL-encoded."
        else:
            error = self._told(record.getMessage())
        self._say(error)


def hear(say: Callable[[str], None], told: Callable[[str], str]) -> None:
    """Have what the SDK says from now on be heard there, as ``told`` has it, and nowhere else."""
    logger = logging.getLogger("opentelemetry")
    for handler in [one for one in logger.handlers if isinstance(one, _SdkLines)]:
        logger.removeHandler(handler)
    logger.addHandler(_SdkLines(say, told))
    logger.propagate = False
