"""No key, token, webhook secret or extra header comes to light, whatever upstreams and receivers do with them."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks

from gateway.config.tokens import hash_line
from gateway.serve.asgi import serve_asgi
from tests.commandline import command
from tests.waiting import a_moment

ROOT = Path(__file__).parents[2]
LIMIT_S = 30

# Every secret has this in it, and nothing else has: not even a folder's name.
MARK = "c4n4ry"
DEFAULT_SECRET = f"whsec_{MARK}DefaultSecret".ljust(6 + 32, "A")
SHOP_SECRET = f"whsec_{MARK}ShopSecret".ljust(6 + 32, "A")
DEFAULT_TOKEN, SHOP_TOKEN = f"{MARK}-default-token", f"{MARK}-shop-token"
HEADERS = {"Authorization": f"Bearer {MARK}-header", "X-Api-Key": f'{MARK}-"quoted"-key', "Cookie": f"a=1; b={MARK}"}
HASH = hash_line(SHOP_TOKEN)


TOLD = (
    b'{"code":200,"msg":"%b","data":{"state":"STATE","failCode":"%b","failMsg":"for %b","model":"%b","%b":1,'
    b'"param":"{\\"a\\":\\"%b\\"}","resultJson":"{\\"u\\":[\\"%b\\"]}","x":{"y":"%b"}}}'
)


class Unkind:
    """An upstream that repeats the key in everything it says; how, each path decides."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        how = scope["path"].split("/")[1]
        key = dict(scope["headers"])[b"authorization"]
        assert MARK.encode() in key
        if how == "hanging":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        status, kind, body = {
            "refusing": (401, b"application/json", b'{"code":401,"msg":"Incorrect API key provided: %b"}'),
            # Here, and in the next but one, what is kept of the text ends in the middle of the key.
            "html": (502, b"text/html", b"<html><body>" + b"x" * 50 + b"%b</body></html>"),
            "invalid": (422, b"application/json", b'{"code":422,"msg":"no task for %b","data":null}'),
            "lengthy": (500, b"application/json", b'{"code":500,"msg":"' + b"x" * 250 + b'%b","data":null}'),
            "limiting": (429, b"application/json", b'{"code":429,"msg":"%b asks too often"}'),
            "odd": (200, b"application/json", b'["%b"]'),
            # Here it comes into what is kept, and sent: the webhook's body.
            "failing": (200, b"application/json", TOLD.replace(b"STATE", b"fail")),
            "ending": (200, b"application/json", TOLD.replace(b"STATE", b"success")),
        }[how]
        headers = [(b"content-type", kind), (b"www-authenticate", key), (b"location", b"/?" + key)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body.replace(b"%b", key)})


class Echo:
    """A receiver that repeats the request's headers in its answer; how, the path decides. Keeps what is posted."""

    def __init__(self) -> None:
        self.url = ""
        self.posts: dict[str, list[tuple[dict[str, str], bytes]]] = defaultdict(list)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")[:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            how = first.split(" ")[1].split("/")[1]
            if first.startswith("POST"):
                self.posts[how].append((headers, body))
            # All headers on one line: for a status line, a location, a body.
            told = " ".join(f"{name}={value}" for name, value in headers.items())
            answers = {
                "body": f"HTTP/1.1 500 No\r\nContent-Length: {len(head)}\r\n\r\n{head}",
                "reason": f"HTTP/1.1 503 {told}\r\nContent-Length: 0\r\nRetry-After: {told}\r\n\r\n",
                "redirect": f"HTTP/1.1 307 Go\r\nLocation: {self.url}/stolen?{told}\r\nContent-Length: 0\r\n\r\n",
                "garbage": f"{told}\r\n\r\n",
                "header": f"HTTP/1.1 500 No\r\n{told}\r\n\r\n",
                "cut": f"HTTP/1.1 200 OK\r\nContent-Length: {len(told) + 1}\r\n\r\n{told}",
                "gone": f"HTTP/1.1 410 {told}\r\nContent-Length: {len(told)}\r\n\r\n{told}",
                "secret": f"HTTP/1.1 500 No\r\nContent-Length: {len(DEFAULT_SECRET)}\r\n\r\n{DEFAULT_SECRET}",
                "good": f"HTTP/1.1 200 OK\r\nContent-Length: {len(told)}\r\n\r\n{told}",
            }
            writer.write(answers[how].encode("latin-1"))
            await writer.drain()
        writer.close()


PATHS = ("body", "reason", "redirect", "garbage", "header", "cut", "gone", "good", "secret")
UPSTREAMS = ("refusing", "html", "invalid", "lengthy", "limiting", "odd", "failing", "ending", "hanging", "garbage")


def toml(upstream_url: str, garbage_url: str) -> str:
    urls = {name: f"{upstream_url}/{name}" for name in UPSTREAMS} | {"garbage": f"{garbage_url}/garbage"}
    tables = "\n".join(
        f'[upstreams.{name}]\nprofile = "aigptimage"\nurl = "{url}"\napi_key = "{MARK}-key-{name}"'
        for name, url in urls.items()
    )
    headers = "\n".join(f"{name} = '{value}'" for name, value in HEADERS.items())
    return (
        f'{tables}\n[clients.shop]\ntoken_hash = "{HASH}"\nwebhook_secret = "{SHOP_SECRET}"\nrate = "1000000/1"\n'
        f"[clients.shop.headers]\n{headers}\n"
    )


class Ears:
    """Everything that anybody got to see."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def answer(self, response: httpx.Response) -> None:
        await response.aread()
        self.heard.append(f"{response.status_code} {response.reason_phrase} {response.headers} {response.text}")

    async def run(self, *words: str, folder: Path, **environ: str) -> int:
        """Run a command and hear its output; return its exit status."""
        done = await command(*words, cwd=folder, **environ)
        assert "Traceback" not in done.stderr
        self.heard.append(done.stdout + done.stderr)
        return done.returncode

    def assert_nothing_secret(self) -> None:
        assert len(self.heard) > 1
        for text in self.heard:
            at = text.lower().find(MARK)
            assert at < 0, f"…{text[max(0, at - 300) : at + 60]}…"
            assert HASH.removeprefix("sha256:") not in text


async def test_nothing_secret_comes_to_light(world: Any) -> None:
    """Keys, tokens, secrets and headers are in no log, answer, metric, command's output or table of the database."""
    ears, echo, stranger = Ears(), Echo(), Echo()
    config = world.folder / "settings" / "gateway.toml"
    config.parent.mkdir()
    environ = {
        "GATEWAY_CONFIG": str(config),
        "GATEWAY_UPSTREAM_API_KEY": f"{MARK}-key-default",
        "GATEWAY_WEBHOOK_SECRET": DEFAULT_SECRET,
        "GATEWAY_TOKEN": DEFAULT_TOKEN,
        "GATEWAY_RETRY_SCHEDULE": "0,0.05",
        "GATEWAY_DRAIN_S": "1",
        "GATEWAY_READY_UPSTREAMS": "all",
    }
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(echo.serve())
        await stack.enter_async_context(stranger.serve())
        config.write_text(toml(await stack.enter_async_context(serve_asgi(Unkind())), stranger.url))
        gateway = await stack.enter_async_context(world.gateway(**environ))
        clients = {
            name: await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=gateway.url,
                    headers={} if token is None else {"authorization": f"Bearer {token}"},
                    event_hooks={"response": [ears.answer]},
                )
            )
            for name, token in (("shop", SHOP_TOKEN), ("default", DEFAULT_TOKEN), ("nobody", None))
        }
        shop, default, nobody = clients["shop"], clients["default"], clients["nobody"]

        # Receivers that repeat what they were sent.
        ids = {}
        for path in PATHS:
            for client, receiver in ((shop, echo), (default, stranger)):
                body = {"taskId": f"sim-success-1-{path}", "callbackUrl": f"{receiver.url}/{path}"}
                answer = await client.post("/v1/callbacks", json=body)
                assert answer.status_code == 201
                ids[client, path] = answer.json()["id"]
        for (client, path), callback_id in ids.items():
            await world.becomes(client, callback_id, "delivered" if path == "good" else "dead")
            assert (await client.get(f"/v1/callbacks/{callback_id}/attempts")).json()["data"]

        # Upstreams that do.
        for name in UPSTREAMS:
            body = {"taskId": f"task-{name}", "callbackUrl": f"{echo.url}/good", "upstream": name, "timeoutSeconds": 60}
            answer = await shop.post("/v1/callbacks", json=body)
            assert answer.status_code == 201
            if name in ("failing", "ending"):
                await world.becomes(shop, answer.json()["id"], "delivered")
                assert "***" in (await shop.get(f"/v1/tasks/task-{name}")).text
            elif name not in ("hanging", "invalid"):
                await _failed(shop, answer.json()["id"])
        async with asyncio.timeout(LIMIT_S):
            while "refuses the key" not in (await nobody.get("/readyz")).text:
                await a_moment()

        # Everything that answers, and everything that refuses.
        for path in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/callbacks", "/v1/tasks/task-html"):
            for client in clients.values():
                await client.get(path)
        wrong = {"authorization": f"Bearer {MARK}-wrong"}
        assert (await nobody.get("/v1/callbacks", headers=wrong)).status_code == 401
        assert (await nobody.get("/v1/callbacks", headers={"authorization": f"{MARK}"})).status_code == 401
        assert (await default.get(f"/v1/callbacks/{ids[shop, 'good']}")).status_code == 404
        await shop.post("/v1/callbacks", content=b"{", headers={"content-type": "application/json"})
        await shop.post("/v1/callbacks", content=b"x", headers={"content-type": "text/plain"})
        await shop.post("/v1/callbacks", json={"taskId": "t", "callbackUrl": "http://10.0.0.1/"})
        await shop.get("/v1/callbacks", params={"token": SHOP_TOKEN})
        await shop.put("/v1/callbacks")

        # The commands.
        at = ("--url", gateway.url, "--token", SHOP_TOKEN)
        for words in (
            ("list", "--limit", "200"),
            *(("show", ids[shop, path]) for path in ("body", "reason", "garbage")),
            ("redeliver", ids[shop, "gone"]),
        ):
            for form in ((), ("--json",)):
                assert await ears.run(*words, *form, *at, folder=world.folder) == 0
        assert await ears.run("list", "--url", gateway.url, "--token", f"{MARK}-wrong", folder=world.folder) == 1
        assert await ears.run("list", "--url", gateway.url, "--token", f"{MARK} é", folder=world.folder) == 2
        assert await ears.run("check-config", folder=world.folder, **world.environ | environ) == 0

        assert await gateway.stop() == 0
        ears.heard += gateway.text
    ears.assert_nothing_secret()
    for file in world.folder.glob("gateway.*"):
        assert MARK.encode() not in file.read_bytes().lower(), file.name

    # Of course the headers reach the client's own receivers; and theirs alone, a redirect's target not among them.
    assert set(echo.posts) == set(stranger.posts) == set(PATHS)
    for path in PATHS:
        for headers, body in echo.posts[path]:
            assert MARK.encode() not in body
            assert {name: headers[name.lower()] for name in HEADERS} == HEADERS
            standardwebhooks.Webhook(SHOP_SECRET).verify(body, headers)
        for headers, body in stranger.posts[path]:
            assert MARK not in str(headers)
            standardwebhooks.Webhook(DEFAULT_SECRET).verify(body, headers)


async def _failed(client: httpx.AsyncClient, callback_id: str) -> None:
    """Return once a poll of the callback's task has gone wrong."""
    async with asyncio.timeout(LIMIT_S):
        while (await client.get(f"/v1/callbacks/{callback_id}")).json()["task"]["lastError"] is None:
            await a_moment()


@pytest.mark.parametrize(
    "text",
    [
        f"""
        port = "x"
        token = ["{MARK}"]
        webhook_secret = "{MARK}"
        upstream_api_key = "{MARK} {MARK}"
        database_url = "postgresql://user:{MARK}@host/db"
        upstream_url = "https://user:{MARK}@host/?key={MARK}"
        [upstreams.kie]
        api_key = "{MARK} {MARK}"
        api_key_file = "{MARK}"
        [upstreams.runway]
        api_key_file = "{MARK}"
        [clients.a]
        token_hash = "{MARK}"
        webhook_secret = "whsec_{MARK}"
        headers = {{ Authorization = "Bearer\\n{MARK}", Host = "{MARK}", "{MARK}:" = "x", X-A = "{MARK} " }}
        [clients.b]
        token_hashes = ["{HASH}", "{MARK}"]
        webhook_secret_file = "{MARK}"
        headers_file = "{MARK}"
        [clients.c]
        token_hash_file = "{MARK}"
        headers = ["{MARK}"]
        [clients.d]
        token_hash = "{HASH}"
        [clients.e]
        token_hash = "{HASH}"
        """,
        f"[clients.a]\nheaders = {{ Authorization = '{MARK}\n' }}",
        f'token = "{MARK}',
        f"token = {MARK}",
    ],
)
async def test_settings_that_cannot_be_used_show_no_secret(tmp_path: Path, text: str) -> None:
    """Neither `serve` nor `check-config` shows one: neither a malformed one nor one in the wrong place."""
    ears = Ears()
    config = tmp_path / "gateway.toml"
    config.write_text(text)
    environ = {
        "GATEWAY_CONFIG": str(config),
        "GATEWAY_TOKEN_FILE": MARK,
        "GATEWAY_UPSTREAM_API_KEY": f"{MARK}\n{MARK}",
        "GATEWAY_WEBHOOK_SECRET": f"{DEFAULT_SECRET} whsec_{MARK}",
    }
    for word in ("serve", "check-config"):
        assert await ears.run(word, folder=tmp_path, **environ) == 2
    ears.assert_nothing_secret()
