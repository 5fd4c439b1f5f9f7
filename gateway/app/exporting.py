"""Whether spans and metrics are exported, by what the environment says of OpenTelemetry; and by what, where they are.

Owns that the SDK is imported only then, and that what is asked for and cannot be done is said, and stops nothing: the
variables may be meant for another program of the same pod. What is no value at all is refused as any setting's is, by
``preflight``. Called by it and ``build``, and by ``check-config`` for the words.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog

from gateway.config.reading import Reader, shown
from gateway.config.receivers import pem_problem
from gateway.core.clock import Clock
from gateway.net.tls import TlsFilesUnusable, client_context
from gateway.otel import variables
from gateway.otel.asked import INSTALL, Exported, asked
from gateway.otel.words import Words, hear

if TYPE_CHECKING:
    from gateway.otel.exporting import Exporting

_log = structlog.get_logger()

_FILES = {"ca": "CERTIFICATE", "client_cert": "CLIENT_CERTIFICATE", "client_key": "CLIENT_KEY"}
"""By what they are to ``client_context``, how the variables of TLS end."""
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


def wanted(environ: Mapping[str, str]) -> Exported:
    """Return what will be exported, and why not what else is asked for."""
    found = asked(environ)
    if found.any and not _installed():
        missing = f"The OTEL_ variables ask for OpenTelemetry, which is not installed: {INSTALL}"
        return found._replace(traces=False, metrics=False, problems=(*found.problems, missing))
    return found


def mistakes(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what is no value of its variable, and which files of TLS cannot be used, a sentence each.

    Of what is not exported nothing is asked: no exporter, no file.
    """
    found = wanted(environ)
    signals = (("TRACES", found.traces), ("METRICS", found.metrics))
    files = (_file_mistakes(environ, signal) for signal, on in signals if on)
    yield from dict.fromkeys(chain(found.mistakes, variables.mistakes(environ, found), *files))


def _file_mistakes(environ: Mapping[str, str], signal: str) -> Iterator[str]:
    """Look at the files that a signal's exporter trusts or shows: with one that is missing each export fails."""
    named = {part: variables.given(environ, signal, end) for part, end in _FILES.items()}
    reader, texts = Reader(MappingProxyType({})), dict[str, str]()
    for part, one in named.items():
        if one is None or (part == "ca" and Path(one[1]).is_dir()):  # which OpenSSL looks authorities up in
            continue
        name, path = one
        if (text := reader.read_named(name, path, "a file in PEM format")) is None:
            continue
        if (problem := pem_problem(f"{part}_file", text)) is None:
            texts[part] = text
        else:
            reader.problems.append(f"{name}: got {shown(path)}; {problem}")
    if (key := named["client_key"]) is not None and named["client_cert"] is None:
        reader.problems.append(f"{key[0]}: without a certificate it is not used; name that in {key[0][:-3]}CERTIFICATE")
    if "client_cert" in texts and named["client_key"] is None:
        texts["client_key"] = texts["client_cert"]  # one file of both
    try:
        client_context(texts.get("ca"), texts.get("client_cert"), texts.get("client_key"))
    except TlsFilesUnusable as error:
        name, path = named[error.part] or named["client_cert"] or ("", "")
        reader.problems.append(f"{name}: got {shown(path)}; {error.message}")
    yield from reader.problems


def _installed() -> bool:
    try:
        return all(find_spec(name) is not None for name in _NEEDED)
    except ModuleNotFoundError:  # what stands before a dot is missing
        return False


def checked(environ: Mapping[str, str], clock: Clock) -> Exported:
    """Return what a start would export, and all that it would say against what is asked for; sends nothing."""
    found = wanted(environ)
    if not found.any:
        return found
    said: list[str] = []
    made = _made(found, environ, clock, "", said.append)
    if isinstance(made, str):
        return found._replace(traces=False, metrics=False, problems=(*found.problems, *dict.fromkeys(said), made))
    return found._replace(problems=(*found.problems, *dict.fromkeys(said)))


def exporting(environ: Mapping[str, str], clock: Clock, instance: str) -> "Exporting | None":
    """Return what exports, None where nothing is; ``instance``: what no other replica is called."""
    found = wanted(environ)
    for problem in (*found.problems, *found.mistakes):
        _log.warning("telemetry.off", error=problem)
    if not found.any:
        return None
    made = _made(found, environ, clock, instance, _not_exported)
    if isinstance(made, str):
        _log.warning("telemetry.off", error=made)
        return None
    _log.info("telemetry.exporting", traces=found.traces, metrics=found.metrics)
    return made


def _made(
    found: Exported, environ: Mapping[str, str], clock: Clock, instance: str, say: Callable[[str], None]
) -> "Exporting | str":
    """Return what exports, or why nothing can; ``say`` hears what the SDK says, from its import on, in any thread."""
    told = Words(environ)
    hear(say, told)
    try:
        from gateway.otel.exporting import Exporting  # with the SDK

        return Exporting(found, environ, clock, instance, say)
    except Exception as exc:  # noqa: BLE001 - the SDK refuses some variables so, at its import too
        return f"OpenTelemetry's SDK refuses the OTEL_ variables: {told(str(exc))}"


def _not_exported(error: str) -> None:
    _log.warning("telemetry.not_exported", error=error)
