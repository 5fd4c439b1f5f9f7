"""The SDKs of other job APIs, unchanged, through a real gateway process in front of simulated upstreams.

What each runs is its example in the manual, with this gateway's address, its token and this receiver put in. The SDKs
stand in an environment of their own, or among the packages from npm; ``make test`` installs both.
"""

import asyncio
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config.profilefile import config_dir
from gateway.core.clock import SystemClock
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.simulator.jobs import VIDEO
from tests.crash.process import LIMIT_S, SECRET
from tests.manual import ROOT, page

SDKS = ROOT / ".venv-sdks" / "bin" / "python"
NODE = ROOT / "tests" / "node"
TOKEN, KEY = "token-of-the-client", "sk-real"
RESULT = "https://cdn.example.com/result.png"
READS = {
    "luma": "/dream-machine/v1/generations/{}",
    "openai-video": "/v1/videos/{}",
    "replicate": "/v1/predictions/{}",
    "runway": "/v1/tasks/{}",
}
# How receivers check that a webhook is Replicate's; here with the gateway's secret.
CHECK_IN_NODE = """
import { validateWebhook } from "replicate";
console.log(await validateWebhook(%s, "%s"));
"""
CHECK_IN_PYTHON = """
import json, sys
from replicate.webhook import Webhooks, WebhookSigningSecret
webhook, secret = json.load(sys.stdin), WebhookSigningSecret(key="%s")
Webhooks.validate(headers=webhook["headers"], body=webhook["body"], secret=secret, tolerance=60)
"""

python = pytest.mark.skipif(
    not SDKS.is_file(), reason="the SDKs are not in .venv-sdks, or cannot be installed: see `make .venv-sdks/.ready`"
)
node = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules" / "replicate").is_dir(),
    reason="node is not there, or replicate from npm is not: run `npm ci --prefix tests/node`",
)


class Stage:
    """A gateway with a simulated upstream for each API, and the programs that run against it."""

    def __init__(self, world: Any, gateway_url: str, upstreams: dict[str, str]) -> None:
        self.url = gateway_url
        self._receiver = world.receiver
        self.upstreams = upstreams
        self.simulators: dict[str, SimulatedUpstream] = {}

    def example(self, language: str, sdk: str) -> str:
        """Return the manual's example of an SDK, for this gateway and this receiver."""
        blocks = re.findall(rf"^```{language}\n(.*?)^```$", page("integrations"), re.MULTILINE | re.DOTALL)
        imports = re.compile(rf'^(import|from) {sdk}\b|^import .* from "{sdk}"', re.MULTILINE)
        [code] = [block for block in blocks if imports.search(block)]
        code = code.replace("http://gateway:8080", self.url).replace("GATEWAY_TOKEN", TOKEN)
        return str(code.replace("https://app.example.com/hooks", f"{self._receiver.url}/hooks"))

    async def webhooks(self) -> list[tuple[dict[str, str], bytes]]:
        """Return the headers and the body that each callback got, once all have theirs."""
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, verify=False, trust_env=False) as client:
            callbacks = (await client.get("/v1/callbacks")).json()["data"]
        await self._receiver.wait_for({callback["id"] for callback in callbacks})
        return [self._receiver.webhooks[callback["id"]][0] for callback in callbacks]

    async def record(self, name: str, task_id: str) -> Any:
        """Return what an upstream itself says of a task."""
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(headers=headers, verify=False, trust_env=False) as client:
            return (await client.get(self.upstreams[name] + READS[name].format(task_id))).json()

    async def polls(self) -> dict[str, int]:
        """Return how many polls the gateway has made at each upstream."""
        async with httpx.AsyncClient(verify=False, trust_env=False) as client:
            text = (await client.get(f"{self.url}/metrics")).text
        found: Counter[str] = Counter()
        for name, count in re.findall(r'^gateway_polls_total{.*upstream="([^"]+)".*} (\d+)', text, re.MULTILINE):
            found[name] += int(count)
        return dict(+found)


@asynccontextmanager
async def stage(world: Any) -> AsyncIterator[Stage]:
    """Start it all. The profiles are the shipped ones but for the time between polls, which no test can spare."""
    profiles = world.folder / "profiles"
    profiles.mkdir()
    simulators, urls, tables = {}, {}, ""
    async with AsyncExitStack() as stack:
        for name in READS:
            text = (config_dir() / "upstreams" / f"{name}.toml").read_text("utf-8")
            (profiles / f"{name}.toml").write_text(re.sub(r"(?m)^poll_min_s = .*$", "", text), "utf-8")
            simulators[name] = SimulatedUpstream(SystemClock(), keys=[KEY], plans=Plan(duration_s=0.8))
            urls[name] = await stack.enter_async_context(serve_simulator(simulators[name]))
            tables += f'[upstreams.{name}]\nurl = "{urls[name]}"\napi_key = "{KEY}"\nrate = ["1000/1"]\n'
        config = world.folder / "gateway.toml"
        config.touch(mode=0o600)
        config.write_text(tables, "utf-8")
        environ = {"GATEWAY_CONFIG": str(config), "GATEWAY_PROFILES": str(profiles), "GATEWAY_TOKEN": TOKEN}
        environ |= {"GATEWAY_POLL_MIN_S": "0.2", "GATEWAY_POLL_MAX_S": "0.5"}
        gateway = await stack.enter_async_context(world.gateway(**environ))
        it = Stage(world, gateway.url, urls)
        it.simulators = simulators
        yield it


async def run(*command: str | Path, stdin: str, folder: Path) -> str:
    """Run a program to its end; return what it printed. Each SDK finds the token where it looks for its key."""
    names = ("LUMAAI_API_KEY", "OPENAI_API_KEY", "REPLICATE_API_TOKEN", "RUNWAYML_API_SECRET")
    environ = os.environ | dict.fromkeys(names, TOKEN) | {"NO_PROXY": "*"}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environ, stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(2 * LIMIT_S):  # four at once, which import thousands of files
            out, err = await process.communicate(stdin.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode().strip()


async def run_module(code: str) -> str:
    # A module finds the packages from the folder on that it is run in.
    return await run("node", "--input-type=module", "-", stdin=code, folder=NODE)


@python
@pytest.mark.timeout(120)
async def test_python_sdks_run_as_the_manual_says(world: Any, tmp_path: Path) -> None:
    """Create, wait, result, each by its own means, and where there is a parameter for it the API's own webhook.

    All run at once, as the sleeps in them are theirs. No read of theirs reaches an upstream: each sees one stream of
    polls.
    """
    prints = {"replicate": RESULT, "openai": "completed", "runwayml": RESULT, "lumaai": RESULT}
    async with stage(world) as it:
        runs = [run(SDKS, "-", stdin=it.example("python", sdk), folder=tmp_path) for sdk in prints]
        assert dict(zip(prints, await asyncio.gather(*runs), strict=True)) == prints
        assert (tmp_path / "cat.mp4").read_bytes() == VIDEO
        asked = {name: simulator.stats.requests["recordInfo"] for name, simulator in it.simulators.items()}
        assert asked == await it.polls()
        assert [simulator.stats.requests["createTask"] for simulator in it.simulators.values()] == [1] * 4
        webhooks = await it.webhooks()
        assert len(webhooks) == 2
        for headers, body in webhooks:
            record = json.loads(body)
            assert record == await it.record("luma" if "assets" in record else "replicate", record["id"])
            webhook = json.dumps({"headers": headers, "body": body.decode()})
            assert await run(SDKS, "-c", CHECK_IN_PYTHON % SECRET, stdin=webhook, folder=tmp_path) == ""


@python
async def test_what_python_sdks_call_beside_goes_on(world: Any, tmp_path: Path) -> None:
    """Uploads, lists, cancels and deletes.

    And no create is sent again by itself that may have been paid for: OpenAI's repeats what ends with 5xx, twice, and
    each time would make a task; here the answer says not to, the gateway's own and OpenAI's. With an ID of the caller's
    own too: OpenAI does not know it, and the repetition could only be told 409.
    """
    async with stage(world) as it:
        about = json.dumps({"gateway": it.url, "openai": it.upstreams["openai-video"]})
        printed = await run(SDKS, Path(__file__).with_name("sdk_calls.py"), stdin=about, folder=tmp_path)
        assert it.simulators["openai-video"].stats.requests["createTask"] == 1 + 4
    assert json.loads(printed) == {
        "file": hashlib.sha256(b"\x89PNG\r\n\x00\xff").hexdigest()[:32],
        "predictions": True,
        "prediction": "canceled",
        "videos": True,
        "video": True,
        "generations": True,
        "task": "CANCELLED",
        "lost": [502, 502, 500, 500],
    }


@node
async def test_the_npm_sdk_runs_as_the_manual_says(world: Any) -> None:
    """It asks Replicate to hold the create until the end; its webhook comes, and passes the SDK's own check."""
    async with stage(world) as it:
        assert await run_module(it.example("js", "replicate")) == RESULT
        [(headers, body)] = await it.webhooks()
        webhook = json.dumps({"headers": headers, "body": body.decode()})
        assert await run_module(CHECK_IN_NODE % (webhook, SECRET)) == "true"
        record = json.loads(body)
        assert record == await it.record("replicate", record["id"])
