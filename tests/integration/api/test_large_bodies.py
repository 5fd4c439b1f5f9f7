"""What is large waits for room, and what is small does not wait for it: a whole gateway with a small budget."""

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from structlog.testing import capture_logs

from gateway.core.claims import BodyParts, DueCallback
from gateway.core.errors import StoreError
from gateway.core.lenientjson import cost
from gateway.serve.asgi import serve_asgi
from gateway.webhook.headers import ClientHeaders
from tests.life import SECRET
from tests.running import LIMIT_S, Running, running
from tests.sqlitefile import opened
from tests.storing import new, often_tried
from tests.unread import first_begun, keep_send_buffers_small, large_answers, unread
from tests.waiting import until

MIB = 1024 * 1024
CREATE = "/api/v1/jobs/createTask"


class Upstream:
    """Every task has ended with a result of the size that its id names."""

    def __init__(self) -> None:
        self.created: list[bytes] = []
        self.more = ""  # that stands in the answer to a create

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            body, more = b"", True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
            self.created.append(body)
            answer: dict[str, Any] = {"code": 200, "data": {"taskId": "10-created", "more": self.more}}
        else:
            (task_id,) = parse_qs(scope["query_string"].decode())["taskId"]
            result = json.dumps({"image": "x" * int(task_id.split("-")[0])})
            answer = {"code": 200, "data": {"taskId": task_id, "state": "success", "resultJson": result}}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


class Receiver:
    """Takes small webhooks at once, and large ones when it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.began: list[str] = []
        self.takes_large = asyncio.Event()
        self.running = self.most = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope["headers"])
        self.began.append(headers[b"webhook-id"].decode())
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        if int(headers[b"content-length"]) > 64 * 1024:
            self.running += 1
            self.most = max(self.most, self.running)
            await self.takes_large.wait()
            self.running -= 1
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Stand:
    def __init__(self, one: Running, upstream: Upstream, receiver: Receiver) -> None:
        self.one = one
        self.upstream = upstream
        self.receiver = receiver

    async def registered(self, *task_ids: str) -> list[str]:
        return [await self.one.registered(task_id, f"{self.receiver.url}/hook") for task_id in task_ids]

    async def owing(self, *task_ids: str) -> list[str]:
        """Register them one after the other: two answers read at once would wait for what a receiver that hangs has."""
        owed = []
        for task_id in task_ids:
            owed += await self.registered(task_id)
            await self.pending(owed[-1])
        return owed

    async def pending(self, callback_id: str) -> None:
        await self.one.becomes(f"/v1/callbacks/{callback_id}", lambda answer: answer.json()["state"] == "pending")


@asynccontextmanager
async def stand_at(folder: Path, **environ: str) -> AsyncIterator[Stand]:
    upstream, receiver = Upstream(), Receiver()
    environ = {"GATEWAY_MEMORY_BYTES": str(4 * MIB), "GATEWAY_ATTEMPT_TIMEOUT_S": "300", **environ}
    async with (
        serve_asgi(upstream) as url,
        serve_asgi(receiver) as receiver.url,
        running(folder, url, **environ) as one,
    ):
        yield Stand(one, upstream, receiver)
        receiver.takes_large.set()


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with stand_at(tmp_path) as stand:
        yield stand


async def test_a_small_webhook_passes_the_large_ones_that_wait(stand: Stand) -> None:
    """Those of one receiver that hangs have a quarter of the room; the others wait, and all arrive in the end."""
    large = await stand.owing(*(f"200000-{letter}" for letter in "abcd"))
    await until(lambda: stand.receiver.running == 2)
    (small,) = await stand.registered("10-small")
    await stand.one.delivered(small)
    assert stand.receiver.most == 2
    stand.receiver.takes_large.set()
    for callback_id in large:
        await stand.one.delivered(callback_id)


async def test_an_attempt_that_waited_for_room_at_the_stop_was_not_made(tmp_path: Path) -> None:
    """Those under way are interrupted, and told of; the one that waited is simply still owed."""
    async with stand_at(tmp_path) as stand:
        await stand.owing(*(f"200000-{letter}" for letter in "abc"))
        await until(lambda: stand.receiver.running == 2)
        with capture_logs() as log:
            await stand.one.gateway.drain()
        interrupted = [line["callback_id"] for line in log if line["event"] == "attempt.interrupted"]
        assert sorted(interrupted) == sorted(stand.receiver.began)
        assert not stand.one.gateway.store._engine.webhooks._claimed


async def test_a_webhook_that_is_cancelled_while_it_waits_for_room_is_not_sent(stand: Stand) -> None:
    """Nobody has claimed it any more once the others are delivered, and nothing counts as an attempt."""
    owed = await stand.owing(*(f"200000-{letter}" for letter in "abc"))
    gateway, began = stand.one.gateway, stand.receiver.began
    await until(lambda: stand.receiver.running == 2 and bool(gateway.memory._waiting))
    (waits,) = set(owed) - set(began)
    assert (await stand.one.client.delete(f"/v1/callbacks/{waits}")).status_code == 204
    stand.receiver.takes_large.set()
    for callback_id in began:
        await stand.one.delivered(callback_id)
    await until(lambda: not gateway.store._engine.webhooks._claimed)
    await until(lambda: f"attempt-{waits}" not in {task.get_name() for task in asyncio.all_tasks()})
    shown = (await stand.one.client.get(f"/v1/callbacks/{waits}")).json()
    assert (shown["state"], shown["attempts"], len(began)) == ("cancelled", 0, 2)


async def test_an_attempt_that_waits_for_room_is_not_begun_by_the_stop(tmp_path: Path) -> None:
    """What is under way has its time; whoever waits goes back at once, though there will be room before the end."""
    async with stand_at(tmp_path, GATEWAY_DRAIN_S="300") as stand:
        owed = await stand.owing(*(f"200000-{letter}" for letter in "abcd"))
        await until(lambda: stand.receiver.running == 2)
        memory = stand.one.gateway.memory
        await until(lambda: bool(memory._waiting))
        drain = asyncio.create_task(stand.one.gateway.drain())
        await until(lambda: not memory._waiting)
        stand.receiver.takes_large.set()
        async with asyncio.timeout(LIMIT_S):
            await drain
        began = [callback_id for callback_id in owed if callback_id in stand.receiver.began]
        assert len(stand.receiver.began) == len(began) == 2
        for callback_id in owed:
            shown = (await stand.one.client.get(f"/v1/callbacks/{callback_id}")).json()
            assert (shown["state"], shown["attempts"]) == (("delivered", 1) if callback_id in began else ("pending", 0))


async def test_answers_that_are_larger_than_all_the_room_come_one_after_another(stand: Stand) -> None:
    """They are read, kept, delivered and shown, each alone."""
    stand.receiver.takes_large.set()
    for callback_id in await stand.registered(*(f"1500000-{letter}" for letter in "abcd")):
        await stand.one.delivered(callback_id)
    paths = [f"/v1/tasks/1500000-{letter}" for letter in "abcd"]
    answers = await asyncio.gather(*(stand.one.client.get(path) for path in paths))
    assert {len(answer.json()["outcome"]["result"]["image"]) for answer in answers} == {1_500_000}
    read = await stand.one.client.get("/api/v1/jobs/recordInfo?taskId=1500000-a")
    assert len(json.loads(read.json()["data"]["resultJson"])["image"]) == 1_500_000


async def test_a_reader_that_does_not_read_gives_its_room_back_when_it_goes(stand: Stand) -> None:
    """What it asked for is sent no faster than it reads; until it goes the next one waits."""
    stand.receiver.takes_large.set()
    (callback_id,) = await stand.registered("16000000-a")
    await stand.one.delivered(callback_id)
    url = urlsplit(str(stand.one.client.base_url))
    _, writer = await asyncio.open_connection(url.hostname, url.port, limit=1024)
    writer.write(b"GET /v1/tasks/16000000-a HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    memory = stand.one.gateway.memory
    await until(lambda: memory._held[()] > 16_000_000)
    next_one = asyncio.create_task(stand.one.client.get("/v1/tasks/16000000-a"))
    await until(lambda: bool(memory._waiting))
    writer.transport.abort()
    assert len((await next_one).json()["outcome"]["result"]["image"]) == 16_000_000
    await until(lambda: not memory._held)


async def test_a_reader_that_does_not_read_holds_what_it_is_sent_alone(stand: Stand) -> None:
    """The outcome that the answer was made of is not held as long: it takes four times as much."""
    stand.receiver.takes_large.set()
    (callback_id,) = await stand.registered("16000000-a")
    await stand.one.delivered(callback_id)
    memory = stand.one.gateway.memory
    await until(lambda: not memory._held)
    url = urlsplit(str(stand.one.client.base_url))
    reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=1024)
    writer.write(b"GET /v1/tasks/16000000-a HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    assert await reader.readexactly(12) == b"HTTP/1.1 200"
    assert 16_000_000 < memory._held[()] < 25_000_000
    writer.transport.abort()
    await until(lambda: not memory._held)


async def test_what_a_reader_has_not_taken_of_the_end_is_held_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of this answer is with the server at once, and most of it stays there: its room is not given to others."""
    keep_send_buffers_small(monkeypatch)
    async with stand_at(tmp_path) as stand:
        stand.receiver.takes_large.set()
        (callback_id,) = await stand.registered("110000-a")
        await stand.one.delivered(callback_id)
        memory = stand.one.gateway.memory
        await until(lambda: not memory._held)
        async with unread(stand.one.url, "/v1/tasks/110000-a") as reader:
            assert await reader.readexactly(12) == b"HTTP/1.1 200"
            for _ in range(3):  # so that the server has done whatever it can without its client
                await stand.one.client.get("/healthz")
            assert memory._held[()] > 110_000
            read = asyncio.create_task(reader.read())
            await until(lambda: not memory._held)
        await asyncio.wait((read,))


async def test_of_a_crowd_that_wants_attempts_nobody_keeps_any_while_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read again once there is room for them, one after the other: 200 take 1.3 MB, and all the room here."""
    keep_send_buffers_small(monkeypatch)
    async with opened(tmp_path / "gateway.db") as store:
        callback = await often_tried(store, 200, "\x01" * 1024, new(client="default"))
    path = f"/v1/callbacks/{callback.id}/attempts"
    async with stand_at(tmp_path, GATEWAY_WEBHOOK_SECRET=SECRET) as stand, AsyncExitStack() as crowd:
        readers = [await crowd.enter_async_context(unread(stand.one.url, path)) for _ in range(20)]
        memory = stand.one.gateway.memory
        await until(lambda: len(memory._holders) == 20)
        assert await first_begun(readers) == b"HTTP/1.1 200"
        assert len(large_answers()) == 1
        await crowd.aclose()
        await until(lambda: not memory._held)
        answer = await stand.one.client.get(path)
        assert [one["number"] for one in answer.json()["data"]] == [*range(1, 201)]


async def test_a_batch_is_read_once_there_is_room_for_its_items(stand: Stand) -> None:
    """However few bytes they have: what is said of a thousand that are none takes a megabyte."""
    memory, asked = stand.one.gateway.memory, {"callbacks": [0] * 1000}
    await memory.hold(2 * MIB, "client default", "requests")
    batch = asyncio.create_task(stand.one.client.post("/v1/callbacks/batch", json=asked))
    await until(lambda: bool(memory._waiting))
    assert not large_answers()
    memory.keep(0)
    assert [one["status"] for one in (await batch).json()["data"]] == [422] * 1000


async def test_what_was_read_of_metadata_is_not_kept_while_a_name_is_looked_up(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As objects it takes many times as much as its bytes, and a name may take seconds."""
    asked, answered = asyncio.Event(), asyncio.Event()

    async def slow(_: str) -> None:
        asked.set()
        await answered.wait()

    monkeypatch.setattr(stand.one.gateway.api.registering, "_check_url", slow)
    sent = ["marked", *([{}] * 1000)]
    registering = asyncio.create_task(stand.one.register("10-a", f"{stand.receiver.url}/hook", metadata={"a": sent}))
    await asked.wait()
    kept = [one for one in gc.get_objects() if isinstance(one, list) and one[:1] == sent[:1] and one is not sent]
    assert kept == []
    answered.set()
    assert (await registering).json()["metadata"] == {"a": sent}


async def test_a_client_reads_what_is_large_while_its_receivers_hang(stand: Stand) -> None:
    """However many of them: its requests have their own part of its room."""
    async with AsyncExitStack() as receivers:
        for task_id in ("100000-a", *(f"400000-{letter}" for letter in "abcde")):
            url = await receivers.enter_async_context(serve_asgi(stand.receiver))
            await stand.pending(await stand.one.registered(task_id, f"{url}/hook"))
        await until(lambda: len(stand.one.gateway.memory._holders) == 6)  # each has room, or waits for it
        answer = await stand.one.client.get("/v1/tasks/100000-a")
        assert len(answer.json()["outcome"]["result"]["image"]) == 100_000
        stand.receiver.takes_large.set()


async def test_a_body_that_cannot_be_read_is_tried_again(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is the database's trouble, or the machine's, and is not counted as the receiver's."""
    monkeypatch.setattr("gateway.loops.deliverer._NOT_MADE_PAUSE_S", 0.01)
    stand.receiver.takes_large.set()
    store = stand.one.gateway.store
    troubles: list[Exception] = [StoreError("The database could not be read."), MemoryError()]
    body = store.outbox.body

    async def fails(claim: DueCallback) -> BodyParts | bytes | None:
        if troubles:
            raise troubles.pop(0)
        return await body(claim)

    monkeypatch.setattr(store.outbox, "body", fails)
    with capture_logs() as log:
        (callback_id,) = await stand.registered("400000-a")
        shown = await stand.one.delivered(callback_id)
    assert shown["attempts"] == 1
    assert [line["error"] for line in log if line["event"] == "attempt.not_made"] == [
        "The database could not be read.",
        "There is no memory for its 400172 bytes.",
    ]


async def test_a_large_webhook_is_signed_where_it_holds_up_nobody(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the thread for what is large; a small one is signed at once."""
    headers, signed_in = ClientHeaders.headers, []

    def noted(self: ClientHeaders, claim: DueCallback, body: bytes, timestamp_s: int) -> dict[str, str]:
        signed_in.append(threading.current_thread().name.partition("_")[0])
        return headers(self, claim, body, timestamp_s)

    monkeypatch.setattr(ClientHeaders, "headers", noted)
    stand.receiver.takes_large.set()
    for task_id in ("400000-a", "10-a"):
        (callback_id,) = await stand.registered(task_id)
        await stand.one.delivered(callback_id)
    assert signed_in == ["large", "MainThread"]


async def test_a_large_create_goes_on_as_it_came(stand: Stand) -> None:
    """But for its callback, which is registered."""
    prompt = "p" * 200_000
    asked = {"model": "m", "input": {"prompt": prompt}, "callBackUrl": f"{stand.receiver.url}/hook"}
    answer = await stand.one.client.post(CREATE, json=asked)
    assert answer.json()["data"]["taskId"] == "10-created"
    (sent,) = stand.upstream.created
    assert json.loads(sent) == {"model": "m", "input": {"prompt": prompt}}
    await until(lambda: bool(stand.receiver.began))


async def test_a_large_create_leaves_room_for_the_answer_to_it(stand: Stand) -> None:
    """What it has itself would be waited for in vain."""
    stand.upstream.more = "x" * 500_000
    asked = {"model": "m", "input": {"prompt": "p" * 1_000_000}}
    async with asyncio.timeout(LIMIT_S):
        answer = await stand.one.client.post(CREATE, json=asked)
    assert answer.json()["data"] == {"taskId": "10-created", "more": stand.upstream.more}


@pytest.mark.parametrize("room", [True, False])
async def test_a_large_page_of_a_list_is_whole(stand: Stand, monkeypatch: pytest.MonkeyPatch, *, room: bool) -> None:
    """It is read again once there is room for it, where there was none: nobody keeps what waits."""
    for number in range(12):
        metadata = {"n": number, "x": "x" * 8000}
        answer = await stand.one.register(f"10-{number}", f"{stand.receiver.url}/hook", metadata=metadata)
        assert answer.status_code == 201
    registry, memory = stand.one.gateway.store.registry, stand.one.gateway.memory
    read, hold_now, reads = registry.list_callbacks, memory.hold_now, 0

    async def counted(*args: Any, **named: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*args, **named)

    monkeypatch.setattr(registry, "list_callbacks", counted)
    monkeypatch.setattr(memory, "hold_now", lambda *wanted: room and hold_now(*wanted))
    page = (await stand.one.client.get("/v1/callbacks?limit=11")).json()
    assert [one["metadata"]["n"] for one in page["data"]] == [*range(11, 0, -1)]
    assert reads == (1 if room else 2)
    rest = (await stand.one.client.get(f"/v1/callbacks?limit=11&cursor={page['nextCursor']}")).json()
    assert ([one["metadata"]["n"] for one in rest["data"]], rest["nextCursor"]) == ([0], None)


def test_what_decoding_costs() -> None:
    """ASCII takes what it takes; a character beyond that makes its own text dear, and values always are."""
    image = b"x" * MIB
    plain = cost(b'{"a":"%b","b":"cat"}' % image)
    assert plain < 4.01 * MIB
    assert cost(b'{"a":"%b","b":"\xf0\x9f\x90\x88"}' % image) < plain + 100
    assert cost(b'{"a":"%b","b":"\\ud83d"}' % image) < plain + 100
    assert 7.99 * MIB < cost(b'{"a":"%b\\ud83d","b":""}' % image) < 8.01 * MIB
    assert cost(b"[" + b"{}," * MIB + b"0]") > 72 * 2 * MIB
