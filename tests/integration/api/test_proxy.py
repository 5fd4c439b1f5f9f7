"""The upstream's own calls through a gateway: real sockets on both sides, and a count of what the upstream saw."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from structlog.testing import capture_logs

from gateway.api.forwarding import passed_on
from gateway.app.build import build
from gateway.config.load import load
from gateway.core.clock import SystemClock
from gateway.core.errors import StoreError
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Fault, FaultKind, Plan, SimulatedUpstream, parse_windows
from gateway.simulator import serve as serve_simulator
from gateway.upstream.api import Answer
from gateway.upstream.key import NEUTRAL_TASK_ID
from tests.running import LIMIT_S, Running, a_moment, running

RECORD = "/api/v1/jobs/recordInfo"
CREATE = "/api/v1/jobs/createTask"
HOOKS = "https://hooks.example.com/in"
TASK = {"model": "m", "input": {"prompt": "A cat"}}


class Stand(Running):
    """One gateway, and a client of it."""

    @property
    def store(self) -> Any:
        return self.gateway.store

    async def read(self, task_id: str) -> httpx.Response:
        return await self.client.get(RECORD, params={"taskId": task_id})

    async def create(self, url: str | None = HOOKS, **headers: str) -> httpx.Response:
        body = TASK if url is None else {**TASK, "callBackUrl": url}
        return await self.client.post(CREATE, json=body, headers=headers)

    async def watch(self, task_id: str) -> None:
        await self.registered(task_id, HOOKS)

    async def callbacks(self) -> list[dict[str, Any]]:
        data: list[dict[str, Any]] = (await self.client.get("/v1/callbacks")).json()["data"]
        return data

    async def until(self, condition: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while True:
                if await condition():
                    return
                await asyncio.sleep(0.01)


@asynccontextmanager
async def stand(folder: Path, upstream_url: str, **environ: str) -> AsyncIterator[Stand]:
    config = folder / "gateway.toml"
    config.write_text('[upstreams.aigptimage]\ncreate_rate = "1000/1"\n')  # the free tier's is one a second
    own = {
        "GATEWAY_CONFIG": str(config),
        "GATEWAY_UPSTREAM_API_KEY": "sk-upstream",
        "GATEWAY_CALLBACK_ALLOW": "hooks.example.com,127.0.0.1",
        "GATEWAY_DRAIN_S": "1",
    }
    async with running(folder, upstream_url, **(own | environ)) as one:
        yield Stand(one.gateway, one.client)


@pytest.fixture
async def simulator() -> SimulatedUpstream:
    return SimulatedUpstream(SystemClock(), plans=Plan(duration_s=0))


@pytest.fixture
async def start(tmp_path: Path, simulator: SimulatedUpstream) -> AsyncIterator[Callable[..., Awaitable[Stand]]]:
    """Start a gateway before the simulator, or before the upstream at ``upstream_url``."""
    async with AsyncExitStack() as stack:
        simulator_url = await stack.enter_async_context(serve_simulator(simulator))

        async def begin(upstream_url: str | None = None, **environ: str) -> Stand:
            return await stack.enter_async_context(stand(tmp_path, upstream_url or simulator_url, **environ))

        yield begin


class Upstream:
    """Answers everything alike, once it may, and keeps what it was asked."""

    def __init__(self, status: int = 200, body: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        self.answer = status, body, headers or {"content-type": "application/json"}
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Event()
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        line = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()}"
        self.requests.append((line, headers, body))
        self.asked.set()
        await self.may_answer.wait()
        status, body, answer_headers = self.answer
        raw = [(name.encode(), value.encode()) for name, value in answer_headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})


def envelope(answer: httpx.Response) -> dict[str, Any]:
    """Return an error that has the upstream's shape."""
    told: dict[str, Any] = answer.json()
    assert list(told) == ["code", "msg", "data"]
    assert told["code"] == answer.status_code
    assert told["msg"]
    assert answer.headers["content-type"] == "application/json"
    return told


# Reading


async def test_a_watched_task_costs_no_request(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """However often it is read, and with nothing left of the budget: always 200, and the upstream is not asked."""
    stand = await start(GATEWAY_UPSTREAM_RATE="2/60")
    await stand.watch("sim-success-0-a")
    await stand.watch("sim-never-0-b")
    await stand.until(lambda: _polled(simulator, 2))
    await stand.until(lambda: _state(stand, "sim-success-0-a", "success"))
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
    await stand.until(lambda: _state(stand, "t", plan.outcome))
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
        await stand.until(lambda: _state(stand, "t", own["state"]))
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
    await stand.until(lambda: _polled(simulator, 4))
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
    await stand.until(lambda: _state(stand, "sim-never-0-a", "abandoned"))
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

            await stand.until(all_arrived)
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


async def test_an_upstream_that_is_not_there(start: Callable[..., Awaitable[Stand]]) -> None:
    """Reads get 502; a create says that nothing was created."""
    stand = await start("http://127.0.0.1:1")
    answers = await asyncio.gather(*(stand.read("t") for _ in range(3)))
    assert {answer.status_code for answer in answers} == {502}
    assert envelope(answers[0])["data"] is None
    assert "Nothing was created" in envelope(await stand.create())["msg"]


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


# Creating


@pytest.mark.parametrize("shape", ["record", "standard"])
async def test_a_create_registers_its_callback(start: Callable[..., Awaitable[Stand]], shape: str) -> None:
    """The callback URL stays here, the rest goes on; the answer is the upstream's, and the webhook comes.

    It is the upstream's own, as its receivers know it, or where that is set the gateway's.
    """
    posts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receiver(scope: Any, receive: Any, send: Any) -> None:
        posts.put_nowait(json.loads((await receive())["body"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serve_asgi(receiver) as url:
        asked = {} if shape == "record" else {"GATEWAY_PROXY_FORMAT": shape}
        stand = await start(
            GATEWAY_POLL_MIN_S="0.05", GATEWAY_POLL_MAX_S="0.1", GATEWAY_CALLBACK_ALLOW="127.0.0.1", **asked
        )
        created = await stand.create(f"{url}/hooks")
        assert (created.status_code, list(created.json())) == (200, ["code", "msg", "data"])
        task_id = created.json()["data"]["taskId"]
        assert created.headers["x-request-id"]
        (callback,) = await stand.callbacks()
        assert (callback["taskId"], callback["metadata"], callback["timeoutSeconds"]) == (task_id, {}, 86400)
        assert callback["format"] == shape
        assert (await stand.store.registry.get_task("default", task_id)).model == "m"
        async with asyncio.timeout(LIMIT_S):
            event = await posts.get()
        record = (await stand.read(task_id)).json()
    assert event["data"]["taskId"] == task_id
    if shape == "standard":
        assert (event["type"], event["data"]["param"]) == ("task.succeeded", TASK)
    else:
        assert (event["code"], event["msg"]) == (200, "Playground task completed successfully.")
        assert event["data"] == record["data"]
        assert json.loads(event["data"]["param"]) == TASK


async def test_a_task_just_created_is_watched_at_once(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """Between the create's answer and the first poll, reads are answered already, with what is known of it by then."""
    stand = await start(GATEWAY_POLL_MIN_S="20", GATEWAY_POLL_MAX_S="30")
    before = SystemClock().now()
    task_id = (await stand.create()).json()["data"]["taskId"]
    data = (await stand.read(task_id)).json()["data"]
    assert before <= data.pop("createTime") <= SystemClock().now()
    assert (data.pop("taskId"), data.pop("model"), data.pop("state")) == (task_id, "m", "waiting")
    assert json.loads(data.pop("param")) == TASK
    assert set(data.values()) == {None}
    assert simulator.stats.requests["recordInfo"] == 0


async def test_a_create_without_a_callback_is_just_forwarded(start: Callable[..., Awaitable[Stand]]) -> None:
    """The body's bytes go on as they are, under the gateway's key; with a token the content-type does not matter."""
    upstream = Upstream(201, b'{"code":200,"data":{"taskId":"t1"}}')
    async with serve_asgi(upstream) as url:
        stand = await start(url, GATEWAY_TOKEN="client")
        stand.client.headers["authorization"] = "Bearer client"
        for content_type in ("text/json", ""):
            answer = await stand.client.post(
                CREATE,
                content=b'{ "n": 1.00 }',
                headers={"content-type": content_type, "x-request-id": "mine"},
            )
            assert (answer.status_code, answer.content) == (201, upstream.answer[1])
            assert answer.headers["x-request-id"] == "mine"
        line, headers, body = upstream.requests[0]
        assert (line, body) == (f"POST {CREATE}?", b'{ "n": 1.00 }')
        assert (headers["authorization"], headers["content-type"]) == ("Bearer sk-upstream", "application/json")
        assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
        assert await stand.callbacks() == []


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://10.0.0.1/hooks", "GATEWAY_CALLBACK_ALLOW=10.0.0.1:80 would allow it. (rule: private)"),
        ("http://169.254.169.254/", "no setting allows it. (rule: metadata)"),
        ("hooks", "must be absolute"),
    ],
)
async def test_a_disallowed_url_is_refused_before_anything_is_paid(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream, url: str, told: str
) -> None:
    """The refusal names the member, the rule and the way out, and the upstream has seen nothing."""
    stand = await start()
    answer = await stand.create(url)
    assert answer.status_code == 422
    assert envelope(answer)["msg"].startswith("callBackUrl: ")
    assert told in envelope(answer)["msg"]
    assert simulator.stats.requests["createTask"] == 0
    assert await stand.callbacks() == []


async def test_a_repeated_create_is_one_task_and_one_callback(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """The same X-Request-ID is the same for the upstream, which returns the task that exists; it is registered once."""
    stand = await start()
    first, second = [await stand.create(**{"X-Request-ID": "r-1"}) for _ in range(2)]
    assert first.json() == second.json()
    assert first.headers["x-request-id"] == second.headers["x-request-id"] == "r-1"
    assert len(await stand.callbacks()) == 1
    third = await stand.create()
    assert third.json() != first.json()


async def test_a_create_whose_answer_is_cut(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """The upstream was reached, and may have made the task: the message says so, in whole sentences."""
    stand = await start()
    simulator.faults.add(Fault(kind=FaultKind.RESET, endpoint="createTask", times=1))
    lost = await stand.create(**{"X-Request-ID": "r-1"})
    assert lost.status_code == 502
    text = envelope(lost)["msg"]
    assert re.match(r"The upstream gave no answer: [^.]+\. The task may have been created: send ", text), text


async def test_a_create_that_may_have_been_made(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create without an answer is 504 and says how to try again; that finds the task, and registers it."""
    monkeypatch.setattr("gateway.api.creating._TIMEOUT_S", 0.3)
    stand = await start()
    simulator.faults.add(Fault(kind=FaultKind.HANG, endpoint="createTask", times=1))
    lost = await stand.create()
    assert lost.status_code == 504
    request_id = lost.headers["x-request-id"]
    assert f"X-Request-ID: {request_id}" in envelope(lost)["msg"]
    assert await stand.callbacks() == []
    monkeypatch.setattr("gateway.api.creating._TIMEOUT_S", 30.0)
    found = await stand.create(**{"X-Request-ID": request_id})
    assert len(simulator._tasks) == 1
    assert [callback["taskId"] for callback in await stand.callbacks()] == [found.json()["data"]["taskId"]]


async def test_creates_have_a_budget_of_their_own(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Creates do not wait for reads, and a limit that the upstream names is kept from then on."""
    monkeypatch.setattr("gateway.api.forwarding._PATIENCE_S", 0.0)
    stand = await start(GATEWAY_UPSTREAM_RATE="1/60")
    await stand.read("sim-never-0-a")
    told = {"retryAfter": 30, "limit": 9, "windowSeconds": 60}
    simulator.faults.add(Fault(kind=FaultKind.ERROR, endpoint="createTask", status=429, data=told, times=1))
    assert envelope(await stand.create())["data"] == told
    assert 29 <= envelope(await stand.create())["data"]["retryAfter"] <= 30
    assert simulator.stats.requests["createTask"] == 1


async def test_an_upstreams_refusal_of_a_create_is_passed_on(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """Whatever the upstream has against it, the client hears; nothing is registered, and the key is not doubted."""
    stand = await start()
    answer = await stand.client.post(CREATE, json={"input": {}, "callBackUrl": HOOKS})
    assert (answer.status_code, envelope(answer)["msg"]) == (422, "model is required")
    assert answer.headers["x-request-id"]
    assert await stand.callbacks() == []
    assert (await stand.client.get("/readyz")).status_code == 200


@pytest.mark.parametrize("callback", [b"", b',"callBackUrl":"https://hooks.example.com/in"'])
async def test_an_odd_create_goes_on_byte_for_byte(start: Callable[..., Awaitable[Stand]], callback: bytes) -> None:
    """Half an emoji in a prompt and a number beyond all bounds are the upstream's to judge, not the gateway's."""
    upstream = Upstream(body=b'{"code":200,"data":{"taskId":"t1","param":"cut \\ud83d"}}')
    async with serve_asgi(upstream) as url:
        stand = await start(url)
        body = b'{"model":"m","input":{"prompt":"\\ud83d","n":1e400,"cut":"\xe2\x82"}%b}'
        answer = await stand.client.post(CREATE, content=body % callback, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.content) == (200, upstream.answer[1])
        assert upstream.requests[0][2] == body % b""
        assert [one["taskId"] for one in await stand.callbacks()] == (["t1"] if callback else [])


async def test_a_picture_goes_on_with_its_create(start: Callable[..., Awaitable[Stand]]) -> None:
    """As large as an answer may be; what is larger is refused, and the upstream has seen nothing of it."""
    upstream = Upstream(body=b'{"code":200,"data":{"taskId":"t1"}}')
    async with serve_asgi(upstream) as url:
        stand = await start(url, GATEWAY_RESULT_MAX_BYTES="4000000")
        picture = b'{"callBackUrl":"%b","image":"data:image/png;base64,%b"}'
        for size, status in ((3_900_000, 200), (4_000_000, 413)):
            body = picture % (HOOKS.encode(), b"iVBO" * (size // 4))
            answer = await stand.client.post(CREATE, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == status
        assert [len(body) > 3_900_000 for _, _, body in upstream.requests] == [True]
        assert [one["taskId"] for one in await stand.callbacks()] == ["t1"]


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b'{"code":200,"data":{"taskId":"t1","prompt":"half \\ud83d"}}', None),
        (b'\xef\xbb\xbf{"code":200,"data":{"taskId":"t1","cut":"\xe2\x82"}}', None),
        (b'{"code":200.0,"data":{"taskId":"t1","n":NaN}}', None),
        (gzip.compress(b'{"code":200,"data":{"taskId":"t1"}}', mtime=0), "gzip"),
        (b'{"code":200,"data":{"x":%b,"taskId":"t1"}}' % (b"[" * 3000 + b"]" * 3000), None),
    ],
    ids=["half emoji", "BOM and a cut", "NaN", "gzip", "deep"],
)
async def test_the_answer_to_a_create_is_read_leniently(
    start: Callable[..., Awaitable[Stand]], body: bytes, encoding: str | None
) -> None:
    """Wherever another client would find the task's id, the callback that was asked for is registered."""
    headers = {"content-type": "application/json"} | ({} if encoding is None else {"content-encoding": encoding})
    async with serve_asgi(Upstream(200, body, headers)) as url:
        stand = await start(url)
        answer = await stand.create()
        assert (answer.status_code, b'"taskId":"t1"' in answer.content) == (200, True)
        assert [one["taskId"] for one in await stand.callbacks()] == ["t1"]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>created t1</html>",
        b'{"code":200,"data":{"id":"created t1"}}',
        b'{"code":200,"data":{"taskId":"created t1"}}',
    ],
)
@pytest.mark.parametrize("status", [200, 202])
async def test_no_webhook_is_promised_that_cannot_come(
    start: Callable[..., Awaitable[Stand]], body: bytes, status: int
) -> None:
    """An answer without a readable id is a 502 with the upstream's text, where a callback was asked for."""
    async with serve_asgi(Upstream(status, body)) as url:
        stand = await start(url)
        with capture_logs() as logs:
            answer = await stand.create(**{"X-Request-ID": "r-1"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (502, "r-1")
        assert "created t1" in envelope(answer)["msg"]
        assert "no webhook will come" in envelope(answer)["msg"]
        assert [line["receiver"] for line in logs if line["event"] == "proxy.created_without_id"] == [
            "https://hooks.example.com"
        ]
        assert await stand.callbacks() == []
        plain = await stand.create(None)
        assert (plain.status_code, plain.content) == (status, body)


async def test_a_refusal_under_200_is_still_the_upstreams(start: Callable[..., Awaitable[Stand]]) -> None:
    """An envelope that says why nothing was created promises no webhook: the client gets it as it is."""
    body = b'{"code":402,"msg":"Insufficient credits","data":null}'
    async with serve_asgi(Upstream(200, body)) as url:
        stand = await start(url)
        answer = await stand.create()
        assert (answer.status_code, answer.content) == (200, body)


# A store that fails


class Failing:
    """Makes ``store.registry.register`` fail until it is let go."""

    def __init__(self, store: Any) -> None:
        self.real = store.registry.register
        self.tries = 0
        self.tried = asyncio.Event()
        self.works = False
        store.registry.register = self

    async def __call__(self, new: Any) -> Any:
        self.tries += 1
        self.tried.set()
        if not self.works:
            raise StoreError("disk full")
        return await self.real(new)


async def test_a_registration_is_not_lost(
    start: Callable[..., Awaitable[Stand]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store fails the registration is tried again and the answer held back; then both come."""
    monkeypatch.setattr("gateway.api.creating._RETRY_S", (0.001,))
    stand = await start()
    failing = Failing(stand.store)
    created = asyncio.create_task(stand.create())
    await stand.until(lambda: _tried(failing, 3))
    assert not created.done()
    failing.works = True
    task_id = (await created).json()["data"]["taskId"]
    assert [callback["taskId"] for callback in await stand.callbacks()] == [task_id]


async def _tried(failing: Failing, tries: int) -> bool:
    await asyncio.sleep(0)
    return failing.tries >= tries


async def test_a_client_is_not_kept_for_ever(
    start: Callable[..., Awaitable[Stand]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the client gets its answer although the store still fails; the registration goes on."""
    monkeypatch.setattr("gateway.api.creating._RETRY_S", (0.001,))
    monkeypatch.setattr("gateway.api.creating._REGISTRATION_WAIT_S", 0.01)
    stand = await start()
    failing = Failing(stand.store)
    assert (await stand.create()).status_code == 200
    assert await stand.callbacks() == []
    failing.works = True
    await stand.until(stand.callbacks)


async def test_a_client_that_goes_away_loses_nothing(
    start: Callable[..., Awaitable[Stand]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a create is forwarded it is seen through, whoever is still there to hear of it."""
    upstream = Upstream(body=b'{"code":200,"data":{"taskId":"t1"}}')
    upstream.may_answer.clear()
    async with serve_asgi(upstream) as url:
        stand = await start(url)
        transport = httpx.ASGITransport(stand.gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            created = asyncio.create_task(client.post(CREATE, json={**TASK, "callbackUrl": HOOKS}))
            await upstream.asked.wait()
            created.cancel()
            upstream.may_answer.set()
            await stand.until(stand.callbacks)
        assert created.cancelled()


async def test_nothing_is_created_that_could_not_be_registered(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """While the store fails a create with a callback is 503 and not forwarded; the first write that works ends that."""
    stand = await start()
    writer = stand.store._writer
    transaction = writer._transaction

    def fails(*_: object, **__: object) -> Any:
        raise OSError("disk full")

    writer._transaction = fails
    for _ in range(2):  # the first one finds out
        refused = await stand.create(**{"X-Request-ID": "r-1"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert (envelope(refused)["data"], refused.headers["x-request-id"]) == (None, "r-1")
        assert (await stand.client.get("/readyz")).status_code == 503
    assert simulator.stats.requests["createTask"] == 0
    writer._transaction = transaction
    assert (await stand.create()).status_code == 200
    assert stand.store.failing is None


async def test_what_is_lost_at_the_end_is_told(
    start: Callable[..., Awaitable[Stand]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that has to stop while the store fails names the task in its log; it creates nothing any more."""
    monkeypatch.setattr("gateway.api.creating._REGISTRATION_WAIT_S", 0.01)
    stand = await start(GATEWAY_DRAIN_S="0")
    Failing(stand.store)
    with capture_logs() as logs:
        task_id = (await stand.create()).json()["data"]["taskId"]
        await stand.gateway.drain()
    (lost,) = [line for line in logs if line["event"] == "proxy.registration_lost"]
    assert (lost["task_id"], lost["receiver"]) == (task_id, "https://hooks.example.com")
    refused = await stand.create()
    assert (refused.status_code, "shutting down" in envelope(refused)["msg"]) == (503, True)


# Errors


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", RECORD, b"", 422),
        ("GET", f"{RECORD}?taskId=a%20b", b"", 422),
        ("GET", f"{RECORD}?taskId={'a' * 256}", b"", 422),
        ("POST", f"{RECORD}?taskId=a", b"", 405),
        ("OPTIONS", CREATE, b"", 405),
        ("GET", CREATE, b"", 405),
        ("GET", "/api/v1/jobs/other", b"", 404),
        ("GET", "/api/v1/chat/credit", b"", 404),
        ("POST", CREATE, b"", 400),
        ("POST", CREATE, b'{"model"', 400),
        ("POST", CREATE, b"[]", 422),
        ("POST", CREATE, b'{"callBackUrl":7}', 422),
        ("POST", CREATE, b'{"a":[' + b"[]," * 700_000 + b"1]}", 413),
    ],
)
async def test_errors_have_the_upstreams_envelope(
    start: Callable[..., Awaitable[Stand]],
    simulator: SimulatedUpstream,
    method: str,
    path: str,
    content: bytes,
    status: int,
) -> None:
    """A client of the upstream reads the gateway's own errors as it reads the upstream's; nothing is forwarded."""
    stand = await start()
    answer = await stand.client.request(method, path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert envelope(answer)["data"] is None
    assert sum(simulator.stats.requests.values()) == 0
    if status == 405:
        assert answer.headers["allow"]


async def test_a_bad_request_id_is_refused(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """An id that cannot be passed on would not keep a second create from being paid for."""
    stand = await start()
    answer = await stand.create(**{"X-Request-ID": "a b"})
    assert (answer.status_code, envelope(answer)["msg"][:12]) == (422, "X-Request-ID")
    assert simulator.stats.requests["createTask"] == 0


async def test_the_token_is_the_clients_key(start: Callable[..., Awaitable[Stand]]) -> None:
    """With a token, only it is taken for a key; the refusal has the envelope, on the API's other paths a problem."""
    stand = await start(GATEWAY_TOKEN="t0ken-of-the-one-client")
    for path in (RECORD, CREATE, "/api/v1/other"):
        refused = await stand.client.get(path)
        assert (refused.status_code, envelope(refused)["data"]) == (401, None)
        assert refused.headers["www-authenticate"] == "Bearer"
    assert (await stand.client.get("/v1/callbacks")).json()["code"] == "unauthorized"
    stand.client.headers["authorization"] = "Bearer t0ken-of-the-one-client"
    assert (await stand.read("sim-success-0-a")).status_code == 200


async def test_a_defect_has_the_envelope_too(start: Callable[..., Awaitable[Stand]]) -> None:
    """A 500 of the gateway's own, and a database that cannot be read, look like the upstream's."""
    stand = await start()

    async def defect(client: str, task_id: str) -> None:
        raise RuntimeError

    async def unreadable(client: str, task_id: str) -> None:
        raise StoreError("no")

    stand.store.registry.proxied_task = unreadable
    assert envelope(await stand.read("t"))["code"] == 503
    stand.store.registry.proxied_task = defect
    transport = httpx.ASGITransport(stand.gateway, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert envelope(await client.get(RECORD, params={"taskId": "t"}))["code"] == 500


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


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {"content-type": "application/json; x=\u65e5"}, 200),
        (200, {"content-type": "application/json", "retry-after": "\u65e5"}, 200),
    ],
)
async def test_an_odd_answer_to_a_create_still_reaches_the_client(
    start: Callable[..., Awaitable[Stand]], status: int, headers: dict[str, str], expected: int
) -> None:
    """A task that was paid for is told to its client, whatever the header or status beside it."""
    upstream = Upstream(status, b'{"code":200,"data":{"taskId":"task_odd"}}', headers)
    async with serve_asgi(upstream) as url:
        here = await start(url)
        answer = await here.create()
        assert (answer.status_code, answer.json()["data"]["taskId"]) == (expected, "task_odd")
        assert answer.headers["x-request-id"]
        assert [callback["taskId"] for callback in await here.callbacks()] == ["task_odd"]


@pytest.mark.parametrize("status", [101, 103, 600, 999])
def test_a_status_that_is_none_becomes_a_502(status: int) -> None:
    """The body still reaches the client: it may hold the id of a task that was paid for."""
    answer = passed_on(Answer(status, httpx.Headers(), b"body"))
    assert (answer.status_code, answer.body) == (502, b"body")


async def test_nothing_new_is_created_once_the_drain_began(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """A create that still waits for its turn at SIGTERM is refused: a task begun now might be paid for and lost."""
    here = await start(GATEWAY_CONFIG="")
    assert (await here.create()).status_code == 200
    queued = asyncio.create_task(here.create())  # the free tier creates one task a second
    await here.until(lambda: _queued(here))
    here.gateway.begin_drain()
    answer = await queued
    assert (answer.status_code, answer.json()["code"]) == (503, 503)
    assert simulator.stats.requests["createTask"] == 1


async def _queued(here: Stand) -> bool:
    await here.client.get("/healthz")
    return here.gateway.watches[0].key.creates._turns.waiting == 1


async def test_nothing_is_sent_before_it_is_known_what_was_spent(tmp_path: Path, simulator: SimulatedUpstream) -> None:
    """Requests that come while the gateway starts are refused, in the envelope their caller knows."""
    settings = load(
        {
            "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": "http://127.0.0.1:9",
        }
    )
    gateway = build(settings, SystemClock())
    try:
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            read = await client.get(RECORD, params={"taskId": "t"})
            assert (read.status_code, read.json()["code"]) == (503, 503)
            listed = await client.get("/v1/callbacks")
            assert (listed.status_code, listed.json()["code"]) == (503, "unavailable")
            assert listed.headers["retry-after"]
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200
    finally:
        await gateway.close()
