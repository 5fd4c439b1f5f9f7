"""``kill -9`` between any two steps, then a start: every callback that was answered 201 is delivered."""

import asyncio
from typing import Any

import httpx
import pytest

from gateway.simulator import Fault, FaultKind


async def _finish(world: Any, callback_ids: set[str]) -> None:
    """Start the gateway again and see every callback delivered and recorded."""
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        await world.receiver.wait_for(callback_ids)
        for callback_id in callback_ids:
            await world.becomes(client, callback_id, "delivered")
        assert await gateway.stop() == 0
    for callback_id in callback_ids:
        bodies = {body for _, body in world.receiver.webhooks[callback_id]}
        assert len(bodies) == 1, "every attempt carries the same bytes"


async def test_killed_right_after_the_answer(world: Any) -> None:
    """A registration that was answered 201 is on disk: it is polled and delivered after the start."""
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        callback = await world.register(client, "sim-success-600-a")
        await gateway.kill()
    await _finish(world, {callback["id"]})


async def test_killed_during_a_poll(world: Any) -> None:
    """A poll that never came back costs nothing: the task is polled again."""
    world.simulator.faults.add(Fault(kind=FaultKind.HANG, times=1))
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        callback = await world.register(client, "sim-success-1-b")
        await world.polled(client, "sim-success-1-b")
        await gateway.kill()
    await _finish(world, {callback["id"]})


async def test_killed_while_the_receiver_has_the_webhook(world: Any) -> None:
    """An attempt whose answer was never seen is made again: same webhook-id, same bytes."""
    held = asyncio.Event()

    async def hold(callback_id: str) -> int:
        held.set()
        await asyncio.Event().wait()
        return 204

    world.receiver.on_post = hold
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        callback = await world.register(client, "sim-success-1-c")
        async with asyncio.timeout(20):
            await held.wait()
        await gateway.kill()
    world.receiver.on_post = None
    await _finish(world, {callback["id"]})
    assert len(world.receiver.webhooks[callback["id"]]) == 2


async def test_killed_between_the_receivers_answer_and_its_record(world: Any) -> None:
    """A 2xx that was not recorded yet may be repeated, and is not lost."""
    answered = asyncio.Event()
    process: Any = None

    async def kill_then_answer(callback_id: str) -> int:
        process.kill()
        answered.set()
        return 204

    world.receiver.on_post = kill_then_answer
    async with world.gateway() as gateway, httpx.AsyncClient(base_url=gateway.url) as client:
        process = gateway.process
        callback = await world.register(client, "sim-fail-1-d")
        async with asyncio.timeout(20):
            await answered.wait()
        await gateway.kill()
    world.receiver.on_post = None
    await _finish(world, {callback["id"]})


@pytest.mark.parametrize("after", [1, 7, 40, 150])
async def test_killed_under_load(world: Any, after: int) -> None:
    """Killed while registering, polling and delivering at once: no callback that was answered is lost."""
    answered: set[str] = set()
    enough = asyncio.Event()

    async def register(client: httpx.AsyncClient, number: int) -> None:
        try:
            callback = await world.register(
                client, f"sim-{'success' if number % 3 else 'fail'}-{number % 9 * 20}-{number}"
            )
        except httpx.TransportError:
            return  # killed before the answer: no promise was made
        answered.add(callback["id"])
        if len(answered) >= after:
            enough.set()

    async with world.gateway() as gateway:
        limits = httpx.Limits(max_connections=20)
        async with httpx.AsyncClient(base_url=gateway.url, limits=limits) as client, asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(register(client, number))
            async with asyncio.timeout(20):
                await enough.wait()
            await gateway.kill()
    assert len(answered) >= after
    await _finish(world, answered)
