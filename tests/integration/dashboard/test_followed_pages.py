"""Pages that are followed while they change: what is sent, to how many, and when it ends."""

import asyncio
import gc
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import StoreError
from gateway.dashboard import live
from tests.dashboard import Visitor
from tests.pagestand import OPERATOR, World, world_at
from tests.running import LIMIT_S
from tests.waiting import a_moment


async def test_a_page_is_followed_while_it_shows_something_else(world: World) -> None:
    """Its changing part comes again when it differs; where nothing does, nothing comes, and who leaves is let go."""
    callback_id = await world.registered("sim-success-1000-cat", world.hooks_url)
    page = f"/dashboard/callbacks/{callback_id}"
    seen: list[str] = []
    async with (
        asyncio.timeout(LIMIT_S),
        world.visitor.http.stream("GET", "/dashboard/live", params={"page": f"{page}?x=1"}) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            seen.append(line)
            if "it was delivered" in line:
                break
    assert "event: fresh" in seen
    markup = "\n".join(line.removeprefix("data: ") for line in seen if line.startswith("data: "))
    assert "<html" not in markup
    assert "Time line" in markup


async def test_what_happens_before_a_page_is_followed_is_not_missed(world: World) -> None:
    """The first that comes is how it is then: the page itself was made before, and may tell less."""
    callback_id = await world.registered("sim-success-0-cat", world.hooks_url)
    await world.delivered(callback_id)
    about = {"page": f"/dashboard/callbacks/{callback_id}"}
    async with (
        asyncio.timeout(LIMIT_S),
        world.visitor.http.stream("GET", "/dashboard/live", params=about) as answer,
    ):
        lines = answer.aiter_lines()
        assert [await anext(lines) for _ in range(3)][2] == "event: fresh"
        async for line in lines:
            if "it was delivered" in line:
                break


async def test_a_page_that_could_not_be_made_for_a_moment_is_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it shows what it did before: so whoever follows it hears that it is live again."""
    monkeypatch.setattr(live, "_LOOKS_S", 0.02)

    async def fails(*_: Any) -> Any:
        raise StoreError("It fails.")

    async with (
        asyncio.timeout(LIMIT_S),
        world.visitor.http.stream("GET", "/dashboard/live", params={"page": "/dashboard/tasks"}) as answer,
    ):
        lines = answer.aiter_lines()
        with monkeypatch.context() as failing:
            failing.setattr(world.gateway.store.registry, "search_tasks", fails)
            while await anext(lines) != "event: trouble":
                pass
        while await anext(lines) != "event: fresh":
            pass


async def test_only_pages_are_followed(world: World) -> None:
    """And only those that there are, and of which a part changes."""
    still = ("/dashboard/redeliver", "/dashboard/configuration")
    there_is_none = (
        "/nowhere",
        "https://evil.example.com/",
        "/dashboard/callbacks/cb_none",
        "/v1/callbacks",
        "/manual",
    )
    for page in (*there_is_none, *still):
        assert (await world.visitor.get("/dashboard/live", params={"page": page})).status_code == 404


async def test_too_many_are_not_followed(
    world: World, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Who comes when there is no place any more is told so, and finds one when another page is closed."""
    monkeypatch.setattr(live, "_MOST", 1)
    monkeypatch.setattr(live, "_LOOKS_S", 0.02)
    gc.disable()  # a place that is given back with the garbage only is none
    request.addfinalizer(gc.enable)
    follow: dict[str, Any] = {"params": {"page": "/"}}
    async with world.visitor.http.stream("GET", "/dashboard/live", **follow) as one:
        lines = one.aiter_lines()  # whose end would be the stream's
        await anext(lines)
        assert (await world.visitor.get("/dashboard/live", **follow)).status_code == 503
    async with asyncio.timeout(LIMIT_S):
        while True:
            async with world.visitor.http.stream("GET", "/dashboard/live", **follow) as another:
                if another.status_code == 200:
                    break
            await a_moment()


async def test_one_client_follows_no_more_than_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all places: however many pages it opens, there is one for the operator."""
    monkeypatch.setattr(live, "_MOST", 4)
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(
            world_at(tmp_path, GATEWAY_TOKEN="mine", GATEWAY_OPERATOR_TOKEN=OPERATOR)
        )
        operator = await stack.enter_async_context(Visitor(str(world.client.base_url)))
        await world.visitor.sign_in("mine")
        await operator.sign_in(OPERATOR)

        async def follow(visitor: Visitor) -> int:
            stream = visitor.http.stream("GET", "/dashboard/live", params={"page": "/"})
            return (await stack.enter_async_context(stream)).status_code

        assert [await follow(one) for one in (*[world.visitor] * 3, operator)] == [200, 200, 503, 200]


async def test_the_end_of_the_gateway_ends_what_is_followed(world: World) -> None:
    """No open page holds up the stop."""
    async with (
        asyncio.timeout(LIMIT_S),
        world.visitor.http.stream("GET", "/dashboard/live", params={"page": "/"}) as answer,
    ):
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("retry")
        world.gateway.begin_drain()
        assert [line async for line in lines].count("event: fresh") == 1
