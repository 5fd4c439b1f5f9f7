"""Pages and forms among crowds of requests: those of their own client and those of others."""

import asyncio
from pathlib import Path

from tests.dashboard import Visitor
from tests.pagestand import OPERATOR, world_at
from tests.running import LIMIT_S
from tests.waiting import until


async def test_pages_and_forms_count_among_their_client_s_requests(tmp_path: Path) -> None:
    """Beyond what it may have under way it gets 503, as a page; the operator has a place, and so has the manual."""
    async with (
        world_at(tmp_path, GATEWAY_OPERATOR_TOKEN=OPERATOR) as world,
        Visitor(str(world.client.base_url)) as operator,
    ):
        requests = world.gateway.api.requests
        requests._connections = 8
        callback_id = await world.registered("sim-never-0-held", world.hooks_url)
        await operator.sign_in(OPERATOR)
        csrf = await world.visitor.csrf(f"/dashboard/callbacks/{callback_id}")
        held = [asyncio.create_task(world.client.get("/v1/tasks/sim-never-0-held?wait=60")) for _ in range(7)]
        await until(lambda: requests._count == 7)
        for answer in (
            await world.visitor.get("/"),
            await world.visitor.get("/dashboard/live", params={"page": "/"}),
            await world.visitor.http.post("/dashboard/redeliver", data={"csrf": csrf}),
        ):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "7 requests under way" in world.visitor.text(answer)
        assert (await world.client.get("/v1/callbacks")).status_code == 503
        for page in ("/", "/dashboard/redeliver", "/manual"):
            assert (await operator.get(page)).status_code == 200
        world.gateway.begin_drain()
        assert {answer.status_code for answer in await asyncio.gather(*held)} == {200}
        await until(lambda: not requests._count)
        assert (await world.visitor.http.post("/dashboard/redeliver", data={"csrf": csrf})).status_code == 303
        assert not requests._count


async def test_a_page_that_is_followed_is_under_way_until_its_end(tmp_path: Path) -> None:
    """However it ends."""
    async with asyncio.timeout(LIMIT_S), world_at(tmp_path) as world:
        requests = world.gateway.api.requests
        async with world.visitor.http.stream("GET", "/dashboard/live", params={"page": "/"}) as answer:
            assert answer.status_code == 200
            assert requests._of == {"default": 1}
        await until(lambda: not requests._count)
