"""What is large, and much of it, in a whole gateway process: all of it arrives, and the memory stays bounded.

Each of these took from 300 MB to 4 GB where nothing bounded it.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.core.model import Outcome, Settlement, TaskState
from gateway.serve.asgi import serve_asgi
from gateway.store.sqlite.store import SqliteStore
from tests.acceptance.test_limits import peak_bytes
from tests.crash.process import LIMIT_S
from tests.storing import NOW, new, often_tried
from tests.unread import unread
from tests.waiting import a_moment

MIB = 1024 * 1024
LIMIT = 256 * MIB
JSON = {"content-type": "application/json"}
Send = Any


class Receiver:
    """Takes webhooks, and keeps only their sizes and digests."""

    def __init__(self) -> None:
        self.url = ""
        self.came: dict[str, tuple[int, bytes]] = {}
        self._news = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        size, digest, more = 0, hashlib.sha256(), True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            digest.update(message.get("body", b""))
            more = message.get("more_body", False)
        self.came[dict(scope["headers"])[b"webhook-id"].decode()] = size, digest.digest()
        self._news.set()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def has(self, count: int) -> None:
        async with asyncio.timeout(LIMIT_S):
            while len(self.came) < count:
                self._news.clear()
                await self._news.wait()


def upstream(answer: bytes) -> Callable[..., Any]:
    """Answer all with this, in chunks: how large it is shows only at its end."""

    async def app(_scope: Any, _receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        for start in range(0, len(answer), 64 * 1024):
            await send({"type": "http.response.body", "body": answer[start : start + 64 * 1024], "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def success(result: bytes) -> bytes:
    """Return the upstream's answer about a task that has ended with this JSON."""
    told = {"taskId": "t", "model": "m", "state": "success", "resultJson": result.decode(), "param": "{}"}
    return json.dumps({"code": 200, "msg": "success", "data": told}).encode()


def image(size: int) -> bytes:
    return b'{"image":"%b"}' % (b"x" * size)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with serve_asgi(receiver) as receiver.url:
        yield receiver


@asynccontextmanager
async def gateway(world: Any, answer: bytes = b"{}") -> AsyncIterator[tuple[httpx.AsyncClient, Callable[[], int]]]:
    """Run one, and yield its client and what tells its most memory; health is asked all the time."""
    async with (
        serve_asgi(upstream(answer)) as url,
        world.gateway(fresh=True, GATEWAY_UPSTREAM_URL=url) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=LIMIT_S) as client,
    ):

        async def is_well() -> None:
            while True:
                answer = await client.get("/healthz")
                assert answer.status_code == 200, answer.text
                await a_moment()

        watch = asyncio.create_task(is_well())
        yield client, lambda: peak_bytes(running.process.pid)
        watch.cancel()
        await asyncio.wait((watch,))
        assert watch.cancelled(), watch.exception()
        assert await running.stop() == 0


async def owe(path: Path, url: str, count: int, size: int) -> None:
    """Leave a database in which so many large webhooks are due."""
    store = SqliteStore(path)
    await store.open()
    outcome = Outcome(state=TaskState.SUCCESS, data=b'{"taskId":"t","result":%b}' % image(size))
    owed = [
        new(f"task-{number}", client="default", upstream="aigptimage", url=f"{url}/hook") for number in range(count)
    ]
    ends = [
        Settlement(upstream="aigptimage", seq=made.callback.task.seq, outcome=outcome, settled_at=NOW, polls=1)
        for made in await store.registry.register(owed)
    ]
    await asyncio.gather(*map(store.tasks.settle, ends))
    await store.close()


async def test_many_large_webhooks_that_are_due_at_the_start(world: Any, receiver: Receiver) -> None:
    """As many as may be under way at once: those for which there is room are read, the others wait for it."""
    await owe(world.folder / "gateway.db", receiver.url, 96, MIB)
    async with gateway(world) as (_, peak):
        await receiver.has(96)
        assert peak() < LIMIT * 5 // 8


async def test_many_callbacks_on_one_large_outcome(world: Any, receiver: Receiver) -> None:
    """It is stored once, and each callback's webhook is made of it when its attempt starts."""
    async with gateway(world, success(image(4 * MIB))) as (client, peak):
        asked = [{"taskId": "t", "callbackUrl": f"{receiver.url}/{number}"} for number in range(24)]
        answer = await client.post("/v1/callbacks/batch", json={"callbacks": asked})
        assert [one["status"] for one in answer.json()["data"]] == [201] * 24
        await receiver.has(24)
        late = await client.post("/v1/callbacks", json={"taskId": "t", "callbackUrl": f"{receiver.url}/late"})
        assert late.status_code == 201
        await receiver.has(25)
        assert peak() < LIMIT * 5 // 8
    assert (world.folder / "gateway.db").stat().st_size < 12 * MIB
    assert len({size for size, _ in receiver.came.values()}) == 1
    assert len({digest for _, digest in receiver.came.values()}) == 25  # each has its own id


async def test_many_records_of_one_large_outcome(world: Any, receiver: Receiver) -> None:
    """In that format too it is stored once, and all get the same bytes, whether they come before its end or later."""
    async with gateway(world, success(image(4 * MIB))) as (client, peak):
        asked = [{"taskId": "t", "callbackUrl": f"{receiver.url}/{number}", "format": "record"} for number in range(24)]
        answer = await client.post("/v1/callbacks/batch", json={"callbacks": asked})
        assert [one["status"] for one in answer.json()["data"]] == [201] * 24
        await receiver.has(24)
        late = {"taskId": "t", "callbackUrl": f"{receiver.url}/late", "format": "record"}
        assert (await client.post("/v1/callbacks", json=late)).status_code == 201
        await receiver.has(25)
        assert peak() < LIMIT * 5 // 8
    assert (world.folder / "gateway.db").stat().st_size < 16 * MIB  # it has the outcome, too
    assert len(set(receiver.came.values())) == 1


@pytest.mark.parametrize("late", [False, True], ids=["record", "made of the outcome"])
async def test_the_largest_image_as_a_record(world: Any, receiver: Receiver, late: bool) -> None:
    """As it came, or put into a text again: that takes no more room than there is."""
    async with gateway(world, success(image(31 * MIB))) as (client, peak):
        asked = {"taskId": "t", "callbackUrl": f"{receiver.url}/1", "format": "standard" if late else "record"}
        await client.post("/v1/callbacks", json=asked)
        await receiver.has(1)
        await client.post("/v1/callbacks", json={**asked, "callbackUrl": f"{receiver.url}/2", "format": "record"})
        await receiver.has(2)
        assert peak() < LIMIT
    assert len(set(receiver.came.values())) == 1 + late


async def test_the_largest_image_is_settled_delivered_and_read(world: Any, receiver: Receiver) -> None:
    """Alone it takes more than all the room there is, and so it comes alone, in each of these."""
    async with gateway(world, success(image(31 * MIB))) as (client, peak):
        await client.post("/v1/callbacks", json={"taskId": "t", "callbackUrl": receiver.url})
        await receiver.has(1)
        paths = ["/v1/tasks/t", "/api/v1/jobs/recordInfo?taskId=t"]
        answers = await asyncio.gather(*(client.get(path) for path in paths))
        assert [len(answer.content) > 31 * MIB for answer in answers] == [True] * 2
        assert peak() < LIMIT


async def test_an_answer_of_nothing_but_empty_lists_is_refused(world: Any, receiver: Receiver) -> None:
    """Decoded it would take twenty times its size: the task says what would allow for it, and goes on."""
    dense = b"[" + b"[]," * (8 * MIB) + b"0]"
    async with gateway(world, b'{"data":{"taskId":"t","state":"success","resultJson":%b}}' % dense) as (client, peak):
        await client.post("/v1/callbacks", json={"taskId": "t", "callbackUrl": receiver.url})
        async with asyncio.timeout(LIMIT_S):
            while (error := (await client.get("/v1/tasks/t")).json()["lastError"]) is None:
                await a_moment()
        assert error.endswith("bytes of memory; a larger GATEWAY_MEMORY_BYTES allows for it.")
        assert peak() < LIMIT


async def test_a_batch_of_nothing_but_empty_objects_is_read_item_by_item(world: Any) -> None:
    """Each item's metadata is judged and let go before the next one is read; what is wrong with it does not keep it."""
    item = b'{"taskId":"t","callbackUrl":"https://x.example","metadata":{"a":[%b0]}}' % (b"{}," * 3900)
    async with gateway(world) as (client, peak):
        body = b'{"callbacks":[%b]}' % b",".join([item] * 900)
        answers = await asyncio.gather(*(client.post("/v1/callbacks/batch", content=body, headers=JSON) for _ in "ab"))
        assert [{one["status"] for one in answer.json()["data"]} for answer in answers] == [{422}, {422}]
        assert peak() < LIMIT * 5 // 8


async def test_an_item_of_a_batch_may_have_what_a_registration_may(world: Any) -> None:
    """A larger one is its own 413, however often it names a member, and takes no other down."""
    member = b'"metadata":{"a":"%b"},' % (b"x" * 12_000)
    large = b'{"taskId":"large",%b"callbackUrl":"http://127.0.0.1:9/"}' % (member * 900)
    small = b'{"taskId":"small","callbackUrl":"http://127.0.0.1:9/"}'
    async with gateway(world) as (client, _):
        body = b'{"callbacks":[%b,%b]}' % (large, small)
        answer = await client.post("/v1/callbacks/batch", content=body, headers=JSON)
        assert [one["status"] for one in answer.json()["data"]] == [413, 201]
        assert answer.json()["data"][0]["error"]["code"] == "too_large"


async def test_a_crowd_that_asks_for_a_callbacks_attempts(world: Any) -> None:
    """Two hundred that read nothing, and each answer has 200 attempts whose excerpts take six bytes a character."""
    store = SqliteStore(world.folder / "gateway.db")
    await store.open()
    callback = await often_tried(store, 200, "\x01" * 1024, new(client="default"))
    await store.close()
    path = f"/v1/callbacks/{callback.id}/attempts"
    async with gateway(world) as (client, peak), AsyncExitStack() as crowd:
        for _ in range(200):
            await crowd.enter_async_context(unread(str(client.base_url), path))
        assert (await client.get("/v1/callbacks?limit=1")).status_code == 200  # which has its turn after theirs
        await crowd.aclose()
        assert len((await client.get(path)).content) > 200 * 6 * 1024
        assert peak() < LIMIT * 5 // 8


async def test_a_crowd_of_batches_of_nothing(world: Any) -> None:
    """A thousand items in 2 KB, none of which is a registration: what is said of each takes a hundred times as much."""
    body = b'{"callbacks":[%b]}' % b",".join([b"0"] * 1000)
    limits = httpx.Limits(max_connections=None)
    async with (
        gateway(world) as (client, peak),
        httpx.AsyncClient(base_url=client.base_url, trust_env=False, timeout=LIMIT_S, limits=limits) as crowd,
    ):

        async def ask() -> set[int]:
            answer = await crowd.post("/v1/callbacks/batch", content=body, headers=JSON)
            return {one["status"] for one in answer.json()["data"]}

        assert await asyncio.gather(*(ask() for _ in range(300))) == [{422}] * 300
        assert peak() < LIMIT * 5 // 8


async def test_a_batch_of_many_more_items_than_it_may_have(world: Any) -> None:
    """Six million in 12 MB are refused, and not made first."""
    async with gateway(world) as (client, peak):
        body = b'{"callbacks":[%b0]}' % (b"0," * 6_000_000)
        answer = await client.post("/v1/callbacks/batch", content=body, headers=JSON)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "callbacks")
        assert peak() < LIMIT * 5 // 8
