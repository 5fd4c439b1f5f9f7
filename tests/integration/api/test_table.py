"""Every row of the table of calls against what is really answered: statuses, content types and members."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import Response

from gateway.app.build import build
from gateway.config.load import load
from gateway.config.tokens import hash_line, make_token
from gateway.core.clock import SystemClock
from gateway.core.eventledger import EVENT_TYPES
from gateway.serve.asgi import serve_asgi
from gateway.signature import parse_secrets, verify
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.jsonschema import faults
from tests.running import LIMIT_S, running
from tests.waiting import a_moment

NOWHERE = "http://127.0.0.1:1/hooks"  # nothing listens there
PATHS = {"id": "cb_none", "taskId": "none"}
SHARED = {  # what every call of a group may be answered, by tag
    "callbacks": {"401", "403", "422", "429", "503"},
    "tasks": {"401", "403", "422", "429", "503"},
    "operating": {"403", "503"},
    "upstream": {"401", "403", "422", "429", "502", "503", "504", "default"},
}
BODY = {"400", "408", "413", "415"}  # 408 is the server's, and 502 and 504 the upstream's: other tests see these
NEED_TOKEN = ("callbacks", "tasks", "upstream")


class Client:
    """Asks one gateway, and holds each answer against the gateway's own document."""

    def __init__(self, api: httpx.AsyncClient, document: dict[str, Any]) -> None:
        self.api = api
        self.document = document
        self.operations = {
            operation["operationId"]: (method, path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
        }
        self.seen: set[tuple[str, str]] = set()

    async def ask(self, operation_id: str, *, path: dict[str, str] = PATHS, **request: Any) -> httpx.Response:
        method, template, operation = self.operations[operation_id]
        answer = await self.api.request(method.upper(), template.format_map(path), **request)
        status = str(answer.status_code)
        assert status in operation["responses"], (operation_id, status, answer.text)
        self.seen.add((operation_id, status))
        told = operation["responses"][status].get("content", {})
        media_type = answer.headers.get("content-type", "").partition(";")[0]
        assert set(told) == ({media_type} if answer.content else set()), (operation_id, status)
        if answer.content:
            value = answer.text if media_type == "text/plain" else answer.json()
            assert list(faults(value, told[media_type]["schema"], self.document["components"]["schemas"])) == []
        return answer

    def of(self, *tags: str) -> list[str]:
        """Return the operations that have one of the tags."""
        return [name for name, (_, _, operation) in self.operations.items() if operation["tags"][0] in tags]


@asynccontextmanager
async def asking(folder: Path, *, started: bool = True, **environ: str) -> AsyncIterator[Client]:
    """Run a gateway without sockets, whose upstream ends every task at once, or not even start it."""
    async with serve_simulator(SimulatedUpstream(SystemClock(), plans=Plan(duration_s=0))) as upstream_url:
        own = {
            "GATEWAY_DATABASE_URL": f"sqlite:///{folder / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": upstream_url,
            "GATEWAY_UPSTREAM_RATE": "1000/1",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
            "GATEWAY_RETRY_SCHEDULE": "0",
            "GATEWAY_POLL_MIN_S": "0.05",
            "GATEWAY_DRAIN_S": "0.1",
        }
        gateway = build(load(own | environ), SystemClock())
        if started:
            await gateway.start()
        try:
            transport = httpx.ASGITransport(gateway)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=LIMIT_S) as api:
                yield Client(api, (await api.get("/openapi.json")).json())
        finally:
            await gateway.drain()
            await gateway.close()


def body(task_id: str, **members: Any) -> dict[str, Any]:
    return {"taskId": task_id, "callbackUrl": NOWHERE, **members}


async def died(client: Client, callback_id: str) -> None:
    async with asyncio.timeout(LIMIT_S):
        while (await client.ask("getCallback", path={"id": callback_id})).json()["state"] != "dead":
            await a_moment()


async def test_every_answer_that_a_row_names(tmp_path: Path) -> None:
    """Each status of a row that is not its whole group's is given, and every answer is as the document says."""
    async with asking(tmp_path) as client:
        made = await client.ask("registerCallback", json=body("sim-never-0-a", metadata={"orderId": 7}))
        waiting = {"id": made.json()["id"], "taskId": "sim-never-0-a"}
        await client.ask("registerCallback", json=body("sim-never-0-a", metadata={"orderId": 7}))
        await client.ask("registerCallback", json=body("sim-never-0-a"))
        await client.ask("getTask", path=waiting)
        await client.ask("redeliverCallback", path=waiting)
        await client.ask("redeliverCallback", content=b"x", headers={"content-type": "text/plain"})
        batch = [body("sim-success-0-b"), body("sim-never-0-a"), {"taskId": 7}]
        answers = (await client.ask("registerCallbacks", json={"callbacks": batch})).json()["data"]
        assert [answer["status"] for answer in answers] == [201, 409, 422]
        dead = {"id": answers[0]["callback"]["id"], "taskId": "sim-success-0-b"}
        await died(client, dead["id"])
        for name in ("getTask", "listAttempts", "cancelCallback"):
            await client.ask(name, path=dead)
        await client.ask("listCallbacks", params={"limit": "1"})
        await client.ask("listCallbacks")
        await client.ask("redeliverCallbacks", json={"state": "dead", "dryRun": True, "receiver": "http://127.0.0.1"})
        await client.ask("redeliverCallbacks", json={"state": "dead"})
        await died(client, dead["id"])
        await client.ask("redeliverCallback", path=dead)
        await client.ask("cancelCallback", path=waiting)
        for name in ("getCallback", "listAttempts", "cancelCallback", "redeliverCallback", "getTask"):
            await client.ask(name)
        for name in client.of("operating"):
            await client.ask(name)
        for whose in ("Upstream", "Aigptimage"):  # at the root, and at its mount
            asked = {"model": "m", "input": {}, "callBackUrl": NOWHERE}
            mine = {"x-request-id": f"r-{whose}"}
            created = await client.ask(f"create{whose}Task", json=asked, headers=mine)
            await client.ask(f"create{whose}Task", json={**asked, "model": "n"}, headers=mine)
            await client.ask(f"read{whose}Task", params={"taskId": created.json()["data"]["taskId"]})
        named = {
            (name, status)
            for name, (_, _, operation) in client.operations.items()
            for status in operation["responses"].keys() - SHARED[operation["tags"][0]]
            if status not in BODY or "requestBody" not in operation
        }
        assert named - client.seen == set()


async def test_what_a_gateway_that_asks_no_token_refuses(tmp_path: Path) -> None:
    """Another site's page, and bodies and queries that cannot be read: in every group, and of every call."""
    async with asking(tmp_path) as client:
        for name in client.of(*SHARED):
            assert (await client.ask(name, headers={"origin": "https://evil.example"})).status_code == 403
        for name in client.of("callbacks", "tasks"):
            assert (await client.ask(name, params={"nonsense": "1"}, json={})).status_code == 422
        assert (await client.ask("readUpstreamTask")).status_code == 422
        assert (await client.ask("createUpstreamTask", json={}, headers={"x-request-id": "a b"})).status_code == 422
        bodies = [name for name, (_, _, operation) in client.operations.items() if "requestBody" in operation]
        assert len(bodies) == 5
        for name in bodies:
            for status, content, headers in (
                (400, b"{", {"content-type": "application/json"}),
                (413, b"{}", {"content-type": "application/json", "content-length": "99999999"}),
                (415, b"{}", {"content-type": "text/plain"}),
            ):
                assert (await client.ask(name, content=content, headers=headers)).status_code == status


async def test_whom_a_gateway_with_tokens_refuses(tmp_path: Path) -> None:
    """Who has none, and who has used up a rate: every call that needs one."""
    token = make_token()
    config = tmp_path / "gateway.toml"
    config.write_text(f'[clients.shop]\ntoken_hashes = ["{hash_line(token)}"]\nrate = "1/3600"\n')
    async with asking(tmp_path, GATEWAY_CONFIG=str(config)) as client:
        for name in client.of(*NEED_TOKEN):
            assert (await client.ask(name)).status_code == 401
        client.api.headers["authorization"] = f"Bearer {token}"
        await client.api.get("/v1/callbacks")
        for name in client.of(*NEED_TOKEN):
            assert (await client.ask(name)).status_code == 429


async def test_what_a_gateway_that_is_starting_answers(tmp_path: Path) -> None:
    """Every call that needs a token waits, the probes tell why, and the document is there."""
    async with asking(tmp_path, started=False) as client:
        for name in (*client.of(*NEED_TOKEN), "getReadiness"):
            assert (await client.ask(name)).status_code == 503
        assert (await client.ask("getDescription")).status_code == 200


async def test_every_call_names_what_its_group_shares(tmp_path: Path) -> None:
    """And all that may befall a body, where it takes one."""
    async with asking(tmp_path, started=False) as client:
        for name, (_, path, operation) in client.operations.items():
            (tag,) = operation["tags"]
            assert operation["responses"].keys() >= SHARED[tag], name
            if "requestBody" in operation and path.startswith("/v1/"):
                assert operation["responses"].keys() >= BODY, name


class Hooks:
    """A receiver that keeps what comes."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.posts.append((dict(request.headers), await request.body()))
        await Response(status_code=204)(scope, receive, send)


async def test_webhooks_are_what_the_document_says(tmp_path: Path) -> None:
    """Each of the three, and each in the other format, has the members and headers that are told of and no others.

    Operator events are held to it where they are sent.
    """
    hooks = Hooks()
    upstream = SimulatedUpstream(SystemClock(), plans=Plan(duration_s=0))
    async with (
        serve_simulator(upstream) as upstream_url,
        serve_asgi(hooks) as url,
        running(tmp_path, upstream_url, GATEWAY_RECORD_HMAC_KEY="key") as gateway,
    ):
        gateway.client.headers.update({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"})
        for task_id in ("sim-success-0-a", "sim-fail-0-b", "sim-never-0-c"):
            for shape in ("standard", "record"):
                asked = {"metadata": {"orderId": 7}, "timeoutSeconds": 1, "format": shape}
                answer = await gateway.register(f"{task_id}{shape}", url, **asked)
                await gateway.delivered(answer.json()["id"])
        document = (await gateway.client.get("/openapi.json")).json()
        secrets = parse_secrets(gateway.gateway.secret)
    bodies = [json.loads(body) for _, body in hooks.posts]
    assert {body.get("type", "record") for body in bodies} == document["webhooks"].keys() - EVENT_TYPES
    assert [body["code"] for body in bodies if "code" in body] == [200, 501, 408]
    for (headers, raw), told in zip(hooks.posts, bodies, strict=True):
        operation = document["webhooks"][told.get("type", "record")]["post"]
        schema = operation["requestBody"]["content"][headers["content-type"]]["schema"]
        assert list(faults(told, schema, document["components"]["schemas"])) == []
        named = {parameter["name"] for parameter in operation["parameters"]}
        assert named == {name for name in headers if name.startswith(("webhook-", "x-webhook-", "trace"))}
        verify(secrets, headers, raw, now_s=SystemClock().now() / 1000)
