"""One trace, over three programs: an app in Node registers, the gateway polls and sends, a receiver in Node takes it.

Node's programs are instrumented by its own OpenTelemetry packages, and all three send to one collector.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.crash.process import environment, run_gateway
from tests.otlp import Collector, Told
from tests.running import LIMIT_S

NODE_DIR = Path(__file__).parents[1] / "node"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not on PATH"),
    pytest.mark.skipif(
        not (NODE_DIR / "node_modules" / "@opentelemetry").is_dir(),
        reason="tests/node/node_modules has no @opentelemetry: run `npm ci --prefix tests/node`",
    ),
]


@asynccontextmanager
async def node(collector: str, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """Run the traced program until the block ends; yield what it prints."""
    process = await asyncio.create_subprocess_exec(
        "node",
        "traced.cjs",
        *arguments,
        cwd=NODE_DIR,
        env={"PATH": os.environ["PATH"], "OTEL_EXPORTER_OTLP_ENDPOINT": collector},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_one_trace_from_an_app_to_a_receiver(tmp_path: Path) -> None:
    """Each span's parent is the one before it, up to the app's own; the receiver's stand below an attempt."""
    collector = Collector()
    simulator = SimulatedUpstream(SystemClock(), plans=Plan())
    async with (
        serve_simulator(simulator) as upstream,
        serve_asgi(collector) as url,
        node(url, "receiver") as receiver,
    ):
        hook = (await asyncio.wait_for(receiver.readline(), LIMIT_S)).decode().strip()
        environ = environment(tmp_path / "gateway.db", upstream) | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        async with run_gateway(environ, tmp_path) as gateway:
            async with node(url, "app", gateway.url, f"{hook}/hooks", "sim-success-200-a") as app:
                registered = json.loads(await asyncio.wait_for(app.read(), LIMIT_S))
            await collector.until(
                lambda seen: [len(seen.named(name)) for name in ("handle", "POST", "settle")] == [1, 3, 1]
            )
            await gateway.event("attempt.finished")
            log = gateway.log

    spans = {span.span_id: span for span in collector.spans}
    (handled,) = collector.named("handle")
    assert handled.attributes == {"webhook.id": registered["id"]}
    way = [handled]
    while way[-1].parent_id:
        way.append(spans[way[-1].parent_id])
    assert [(one.resource["service.name"], one.kind, one.name) for one in way] == [
        ("receiver", "internal", "handle"),
        ("receiver", "server", "POST"),
        ("webhook-bridging-gateway", "client", "POST"),
        ("webhook-bridging-gateway", "server", "POST /v1/callbacks"),
        ("app", "client", "POST"),
        ("app", "internal", "order"),
    ]
    attempt, request = way[2], way[3]
    assert attempt.attributes["gateway.callback.id"] == registered["id"]
    polls: list[Told] = collector.named("GET /api/v1/jobs/recordInfo")
    (settlement,) = collector.named("settle")
    assert {poll.parent_id for poll in polls} == {request.span_id}
    assert settlement.parent_id == polls[-1].span_id
    assert {span.trace_id for span in collector.spans} == {handled.trace_id}
    told = {line["event"]: (line["trace_id"], line["span_id"]) for line in log if "trace_id" in line}
    assert told["attempt.finished"] == (attempt.trace_id, attempt.span_id)
    assert told["task.settled"] == (attempt.trace_id, polls[-1].span_id)
