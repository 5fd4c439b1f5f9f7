"""The HTTP API of one gateway in this process, over its real store: registering, lists, and who may ask."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from gateway.api import callbacks
from gateway.core import memory
from tests.apistand import SLOW, body


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


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
async def test_probes_may_have_a_query(api: httpx.AsyncClient, path: str) -> None:
    """Some add one against caches."""
    assert (await api.get(f"{path}?_=1")).status_code == 200


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


async def test_only_a_list_of_all_or_a_later_page_is_likely_to_be_large(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a task's callbacks, or of a state's, is made at once, however many it might hold: most hold few.

    A later page follows a full one.
    """
    told: list[int] = []

    async def made(request: Request, make: Callable[[], Awaitable[Response]], likely: int) -> Response:
        told.append(likely)
        return await make()

    for number in range(3):
        await api.post("/v1/callbacks", json=body(taskId=f"t{number}"))
    cursor = (await api.get("/v1/callbacks?state=waiting&limit=1")).json()["nextCursor"]
    monkeypatch.setattr(callbacks, "made_with_room", made)
    later = (f"limit=20&cursor={cursor}", f"limit=20&state=waiting&cursor={cursor}")
    for query in (*later, "limit=200", "limit=200&taskId=t", "limit=200&state=dead", "limit=10"):
        assert (await api.get(f"/v1/callbacks?{query}")).status_code == 200
    assert told == [20 * 1024, 20 * 1024, 200 * 1024, memory.SMALL, memory.SMALL, 10 * 1024]
