"""The examples on the manual's page of every call, run as they stand there, against the gateway that shows them."""

import asyncio
import html
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.running import Running, running

TOKEN = "the-clients-token"
COMMANDS = {
    "curl": ["sh", "-ec"],
    "Python": [sys.executable, "-c"],
    "JavaScript": ["node", "--input-type=module", "-e"],
}
PROGRAMS = {"curl": "curl", "Python": sys.executable, "JavaScript": "node"}
NEXT = "=== the next one ==="
ALONE: dict[str, Callable[[str], str]] = {
    "curl": lambda example: f"{example}\necho {NEXT}\n",
    "Python": lambda example: f"exec({example!r}, {{}})\nprint({NEXT!r})\n",
    "JavaScript": lambda example: f"{{\n{example}\n}}\nconsole.log({NEXT!r});\n",
}
"""By language, an example that knows nothing of those before it in the same process: a start takes longer than it."""


class Receiver:
    """Takes webhooks, and answers once it may."""

    def __init__(self) -> None:
        self.url = ""
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()
        await self.answers.wait()
        await Response(status_code=204)(scope, receive, send)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[tuple[Running, Receiver]]:
    receiver = Receiver()
    async with (
        serve_simulator(SimulatedUpstream(SystemClock())) as upstream_url,
        serve_asgi(receiver) as hooks_url,
        running(tmp_path, upstream_url, GATEWAY_TOKEN=TOKEN) as run,
    ):
        receiver.url = f"{hooks_url}/hooks"
        run.client.headers["authorization"] = f"Bearer {TOKEN}"
        yield run, receiver


def examples(page: str, language: str) -> dict[str, str]:
    """Return the example of each call, by what its heading says."""
    found = {}
    for part in page.split("<h3 id=")[1:]:
        heading = re.search(r">(?:<code>)?(.+?)(?:</code>)?</h3>", part)
        example = re.search(rf"<p>{language}:</p>\n<pre[^>]*><code>(.+?)</code></pre>", part, re.DOTALL)
        if heading and example:
            found[html.unescape(heading[1])] = html.unescape(example[1])
    return found


async def ran(language: str, examples: Iterable[str]) -> list[str]:
    """Run examples one after the other in a process and return what each prints."""
    program = "".join(map(ALONE[language], examples))
    environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    process = await asyncio.create_subprocess_exec(
        *COMMANDS[language],
        program,
        env=environ | {"GATEWAY_TOKEN": TOKEN},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await process.communicate()
    assert process.returncode == 0, f"{program}\n{wrong.decode()}"
    return said.decode().split(NEXT)[:-1]


@pytest.mark.parametrize(
    "language",
    [
        pytest.param(name, marks=pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}"))
        for name, program in PROGRAMS.items()
    ],
)
async def test_each_example_does_what_it_says(world: tuple[Running, Receiver], language: str) -> None:
    """Whoever copies it registers, lists, reads, redelivers and cancels: only ids and the receiver are replaced."""
    run, receiver = world
    page = (await run.client.get("/manual/calls")).text
    found = examples(page, language)
    description = (await run.client.get("/openapi.json")).json()
    assert {f"{m.upper()} {path}" for path, item in description["paths"].items() for m in item} == found.keys()

    def example(call: str, callback_id: str = "") -> str:
        text = found[call].replace("https://app.example.com/hooks", receiver.url)
        return re.sub(r"cb_\w{20,}", callback_id, text.replace("task_xxx", "sim-success-0-cat"))

    [said] = await ran(language, [example("POST /v1/callbacks")])
    callback_id = re.findall(r"cb_\w+", said)[0]
    await run.delivered(callback_id)
    waiting = await run.registered("sim-never-0-cat", receiver.url)
    receiver.answers.clear()  # else what is redelivered may be delivered before it is told of
    calls = {
        "GET /v1/callbacks": callback_id,
        "POST /v1/callbacks/batch": "422",
        "GET /v1/callbacks/{id}": callback_id,
        "GET /v1/callbacks/{id}/attempts": "delivered",
        "POST /v1/callbacks/{id}/redeliver": "pending",
        "GET /v1/tasks/{taskId}": "settledAt",
        "POST /v1/redeliveries": "count",
        "GET /healthz": "ok",
        "GET /readyz": "reasons",
        "GET /metrics": "gateway_build_info",
        "GET /openapi.json": "3.1.0",
        **{f"GET {at}/api/v1/jobs/recordInfo": "resultJson" for at in ("", "/u/aigptimage")},
        **{f"POST {at}/api/v1/jobs/createTask": "taskId" for at in ("", "/u/aigptimage")},
    }
    assert calls.keys() | {"POST /v1/callbacks", "DELETE /v1/callbacks/{id}"} == found.keys()
    told = await ran(language, (example(call, callback_id) for call in calls))
    wrong = [(call, text[:500]) for (call, wanted), text in zip(calls.items(), told, strict=True) if wanted not in text]
    assert wrong == []
    receiver.answers.set()
    await ran(language, [example("DELETE /v1/callbacks/{id}", waiting)])
    assert (await run.client.get(f"/v1/callbacks/{waiting}")).json()["state"] == "cancelled"
