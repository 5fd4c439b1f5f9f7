"""Reads of tasks through a gateway: over real sockets on both sides, with a count of what the upstream saw."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Plan, SimulatedUpstream, parse_windows
from gateway.simulator import serve as serve_simulator
from tests.proxystand import HOOKS, RECORD, Stand, Upstream, envelope
from tests.waiting import until


async def test_a_watched_task_costs_no_request(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """However often it is read, and with nothing left of the budget: always 200, and the upstream is not asked."""
    stand = await start(GATEWAY_UPSTREAM_RATE="2/60")
    await stand.watch("sim-success-0-a")
    await stand.watch("sim-never-0-b")
    await until(lambda: _polled(simulator, 2))
    await until(lambda: _state(stand, "sim-success-0-a", "success"))
    answers = await asyncio.gather(
        *(stand.read("sim-success-0-a") for _ in range(50)), *(stand.read("sim-never-0-b") for _ in range(50))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["code"] for answer in answers} == {200}
    assert [answers[0].json()["data"]["state"], answers[-1].json()["data"]["state"]] == ["success", "waiting"]
    assert simulator.stats.requests["recordInfo"] == 2
    text = (await stand.client.get("/metrics")).text
    assert 'gateway_proxied_requests_total{call="read",outcome="answered"}' in text
    assert (await stand.read("sim-success-0-unwatched")).status_code == 429


async def _polled(simulator: SimulatedUpstream, count: int) -> bool:
    return simulator.stats.requests["recordInfo"] >= count


async def _state(stand: Stand, task_id: str, state: str) -> bool:
    told: str = (await stand.client.get(f"/v1/tasks/{task_id}", params={"wait": "5"})).json()["state"]
    return told == state


@pytest.mark.parametrize("plan", [Plan(), Plan(outcome="fail")])
async def test_the_answer_is_the_upstreams_own(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream, plan: Plan
) -> None:
    """What the gateway answers from its state is what the upstream answers, members, order and types."""
    simulator.add_task("t", plan, created_at=1777459967759)
    stand = await start()
    forwarded = await stand.read("t")
    await stand.watch("t")
    await until(lambda: _state(stand, "t", plan.outcome))
    asked = simulator.stats.polls["t"]
    answered = await stand.read("t")
    assert simulator.stats.polls["t"] == asked
    assert answered.content == forwarded.content
    assert (answered.status_code, answered.headers["content-type"]) == (200, "application/json")


@pytest.mark.parametrize(
    "own",
    [
        {"state": "fail", "failCode": 400, "failMsg": "why"},
        {"state": "fail", "failCode": "400", "failMsg": {"text": "why"}, "costTime": "5"},
        {"state": "success", "failCode": "", "failMsg": "", "createTime": "1777459967759", "completeTime": 1.5},
        {"state": "success", "resultJson": {"resultUrls": ["https://u"]}, "param": "", "costTime": 5.0},
    ],
)
async def test_an_end_that_nobody_read_is_told_later_as_it_came(
    start: Callable[..., Awaitable[Stand]], own: dict[str, Any]
) -> None:
    """With each value's own JSON type, and without asking again: a typed client fails on a text in a number's place."""
    data = {"taskId": "t", "model": "m", "param": "{}", "resultJson": None, **own}
    body = json.dumps({"code": 200, "msg": "success", "data": data})
    upstream = Upstream(200, body.encode())
    async with serve_asgi(upstream) as url:
        stand = await start(url, GATEWAY_POLL_MIN_S="0.05", GATEWAY_POLL_MAX_S="0.1")
        await stand.watch("t")
        await until(lambda: _state(stand, "t", own["state"]))
        asked = len(upstream.requests)
        for _ in range(2):
            assert json.dumps((await stand.read("t")).json()) == body
            await stand.store.prune_reads(2**61, 2**61, 10)
        assert len(upstream.requests) == asked


async def test_what_the_gateway_does_not_know_is_forwarded(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """A task that nobody registered, or that nobody waits for any more, is read at the upstream, errors included."""
    stand = await start(GATEWAY_PROXY_WATCH_S="0")
    assert (await stand.read("sim-success-0-x")).json()["data"]["state"] == "success"
    unknown = await stand.read("unknown")
    assert (unknown.status_code, envelope(unknown)["msg"]) == (404, "Task not found")
    assert (await stand.client.head(RECORD, params={"taskId": "sim-success-0-x"})).status_code == 200
    await stand.watch("sim-never-0-y")
    (callback,) = await stand.callbacks()
    await until(lambda: _polled(simulator, 4))
    await stand.client.delete(f"/v1/callbacks/{callback['id']}")
    asked = simulator.stats.polls["sim-never-0-y"]
    await stand.read("sim-never-0-y")
    assert simulator.stats.polls["sim-never-0-y"] == asked + 1


async def test_an_abandoned_task_is_forwarded(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """The gateway gave it up, the upstream may not have: its word counts for who asks."""
    stand = await start(GATEWAY_PROXY_WATCH_S="0")
    body = {"taskId": "sim-never-0-a", "callbackUrl": HOOKS, "timeoutSeconds": 1}
    assert (await stand.client.post("/v1/callbacks", json=body)).status_code == 201
    await until(lambda: _state(stand, "sim-never-0-a", "abandoned"))
    asked = simulator.stats.polls["sim-never-0-a"]
    assert (await stand.read("sim-never-0-a")).json()["data"]["state"] == "waiting"
    assert simulator.stats.polls["sim-never-0-a"] == asked + 1


async def test_the_answer_is_passed_on_verbatim(start: Callable[..., Awaitable[Stand]]) -> None:
    """Status, body and content-type come as they are; cookies and what concerns only a connection do not."""
    passed = {"content-type": "text/x-tea", "retry-after": "7", "x-should-retry": "true"}
    upstream = Upstream(418, b"<p>\xff", passed | {"set-cookie": "a=b", "server": "x"})
    async with serve_asgi(upstream) as url:
        stand = await start(url)
        answer = await stand.client.get(
            RECORD, params={"taskId": "a/b"}, headers={"authorization": "Bearer client", "cookie": "c=d", "x-a": "b"}
        )
        assert (answer.status_code, answer.content) == (418, b"<p>\xff")
        assert passed.items() <= dict(answer.headers).items()
        assert {"set-cookie", "server"}.isdisjoint(answer.headers)
        ((line, headers, _),) = upstream.requests
        assert line == f"GET {RECORD}?taskId=a%2Fb"
        assert headers["authorization"] == "Bearer sk-upstream"
        assert {"cookie", "x-a"}.isdisjoint(headers)


async def test_a_compressed_answer_is_passed_on_plain(start: Callable[..., Awaitable[Stand]]) -> None:
    """The client may not have asked for compression; what cannot be undone is a 502 that says so."""
    plain = b'{"code":200,"data":{"taskId":"t","state":"waiting"}}'
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    upstream = Upstream(200, gzip.compress(plain), headers)
    async with serve_asgi(upstream) as url:
        stand = await start(url)
        answer = await stand.read("t")
        assert (answer.content, "content-encoding" in answer.headers) == (plain, False)
        upstream.answer = 200, b"\x0b\x02\x80{}\x03", headers | {"content-encoding": "br"}
        answer = await stand.read("u")
        assert (answer.status_code, "cannot be decompressed (br)" in envelope(answer)["msg"]) == (502, True)
        created = await stand.create(**{"X-Request-ID": "r-1"})
        assert (created.status_code, "send the same request again" in envelope(created)["msg"]) == (502, True)


async def test_identical_reads_are_one_request(start: Callable[..., Awaitable[Stand]]) -> None:
    """A hundred clients that ask at once share one answer; one that goes away does not take it from the others."""
    upstream = Upstream(body=b'{"code":200,"data":{"taskId":"t","state":"waiting"}}')
    upstream.may_answer.clear()
    async with serve_asgi(upstream) as url:
        stand = await start(url, GATEWAY_PROXY_WATCH_S="0")
        arrived = 0
        proxied_task = stand.store.registry.proxied_task

        async def counted(upstream: str, task_id: str) -> Any:
            nonlocal arrived
            found = await proxied_task(upstream, task_id)
            arrived += 1
            return found

        stand.store.registry.proxied_task = counted
        transport = httpx.ASGITransport(stand.gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            first = asyncio.create_task(client.get(RECORD, params={"taskId": "t"}))
            await upstream.asked.wait()
            others = [asyncio.create_task(client.get(RECORD, params={"taskId": "t"})) for _ in range(99)]

            async def all_arrived() -> bool:
                await asyncio.sleep(0)
                return arrived == 100

            await until(all_arrived)
            first.cancel()
            upstream.may_answer.set()
            answers = await asyncio.gather(*others)
            assert first.cancelled()
        assert {(answer.status_code, answer.content) for answer in answers} == {(200, upstream.answer[1])}
        assert len(upstream.requests) == 1
        assert (await stand.read("t")).status_code == 200
        assert len(upstream.requests) == 2


async def test_a_read_waits_for_its_turn(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within its patience a read waits for the rate limit; beyond it, it is told when to come again."""
    stand = await start(GATEWAY_UPSTREAM_RATE="1/1", GATEWAY_PROXY_WATCH_S="0")
    answers = await asyncio.gather(stand.read("sim-never-0-a"), stand.read("sim-never-0-b"))
    assert [answer.status_code for answer in answers] == [200, 200]
    monkeypatch.setattr("gateway.api.forwarding._PATIENCE_S", 0.0)
    refused = await asyncio.gather(*(stand.read("sim-never-0-c") for _ in range(3)))
    assert {answer.status_code for answer in refused} == {429}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert envelope(refused[0])["data"] == {"retryAfter": 1}
    assert simulator.stats.requests["recordInfo"] == 2
    assert 'outcome="limited"} 3.0' in (await stand.client.get("/metrics")).text


async def test_an_upstream_that_is_not_there(start: Callable[..., Awaitable[Stand]]) -> None:
    """Reads get 502; a create says that nothing was created."""
    stand = await start("http://127.0.0.1:1")
    answers = await asyncio.gather(*(stand.read("t") for _ in range(3)))
    assert {answer.status_code for answer in answers} == {502}
    assert envelope(answers[0])["data"] is None
    assert "Nothing was created" in envelope(await stand.create())["msg"]


async def test_throttling_reaches_the_client_once(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 429 of the upstream is passed on with its header, and the gateway asks no more until it may."""
    limited = SimulatedUpstream(SystemClock(), rate=parse_windows("1/60"), retry_after_header=True)
    monkeypatch.setattr("gateway.api.forwarding._PATIENCE_S", 0.0)
    async with serve_simulator(limited) as url:
        stand = await start(url, GATEWAY_PROXY_WATCH_S="0")
        assert (await stand.read("sim-never-0-a")).status_code == 200
        throttled = await stand.read("sim-never-0-b")
        assert (throttled.status_code, throttled.headers["retry-after"]) == (429, "60")
        assert throttled.json()["data"]["windowSeconds"] == 60
        own = await stand.read("sim-never-0-c")
        assert (own.status_code, own.json()["data"]) == (429, {"retryAfter": int(own.headers["retry-after"])})
        assert limited.stats.requests["recordInfo"] == 2
