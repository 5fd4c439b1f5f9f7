"""A gateway with its pages, a receiver that answers as a test says, and a visitor.

Called by the tests of the pages.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.dashboard import Visitor
from tests.running import LIMIT_S, Running, running
from tests.waiting import a_moment

__all__ = ["OPERATOR", "Hooks", "World", "world_at"]

OPERATOR = "the-operators-token"


class Hooks:
    """A receiver that answers as a test says."""

    def __init__(self) -> None:
        self.answer: tuple[int, str] = (204, "")
        self.posts = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        self.posts += 1
        status, text = self.answer
        await Response(text or None, status)(scope, receive, send)


class World(Running):
    hooks: Hooks
    hooks_url: str
    visitor: Visitor

    async def shows(self, path: str, *words: str) -> str:
        """Return a page's text once it has these words."""
        found = ""
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    found = await self.visitor.page(path)
                    if all(word in found for word in words):
                        return found
                    await a_moment()
        except TimeoutError:
            pytest.fail(f"{path} still shows {found}")


@asynccontextmanager
async def world_at(folder: Path, **environ: str) -> AsyncIterator[World]:
    hooks = Hooks()
    # What tests store is as old as their NOW: the janitor is to leave it, whenever it comes.
    environ = {"GATEWAY_RETENTION_DAYS": "36500"} | environ
    async with (
        serve_simulator(SimulatedUpstream(SystemClock())) as upstream_url,
        serve_asgi(hooks) as hooks_url,
        running(folder, upstream_url, **environ) as run,
        Visitor(str(run.client.base_url)) as visitor,
    ):
        world = World(run.gateway, run.client)
        world.hooks, world.hooks_url, world.visitor = hooks, f"{hooks_url}/hooks", visitor
        yield world
