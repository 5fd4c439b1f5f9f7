"""The HTTP API of one gateway in this process, over its real store: every answer, and every refusal as problem+json."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from gateway.app import build as app
from gateway.app.build import build
from gateway.config.load import load
from gateway.core.clock import SystemClock
from gateway.core.errors import StoreError, StoreRefused, StoreUnsure
from gateway.core.model import NewCallback, Registration
from gateway.net.resolver import Resolver
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.store.registry import StoreRegistry
from tests.life import teach
from tests.nameserver import serve_names
from tests.waiting import a_moment, until

HOOKS = "https://hooks.example.com/in"
PROBLEM = "application/problem+json"


SLOW = "slow"
"""A model whose tasks take 25 s."""


async def gateway_client(tmp_path: Path, **environ: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serve_simulator(SimulatedUpstream(SystemClock())) as upstream_url:
        settings = load(
            {
                "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path / 'gateway.db'}",
                "GATEWAY_UPSTREAM_URL": upstream_url,
                # Names do not resolve in these tests: what an entry names may be registered.
                "GATEWAY_CALLBACK_ALLOW": "hooks.example.com,127.0.0.1",
                **environ,
            }
        )
        gateway = build(settings, SystemClock())
        await gateway.start()
        for watch in gateway.watches:
            teach(watch.timetable, SLOW, [25.0] * 20)
        try:
            transport = httpx.ASGITransport(gateway)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                yield client
        finally:
            await gateway.drain()
            await gateway.close()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a running gateway without a token."""
    async for client in gateway_client(tmp_path):
        yield client


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client, without a token, of a gateway that wants one."""
    async for client in gateway_client(tmp_path, GATEWAY_TOKEN="t0ken-of-the-one-client"):
        yield client


def body(**members: Any) -> dict[str, Any]:
    return {"taskId": "sim-never-0-a", "callbackUrl": HOOKS, **members}


async def test_registering_answers_201_with_the_callback(api: httpx.AsyncClient) -> None:
    """A new registration is 201 with Location and every member that the API promises."""
    answer = await api.post("/v1/callbacks", json=body(metadata={"orderId": 7}, timeoutSeconds=60))
    assert answer.status_code == 201
    callback = answer.json()
    assert answer.headers["location"] == f"/v1/callbacks/{callback['id']}"
    assert list(callback) == [
        *("id", "taskId", "callbackUrl", "metadata", "timeoutSeconds", "upstream", "format", "state", "createdAt"),
        *("expiresAt", "attempts", "nextAttemptAt", "deliveredAt", "lastError", "task"),
    ]
    assert callback["id"].startswith("cb_")
    assert callback["metadata"] == {"orderId": 7}
    assert (callback["state"], callback["upstream"]) == ("waiting", "aigptimage")
    assert list(callback["task"]) == ["state", "polls", "lastPolledAt", "nextPollAt", "lastError"]
    assert (await api.get(answer.headers["location"])).json()["id"] == callback["id"]


async def test_the_same_registration_again_is_200(api: httpx.AsyncClient) -> None:
    """Repeating a request is safe, whatever the order of metadata; another metadata, timeout or format is 409."""
    first = await api.post("/v1/callbacks", json=body(metadata={"a": 1, "b": [2]}))
    again = await api.post("/v1/callbacks", json=body(metadata={"b": [2], "a": 1}))
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    same = {"a": 1, "b": [2]}
    for different in (
        {"metadata": {"a": 2}},
        {"metadata": same, "timeoutSeconds": 5},
        {"metadata": same, "format": "record"},
    ):
        refused = await api.post("/v1/callbacks", json=body(**different))
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        (item,) = (await api.post("/v1/callbacks/batch", json={"callbacks": [body(**different)]})).json()["data"]
        assert item["error"]["detail"] == refused.json()["detail"]


async def test_a_format_is_asked_for(api: httpx.AsyncClient) -> None:
    """Standard where none is, or null; another word is refused with those that there are, in a batch by itself."""
    items = [
        body(taskId=f"sim-never-0-{number}", **asked)
        for number, asked in enumerate(({}, {"format": None}, {"format": "standard"}, {"format": "record"}))
    ]
    made = (await api.post("/v1/callbacks/batch", json={"callbacks": [*items, body(format="recrod")]})).json()["data"]
    formats = ["standard", "standard", "standard", "record"]
    assert [item["callback"]["format"] for item in made[:4]] == formats
    message = {"field": "format", "message": "must be one of standard, record"}
    assert (made[4]["status"], made[4]["error"]["errors"]) == (422, [message])
    again = [(await api.post("/v1/callbacks", json=item)).json() for item in items]
    assert [callback["id"] for callback in again] == [item["callback"]["id"] for item in made[:4]]
    read = (await api.get(f"/v1/callbacks/{again[3]['id']}")).json()
    assert read["format"] == "record"
    for wrong in ("Record", "", 7, ["record"]):
        refused = await api.post("/v1/callbacks", json=body(format=wrong))
        assert (refused.status_code, refused.json()["errors"]) == (422, [message])


async def test_a_task_whose_model_is_told_is_not_polled_at_once(api: httpx.AsyncClient) -> None:
    """One task may be registered without its model and with any, and all of these are one request."""

    async def wait_s(name: str, **members: Any) -> float:
        answer = await api.post("/v1/callbacks", json=body(taskId=f"sim-never-0-{name}", **members))
        assert answer.status_code == 201
        task, at = answer.json()["task"], answer.json()["createdAt"]
        return (datetime.fromisoformat(task["nextPollAt"]) - datetime.fromisoformat(at)).total_seconds()

    assert await wait_s("untold") == await wait_s("null", model=None) == 0
    assert await wait_s("told", model=SLOW) > 10
    read = await api.get("/api/v1/jobs/recordInfo?taskId=sim-never-0-told")
    assert read.json()["data"]["model"] == SLOW, "known to the upstream's own clients, too"
    for model in ("another", SLOW, None):
        again = await api.post("/v1/callbacks", json=body(taskId="sim-never-0-told", model=model))
        assert again.status_code == 200


async def test_each_item_of_a_batch_may_tell_its_model(api: httpx.AsyncClient) -> None:
    """One whose model is no model is refused by itself."""
    items = [
        body(taskId=f"sim-never-0-{number}", model=model)
        for number, model in enumerate((SLOW, None, "", "m" * 256, 7, SLOW))
    ]
    data = (await api.post("/v1/callbacks/batch", json={"callbacks": items})).json()["data"]
    assert [item["status"] for item in data] == [201, 201, 422, 422, 422, 201]
    assert {item["error"]["errors"][0]["field"] for item in data[2:5]} == {"model"}
    made = [data[place]["callback"] for place in (0, 1, 5)]
    assert [one["task"]["nextPollAt"] > one["createdAt"] for one in made] == [True, False, True]


async def test_a_cancelled_callback_does_not_count(api: httpx.AsyncClient) -> None:
    """After a cancellation the same registration makes a new callback."""
    first = (await api.post("/v1/callbacks", json=body())).json()
    assert (await api.delete(f"/v1/callbacks/{first['id']}")).status_code == 204
    assert (await api.get(f"/v1/callbacks/{first['id']}")).json()["state"] == "cancelled"
    second = await api.post("/v1/callbacks", json=body(metadata={"new": True}))
    assert second.status_code == 201
    assert second.json()["id"] != first["id"]


BAD_BODIES: list[tuple[str, bytes, int, str, str | None]] = [
    ("broken JSON", b'{"taskId": ', 400, "invalid_json", None),
    ("not UTF-8", b'{"taskId": "\xff"}', 400, "invalid_json", None),
    ("an empty body", b"", 400, "invalid_json", None),
    ("an array", b"[]", 422, "invalid_request", ""),
    ("a wrong type", b'{"taskId": 7, "callbackUrl": "https://hooks.example.com/"}', 422, "invalid_request", "taskId"),
    ("a missing member", b'{"taskId": "a"}', 422, "invalid_request", "callbackUrl"),
    (
        "an unknown member",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "calbackUrl": 1}',
        422,
        "invalid_request",
        "calbackUrl",
    ),
    (
        "a space in taskId",
        b'{"taskId": "a b", "callbackUrl": "https://hooks.example.com/"}',
        422,
        "invalid_request",
        "taskId",
    ),
    (
        "an empty taskId",
        b'{"taskId": "", "callbackUrl": "https://hooks.example.com/"}',
        422,
        "invalid_request",
        "taskId",
    ),
    (
        "timeoutSeconds 0",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "timeoutSeconds": 0}',
        422,
        "invalid_request",
        "timeoutSeconds",
    ),
    (
        "timeoutSeconds above 30 days",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "timeoutSeconds": 2592001}',
        422,
        "invalid_request",
        "timeoutSeconds",
    ),
    (
        "metadata that is no object",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "metadata": [1]}',
        422,
        "invalid_request",
        "metadata",
    ),
    (
        "metadata above 8 KiB",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "metadata": {"a": "' + b"x" * 8192 + b'"}}',
        422,
        "invalid_request",
        "metadata",
    ),
    (
        "an unknown upstream",
        b'{"taskId": "a", "callbackUrl": "https://hooks.example.com/", "upstream": "other"}',
        422,
        "invalid_request",
        "upstream",
    ),
    (
        "a callback URL into the network",
        b'{"taskId": "a", "callbackUrl": "http://10.0.0.1/"}',
        422,
        "callback_not_allowed",
        "callbackUrl",
    ),
    (
        "a callback URL that is none",
        b'{"taskId": "a", "callbackUrl": "hooks"}',
        422,
        "callback_not_allowed",
        "callbackUrl",
    ),
    ("a body of 1 MB", b'{"taskId": "' + b"x" * 1_000_000 + b'"}', 413, "too_large", None),
]


@pytest.mark.parametrize(
    ("content", "status", "code", "field"), [row[1:] for row in BAD_BODIES], ids=[row[0] for row in BAD_BODIES]
)
async def test_bad_registrations(
    api: httpx.AsyncClient, content: bytes, status: int, code: str, field: str | None
) -> None:
    """Each is refused as problem+json that names the field, and nothing is half registered."""
    answer = await api.post("/v1/callbacks", content=content, headers={"content-type": "application/json"})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (status, code, status)
    assert answer.headers["content-type"] == PROBLEM
    assert {"type", "title", "detail"} <= problem.keys()
    if field is not None:
        assert [error["field"] for error in problem["errors"]] == [field]
        assert problem["errors"][0]["message"]
    assert (await api.get("/v1/callbacks")).json() == {"data": [], "nextCursor": None}


async def test_a_wrong_content_type_is_415(api: httpx.AsyncClient) -> None:
    """Only application/json is read, and not compressed; a charset is fine."""
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""):
        answer = await api.post("/v1/callbacks", content=b"{}", headers={"content-type": content_type})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    headers = {"content-type": "application/json; charset=utf-8"}
    assert (await api.post("/v1/callbacks", content=b"{}", headers=headers)).status_code == 422
    headers["content-encoding"] = "gzip"
    answer = await api.post("/v1/callbacks", content=gzip.compress(b"{}"), headers=headers)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert "compressed" in answer.json()["detail"]


async def test_a_body_that_never_says_its_length_is_bounded(api: httpx.AsyncClient) -> None:
    """A chunked body is cut off at the limit as well."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 1000

    answer = await api.post("/v1/callbacks", content=chunks(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/callback", 404, "not_found"),
        ("GET", "/v1/callbacks/", 404, "not_found"),
        ("GET", "/v1/callbacks/cb_none", 404, "not_found"),
        ("GET", "/v1/callbacks/cb_none/attempts", 404, "not_found"),
        ("DELETE", "/v1/callbacks/cb_none", 404, "not_found"),
        ("POST", "/v1/callbacks/cb_none/redeliver", 404, "not_found"),
        ("GET", "/v1/tasks/none", 404, "not_found"),
        ("PUT", "/v1/callbacks", 405, "method_not_allowed"),
        ("PATCH", "/v1/callbacks/cb_none", 405, "method_not_allowed"),
        ("GET", "/v1/callbacks/cb_none/redeliver", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there(api: httpx.AsyncClient, method: str, path: str, status: int, code: str) -> None:
    """Unknown paths, ids and methods are problem+json too."""
    answer = await api.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == PROBLEM


async def test_a_batch_is_no_callback(api: httpx.AsyncClient) -> None:
    """A path of its own is nobody's name, whatever is asked of it."""
    for method in ("GET", "DELETE", "PUT", "HEAD"):
        answer = await api.request(method, "/v1/callbacks/batch")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_405_names_every_allowed_method(api: httpx.AsyncClient) -> None:
    """RFC 9110 wants Allow to list what the path takes."""
    answer = await api.put("/v1/callbacks")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


async def test_redelivering_a_waiting_callback_is_409(api: httpx.AsyncClient) -> None:
    """There is no webhook yet."""
    callback = (await api.post("/v1/callbacks", json=body())).json()
    answer = await api.post(f"/v1/callbacks/{callback['id']}/redeliver")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_a_batch_judges_each_by_itself(api: httpx.AsyncClient) -> None:
    """Answers stand in the order sent; a refused item does not touch the others; duplicates inside are 200."""
    items = [
        body(taskId="sim-never-0-1"),
        {"taskId": "sim-never-0-2"},
        body(taskId="sim-never-0-3", callbackUrl="http://169.254.169.254/"),
        body(taskId="sim-never-0-1"),
        body(taskId="sim-never-0-1", timeoutSeconds=1),
        7,
    ]
    answer = await api.post("/v1/callbacks/batch", json={"callbacks": items})
    assert answer.status_code == 200
    data = answer.json()["data"]
    assert [item["status"] for item in data] == [201, 422, 422, 200, 409, 422]
    assert data[0]["callback"]["id"] == data[3]["callback"]["id"]
    assert data[1]["error"]["errors"][0]["field"] == "callbackUrl"
    assert data[2]["error"]["code"] == "callback_not_allowed"
    assert len((await api.get("/v1/callbacks")).json()["data"]) == 1


async def test_a_bulk_redelivery_tells_of_what_is_done(api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the database fails in the middle of it, its answer does not say that nothing was stored."""
    parts = [100, 100]

    async def some(*_: Any) -> int:
        if not parts:
            raise StoreError("disk I/O error")
        return parts.pop()

    monkeypatch.setattr(StoreRegistry, "_redeliver_some", some)
    for told in (": 200 are redelivered; send the same request again for the rest.", "nothing was stored."):
        answer = await api.post("/v1/redeliveries", json={"state": "dead"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["detail"].endswith(told)


async def test_a_commit_of_which_nobody_knows(api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the database's answer was lost, the client's does not say that nothing was stored."""

    async def register(*_: Any) -> None:
        raise StoreUnsure("The connection broke.", reason="unreachable")

    monkeypatch.setattr(StoreRegistry, "register", register)
    answer = await api.post("/v1/callbacks", json=body())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["detail"].endswith("this may be stored all the same; send it again.")


async def test_a_redelivery_is_told_as_it_was_made(api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is pending again, though its receiver has taken it by the time that its client is answered."""
    real = StoreRegistry.redeliver

    async def delivered(callback_id: str, attempts: int) -> None:
        async with asyncio.timeout(10):
            while True:
                if (await api.get(f"/v1/callbacks/{callback_id}")).json()["attempts"] >= attempts:
                    return
                await a_moment()

    async def redeliver(self: StoreRegistry, client: str | None, callback_id: str, now: int) -> Any:
        found = await real(self, client, callback_id, now)
        await delivered(callback_id, 2)
        return found

    async def takes_it(scope: Any, receive: Any, send: Any) -> None:
        await Response(status_code=204)(scope, receive, send)

    monkeypatch.setattr(StoreRegistry, "redeliver", redeliver)
    async with serve_asgi(takes_it) as url:
        callback = (await api.post("/v1/callbacks", json=body(taskId="sim-success-0-1", callbackUrl=url))).json()
        await delivered(callback["id"], 1)
        answer = await api.post(f"/v1/callbacks/{callback['id']}/redeliver")
        told = answer.json()
        assert (answer.status_code, told["state"], told["attempts"], told["deliveredAt"]) == (202, "pending", 1, None)
        assert told["nextAttemptAt"] is not None


async def test_items_that_are_stored_one_by_one_tell_of_each_too(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one item is refused the others are written by themselves; the database may fail in between."""
    real = StoreRegistry.register

    async def register(self: StoreRegistry, new: Sequence[NewCallback]) -> Sequence[Registration]:
        if len(new) > 1:
            raise StoreRefused("not this one")
        if new[0].task_id.endswith("1"):
            raise StoreError("disk I/O error")
        return await real(self, new)

    monkeypatch.setattr(StoreRegistry, "register", register)
    items = [body(taskId=f"sim-never-0-{number}") for number in range(3)]
    answer = await api.post("/v1/callbacks/batch", json={"callbacks": items})
    assert [one["status"] for one in answer.json()["data"]] == [201, 503, 201]
    assert len((await api.get("/v1/callbacks")).json()["data"]) == 2


@pytest.mark.parametrize(
    ("metadata", "first"), [({}, 512), ({"note": "x" * 3500}, 128)], ids=["small", "as large as four small ones"]
)
async def test_a_batch_tells_of_each_whether_it_is_stored(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str], first: int
) -> None:
    """It is written in pieces, the larger its rows the fewer: where the second one fails, the first is stored."""
    items = [body(taskId=f"sim-never-0-{number}", metadata=metadata) for number in range(first + 88)]
    real = StoreRegistry.register
    left = 1

    async def register(self: StoreRegistry, new: Sequence[NewCallback]) -> Sequence[Registration]:
        nonlocal left
        left -= 1
        if left < 0:
            raise StoreError("disk I/O error")
        return await real(self, new)

    monkeypatch.setattr(StoreRegistry, "register", register)
    answer = await api.post("/v1/callbacks/batch", json={"callbacks": items})
    answers = answer.json()["data"]
    assert [one["status"] for one in answers] == [201] * first + [503] * 88
    assert answers[-1]["error"]["code"] == "unavailable"
    assert (await api.post("/v1/callbacks/batch", json={"callbacks": items})).status_code == 503
    left = 2
    again = await api.post("/v1/callbacks/batch", json={"callbacks": items})
    assert [one["status"] for one in again.json()["data"]] == [200] * first + [201] * 88


async def test_a_batch_of_slow_names_delays_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a batch waits for a thousand names that nobody answers for, other registrations go on, batches included."""
    items = [body(callbackUrl=f"https://slow-{number}.example.com/in") for number in range(1000)]
    async with serve_names(hooks_example_com=["192.0.2.1"]) as server:
        monkeypatch.setattr(app, "Resolver", partial(Resolver, nameservers=[server.address]))
        async for api in gateway_client(tmp_path):
            slow = asyncio.create_task(api.post("/v1/callbacks/batch", json={"callbacks": items}))
            async with asyncio.timeout(10):
                await until(lambda: len(server.asked) >= 64)
                assert (await api.post("/v1/callbacks", json=body())).status_code == 201
                batch = await api.post("/v1/callbacks/batch", json={"callbacks": [body(taskId="sim-never-0-b")]})
                assert [item["status"] for item in batch.json()["data"]] == [201]
            assert not slow.done()
            slow.cancel()
            await asyncio.wait([slow])


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_batch_of_no_or_too_many_is_422(api: httpx.AsyncClient, count: int) -> None:
    """A batch holds 1 to 1,000."""
    answer = await api.post("/v1/callbacks/batch", json={"callbacks": [body()] * count})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "callbacks")


async def test_the_list_pages_newest_first(api: httpx.AsyncClient) -> None:
    """Following nextCursor sees every callback once, newest first; filters narrow it."""
    made = [(await api.post("/v1/callbacks", json=body(taskId=f"sim-never-0-{n}"))).json()["id"] for n in range(7)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await api.get("/v1/callbacks", params=params)).json()
        seen += [callback["id"] for callback in page["data"]]
        cursor = page["nextCursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    by_task = (await api.get("/v1/callbacks", params={"taskId": "sim-never-0-4", "state": "waiting"})).json()["data"]
    assert [callback["id"] for callback in by_task] == [made[4]]
    assert (await api.get("/v1/callbacks", params={"state": "dead"})).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("limit=00000000199999", "limit"),
        ("limit=07", "limit"),
        ("limit=1&limit=2", "limit"),
        ("taskId=", "taskId"),
        ("taskId=a%00b", "taskId"),
        ("cursor=", "cursor"),
        ("limit=" + "9" * 5000, "limit"),
        ("state=done", "state"),
        ("cursor=abc", "cursor"),
        ("order=asc", "order"),
    ],
)
async def test_bad_list_parameters(api: httpx.AsyncClient, query: str, field: str) -> None:
    """Each is named; a cursor that was not given out is refused."""
    answer = await api.get(f"/v1/callbacks?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


@pytest.mark.parametrize("wait", ["-1", "61", "x", "nan", "", " 5", "1_0", "\u0665", "05", ".5", "5."])
async def test_a_bad_wait_is_422(api: httpx.AsyncClient, wait: str) -> None:
    """wait is 0 to 60 seconds."""
    await api.post("/v1/callbacks", json=body())
    answer = await api.get("/v1/tasks/sim-never-0-a", params={"wait": wait})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "wait")


@pytest.mark.parametrize(
    ("method", "path", "query", "field"),
    [
        ("GET", "/v1/tasks/sim-never-0-a", "upstream=zz", "upstream"),
        ("GET", "/v1/tasks/sim-never-0-a", "wait=0&waits=30", "waits"),
        ("HEAD", "/v1/tasks/sim-never-0-a", "waits=30", None),
        ("GET", "/v1/tasks/none", "Wait", "Wait"),
        ("GET", "/v1/callbacks", "task_id=x", "task_id"),
        ("POST", "/v1/callbacks", "upstream=kie", "upstream"),
        ("POST", "/v1/callbacks", "state=dead", "state"),
        ("POST", "/v1/callbacks/batch", "upstream=kie", "upstream"),
        ("POST", "/v1/redeliveries", "state=dead", "state"),
        ("GET", "/v1/callbacks/{id}", "wait=1", "wait"),
        ("GET", "/v1/callbacks/{id}/attempts", "limit=1", "limit"),
        ("POST", "/v1/callbacks/{id}/redeliver", "force=true", "force"),
        ("DELETE", "/v1/callbacks/{id}", "dryRun=true", "dryRun"),
    ],
)
async def test_a_parameter_that_is_none_is_named(
    api: httpx.AsyncClient, method: str, path: str, query: str, field: str | None
) -> None:
    """A typo in a query must not pass in silence, whatever the call; nothing is done then."""
    made = (await api.post("/v1/callbacks", json=body())).json()
    answer = await api.request(method, f"{path.format(id=made['id'])}?{query}")
    assert answer.status_code == 422
    if field is not None:  # HEAD's answer has no body
        (error,) = answer.json()["errors"]
        assert error["field"] == field
        assert answer.json()["detail"].startswith(f"{field}: is not a parameter of this query; ")
    assert (await api.get("/v1/callbacks")).json()["data"] == [made]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
async def test_probes_may_have_a_query(api: httpx.AsyncClient, path: str) -> None:
    """Some add one against caches."""
    assert (await api.get(f"{path}?_=1")).status_code == 200


async def test_bad_redeliveries(api: httpx.AsyncClient) -> None:
    """Only dead callbacks are redelivered in bulk, within a span that makes sense."""
    for members, field in (
        ({"state": "delivered"}, "state"),
        ({"state": "dead", "since": "yesterday"}, "since"),
        ({"state": "dead", "until": "2026-11-23T10:00:00"}, "until"),
        ({"state": "dead", "since": "2026-11-24T00:00:00Z", "until": "2026-11-23T00:00:00Z"}, "since"),
        ({"state": "dead", "since": "2026-02-30T00:00:00Z"}, "since"),
        ({"state": "dead", "client": "A b"}, "client"),
        ({"state": "dead", "receiver": "app.example.com/hooks"}, "receiver"),
        ({"state": "dead", "receiver": "https://[::1/hooks"}, "receiver"),
    ):
        answer = await api.post("/v1/redeliveries", json=members)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    told = (await api.post("/v1/redeliveries", json={"state": "delivered"})).json()["detail"]
    assert told == 'state: must be "dead": callbacks in another state are redelivered one by one'
    assert (await api.post("/v1/redeliveries", json={"state": "dead"})).json() == {"count": 0}


async def test_some_of_the_dead_are_counted_and_redelivered(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run only tells how many there are; a receiver's name narrows both."""
    asked: list[tuple[str, Any]] = []

    async def count_dead(_: Any, client: str | None, since: int, until: int, receiver: str | None) -> int:
        asked.append(("count", receiver))
        return 3

    async def redeliver(*args: Any) -> int:
        asked.append(("redeliver", args[-1]))
        return 2

    monkeypatch.setattr(StoreRegistry, "count_dead", count_dead)
    monkeypatch.setattr(StoreRegistry, "redeliver_dead", redeliver)
    for members, status, count in (
        ({"dryRun": True}, 200, 3),
        ({"dryRun": True, "receiver": "https://a.example.com"}, 200, 3),
        ({"dryRun": False, "receiver": "https://a.example.com"}, 202, 2),
        ({"receiver": None}, 202, 2),
    ):
        answer = await api.post("/v1/redeliveries", json={"state": "dead", **members})
        assert (answer.status_code, answer.json()) == (status, {"count": count})
    of_one = "https://a.example.com"
    assert asked == [("count", None), ("count", of_one), ("redeliver", of_one), ("redeliver", None)]


async def test_a_token_is_asked_for(guarded: httpx.AsyncClient) -> None:
    """Without the token every call but the public ones is 401; with it they work."""
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic t0ken-of-the-one-client"}):
        answer = await guarded.get("/v1/callbacks", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await guarded.get("/v1/nothing")).status_code == 401, "what exists is not told either"
    right = {"authorization": "Bearer t0ken-of-the-one-client"}
    assert (await guarded.get("/v1/callbacks", headers=right)).status_code == 200
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert (await guarded.get(path)).status_code == 200


async def test_metrics_show_no_secret_or_url(api: httpx.AsyncClient) -> None:
    """What needs no token shows no URL, task or secret."""
    await api.post("/v1/callbacks", json=body(taskId="canary-task"))
    text = (await api.get("/metrics")).text
    assert "gateway_registrations_total" in text
    assert "canary-task" not in text
    assert "hooks.example.com" not in text
