"""The load: requests made beforehand, sent over a few connections, one at a time on each.

Owns the client, which must cost less than what it asks: hence bare protocols on uvloop and httptools. Every answer is
checked; a wrong one, or a lost connection, ends the measurement. Knows of the gateway only how registrations look.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import httptools
import uvloop

LIMIT_S = 300
BATCH = 500
_KEPT = 4  # connections at a steady rate, where one would do
Check = Callable[[int, bytes], bool]
"""Whether an answer, by its status and its body, is the right one."""


def registrations(task_ids: Iterable[str], callback_url: str) -> list[bytes]:
    """Return a request for each task."""
    return [post("/v1/callbacks", {"taskId": task_id, "callbackUrl": callback_url}) for task_id in task_ids]


def batch_registrations(task_ids: Sequence[str], callback_url: str, size: int = BATCH) -> list[bytes]:
    """Return a request for each ``size`` tasks, which must divide their number."""
    items = [{"taskId": task_id, "callbackUrl": callback_url} for task_id in task_ids]
    return [
        post("/v1/callbacks/batch", {"callbacks": items[first : first + size]}) for first in range(0, len(items), size)
    ]


def created(status: int, _: bytes) -> bool:
    return status == 201


def all_created(size: int = BATCH) -> Check:
    return lambda status, body: status == 200 and body.count(b'"status":201') == size


def post(path: str, value: Any) -> bytes:
    body = json.dumps(value, separators=(",", ":")).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def send(url: str | Sequence[str], requests: Iterable[bytes], connections: int, check: Check) -> float:
    """Send all; return the seconds from the first to the last answer's end. The connections are made before that.

    Several URLs are connected to in turn.
    """
    urls = [url] if isinstance(url, str) else url
    return uvloop.run(_send(urls, iter(requests), connections, check))


async def _send(urls: Sequence[str], requests: Iterator[bytes], connections: int, check: Check) -> float:
    made = [await _connect(urls[number % len(urls)], check) for number in range(connections)]
    started = time.perf_counter()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.gather(*(connection.run(requests) for connection in made))
    seconds = time.perf_counter() - started
    for connection in made:
        connection.close()
    return seconds


async def pace(url: str, requests: Iterable[bytes], every_s: float, check: Check) -> None:
    """Send one every so many seconds, whether or not the one before is answered; return when all are."""
    loop = asyncio.get_running_loop()
    # In turn, and a few from the start: one more in a slow moment would be a file more of the gateway's for a while.
    free = deque([await _connect(url, check) for _ in range(_KEPT)])

    async def ask(connection: Connection, request: bytes) -> None:
        await connection.run(iter((request,)))
        free.append(connection)

    started = loop.time()
    async with asyncio.TaskGroup() as asking:
        for number, request in enumerate(requests):
            await asyncio.sleep(started + number * every_s - loop.time())
            # One that went idle after a burst may have been closed since.
            while free and free[0].closed:
                free.popleft()
            asking.create_task(ask(free.popleft() if free else await _connect(url, check), request))
    for connection in free:
        connection.close()


async def _connect(url: str, check: Check) -> "Connection":
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(check), parts.hostname, parts.port)
    return connection


class Connection(asyncio.Protocol):
    """Sends the next request once the one before is answered, until there are no more."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def run(self, requests: Iterator[bytes]) -> "asyncio.Future[None]":
        """Send these; the future is done when the last one that this connection took is answered."""
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._send_next()
        return self._done

    def close(self) -> None:
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the connection was closed before its answer"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        status, body = self._parser.get_status_code(), b"".join(self._body)
        self._body.clear()
        if self._check(status, body):
            self._send_next()
        elif not self._done.done():
            self._done.set_exception(RuntimeError(f"answered {status}: {body[:300]!r}"))

    def _send_next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._done.set_result(None)
        else:
            self._transport.write(request)
