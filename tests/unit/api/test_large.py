"""Large answers: whose part of the room they are sent in, and until when it is held."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.large import made_with_room, send_response
from gateway.core.memory import SMALL, Memory

KIB = 1024
_CLIENT = "client"


class Client:
    """Asks for an answer, and takes as many messages of it as it is told to."""

    def __init__(self, memory: Memory, size: int, **scope: Any) -> None:
        self.sent: list[Any] = []
        self.takes = asyncio.Semaphore(0)
        self._scope = {"type": "http", "app": SimpleNamespace(state=SimpleNamespace(memory=memory)), **scope}
        answer = send_response(Response(bytes(size)), self._scope, self._receive, self._send)
        self.task = asyncio.create_task(answer, name=_CLIENT)

    async def _receive(self) -> Any:
        raise NotImplementedError

    async def _send(self, message: Any) -> None:
        """Take it before the next one is sent, as a server does that waits until it has room for more."""
        self.sent.append(message)
        await self.takes.acquire()

    async def take(self, count: int) -> None:
        for _ in range(count):
            self.takes.release()
        await turns()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def turns() -> None:
    """Let everybody do what they can do now."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def memory() -> AsyncIterator[Memory]:
    memory = Memory(1024 * KIB)
    yield memory
    for task in asyncio.all_tasks():
        if task.get_name() == _CLIENT:
            task.cancel()
    await turns()
    assert not memory.used


async def test_an_answer_is_held_until_its_client_has_taken_its_last_part(memory: Memory) -> None:
    """What a server has taken, and the client has not, is in memory as before: so an empty message comes last."""
    client = Client(memory, 2 * SMALL + 1, client_name="ann")
    await turns()
    await client.take(3)
    assert len(client.body) == 2 * SMALL + 1
    assert memory.used
    await client.take(1)
    assert memory.used
    assert [message.get("more_body") for message in client.sent[1:]] == [True, True, True, None]
    assert client.sent[-1]["body"] == b""
    await client.take(1)
    assert client.task.done()
    assert not memory.used


async def test_others_have_their_turn_between_the_parts_of_an_answer(memory: Memory) -> None:
    """A connection's buffers may take all of it at once, and of many clients in one turn."""
    clients = [Client(memory, 3 * SMALL, client_name=name) for name in ("ann", "bob")]
    seen = []
    for client in clients:
        for _ in range(10):
            client.takes.release()
    while not all(client.task.done() for client in clients):
        await asyncio.sleep(0)
        seen.append([len(client.body) // SMALL for client in clients])
    assert max(first - second for first, second in seen) < 3, "one had all of it before the other had any"
    assert seen[-1] == [3, 3]


async def test_a_small_answer_is_sent_as_it_is(memory: Memory) -> None:
    """It waits for nobody, though all the room is held."""
    await memory.hold(1024 * KIB, "somebody")
    client = Client(memory, SMALL, client_name="ann")
    await turns()
    await client.take(2)
    assert client.task.done()
    assert [message["type"] for message in client.sent] == ["http.response.start", "http.response.body"]
    memory.keep(0)


async def test_strangers_share_no_part_of_the_operators(memory: Memory) -> None:
    """However many there are who show no token and do not read, who shows one gets its answer."""
    strangers = [Client(memory, 200 * KIB) for _ in range(3)]
    await turns()
    assert [bool(client.sent) for client in strangers] == [True, False, False]
    others = [Client(memory, 200 * KIB, client_name=name) for name in (None, "ann")]
    await turns()
    assert all(client.sent for client in others)
    await others[0].take(6)
    assert others[0].task.done()
    await strangers[0].take(6)
    assert strangers[1].sent


async def test_a_page_that_is_likely_to_be_large_is_made_once_there_is_room(memory: Memory) -> None:
    """Behind others of its client's that wait: it was made for nothing, and anew later. A small one never waits."""
    made: list[int] = []

    def asks(likely: int) -> asyncio.Task[Response]:
        scope = {"type": "http", "app": SimpleNamespace(state=SimpleNamespace(memory=memory)), "client_name": "ann"}

        async def page() -> Response:
            made.append(likely)
            return Response(bytes(likely))

        return asyncio.create_task(made_with_room(Request(scope), page, likely=likely), name=_CLIENT)

    release = asyncio.Event()

    async def holds(size: int) -> None:
        await memory.hold(size, "client ann", "requests")
        await release.wait()

    # A client's requests have three eighths of all.
    others = [asyncio.create_task(holds(size), name=_CLIENT) for size in (300 * KIB, 200 * KIB)]
    await turns()
    assert not any(other.done() for other in others)
    assert memory.waits("client ann", "requests")
    large, small = asks(2 * SMALL), asks(SMALL)
    await turns()
    assert (made, large.done(), small.done()) == ([SMALL], False, True)
    release.set()
    await turns()
    assert (made, large.done()) == ([SMALL, 2 * SMALL], True)
