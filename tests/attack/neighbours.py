"""Hostile neighbours: they reach the port and have no token, or are a page in a visitor's browser."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.attack.attacker import Attacker, Reader, Writer, drained

__all__ = ["NEIGHBOURS"]


class Neighbour(Attacker):
    role = "nobody"

    @asynccontextmanager
    async def connection(self, first: bytes = b"") -> AsyncIterator[tuple[Reader, Writer]]:
        reader, writer = await self.connect(first)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


class IdleConnections(Neighbour):
    """As many connections as the gateway takes, with nothing said on them: others must still get one."""

    name, proof = "idle-connections", "opened"
    _MOST = 5000

    async def attack(self) -> None:
        writers: list[Writer] = []
        try:
            async for _ in self.pace(1500):
                if len(writers) < self._MOST:
                    _, writer = await self.connect()
                    writers.append(writer)
                    self.did["opened"] += 1
                elif any(writer.transport.is_closing() for writer in writers[:100]):
                    writers = [writer for writer in writers if not writer.transport.is_closing()]
                else:
                    writers.append(writers.pop(0))
        finally:
            for writer in writers:
                writer.transport.abort()


class SlowRequests(Neighbour):
    """Heads and bodies that come a byte at a time, on hundreds of connections."""

    name, proof = "slow-requests", "bytes"

    async def attack(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(self._drip(number))

    async def _drip(self, number: int) -> None:
        head = b"POST /v1/callbacks HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
        text = (head if number % 2 else head + b"\r\n") + b"X" * 2000
        try:
            async with self.connection() as (_, writer):
                for byte in text:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    self.did["bytes"] += 1
                    await asyncio.sleep(0.2)
        except (OSError, RuntimeError):  # uvloop's word for a connection that was closed meanwhile
            self.did["cut off"] += 1
            await asyncio.sleep(1)


class EndlessHeads(Neighbour):
    """Heads of the smallest lines, of one large line, or trailers: each is bounded in bytes, and in what it keeps."""

    name, proof = "endless-heads", "sent"

    async def attack(self) -> None:
        begin = b"GET / HTTP/1.1\r\nHost: x\r\n"
        chunked = b"POST /v1/callbacks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        kinds = (
            begin + b"a:\r\n" * 15_000,
            begin + b"a: " + b"b" * 60_000,
            chunked + b"0\r\n" + b"a:\r\n" * 15_000,
            chunked + b"1;" + b"a" * 60_000,
        )
        held: list[Writer] = []
        try:
            async for number in self.pace(40):
                _, writer = await self.connect(kinds[number % len(kinds)])
                self.did["sent"] += 1
                held.append(writer)
                if len(held) > 300:
                    held.pop(0).transport.abort()
        finally:
            for writer in held:
                writer.transport.abort()


class ChunkFloods(Neighbour):
    """Bodies of the smallest chunks, a buffer full on each of twenty connections at once: all others waited."""

    name, proof = "chunk-floods", "sent"
    _CHUNKS = 43_000

    async def attack(self) -> None:
        head = b"POST /v1/callbacks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        async for _ in self.pace(1):
            async with AsyncExitStack() as stack:
                writers = [(await stack.enter_async_context(self.connection(head)))[1] for _ in range(20)]
                for writer in writers:
                    writer.transport.set_write_buffer_limits(0)  # so that it has drained only when all has gone
                    writer.write(b"1\r\nx\r\n" * self._CHUNKS)
                for writer in writers:
                    await writer.drain()
                    self.did["sent"] += self._CHUNKS


class PartFloods(Neighbour):
    """Reads of the smallest chunks with the next request's head behind them, and of thirty heads of the shortest lines.

    None is large, and those of forty connections came in one turn of the loop, where others waited for all of them.
    """

    name, proof = "part-floods", "answered"
    _CHUNKED = b"POST /v1/callbacks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    _HEADS = (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 126 + b"\r\n") * 30

    async def attack(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                chunks = b"1\r\nx\r\n" * 500 + b"0\r\n\r\n" + self._CHUNKED
                its = (b"", self._HEADS, 1) if number % 2 else (self._CHUNKED, chunks, 10)
                group.create_task(self._send(*its))

    async def _send(self, first: bytes, read: bytes, per_s: float) -> None:
        while True:
            try:
                async with self.connection(first) as (reader, writer):
                    async for _ in self.pace(per_s):
                        writer.write(read)
                        if not await reader.read(1 << 16):
                            break
                        self.did["answered"] += 1
            except (OSError, RuntimeError):
                pass
            self.did["cut off"] += 1
            await asyncio.sleep(1)


class PublicPages(Neighbour):
    """Sixteen loops that read the pages which need no token, as fast as they get them."""

    name, proof = "public-pages", "read"
    _PAGES = ("/metrics", "/healthz", "/readyz", "/openapi.json", "/", "/manual")

    async def attack(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(16):
                group.create_task(
                    self._read(self._PAGES[0] if number % 2 else self._PAGES[number // 2 % len(self._PAGES)])
                )

    async def _read(self, page: str) -> None:
        async for _ in self.pace(20):
            await self.ask("GET", page)
            self.did["read"] += 1


class UnreadPages(Neighbour):
    """Hundreds of connections that ask for the largest pages that need no token, and read none of them."""

    name, proof = "unread-pages", "asked"
    _PAGES = ("/openapi.json", "/manual/calls")

    async def attack(self) -> None:
        open_ones: list[Writer] = []
        try:
            async for number in self.pace(50):
                open_ones.append((await self.connect(self.head(f"GET {self._PAGES[number % 2]} HTTP/1.1")))[1])
                self.did["asked"] += 1
                if len(open_ones) > 500:
                    open_ones.pop(0).transport.abort()
        finally:
            for writer in open_ones:
                writer.transport.abort()


class WrongTokens(Neighbour):
    """Guesses tokens, in every place where one may stand."""

    name, proof, brief = "wrong-tokens", "asked", True

    async def attack(self) -> None:
        guesses: tuple[dict[str, Any], ...] = (
            {"headers": {"authorization": "Bearer gwt_guess"}},
            {"headers": {"authorization": b"Bearer \xff\xfe"}},
            {"headers": {"authorization": "Basic Og=="}},
            {"headers": {"authorization": "Bearer " + "x" * 20_000}},
            {"headers": {"authorization": ""}},
        )
        async for number in self.pace(50):
            path = ("/v1/callbacks", "/v1/tasks/t?wait=60", "/api/v1/jobs/recordInfo?taskId=t")[number % 3]
            answer = await self.ask("GET", path, **guesses[number % len(guesses)])
            self.did["asked"] += 1
            if answer.status_code < 400:
                self.found.append(f"{path} is answered {answer.status_code} without a token")


class WebPages(Neighbour):
    """Pages of other sites in a visitor's browser: simple requests, and names bound to this machine afterwards."""

    name, proof, brief = "web-pages", "asked", True

    async def attack(self) -> None:
        body = b'{"model": "m", "input": {"prompt": "paid by the visitor"}}'
        forged = {"origin": "https://evil.example", "sec-fetch-site": "cross-site", "content-type": "text/plain"}
        rebound = {
            "host": "rebound.evil.example",
            "origin": "http://rebound.evil.example",
            "sec-fetch-site": "same-origin",
        }
        async for _ in self.pace(10):
            for headers in (forged, rebound, forged | {"sec-fetch-mode": "no-cors"}):
                for path in ("/api/v1/jobs/createTask", "/v1/callbacks", "/v1/redeliveries"):
                    answer = await self.ask("POST", path, content=body, headers=headers | {"authorization": ""})
                    self.did["asked"] += 1
                    if answer.is_success:
                        self.found.append(f"a web page's POST {path} is answered {answer.status_code}")
                answer = await self.ask("GET", "/v1/callbacks", headers=rebound | {"authorization": ""})
                if answer.is_success or "access-control-allow-origin" in answer.headers:
                    self.found.append("a web page may read callbacks")


class Scanners(Neighbour):
    """Port scanners: other protocols' first words, nothing at all, resets, and hundreds of requests in one packet."""

    name, proof, brief = "scanners", "tried", True
    _WORDS = (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"SSH-2.0-scan\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n" * 500,
        b"GET /../../etc/passwd HTTP/1.0\r\n\r\n",
        b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + bytes(100),
        b"",
        bytes(range(256)) * 20,
    )

    async def attack(self) -> None:
        async for number in self.pace(30):
            async with self.connection(self._WORDS[number % len(self._WORDS)]) as (reader, writer):
                await drained(writer)
                self.did["tried"] += 1
                try:
                    async with asyncio.timeout(0.2):
                        await reader.read(1000)
                except TimeoutError:
                    pass


NEIGHBOURS = (
    IdleConnections,
    SlowRequests,
    EndlessHeads,
    ChunkFloods,
    PartFloods,
    PublicPages,
    UnreadPages,
    WrongTokens,
    WebPages,
    Scanners,
)
