"""What a whole gateway goes on with when its clients have gone: with nothing, but for what costs money."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from starlette.requests import Request

from gateway.app.build import build
from gateway.config.load import load
from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.serve.inbound import InboundProtocol
from tests.peer import LIMIT_S, Peer
from tests.waiting import until

CREATE = b"POST /api/v1/jobs/createTask HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
READ = b"GET /api/v1/jobs/recordInfo?taskId=t HTTP/1.1\r\nhost: localhost\r\n\r\n"
HOOK = "http://127.0.0.1:9/hook"


class Soon(InboundProtocol):
    ended_s = 0.1
    lost: ClassVar[int]
    """Connections that have ended."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        Soon.lost += 1


class Upstream:
    """Holds every request until it is let go on, and notes those whose client did not wait for that."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.left = 0
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(await Request(scope, receive).body())
        left = asyncio.create_task(receive())
        go_on = asyncio.create_task(self.go_on.wait())
        await asyncio.wait((left, go_on), return_when=asyncio.FIRST_COMPLETED)
        self.left += left.done()
        for task in (left, go_on):
            task.cancel()
        body = b'{"code":200,"msg":"success","data":{"taskId":"t1","state":"waiting"}}'
        headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Bench:
    """A gateway before that upstream, and clients of it."""

    def __init__(self, upstream: Upstream, url: str) -> None:
        self.upstream = upstream
        self.peers: list[Peer] = []
        self._port = int(url.rsplit(":", 1)[1])

    async def connect(self, sent: bytes = b"") -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self._port))
        self.peers.append(peer)
        await peer.send(sent)
        return peer

    async def get(self, path: str) -> tuple[int, bytes]:
        peer = await self.connect(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        status, _, body = await peer.answer()
        return status, body


@asynccontextmanager
async def bench(folder: Path, **environ: str) -> AsyncIterator[Bench]:
    upstream = Upstream()
    Soon.lost = 0
    async with asyncio.timeout(LIMIT_S), serve_asgi(upstream) as upstream_url:
        settings = load(
            {
                "GATEWAY_DATABASE_URL": f"sqlite:///{folder / 'gateway.db'}",
                "GATEWAY_UPSTREAM_URL": upstream_url,
                "GATEWAY_UPSTREAM_API_KEY": "sk-upstream",
                "GATEWAY_CALLBACK_ALLOW": "127.0.0.1",
                "GATEWAY_RETRY_SCHEDULE": "3600",
                "GATEWAY_POLL_MIN_S": "3600",
                "GATEWAY_POLL_MAX_S": "3600",
                "GATEWAY_DRAIN_S": "0.1",
                **environ,
            },
            folder / "gateway.toml" if (folder / "gateway.toml").exists() else None,
        )
        gateway = build(settings, SystemClock())
        try:
            await gateway.start()
            async with serve_asgi(gateway, protocol=Soon) as url:
                one = Bench(upstream, url)
                try:
                    yield one
                finally:
                    upstream.go_on.set()
                    for peer in one.peers:
                        peer.writer.transport.abort()
        finally:
            await gateway.drain()
            await gateway.close()


def create(task: str, callback: str | None = None) -> bytes:
    hook = "" if callback is None else f',"callBackUrl":"{callback}"'
    body = f'{{"model":"m","input":{{"n":"{task}"}}{hook}}}'.encode()
    return CREATE + b"content-length: %d\r\n\r\n" % len(body) + body


def running(name: str) -> int:
    return sum(task.get_name().startswith(name) for task in asyncio.all_tasks())


@pytest.mark.parametrize("half", [False, True], ids=["closed", "half-closed"])
async def test_long_polls_that_were_hung_up_are_held_no_more(tmp_path: Path, half: bool) -> None:
    """Thousands could be asked for and left within a minute, each with its place and its waiting."""
    async with bench(tmp_path) as one:
        body = b'{"taskId":"t","callbackUrl":"%b"}' % HOOK.encode()
        head = b"POST /v1/callbacks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        peer = await one.connect(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert (await peer.answer())[0] == 201
        polls = [await one.connect(b"GET /v1/tasks/t?wait=60 HTTP/1.1\r\nhost: localhost\r\n\r\n") for _ in range(20)]
        await until(lambda: running("task-wait-settled") == 20)
        for poll in polls:
            if half:
                poll.writer.write_eof()
            else:
                poll.writer.transport.abort()
        await until(lambda: running("task-wait") == 0)


async def test_a_create_that_was_forwarded_is_finished_and_registered(tmp_path: Path) -> None:
    """It is paid for: its client's going changes nothing but that nobody reads the answer."""
    async with bench(tmp_path) as one:
        peer = await one.connect(create("a", HOOK))
        await until(lambda: len(one.upstream.asked) == 1)
        peer.writer.transport.abort()
        await until(lambda: Soon.lost == 1)
        one.upstream.go_on.set()

        async def is_registered() -> bool:
            return b'"taskId":"t1"' in (await one.get("/v1/callbacks?taskId=t1"))[1]

        await until(is_registered)
        assert one.upstream.left == 0


async def test_a_create_that_waits_for_its_turn_ends_with_its_client(tmp_path: Path) -> None:
    """Nothing is created for somebody who has gone, and those behind have their turn."""
    (tmp_path / "gateway.toml").write_text('[upstreams.aigptimage]\ncreate_rate = ["1/1"]\n')
    async with bench(tmp_path) as one:
        first = await one.connect(create("first"))
        await until(lambda: len(one.upstream.asked) == 1)
        gone = await one.connect(create("gone"))
        last = await one.connect(create("last"))
        gone.writer.transport.abort()
        await until(lambda: Soon.lost == 1)
        one.upstream.go_on.set()
        assert [(await peer.answer())[0] for peer in (first, last)] == [200, 200]
        assert [b"gone" in body for body in one.upstream.asked] == [False, False]


async def test_a_read_ends_with_the_last_client_that_waits_for_it(tmp_path: Path) -> None:
    """The upstream's connection is let go once nobody waits, and not before; who asks then is answered anew."""
    async with bench(tmp_path) as one:
        first, second = await one.connect(READ), await one.connect(READ)
        await until(lambda: len(one.upstream.asked) == 1)
        first.writer.transport.abort()
        await until(lambda: Soon.lost == 1)
        assert one.upstream.left == 0
        second.writer.transport.abort()
        await until(lambda: one.upstream.left == 1)
        one.upstream.go_on.set()
        third = await one.connect(READ)
        assert (await third.answer())[0] == 200
        assert len(one.upstream.asked) == 2
