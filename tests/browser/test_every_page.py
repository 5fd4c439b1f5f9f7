"""Every page that there is, in every state that it has, in a real browser: an accessibility checker finds nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Match, Route

from gateway.config.tokens import hash_line
from gateway.core.clock import SystemClock
from gateway.core.model import CallbackState
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.simulator.faults import Fault, FaultKind
from tests.browser.test_dashboard import OPERATOR, TOKEN, Hooks
from tests.browsing import IN_A_BROWSER, browse
from tests.dashboard import Visitor
from tests.running import Running, running
from tests.storing import brought_to, new

pytestmark = IN_A_BROWSER

TABLES = f"""
[clients.shop]
token_hash = "{hash_line("the-shops-token")}"
rate = ["20/1", "600/60"]
[[receivers]]
match = "http://localhost:9/hooks"
concurrency = 4
[[receivers]]
match = "http://localhost:9/plain"
"""
SETTINGS = {
    "GATEWAY_TOKEN": TOKEN,
    "GATEWAY_OPERATOR_TOKEN": OPERATOR,
    "GATEWAY_CALLBACK_ALLOW": "127.0.0.1,localhost",
    "GATEWAY_RETRY_SCHEDULE": "0" + ",0.05" * 5 + ",3600",
}
NOT_SEEN = {"/dashboard/live", "/dashboard/static/{name}", "/dashboard", "/dashboard/", "/manual/", "/manual/index"}
"""What answers no page, or leads on to one."""


class Stage(Running):
    upstream: SimulatedUpstream
    hooks: Hooks
    hooks_url: str

    async def in_each_state(self) -> dict[str, str]:
        """Have a callback in each state, a receiver that fails and one that is paused; return the callbacks' ids."""
        store, made = self.gateway.store, {}
        made["delivered"] = await self.registered("sim-success-500-cat", self.hooks_url)
        await self.delivered(made["delivered"])
        made["curve"] = await self.registered("sim-success-900-dog", self.hooks_url)
        await self.delivered(made["curve"])
        made["waiting"] = await self.registered("sim-never-0-cat", self.hooks_url)
        made["failed"] = await self.registered("sim-fail-0-cow", self.hooks_url)
        self.hooks.answer = 410, "gone"
        made["dead"] = await self.registered("sim-success-0-cow", self.hooks_url)
        await self.becomes(f"/v1/callbacks/{made['dead']}", lambda answer: answer.json()["state"] == "dead")
        self.hooks.answer = 503, "busy"
        fails = self.hooks_url.replace("127.0.0.1", "localhost")
        made["pending"] = await self.registered("sim-success-0-pig", fails)
        await self.becomes(f"/v1/callbacks/{made['pending']}", lambda answer: answer.json()["attempts"] == 6)
        await brought_to(store, CallbackState.CANCELLED, new("gone", client="default", upstream="aigptimage"))
        (cancelled,) = (await self.client.get("/v1/callbacks?state=cancelled")).json()["data"]
        nobodys = new("nobodys", client="default", upstream="of-before", at=SystemClock().now())
        await store.registry.register([nobodys])
        (of_before,) = (await self.client.get("/v1/callbacks?taskId=nobodys")).json()["data"]
        made |= {"cancelled": cancelled["id"], "nobodys": of_before["id"]}
        async with Visitor(str(self.client.base_url)) as operator:
            await operator.sign_in(OPERATOR)
            about = {"receiver": self.hooks_url, "client": "default"}
            await operator.post("/dashboard/receivers/pause", "/dashboard/receivers", **about)
        made["paused"] = await self.registered("sim-success-0-hen", self.hooks_url)
        await self.becomes(f"/v1/callbacks/{made['paused']}", lambda answer: answer.json()["state"] == "pending")
        self.upstream.faults.add(Fault(kind=FaultKind.KEY_REFUSED))
        await self.becomes("/readyz", lambda answer: answer.status_code == 503)
        return made


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stage]:
    hooks, upstream, tables = Hooks(), SimulatedUpstream(SystemClock()), folder / "gateway.toml"
    tables.write_text(TABLES)
    async with (
        serve_simulator(upstream) as upstream_url,
        serve_asgi(hooks) as hooks_url,
        running(folder, upstream_url, SystemClock(), GATEWAY_CONFIG=str(tables), **SETTINGS) as run,
    ):
        made = Stage(run.gateway, run.client)
        made.upstream, made.hooks, made.hooks_url = upstream, hooks, f"{hooks_url}/hooks"
        made.client.headers["authorization"] = f"Bearer {TOKEN}"
        yield made


async def toured(stage: Stage, look: str, paths: list[str], before: Sequence[str] = (), token: str = OPERATOR) -> Any:
    """Look at some pages before, others after signing in; return what was done when nothing was found."""
    url = str(stage.client.base_url).rstrip("/")
    told = await browse("tour", url, token=token, look=look, before=before, paths=paths)
    assert told["said"] == []
    return told["steps"]


def pages(made: dict[str, str]) -> list[str]:
    """Return what there is to look at."""
    return list(_pages(made))


def _pages(made: dict[str, str]) -> Iterator[str]:
    yield "/"
    for state in ("", "?state=dead", "?state=cancelled&q=nothing-like-it", "?q=shop&client=shop", "?before=made-up"):
        yield f"/dashboard/callbacks{state}"
        yield f"/dashboard/tasks{state.replace('cancelled', 'abandoned').replace('dead', 'fail')}"
    for callback_id in made.values():
        yield f"/dashboard/callbacks/{callback_id}"
    yield f"/dashboard/callbacks/{made['delivered']}?done=cancelled"
    yield "/dashboard/callbacks/cb_none"
    for query in ("", "?until=2026-01-01T00:00", "?done=3", "?since=nonsense"):
        yield f"/dashboard/redeliver{query}"
    for name in ("receivers", "receivers?q=nothing-like-it", "receivers?done=paused", "upstreams", "configuration"):
        yield f"/dashboard/{name}"
    yield "/manual"
    yield "/manual/calls"
    yield "/manual/search?q=disk"
    yield "/manual/troubleshooting"
    yield "/dashboard/nowhere"


def unseen(app: Starlette, paths: list[str]) -> set[str]:
    """Return the paths of the routes of pages that none of these is of."""
    left = set()
    for route in app.routes:
        assert isinstance(route, Route)
        if "GET" not in (route.methods or ()) or route.path in NOT_SEEN:
            continue
        asked = ({"type": "http", "method": "GET", "path": path.partition("?")[0]} for path in paths)
        if not any(route.matches(one)[0] is Match.FULL for one in asked):
            left.add(route.path)
    return left


LOOKS = pytest.mark.parametrize("look", ["light", "dark", "narrow"])


@LOOKS
async def test_a_checker_finds_nothing_before_anything_has_happened(tmp_path: Path, look: str) -> None:
    """Nor before somebody signs in, after a slip, and for who comes by a link of another site."""
    before = ["/", "/dashboard/sign-in", "/manual"]
    empty = ["/", *(f"/dashboard/{name}" for name in ("callbacks", "tasks", "receivers", "upstreams", "redeliver"))]
    async with staged(tmp_path) as stage:
        steps = await toured(stage, look, empty, before)
    assert steps["seen"] == [*before, "a link of another site", "a wrong token", *empty]


@LOOKS
@pytest.mark.parametrize("half", [0, 1])
async def test_a_checker_finds_nothing_on_any_page(tmp_path: Path, half: int, look: str) -> None:
    """Each page, in each state that it has, and with an error; nor is any of them wider than a telephone."""
    async with staged(tmp_path) as stage:
        paths = pages(await stage.in_each_state())
        await toured(stage, look, paths[half::2])
        assert stage.gateway.site._making is not None
        app = await asyncio.shield(stage.gateway.site._making)
    assert isinstance(app, Starlette)
    assert unseen(app, [*paths, "/dashboard/sign-in"]) == set()


@pytest.mark.parametrize("half", [0, 1])
async def test_a_client_is_shown_nothing_that_a_checker_minds(tmp_path: Path, half: int) -> None:
    """What is hidden from it leaves no hole, and the page that is not for it says so."""
    async with staged(tmp_path) as stage:
        await toured(stage, "light", pages(await stage.in_each_state())[half::2], token=TOKEN)
