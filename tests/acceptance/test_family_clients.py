"""Clients of the upstream's family, written without this gateway in mind, against a real gateway process.

Each is what people write by hand against such an API; the only change is the base URL. The upstream lets a key ask 60
times a minute, which each of them alone would exceed.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Plan, SimulatedUpstream, parse_windows
from gateway.simulator import serve as serve_simulator

KEY = "Bearer sk-of-the-client"
RESULT = {"resultUrls": ["https://cdn.example.com/result.png"]}
Poll = Callable[[httpx.AsyncClient, str], Awaitable[Any]]


async def polls_every_second_and_raises(api: httpx.AsyncClient, task_id: str) -> Any:
    """The loop of the documentation's example: any status but 200 ends the program."""
    while True:
        response = await api.get("/api/v1/jobs/recordInfo", params={"taskId": task_id}, headers={"Authorization": KEY})
        response.raise_for_status()
        body = response.json()
        if body["code"] != 200:
            raise RuntimeError(body["msg"])
        data = body["data"]
        if data["state"] == "success":
            return json.loads(data["resultJson"])
        if data["state"] == "fail":
            return data["failCode"], data["failMsg"]
        await asyncio.sleep(1)


async def looks_only_at_the_state(api: httpx.AsyncClient, task_id: str) -> Any:
    """Neither status nor code is looked at: an error without data ends it with a TypeError."""
    while True:
        response = await api.get(f"/api/v1/jobs/recordInfo?taskId={task_id}", headers={"Authorization": KEY})
        data = json.loads(response.text)["data"]
        if data["state"] not in ("waiting", "queuing", "generating"):
            return json.loads(data["resultJson"]) if data["resultJson"] else (data["failCode"], data["failMsg"])
        await asyncio.sleep(0.5)


class Counter:
    """Counts a client's answers by status."""

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}

    async def __call__(self, response: httpx.Response) -> None:
        self.statuses[response.status_code] = self.statuses.get(response.status_code, 0) + 1


@asynccontextmanager
async def family(
    world: Any, plan: Plan, **environ: str
) -> AsyncIterator[tuple[SimulatedUpstream, httpx.AsyncClient, Counter]]:
    """A gateway process in front of an upstream that keeps to its limit, and a client of it."""
    simulator = SimulatedUpstream(SystemClock(), keys=["sk-real"], rate=parse_windows("60/60"), plans=plan)
    counter = Counter()
    async with serve_simulator(simulator) as url:
        environ |= {
            "GATEWAY_UPSTREAM_URL": url,
            "GATEWAY_UPSTREAM_API_KEY": "sk-real",
            "GATEWAY_UPSTREAM_RATE": "60/60",
        }
        hooks: dict[str, list[Callable[..., Any]]] = {"response": [counter]}
        async with (
            world.gateway(**environ) as gateway,
            httpx.AsyncClient(base_url=gateway.url, event_hooks=hooks, timeout=30) as api,
        ):
            yield simulator, api, counter


async def test_clients_that_poll(world: Any) -> None:
    """Twelve tasks, two loops of each of two programs for each: more questions than the key may ask, all answered 200.

    All results are right; every other task fails.
    """
    polls: list[Poll] = [polls_every_second_and_raises, looks_only_at_the_state]
    async with family(world, Plan(), GATEWAY_POLL_MIN_S="2", GATEWAY_POLL_MAX_S="3") as (simulator, api, counter):
        task_ids = [f"job-{n}" for n in range(12)]
        callbacks = [{"taskId": task_id, "callbackUrl": f"{world.receiver.url}/hooks"} for task_id in task_ids]
        for number, task_id in enumerate(task_ids):
            simulator.add_task(task_id, Plan(duration_s=3, outcome="fail" if number % 2 else "success"))
        assert (await api.post("/v1/callbacks/batch", json={"callbacks": callbacks})).status_code == 200
        loops = [poll(api, task_id) for poll in polls for task_id in task_ids * 2]
        results = await asyncio.gather(*loops)
    assert results == [RESULT, (Plan().fail_code, Plan().fail_msg)] * 24
    assert set(counter.statuses) == {200}
    assert counter.statuses[200] > 60, "more than the key may ask in a minute"
    assert simulator.stats.requests["recordInfo"] <= 36
    assert 429 not in simulator.stats.statuses


async def test_a_client_that_waits_for_its_webhook_and_polls(world: Any) -> None:
    """It creates with callBackUrl, asks up to fifty times a second, and gets its result on both ways."""
    posts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def hook(scope: Any, receive: Any, send: Any) -> None:
        posts.put_nowait(json.loads((await receive())["body"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    pace = {"GATEWAY_POLL_MIN_S": "0.5", "GATEWAY_POLL_MAX_S": "1"}
    async with serve_asgi(hook) as url, family(world, Plan(duration_s=3), **pace) as (simulator, api, counter):
        request = {"model": "m", "input": {"prompt": "A cat"}, "callBackUrl": f"{url}/done"}
        response = await api.post("/api/v1/jobs/createTask", json=request, headers={"Authorization": KEY})
        body = response.json()
        assert body["code"] == 200, body["msg"]
        task_id = body["data"]["taskId"]
        webhook = asyncio.create_task(posts.get())
        while True:
            params = {"taskId": task_id}
            response = await api.get("/api/v1/jobs/recordInfo", params=params, headers={"Authorization": KEY})
            assert response.status_code == 200
            data = response.json()["data"]
            # More than the key may ask in a minute, however slow the machine is.
            if data["state"] == "success" and webhook.done() and counter.statuses[200] > 60:
                break
            await asyncio.sleep(0.02)
        event = webhook.result()
    assert event["data"] == data
    assert json.loads(data["resultJson"]) == RESULT
    assert json.loads(data["param"]) == {"model": "m", "input": {"prompt": "A cat"}}, "callBackUrl stayed here"
    assert (event["code"], data["taskId"]) == (200, task_id)
    assert set(counter.statuses) == {200}
    assert simulator.stats.polls[task_id] < 15
    assert simulator.stats.statuses == {200: simulator.stats.polls[task_id] + 1}
