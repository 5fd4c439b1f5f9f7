"""A whole gateway in virtual time, programs that read by the upstream's own calls, and an upstream that is told apart.

Owns what the upstream was asked, and what it told when. Called by the integration tests of the proxy's reads.
"""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from gateway.app.build import build
from gateway.app.gateway import Gateway
from gateway.config.load import load
from gateway.simulator.app import SimulatedUpstream
from gateway.simulator.scenario import Plan
from tests.life import Transport
from tests.virtualtime import InlineConnection, VirtualClock

__all__ = ["CREATE", "HOOK", "RECORD", "Predictions", "Served", "World"]

PREDICTIONS = """
name = "predictions"
base_url = "https://api.example.com"
[request]
status_path = "/v1/predictions/{task_id}"
[states]
path = "status"
success = ["succeeded"]
fail = ["failed"]
[fields]
task_id = "id"
result = "output"
[proxy]
create_path = "/v1/predictions"
created_id = "id"
created_is_record = true
callback_members = ["webhook"]
pass = ["POST /v1/predictions/{id}/cancel", "/v1/predictions/{id}/cancel"]
"""
RECORD = "/api/v1/jobs/recordInfo"
CREATE = "/api/v1/jobs/createTask"
HOOK = "https://app.example.com/hooks"


class World:
    """The simulator far away, which tells more of its tasks than the gateway's own envelope has, and gateways."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = VirtualClock()
        self.simulator = SimulatedUpstream(self.clock, plans=Plan(duration_s=100))
        self.asked: defaultdict[str, list[float]] = defaultdict(list)
        """When each task was asked about."""
        self._told: defaultdict[str, list[tuple[float, Any]]] = defaultdict(list)
        self.urls: list[str] = []
        self.denied: set[str] = set()
        """The tasks that the upstream knows nothing of any more."""
        self._inner = httpx.ASGITransport(app=self.simulator)

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.urls.append(str(request.url))
        if (task_id := request.url.params.get("taskId")) is not None:
            self.asked[task_id].append(self.clock.monotonic())
        await asyncio.sleep(0.05)
        if task_id in self.denied:
            return httpx.Response(404, json={"code": 404, "msg": "no such task", "data": None})
        response = await self._inner.handle_async_request(request)
        answer = json.loads(await response.aread())
        if task_id is not None and isinstance(answer.get("data"), dict) and "taskId" in answer["data"]:
            answer["data"] |= {"progress": f"{len(self.asked[task_id]) / 100}", "queue": {"place": 3}}
            self._told[task_id].append((self.clock.monotonic(), answer["data"]))
        await asyncio.sleep(0.05)
        return httpx.Response(response.status_code, json=answer)

    @asynccontextmanager
    async def gateway(self, **environ: str) -> AsyncIterator["Served"]:
        own = {
            "GATEWAY_DATABASE_URL": f"sqlite:///{self.folder / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": "https://up.example",
            "GATEWAY_UPSTREAM_RATE": "100/1",
        }
        gateway = build(load(own | environ), self.clock)
        for watch in gateway.watches:
            watch.upstream._transport = Transport(self.answer)
        await gateway.start()
        transport = httpx.ASGITransport(gateway)
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:
                yield Served(gateway, client)
        finally:
            await gateway.drain()
            await gateway.close()

    def told(self, task_id: str, data: Any) -> bool:
        """Whether this is what was told of a task last, or before that, where that is on its way yet."""
        now_s, said = self.clock.monotonic(), self._told[task_id]
        return data in [one for at, one in said[-2:] if one is said[-1][1] or said[-1][0] > now_s - 0.1]

    def asked_between(self, first_s: float, last_s: float) -> int:
        return sum(first_s <= at < last_s for times in self.asked.values() for at in times)


class Served:
    """One gateway, and clients of it."""

    def __init__(self, gateway: Gateway, client: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.client = client

    async def read(self, task_id: str, token: str = "", **params: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return await self.client.get(RECORD, params={"taskId": task_id, **params}, headers=headers)

    async def data(self, task_id: str, token: str = "", **params: str) -> Any:
        answer = await self.read(task_id, token, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def register(self, task_id: str, token: str = "", **members: Any) -> str:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        body = {"taskId": task_id, "callbackUrl": HOOK, **members}
        answer = await self.client.post("/v1/callbacks", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def polls(self) -> int:
        """Return how many polls the gateway has made by itself."""
        text = (await self.client.get("/metrics")).text
        return sum(int(float(value)) for value in re.findall(r"^gateway_polls_total{.*} (\S+)$", text, re.MULTILINE))

    async def reads(self) -> dict[str, int]:
        text = (await self.client.get("/metrics")).text
        found = re.findall(r'^gateway_proxied_requests_total{call="read",outcome="(\w+)"} (\S+)$', text, re.MULTILINE)
        return {label: int(float(value)) for label, value in found}

    async def rows(self, statement: str) -> list[Any]:
        store: Any = self.gateway.store
        found: list[Any] = await store._database.read(statement)
        return found

    @property
    def connection(self) -> InlineConnection:
        store: Any = self.gateway.store
        connection = store._database._db
        assert isinstance(connection, InlineConnection)
        return connection


class Predictions(World):
    """An API whose answers the gateway could not write by itself: they have no envelope, and the id is in the path."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "predictions.toml").write_text(PREDICTIONS)
        self.ended: dict[str, float] = {}
        """When each prediction ends …"""
        self.words: dict[str, str] = {}
        """… and how, where that is not well."""
        self.slow_s: list[float] = []
        """For how long each of the next answers is on its way."""

    async def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/cancel"):
            task_id = request.url.path.split("/")[-2]
            if request.method == "POST":
                self.ended[task_id], self.words[task_id] = self.clock.monotonic(), "failed"
            return httpx.Response(200, json=self.tell(task_id))
        if request.method == "POST":
            task_id = f"p{len(self.ended)}"
            self.ended[task_id] = self.clock.monotonic() + json.loads(request.content)["seconds"]
        else:
            task_id = request.url.path.rpartition("/")[2]
            self.asked[task_id].append(self.clock.monotonic())
        told = self.tell(task_id)
        self._told[task_id].append((self.clock.monotonic(), told))
        if self.slow_s:
            await asyncio.sleep(self.slow_s.pop(0))
        return httpx.Response(201 if request.method == "POST" else 200, json=told)

    def tell(self, task_id: str) -> dict[str, Any]:
        over = self.clock.monotonic() >= self.ended[task_id]
        word = self.words.get(task_id, "succeeded") if over else "processing"
        told = {"id": task_id, "status": word, "logs": str(len(self.asked[task_id]))}
        return told | {"output": ["https://x.example/1"] if over else None}

    def env(self) -> dict[str, str]:
        return {"GATEWAY_PROFILES": str(self.folder), "GATEWAY_UPSTREAM": "predictions"}
