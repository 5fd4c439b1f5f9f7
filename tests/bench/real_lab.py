"""The live laboratory's orders in real time: a ``gateway serve`` process between an upstream and a receiver of ours.

Owns the sockets and the client. The upstream is ``live_lab``'s, so that what differs is the gateway alone. Tasks whose
model is to be told are created through the proxy; the others are registered. The key has no limit here, nobody restarts
the gateway, and what is measured waits for what has taught. Called by ``lag`` and by a test.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from tests.bench.live_lab import Job, Orders, Seen, Upstream
from tests.crash.process import environment, run_gateway

__all__ = ["run"]

_CREATE = "/api/v1/jobs/createTask"
_UNLIMITED = "100000/1"
_LIMIT_S = 900.0


async def run(orders: Orders) -> list[Seen]:
    """Run it all; return what became of the tasks that are measured, in their order."""
    upstream = Upstream(SystemClock())
    sides = _Sides(upstream)
    with TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "gateway.toml"
        config.write_text(f'[upstreams.aigptimage]\ncreate_rate = "{_UNLIMITED}"\n', "utf-8")
        async with serve_asgi(sides) as url:
            environ = environment(folder / "gateway.db", url) | {
                "GATEWAY_CONFIG": str(config),
                "GATEWAY_UPSTREAM_API_KEY": "sk-upstream",
                "GATEWAY_UPSTREAM_RATE": _UNLIMITED,
                "GATEWAY_POLL_MIN_S": str(orders.min_s),
                "GATEWAY_POLL_MAX_S": str(orders.max_s),
            }
            async with (
                run_gateway(environ, folder) as gateway,
                httpx.AsyncClient(base_url=gateway.url, timeout=30, trust_env=False, verify=False) as client,
            ):
                asked = _Asked(sides, client, f"{url}/hook", told=orders.told)
                await asked.register("taught", orders.taught)
                await upstream.all_noticed(_LIMIT_S)
                seen = await asked.register("measured", orders.measured)
                await upstream.all_noticed(_LIMIT_S)
                await gateway.stop()
    return seen


class _Sides:
    """The upstream and the receiver, as one ASGI application."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.jobs: dict[str, Job] = {}
        """What will be created through the proxy, by the task's id."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, status = await Request(scope, receive).body(), 200
        if scope["path"] == "/hook":
            status, answer = 204, b""
        elif scope["path"] == _CREATE:
            task_id = msgspec.json.decode(body)["input"]["taskId"]
            self.upstream.create(task_id, self.jobs.pop(task_id))
            answer = msgspec.json.encode({"code": 200, "msg": "success", "data": {"taskId": task_id}})
        else:
            (task_id,) = parse_qs(scope["query_string"].decode())["taskId"]
            answer = self.upstream.answer(task_id)
        await Response(answer, status, media_type="application/json")(scope, receive, send)


class _Asked:
    """What a client asks of the gateway."""

    def __init__(self, sides: _Sides, client: httpx.AsyncClient, hook: str, *, told: bool) -> None:
        self._sides = sides
        self._client = client
        self._hook = hook
        self._told = told

    async def register(self, name: str, jobs: Sequence[Job]) -> list[Seen]:
        """Register each at its time, whether or not the one before is answered; return the tasks in this order."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        async with asyncio.TaskGroup() as asking:
            for number, job in enumerate(jobs):
                await asyncio.sleep(began_s + job.at_s - loop.time())
                asking.create_task(self._register(f"{name}-{number}", job), name=f"register-{number}")
        return [self._sides.upstream.tasks[f"{name}-{number}"] for number in range(len(jobs))]

    async def _register(self, task_id: str, job: Job) -> None:
        if self._told:
            self._sides.jobs[task_id] = job
            body = {"model": job.model, "callBackUrl": self._hook, "input": {"taskId": task_id}}
            answer = await self._client.post(_CREATE, json=body)
        else:
            self._sides.upstream.create(task_id, job)
            answer = await self._client.post("/v1/callbacks", json={"taskId": task_id, "callbackUrl": self._hook})
        answer.raise_for_status()
