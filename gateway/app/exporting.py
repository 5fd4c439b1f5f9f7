"""Whether spans and metrics are exported, by what the environment says of OpenTelemetry; and by what, where they are.

Owns that the SDK is imported only then, and that what is asked for and cannot be done is said, and stops nothing: the
variables may be meant for another program of the same pod. Called by ``build``, and by ``check-config`` for the words.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import structlog

from gateway.core.clock import Clock
from gateway.otel.asked import INSTALL, Exported, asked

if TYPE_CHECKING:
    from gateway.otel.exporting import Exporting

__all__ = ["checked", "exporting", "wanted"]

_log = structlog.get_logger()

_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


def wanted(environ: Mapping[str, str]) -> Exported:
    """Return what will be exported, and why not what else is asked for."""
    found = asked(environ)
    if found.any and not _installed():
        missing = f"The OTEL_ variables ask for OpenTelemetry, which is not installed: {INSTALL}"
        return Exported(traces=False, metrics=False, problems=(*found.problems, missing))
    return found


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
        return Exported(traces=False, metrics=False, problems=(*found.problems, *dict.fromkeys(said), made))
    return found._replace(problems=(*found.problems, *dict.fromkeys(said)))


def exporting(environ: Mapping[str, str], clock: Clock, instance: str) -> "Exporting | None":
    """Return what exports, None where nothing is; ``instance``: what no other replica is called."""
    found = wanted(environ)
    for problem in found.problems:
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
    """Return what exports, or why nothing can."""
    try:
        from gateway.otel.exporting import Exporting  # with the SDK

        return Exporting(found, environ, clock, instance, say)
    except Exception as exc:  # noqa: BLE001 - the SDK refuses some variables so, at its import too
        return f"OpenTelemetry's SDK refuses the OTEL_ variables: {exc}"


def _not_exported(error: str) -> None:
    _log.warning("telemetry.not_exported", error=error)
