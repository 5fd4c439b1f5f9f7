"""The load: clients that register callbacks as fast as they are answered, at as little cost as possible.

Owns the requests and that each was answered as it should. One request at a time on each connection, on uvloop and
httptools in the benchmark's own process, which is pinned beside the gateway's core.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import uvloop

__all__ = ["register_batches", "register_singly"]


def register_singly(url: str, task_ids: Sequence[str], callback_url: str, connections: int = 32) -> float:
    """Register each task by a request of its own; return the seconds from the first request to the last answer."""
    callback = json.dumps(callback_url).encode()
    bodies = [b'{"taskId":%b,"callbackUrl":%b}' % (json.dumps(task_id).encode(), callback) for task_id in task_ids]
    return uvloop.run(_post(url + "/v1/callbacks", bodies, 201, connections))


def register_batches(
    url: str, task_ids: Sequence[str], callback_urls: str | Sequence[str], size: int = 500, connections: int = 2
) -> float:
    """Register the tasks in batches; return the seconds from the first request to the last answer."""
    urls = [callback_urls] * len(task_ids) if isinstance(callback_urls, str) else callback_urls
    callbacks = [{"taskId": task_id, "callbackUrl": to} for task_id, to in zip(task_ids, urls, strict=True)]
    bodies = [
        json.dumps({"callbacks": callbacks[start : start + size]}).encode() for start in range(0, len(callbacks), size)
    ]
    return uvloop.run(_post(url + "/v1/callbacks/batch", bodies, 200, connections))


async def _post(url: str, bodies: Sequence[bytes], status: int, connections: int) -> float:
    parts = urlsplit(url)
    left = iter(bodies)
    loop = asyncio.get_running_loop()
    clients = [_Client(parts.path, parts.netloc, left, status, loop.create_future()) for _ in range(connections)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, parts.hostname, parts.port)  # type: ignore[misc]
    started = time.perf_counter()
    for client in clients:
        client.next()
    await asyncio.gather(*(client.over for client in clients))
    return time.perf_counter() - started


class _Client(asyncio.Protocol):
    def __init__(
        self, path: str, host: str, bodies: Iterator[bytes], status: int, over: "asyncio.Future[None]"
    ) -> None:
        self._head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: "
        self._bodies = bodies
        self._status = status
        self._parser = httptools.HttpResponseParser(self)
        self._refused = False
        self.over = over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def next(self) -> None:
        body = next(self._bodies, None)
        if body is None:
            self._transport.close()
            self.over.set_result(None)
            return
        self._transport.write(b"%b%d\r\n\r\n%b" % (self._head.encode(), len(body), body))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        # Batches answer 200 whatever became of their items.
        self._refused = self._refused or b'"error":' in body

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != self._status or self._refused:
            self.over.set_exception(RuntimeError(f"answered {self._parser.get_status_code()}, or an item was refused"))
            self._transport.close()
            return
        self.next()

    def connection_lost(self, exc: Any) -> None:
        if not self.over.done():
            self.over.set_exception(RuntimeError(f"the connection was lost: {exc}"))
