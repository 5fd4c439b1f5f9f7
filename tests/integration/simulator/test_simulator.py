"""The simulated upstream over real sockets: answers, limits, faults, counts."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from gateway.core.clock import SystemClock
from gateway.simulator import Fault, FaultKind, Plan, PlanMix, SimulatedUpstream, parse_windows, serve
from gateway.simulator.scenario import encode_text
from tests.waiting import until

RECORD_INFO = "/api/v1/jobs/recordInfo"
CREATE_TASK = "/api/v1/jobs/createTask"
ORDER = {"model": "gpt-image-2-text-to-image", "input": {"prompt": "A cat"}}


class FakeClock:
    """A clock that moves when told to."""

    def __init__(self, now: int = 1_777_460_000_000) -> None:
        self.at = now

    def now(self) -> int:
        return self.at

    def monotonic(self) -> float:
        return self.at / 1000

    def advance(self, seconds: float) -> None:
        self.at += round(seconds * 1000)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def simulator(clock: FakeClock) -> SimulatedUpstream:
    return SimulatedUpstream(clock, seed=1)


@pytest.fixture
async def client(simulator: SimulatedUpstream) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(simulator) as base_url, new_client(base_url) as client:
        yield client


def new_client(base_url: str, key: str | None = None) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    # To verify nothing spares it the reading of all root certificates, which takes longer than most tests.
    return httpx.AsyncClient(base_url=base_url, headers=headers, trust_env=False, verify=False, timeout=10)


async def ask(client: httpx.AsyncClient, task_id: str) -> httpx.Response:
    return await client.get(RECORD_INFO, params={"taskId": task_id})


# The answers on the upstream's own page, whitespace aside.
RUNNING = r"""{"code": 200, "msg": "success", "data": {
"taskId": "5064bd1a-025a-490b-b28f-6a9fa12eb88a", "model": "gpt-image-2-text-to-image", "state": "waiting",
"param": "{\"model\":\"gpt-image-2-text-to-image\",\"input\":{\"prompt\":\"A cinematic portrait of a robot painter\"}}",
"resultJson": null, "failCode": null, "failMsg": null, "costTime": null, "completeTime": null,
"createTime": 1777474689024}}"""
SUCCESS = r"""{"code": 200, "msg": "success", "data": {
"taskId": "task_xxx", "model": "gpt-image-2-text-to-image", "state": "success",
"param": "{\"model\":\"gpt-image-2-text-to-image\",\"input\":{\"prompt\":\"A cat\"}}",
"resultJson": "{\"resultUrls\":[\"https://cdn.example.com/result.png\"]}",
"failCode": null, "failMsg": null, "costTime": 32241, "completeTime": 1777460000000, "createTime": 1777459967759}}"""
FAIL = r"""{"code": 200, "msg": "success", "data": {
"taskId": "5f6ff8ea-ae97-4bb8-af5e-752ef4e96c0d", "model": "gpt-image-2-text-to-image", "state": "fail",
"param": "{\"model\":\"gpt-image-2-text-to-image\",\"input\":{\"prompt\":\"360 panorama\"}}",
"resultJson": null, "failCode": "400",
"failMsg": "Sorry, but the image we created may violate OpenAI's content policies.",
"costTime": null, "completeTime": null, "createTime": 1777475010433}}"""


@pytest.mark.parametrize(
    ("example", "prompt", "plan"),
    [
        (RUNNING, "A cinematic portrait of a robot painter", Plan(outcome="never")),
        (SUCCESS, "A cat", Plan(duration_s=32.241, result={"resultUrls": ["https://cdn.example.com/result.png"]})),
        (FAIL, "360 panorama", Plan(outcome="fail")),
    ],
    ids=["running", "success", "fail"],
)
async def test_answers_are_those_of_the_upstreams_page(
    clock: FakeClock,
    simulator: SimulatedUpstream,
    client: httpx.AsyncClient,
    example: str,
    prompt: str,
    plan: Plan,
) -> None:
    """The three documented answers come out with the same members, order, types and values."""
    wanted = json.loads(example)
    clock.at = 1_777_480_000_000
    data = wanted["data"]
    param = encode_text({"model": data["model"], "input": {"prompt": prompt}})
    simulator.add_task(data["taskId"], plan, created_at=data["createTime"], param=param)
    response = await ask(client, data["taskId"])
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert json.dumps(response.json()) == json.dumps(wanted)


async def test_a_task_id_with_a_plan_runs_from_when_it_is_first_seen(
    clock: FakeClock, client: httpx.AsyncClient
) -> None:
    """No setup is needed: the id says how the task ends and when, counted from the first poll."""
    ids = ["sim-success-1500-a", "sim-fail-1500-b", "sim-never-c"]

    async def states() -> list[str]:
        return [(await ask(client, task_id)).json()["data"]["state"] for task_id in ids]

    assert await states() == ["waiting"] * 3
    clock.advance(1.499)
    assert await states() == ["waiting"] * 3
    clock.advance(0.001)
    assert await states() == ["success", "fail", "waiting"]


@pytest.mark.parametrize("task_id", ["nothing", "a b&c=d%", "é"])
async def test_an_unknown_task_is_404(client: httpx.AsyncClient, task_id: str) -> None:
    """Whatever its characters, an id that nobody added gets the error envelope, status equal to code."""
    response = await ask(client, task_id)
    assert response.status_code == 404
    assert response.json() == {"code": 404, "msg": "Task not found", "data": None}


async def test_an_encoded_task_id_is_decoded(simulator: SimulatedUpstream, client: httpx.AsyncClient) -> None:
    """Percent-encoding and other parameters do not hide the id."""
    simulator.add_task("a b&c=d", Plan())
    response = await client.get(f"{RECORD_INFO}?x=1&taskId=a%20b%26c%3Dd")
    assert response.json()["data"]["taskId"] == "a b&c=d"


async def test_a_missing_task_id_and_an_unknown_path_are_errors(client: httpx.AsyncClient) -> None:
    """400 without taskId, 404 for a path or method the upstream does not have."""
    assert (await client.get(RECORD_INFO)).json()["code"] == 400
    assert (await client.get("/api/v1/jobs")).json()["code"] == 404
    assert (await client.post(RECORD_INFO)).status_code == 404


async def test_param_and_result_can_be_text_that_is_not_json(
    simulator: SimulatedUpstream, client: httpx.AsyncClient
) -> None:
    """A test can have the upstream send strings that do not decode."""
    simulator.add_task("odd", Plan(result="<xml/>"), param="{broken")
    data = (await ask(client, "odd")).json()["data"]
    assert (data["param"], data["resultJson"]) == ("{broken", "<xml/>")


async def test_a_created_task_runs_by_the_default_plan(clock: FakeClock) -> None:
    """createTask answers with an id whose task keeps the request and ends as planned."""
    simulator = SimulatedUpstream(clock, plans=Plan(duration_s=5, outcome="fail", fail_code="501"))
    async with serve(simulator) as base_url, new_client(base_url) as client:
        response = await client.post(CREATE_TASK, json={**ORDER, "seed": 4})
        assert response.status_code == 200
        body = response.json()
        assert json.dumps(body) == json.dumps(
            {"code": 200, "msg": "success", "data": {"taskId": body["data"]["taskId"]}}
        )
        task_id = body["data"]["taskId"]
        waiting = (await ask(client, task_id)).json()["data"]
        assert json.loads(waiting["param"]) == {**ORDER, "seed": 4}
        assert (waiting["state"], waiting["createTime"]) == ("waiting", clock.now())
        clock.advance(5)
        assert (await ask(client, task_id)).json()["data"]["failCode"] == "501"


async def test_each_model_may_have_its_own_durations(clock: FakeClock) -> None:
    """Created tasks of a model that is named last as it says, all others as all do; a task added has any model."""
    simulator = SimulatedUpstream(clock, plans=Plan(duration_s=5), models={"slow": Plan(duration_s=60)})
    simulator.add_task("added", Plan(duration_s=90), model="slowest")
    async with serve(simulator) as base_url, new_client(base_url) as client:
        created = [await client.post(CREATE_TASK, json={**ORDER, "model": model}) for model in ("slow", "other")]
        clock.advance(3_600)
        task_ids = [*(answer.json()["data"]["taskId"] for answer in created), "added"]
        told = [(await ask(client, task_id)).json()["data"] for task_id in task_ids]
    assert [(task["model"], task["costTime"]) for task in told] == [
        ("slow", 60_000),
        ("other", 5_000),
        ("slowest", 90_000),
    ]


async def test_a_create_is_read_as_the_real_one_reads_it(clock: FakeClock) -> None:
    """Half an emoji in a prompt is taken, and comes back in ``param``."""
    simulator = SimulatedUpstream(clock)
    async with serve(simulator) as base_url, new_client(base_url) as client:
        response = await client.post(CREATE_TASK, content=b'{"model":"m","input":{"prompt":"cut \\ud83d","n":1e400}}')
        task = (await ask(client, response.json()["data"]["taskId"])).json()["data"]
        assert json.loads(task["param"])["input"] == {"prompt": "cut \ufffd", "n": None}
        assert (await client.post(CREATE_TASK, content=b'{"model":')).status_code == 400


async def test_created_tasks_last_as_long_as_the_seed_says(clock: FakeClock) -> None:
    """Two simulators with one seed give the same durations, but never the same ids."""

    async def create_and_finish() -> list[tuple[str, int]]:
        simulator = SimulatedUpstream(clock, plans=PlanMix(median_s=30), seed=5)
        async with serve(simulator) as base_url, new_client(base_url) as client:
            ids = [(await client.post(CREATE_TASK, json=ORDER)).json()["data"]["taskId"] for _ in range(5)]
            clock.advance(3_600)
            return [(task_id, (await ask(client, task_id)).json()["data"]["costTime"]) for task_id in ids]

    first, second = await create_and_finish(), await create_and_finish()
    assert [cost for _, cost in first] == [cost for _, cost in second]
    assert len({cost for _, cost in first}) == 5
    assert not {task_id for task_id, _ in first} & {task_id for task_id, _ in second}


async def test_a_repeated_request_id_returns_the_task_that_exists(clock: FakeClock) -> None:
    """The same key and X-Request-ID make one task; another key or id, or none, makes another."""
    simulator = SimulatedUpstream(clock, keys=["k1", "k2"])
    async with serve(simulator) as base_url, new_client(base_url, "k1") as one, new_client(base_url, "k2") as two:

        async def create(client: httpx.AsyncClient, request_id: str | None) -> str:
            headers = {"x-request-id": request_id} if request_id else {}
            response = await client.post(CREATE_TASK, json=ORDER, headers=headers)
            return str(response.json()["data"]["taskId"])

        first = await create(one, "r1")
        assert await create(one, "r1") == first
        others = {await create(two, "r1"), await create(one, "r2"), await create(one, None), await create(one, None)}
        assert len(others - {first}) == 4


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{broken", 400),
        (b"\xff", 400),
        (b"[]", 400),
        (b"", 400),
        (b'{"model":"m","input":"' + b"x" * (32 << 20) + b'"}', 400),
        (b'{"input":{}}', 422),
        (b'{"model":7,"input":{}}', 422),
        (b'{"model":"m"}', 422),
        (b'{"model":"m","input":[]}', 422),
    ],
    ids=["cut short", "no UTF-8", "array", "empty", "too large", "no model", "number", "no input", "array in it"],
)
async def test_a_bad_order_creates_nothing(client: httpx.AsyncClient, body: bytes, code: int) -> None:
    """400 where the body cannot be read, 422 where it is not an order; the status equals the code."""
    response = await client.post(CREATE_TASK, content=body)
    assert response.status_code == response.json()["code"] == code
    assert (await client.get("/_sim/stats")).json()["tasks"] == 0


async def test_a_wrong_key_is_refused(clock: FakeClock) -> None:
    """With keys configured a missing or other key is 401 on both endpoints, a right one is let in."""
    simulator = SimulatedUpstream(clock, keys=["right"])
    async with serve(simulator) as base_url:
        for key, status in ((None, 401), ("wrong", 401), ("right", 200)):
            async with new_client(base_url, key) as client:
                answers = [await ask(client, "sim-never-x"), await client.post(CREATE_TASK, json=ORDER)]
                assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(status, status)] * 2


async def test_another_keys_task_is_not_found(clock: FakeClock) -> None:
    """A created task belongs to its key; for others it does not exist."""
    simulator = SimulatedUpstream(clock, keys=["k1", "k2"])
    async with serve(simulator) as base_url, new_client(base_url, "k1") as one, new_client(base_url, "k2") as two:
        task_id = (await one.post(CREATE_TASK, json=ORDER)).json()["data"]["taskId"]
        assert (await ask(one, task_id)).status_code == 200
        assert (await ask(two, task_id)).status_code == 404


async def test_a_rate_limit_is_answered_with_the_wait_in_the_body(clock: FakeClock) -> None:
    """The request beyond a window gets 429 with its wait, and passes once that has gone by."""
    simulator = SimulatedUpstream(clock, rate=parse_windows("2/1,3/60"))
    async with serve(simulator) as base_url, new_client(base_url) as client:
        assert [(await ask(client, "sim-never-x")).status_code for _ in range(3)] == [200, 200, 429]
        clock.advance(1)
        assert (await ask(client, "sim-never-x")).status_code == 200
        clock.advance(17)
        response = await ask(client, "sim-never-x")
        assert response.status_code == response.json()["code"] == 429
        assert response.json()["data"] == {"retryAfter": 42, "limit": 3, "tier": "basic", "windowSeconds": 60}
        assert "retry-after" not in response.headers
        clock.advance(42)
        assert (await ask(client, "sim-never-x")).status_code == 200


async def test_limits_are_kept_for_each_key_and_endpoint(clock: FakeClock) -> None:
    """One key's polls do not use up its creates, nor another key's polls; the header is sent when asked for."""
    simulator = SimulatedUpstream(
        clock, rate=parse_windows("1/60"), create_rate=parse_windows("1/30"), retry_after_header=True
    )
    async with serve(simulator) as base_url, new_client(base_url, "k1") as one, new_client(base_url, "k2") as two:
        for client in (one, two):
            assert (await ask(client, "sim-never-x")).status_code == 200
            assert (await client.post(CREATE_TASK, json=ORDER)).status_code == 200
            assert (await ask(client, "sim-never-x")).headers["retry-after"] == "60"
            assert (await client.post(CREATE_TASK, json=ORDER)).headers["retry-after"] == "30"


@pytest.mark.parametrize("status", [400, 401, 402, 404, 422, 429, 500, 455, 505])
async def test_any_error_can_be_injected(simulator: SimulatedUpstream, client: httpx.AsyncClient, status: int) -> None:
    """By default the envelope's code is the status; the task goes on untouched afterwards."""
    simulator.faults.add(Fault(kind=FaultKind.ERROR, status=status, msg="no", data={"a": 1}, times=1))
    response = await ask(client, "sim-never-x")
    assert response.status_code == status
    assert response.json() == {"code": status, "msg": "no", "data": {"a": 1}}
    assert (await ask(client, "sim-never-x")).status_code == 200


async def test_an_error_can_hide_under_http_200(simulator: SimulatedUpstream, client: httpx.AsyncClient) -> None:
    """HTTP 200 with an error code in the envelope, as part of the upstream's family does."""
    simulator.faults.add(Fault(kind=FaultKind.ERROR, status=200, code=422, msg="recordInfo is null"))
    response = await ask(client, "sim-never-x")
    assert (response.status_code, response.json()["code"]) == (200, 422)


@pytest.mark.parametrize(
    ("kind", "status", "content_type", "text"),
    [
        (FaultKind.BLOCKED, 403, "text/plain", "error code: 1010"),
        (FaultKind.HTML, 502, "text/html", "<html>"),
        (FaultKind.KEY_REFUSED, 401, "application/json", '{"code":401,'),
    ],
)
async def test_answers_from_in_front_of_the_upstream(
    simulator: SimulatedUpstream, client: httpx.AsyncClient, kind: FaultKind, status: int, content_type: str, text: str
) -> None:
    """The CDN's block, a proxy's page and a refused key have their own status, type and body."""
    simulator.faults.add(Fault(kind=kind))
    response = await ask(client, "sim-never-x")
    assert response.status_code == status
    assert response.headers["content-type"].startswith(content_type)
    assert response.text.startswith(text)


SPOILED: dict[FaultKind, Callable[[bytes], Any]] = {
    FaultKind.TRUNCATED: lambda body: body.startswith(b'{"code":200') and not body.endswith(b"}"),
    FaultKind.INVALID_UTF8: lambda body: b"\xff\xfe" in body,
    FaultKind.ARRAY: lambda body: json.loads(body)[0]["code"] == 200,
    FaultKind.MISSING_DATA: lambda body: json.loads(body) == {"code": 200, "msg": "success"},
    FaultKind.WRONG_TYPES: lambda body: json.loads(body)["data"]["state"] == 7,
    FaultKind.OVERSIZE: lambda body: len(body) > (8 << 20) and json.loads(body)["code"] == 200,
    FaultKind.MESSAGE: lambda body: list(json.loads(body)) == ["code", "message", "data"],
    FaultKind.RESULT_OBJECT: lambda body: "resultUrls" in json.loads(body)["data"]["resultJson"],
    FaultKind.OMIT_NULLS: lambda body: "failCode" not in json.loads(body)["data"],
    FaultKind.EMPTY_FOR_NULL: lambda body: json.loads(body)["data"]["failCode"] == "",
    FaultKind.EXTRA_MEMBERS: lambda body: "creditsConsumed" in json.loads(body)["data"],
}


@pytest.mark.parametrize("kind", SPOILED)
async def test_a_spoiled_answer_arrives_as_a_complete_http_answer(
    simulator: SimulatedUpstream, client: httpx.AsyncClient, kind: FaultKind
) -> None:
    """Status 200 and the whole body arrive; what is wrong is inside. The connection stays usable."""
    simulator.faults.add(Fault(kind=kind, times=1))
    response = await ask(client, "sim-success-0-x")
    assert response.status_code == 200
    assert SPOILED[kind](response.content)
    assert (await ask(client, "sim-success-0-x")).json()["data"]["state"] == "success"
    assert simulator.stats.connections_opened == 1


async def test_running_states_and_codes_of_the_family(simulator: SimulatedUpstream, client: httpx.AsyncClient) -> None:
    """A waiting task may be called queuing or generating, a failed one have an integer code."""
    simulator.faults.add(
        Fault(kind=FaultKind.RUNNING_STATE, state="queuing", times=1),
        Fault(kind=FaultKind.RUNNING_STATE, times=1),
        Fault(kind=FaultKind.INTEGER_FAIL_CODE),
    )
    assert [(await ask(client, "sim-never-x")).json()["data"]["state"] for _ in range(2)] == ["queuing", "generating"]
    assert (await ask(client, "sim-fail-0-x")).json()["data"]["failCode"] == 400


async def test_a_hang_answers_nothing_costs_nothing_and_ends_with_the_client(
    simulator: SimulatedUpstream, client: httpx.AsyncClient
) -> None:
    """The client's own limit ends it; meanwhile no CPU is used, and afterwards the connection is gone."""
    simulator.faults.add(Fault(kind=FaultKind.HANG, times=3))
    used_before_s = time.process_time()
    answers = await asyncio.gather(
        *(client.get(RECORD_INFO, params={"taskId": "sim-never-x"}, timeout=0.5) for _ in range(3)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [httpx.ReadTimeout] * 3
    assert time.process_time() - used_before_s < 0.4
    await until(lambda: simulator.stats.connections_open == 0)
    assert simulator.stats.statuses == {}


async def test_a_task_is_created_though_its_answer_is_lost(
    simulator: SimulatedUpstream, client: httpx.AsyncClient
) -> None:
    """The costly case: the order went through, the answer did not; the same request id finds the task again."""
    simulator.faults.add(Fault(kind=FaultKind.RESET, endpoint="createTask", times=1))
    with pytest.raises(httpx.TransportError):
        await client.post(CREATE_TASK, json=ORDER, headers={"x-request-id": "r1"})
    again = await client.post(CREATE_TASK, json=ORDER, headers={"x-request-id": "r1"})
    assert again.status_code == 200
    assert (await client.get("/_sim/stats")).json()["tasks"] == 1


async def test_a_slow_answer_is_right_but_late(simulator: SimulatedUpstream, client: httpx.AsyncClient) -> None:
    """The answer comes after the delay and is otherwise the plain one."""
    simulator.faults.add(Fault(kind=FaultKind.SLOW, delay_s=0.15, times=1))
    started = time.monotonic()
    response = await ask(client, "sim-success-0-x")
    assert time.monotonic() - started >= 0.15
    assert response.json()["data"]["state"] == "success"


async def test_a_reset_comes_in_the_middle_of_the_body(simulator: SimulatedUpstream) -> None:
    """Headers and exactly half of the body arrive, then a TCP reset and not an orderly end."""
    simulator.faults.add(Fault(kind=FaultKind.RESET))
    loop = asyncio.get_running_loop()
    async with serve(simulator) as base_url:
        host, port = base_url.removeprefix("http://").split(":")
        # A bare socket: a stream reader throws away what it holds when the reset comes.
        with socket.socket() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, (host, int(port)))
            await loop.sock_sendall(sock, f"GET {RECORD_INFO}?taskId=sim-never-x HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            received = bytearray()

            async def receive_all() -> None:
                while chunk := await loop.sock_recv(sock, 65_536):
                    received.extend(chunk)

            with pytest.raises(ConnectionResetError):
                await receive_all()
    head, body = bytes(received).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert len(body) == int(head.lower().split(b"content-length:")[1].split()[0]) // 2
    assert body.startswith(b'{"code":200')


async def test_faults_are_set_over_http(client: httpx.AsyncClient) -> None:
    """The control route replaces the faults in force and shows what is left of them; control is never spoiled."""
    wanted = [{"kind": "error", "status": 500, "endpoint": "recordInfo", "taskId": "sim-never-a", "times": 2}]
    response = await client.post("/_sim/faults", json=wanted)
    assert response.status_code == 200
    assert response.json()["faults"][0]["taskId"] == "sim-never-a"
    statuses = [(await ask(client, task_id)).status_code for task_id in ("sim-never-a", "sim-never-b")]
    assert statuses == [500, 200]
    await client.post("/_sim/faults", json=[{"kind": "slow", "delaySeconds": 0, "probability": 0.5}])
    await client.post("/_sim/faults", content=b"\xef\xbb\xbf[]")
    assert (await ask(client, "sim-never-a")).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}",
        b'[{"kind":"nonsense"}]',
        b'[{"kind":"hang","often":3}]',
        b'[{"kind":"hang","probability":2}]',
        b'[{"kind":"hang","times":0}]',
    ],
)
async def test_a_malformed_fault_is_refused_and_changes_nothing(
    simulator: SimulatedUpstream, client: httpx.AsyncClient, body: bytes
) -> None:
    """A typo must not pass in silence, nor half of a list come into force."""
    simulator.faults.add(Fault(kind=FaultKind.HTML))
    response = await client.post("/_sim/faults", content=body)
    assert response.status_code == 422
    assert [fault.kind for fault in simulator.faults.active] == [FaultKind.HTML]


async def test_stats_count_what_happened(
    clock: FakeClock, simulator: SimulatedUpstream, client: httpx.AsyncClient
) -> None:
    """Requests, statuses, faults, polls, peak rate and connections are those of this run; control is left out."""
    for task_id in ("sim-never-a", "sim-never-a", "unknown"):
        await ask(client, task_id)
    clock.advance(2)
    await client.post(CREATE_TASK, json=ORDER)
    await client.get("/nowhere")
    simulator.faults.add(Fault(kind=FaultKind.HTML, times=1))
    await ask(client, "sim-never-b")
    assert (await client.get("/_sim/stats")).json() == {
        "requests": {"recordInfo": 4, "createTask": 1, "other": 1},
        "statuses": {"200": 3, "404": 2, "502": 1},
        "faults": {"html": 1},
        "peakPerSecond": {"recordInfo": 3, "createTask": 1, "other": 1},
        "polls": {"sim-never-a": 2, "unknown": 1, "sim-never-b": 1},
        "connections": {"open": 1, "opened": 1},
        "tasks": 2,
    }


async def test_tasks_beyond_the_bound_push_out_the_oldest(clock: FakeClock) -> None:
    """Memory is bounded: the oldest task is forgotten, the newest stays."""
    simulator = SimulatedUpstream(clock, max_tasks=3)
    async with serve(simulator) as base_url, new_client(base_url) as client:
        for number in range(5):
            simulator.add_task(f"t{number}", Plan())
        assert [(await ask(client, f"t{number}")).status_code for number in range(5)] == [404, 404, 200, 200, 200]


async def test_the_machines_clock_can_be_used() -> None:
    """With the real clock, createTime is about now."""
    async with serve(SimulatedUpstream(SystemClock())) as base_url, new_client(base_url) as client:
        created_at = (await ask(client, "sim-never-x")).json()["data"]["createTime"]
        assert abs(created_at - time.time() * 1000) < 10_000


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.test"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}, {"origin": "OWN"}],
    ids=["foreign", "null", "image", "bound anew"],
)
async def test_no_web_page_is_answered(
    client: httpx.AsyncClient, simulator: SimulatedUpstream, headers: dict[str, str]
) -> None:
    """A page in a browser on this machine makes no task and no fault; it may have its own name resolve to it."""
    headers = {name: value.replace("OWN", str(client.base_url)) for name, value in headers.items()}
    assert (await client.post(CREATE_TASK, json=ORDER, headers=headers)).status_code == 403
    assert (await client.post("/_sim/faults", json=[{"kind": "reset"}], headers=headers)).status_code == 403
    assert simulator.stats.requests["createTask"] == 0
    typed = await client.post(CREATE_TASK, json=ORDER, headers={"sec-fetch-site": "none"})
    assert typed.json()["code"] == 200
