"""The manual's recipes for n8n and Trigger.dev, against receivers that behave as their documentation says.

What is run is the recipe as it stands in the manual, with this gateway's address put in. That n8n answers 409 before
its Wait node is reached and after it was resumed, and 404 for another method, was read in its source.
"""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.crash.process import LIMIT_S
from tests.manual import page

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on PATH")

URL = "https://cdn.example.com/result.png"
RESUME = "/webhook-waiting/231?signature=5d41402abc4b"
TRIGGER_SDK = """
const api = "%s/api/v1/waitpoints/tokens";
export const wait = {
  createToken: async (options) => (await fetch(api, { method: "POST", body: JSON.stringify(options) })).json(),
  forToken: (token) => ({ unwrap: async () => (await fetch(`${api}/${token.id}`)).json() }),
};
"""


class N8n:
    """One execution of a workflow: it runs, waits at its Wait node for a POST, and is resumed once."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.called = asyncio.Event()
        self.waits = False
        self.resumed: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        answer = JSONResponse({"message": "Workflow was started"})
        if f"{request.url.path}?{request.url.query}" != RESUME or (self.waits and request.method != "POST"):
            answer = JSONResponse({"code": 404, "message": "no waiting webhook with a matching path/method"}, 404)
        elif not self.waits or self.resumed.done():
            answer = JSONResponse({"code": 409, "message": "The execution is running or has finished already"}, 409)
        else:
            item = {"headers": dict(request.headers), "params": {}, "query": dict(request.query_params)}
            self.resumed.set_result(item | {"body": await request.json()})
        self.answers.append(answer.status_code)
        self.called.set()
        await answer(scope, receive, send)


class Trigger:
    """Wait tokens: made, completed once by whoever has the URL, and waited for."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: Any = None
        self.posts = 0
        self.completed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        tokens = "/api/v1/waitpoints/tokens"
        match request.method, request.url.path.removeprefix(tokens):
            case "POST", "":
                self.asked = await request.json()
                url = f"{self.url}{tokens}/waitpoint_1/callback/6f9a"
                answer = JSONResponse({"id": "waitpoint_1", "url": url, "isCached": False})
            case "POST", "/waitpoint_1/callback/6f9a":
                self.posts += 1
                if not self.completed.done():  # a completed token stays as it was completed
                    self.completed.set_result(await request.json())
                answer = JSONResponse({"success": True})
            case "GET", "/waitpoint_1":
                answer = JSONResponse(await asyncio.shield(self.completed))
            case _:
                answer = JSONResponse({"error": "Not found"}, 404)
        await answer(scope, receive, send)


def recipe(heading: str, language: str) -> str:
    """Return the one block in a language below a heading."""
    section = page("integrations").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    [block] = re.findall(rf"^ *```{language}\n(.*?)^ *```$", section, re.MULTILINE | re.DOTALL)
    return str(block)


async def run_node(code: str, folder: Path) -> str:
    """Run a module to its end; return what it printed."""
    pipe = asyncio.subprocess.PIPE
    command = ("node", "--input-type=module", "-")
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate(code.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode().strip()


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, verify=False, trust_env=False, timeout=LIMIT_S) as client:
        yield client


async def test_n8n_goes_on_with_the_task_that_it_created(world: Any) -> None:
    """Also where the webhook comes before its Wait node is reached; the next node's expression gives the result."""
    n8n = N8n()
    simulator = SimulatedUpstream(SystemClock(), plans=Plan())
    async with (
        serve_asgi(n8n) as url,
        serve_simulator(simulator) as upstream_url,
        world.gateway(GATEWAY_UPSTREAM_URL=upstream_url) as gateway,
        client_of(gateway.url) as client,
    ):
        asked = json.loads(recipe("n8n", "json").replace("{{ $execution.resumeUrl }}", f"{url}{RESUME}"))
        created = await client.post("/api/v1/jobs/createTask", json=asked)
        assert created.json()["code"] == 200, created.text
        async with asyncio.timeout(LIMIT_S):
            await n8n.called.wait()
            n8n.waits = True
            item = await n8n.resumed
        [callback] = (await client.get("/v1/callbacks")).json()["data"]
        await world.becomes(client, callback["id"], "delivered")
    assert n8n.answers == [409] * (len(n8n.answers) - 1) + [200]
    assert 409 in n8n.answers
    assert item["body"]["data"]["taskId"] == created.json()["data"]["taskId"]
    expression = recipe("n8n", "js")
    assert await run_node(f"const $json = {json.dumps(item)};\nconsole.log({expression});", world.folder) == URL


async def test_n8n_goes_on_with_a_task_that_was_there(world: Any) -> None:
    """A registered callback's webhook is the other form, in which nothing is JSON in a string."""
    n8n = N8n()
    n8n.waits = True
    async with serve_asgi(n8n) as url, world.gateway() as gateway, client_of(gateway.url) as client:
        asked = {"taskId": "sim-success-0-x", "callbackUrl": f"{url}{RESUME}"}
        assert (await client.post("/v1/callbacks", json=asked)).status_code == 201
        async with asyncio.timeout(LIMIT_S):
            item = await n8n.resumed
    assert item["body"]["data"]["result"]["resultUrls"][0] == URL
    assert (item["body"]["data"]["state"], item["query"]) == ("success", {"signature": "5d41402abc4b"})


async def test_trigger_dev_goes_on_with_the_webhook(world: Any, tmp_path: Path) -> None:
    """The recipe runs to its end; a webhook that comes again is taken, and changes nothing."""
    trigger = Trigger()
    sdk = tmp_path / "node_modules" / "@trigger.dev" / "sdk"
    sdk.mkdir(parents=True)
    (sdk / "package.json").write_text('{"name": "@trigger.dev/sdk", "type": "module", "exports": "./index.js"}')
    token = "token-of-the-run"
    async with (
        serve_asgi(trigger) as trigger.url,
        world.gateway(GATEWAY_TOKEN=token) as gateway,
        client_of(gateway.url) as client,
    ):
        (sdk / "index.js").write_text(TRIGGER_SDK % trigger.url)
        code = recipe("Trigger.dev", "js").replace("http://gateway:8080", gateway.url).replace("GATEWAY_TOKEN", token)
        printed = await run_node(f'const taskId = "sim-success-200-x";\n{code}', tmp_path)
        assert printed == f"success {URL}"
        client.headers["authorization"] = f"Bearer {token}"
        [callback] = (await client.get("/v1/callbacks")).json()["data"]
        await world.becomes(client, callback["id"], "delivered")
        completed = trigger.completed.result()
        assert (await client.post(f"/v1/callbacks/{callback['id']}/redeliver")).status_code == 202
        await world.becomes(client, callback["id"], "delivered")
    assert trigger.asked == {"timeout": "1h"}
    assert (trigger.posts, trigger.completed.result()) == (2, completed)
    assert completed["data"]["taskId"] == "sim-success-200-x"
