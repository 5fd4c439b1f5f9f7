"""One task of ten that the upstream refuses, in each spelling of a refusal: the nine others notice nothing of it."""

import asyncio
import time
from typing import Any

import httpx
import msgspec
import pytest

from gateway.simulator import Fault, FaultKind
from gateway.simulator.scenario import Plan

LIMIT_S = 30
REFUSED = "task-';select/../../etc"
SPELLINGS = {
    "HTTP 401": Fault(kind=FaultKind.KEY_REFUSED),
    "HTTP 403": Fault(kind=FaultKind.ERROR, status=403, msg="not your task"),
    "HTTP 200, code 401": Fault(kind=FaultKind.ERROR, status=200, code=401),
    "HTTP 200, code 403": Fault(kind=FaultKind.ERROR, status=200, code=403),
    "a page with 403": Fault(kind=FaultKind.HTML, status=403),
    "the CDN's block": Fault(kind=FaultKind.BLOCKED),
}


async def readiness(client: httpx.AsyncClient) -> list[int]:
    """Ask for it until this is cancelled; return what was answered."""
    seen = []
    try:
        while True:
            seen.append((await client.get("/readyz")).status_code)
            await asyncio.sleep(0.05)  # how often an operator's machine asks, at the most
    except asyncio.CancelledError:
        return seen


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_the_nine_others_are_told_in_time(world: Any, spelling: str) -> None:
    """Their webhooks come within two seconds of their tasks' ends, and /readyz never turns red."""
    arrived_s: dict[str, float] = {}

    async def note(callback_id: str) -> int:
        arrived_s.setdefault(callback_id, time.time())
        return 204

    world.receiver.on_post = note
    world.simulator.faults.add(msgspec.structs.replace(SPELLINGS[spelling], task_id=REFUSED))
    async with (
        world.gateway(GATEWAY_POLL_MAX_S="1") as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client,
    ):
        asking = asyncio.create_task(readiness(client))
        refused = await world.register(client, REFUSED)
        began_s = time.time()
        ends_s = {}
        for number in range(9):
            duration_s = 0.1 * (number + 1)
            world.simulator.add_task(f"task-{number}", Plan(duration_s=duration_s), created_at=round(began_s * 1000))
            ends_s[(await world.register(client, f"task-{number}"))["id"]] = began_s + duration_s
        await world.receiver.wait_for(set(ends_s))
        late_s = {callback_id: arrived_s[callback_id] - end_s for callback_id, end_s in ends_s.items()}
        assert max(late_s.values()) <= 2.0, late_s
        asking.cancel()
        assert set(await asking) == {200}
        shown = (await client.get(f"/v1/callbacks/{refused['id']}")).json()
        assert (shown["state"], shown["task"]["state"]) == ("waiting", "waiting")
        assert shown["task"]["lastError"]
        assert world.simulator.stats.polls[REFUSED] <= 7
        assert 'gateway_upstream_refused{upstream="aigptimage"} 0.0' in (await client.get("/metrics")).text
        assert await gateway.stop() == 0
