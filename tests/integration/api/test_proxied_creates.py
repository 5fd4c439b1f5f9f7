"""Creates through a gateway: what goes on to the upstream, and what their client is answered."""

import asyncio
import gzip
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.api.forwarding import passed_on
from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Fault, FaultKind, SimulatedUpstream
from gateway.upstream.api import Answer
from tests.proxystand import CREATE, HOOKS, TASK, Stand, Upstream, envelope
from tests.running import LIMIT_S


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
