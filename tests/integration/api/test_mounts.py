"""Several upstreams' own calls through one gateway, each at its mount: real sockets, and what each upstream saw."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from gateway.api.mounts import OWN
from gateway.serve.asgi import serve_asgi
from tests.running import LIMIT_S, Running, running
from tests.waiting import until

HOOKS = "https://hooks.example.com/in"
PREDICTIONS = """
name = "predictions"
base_url = "https://api.example.com"
[request]
status_path = "/v1/predictions/{task_id}"
auth_header = "x-key"
auth_prefix = "Key "
headers = { X-Version = "1" }
[envelope]
message = ["detail"]
[states]
path = "status"
success = ["succeeded"]
fail = ["failed"]
[fields]
task_id = "id"
result = "output"
[units]
time = "iso"
[proxy]
create_path = ["/v1/predictions", "/v1/models/{owner}/{model}/predictions"]
created_id = "id"
callback_members = ["webhook"]
callback_options = ["webhook_events_filter"]
headers = ["Prefer", "X-Version"]
pass = ["/v1/predictions", "POST /v1/predictions/{id}/cancel", "/v1/files/{name:path}", "DELETE /v1/tasks/{id}"]
"""
FAMILY = """
name = "{name}"
base_url = "https://api.example.com"
[request]
status_path = "/api/{name}/record?taskId={{task_id}}"
[envelope]
code = "code"
message = ["msg"]
[states]
path = "data.state"
success = [1]
fail = [2]
[fields]
root = "data"
task_id = "data.taskId"
[proxy]
create_path = "/api/{name}/generate"
created_id = "data.taskId"
callback_members = ["callBackUrl"]
pass = ["/api/credit"]
"""


class Upstream:
    """Answers everything alike, once it may, and keeps what it was asked."""

    def __init__(self, body: Any, status: int = 200, **headers: str) -> None:
        self.body = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self.status = status
        self.headers = {"content-type": "application/json", **headers}
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        line = f"{scope['method']} {scope['raw_path'].decode()}" + f"?{query}" * bool(query)
        self.requests.append((line, headers, body))
        self.asked.set()
        await self.may_answer.wait()
        raw = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": raw})
        await send({"type": "http.response.body", "body": self.body})

    @property
    def lines(self) -> list[str]:
        return [line for line, _, _ in self.requests]


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Start a gateway with these upstreams, by name; what polls would ask is not asked within a test's time."""
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    (profiles / "predictions.toml").write_text(PREDICTIONS)
    for name in ("images", "videos"):
        (profiles / f"{name}.toml").write_text(FAMILY.format(name=name))
    async with AsyncExitStack() as stack:

        async def begin(default: str, /, upstreams: dict[str, Upstream], **environ: str) -> Running:
            urls: dict[int, str] = {}
            tables = ""
            for name, upstream in upstreams.items():
                if id(upstream) not in urls:
                    urls[id(upstream)] = await stack.enter_async_context(serve_asgi(upstream))
                if name != default:
                    tables += f'[upstreams.{name}]\nurl = "{urls[id(upstream)]}"\napi_key = "sk-{name}"\n'
            config = tmp_path / "gateway.toml"
            config.write_text(tables)
            own = {
                "GATEWAY_CONFIG": str(config),
                "GATEWAY_PROFILES": str(profiles),
                "GATEWAY_UPSTREAM": default,
                "GATEWAY_UPSTREAM_API_KEY": f"sk-{default}",
                "GATEWAY_CALLBACK_ALLOW": "hooks.example.com",
                "GATEWAY_POLL_MIN_S": "20",
                "GATEWAY_POLL_MAX_S": "30",
            }
            url = urls[id(upstreams[default])]
            return await stack.enter_async_context(running(tmp_path, url, **(own | environ)))

        yield begin


async def test_each_upstream_has_its_mount(start: Start) -> None:
    """With its own key, whatever the default is; the default one's calls stand at the root as well."""
    images, predictions = Upstream({"code": 200, "data": {"taskId": "t", "state": 0}}), Upstream({"id": "p"})
    one = await start("images", {"images": images, "predictions": predictions})
    assert (await one.client.get("/u/predictions/v1/predictions/p1")).json() == {"id": "p"}
    assert (await one.client.get("/u/images/api/images/record?taskId=t")).status_code == 200
    assert (await one.client.get("/api/images/record?taskId=t2")).status_code == 200
    assert predictions.lines == ["GET /v1/predictions/p1"]
    assert images.lines == ["GET /api/images/record?taskId=t", "GET /api/images/record?taskId=t2"]
    assert predictions.requests[0][1]["x-key"] == "Key sk-predictions"
    assert images.requests[0][1]["authorization"] == "Bearer sk-images"
    assert (await one.client.get("/v1/predictions/p1")).status_code == 404


async def test_calls_of_one_host_stand_together(start: Start) -> None:
    """At each mount, and at the root, those of the other upstreams there too: each by its own key and profile."""
    host = Upstream({"code": 200, "data": {"taskId": "t"}})
    one = await start("images", {"images": host, "videos": host, "predictions": Upstream({})})
    for mount in ("", "/u/images", "/u/videos"):
        host.requests.clear()
        body = {"prompt": "A cat", "callBackUrl": HOOKS}
        assert (await one.client.post(f"{mount}/api/videos/generate", json=body)).status_code == 200
        assert (await one.client.post(f"{mount}/api/images/generate", json=body)).status_code == 200
        assert [headers["authorization"] for _, headers, _ in host.requests] == ["Bearer sk-videos", "Bearer sk-images"]
        assert (await one.client.get(f"{mount}/api/credit")).status_code == 200
        own = "sk-videos" if mount == "/u/videos" else "sk-images"
        assert host.requests[-1][1]["authorization"] == f"Bearer {own}"
    callbacks = (await one.client.get("/v1/callbacks")).json()["data"]
    assert {callback["upstream"] for callback in callbacks} == {"images", "videos"}
    assert (await one.client.get("/u/predictions/api/credit")).status_code == 404


async def test_a_base_url_may_end_with_a_slash(start: Start) -> None:
    """So that its program's paths have two: the upstream sees one; within a path they count."""
    images = Upstream({"code": 200, "data": {"taskId": "t", "state": 0}})
    one = await start("images", {"images": images})
    for number, base in enumerate(("/", "//", "/u/images/", "/u/images//")):
        path = f"/api/images/record?taskId=t{number}"
        assert (await _raw(one.client, base + path)).status_code == 200
        assert (await _raw(one.client, base + "/api/images/generate", {"prompt": "A cat"})).status_code == 200
        assert images.lines[-2:] == [f"GET {path}", "POST /api/images/generate"]
    assert (await _raw(one.client, "//healthz")).status_code == 200
    for path in ("/api//images/record?taskId=t", "//u//images/api/images/record?taskId=t", "/%2Fapi/images/record"):
        assert (await _raw(one.client, path)).status_code == 404
    assert len(images.lines) == 8


async def test_what_is_compressed_goes_on_where_nothing_is_read_of_it(start: Start) -> None:
    """A passed call's body and a form say how to read them; a create in JSON is refused before it is forwarded."""
    upstream = Upstream({"id": "p1"})
    one = await start("predictions", {"predictions": upstream})
    body = gzip.compress(b"{}")
    headers = {"content-encoding": "gzip", "content-type": "application/json", "authorization": "Bearer any"}
    form = headers | {"content-type": "multipart/form-data; boundary=x"}
    create = "/u/predictions/v1/predictions"
    for path, sent in ((f"{create}/p1/cancel", headers), (create, form)):
        assert (await one.client.post(path, content=body, headers=sent)).status_code == 200
        line, told, content = upstream.requests.pop()
        assert (f"/u/predictions{line.removeprefix('POST ')}", content) == (path, body)
        assert told["content-encoding"] == "gzip"
    refused = await one.client.post(create, content=body, headers=headers)
    assert (refused.status_code, refused.headers["accept-encoding"]) == (415, "identity")
    assert "compressed" in refused.json()["detail"]
    assert upstream.requests == []
    headers["content-encoding"] = "Identity"
    assert (await one.client.post(create, content=b"{}", headers=headers)).status_code == 200


async def test_a_create_takes_its_callback_out(start: Start) -> None:
    """At any of the API's paths for that, with what is said of the callback; its headers go on, others do not."""
    upstream = Upstream({"id": "p1", "status": "starting"}, 201)
    one = await start("predictions", {"predictions": upstream})
    body = b'{"input": {"n": 1.0}, "webhook": "%b", "webhook_events_filter": ["completed"]}' % HOOKS.encode()
    headers = {"prefer": "wait=5", "x-version": "2", "cookie": "a=b", "content-type": "application/json"}
    path = "/u/predictions/v1/models/acme/cat%2Fx/predictions?a=%20b"
    assert (await one.client.post(path, content=body, headers=headers)).status_code == 404
    path = path.replace("%2Fx", "%20x")
    answer = await one.client.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.json()["id"]) == (201, "p1")
    ((line, sent, content),) = upstream.requests
    assert line == "POST /v1/models/acme/cat%20x/predictions?a=%20b"
    assert content == b'{"input": {"n": 1.0}}'
    assert (sent["prefer"], sent["x-version"], "cookie" in sent) == ("wait=5", "2", False)
    (callback,) = (await one.client.get("/v1/callbacks")).json()["data"]
    assert (callback["taskId"], callback["callbackUrl"], callback["upstream"]) == ("p1", HOOKS, "predictions")


async def test_a_header_that_cannot_go_on_is_refused(start: Start) -> None:
    """Before anything is forwarded, a create's too: under its X-Request-ID it can be sent again without it."""
    upstream = Upstream({"id": "p1"})
    one = await start("predictions", {"predictions": upstream})
    post, create, own_id = one.client.post, "/v1/predictions", {"x-request-id": "r-1"}
    form = {"content-type": b"multipart/form-data; boundary=\xe9", "authorization": "Bearer any"}
    for path, headers in ((create, {"prefer": b"\xe9"}), (create, form), (f"{create}/p1/cancel", {"accept": b"\xe9"})):
        answer = await post(path, content=b"{}", headers={"content-type": "application/json", **own_id, **headers})
        assert answer.status_code == 422, answer.text
    assert upstream.lines == []
    assert (await post(create, json={}, headers=own_id)).status_code == 200


async def test_a_form_goes_on_as_it_is(start: Start) -> None:
    """With files in it, say; nothing is looked for there."""
    upstream = Upstream({"id": "p1"})
    one = await start("predictions", {"predictions": upstream})
    files = {"webhook": (None, HOOKS), "file": ("a.png", b"\x89PNG\r\n" + bytes(range(256)), "image/png")}
    one.client.headers["authorization"] = "Bearer any"  # as a program sends, and no page of another site can
    request = one.client.build_request("POST", "/v1/predictions", files=files)
    assert (await one.client.send(request)).status_code == 200
    ((_, sent, content),) = upstream.requests
    assert (sent["content-type"], content) == (request.headers["content-type"], request.read())
    assert (await one.client.get("/v1/callbacks")).json()["data"] == []


# Passed calls


async def test_a_passed_call_goes_on_as_it_came(start: Start) -> None:
    """Method, path, query and body, with the gateway's key; of headers what says how the body is to be read."""
    upstream = Upstream(b"\x00\x01video", **{"content-type": "video/mp4", "set-cookie": "a=b", "x-host": "h"})
    one = await start("predictions", {"predictions": upstream})
    client = one.client
    client.headers["authorization"] = "Bearer any"
    answer = await client.get("/u/predictions/v1/files/a%20b/c%2Fd?x=%2f&y", headers={"accept": "video/*"})
    assert (answer.status_code, answer.content) == (200, b"\x00\x01video")
    assert answer.headers["content-type"] == "video/mp4"
    assert {"set-cookie", "x-host"}.isdisjoint(answer.headers)
    await client.post(
        "/v1/predictions/p1/cancel", content=b"\xff", headers={"content-type": "a/b", "x-key": "Key mine"}
    )
    await client.delete("/u/predictions/v1/tasks/t")
    await client.head("/v1/predictions")
    assert upstream.lines == [
        "GET /v1/files/a%20b/c%2Fd?x=%2f&y",
        "POST /v1/predictions/p1/cancel",
        "DELETE /v1/tasks/t",
        "GET /v1/predictions",
    ]
    assert upstream.requests[0][1]["accept"] == "video/*"
    _, sent, content = upstream.requests[1]
    assert (sent["content-type"], sent["x-key"], content) == ("a/b", "Key sk-predictions", b"\xff")
    metrics = (await client.get("/metrics")).text
    assert 'gateway_proxied_requests_total{call="pass",outcome="forwarded"} 4.0' in metrics


PAGES_BESIDE = (
    "/v1/files/../keys",
    "/v1/files/%2e%2e/keys",
    "/v1/files/a/%2E%2E/%2e%2e/keys",
    "/v1/files/a%5c..%5c..%5ckeys",
    "/v1/files/..%2Fkeys",
    "/v1/files/.",
    "/v1/predictions/%2e%2e",
    "/v1/keys",
    "/v1/predictionsx",
)


async def test_nothing_else_of_the_upstream_is_shown(start: Start) -> None:
    """The key opens what the profile names and no other page, however a path is written."""
    upstream = Upstream({"id": "p"})
    one = await start("predictions", {"predictions": upstream})
    for path in PAGES_BESIDE:
        for mount in ("/u/predictions", "/%75/predictions", "/u%2fpredictions", "/u/predictions/", "/"):
            answer = await _raw(one.client, mount + path)
            assert answer.status_code == 404, (mount, path, answer.text)
    assert upstream.requests == []


async def _raw(client: httpx.AsyncClient, path: str, body: Any = None) -> httpx.Response:
    """Send a path as it is: httpx resolves dot segments."""
    request = client.build_request("GET" if body is None else "POST", "/", json=body)
    request.extensions["target"] = path.encode()
    return await client.send(request)


async def test_a_passed_call_is_bounded(start: Start) -> None:
    """What the gateway would not take of the upstream it sends to nobody either."""
    upstream = Upstream(b"x" * 2000)
    one = await start("predictions", {"predictions": upstream}, GATEWAY_RESULT_MAX_BYTES="1024")
    too_much = b'"%b"' % (b"x" * 1023)
    headers = {"content-type": "application/json"}
    assert (await one.client.post("/v1/predictions/p/cancel", content=too_much, headers=headers)).status_code == 413
    assert upstream.requests == []
    answer = await one.client.get("/v1/predictions")
    assert (answer.status_code, "GATEWAY_RESULT_MAX_BYTES" in answer.json()["detail"]) == (502, True)


LOCATIONS = {
    "{host}/v1/files/b": "/u/predictions/v1/files/b",
    "/v1/files/b?c": "/u/predictions/v1/files/b?c",
    "b": "b",
    "https://cdn.example.com/v1/b": "https://cdn.example.com/v1/b",
    "//cdn.example.com/b": "//cdn.example.com/b",
    "{host}.example.com/b": "{host}.example.com/b",
}


async def test_a_location_does_not_lead_past_the_gateway(start: Start) -> None:
    """To another of the upstream's pages it leads by the gateway, whose token the client has; elsewhere as it is."""
    upstream = Upstream(b"", 201)  # httpx would look into a redirect
    one = await start("predictions", {"predictions": upstream})
    host = one.gateway.watches[0].upstream.base_url
    for location, told in LOCATIONS.items():
        upstream.headers["location"] = location.format(host=host)
        answer = await one.client.get("/u/predictions/v1/files/a")
        assert answer.headers["location"] == told.format(host=host)


async def test_passed_calls_take_turns_at_the_rate(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share the queries' rate with polls and reads; beyond it a client is told when to come again."""
    monkeypatch.setattr("gateway.api.forwarding._PATIENCE_S", 0.0)
    upstream = Upstream({"id": "p"})
    one = await start("predictions", {"predictions": upstream}, GATEWAY_UPSTREAM_RATE="1/60")
    assert (await one.client.get("/v1/predictions")).status_code == 200
    refused = await one.client.get("/u/predictions/v1/predictions")
    assert (refused.status_code, list(refused.json())) == (429, ["detail"])
    assert int(refused.headers["retry-after"]) > 50
    assert len(upstream.requests) == 1


async def test_a_passed_call_ends_with_its_client(start: Start) -> None:
    """Nobody else waits for it; its place at the key is free again."""
    upstream = Upstream({"id": "p"})
    upstream.may_answer.clear()
    one = await start("predictions", {"predictions": upstream})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(one.gateway), base_url="http://localhost") as client:
        asking = asyncio.create_task(client.get("/v1/predictions"))
        async with asyncio.timeout(LIMIT_S):
            await upstream.asked.wait()
            asking.cancel()
        await until(lambda: not any(task.get_name().startswith("proxy-pass") for task in asyncio.all_tasks()))
    upstream.may_answer.set()
    assert (await one.client.get("/v1/predictions")).status_code == 200


async def test_the_operator_only_looks(start: Start) -> None:
    """What may change something needs a client's token."""
    upstream = Upstream({"id": "p"})
    one = await start("predictions", {"predictions": upstream}, GATEWAY_OPERATOR_TOKEN="0perator", GATEWAY_TOKEN="t")
    one.client.headers["authorization"] = "Bearer 0perator"
    assert (await one.client.get("/v1/predictions")).status_code == 200
    for method, path in (("POST", "/v1/predictions/p/cancel"), ("DELETE", "/u/predictions/v1/tasks/t")):
        assert (await one.client.request(method, path)).status_code == 403
    assert upstream.lines == ["GET /v1/predictions"]


async def test_the_key_is_shown_to_no_client(start: Start) -> None:
    """An upstream that repeats it in a passed answer, or in its headers, does not get it through."""
    upstream = Upstream(b"key sk-predictions", **{"content-type": "text/plain; key=sk-predictions"})
    one = await start("predictions", {"predictions": upstream})
    answer = await one.client.get("/v1/predictions")
    assert (answer.text, answer.headers["content-type"]) == ("key ***", "text/plain; key=***")


async def test_an_upstream_that_is_not_there(start: Start) -> None:
    """A passed call that gets no answer says so, in the API's envelope."""
    one = await start("predictions", {"predictions": Upstream({})}, GATEWAY_UPSTREAM_URL="http://127.0.0.1:1")
    answer = await one.client.get("/v1/predictions")
    assert (answer.status_code, "could not be reached" in answer.json()["detail"]) == (502, True)


# Tokens and errors


async def test_the_token_may_stand_where_the_apis_key_does(start: Start) -> None:
    """At the API's mount and its root paths, also as old programs write it; as a Bearer token it counts everywhere."""
    one = await start("predictions", {"predictions": Upstream({"id": "p"})}, GATEWAY_TOKEN="t0ken")
    for path, key, status in (
        ("/u/predictions/v1/predictions/p", {"x-key": "Key t0ken"}, 200),
        ("/v1/predictions/p", {"x-key": "key t0ken"}, 200),
        ("/u/predictions/v1/predictions/p", {"authorization": "Bearer t0ken"}, 200),
        ("/u/predictions/v1/predictions/p", {"x-key": "Key wrong", "authorization": "Bearer t0ken"}, 401),
        ("/u/predictions/v1/predictions/p", {"x-key": "t0ken"}, 401),
        ("/u/predictions/v1/predictions/p", {"authorization": "Token t0ken"}, 200),
        ("/v1/predictions/p", {"authorization": "token  t0ken"}, 200),
        ("/v1/predictions/p", {"authorization": "Token wrong"}, 401),
        ("/v1/callbacks", {"authorization": "Token t0ken"}, 401),
        ("/v1/callbacks", {"x-key": "Key t0ken"}, 401),
    ):
        answer = await one.client.get(path, headers=key)
        assert answer.status_code == status, (path, key)
    assert list((await one.client.get("/u/predictions/anything")).json()) == ["detail"]


async def test_errors_have_each_apis_envelope(start: Start) -> None:
    """On every path below a mount; the gateway's own paths answer problems, whatever the default's paths are."""
    one = await start("predictions", {"predictions": Upstream({}), "images": Upstream({})})
    for path in ("/u/predictions", "/u/predictions/", "/u/predictions/x/y", "/v1/other", "/v1/predictions/a%20b"):
        answer = await one.client.get(path)
        assert list(answer.json()) == ["detail"], path
    answer = await one.client.get("/u/images/api/images/generate")
    assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (405, 405, "POST")
    for path in (*OWN, "/u/nobody/x", "/u/", "/u", "/"):
        answer = await one.client.get(f"{path.rstrip('/')}/x")
        assert answer.headers["content-type"] == "application/problem+json", path
