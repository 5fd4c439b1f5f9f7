"""What sends spans and metrics to a collector: the SDK's exporters, each in a thread that nothing waits for.

Owns how long the end of a gateway waits for them. A collector that is gone or slow costs what the SDK's queue holds
(``OTEL_BSP_MAX_QUEUE_SIZE`` spans, 2,048 by default); what comes after that is dropped. Built by ``gateway.app``.
"""

import asyncio
import math
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
from gateway.otel.words import Words

_log = structlog.get_logger()

_NAME = "webhook-bridging-gateway"
_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
_INTERVAL_MS = 60_000.0
_LAST_WORDS_S = 0.5
"""So long the end waits at least, where the drain's time is used up."""
_LONGEST_S = 3.0
"""So long it waits at most: whoever replaces it may wait for its database, and the collector may be gone."""
_AGAIN_S = 60.0
"""So soon a collector that did not take something is tried again, also where there is nothing to send."""


class _SpanExporter(OTLPSpanExporter):
    """The SDK's, which knows whether the last ones got through, and is silent once it has ended."""

    failed = False
    _ended = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._ended:  # what still waits in a queue is handed over all the same
            return SpanExportResult.FAILURE
        result = super().export(spans)
        self.failed = result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        """End what it does; again, also by its processor, it does nothing."""
        if not self._ended:
            self._ended = True
            super().shutdown()  # type: ignore[no-untyped-call]


class _MetricExporter(OTLPMetricExporter):
    """The same for metrics."""

    failed = False
    _ended = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        if self._ended:
            return MetricExportResult.FAILURE
        result = super().export(metrics_data, timeout_millis, **kwargs)
        self.failed = result is not MetricExportResult.SUCCESS
        return result

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        if not self._ended:
            self._ended = True
            super().shutdown(timeout_millis, **kwargs)


class Exporting:
    """The exporters of one gateway."""

    def __init__(
        self, asked: Exported, environ: Mapping[str, str], clock: Clock, instance: str, say: Callable[[str], None]
    ) -> None:
        """``instance``: what no other replica is called. ``say`` hears what is said against a variable.

        What else is needed the SDK takes from its own variables.
        """
        self._told = Words(environ)
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
            self.tracing = OtelTracing(self._provider, self._told)
        self._metrics = _MetricExporter() if asked.metrics else None
        self._interval_s = _interval_ms(environ, say) / 1000 if asked.metrics else math.inf
        self._tasks: list[asyncio.Task[None]] = []
        self._collect: Callable[[], Awaitable[Iterable[Metric]]] | None = None

    @property
    def failing(self) -> bool:
        """Whether the collector did not take what was sent to it last."""
        return any(one is not None and one.failed for one in (self._spans, self._metrics))

    def start(self, collect: Callable[[], Awaitable[Iterable[Metric]]]) -> None:
        """Export the metrics from now on, again and again; ``collect`` brings them up to date and returns them."""
        self._collect = collect
        if self._metrics is not None:
            self._tasks.append(asyncio.create_task(self._again_and_again(self._metrics), name="otlp-metrics"))
        if self._spans is not None:
            self._tasks.append(asyncio.create_task(self._until_taken(self._spans), name="otlp-spans"))

    async def _again_and_again(self, exporter: _MetricExporter) -> None:
        while True:
            await asyncio.sleep(min(self._interval_s, _AGAIN_S) if exporter.failed else self._interval_s)
            await self._export(exporter)

    async def _until_taken(self, exporter: _SpanExporter) -> None:
        """Ask a collector again that did not take spans, with none: else it counts as failing until there are some."""
        while True:
            await asyncio.sleep(_AGAIN_S)
            if exporter.failed:
                await self._beside(partial(exporter.export, ()))

    async def _export(self, exporter: OTLPMetricExporter) -> None:
        assert self._collect is not None  # noqa: S101 - it was started
        try:
            families = await self._collect()
            now = self._clock.now()
            data = metrics_data(families, self._resource, self._since * 1_000_000, now * 1_000_000)
        except Exception as exc:  # noqa: BLE001 - a figure that cannot be had must not end all the others
            _log.warning("telemetry.not_exported", error=self._told(repr(exc)))
        else:
            await self._beside(partial(exporter.export, data))

    async def stop(self, limit_s: float) -> None:
        """Send what is left, for ``limit_s`` seconds, half a second at least and three at most; then let it go.

        Again, it does nothing.
        """
        tasks, self._tasks = self._tasks, []
        provider, self._provider = self._provider, None
        metrics, self._metrics = self._metrics, None
        for task in tasks:
            task.cancel()
        ends: list[asyncio.Future[None]] = []
        if provider is not None:
            ends.append(self._beside(provider.shutdown))  # and with it the exporter, once it has sent all
        if metrics is not None:
            ends.append(asyncio.ensure_future(self._last(metrics)))
        if not ends:
            return
        _, late = await asyncio.wait(ends, timeout=min(max(limit_s, _LAST_WORDS_S), _LONGEST_S))
        for one in late:
            one.cancel()
        for exporter in (self._spans, metrics) if late else ():
            if exporter is not None:
                self._beside(exporter.shutdown)  # ends what still waits for a collector

    async def _last(self, exporter: _MetricExporter) -> None:
        if self._collect is not None:
            await self._export(exporter)
        await self._beside(exporter.shutdown)

    def _beside(self, work: Callable[[], object]) -> "asyncio.Future[None]":
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
                _log.warning("telemetry.not_exported", error=self._told(repr(exc)))
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(end)

        threading.Thread(target=run, name="otlp", daemon=True).start()
        return done


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
