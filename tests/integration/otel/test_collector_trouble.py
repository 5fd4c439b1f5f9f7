"""A collector that takes nothing: how long it counts as failing, and what is said of it at the end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from structlog.testing import capture_logs

from gateway.app.exporting import exporting
from gateway.core.clock import SystemClock
from gateway.otel.exporting import Exporting
from gateway.serve.asgi import serve_asgi
from tests.otlp import Collector
from tests.waiting import until

SCOPE = {"method": "GET", "path": "/", "scheme": "http", "http_version": "1.1"}
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "20"}


async def no_metrics() -> Sequence[Any]:
    return ()


def trace(made: Exporting, times: int = 1) -> None:
    assert made.tracing is not None
    for _ in range(times):
        with made.tracing.request(SCOPE, None):
            pass


@pytest.fixture
async def export(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Exporting]]:
    """Make what exports to there, by further variables."""
    monkeypatch.setattr("gateway.otel.exporting._AGAIN_S", 0.02)
    async with AsyncExitStack() as stack:

        def make(url: str, **environ: str) -> Exporting:
            environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, **QUICK, **environ}
            for name, value in environ.items():
                monkeypatch.setenv(name, value)  # where the SDK looks
            made = exporting(environ, SystemClock(), "r")
            assert made is not None
            stack.push_async_callback(made.stop, 0)
            return made

        yield make


@pytest.mark.parametrize("signal", ["TRACES", "METRICS"])
async def test_a_collector_that_is_back_is_noticed_where_nothing_is_to_be_sent(signal: str, export: Any) -> None:
    """Until then it goes on failing: its operator would take silence for an end of the trouble."""
    collector = Collector()
    async with serve_asgi(collector) as url:
        collector.status = 400
        other = "METRICS" if signal == "TRACES" else "TRACES"
        made = export(url, **{f"OTEL_{other}_EXPORTER": "none", "OTEL_METRIC_EXPORT_INTERVAL": "1"})
        assert not made.failing
        made.start(no_metrics)
        if signal == "TRACES":
            trace(made)
        await until(lambda: made.failing)
        made._interval_s = 3600
        asked = collector.requests
        await until(lambda: collector.requests > asked + 1)
        assert made.failing
        collector.status = 200
        await until(lambda: not made.failing)
        asked = collector.requests
        await made.stop(0)
        assert collector.requests <= asked + 1, "who has taken all is not asked again"


@pytest.mark.parametrize("late", [False, True])
async def test_the_end_says_nothing_of_an_exporter_that_has_ended(
    late: bool, export: Any, raw_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What still waits behind a collector that hangs is let go, and each exporter ends once, in whichever order."""
    monkeypatch.setattr("gateway.otel.exporting._LONGEST_S", 0.05)
    held, ended = asyncio.Event(), []

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()

    batches = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}
    async with serve_asgi(Collector()) as url:
        if late:
            url = (await raw_server(hang)).url("")
        with capture_logs() as log:
            made = export(url, **batches)
            made.start(no_metrics)
            trace(made, 8)
            provider = made._provider
            assert provider is not None
            shut_down = provider.shutdown
            provider.shutdown = lambda: (shut_down(), ended.append(True))
            await made.stop(0)
            held.set()
            await until(lambda: ended)
            await made.stop(0)
            assert made._spans is not None
            assert made._spans.export(()) is SpanExportResult.FAILURE
    assert [line for line in log if "already shutdown" in line.get("error", "")] == []
    assert all(line["event"] == "telemetry.not_exported" for line in log[1:])
    assert bool(log[1:]) is late
