"""The upstream's key behind the proxy: no client shows it unfit for the others, asks with a refused one, or sees it."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from gateway.serve.asgi import serve_asgi
from gateway.simulator import Fault, FaultKind, SimulatedUpstream
from gateway.upstream.key import NEUTRAL_TASK_ID
from tests.proxystand import Stand, Upstream, envelope
from tests.waiting import a_moment


async def test_what_a_client_sees_is_learned(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """A refused key that a client's read met pauses the key for all, with the reason; nobody is told 401 again."""
    simulator.faults.add(Fault(kind=FaultKind.KEY_REFUSED))
    stand = await start()
    assert envelope(await stand.read("sim-never-0-a"))["code"] == 401
    async with asyncio.timeout(20):
        while (await stand.client.get("/readyz")).status_code == 200:
            await a_moment()
    paused = await stand.read("sim-never-0-b")
    assert "refuses the gateway's key" in envelope(paused)["msg"]
    assert (paused.status_code, int(paused.headers["retry-after"]) > 10) == (503, True)
    assert simulator.stats.requests["recordInfo"] == 2, "the read, and one question about the key itself"


async def test_a_read_that_is_refused_alone_is_the_clients_own(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """What stands in one client's id is no reason to leave the others' tasks: they are asked about at once."""
    bad = "../select"
    simulator.faults.add(Fault(kind=FaultKind.HTML, status=403, task_id=bad))
    stand = await start(GATEWAY_UPSTREAM_RATE="100/1")
    for _ in range(3):
        assert (await stand.read(bad)).status_code == 403
        assert envelope(await stand.read("sim-never-0-b"))["data"]["state"] == "waiting"
        ready = await stand.client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"status": "ok", "reasons": []})
    assert simulator.stats.polls.get("gateway-key-probe", 0) <= 1


@pytest.mark.parametrize("entrance", ["read", "watch"])
async def test_whoever_asks_about_the_neutral_task_convicts_nobody(
    entrance: str,
    start: Callable[..., Awaitable[Stand]],
    simulator: SimulatedUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where an unknown id is refused, a client that knows this one cannot stop the others' polls."""
    monkeypatch.setattr("gateway.upstream.key._VOUCHES_S", 0.0)  # as if nobody had asked for a while
    simulator.faults.add(Fault(kind=FaultKind.KEY_REFUSED, task_id=NEUTRAL_TASK_ID))
    stand = await start(GATEWAY_UPSTREAM_RATE="100/1")
    assert envelope(await stand.read("sim-never-0-b"))["data"]["state"] == "waiting"
    if entrance == "watch":
        await stand.watch(NEUTRAL_TASK_ID)
        async with asyncio.timeout(20):
            while NEUTRAL_TASK_ID not in simulator.stats.polls:
                await stand.client.get("/readyz")
    for _ in range(5):
        await stand.read(NEUTRAL_TASK_ID)
        assert (await stand.client.get("/readyz")).status_code == 200
    assert envelope(await stand.read("sim-never-0-b"))["data"]["state"] == "waiting"


async def test_clients_do_not_ask_with_a_refused_key(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even as a pause ends: whether the key is accepted again is the gateway's own to ask, once."""
    monkeypatch.setattr("gateway.upstream.key._PROBE_S", (0.1,))
    simulator.faults.add(Fault(kind=FaultKind.KEY_REFUSED))
    stand = await start(GATEWAY_UPSTREAM_RATE="100/1")
    await stand.read("sim-never-0-a")
    async with asyncio.timeout(20):
        while (await stand.client.get("/readyz")).status_code == 200:
            await a_moment()
        while simulator.stats.polls[NEUTRAL_TASK_ID] < 4:
            refused = await stand.read("sim-never-0-b")
            assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    assert "sim-never-0-b" not in simulator.stats.polls


async def test_the_key_is_not_shown_to_clients(start: Callable[..., Awaitable[Stand]]) -> None:
    """An upstream that repeats the key it refuses does not get it through to whoever asks the gateway."""
    async with serve_asgi(Upstream(401, b'{"code":401,"msg":"no such key: sk-upstream","data":null}')) as url:
        stand = await start(url)
        assert envelope(await stand.read("t"))["msg"] == "no such key: ***"
        assert envelope(await stand.create())["msg"] == "no such key: ***"


@pytest.mark.parametrize("name", ["content-type", "retry-after", "x-should-retry"])
async def test_nor_is_it_in_a_header_or_a_result(start: Callable[..., Awaitable[Stand]], name: str) -> None:
    """Whatever of an answer is passed on, to a read or a create, and in whichever spelling the key stands there."""
    told = b'{"code":200,"data":{"taskId":"t","state":"fail","failMsg":"sk\\/up+%2Fs","resultJson":"sk%2Fup%2b/s"}}'
    async with serve_asgi(Upstream(200, told, {"content-type": "text/plain", name: "x; key=sk/up+/s"})) as url:
        stand = await start(url, GATEWAY_UPSTREAM_API_KEY="sk/up+/s")
        for answer in (await stand.read("t"), await stand.create()):
            assert answer.headers[name] == "x; key=***"
            assert json.loads(answer.content)["data"]["failMsg"] == "***"
            assert json.loads(answer.content)["data"]["resultJson"] == "***"
