"""Answers of every size and compression, over real sockets: what is read of them, and that large results go through."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli.receiver import ReceivedWebhook, Receiver
from gateway.config.load import config_dir
from gateway.config.profilefile import read_profiles
from gateway.core.clock import SystemClock
from gateway.core.model import Callback, TaskState
from gateway.net.resolver import Resolver
from gateway.net.transport import PooledTransport
from gateway.serve.asgi import serve_asgi
from gateway.signature import parse_secrets
from gateway.upstream.answer import PollKind, PollResult
from gateway.upstream.api import NoAnswer, Upstream
from tests.life import Life, Transport, until
from tests.running import running
from tests.virtualtime import VirtualClock, run_virtual

PROFILE = read_profiles([config_dir() / "upstreams"])[0]["aigptimage"]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LIMIT = 1024 * 1024
ENDED = b'{"code":200,"data":{"taskId":"t","state":"success","resultJson":"{}"}}'


class Page:
    """Answers every request with the same body."""

    def __init__(self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.body = body
        self.status = status
        self.headers = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pairs = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": pairs})
        await send({"type": "http.response.body", "body": self.body})


@asynccontextmanager
async def upstream_at(url: str) -> AsyncIterator[Upstream]:
    resolver = Resolver()
    transport = PooledTransport(guard=None, resolve=resolver.resolve, limit=4)
    try:
        yield Upstream(PROFILE, transport, SystemClock(), base_url=url, api_key="sk-1", max_answer=LIMIT)
    finally:
        await transport.aclose()
        await resolver.close()


async def poll(page: Page) -> PollResult:
    async with serve_asgi(page) as url, upstream_at(url) as upstream:
        return await upstream.poll("t")


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


def in_members(body: bytes) -> bytes:
    """Compress it as servers do that put together what they compressed before: each byte, with nothing in between."""
    return b"".join(gzip.compress(body[at : at + 1], mtime=0) + gzip.compress(b"", mtime=0) for at in range(len(body)))


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("gzip", in_members),
        ("gzip", lambda body: in_members(body) + bytes(100)),
        ("gzip", lambda body: gzip.compress(body, mtime=0) + b"\r\n"),
        ("x-gzip", gzip.compress),
        (" GZIP ", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("deflate", gzip.compress),
        ("identity", bytes),
        ("utf-8", bytes),
        ("gzip", bytes),
        ("gzip, gzip", lambda body: gzip.compress(gzip.compress(body, mtime=0))),
        ("deflate,GZIP", lambda body: gzip.compress(zlib.compress(body))),
        ("identity, gzip", gzip.compress),
        ("gzip, identity,", gzip.compress),
        ("gzip, gzip", gzip.compress),  # by the server, told by the CDN as well
        ("br, gzip", gzip.compress),
    ],
)
async def test_a_compressed_answer_is_read(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """Compression that nobody asked for is undone, and one that is only claimed does not matter."""
    assert (await poll(Page(compress(ENDED), headers={"content-encoding": coding}))).kind is PollKind.TERMINAL


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("br", b"\x0b\x02\x80{}\x03"),
        ("zstd", b"\x28\xb5\x2f\xfd"),
        ("gzip", b"\x1f\x8bno"),
        ("gzip", gzip.compress(ENDED, mtime=0) + b"\x1f\x8bno"),
    ],
)
async def test_what_cannot_be_decompressed_says_so(coding: str, body: bytes) -> None:
    """The error names the compression; under an error's status the status still says what it is."""
    result = await poll(Page(body, headers={"content-encoding": coding}))
    assert (result.kind, result.unreadable) == (PollKind.BROKEN, True)
    assert f"cannot be decompressed ({coding})" in str(result.error)
    refused = await poll(Page(body, 401, {"content-encoding": coding}))
    assert (refused.kind, refused.unreadable) == (PollKind.KEY_REFUSED, False)


async def test_codings_of_several_headers() -> None:
    """They are one list, in the headers' order."""
    for body, first, second in (
        (gzip.compress(ENDED, mtime=0), "identity", "gzip"),
        (gzip.compress(ENDED, mtime=0), "gzip", "identity"),
        (gzip.compress(zlib.compress(ENDED), mtime=0), "deflate", "gzip"),
    ):
        page = Page(body, headers={"content-encoding": first, "Content-Encoding": second})
        assert (await poll(page)).kind is PollKind.TERMINAL


async def test_the_coding_that_is_not_known_is_named() -> None:
    """Of several the one that stopped it; more of them than anyone needs are not undone at all."""
    result = await poll(Page(gzip.compress(b"\x0b\x02", mtime=0), headers={"content-encoding": "br, gzip"}))
    assert "cannot be decompressed (br)" in str(result.error)
    many = ENDED
    for _ in range(9):
        many = gzip.compress(many, mtime=0)
    result = await poll(Page(many, headers={"content-encoding": ", ".join(["gzip"] * 9)}))
    assert "cannot be decompressed (in an unknown way)" in str(result.error)


async def test_a_bomb_within_a_coding_is_not_unpacked() -> None:
    """The limit is for what each coding holds, not only for the last."""
    for inner in (b" " * (2 * LIMIT), gzip.compress(b" " * (2 * LIMIT), 0)):
        bomb = gzip.compress(gzip.compress(inner, mtime=0))
        assert len(bomb) < LIMIT
        assert (await poll(Page(bomb, headers={"content-encoding": "gzip, gzip, gzip"}))).oversized


async def test_an_odd_coding_is_not_repeated() -> None:
    """What a header says reaches clients and logs: it may be anything, the key included."""
    result = await poll(Page(b"\x00", headers={"content-encoding": "sk-1"}))
    assert "sk-1" not in str(result.error)


@pytest.mark.parametrize(("size", "members"), [(64, 1), (1, 2), (0.5, 64)])
async def test_a_bomb_is_not_unpacked(size: float, members: int) -> None:
    """A small answer that would become a large one is one that is too large."""
    bomb = gzip.compress(b" " * round(size * LIMIT)) * members
    assert len(bomb) < LIMIT
    result = await poll(Page(bomb, headers={"content-encoding": "gzip"}))
    assert (result.oversized, result.error) == (
        True,
        f"The upstream's answer is larger than the {LIMIT} bytes of GATEWAY_RESULT_MAX_BYTES.",
    )
    refused = await poll(Page(bomb, 403, {"content-encoding": "gzip"}))
    assert (refused.kind, refused.oversized) == (PollKind.KEY_REFUSED, False)


@pytest.mark.parametrize(
    ("framing", "most"), [(b"content-length: %d" % (64 * LIMIT), 0), (b"connection: close", LIMIT)]
)
async def test_an_answer_that_is_too_large_is_not_read(
    framing: bytes, most: int, raw_server: Callable[..., Awaitable[Any]]
) -> None:
    """Where its size is announced hardly any of it is read, else no more than the limit; the connection is closed."""
    sent = 0
    gone = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n{")
        try:
            while sent < 64 * LIMIT:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536
        finally:
            gone.set()

    server = await raw_server(handle)
    async with upstream_at(server.url("")) as upstream:
        result = await upstream.poll("t")
        async with asyncio.timeout(20):
            await gone.wait()
    assert (result.kind, result.unreadable, result.oversized) == (PollKind.BROKEN, True, True)
    # What the two sockets have taken in between comes on top.
    assert sent < most + 16 * LIMIT


async def test_an_answer_at_the_limit_is_read() -> None:
    """The limit itself is still taken."""
    assert (await poll(Page(ENDED + b" " * (LIMIT - len(ENDED))))).kind is PollKind.TERMINAL
    assert (await poll(Page(ENDED + b" " * (LIMIT - len(ENDED) + 1)))).oversized


async def test_a_long_error_page_is_an_error() -> None:
    """Of an error only the beginning is read, and its status counts however long it is."""
    page = Page(b"<html>" + b"x" * (64 * LIMIT), 403)
    async with serve_asgi(page) as url, upstream_at(url) as upstream:
        answer = await upstream.forward("GET", "/")
        assert not isinstance(answer, NoAnswer)
        assert len(answer.body) == 64 * 1024
        result = await upstream.read("t", answer)
    assert (result.kind, result.unreadable, result.oversized) == (PollKind.KEY_REFUSED, False, False)


def image(size: int) -> str:
    return json.dumps({"b64": "iVBORw0KGgo" + "A" * size})


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_of_a_long_error_that_is_cut_within_the_key_none_of_it_is_shown(coding: str) -> None:
    """Wherever that is: neither of those that are whole, nor of the one whose rest is not read any more."""
    key = "sk-a0b1c2d3e4f5"
    for first in range(len(key) + 1):
        body = (b"x" * first + key.encode() + b"x" * (len(key) - first)) * (LIMIT // 16)
        page = Page(gzip.compress(body) if coding == "gzip" else body, 500, {"content-encoding": coding})
        async with serve_asgi(page) as url, upstream_at(url) as upstream:
            upstream.use_key(key)
            answer = await upstream.forward("GET", "/")
        assert not isinstance(answer, NoAnswer)
        assert b"***" in answer.body
        assert key[:6].encode() not in answer.body


async def test_an_image_goes_all_the_way(tmp_path: Path) -> None:
    """A result of many megabytes is settled, kept, delivered, told to whoever reads it, and printed by ``listen``."""
    result = image(9_000_000)
    data = {"taskId": "t", "model": "m", "state": "success", "resultJson": result, "param": "{}"}
    arrived: asyncio.Queue[ReceivedWebhook] = asyncio.Queue()
    receiver = Receiver(parse_secrets(SECRET), SystemClock(), arrived.put_nowait)
    page = Page(json.dumps({"code": 200, "msg": "success", "data": data}).encode())
    async with (
        serve_asgi(page) as upstream_url,
        serve_asgi(receiver) as receiver_url,
        running(tmp_path, upstream_url, GATEWAY_WEBHOOK_SECRET=SECRET) as one,
    ):
        forwarded = await one.client.get(PROFILE.request.status_path.format(task_id="t"))
        assert json.loads(forwarded.json()["data"]["resultJson"]) == json.loads(result)
        await one.delivered(await one.registered("t", f"{receiver_url}/hooks"))
        webhook = await arrived.get()
        assert (webhook.verified, webhook.event["data"]["result"]) == (True, json.loads(result))
        assert (await one.client.get("/v1/tasks/t")).json()["outcome"]["result"] == json.loads(result)
        answered = await one.client.get(PROFILE.request.status_path.format(task_id="t"))
        assert json.loads(answered.json()["data"]["resultJson"]) == json.loads(result)


async def test_the_limit_is_a_setting(tmp_path: Path) -> None:
    """With another limit another size is too large; the task says so, and so do the metrics."""
    page = Page(json.dumps({"code": 200, "data": {"taskId": "t", "state": "success", "x": "y" * 5000}}).encode())
    async with serve_asgi(page) as url, running(tmp_path, url, GATEWAY_RESULT_MAX_BYTES="4096") as one:
        callback_id = await one.registered("t", "http://127.0.0.1:9/")
        told = await one.becomes(
            f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["task"]["lastError"] is not None
        )
        assert "larger than the 4096 bytes of GATEWAY_RESULT_MAX_BYTES" in told.json()["task"]["lastError"]
        metrics = (await one.client.get("/metrics")).text
        assert 'gateway_polls_total{kind="unreadable",upstream="aigptimage"}' in metrics


# In virtual time.


def answering(body: bytes, headers: Mapping[str, str] | None = None) -> tuple[Transport, list[float]]:
    asked: list[float] = []

    async def answer(_: httpx.Request) -> httpx.Response:
        asked.append(VirtualClock().monotonic())
        await asyncio.sleep(0.01)
        return httpx.Response(200, content=body, headers=headers)

    return Transport(answer), asked


def test_a_large_answer_is_asked_for_ever_more_rarely(tmp_path: Path) -> None:
    """Each try costs its whole size: the pauses grow past the greatest of ordinary polls, to an hour, for it alone."""

    async def main() -> None:
        transport, asked = answering(b" " * (33 << 20))
        life = await Life(tmp_path / "db", VirtualClock(), upstream=transport).start()
        await life.register("t", timeout_s=86_400)
        await until(lambda: len(asked) == 16, step_s=1.0)
        pauses = [later - before for before, later in pairwise(asked)]
        assert all(before < later for before, later in pairwise(pauses[:11]))
        assert all(3590 < pause < 3610 for pause in pauses[12:])
        await life.stop()

    run_virtual(main())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "unreadable"),
        (b'{"code":200,"data":{}}', "unreadable"),
        (b'{"code":200,"data":{"taskId":"t","state":"waiting"}}', "timeout"),
        (b'{"code":500,"msg":"m","data":null}', "timeout"),
    ],
)
def test_why_a_task_was_given_up(body: bytes, reason: str, tmp_path: Path) -> None:
    """A task whose answers could not be read up to its end is not one that ran too long: it may have ended."""

    async def main() -> None:
        transport, _ = answering(body)
        life = await Life(tmp_path / "db", VirtualClock(), upstream=transport).start()
        callback = await life.register("t", timeout_s=60)

        async def abandoned() -> bool:
            return (await life.look(callback)).task.state is TaskState.ABANDONED

        await until(abandoned, step_s=0.5)
        found: Callback = await life.look(callback)
        task = await life.store.registry.get_task("", "t")
        assert task is not None
        assert task.outcome is not None
        assert json.loads(task.outcome)["reason"] == reason
        assert (found.task.last_error is None) == (b"waiting" in body)
        await life.stop()

    run_virtual(main())


def test_an_outage_at_the_end_changes_nothing(tmp_path: Path) -> None:
    """Where the last polls got no answer at all, the last answer that came says whether it could be read."""

    async def main() -> None:
        async def answer(_: httpx.Request) -> httpx.Response:
            if VirtualClock().monotonic() - began > 40:
                raise httpx.ConnectError("refused")
            return httpx.Response(200, content=b"<html>")

        began = VirtualClock().monotonic()
        life = await Life(tmp_path / "db", VirtualClock(), upstream=Transport(answer)).start()
        await life.register("t", timeout_s=60)

        async def abandoned() -> bool:
            task = await life.store.registry.get_task("", "t")
            return task is not None and task.outcome is not None and b'"reason":"unreadable"' in task.outcome

        await until(abandoned, step_s=0.5, limit_s=600)
        await life.stop()

    run_virtual(main())
