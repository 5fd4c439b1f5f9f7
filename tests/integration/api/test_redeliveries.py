"""Redelivering over the API, one callback or all that died: what is done is told, whatever came in between."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from gateway.core.errors import StoreError, StoreUnsure
from gateway.core.search import Sought
from gateway.serve.asgi import serve_asgi
from gateway.store.registry import StoreRegistry
from tests.apistand import body
from tests.waiting import a_moment


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


async def test_bad_redeliveries(api: httpx.AsyncClient) -> None:
    """Only dead callbacks are redelivered in bulk, within a span that makes sense."""
    for members, field in (
        ({"state": "delivered"}, "state"),
        ({"state": "dead", "since": "yesterday"}, "since"),
        ({"state": "dead", "until": "2026-11-23T10:00:00"}, "until"),
        ({"state": "dead", "since": "2026-11-24T00:00:00Z", "until": "2026-11-23T00:00:00Z"}, "since"),
        ({"state": "dead", "since": "2026-02-30T00:00:00Z"}, "since"),
        ({"state": "dead", "client": "A b"}, "client"),
        ({"state": "dead", "receiver": "https://[::1/hooks"}, "receiver"),
        ({"state": "dead", "receiver": "app.example.com/hooks"}, "receiver"),
    ):
        answer = await api.post("/v1/redeliveries", json=members)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    told = (await api.post("/v1/redeliveries", json={"state": "delivered"})).json()["detail"]
    assert told == 'state: must be "dead": callbacks in another state are redelivered one by one'
    assert (await api.post("/v1/redeliveries", json={"state": "dead"})).json() == {"count": 0}
    answer = await api.post("/v1/redeliveries", json={"state": "dead", "dryRun": True, "receiver": "app.example.com/a"})
    assert answer.json()["detail"].startswith("receiver: has a path and no scheme: write how callback URLs begin")


async def test_some_of_the_dead_are_counted_and_redelivered(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run only tells how many there are; a receiver's name narrows both."""
    asked: list[tuple[str, Any]] = []

    async def count_dead(_: Any, client: str | None, since: int, until: int, receiver: Sought | None) -> int:
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
    of_one = Sought("https://a.example.com/")
    assert asked == [("count", None), ("count", of_one), ("redeliver", of_one), ("redeliver", None)]
