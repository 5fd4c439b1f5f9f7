"""What sends spans and metrics to a collector: the SDK's exporters, each in a thread that nothing waits for.

Owns how long the end of a gateway waits for them. A collector that is gone or slow costs what the SDK's queue holds
(``OTEL_BSP_MAX_QUEUE_SIZE`` spans, 2,048 by default); what comes after that is dropped. Built by ``gateway.app``.
"""

import asyncio
import logging
import math
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from prometheus_client import Metric

from gateway import __version__
from gateway.core.clock import Clock
from gateway.otel.asked import Exported
from gateway.otel.metrics import metrics_data
from gateway.otel.tracing import OtelTracing

__all__ = ["Exporting"]

_log = structlog.get_logger()

_NAME = "webhook-bridging-gateway"
_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
_INTERVAL_MS = 60_000.0
_PRIVATE = re.compile(r"(?<=with url: )\S+|(?<=Invalid URL ')[^']+|(?<=were found for ')[^']+|[\w+.-]*://[^\s'\"]+")
"""Of the SDK's words, a collector's URL: its path may be a key."""
_MOST_WORDS = 500
_LAST_WORDS_S = 0.5
"""So long the end waits at least, where the drain's time is used up."""
_LONGEST_S = 3.0
"""So long it waits at most: whoever replaces it may wait for its database, and the collector may be gone."""


class _SpanExporter(OTLPSpanExporter):
    """The SDK's, which knows whether the last ones got through."""

    failed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        self.failed = result is not SpanExportResult.SUCCESS
        return result


class _MetricExporter(OTLPMetricExporter):
    """The SDK's, which knows whether the last ones got through."""

    failed = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        result = super().export(metrics_data, timeout_millis, **kwargs)
        self.failed = result is not MetricExportResult.SUCCESS
        return result


class Exporting:
    """The exporters of one gateway."""

    def __init__(
        self, asked: Exported, environ: Mapping[str, str], clock: Clock, instance: str, say: Callable[[str], None]
    ) -> None:
        """``instance``: what no other replica is called. ``say`` hears what the SDK says against it, in any thread.

        What else is needed the SDK takes from its own variables.
        """
        _hear(say)
        self._clock = clock
        self._since = clock.now()
        self._resource = _resource(instance)
        self._provider: TracerProvider | None = None
        self._spans: _SpanExporter | None = None
        self.tracing: OtelTracing | None = None
        if asked.traces:
            self._spans = _SpanExporter()
            self._provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(self._spans))
            self.tracing = OtelTracing(self._provider)
        self._metrics = _MetricExporter() if asked.metrics else None
        self._interval_s = _interval_ms(environ, say) / 1000 if asked.metrics else math.inf
        self._task: asyncio.Task[None] | None = None
        self._collect: Callable[[], Awaitable[Iterable[Metric]]] | None = None

    @property
    def failing(self) -> bool:
        """Whether the collector did not take what was sent to it last."""
        return any(one is not None and one.failed for one in (self._spans, self._metrics))

    def start(self, collect: Callable[[], Awaitable[Iterable[Metric]]]) -> None:
        """Export the metrics from now on, again and again; ``collect`` brings them up to date and returns them."""
        self._collect = collect
        if self._metrics is not None:
            self._task = asyncio.create_task(self._again_and_again(self._metrics), name="otlp-metrics")

    async def _again_and_again(self, exporter: OTLPMetricExporter) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._export(exporter)

    async def _export(self, exporter: OTLPMetricExporter) -> None:
        assert self._collect is not None  # noqa: S101 - it was started
        try:
            families = await self._collect()
            now = self._clock.now()
            data = metrics_data(families, self._resource, self._since * 1_000_000, now * 1_000_000)
        except Exception as exc:  # noqa: BLE001 - a figure that cannot be had must not end all the others
            _log.warning("telemetry.not_exported", error=_told(repr(exc)))
        else:
            await _beside(partial(exporter.export, data))

    async def stop(self, limit_s: float) -> None:
        """Send what is left, for ``limit_s`` seconds, half a second at least and three at most; then let it go.

        Again, it does nothing.
        """
        task, self._task = self._task, None
        provider, self._provider = self._provider, None
        ends: list[asyncio.Future[None]] = []
        if provider is not None:
            ends.append(_beside(provider.shutdown))
        if task is not None and self._metrics is not None:
            task.cancel()
            ends.append(asyncio.ensure_future(self._export(self._metrics)))
        if not ends:
            return
        _, late = await asyncio.wait(ends, timeout=min(max(limit_s, _LAST_WORDS_S), _LONGEST_S))
        for one in late:
            one.cancel()
        for exporter in (self._spans, self._metrics) if late else ():
            if exporter is not None:
                _beside(exporter.shutdown)  # ends what still waits for a collector


def _resource(instance: str) -> Resource:
    """Return who exports: as the gateway calls itself, but for what the environment calls it."""
    own = {"service.name": _NAME, "service.version": __version__, "service.instance.id": instance}
    named = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in own.items() if name not in named})


def _interval_ms(environ: Mapping[str, str], say: Callable[[str], None]) -> float:
    """Return the time between two exports; of 0 they would come as fast as they can, as of less."""
    text = environ.get(_INTERVAL, "").strip()
    with suppress(ValueError):
        if math.isfinite(interval := float(text or _INTERVAL_MS)) and interval >= 1:
            return interval
    say(f"{_INTERVAL}: it is no number of milliseconds from 1 on, so metrics go every {_INTERVAL_MS / 1000:g} s.")
    return _INTERVAL_MS


def _beside(work: Callable[[], object]) -> "asyncio.Future[None]":
    """Run something in a thread that does not keep the process from ending, as an executor's would."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not done.done():
            done.set_result(None)

    def run() -> None:
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - a thread's end is nobody's
            _log.warning("telemetry.not_exported", error=_told(repr(exc)))
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(end)

    threading.Thread(target=run, name="otlp", daemon=True).start()
    return done


class _SdkLines(logging.Handler):
    """Passes on what the SDK says against a collector or a variable, without what is secret in it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "opentelemetry.trace.span":  # a client's tracestate that it leaves out: as often as they like
            return
        if record.name == "opentelemetry.util.re":  # which repeats the header, with the collector's key
            error = "A header of OTEL_EXPORTER_OTLP_HEADERS is not name=value, with its value URL-encoded."
        else:
            error = _told(record.getMessage())
        self._say(error)


def _told(words: str) -> str:
    """Return what may be logged of the SDK's words, or of the collector's that it repeats."""
    return _PRIVATE.sub("…", words)[:_MOST_WORDS]


def _hear(say: Callable[[str], None]) -> None:
    """Have what the SDK says from now on be heard there, and nowhere else."""
    logger = logging.getLogger("opentelemetry")
    for handler in [one for one in logger.handlers if isinstance(one, _SdkLines)]:
        logger.removeHandler(handler)
    logger.addHandler(_SdkLines(say))
    logger.propagate = False
