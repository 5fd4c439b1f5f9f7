"""The operator of several clients: sees, redelivers and cancels everybody's callbacks, and registers nothing."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks
import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.app.build import build
from gateway.app.gateway import Gateway
from gateway.config.load import load
from gateway.config.tokens import hash_line
from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.signature import make_secret
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator

SECRET, SHOPS_SECRET = make_secret(), make_secret()
CLIENTS = {"default": "own", "shop": "shops", "inn": "inns"}
OPERATOR = "the-operators"
LIMIT = 2000  # looks


class Hooks:
    """A receiver that answers with ``status`` and keeps what comes."""

    def __init__(self) -> None:
        self.status = 500
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        self.posts.append(({name.decode(): value.decode() for name, value in scope["headers"]}, body))
        await Response(status_code=self.status)(scope, receive, send)


class Stand:
    """One gateway on a file, with any of the clients; a simulated upstream and a receiver that outlive it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hooks = Hooks()
        self.upstream_url = ""
        self.gateway: Gateway

    @asynccontextmanager
    async def running(self, *clients: str, extra: str = "", **environ: str) -> AsyncIterator[Gateway]:
        tables = [f'[clients.{name}]\ntoken_hash = "{hash_line(CLIENTS[name])}"' for name in clients]
        secret = f'webhook_secret = "{SHOPS_SECRET}"' if "shop" in clients[-1:] else ""
        path = self.folder / "gateway.toml"
        path.write_text("\n".join([extra, *tables, secret]))
        settings = {
            "GATEWAY_DATABASE_URL": f"sqlite:///{self.folder / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": self.upstream_url,
            "GATEWAY_UPSTREAM_RATE": "1000/1",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
            "GATEWAY_POLL_MIN_S": "0.05",
            "GATEWAY_RETRY_SCHEDULE": "0",
            "GATEWAY_WEBHOOK_SECRET": SECRET,
            "GATEWAY_TOKEN": CLIENTS["default"],
            "GATEWAY_OPERATOR_TOKEN": OPERATOR,
        }
        self.gateway = gateway = build(load(settings | environ, path), SystemClock())
        try:
            await gateway.start()
            yield gateway
        finally:
            await gateway.drain()
            await gateway.close()

    def api(self, token: str | None) -> httpx.AsyncClient:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(self.gateway)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)

    async def register(self, client: str, task_id: str, **members: Any) -> dict[str, Any]:
        async with self.api(CLIENTS[client]) as api:
            body = {"taskId": task_id, "callbackUrl": f"{self.hooks.url}/hooks", **members}
            answer = await api.post("/v1/callbacks", json=body)
        assert answer.status_code == 201, answer.text
        callback: dict[str, Any] = answer.json()
        assert "client" not in callback
        return callback

    async def becomes(self, state: str, *callbacks: dict[str, Any]) -> None:
        async with self.api(OPERATOR) as api:
            for callback in callbacks:
                for _ in range(LIMIT):
                    if (await api.get(f"/v1/callbacks/{callback['id']}")).json()["state"] == state:
                        break
                else:
                    pytest.fail(f"{callback['id']} did not become {state}")


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    """No gateway runs yet."""
    async with AsyncExitStack() as stack:
        made = Stand(tmp_path)
        made.upstream_url = await stack.enter_async_context(serve_simulator(SimulatedUpstream(SystemClock())))
        made.hooks.url = await stack.enter_async_context(serve_asgi(made.hooks))
        yield made


async def test_lists_hold_everybodys_and_name_the_client(stand: Stand) -> None:
    """Newest first and in pages, whatever is asked for; with ?client= one client's."""
    async with stand.running("inn", "shop"), stand.api(OPERATOR) as api:
        made = [await stand.register(client, f"sim-never-0-{n}") for n in range(3) for client in CLIENTS]
        newest = [callback["id"] for callback in reversed(made)]
        whose = list(reversed(CLIENTS)) * 3
        for query in ("", "&state=waiting"):
            seen: list[dict[str, Any]] = []
            cursor = ""
            while True:
                page = (await api.get(f"/v1/callbacks?limit=2{query}{cursor}")).json()
                seen += page["data"]
                if page["nextCursor"] is None:
                    break
                cursor = f"&cursor={page['nextCursor']}"
            assert [(callback["id"], callback["client"]) for callback in seen] == list(zip(newest, whose, strict=True))
        shops = (await api.get("/v1/callbacks?client=shop")).json()["data"]
        assert {callback["client"] for callback in shops} == {"shop"}
        assert len(shops) == 3
        by_task = (await api.get("/v1/callbacks?taskId=sim-never-0-1")).json()["data"]
        assert [callback["client"] for callback in by_task] == list(reversed(CLIENTS))
        assert (await api.get("/v1/callbacks?client=nobody")).json()["data"] == []
        assert (await api.get("/v1/callbacks?state=dead")).json()["data"] == []


async def test_one_callback_its_task_and_its_end(stand: Stand) -> None:
    """Read with its client's name, its attempts and its task; cancelled and redelivered."""
    async with stand.running("inn", "shop"), stand.api(OPERATOR) as api:
        waiting = await stand.register("inn", "sim-never-0-w")
        dead = await stand.register("shop", "sim-success-0-d")
        await stand.becomes("dead", dead)
        shown = (await api.get(f"/v1/callbacks/{dead['id']}")).json()
        assert (shown["client"], shown["state"]) == ("shop", "dead")
        (attempt,) = (await api.get(f"/v1/callbacks/{dead['id']}/attempts")).json()["data"]
        assert attempt["statusCode"] == 500
        assert (await api.get("/v1/tasks/sim-success-0-d")).json()["state"] == "success"
        assert (await api.get("/api/v1/jobs/recordInfo?taskId=sim-success-0-d")).json()["data"]["state"] == "success"
        assert (await api.delete(f"/v1/callbacks/{waiting['id']}")).status_code == 204
        await stand.becomes("cancelled", waiting)
        stand.hooks.status = 204
        again = await api.post(f"/v1/callbacks/{dead['id']}/redeliver")
        assert (again.status_code, again.json()["client"]) == (202, "shop")
        await stand.becomes("delivered", dead)
        headers, body = stand.hooks.posts[-1]
        standardwebhooks.Webhook(SHOPS_SECRET).verify(body, headers)


async def test_the_dead_letters_of_a_client_that_is_gone(stand: Stand) -> None:
    """They are listed and redelivered, all of them or one client's, and signed with the default secret."""
    async with stand.running("inn", "shop"):
        dead = [await stand.register(client, "sim-success-0-g") for client in CLIENTS]
        await stand.becomes("dead", *dead)
    stand.hooks.status = 204
    stand.hooks.posts.clear()
    async with stand.running(), stand.api(OPERATOR) as api:
        listed = (await api.get("/v1/callbacks?state=dead")).json()["data"]
        assert [callback["client"] for callback in listed] == list(reversed(CLIENTS))
        one = await api.post("/v1/redeliveries", json={"state": "dead", "client": "shop"})
        assert (one.status_code, one.json()) == (202, {"count": 1})
        await stand.becomes("delivered", dead[1])
        headers, body = stand.hooks.posts[0]
        standardwebhooks.Webhook(SECRET).verify(body, headers)
        assert (await api.post("/v1/redeliveries", json={"state": "dead"})).json() == {"count": 2}
        await stand.becomes("delivered", *dead)


async def test_the_operator_registers_nothing(stand: Stand) -> None:
    """A create through the proxy is not forwarded either: it costs money, and its callback would be nobody's."""
    body = {"taskId": "sim-never-0-n", "callbackUrl": f"{stand.hooks.url}/hooks"}
    async with stand.running("shop"), stand.api(OPERATOR) as api:
        for path, sent in (("", body), ("/batch", {"callbacks": [body]})):
            answer = await api.post(f"/v1/callbacks{path}", json=sent)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        created = await api.post("/api/v1/jobs/createTask", json={"model": "m", "callBackUrl": body["callbackUrl"]})
        assert (created.status_code, created.json()["code"]) == (403, 403)
        assert (await api.get("/v1/callbacks")).json()["data"] == []


async def test_a_client_names_no_other(stand: Stand) -> None:
    """Only the operator chooses whose callbacks are meant."""
    async with stand.running("shop"), stand.api(CLIENTS["shop"]) as api:
        for client in ("shop", "default"):
            listed = await api.get(f"/v1/callbacks?client={client}")
            redelivered = await api.post("/v1/redeliveries", json={"state": "dead", "client": client})
            for answer in (listed, redelivered):
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_with_no_other_token_everybody_else_is_the_default_client(stand: Stand) -> None:
    """The operator's token makes nobody else show one; without one, or with any, callers see their own alone."""
    async with stand.running(GATEWAY_TOKEN=""), stand.api(None) as api, stand.api("any") as other:
        body = {"taskId": "sim-never-0-o", "callbackUrl": f"{stand.hooks.url}/hooks"}
        assert (await api.post("/v1/callbacks", json=body)).status_code == 201
        for each in (api, other):
            (listed,) = (await each.get("/v1/callbacks")).json()["data"]
            assert "client" not in listed
        async with stand.api(OPERATOR) as operator:
            (listed,) = (await operator.get("/v1/callbacks")).json()["data"]
            assert listed["client"] == "default"


async def test_callbacks_of_an_upstream_that_is_gone_stay(stand: Stand) -> None:
    """The start warns, the callback says why it waits, and it goes on once the upstream is there again."""
    extra = f'[upstreams.second]\nprofile = "kie"\nurl = "{stand.upstream_url}"\n'
    stand.hooks.status = 204
    async with stand.running(extra=extra):
        await stand.register("default", "sim-never-0-stays")
        kept = await stand.register("default", "sim-success-3600000-kept", upstream="second")
        assert kept["task"]["lastError"] is None
    with structlog.testing.capture_logs() as logs:
        async with stand.running(), stand.api(CLIENTS["default"]) as api:
            for path in (f"/v1/callbacks/{kept['id']}", "/v1/tasks/sim-success-3600000-kept"):
                shown = (await api.get(path)).json()
                task = shown.get("task", shown)
                assert task["lastError"] == "The upstream second is not configured: nobody polls this task."
                assert (shown["state"], task["nextPollAt"]) == ("waiting", None)
            (listed, other) = (await api.get("/v1/callbacks")).json()["data"]
            assert (listed["id"], bool(listed["task"]["lastError"])) == (kept["id"], True)
            assert other["task"]["lastError"] is None
    (warning,) = [entry for entry in logs if entry["event"] == "upstream.not_configured"]
    assert (warning["upstream"], warning["tasks"], warning["log_level"]) == ("second", 1, "warning")
    async with stand.running(extra=extra), stand.api(CLIENTS["default"]) as api:
        assert (await api.get(f"/v1/callbacks/{kept['id']}")).json()["task"]["nextPollAt"] is not None
