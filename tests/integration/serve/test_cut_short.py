"""What clients are told whose requests are not answered when the gateway's drain time is over."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.app.gateway import Gateway
from gateway.serve.asgi import serve_asgi
from gateway.serve.closing import _for_its_client
from tests.running import Running, running
from tests.waiting import until

READ = "/api/v1/jobs/recordInfo?taskId=t"
CREATE = "/api/v1/jobs/createTask"


@pytest.fixture
async def silent_url() -> AsyncIterator[str]:
    """Yield the URL of an upstream that takes every request and answers none."""
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in writers:
            writer.transport.abort()


async def held(one: Running, work: str) -> None:
    """Wait until the upstream is asked."""
    await until(lambda: any(task.get_name().startswith(work) for task in asyncio.all_tasks()))
    await one.client.get("/healthz")


@pytest.mark.parametrize(("path", "work"), [(READ, "proxy-read"), ("/api/v1/chat/credit", "proxy-pass")])
async def test_a_read_that_the_stop_cuts_short_gets_503(tmp_path: Path, silent_url: str, path: str, work: str) -> None:
    """In the envelope that its client knows, and not as a defect of the gateway's."""
    async with running(tmp_path, silent_url, GATEWAY_UPSTREAM="kie") as one:
        reads = [asyncio.create_task(one.client.get(path)) for _ in range(2)]
        await held(one, work)
        await one.gateway.drain()
        for answer in await asyncio.gather(*reads):
            assert (answer.status_code, answer.json()["code"], answer.json()["data"]) == (503, 503, None)


class Asked:
    """A request whose answer is kept."""

    def __init__(self, gateway: Gateway, method: str, path: str, body: bytes = b"") -> None:
        path, _, query = path.partition("?")
        self.sent: list[Any] = []
        self._body = body
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        }
        self.task = asyncio.create_task(gateway(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def cut_short(self) -> tuple[int, Any]:
        self.task.cancel()
        await self.task
        start, *parts = self.sent
        return start["status"], json.loads(b"".join(part["body"] for part in parts))


@pytest.mark.parametrize("path", [READ, "/v1/callbacks"])
async def test_what_the_server_cancels_after_the_drain_gets_503(tmp_path: Path, silent_url: str, path: str) -> None:
    """As the server of the process does with every request that is not answered by then."""
    async with running(tmp_path, silent_url) as one:
        if path == READ:
            asked = Asked(one.gateway, "GET", path)
            await held(one, "proxy-read")
        else:
            body = {"taskId": "t", "callbackUrl": "http://127.0.0.1:9/hook"}
            asked = Asked(one.gateway, "POST", path, json.dumps(body).encode())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        one.gateway.begin_drain()
        status, answer = await asked.cut_short()
        assert (status, "shut down" in answer.get("detail", answer.get("msg"))) == (503, True)


async def test_a_create_that_was_forwarded_then_names_its_id(tmp_path: Path, silent_url: str) -> None:
    """Its client has to send the same one again, or pays twice."""
    async with running(tmp_path, silent_url) as one:
        asked = Asked(one.gateway, "POST", CREATE, b'{"model":"m"}')
        await held(one, "proxy-create")
        one.gateway.begin_drain()
        status, answer = await asked.cut_short()
        (request_id,) = (value for name, value in asked.sent[0]["headers"] if name == b"x-request-id")
        assert status == 502
        assert f"X-Request-ID: {request_id.decode()}" in answer["msg"]


async def test_a_create_that_waits_for_its_turn_then_is_answered_with_its_id(tmp_path: Path, silent_url: str) -> None:
    """As each answer to a create is; and it says that nothing was forwarded."""
    async with running(tmp_path, silent_url) as one:
        first = [Asked(one.gateway, "POST", CREATE, b'{"model":"m"}') for _ in range(3)]
        await held(one, "proxy-create")
        queue = one.gateway.watches[0].key.creates
        await until(lambda: queue._turns._waiting)
        one.gateway.begin_drain()
        answers = [await asked.cut_short() for asked in first]
        told = [answer["msg"] for status, answer in answers if status == 503]
        assert told
        assert all("nothing was forwarded" in text.lower() for text in told)
        for asked in first:
            assert b"x-request-id" in dict(asked.sent[0]["headers"])


async def test_a_create_whose_large_answer_waits_for_room_names_its_id_too(tmp_path: Path) -> None:
    """The task is there, and paid for: to be told to send it again is not enough."""

    async def upstream(scope: Any, receive: Any, send: Any) -> None:
        answer = {"code": 200, "data": {"taskId": "t", "more": "x" * 100_000}}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async with serve_asgi(upstream) as url, running(tmp_path, url) as one:
        memory = one.gateway.memory
        owner = ("client default", "requests")

        async def hold() -> None:
            await memory.hold(memory.limit * 3 // 8, *owner)  # all that this client's requests have
            await asyncio.Event().wait()

        holds = asyncio.create_task(hold())
        asked = Asked(one.gateway, "POST", CREATE, b'{"model":"m"}')
        await until(lambda: owner in memory._waiting)
        one.gateway.begin_drain()
        status, answer = await asked.cut_short()
        (request_id,) = (value for name, value in asked.sent[0]["headers"] if name == b"x-request-id")
        assert status == 502
        assert f"X-Request-ID: {request_id.decode()}" in answer["msg"]
        holds.cancel()


async def test_a_cancelled_request_is_no_answer_where_nothing_stops(tmp_path: Path, silent_url: str) -> None:
    """Its client has gone."""
    async with running(tmp_path, silent_url) as one:
        asked = Asked(one.gateway, "GET", READ)
        await held(one, "proxy-read")
        asked.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked.task
        assert asked.sent == []


async def test_an_answer_that_is_cut_short_ends_with_its_connection() -> None:
    """It is not taken for a defect, nor by its client for the whole."""
    cut: list[bool] = []
    transport = SimpleNamespace(abort=lambda: cut.append(True))
    cycle: Any = SimpleNamespace(disconnected=False, response_started=True, transport=transport)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    nothing: Any = None
    task = asyncio.create_task(_for_its_client(cycle, app, nothing, nothing, nothing))
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert (cycle.disconnected, cut) == (True, [True])
