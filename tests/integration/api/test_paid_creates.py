"""A task that was created and paid for is registered: though the store fails, its client goes, or the gateway stops."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.core.errors import StoreError
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from tests.proxystand import CREATE, HOOKS, TASK, Stand, Upstream, envelope
from tests.waiting import until


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
    await until(lambda: _tried(failing, 3))
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
    await until(stand.callbacks)


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
            await until(stand.callbacks)
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


async def test_nothing_new_is_created_once_the_drain_began(
    start: Callable[..., Awaitable[Stand]], simulator: SimulatedUpstream
) -> None:
    """A create that still waits for its turn at SIGTERM is refused: a task begun now might be paid for and lost."""
    here = await start(GATEWAY_CONFIG="")
    assert (await here.create()).status_code == 200
    queued = asyncio.create_task(here.create())  # the free tier creates one task a second
    await until(lambda: _queued(here))
    here.gateway.begin_drain()
    answer = await queued
    assert (answer.status_code, answer.json()["code"]) == (503, 503)
    assert simulator.stats.requests["createTask"] == 1


async def _queued(here: Stand) -> bool:
    await here.client.get("/healthz")
    return here.gateway.watches[0].key.creates._turns.waiting == 1
