"""The dashboard in a real browser: Debian's Chromium, driven by Playwright's core from npm."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.clock import SystemClock
from gateway.core.model import CallbackState
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.manual import ROOT
from tests.running import Running, running
from tests.storing import NOW, brought_to, new

NODE = ROOT / "tests" / "node"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIMIT_S = 120
TOKEN, OPERATOR = "the-clients-token", "the-operators-token"

pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt install chromium"),
    pytest.mark.skipif(not (NODE / "node_modules" / "playwright-core").is_dir(), reason="needs npm ci in tests/node"),
    pytest.mark.timeout(LIMIT_S + 30),
]

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' autofocus onfocus='alert(1)",
    '" style="position:fixed;inset:0" onclick="alert(1)',
    "</title><script>alert(1)</script>",
    "</textarea><b>bold</b>",
    "</pre></dd><iframe src=//evil.example.com></iframe>",
    "<a href=javascript:alert(1)>click</a>",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "<base href=//evil.example.com/>",
    "<meta http-equiv=refresh content=0;url=//evil.example.com>",
    "<form action=http://evil.example.com><button>go</button></form>",
    "<link rel=stylesheet href=//evil.example.com/x.css>",
    "{{constructor.constructor('alert(1)')()}}",
    "<div hx-get=//evil.example.com hx-trigger=load hx-on:click=alert(1)>x</div>",
    "data: x\n\nevent: gone\n\n",
    "\u202e\u2066<b>gnp.exe\u2069",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
)


async def browse(scenario: str, url: str, **more: Any) -> dict[str, Any]:
    """Play a scenario in a browser and return what it told."""
    about = {"browser": BROWSER, "url": url, "pictures": os.environ.get("PICTURES"), **more}
    process = await asyncio.create_subprocess_exec(
        "node",
        "browse.mjs",
        scenario,
        cwd=NODE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            told, _ = await process.communicate(json.dumps(about).encode())
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
            await process.wait()
    found: dict[str, Any] = json.loads(told)
    assert "failed" not in found, found["failed"]
    assert found["elsewhere"] == [], "no request leaves the origin"
    assert found["dialogs"] == [], "nothing that was written executes"
    return found


class Hooks:
    """A receiver that answers as a test says; with 204 once the browser's driver says that it may go on."""

    def __init__(self) -> None:
        self.answer = 204, ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        if scope["method"] == "PUT":
            self.answer = 204, ""
        status, text = self.answer
        await Response(text or None, status)(scope, receive, send)


class World(Running):
    hooks: Hooks
    hooks_url: str


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    hooks = Hooks()
    async with (
        serve_simulator(SimulatedUpstream(SystemClock())) as upstream_url,
        serve_asgi(hooks) as hooks_url,
        running(
            tmp_path,
            upstream_url,
            GATEWAY_TOKEN=TOKEN,
            GATEWAY_OPERATOR_TOKEN=OPERATOR,
            GATEWAY_RETRY_SCHEDULE="0" + ",2" * 50,
        ) as run,
    ):
        made = World(run.gateway, run.client)
        made.hooks, made.hooks_url = hooks, f"{hooks_url}/hooks"
        made.client.headers["authorization"] = f"Bearer {TOKEN}"
        yield made


async def test_a_callback_is_found_and_followed_live(world: World) -> None:
    """Sign in after a slip, find it, watch it become delivered without loading anything again, pause, sign out."""
    world.hooks.answer = 503, "busy"
    await world.registered("sim-success-0-cat", world.hooks_url)
    url = str(world.client.base_url).rstrip("/")
    steps = (await browse("follow", url, token=TOKEN, task="sim-success-0-cat", go=world.hooks_url))["steps"]
    assert "not one of this gateway's" in steps["refused"]
    assert (steps["here"], steps["found"], steps["loads"]) == ("/dashboard/callbacks", 1, 1)
    assert steps["before"][:3] == ["Registered", "The task ended: success", "Attempt 1: answered 503"]
    assert steps["after"][-1] == "Nothing more: it was delivered"
    assert steps["after"][-2].endswith(": answered 204")
    assert steps["paused"] == "true"
    assert steps["out"] == "/dashboard/sign-in"


async def test_lists_are_filtered_and_paged(world: World) -> None:
    """A chosen state counts at once, a search by its enter key, and each row stands on one page."""
    store = world.gateway.store
    await store.registry.register(
        [new(f"never-{n}", client="default", metadata=b'{"orderId":%d}' % n, at=NOW + n) for n in range(120)]
    )
    await brought_to(store, CallbackState.CANCELLED, new("gone", client="default"))
    steps = (await browse("lists", str(world.client.base_url).rstrip("/"), token=TOKEN))["steps"]
    assert len(steps["seen"]) == len(set(steps["seen"])) == 121
    assert (steps["cancelled"], steps["back"], steps["orders"]) == (1, 50, 1)


async def test_what_others_write_is_never_more_than_text(world: World) -> None:
    """In light and dark, wide and narrow: no script, no markup, no link but to the web, and nothing too wide.

    Nor does a checker of accessibility find anything.
    """
    world.hooks.answer = 500, " ".join(HOSTILE)[:1000]
    names = ("callbacks", "tasks", "receivers", "upstreams", "configuration", "redeliver", "sign-in")
    paths = ["/", *(f"/dashboard/{name}" for name in names)]
    for number, text in enumerate(HOSTILE):
        url = f"{world.hooks_url}?{number}&{''.join(c for c in text if c.isascii() and c.isprintable() and c != ' ')}"
        answer = await world.register(
            f"sim-success-0-{number}", url, metadata=dict(zip(HOSTILE, HOSTILE, strict=True)), model=text[:100]
        )
        assert answer.status_code == 201, answer.text
        await world.becomes(f"/v1/callbacks/{answer.json()['id']}", lambda found: found.json()["attempts"] > 0)
    paths.append(f"/dashboard/callbacks/{answer.json()['id']}")
    steps = await browse("visit", str(world.client.base_url).rstrip("/"), token=OPERATOR, paths=paths)
    assert steps["said"] == []
    assert {
        name: step for name, step in steps["steps"].items() if step != {"links": [], "markup": 0, "alerted": None}
    } == {}
