"""The main job through a real process: registrations over HTTP in, signed webhooks out."""

import asyncio
import json
import socket
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator.scenario import DEFAULT_MODEL, Plan
from tests.crash.process import LIMIT_S
from tests.waiting import a_moment

EXAMPLES = Path(__file__).parents[1] / "fixtures" / "aigptimage"


class ExampleUpstream:
    """Answers each task with one of the three examples on the upstream's page, byte for byte."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.authorizations: set[str] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"] == "/api/v1/jobs/recordInfo"
        self.authorizations.add(dict(scope["headers"]).get(b"authorization", b"").decode())
        task_id = scope["query_string"].decode().removeprefix("taskId=")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": self.answers[task_id]})


async def test_the_upstreams_examples_arrive_decoded(world: Any) -> None:
    """resultUrls, decoded param, failCode and failMsg arrive as the format promises; a running task sends nothing."""
    upstream = ExampleUpstream()
    waiting_id = "5064bd1a-025a-490b-b28f-6a9fa12eb88a"
    fail_id = "5f6ff8ea-ae97-4bb8-af5e-752ef4e96c0d"
    upstream.answers = {
        "task_xxx": (EXAMPLES / "success.json").read_bytes(),
        fail_id: (EXAMPLES / "fail.json").read_bytes(),
        waiting_id: (EXAMPLES / "waiting.json").read_bytes(),
    }
    async with serve_asgi(upstream) as url:
        environ = {"GATEWAY_UPSTREAM_URL": url, "GATEWAY_UPSTREAM_API_KEY": "sk-example"}
        async with world.gateway(**environ) as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
            success = await world.register(client, "task_xxx", metadata={"orderId": 7})
            fail = await world.register(client, fail_id)
            waiting = await world.register(client, waiting_id)
            await world.receiver.wait_for({success["id"], fail["id"]})
            held = (await client.get(f"/v1/callbacks/{waiting['id']}")).json()
            task = (await client.get("/v1/tasks/task_xxx")).json()
            assert await gateway.stop() == 0
    headers, body = world.receiver.webhooks[success["id"]][0]
    event = json.loads(body)
    assert headers["content-type"] == "application/json"
    assert event["type"] == "task.succeeded"
    assert event["data"] == {
        "callbackId": success["id"],
        "taskId": "task_xxx",
        "model": "gpt-image-2-text-to-image",
        "state": "success",
        "result": {"resultUrls": ["https://cdn.example.com/result.png"]},
        "param": {"model": "gpt-image-2-text-to-image", "input": {"prompt": "A cat"}},
        "failCode": None,
        "failMsg": None,
        "costTime": 32241,
        "createTime": 1777459967759,
        "completeTime": 1777460000000,
        "metadata": {"orderId": 7},
    }
    data = world.receiver.event(fail["id"])["data"]
    assert (data["state"], data["failCode"]) == ("fail", "400")
    assert data["failMsg"] == "Sorry, but the image we created may violate OpenAI's content policies."
    assert data["param"]["model"] == "gpt-image-2-text-to-image"
    assert data["completeTime"] is None
    assert held["state"] == "waiting"
    assert waiting["id"] not in world.receiver.webhooks
    assert task["state"] == "success"
    assert task["outcome"]["result"] == {"resultUrls": ["https://cdn.example.com/result.png"]}
    assert upstream.authorizations == {"Bearer sk-example"}


async def test_a_task_whose_model_is_told_is_polled_when_it_pays(world: Any) -> None:
    """Once it is known how long a model takes, the first poll of a task that names it waits for that.

    Not so where this client's tasks had ended when it registered them: the next one may have, too.
    """
    taught = [f"taught-{number}" for number in range(20)]
    ended_at = SystemClock().now() - 40_000
    for task_id in taught:
        world.simulator.add_task(task_id, Plan(duration_s=30), created_at=ended_at)
    async with world.gateway(GATEWAY_UPSTREAM_RATE="100/1", GATEWAY_POLL_MAX_S="30") as gateway:
        async with httpx.AsyncClient(base_url=gateway.url) as client:
            made = [await world.register(client, task_id) for task_id in taught]
            await world.receiver.wait_for({callback["id"] for callback in made})
            late = await world.register(client, "sim-never-0-late", model=DEFAULT_MODEL)
            asked = {"model": DEFAULT_MODEL, "input": {}, "callBackUrl": world.receiver.url}
            created = await client.post("/api/v1/jobs/createTask", json=asked)
            (new,) = (await client.get("/v1/callbacks", params={"taskId": created.json()["data"]["taskId"]})).json()[
                "data"
            ]
            await world.polled("sim-never-0-late")
        assert await gateway.stop() == 0
    wait_s = [
        (datetime.fromisoformat(one["task"]["nextPollAt"]) - datetime.fromisoformat(one["createdAt"])).total_seconds()
        for one in (new, late)
    ]
    assert 15 < wait_s[0] <= 30
    assert wait_s[1] == 0
    assert new["taskId"] not in world.simulator.stats.polls


async def test_ten_callbacks_on_one_task_cost_one_poll_stream(world: Any) -> None:
    """However many callbacks wait on a task, it is polled as one; and each gets its own webhook."""
    task_id = "sim-success-800-ten"
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        one = await world.register(client, "sim-success-800-one")
        ten = [
            await world.register(
                client, task_id, callbackUrl=f"{world.receiver.url}/hooks/{number}", metadata={"n": number}
            )
            for number in range(10)
        ]
        await world.receiver.wait_for({one["id"], *(callback["id"] for callback in ten)})
        assert await gateway.stop() == 0
    for number, callback in enumerate(ten):
        event = world.receiver.event(callback["id"])
        assert event["data"]["metadata"] == {"n": number}
        assert event["data"]["callbackId"] == callback["id"]
    polls = world.simulator.stats.polls
    # Alike but for jitter: not ten times as many.
    assert polls[task_id] <= 2 * polls["sim-success-800-one"]


async def test_a_task_that_never_ends_is_abandoned(world: Any) -> None:
    """When timeoutSeconds pass with no terminal state the callback gets task.abandoned with its reason."""
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        short = await world.register(client, "sim-never-0-x", timeoutSeconds=1)
        patient = await world.register(
            client, "sim-never-0-x", timeoutSeconds=3600, callbackUrl=f"{world.receiver.url}/patient"
        )
        await world.receiver.wait_for({short["id"]})
        event = world.receiver.event(short["id"])
        assert (event["type"], event["data"]["state"], event["data"]["reason"]) == (
            "task.abandoned",
            "abandoned",
            "timeout",
        )
        assert (await client.get(f"/v1/callbacks/{patient['id']}")).json()["state"] == "waiting"
        assert (await client.get("/v1/tasks/sim-never-0-x")).json()["state"] == "waiting"
        assert await gateway.stop() == 0


async def test_retries_until_the_receiver_takes_it(world: Any) -> None:
    """A receiver's 500 is tried again on the schedule with the same webhook-id; every attempt is in the log."""
    answers = [500, 503, 204]

    async def answer(callback_id: str) -> int:
        return answers.pop(0)

    world.receiver.on_post = answer
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        callback = await world.register(client, "sim-success-1-r")
        await world.becomes(client, callback["id"], "delivered")
        attempts = (await client.get(f"/v1/callbacks/{callback['id']}/attempts")).json()["data"]
        assert await gateway.stop() == 0
    assert [(a["number"], a["statusCode"], a["result"]) for a in attempts] == [
        (1, 500, "retry"),
        (2, 503, "retry"),
        (3, 204, "delivered"),
    ]
    assert len({headers["webhook-id"] for headers, _ in world.receiver.webhooks[callback["id"]]}) == 1


async def test_a_dead_callback_is_redelivered(world: Any) -> None:
    """410 is final; redelivering gives a fresh budget under the same webhook-id."""

    async def gone(callback_id: str) -> int:
        return 410

    world.receiver.on_post = gone
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        callback = await world.register(client, "sim-success-1-dead")
        await world.becomes(client, callback["id"], "dead")
        world.receiver.on_post = None
        again = await client.post("/v1/redeliveries", json={"state": "dead"})
        assert (again.status_code, again.json()) == (202, {"count": 1})
        await world.becomes(client, callback["id"], "delivered")
        assert await gateway.stop() == 0
    assert len(world.receiver.webhooks[callback["id"]]) == 2


async def test_waiting_for_a_task(world: Any) -> None:
    """GET /v1/tasks/ID?wait= is held until the task ends, and answers at once after that."""
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url, timeout=40) as client:
        await world.register(client, "sim-success-300-w")
        task = (await client.get("/v1/tasks/sim-success-300-w", params={"wait": 30})).json()
        assert task["state"] == "success"
        assert task["outcome"]["state"] == "success"
        assert await gateway.stop() == 0


async def test_a_held_request_does_not_hold_up_the_shutdown(world: Any) -> None:
    """SIGTERM answers requests that wait for a task, and the process ends with status 0."""
    sent = asyncio.Event()

    async def trace(event: str, _: object) -> None:
        if event == "http11.send_request_body.complete":
            sent.set()

    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url, timeout=40) as client:
        await world.register(client, "sim-never-0-held")
        request = client.get("/v1/tasks/sim-never-0-held", params={"wait": 60}, extensions={"trace": trace})
        held = asyncio.create_task(request)
        await sent.wait()
        await world.polled("sim-never-0-held")
        for _ in range(3):  # asked later, on a connection that stood: the other has been accepted, and its request read
            await client.get("/healthz")
        assert await gateway.stop() == 0
        assert (await held).json()["state"] == "waiting"


async def test_clients_that_do_not_read_look_like_no_defect_at_the_stop(world: Any) -> None:
    """Their answers are cut short when the drain time is over, and nothing of that is an error."""
    async with (
        world.gateway(GATEWAY_DRAIN_S="0.3") as gateway,
        httpx.AsyncClient(base_url=gateway.url, timeout=LIMIT_S) as client,
    ):
        one = {"callbackUrl": f"{world.receiver.url}/hooks", "metadata": {"x": "x" * 8000}}
        items = [{"taskId": f"sim-never-0-{number}", **one} for number in range(200)]
        batch = await client.post("/v1/callbacks/batch", json={"callbacks": items})
        assert {item["status"] for item in batch.json()["data"]} == {201}
        address = urlsplit(gateway.url)
        with closing(socket.socket()) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((address.hostname, address.port))
            slow.sendall(b"GET /v1/callbacks?limit=200 HTTP/1.1\r\nhost: localhost\r\n\r\n" * 20)
            assert await asyncio.to_thread(slow.recv, 12) == b"HTTP/1.1 200"
            assert await gateway.stop() == 0
        assert [line for line in gateway.log if line["level"] not in ("info", "debug")] == []
        assert [line["requests"] for line in gateway.logged("requests.cut_short")] == [1]


async def test_a_shutdown_mid_attempt_is_interrupted_and_made_again(world: Any) -> None:
    """An attempt that the drain cuts short is logged as interrupted, and repeated after the start."""
    held = asyncio.Event()

    async def hold(callback_id: str) -> int:
        held.set()
        await asyncio.Event().wait()
        return 204

    world.receiver.on_post = hold
    async with (
        world.gateway(GATEWAY_DRAIN_S="0.2") as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        callback = await world.register(client, "sim-success-1-int")
        async with asyncio.timeout(20):
            await held.wait()
        assert await gateway.stop() == 0
    world.receiver.on_post = None
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        await world.becomes(client, callback["id"], "delivered")
        attempts = (await client.get(f"/v1/callbacks/{callback['id']}/attempts")).json()["data"]
        assert await gateway.stop() == 0
    assert [a["result"] for a in attempts] == ["interrupted", "delivered"]


async def test_readiness_tells_of_a_refused_key(world: Any) -> None:
    """A key that the upstream refuses turns /readyz red with the reason; the task is kept."""
    from gateway.simulator import Fault, FaultKind

    # Some APIs repeat the key when they refuse it.
    world.simulator.faults.add(Fault(kind=FaultKind.ERROR, status=401, msg="Incorrect API key provided: sk-canary"))
    async with (
        world.gateway(GATEWAY_UPSTREAM_API_KEY="sk-canary") as gateway,
        httpx.AsyncClient(base_url=gateway.url) as client,
    ):
        assert (await client.get("/readyz")).status_code == 200
        callback = await world.register(client, "sim-success-1-key")
        async with asyncio.timeout(20):
            while (ready := await client.get("/readyz")).status_code == 200:
                await a_moment()
        assert ready.status_code == 503
        assert "refuses the key" in ready.json()["detail"]
        assert (await client.get("/healthz")).status_code == 200
        shown = (await client.get(f"/v1/callbacks/{callback['id']}")).json()
        assert shown["state"] == "waiting"
        assert "401" in shown["task"]["lastError"]
        metrics = (await client.get("/metrics")).text
        assert 'gateway_polls_total{kind="key_refused"' in metrics
        assert await gateway.stop() == 0
    assert "canary" not in f"{ready.text} {shown} {metrics} {gateway.text}"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"GATEWAY_UPSTREAM_URL": "https://aigptimage.com"}, "GATEWAY_UPSTREAM_API_KEY"),
        ({"GATEWAY_POLL_MIN_S": "x", "GATEWAY_WEBHOOK_SECRET": "whsec_AA"}, "GATEWAY_WEBHOOK_SECRET"),
    ],
)
async def test_settings_that_cannot_be_used_end_it_with_2(world: Any, environ: dict[str, str], expected: str) -> None:
    """Mistakes are named on standard error and the process exits with 2 before it opens a port."""
    with pytest.raises(AssertionError, match=expected):
        async with world.gateway(**environ):
            pass
