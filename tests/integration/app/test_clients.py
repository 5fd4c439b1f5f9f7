"""Two clients of one gateway: neither sees, changes, signs for or slows down the other."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks
from starlette.requests import Request
from starlette.responses import Response

from gateway.app.build import build
from gateway.app.gateway import Gateway
from gateway.app.preflight import preflight
from gateway.config.load import load
from gateway.config.tokens import hash_line, make_token
from gateway.core.clock import SystemClock
from gateway.core.shares import WHOLE, Shares
from gateway.serve.asgi import serve_asgi
from gateway.signature import make_secret
from gateway.simulator import Fault, FaultKind, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from gateway.store.registry import _REDELIVERED_AT_ONCE, StoreRegistry
from tests.dashboard import Visitor

DEFAULT_SECRET, SHOP_SECRET, OLD_SHOP_SECRET = make_secret(), make_secret(), make_secret()
TOKENS = {"default": "own-token", "shop": make_token(), "inn": make_token()}
NEW_INN_TOKEN = make_token()


class Hooks:
    """A receiver that keeps what comes."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.url = ""
        self._news = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        self.posts.append(({name.decode(): value.decode() for name, value in scope["headers"]}, body))
        self._news.set()
        await Response(status_code=204)(scope, receive, send)

    async def first(self) -> tuple[dict[str, str], bytes]:
        """Wait for the first webhook."""
        async with asyncio.timeout(20):
            await self._news.wait()
        return self.posts[0]


class Clients:
    """One gateway, a simulated upstream of each name, and of each client a receiver, an API client and a visitor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hooks = {name: Hooks() for name in TOKENS}
        self.simulators = {name: SimulatedUpstream(SystemClock()) for name in ("aigptimage", "second")}
        self.api: dict[str, httpx.AsyncClient] = {}
        self.visitors: dict[str, Visitor] = {}
        self.environ: dict[str, str] = {}
        self.gateway: Gateway

    async def start(self, stack: AsyncExitStack) -> None:
        urls = {name: await stack.enter_async_context(serve_simulator(app)) for name, app in self.simulators.items()}
        for hooks in self.hooks.values():
            hooks.url = await stack.enter_async_context(serve_asgi(hooks))
        path = self.folder / "gateway.toml"
        path.write_text(f"""
            [upstreams.second]
            profile = "aigptimage"
            url = "{urls["second"]}"
            rate = "100/1"
            create_rate = "100/1"

            [upstreams.aigptimage]
            create_rate = "100/1"

            [clients.shop]
            token_hash = "{hash_line(TOKENS["shop"])}"
            webhook_secret = "{SHOP_SECRET} {OLD_SHOP_SECRET}"
            headers = {{ Authorization = "Bearer for-shops-receiver", X-Team = "shop" }}

            [clients.inn]
            token_hashes = ["{hash_line(TOKENS["inn"])}", "{hash_line(NEW_INN_TOKEN)}"]
            upstream = "second"
            rate = "40/3600"
        """)
        self.environ = {
            "GATEWAY_DATABASE_URL": f"sqlite:///{self.folder / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": urls["aigptimage"],
            "GATEWAY_UPSTREAM_RATE": "100/1",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
            "GATEWAY_POLL_MIN_S": "0.05",
            "GATEWAY_WEBHOOK_SECRET": DEFAULT_SECRET,
            "GATEWAY_TOKEN": TOKENS["default"],
        }
        self.gateway = build(load(self.environ, path), SystemClock())
        stack.push_async_callback(self.gateway.close)
        await self.gateway.start()
        stack.push_async_callback(self.gateway.drain)
        for name, token in TOKENS.items():
            self.api[name] = await stack.enter_async_context(self.client(token))
            visitor = Visitor("http://localhost", httpx.ASGITransport(self.gateway))
            self.visitors[name] = await stack.enter_async_context(visitor)

    def client(self, token: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.gateway)
        headers = {"authorization": f"Bearer {token}"}
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)

    async def sign_in(self, client: str) -> str:
        """Sign the client's visitor in; return what proves its forms."""
        await self.visitors[client].sign_in(TOKENS[client])
        return await self.visitors[client].csrf("/dashboard/receivers")

    async def register(self, client: str, task_id: str, **members: Any) -> dict[str, Any]:
        """Register the client's receiver for a task."""
        body = {"taskId": task_id, "callbackUrl": f"{self.hooks[client].url}/hooks", **members}
        answer = await self.api[client].post("/v1/callbacks", json=body)
        assert answer.status_code == 201, answer.text
        callback: dict[str, Any] = answer.json()
        return callback


@pytest.fixture
async def clients(tmp_path: Path) -> AsyncIterator[Clients]:
    """A running gateway with the clients default, shop and inn."""
    async with AsyncExitStack() as stack:
        made = Clients(tmp_path)
        await made.start(stack)
        yield made


async def test_another_clients_callback_is_404_everywhere(clients: Clients) -> None:
    """Reading, its attempts, cancelling, redelivering, its task: as if it did not exist, and nothing happens to it."""
    mine = await clients.register("shop", "sim-never-0-mine")
    path = f"/v1/callbacks/{mine['id']}"
    for other in ("inn", "default"):
        for method, where in (
            ("GET", path),
            ("GET", f"{path}/attempts"),
            ("DELETE", path),
            ("POST", f"{path}/redeliver"),
            ("GET", "/v1/tasks/sim-never-0-mine"),
        ):
            answer = await clients.api[other].request(method, where)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), (method, where)
            never = await clients.api[other].request(method, where.replace(mine["id"], "cb_0").replace("mine", "none"))
            assert list(never.json()) == list(answer.json()), "nothing tells that it exists"
    assert (await clients.api["shop"].get(path)).json()["state"] == "waiting"
    assert (await clients.api["shop"].get("/v1/tasks/sim-never-0-mine")).status_code == 200


async def test_lists_and_bulk_redelivery_keep_to_the_client(clients: Clients) -> None:
    """Each lists its own, also by another's cursor and task; the same task and URL registered by two are two."""
    url = clients.hooks["shop"].url
    for client in TOKENS:
        for number in range(3):
            await clients.register(client, f"sim-never-0-{number}", callbackUrl=url, upstream="aigptimage")
    pages = {name: (await api.get("/v1/callbacks?limit=2")).json() for name, api in clients.api.items()}
    listed = {name: (await api.get("/v1/callbacks")).json()["data"] for name, api in clients.api.items()}
    assert [len(found) for found in listed.values()] == [3, 3, 3]
    ids = [callback["id"] for found in listed.values() for callback in found]
    assert len(set(ids)) == 9
    ours = {callback["id"] for callback in listed["inn"]}
    by_task = (await clients.api["inn"].get("/v1/callbacks?taskId=sim-never-0-1")).json()["data"]
    borrowed = (await clients.api["inn"].get("/v1/callbacks", params={"cursor": pages["shop"]["nextCursor"]})).json()
    assert len(by_task) == 1
    assert {callback["id"] for callback in (*by_task, *borrowed["data"])} <= ours
    assert (await clients.api["inn"].post("/v1/redeliveries", json={"state": "dead"})).json() == {"count": 0}


async def test_each_webhook_is_its_clients(clients: Clients) -> None:
    """Signed with the client's secrets alone, verified by the reference library; extra headers go to its receiver."""
    for client in TOKENS:
        await clients.register(client, f"sim-success-1-{client}")
    posts = {client: await clients.hooks[client].first() for client in TOKENS}
    secrets = {"default": {DEFAULT_SECRET}, "shop": {SHOP_SECRET, OLD_SHOP_SECRET}, "inn": {DEFAULT_SECRET}}
    for client, (headers, body) in posts.items():
        good = set()
        for secret in (DEFAULT_SECRET, SHOP_SECRET, OLD_SHOP_SECRET):
            try:
                standardwebhooks.Webhook(secret).verify(body, headers)
            except standardwebhooks.WebhookVerificationError:
                continue
            good.add(secret)
        assert good == secrets[client], client
    shop = posts["shop"][0]
    assert (shop["authorization"], shop["x-team"]) == ("Bearer for-shops-receiver", "shop")
    assert shop["content-type"] == "application/json"
    for client in ("default", "inn"):
        assert not {"authorization", "x-team"} & posts[client][0].keys()
    assert all(len(hooks.posts) == 1 for hooks in clients.hooks.values())


async def test_a_clients_default_upstream(clients: Clients) -> None:
    """A callback that names no upstream is its client's default one's; one that names another gets that."""
    ours = await clients.register("inn", "sim-never-0-u")
    theirs = await clients.register("shop", "sim-never-0-u")
    named = await clients.register("inn", "sim-never-0-v", upstream="aigptimage")
    assert [callback["upstream"] for callback in (ours, theirs, named)] == ["second", "aigptimage", "aigptimage"]
    unknown = {"taskId": "a", "callbackUrl": clients.hooks["inn"].url, "upstream": ""}
    assert (await clients.api["inn"].post("/v1/callbacks", json=unknown)).status_code == 422


async def test_both_tokens_work_while_they_change(clients: Clients) -> None:
    """token_hashes: the old and the new token are the same client."""
    mine = await clients.register("inn", "sim-never-0-t")
    async with clients.client(NEW_INN_TOKEN) as renewed:
        assert (await renewed.get(f"/v1/callbacks/{mine['id']}")).status_code == 200
    async with clients.client(make_token()) as stranger:
        assert (await stranger.get(f"/v1/callbacks/{mine['id']}")).status_code == 401


async def test_a_clients_rate(clients: Clients) -> None:
    """What is above it gets 429 as problem+json with Retry-After, and does nothing; the others do not notice."""
    answers = [await clients.api["inn"].get("/v1/callbacks") for _ in range(41)]
    assert [answer.status_code for answer in answers] == [200] * 40 + [429]
    refused = answers[-1]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["code"] == "rate_limited"
    assert 3590 <= int(refused.headers["retry-after"]) <= 3600
    body = {"taskId": "sim-never-0-l", "callbackUrl": clients.hooks["inn"].url}
    assert (await clients.api["inn"].post("/v1/callbacks", json=body)).status_code == 429
    assert (await clients.api["inn"].get("/api/v1/jobs/recordInfo")).status_code == 429
    assert (await clients.api["inn"].get("/healthz")).status_code == 200
    assert (await clients.api["shop"].get("/v1/callbacks")).status_code == 200


async def test_a_client_that_is_taken_out_of_the_settings(clients: Clients) -> None:
    """After a restart without its table its token is refused; its webhooks are signed with the default secret."""
    clients.simulators["aigptimage"].faults.add(Fault(kind=FaultKind.HTML))
    await clients.register("shop", "sim-success-1-gone")
    await clients.gateway.drain()
    await clients.gateway.close()
    clients.simulators["aigptimage"].faults.clear()
    clients.gateway = gateway = build(load(clients.environ), SystemClock())
    await gateway.start()
    try:
        async with clients.client(TOKENS["shop"]) as shop:
            assert (await shop.get("/v1/callbacks")).status_code == 401
        headers, body = await clients.hooks["shop"].first()
    finally:
        await gateway.drain()
        await gateway.close()
    standardwebhooks.Webhook(DEFAULT_SECRET).verify(body, headers)
    assert "authorization" not in headers


@pytest.mark.parametrize("named", [True, False])
async def test_only_another_upstream_is_wanted(tmp_path: Path, named: bool) -> None:
    """Named as the default it has the root paths too; else, where all clients mean it, there is no default upstream."""
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve_simulator(SimulatedUpstream(SystemClock())))
        hooks = Hooks()
        hooks.url = await stack.enter_async_context(serve_asgi(hooks))
        path = tmp_path / "gateway.toml"
        client = "" if named else '[clients.default]\nupstream = "kie"\n'
        path.write_text(f'[upstreams.kie]\nurl = "{url}"\nrate = "100/1"\n{client}')
        environ = {
            "GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path / 'gateway.db'}",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
            **({"GATEWAY_UPSTREAM": "kie"} if named else {}),
        }
        gateway = build(preflight(environ, path), SystemClock())
        stack.push_async_callback(gateway.close)
        await gateway.start()
        stack.push_async_callback(gateway.drain)
        transport = httpx.ASGITransport(gateway)
        api = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://localhost"))
        body = {"taskId": "sim-success-0-only", "callbackUrl": hooks.url}
        answer = await api.post("/v1/callbacks", json=body)
        assert (answer.status_code, answer.json()["upstream"]) == (201, "kie")
        await hooks.first()
        refused = await api.post("/v1/callbacks", json={**body, "upstream": "aigptimage"})
        assert (refused.status_code, refused.json()["detail"]) == (422, "upstream: is not configured; there is: kie")
        read = await api.get("/api/v1/jobs/recordInfo?taskId=sim-success-0-only")
        assert read.status_code == (200 if named else 404)


async def test_equal_request_ids_of_two_clients_are_two_requests(clients: Clients) -> None:
    """Each gets a task of its own, and the same one again; the answer has the id that the client sent."""
    tasks: dict[str, set[str]] = {"shop": set(), "inn": set()}
    for client in ("shop", "inn", "shop", "inn"):
        answer = await clients.api[client].post(
            "/api/v1/jobs/createTask", json={"model": "m", "input": {}}, headers={"x-request-id": "order-1"}
        )
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, "order-1")
        tasks[client].add(answer.json()["data"]["taskId"])
    assert [len(its) for its in tasks.values()] == [1, 1]
    assert tasks["shop"] != tasks["inn"]


async def test_a_bulk_redelivery_does_not_hold_up_its_clients_other_requests(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: each part has its turn in the client's share, and the others have theirs in between."""
    began, answered = asyncio.Event(), asyncio.Event()
    real = StoreRegistry._redeliver_some

    async def endless(self: StoreRegistry, client: str, about: Any) -> int:
        began.set()
        await real(self, client, about)
        return 0 if answered.is_set() else _REDELIVERED_AT_ONCE

    monkeypatch.setattr(StoreRegistry, "_redeliver_some", endless)
    redelivery = asyncio.create_task(clients.api["shop"].post("/v1/redeliveries", json={"state": "dead"}))
    try:
        async with asyncio.timeout(20):
            await began.wait()
            assert (await clients.api["shop"].get("/v1/callbacks?limit=1")).status_code == 200
            await clients.register("shop", "sim-never-0-meanwhile")
            assert not redelivery.done()
            answered.set()
            assert (await redelivery).status_code == 202
    finally:
        redelivery.cancel()


ASKS: list[tuple[str, str, str, Any, int]] = [
    ("list_callbacks", "GET", "/v1/callbacks?limit=1", None, 7),
    ("get_callback", "GET", "/v1/callbacks/{id}", None, 8),
    ("list_attempts", "GET", "/v1/callbacks/{id}/attempts", None, 4),
    ("get_task", "GET", "/v1/tasks/{task}", None, 8),
    ("cancel", "DELETE", "/v1/callbacks/{id}", None, 256),
    ("redeliver", "POST", "/v1/callbacks/{id}/redeliver", None, 256),
    ("count_dead", "POST", "/v1/redeliveries", {"state": "dead", "dryRun": True}, 1),
    ("_redeliver_some", "POST", "/v1/redeliveries", {"state": "dead"}, 1),
    ("register", "POST", "/v1/callbacks/batch", 100, 10),
    ("list_callbacks", "GET", "/dashboard/callbacks", None, 6),
    ("get_callback", "GET", "/dashboard/callbacks/{id}", None, 6),
    ("count_dead", "GET", "/dashboard/redeliver", None, 1),
    ("cancel", "POST", "/dashboard/callbacks/{id}/cancel", {}, 256),
    ("redeliver", "POST", "/dashboard/callbacks/{id}/redeliver", {}, 256),
    ("_redeliver_some", "POST", "/dashboard/redeliver", {}, 1),
    ("get_callback", "POST", "/dashboard/receivers/pause", {"receiver": "https://r.example", "callback": "{id}"}, 8),
    ("get_callback", "POST", "/dashboard/receivers/resume", {"receiver": "https://r.example", "callback": "{id}"}, 8),
]
"""The store's method, a request, page or form that calls it, and how many such calls one client may have under way."""


@pytest.mark.parametrize(("method", "verb", "path", "content", "most"), ASKS)
async def test_a_clients_crowd_of_requests_leaves_the_database_to_others(
    clients: Clients, monkeypatch: pytest.MonkeyPatch, method: str, verb: str, path: str, content: Any, most: int
) -> None:
    """Whatever it asks for, its own requests wait for each other, and another client's for at most a few of them."""
    ids = {name: await clients.register(name, f"sim-never-0-{name}") for name in ("shop", "inn")}
    await clients.api["shop"].get("/v1/callbacks?limit=1")  # the cursors' key is known from here on
    on_a_page = path.startswith("/dashboard/")
    csrf = {name: await clients.sign_in(name) for name in ids} if on_a_page else {}
    real = getattr(StoreRegistry, method)
    asked: list[str] = []
    gate, all_have_come, inn_has_come = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(self: StoreRegistry, first: Any, *rest: Any, **named: Any) -> Any:
        client = first[0].client if method == "register" else first
        asked.append(client)
        if client == "inn":
            inn_has_come.set()
        if len(asked) == most:
            all_have_come.set()
        await gate.wait()
        return await real(self, first, *rest, **named)

    async def ask(client: str, number: int) -> int:
        where = path.format(id=ids[client]["id"], task=f"sim-never-0-{client}")
        if on_a_page:
            fields = {name: value.format(id=ids[client]["id"]) for name, value in (content or {}).items()}
            data = {**fields, "csrf": csrf[client]} if verb == "POST" else None
            return (await clients.visitors[client].http.request(verb, where, data=data)).status_code
        body = content
        if method == "register":
            url = f"{clients.hooks[client].url}/hooks"
            body = {"callbacks": [{"taskId": f"sim-never-{number}-{one}", "callbackUrl": url} for one in range(100)]}
        return (await clients.api[client].request(verb, where, json=body)).status_code

    monkeypatch.setattr(StoreRegistry, method, slow)
    # As a second after what was asked until here: what others have just wanted counts for batches.
    monkeypatch.setattr(Shares, "beside", lambda shares, _: shares.size < WHOLE)
    crowd = [asyncio.create_task(ask("shop", number)) for number in range(most + 10)]
    try:
        async with asyncio.timeout(20):
            await all_have_come.wait()
            one = asyncio.create_task(ask("inn", 0))
            await inn_has_come.wait()
            assert asked == ["shop"] * most + ["inn"], "the rest of the crowd waits by itself"
            gate.set()
            answers = await asyncio.gather(*crowd, one)
            assert max(answers) < 500
            assert 403 not in answers, "a form was not taken"
    finally:
        for task in crowd:
            task.cancel()
