"""What a trace is told of the polls that no task waits for. In virtual time."""

from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.otel.tracing import OtelTracing
from gateway.otel.words import Words
from tests.life import Life, until
from tests.polling import Upstream, error, said
from tests.virtualtime import VirtualClock, run_virtual


def test_a_probe_of_the_key_is_in_no_tasks_trace(tmp_path: Path) -> None:
    """It begins one of its own, that says what it came to; nobody's task is asked about."""

    async def main() -> None:
        spans = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(spans))
        words = [said(401, error(401))] * 2 + [said(404, error(404))]
        upstream = Upstream(words[0], neutral=lambda: words.pop(0)())
        life = Life(tmp_path / "db", VirtualClock(), upstream=upstream.transport)
        life.poller._tracing = OtelTracing(provider, Words({}))
        await life.start()
        callback = await life.register("t")
        await until(lambda: life.key.refusal is not None)
        await life.store.registry.cancel("", callback.id, life.clock.now())
        await until(lambda: life.key.refusal is None, limit_s=600)
        await life.stop()
        told = [(span.context, span.parent, span.attributes or {}) for span in spans.get_finished_spans()]
        asked = [(of["gateway.task.id"] == "t", of["http.response.status_code"]) for _, _, of in told]
        assert asked == [(True, 401), (False, 401), (False, 401), (False, 404)]
        assert {parent for _, parent, _ in told} == {None}
        assert len({context.trace_id for context, _, _ in told if context}) == len(told)

    run_virtual(main())
