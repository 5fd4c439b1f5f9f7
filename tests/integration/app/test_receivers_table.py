"""A whole gateway with tables [[receivers]]: what clients see, what a reload rotates, and a proxy that fails."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks
import trustme
from starlette.requests import Request
from starlette.responses import Response
from structlog.testing import capture_logs

from gateway.app.build import build
from gateway.app.gateway import Gateway
from gateway.app.preflight import preflight
from gateway.app.reload import changes
from gateway.config.settings import Settings
from gateway.core.clock import SystemClock, from_iso
from gateway.core.errors import ConfigError
from gateway.serve.asgi import serve_asgi
from gateway.signature import make_secret
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.egressproxy import egress_proxy
from tests.integration.app.test_clients import Hooks
from tests.waiting import until

SECRET, FIRST, SECOND = make_secret(), make_secret(), make_secret()
LIMIT_S = 30


class Served:
    """One gateway by a TOML file, and a receiver."""

    def __init__(self, folder: Path, hooks: Hooks, upstream: str) -> None:
        self.folder = folder
        self.hooks = hooks
        self.upstream = upstream
        self.environ = {
            "GATEWAY_DATABASE_URL": f"sqlite:///{folder / 'gateway.db'}",
            "GATEWAY_UPSTREAM_URL": upstream,
            "GATEWAY_UPSTREAM_RATE": "1000/1",
            "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
            "GATEWAY_POLL_MIN_S": "0.02",
            "GATEWAY_RETRY_SCHEDULE": "0,0.05,0.05,0.05",
            "GATEWAY_WEBHOOK_SECRET": SECRET,
        }
        self.gateway: Gateway
        self.api: httpx.AsyncClient

    def read(self, tables: str) -> Settings:
        path = self.folder / "gateway.toml"
        path.write_text(tables.replace("HOOKS", self.hooks.url).replace("FOLDER", str(self.folder)))
        return preflight(self.environ, path)

    def reload(self, tables: str) -> list[str]:
        """Take other tables over, as SIGHUP does; return what has changed."""
        changed = changes(self.gateway.in_force, self.gateway.secret, self.read(tables))
        self.gateway.reload(changed)
        return changed.names

    async def register(self, task_id: str, url: str | None = None) -> dict[str, Any]:
        body = {"taskId": task_id, "callbackUrl": url or f"{self.hooks.url}/hooks"}
        answer = await self.api.post("/v1/callbacks", json=body)
        assert answer.status_code == 201, answer.text
        callback: dict[str, Any] = answer.json()
        return callback

    async def until(self, callback: dict[str, Any], holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the callback once that holds of it."""

        async def found() -> dict[str, Any] | None:
            seen: dict[str, Any] = (await self.api.get(f"/v1/callbacks/{callback['id']}")).json()
            return seen if holds(seen) else None

        seen: dict[str, Any] = await until(found)
        return seen

    async def attempts(self, callback: dict[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.api.get(f"/v1/callbacks/{callback['id']}/attempts")).json()["data"]
        return found


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(tables: str, **environ: str) -> Served:
            hooks = Hooks()
            hooks.url = await stack.enter_async_context(serve_asgi(hooks))
            upstream = await stack.enter_async_context(serve_simulator(SimulatedUpstream(SystemClock())))
            served = Served(tmp_path, hooks, upstream)
            served.environ |= environ
            served.gateway = build(served.read(tables), SystemClock())
            stack.push_async_callback(served.gateway.close)
            await served.gateway.start()
            stack.push_async_callback(served.gateway.drain)
            transport = httpx.ASGITransport(served.gateway)
            served.api = await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url="http://localhost")
            )
            return served

        yield start


def delivered(callback: dict[str, Any]) -> bool:
    return callback["state"] == "delivered"


async def test_a_reload_rotates_a_secret(serve: Serve, tmp_path: Path) -> None:
    """The file's new contents count; one that is gone or no secret changes nothing, and the last good one signs."""
    tables = '[[receivers]]\nmatch = "HOOKS"\nsecret_file = "FOLDER/secret"'
    (tmp_path / "secret").write_text(FIRST)
    served = await serve(tables)
    for number, secret in enumerate((FIRST, SECOND, SECOND), 1):
        await served.until(await served.register(f"sim-success-0-{number}"), delivered)
        headers, body = served.hooks.posts[-1]
        standardwebhooks.Webhook(secret).verify(body, headers)
        if number == 1:
            (tmp_path / "secret").write_text(SECOND)
            assert served.reload(tables) == [f"[[receivers]] {served.hooks.url}"]
        elif number == 2:
            (tmp_path / "secret").unlink()
            with pytest.raises(ConfigError, match="secret_file"):
                served.reload(tables)
    callback = await served.register("sim-success-0-1", f"{served.hooks.url}/again")
    await served.until(callback, delivered)
    assert (await served.api.post(f"/v1/callbacks/{callback['id']}/redeliver")).status_code == 202
    await served.until(callback, lambda seen: seen["attempts"] == 2 and delivered(seen))
    headers, body = served.hooks.posts[-1]
    standardwebhooks.Webhook(SECOND).verify(body, headers)


async def test_a_reload_rotates_certificates(serve: Serve, raw_server: Any, answering: Any, tmp_path: Path) -> None:
    """A new certificate of the receiver's by a new authority: refused before the reload, taken after it."""
    old, new = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    new.issue_cert("127.0.0.1").configure_cert(context)
    server = await raw_server(answering(b"HTTP/1.1 204 No Content\r\n\r\n"), tls=context)
    url = server.url("/hooks", scheme="https")
    tables = f'[[receivers]]\nmatch = "{url}"\nca_file = "FOLDER/ca.pem"'
    old.cert_pem.write_to_path(tmp_path / "ca.pem")
    served = await serve(tables, GATEWAY_RETRY_SCHEDULE=",".join(["0", *["0.05"] * 400]))
    callback = await served.register("sim-success-0-a", url)
    refused = await served.until(callback, lambda seen: seen["attempts"] > 0)
    assert "No secure connection" in refused["lastError"]
    new.cert_pem.write_to_path(tmp_path / "ca.pem")
    assert served.reload(tables) == [f"[[receivers]] {url}"]
    await served.until(callback, delivered)
    assert served.reload(tables) == [], "nothing has changed since"


async def test_a_proxy_that_is_down_costs_no_attempt(serve: Serve, tmp_path: Path, unused_tcp_port: int) -> None:
    """Attempts that get no further than the proxy do not count, are few, and all is delivered once it is there."""
    served = await serve(f'[[receivers]]\nmatch = "HOOKS"\nproxy = "http://127.0.0.1:{unused_tcp_port}"')
    callbacks = [await served.register(f"sim-success-0-{number}") for number in range(20)]

    async def is_told() -> bool:
        return "gateway_egress_proxies_failing 1.0" in (await served.api.get("/metrics")).text

    await until(is_told)
    tried = [one for callback in callbacks for one in await served.attempts(callback)]
    assert {one["result"] for one in tried} == {"interrupted"}
    assert all("egress proxy" in one["error"] for one in tried)
    ready = await served.api.get("/readyz")
    assert ready.status_code == 200
    assert "an egress proxy cannot be used" in ready.text
    with egress_proxy(tmp_path, port=unused_tcp_port):
        for callback in callbacks:
            await served.until(callback, delivered)
    assert "gateway_egress_proxies_failing 0.0" in (await served.api.get("/metrics")).text
    attempts = [await served.attempts(callback) for callback in callbacks]
    assert [of_one[-1]["result"] for of_one in attempts] == ["delivered"] * 20
    assert sum(map(len, attempts)) <= 20 + len(tried) + 8, "one at a time finds out"


async def test_a_rate_holds(serve: Serve) -> None:
    """No window sees more attempts than the table's rate, and a receiver without one does not wait for it."""
    served = await serve('[[receivers]]\nmatch = "HOOKS/slow"\nrate = "3/0.5"\n[[receivers]]\nmatch = "HOOKS/quick"')
    slow = [await served.register(f"sim-success-0-s{n}", f"{served.hooks.url}/slow") for n in range(10)]
    for callback in slow:
        await served.until(callback, delivered)
    # As they were sent: a busy machine may have several arrive together.
    made = [one for callback in slow for one in await served.attempts(callback)]
    at = sorted(from_iso(one["startedAt"]) for one in made)
    assert len(at) == 10
    for first, fourth in zip(at, at[3:], strict=False):
        assert fourth - first > 450, "a fourth within the window"


async def test_a_url_means_the_dead_below_it_whatever_tables_there_are(serve: Serve) -> None:
    """What died before a table came, or while there was one, is redelivered by its URL; nothing beside it is."""
    served = await serve('[[receivers]]\nmatch = "HOOKS/slow"')

    async def gone(scope: Any, receive: Any, send: Any) -> None:
        await Response(status_code=410)(scope, receive, send)

    async def count(receiver: str) -> int | None:
        asked = {"state": "dead", "receiver": receiver, "dryRun": True}
        answer = await served.api.post("/v1/redeliveries", json=asked)
        assert answer.status_code in (200, 422), answer.text
        return answer.json().get("count")  # type: ignore[no-any-return]

    async with serve_asgi(gone) as host:
        tables = [f'[[receivers]]\nmatch = "{host}{path}"' for path in ("/slow", "/quick", "/slower")]
        served.reload(tables[0])
        for n, path in enumerate(("/slow/a", "/slow/b", "/quick", "/slower")):
            callback = await served.register(f"sim-success-0-{n}", f"{host}{path}")
            await served.until(callback, lambda seen: seen["state"] == "dead")
    at = host.removeprefix("http://")
    below = {"/slow": 2, "/slow/a": 1, "/slow/x": 0, "/quick": 1, "/slower/": 1, "/": 4}
    for now in (tables[0], tables[1], "", "\n".join(tables)):
        served.reload(now)
        assert {path: await count(f"{host}{path}") for path in below} == below
        assert [await count(text) for text in (f"HTTP://{at}/slow", at)] == [2, 4]
        assert [await count(text) for text in (f"{at}/slow", "/slow")] == [None, None], "a part of a URL is refused"
    done = await served.api.post("/v1/redeliveries", json={"state": "dead", "receiver": f"{host}/slow"})
    assert done.json() == {"count": 2}


async def test_upstreams_through_a_proxy(serve: Serve, tmp_path: Path) -> None:
    """Polls, creates and reads of an upstream go through its proxy, which is asked for the upstream's host and port."""
    with egress_proxy(tmp_path, "--basic-auth", "u:p") as proxy:
        served = await serve("", GATEWAY_UPSTREAM_PROXY=f"http://u:p@127.0.0.1:{proxy.port}")
        await served.until(await served.register("sim-success-0-a"), delivered)
        created = await served.api.post("/api/v1/jobs/createTask", json={"model": "m", "input": {"prompt": "success"}})
        assert created.json()["code"] == 200, created.text
        read = await served.api.get("/api/v1/jobs/recordInfo", params={"taskId": "sim-success-0-b"})
        assert read.json()["code"] == 200
        for watch in served.gateway.watches:
            await watch.transport.aclose()
        await until(lambda: proxy.asked_for)
        assert set(proxy.asked_for) == {served.upstream.removeprefix("http://")}


async def test_an_upstreams_proxy_that_is_down(serve: Serve, unused_tcp_port: int) -> None:
    """It is told that and why, and the task goes on being polled; which proxy it is the log tells alone."""
    with capture_logs() as lines:
        served = await serve("", GATEWAY_UPSTREAM_PROXY=f"http://u:canary@127.0.0.1:{unused_tcp_port}")
        callback = await served.register("sim-success-0-a")
        seen = await served.until(callback, lambda seen: seen["task"]["lastError"] is not None)
    assert seen["task"]["lastError"] == "The upstream could not be reached: its egress proxy: Connection refused."
    assert seen["state"] == "waiting"
    read = await served.api.get("/api/v1/jobs/recordInfo", params={"taskId": "sim-success-0-b"})
    create = {"model": "m", "input": {"prompt": "success"}}
    created = await served.api.post("/api/v1/jobs/createTask", json=create)
    for answer in (read, created):
        assert "its egress proxy" in answer.text
        assert str(unused_tcp_port) not in answer.text
    logged = next(line for line in lines if line["event"] == "poll.failed")
    assert f"the proxy 127.0.0.1:{unused_tcp_port}: " in logged["error"]
    assert "canary" not in str(lines)


async def test_what_the_configurations_page_shows(serve: Serve, tmp_path: Path) -> None:
    """Each table with what it wants, and none of its secrets, header values and passwords."""
    (tmp_path / "secret").write_text(FIRST)
    served = await serve(
        '[[receivers]]\nmatch = "https://a.example/x"\nheaders = { Authorization = "Bearer canary" }\n'
        'secret_file = "FOLDER/secret"\nproxy = "http://u:canary@proxy.internal:3128"\nrate = "5/1"'
    )
    page = (await served.api.get("/dashboard/configuration")).text
    for shown in (
        "https://a.example/x",
        "headers authorization",
        "secret ***",
        "proxy proxy.internal:3128",
        "rate 5/1",
    ):
        assert shown in page, shown
    assert "canary" not in page
    assert FIRST.removeprefix("whsec_") not in page


@pytest.mark.parametrize("when", ["before they were registered", "by a reload after that"])
async def test_a_table_about_a_path_holds_up_no_other_path(serve: Serve, when: str) -> None:
    """However long its receiver takes and however much waits there: the rest of the host is another receiver."""
    goes_on = asyncio.Event()
    taken: list[str] = []

    async def receiver(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/slow"):
            await goes_on.wait()
        taken.append(scope["path"])
        await Response(status_code=204)(scope, receive, send)

    table = '[[receivers]]\nmatch = "{}/slow"\nconcurrency = 1'
    async with serve_asgi(receiver) as url:
        served = await serve(table.format(url if when.startswith("before") else "http://other.example"))
        made = [await served.register("sim-success-1000-1", f"{url}/slow/{number}") for number in range(8)]
        other = await served.register("sim-success-1000-1", f"{url}/other")
        if not when.startswith("before"):
            served.reload(table.format(url))
        await served.until(other, delivered)
        assert taken == ["/other"]
        goes_on.set()
        for one in made:
            await served.until(one, delivered)


async def test_operator_events_go_by_their_table(
    serve: Serve, raw_server: Any, read_request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By mTLS and a private authority, with the table's headers and secret; after a reload with another one."""
    monkeypatch.setattr("gateway.core.eventledger._FIRST_MS", 50)
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = ca.issue_cert("gateway.example.com")
    own.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    own.private_key_pem.write_to_path(tmp_path / "client.key")
    (tmp_path / "first").write_text(FIRST)
    (tmp_path / "second").write_text(SECOND)
    came: asyncio.Queue[tuple[dict[str, str], bytes, Any]] = asyncio.Queue()

    async def operator(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, headers, body = await read_request(reader)
        came.put_nowait((headers, body, writer.get_extra_info("peercert")["subjectAltName"]))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    server = await raw_server(operator, tls=context)
    url = server.url("/events", scheme="https")
    table = (
        f'[[receivers]]\nmatch = "{url}"\nca_file = "FOLDER/ca.pem"\nclient_cert_file = "FOLDER/client.pem"\n'
        'client_key_file = "FOLDER/client.key"\nsecret_file = "FOLDER/{}"\nheaders = {{ Authorization = "Bearer key" }}'
    )
    served = await serve(table.format("first"), GATEWAY_EVENTS_URL=f"{url}/x?key=k", GATEWAY_CALLBACK_ALLOW="127.0.0.1")

    async def gone(scope: Any, receive: Any, send: Any) -> None:
        await Response(status_code=410)(scope, receive, send)

    for number, secret in enumerate((FIRST, SECOND)):
        async with serve_asgi(gone) as receiver:
            await served.register(f"sim-success-0-{number}", receiver)
            headers, body, shown = await asyncio.wait_for(came.get(), LIMIT_S)
        standardwebhooks.Webhook(secret).verify(body, headers)
        assert headers["authorization"] == "Bearer key"
        assert shown == (("DNS", "gateway.example.com"),)
        served.reload(table.format("second"))


async def test_operator_events_wait_for_their_proxy(serve: Serve, unused_tcp_port: int, tmp_path: Path) -> None:
    """While it is down attempts at an event do not count, so that none is given up; once it works it comes."""
    posts: list[bytes] = []

    async def operator(scope: Any, receive: Any, send: Any) -> None:
        posts.append(await Request(scope, receive).body())
        await Response(status_code=204)(scope, receive, send)

    async def gone(scope: Any, receive: Any, send: Any) -> None:
        await Response(status_code=410)(scope, receive, send)

    async with serve_asgi(operator) as url, serve_asgi(gone) as receiver:
        table = f'[[receivers]]\nmatch = "{url}"\nproxy = "http://127.0.0.1:{{}}"'
        with capture_logs() as lines:
            served = await serve(
                table.format(unused_tcp_port), GATEWAY_EVENTS_URL=f"{url}/x", GATEWAY_RETRY_SCHEDULE="0"
            )
            await served.register("sim-success-0-1", receiver)
            await until(lambda: sum(line["event"] == "event.not_delivered" for line in lines) >= 2)
        assert [line for line in lines if line["event"] == "event.given_up"] == []
        ready = (await served.api.get("/readyz")).json()
        assert "operator events do not get through" in ready["reasons"]
        assert "an egress proxy cannot be used" in ready["reasons"]
        assert "gateway_egress_proxies_failing 1.0" in (await served.api.get("/metrics")).text
        with egress_proxy(tmp_path) as proxy:
            served.reload(table.format(proxy.port))
            await until(lambda: posts)
