"""What an attacker is, and the few things that all of them do: ask, connect, listen, keep a pace.

Owns no attack. An attacker counts what it did; one that did nothing proves nothing, so each names the count that must
not be zero. What it finds that nobody may find (another's task, a key) it tells as a finding, which fails the run.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

import httpx

from tests.attack.gateway import GOOD_UPSTREAM, token_of

__all__ = ["Attacker", "World", "as_json", "drained", "plain", "read_request"]

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
_TIMEOUT_S = 70.0  # longer than the longest long poll
_BREATH_S = 0.1


@dataclass
class World:
    """Where the attackers are."""

    seed: int = 1
    url: str = ""
    """The gateway's."""
    upstreams: dict[str, str] = field(default_factory=dict)
    """The hostile ones' URLs, by name."""
    names: dict[str, Any] = field(default_factory=dict)
    """What the name server answers, now: a name's addresses, or a code of failure; what is not here, nothing."""


class Attacker:
    """One manner of attacking. Subclasses say in their docstring whom they imitate, and what went wrong once."""

    name: ClassVar[str]
    role: ClassVar[str]
    """Whose token it has."""
    proof: ClassVar[str]
    """Which of its counts must not stay zero."""
    brief: ClassVar[bool] = False
    """Whether it takes part in the short form."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.did: Counter[str] = Counter()
        self.found: list[str] = []
        self.random = Random(f"{world.seed} {self.name}")
        self._servers: list[asyncio.Server] = []
        self._client: httpx.AsyncClient | None = None

    async def prepare(self) -> None:
        """Listen where the gateway's settings, or the name server, have to name it."""

    async def attack(self) -> None:
        """Do the worst; called again when it returns or its connection is cut, until the attack is over."""
        raise NotImplementedError

    async def run(self) -> None:
        while True:
            try:
                await self.attack()
            except (OSError, EOFError, RuntimeError, httpx.HTTPError):
                self.did["cut off"] += 1
            await asyncio.sleep(_BREATH_S)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        if self._client is not None:
            await self._client.aclose()

    # Towards the gateway

    @property
    def token(self) -> str:
        return token_of(self.role)

    async def ask(self, method: str, path: str, **members: Any) -> httpx.Response:
        """Send one request as this role's client; what is answered is counted by its status."""
        if self._client is None:
            headers = {"authorization": f"Bearer {self.token}"}
            limits = httpx.Limits(max_connections=200)
            self._client = httpx.AsyncClient(
                base_url=self.world.url, headers=headers, timeout=_TIMEOUT_S, limits=limits, trust_env=False
            )
        answer = await self._client.request(method, path, **members)
        self.did[f"{answer.status_code}"] += 1
        if answer.status_code == 500:
            self.found.append(f"{method} {path[:80]}: 500 {answer.text[:100]}")
        return answer

    async def register(self, task_id: str, url: str, upstream: str = GOOD_UPSTREAM, **members: Any) -> httpx.Response:
        body = {"taskId": task_id, "callbackUrl": url, "upstream": upstream, **members}
        return await self.ask("POST", "/v1/callbacks", json=body)

    async def register_all(self, wishes: list[tuple[str, str]], upstream: str = GOOD_UPSTREAM) -> None:
        """Register tasks with URLs, in batches of what one may hold."""
        for at in range(0, len(wishes), 1000):
            items = [{"taskId": task, "callbackUrl": url, "upstream": upstream} for task, url in wishes[at : at + 1000]]
            await self.ask("POST", "/v1/callbacks/batch", json={"callbacks": items})

    async def connect(self, first: bytes = b"") -> tuple[Reader, Writer]:
        """Open a connection to the gateway; whoever does closes it."""
        host, _, port = self.world.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(first)
        return reader, writer

    def head(self, line: str, *fields: str) -> bytes:
        """Return a request's head with this role's token."""
        return "\r\n".join([line, "Host: 127.0.0.1", f"Authorization: Bearer {self.token}", *fields, "", ""]).encode()

    async def pace(self, per_s: float) -> AsyncIterator[int]:
        """Count up at a steady pace, without making up for time that was lost."""
        number = 0
        while True:
            began = time.monotonic()
            yield number
            number += 1
            await asyncio.sleep(max(0.0, began + 1 / per_s - time.monotonic()))

    # Towards what the gateway asks

    async def listen(
        self, answer: Callable[[Reader, Writer], Awaitable[None]], host: str = "127.0.0.1", port: int = 0
    ) -> int:
        """Have each connection answered so; return the port."""

        async def connected(reader: Reader, writer: Writer) -> None:
            try:
                await answer(reader, writer)
            except (OSError, EOFError, ValueError, RuntimeError, asyncio.CancelledError):
                pass  # cancelled is what it is when all is over, and asyncio would print that
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(connected, host, port, limit=1 << 20)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])


async def read_request(reader: Reader) -> tuple[str, dict[str, str], bytes]:
    """Return the first line, the headers and the body of one request. Raises EOFError where there is none."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return first, headers, body


def as_json(value: Any, status: str = "200 OK") -> bytes:
    """Return a whole answer."""
    body = json.dumps(value).encode()
    return plain(body, status)


def plain(body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def drained(writer: Writer) -> None:
    with suppress(ConnectionError):
        await writer.drain()
