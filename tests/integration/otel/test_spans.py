"""What a gateway tells a collector over OTLP: each kind of span, read with the protocol's own messages."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.otlp import Collector, Told
from tests.running import LIMIT_S, Running, running

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "rojo=1"}
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_METRIC_EXPORT_INTERVAL": "50"}


class Answers:
    """A receiver that answers as it is told, the last status from then on, and keeps headers."""

    def __init__(self) -> None:
        self.statuses = [204]
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        await request.body()
        self.headers.append(dict(request.headers))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        await Response(status_code=status)(scope, receive, send)


class World:
    """A gateway beside an upstream, a receiver and a collector."""

    def __init__(self) -> None:
        self.collector, self.receiver = Collector(), Answers()
        self.gateway: Running
        self.url = self.collector_url = self.upstream_url = ""
        self.environ: dict[str, str] = {}

    async def registered(self, task_id: str, **headers: str) -> Any:
        asked = {"taskId": task_id, "callbackUrl": f"{self.url}/hooks/s3cret-path?token=s3cret-query"}
        answer = await self.gateway.client.post("/v1/callbacks", json=asked, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def spans(self, name: str, count: int = 1) -> list[Told]:
        await self.collector.until(lambda collector: len(collector.named(name)) >= count)
        return self.collector.named(name)

    async def parent(self, span: Told) -> Told:
        """Of another span of the gateway, which may be told of later."""
        ids = {span.parent_id}
        await self.collector.until(lambda collector: ids <= {one.span_id for one in collector.spans})
        (parent,) = [one for one in self.collector.spans if one.span_id in ids]
        return parent


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def make(**environ: str) -> World:
            world = World()
            simulator = SimulatedUpstream(SystemClock(), plans=Plan(duration_s=0.2))
            world.upstream_url = await stack.enter_async_context(serve_simulator(simulator))
            world.url = await stack.enter_async_context(serve_asgi(world.receiver))
            world.collector_url = await stack.enter_async_context(serve_asgi(world.collector))
            world.environ = environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": world.collector_url, **QUICK, **environ}
            for name, value in environ.items():
                monkeypatch.setenv(name, value)  # where the SDK looks
            world.gateway = await stack.enter_async_context(running(tmp_path, world.upstream_url, **environ))
            return world

        yield make


async def test_one_trace_from_the_registration_to_the_attempts(start: Any) -> None:
    """Request, poll, settlement and attempts stand below the client's span, and the receiver's below an attempt."""
    world = await start(OTEL_METRICS_EXPORTER="none")
    world.receiver.statuses = [503, 204]
    callback = await world.registered("sim-success-100-a", **PARENT)
    await world.gateway.delivered(callback["id"])

    (request,) = await world.spans("POST /v1/callbacks")
    assert (request.trace_id, request.parent_id, request.kind) == (TRACE, SPAN, "server")
    assert request.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/callbacks",
        "http.response.status_code": 201,
        "url.path": "/v1/callbacks",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "gateway.client": "default",
    }
    (settlement,) = await world.spans("settle")
    settled_by = await world.parent(settlement)
    polls = await world.spans("GET /api/v1/jobs/recordInfo")
    assert {(poll.trace_id, poll.parent_id, poll.kind) for poll in polls} == {(TRACE, request.span_id, "client")}
    assert polls[-1] is settled_by
    last = settled_by.attributes
    assert (last["http.response.status_code"], last["gateway.poll.kind"]) == (200, "terminal")
    assert (last["gateway.task.id"], last["gateway.upstream"]) == ("sim-success-100-a", "aigptimage")
    assert (last["http.request.method"], last["server.address"]) == ("GET", "127.0.0.1")
    assert last["url.full"] == f"http://127.0.0.1:{last['server.port']}/api/v1/jobs/recordInfo"

    assert (settlement.trace_id, settlement.kind) == (TRACE, "internal")
    assert settlement.attributes == {
        "gateway.upstream": "aigptimage",
        "gateway.task.id": "sim-success-100-a",
        "gateway.task.state": "success",
        "gateway.callbacks": 1,
        "gateway.callback.ids": [callback["id"]],
    }
    first, second = await world.spans("POST", 2)
    for attempt in (first, second):
        assert (attempt.trace_id, attempt.parent_id, attempt.kind) == (TRACE, request.span_id, "client")
        assert (attempt.attributes["gateway.callback.id"], attempt.attributes["url.full"]) == (
            callback["id"],
            world.url,
        )
    told = [
        (one.attributes["gateway.attempt.number"], one.attributes["http.response.status_code"], one.failed,
         one.attributes.get("error.type"), one.attributes["gateway.attempt.result"],
         one.attributes.get("http.request.resend_count"))
        for one in (first, second)
    ]  # fmt: skip
    assert told == [(1, 503, True, "503", "retry", None), (2, 204, False, None, "delivered", 1)]
    assert [one["traceparent"] for one in world.receiver.headers] == [
        f"00-{TRACE}-{attempt.span_id}-01" for attempt in (first, second)
    ]
    assert {one["tracestate"] for one in world.receiver.headers} == {"rojo=1"}

    spans = world.collector.spans
    assert not any("s3cret" in span.whole for span in spans)
    named = {(one.resource["service.name"], one.resource["telemetry.sdk.language"]) for one in spans}
    assert named == {("webhook-bridging-gateway", "python")}
    assert {len(one.resource["service.instance.id"]) for one in spans} == {12}
    assert world.collector.metrics == {}


async def test_a_registration_without_a_trace_begins_one(start: Any) -> None:
    """What follows it is below its request."""
    world = await start()
    callback = await world.registered("sim-success-0-a")
    await world.gateway.delivered(callback["id"])
    (request,) = await world.spans("POST /v1/callbacks")
    (attempt,) = await world.spans("POST")
    assert (request.parent_id, attempt.trace_id, attempt.parent_id) == ("", request.trace_id, request.span_id)


async def test_what_is_not_sampled_goes_on_unsampled(start: Any) -> None:
    """As the client decided: nothing is sent of it, and the receiver hears so."""
    world = await start()
    callback = await world.registered("sim-success-0-a", traceparent=f"00-{TRACE}-{SPAN}-00")
    await world.gateway.delivered(callback["id"])
    _, trace_id, span_id, flags = world.receiver.headers[0]["traceparent"].split("-")
    assert (trace_id, flags) == (TRACE, "00")
    assert span_id != SPAN
    other = await world.registered("sim-success-0-b")
    await world.gateway.delivered(other["id"])
    await world.spans("POST")
    assert not [span for span in world.collector.spans if span.trace_id == TRACE]


async def test_sampling_that_is_off_passes_traces_on(start: Any) -> None:
    """The receiver's spans are a part of the client's trace, not recorded here; that its id is random stays said."""
    world = await start(OTEL_TRACES_SAMPLER="always_off")
    parent = {"traceparent": f"00-{TRACE}-{SPAN}-03", "tracestate": "rojo=1"}
    callback = await world.registered("sim-success-0-a", **parent)
    await world.gateway.delivered(callback["id"])
    await world.collector.until(lambda collector: "gateway_attempts" in collector.metrics)
    await world.gateway.gateway.drain()
    assert world.collector.spans == []
    (headers,) = world.receiver.headers
    _, trace_id, _, flags = headers["traceparent"].split("-")
    assert (trace_id, flags, headers["tracestate"]) == (TRACE, "02", "rojo=1")


async def test_each_of_a_batch_is_below_its_request(start: Any) -> None:
    """However many there are, and those that are refused change nothing of it."""
    world = await start()
    asked = [{"taskId": f"sim-success-0-{name}", "callbackUrl": f"{world.url}/hooks"} for name in "ab"]
    asked.append({"taskId": "t", "callbackUrl": "gopher://x"})
    answer = await world.gateway.client.post("/v1/callbacks/batch", json={"callbacks": asked}, headers=PARENT)
    first, second, refused = answer.json()["data"]
    assert refused["status"] == 422
    for one in (first, second):
        await world.gateway.delivered(one["callback"]["id"])
    (request,) = await world.spans("POST /v1/callbacks/batch")
    assert (request.trace_id, request.parent_id) == (TRACE, SPAN)
    attempts = await world.spans("POST", 2)
    assert {(one.trace_id, one.parent_id) for one in attempts} == {(TRACE, request.span_id)}
    assert {one.attributes["gateway.callback.id"] for one in attempts} == {
        one["callback"]["id"] for one in (first, second)
    }


async def test_what_a_create_asks_for_is_below_it(start: Any) -> None:
    """Polls, the task's end and the webhook, as with a registration."""
    world = await start()
    asked = {"model": "m", "input": {"prompt": "x"}, "callBackUrl": f"{world.url}/hooks"}
    answer = await world.gateway.client.post("/api/v1/jobs/createTask", json=asked, headers=PARENT)
    assert answer.status_code == 200, answer.text
    (attempt,) = await world.spans("POST")
    (request,) = await world.spans("POST /api/v1/jobs/createTask")
    (settlement,) = await world.spans("settle")
    poll = await world.parent(settlement)
    polls = await world.spans("GET /api/v1/jobs/recordInfo")
    assert (request.trace_id, request.parent_id) == (TRACE, SPAN)
    assert {(one.trace_id, one.parent_id) for one in (attempt, *polls)} == {(TRACE, request.span_id)}
    assert poll in polls
    assert attempt.attributes["gateway.task.id"] == answer.json()["data"]["taskId"]


async def test_a_redelivery_stays_in_the_registrations_trace(start: Any) -> None:
    """Whoever asks for it has a trace of their own: the webhook is still what the registration led to."""
    world = await start()
    callback = await world.registered("sim-success-0-a", **PARENT)
    await world.gateway.delivered(callback["id"])
    other = {"traceparent": f"00-{'5' * 32}-{SPAN}-01"}
    again = await world.gateway.client.post(f"/v1/callbacks/{callback['id']}/redeliver", headers=other)
    assert again.status_code == 202
    attempts = await world.spans("POST", 2)
    (request,) = await world.spans("POST /v1/callbacks")
    (asked,) = await world.spans("POST /v1/callbacks/{id}/redeliver")
    assert asked.trace_id == "5" * 32
    assert {(one.trace_id, one.parent_id) for one in attempts} == {(TRACE, request.span_id)}
    assert [one.attributes["gateway.attempt.number"] for one in attempts] == [1, 2]


async def test_whoever_takes_over_goes_on_with_the_trace(start: Any, tmp_path: Path) -> None:
    """It is kept in the database: polls and attempts of another process are below the request of the first."""
    world = await start()
    callback = await world.registered("sim-success-1000-a", **PARENT)
    (request,) = await world.spans("POST /v1/callbacks")
    await world.gateway.gateway.drain()
    await world.gateway.gateway.close()
    async with running(tmp_path, world.upstream_url, **world.environ) as another:
        await another.delivered(callback["id"])
        (attempt,) = await world.spans("POST")
    instance = attempt.resource["service.instance.id"]
    assert instance != request.resource["service.instance.id"]
    assert (attempt.trace_id, attempt.parent_id) == (TRACE, request.span_id)
    polls = [
        one for one in world.collector.spans if one.kind == "client" and one.resource["service.instance.id"] == instance
    ]
    assert {(one.trace_id, one.parent_id) for one in polls} == {(TRACE, request.span_id)}
    assert len(polls) >= 2


async def test_a_poll_for_several_links_to_the_others(start: Any) -> None:
    """It is a part of one trace, and linked to the others; so is the settlement."""
    world = await start()
    task = "sim-success-300-a"
    first = await world.registered(task, traceparent=f"00-{TRACE}-{SPAN}-01")
    other = "5" * 32
    asked = {"taskId": task, "callbackUrl": f"{world.url}/other"}
    await world.gateway.client.post("/v1/callbacks", json=asked, headers={"traceparent": f"00-{other}-{SPAN}-01"})
    await world.gateway.delivered(first["id"])
    requests = {one.trace_id: one for one in await world.spans("POST /v1/callbacks", 2)}
    (settlement,) = await world.spans("settle")
    poll = await world.parent(settlement)
    assert (poll.name, poll.trace_id, poll.parent_id) == (
        "GET /api/v1/jobs/recordInfo",
        TRACE,
        requests[TRACE].span_id,
    )
    assert poll.links == settlement.links == [(other, requests[other].span_id)]
    assert {attempt.trace_id for attempt in await world.spans("POST", 2)} == {TRACE, other}


async def test_what_goes_wrong(start: Any) -> None:
    """A refused request has its status, a callback given up its settlement, an attempt without an answer its reason."""
    world = await start()
    answer = await world.gateway.client.get("/v1/callbacks/cb_unknown")
    assert answer.status_code == 404
    await world.gateway.client.get("/nowhere?token=s3cret")
    await world.gateway.client.get("/healthz")
    asked = {"taskId": "sim-never-0-a", "callbackUrl": "http://127.0.0.1:9/closed", "timeoutSeconds": 1}
    await world.gateway.client.post("/v1/callbacks", json=asked, headers=PARENT)
    (settlement,) = await world.spans("settle")
    assert (settlement.trace_id, settlement.attributes["gateway.task.state"]) == (TRACE, "abandoned")
    assert settlement.attributes["gateway.callbacks"] == 1
    attempt = (await world.spans("POST"))[0]
    assert (attempt.attributes["error.type"], attempt.failed) == ("refused", True)
    assert "http.response.status_code" not in attempt.attributes
    (lost,) = await world.spans("GET /v1/callbacks/{id}")
    assert (lost.attributes["http.response.status_code"], lost.failed) == (404, False)
    (nowhere,) = await world.spans("GET")
    assert (nowhere.attributes["url.path"], "http.route" in nowhere.attributes) == ("/nowhere", False)
    assert not [span for span in world.collector.spans if "s3cret" in span.whole or "healthz" in span.whole]


async def test_metrics_are_those_of_the_scrape(start: Any) -> None:
    """Of each family of ``/metrics`` the same series, with name, text and unit; what is counted since the start."""
    world = await start(OTEL_TRACES_EXPORTER="none", OTEL_RESOURCE_ATTRIBUTES="service.name=hooks,team=images")
    callback = await world.registered("sim-success-0-a")
    await world.gateway.delivered(callback["id"])
    collector = world.collector

    def delivered(_: Collector) -> bool:
        if "gateway_attempts" not in collector.metrics:
            return False
        return any(point.as_double == 1 for _, point in collector.points("gateway_attempts"))

    await collector.until(delivered)
    scraped = (await world.gateway.client.get("/metrics")).text
    families = {
        line.split()[2].removesuffix("_total"): line.split()[3] for line in scraped.splitlines() if line[:6] == "# TYPE"
    }
    kinds = {"counter": "sum", "gauge": "gauge", "histogram": "histogram"}
    with_series = {name for name in families if any(line.startswith(name) for line in scraped.splitlines())}
    assert collector.metrics.keys() <= with_series
    assert {name: metric.WhichOneof("data") for name, metric in collector.metrics.items()} == {
        name: kinds[families[name]] for name in collector.metrics
    }
    assert {"gateway_polls", "gateway_attempt_seconds", "gateway_ready", "process_open_fds"} <= collector.metrics.keys()
    attempts = collector.metrics["gateway_attempts"]
    assert (attempts.description, attempts.sum.is_monotonic) == ("Webhook attempts, by result.", True)
    assert dict(collector.points("gateway_attempts").__next__()[0]).keys() == {"result"}
    seconds = collector.metrics["gateway_attempt_seconds"]
    (point,) = seconds.histogram.data_points
    assert (seconds.unit, point.count, sum(point.bucket_counts)) == ("s", 1, 1)
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert point.start_time_unix_nano < point.time_unix_nano
    assert (collector.resource["service.name"], collector.resource["team"]) == ("hooks", "images")
    assert collector.spans == []


async def test_a_collector_that_takes_nothing_leaves_the_gateway_ready(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one of the reasons, and no more; and is none any more once the collector takes something."""
    monkeypatch.setattr("gateway.otel.exporting._AGAIN_S", 0.02)
    world = await start(OTEL_METRICS_EXPORTER="none")
    assert (await world.gateway.client.get("/readyz")).json()["reasons"] == []
    world.collector.status = 400
    await world.registered("sim-never-0-a", **PARENT)
    failing = ["spans or metrics do not get through to their collector"]
    answer = await world.gateway.becomes("/readyz", lambda answer: answer.json()["reasons"] == failing)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    world.collector.status = 200
    answer = await world.gateway.becomes("/readyz", lambda answer: answer.json()["reasons"] == [])
    assert answer.status_code == 200


async def test_the_last_spans_are_sent_at_the_stop(start: Any, tmp_path: Path) -> None:
    """Within the drain's time, though the next batch was far off."""
    world = await start(OTEL_BSP_SCHEDULE_DELAY="60000", OTEL_METRIC_EXPORT_INTERVAL="60000")
    callback = await world.registered("sim-success-0-a", **PARENT)
    await world.gateway.delivered(callback["id"])
    assert (world.collector.spans, world.collector.metrics) == ([], {})
    await world.gateway.gateway.drain()
    assert {"POST /v1/callbacks", "settle", "POST"} <= {span.name for span in world.collector.spans}
    assert "gateway_attempts" in world.collector.metrics


@pytest.mark.parametrize("trouble", ["refused", "fails", "hangs"])
async def test_a_collector_that_is_gone_holds_nothing_up(
    trouble: str, start: Any, raw_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Webhooks go out as ever, what waits is bounded, and the stop is soon over, however long a drain may take."""
    monkeypatch.setattr("gateway.otel.exporting._LONGEST_S", 0.2)
    held = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await held.wait()

    url = "http://127.0.0.1:9"
    if trouble == "hangs":
        url = (await raw_server(hang)).url("")
    environ = {} if trouble == "fails" else {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
    environ["GATEWAY_DRAIN_S"] = "30"
    world = await start(OTEL_BSP_MAX_QUEUE_SIZE="16", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8", **environ)
    world.collector.status = 503
    loop = asyncio.get_running_loop()
    for number in range(20):
        callback = await world.registered(f"sim-success-0-{number}", **PARENT)
        await world.gateway.delivered(callback["id"])
    began = loop.time()
    async with asyncio.timeout(LIMIT_S):
        await world.gateway.gateway.drain()
    assert loop.time() - began < 3
