"""The two sides of the gateway while it is killed: an upstream and a receiver that see and remember everything.

Owns what arrived, when, and how it was answered; the moments at which a kill cuts in are counts kept here. Judges
nothing but what a webhook shows by itself (its signature, its bytes); the rest is the checker's.
"""

import asyncio
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import standardwebhooks

from gateway.core.clock import SystemClock
from gateway.serve.asgi import serve_asgi
from gateway.serve.serverprotocol import ServerProtocol
from gateway.simulator import Plan, SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.crash.process import LIMIT_S, SECRET
from tests.crash.scenario import Item

__all__ = ["SENDER", "Arrival", "Moments", "Sides", "serve_sides"]

S = TypeVar("S", bound="Sides")

SENDER = "x-replica"
_SLOW_S = 0.2
_RECEIVERS = 9


class Moments:
    """Counts of what was observed in this round, to be waited for."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._waiting: list[tuple[str, int, asyncio.Event]] = []
        self._any = asyncio.Event()

    def reset(self) -> None:
        self._counts.clear()

    def count(self, name: str) -> None:
        self._counts[name] += 1
        self._any.set()
        for waited, nth, event in self._waiting:
            if waited == name and self._counts[name] >= nth:
                event.set()

    async def next(self) -> None:
        """Return when anything is observed."""
        self._any.clear()
        await self._any.wait()

    async def reached(self, name: str, nth: int) -> None:
        """Return at once when the ``nth`` of these is observed."""
        event = asyncio.Event()
        entry = name, nth, event
        self._waiting.append(entry)
        try:
            if self._counts[name] < nth:
                await event.wait()
        finally:
            self._waiting.remove(entry)


@dataclass
class Arrival:
    """One POST that arrived whole."""

    round: int
    at: float
    """Seconds of the monotonic clock."""
    digest: bytes
    sender: str = ""
    """The replica, where it says so."""
    status: int | None = None
    """What was answered; None: nothing, or the gateway was gone before."""
    ended_at: float | None = None
    """When it was answered, or its sender had gone."""


class Sides(SimulatedUpstream):
    """The upstream, and an ASGI application that receives webhooks; a callback's path says how it is answered."""

    def __init__(self, plans: Plan | None = None) -> None:
        super().__init__(SystemClock(), plans=plans)
        self.moments = Moments()
        self.round = 0
        self.arrivals: defaultdict[str, list[Arrival]] = defaultdict(list)
        """By webhook-id."""
        self.open: list[Arrival] = []
        """Those that have no answer yet."""
        self.keys: dict[str, int] = {}
        """Of which item each webhook-id is."""
        self.events: dict[str, dict[str, Any]] = {}
        """The webhooks' contents, of one arrival each: the others' bytes are the same, or that is told."""
        self.bad: list[str] = []
        self.polls_at: list[float] = []
        self.hung_tasks: frozenset[str] = frozenset()
        self.released = asyncio.Event()
        """Ends all hanging at the receiver."""
        self.upstream_url = ""
        self.receiver_urls: list[str] = []
        """The first is the one that fails much."""
        self._webhook = standardwebhooks.Webhook(SECRET)
        self.busy = _Busy()

    def url_of(self, item: Item) -> str:
        """Return the callback URL of an item."""
        failing, *urls = self.receiver_urls
        return f"{failing if item.failing else urls[item.round % len(urls)]}{item.path}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as the upstream."""
        self.polls_at.append(time.monotonic())
        self.moments.count("poll")
        task_id = scope["query_string"].decode().rpartition("taskId=")[2]
        if task_id in self.hung_tasks:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await super().__call__(scope, receive, send)

    async def receiver(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as the receiver."""
        with self.busy:
            await self._receive(scope, receive, send)

    async def _receive(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/barrier":
            await _answer(send, 204)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        arrival = self._arrived(scope["path"], headers, body)
        self.moments.count("webhook")
        manner = scope["path"].split("/")[1]
        number = len(self.arrivals[headers["webhook-id"]])
        self.open.append(arrival)
        gone = asyncio.create_task(_gone(receive))
        try:
            if manner == "hang":
                await self._hang(gone)
            elif manner == "slow" and number == 1:
                await asyncio.wait([gone], timeout=_SLOW_S)
        finally:
            done = gone.done()
            gone.cancel()
            arrival.ended_at = time.monotonic()
            self.open.remove(arrival)
        if done:
            return
        refused = (manner == "twice500" and number <= 2) or manner == "always500"
        arrival.status = 410 if manner == "gone" else 500 if refused else 204
        await _answer(send, arrival.status)

    def _arrived(self, path: str, headers: dict[str, str], body: bytes) -> Arrival:
        webhook_id = headers["webhook-id"]
        key = int(path.rpartition("/")[2])
        try:
            self._webhook.verify(body, headers)
        except standardwebhooks.WebhookVerificationError as exc:
            self.bad.append(f"{webhook_id}: {exc}")
        if self.keys.setdefault(webhook_id, key) != key:
            self.bad.append(f"{webhook_id} came to {path}, and to the path of {self.keys[webhook_id]} before")
        arrival = Arrival(self.round, time.monotonic(), hashlib.sha256(body).digest(), headers.get(SENDER, ""))
        if not self.arrivals[webhook_id]:
            self.events[webhook_id] = json.loads(body)
        elif self.arrivals[webhook_id][0].digest != arrival.digest:
            self.bad.append(f"{webhook_id} came with other bytes than before")
        self.arrivals[webhook_id].append(arrival)
        return arrival

    async def _hang(self, gone: asyncio.Task[None]) -> None:
        released = asyncio.create_task(self.released.wait())
        await asyncio.wait([gone, released], return_when=asyncio.FIRST_COMPLETED)
        released.cancel()

    async def settled(self) -> None:
        """Return when all that a process sent before its end has arrived here.

        The kernel keeps what a dead process had sent: its connections are accepted before this one, and read to their
        end before they are seen to close.
        """
        async with httpx.AsyncClient() as client:
            for url in self.receiver_urls:
                await client.post(f"{url}/barrier")
        async with asyncio.timeout(LIMIT_S):
            await self.busy.idle.wait()


class _Busy:
    """How many connections and requests there are, and when there are none."""

    def __init__(self) -> None:
        self._count = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def __enter__(self) -> None:
        self._count += 1
        self.idle.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if self._count == 0:
            self.idle.set()

    def protocol(self) -> type[ServerProtocol]:
        """Return uvicorn's protocol with its connections counted here."""
        busy = self

        class Connection(ServerProtocol):
            def connection_made(self, transport: Any) -> None:
                busy.__enter__()
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                busy.__exit__()
                super().connection_lost(exc)

        return Connection


@asynccontextmanager
async def serve_sides(sides: S) -> AsyncIterator[S]:
    """Serve both until the block ends."""
    async with AsyncExitStack() as stack:
        sides.upstream_url = await stack.enter_async_context(serve_simulator(sides))
        for _ in range(_RECEIVERS):
            url = await stack.enter_async_context(serve_asgi(sides.receiver, protocol=sides.busy.protocol()))
            sides.receiver_urls.append(url)
        yield sides


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Any, status: int) -> None:
    with suppress(OSError):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})
