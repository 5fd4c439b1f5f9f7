"""Hostile clients: they have a token, and use it against everybody else's."""

import asyncio
import base64
import json
from contextlib import suppress
from typing import Any

from tests.attack.attacker import Attacker, Reader, Writer, drained, plain, read_request

__all__ = ["CLIENTS"]

_ROLE = "mallory"


class Client(Attacker):
    role = _ROLE


class HungUpPolls(Client):
    """A program that gives up its long polls at once and asks again: each held its place for a minute."""

    name, proof, brief = "hung-up-polls", "hung up", True

    async def attack(self) -> None:
        await self.register("sim-never-hung-up", "http://127.0.0.1:9/")
        async for _ in self.pace(80):
            _, writer = await self.connect(self.head("GET /v1/tasks/sim-never-hung-up?wait=60 HTTP/1.1"))
            await drained(writer)
            await asyncio.sleep(0.01)  # until it is being held
            writer.transport.abort()
            self.did["hung up"] += 1


class LargeBatches(Client):
    """An importer that sends all that a batch may hold: 1,000 items with the largest metadata, 8 MB at once."""

    name, proof = "large-batches", "200"

    async def attack(self) -> None:
        metadata = {f"key {number}": "x" * 20 for number in range(200)}
        body = json.dumps(
            {
                "callbacks": [
                    {"taskId": "sim-never-large", "callbackUrl": f"http://127.0.0.1:9/{number}", "metadata": metadata}
                    for number in range(1000)
                ]
            }
        ).encode()
        async for _ in self.pace(0.3):
            await self.ask("POST", "/v1/callbacks/batch", content=body, headers={"content-type": "application/json"})


class TooMuchMetadata(Client):
    """One item with metadata of 12 MB in a batch, again and again: refused, but only after it was read."""

    name, proof = "too-much-metadata", "refused"

    async def attack(self) -> None:
        item = {"taskId": "t", "callbackUrl": "http://127.0.0.1:9/", "metadata": {"a": list(range(1_500_000))}}
        body = json.dumps({"callbacks": [item]}).encode()
        async for _ in self.pace(0.5):
            await self.ask("POST", "/v1/callbacks/batch", content=body, headers={"content-type": "application/json"})
            self.did["refused"] += 1


class WrongBatches(Client):
    """Batches, a hundred at once, of a thousand items that are none: 2 KB each, and 1.6 MB of what is said of it."""

    name, proof = "wrong-batches", "200"
    _BODY = b'{"callbacks":[%b]}' % b",".join([b"0"] * 1000)

    async def attack(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(self._ask())

    async def _ask(self) -> None:
        async for _ in self.pace(0.05):
            headers = {"content-type": "application/json"}
            await self.ask("POST", "/v1/callbacks/batch", content=self._BODY, headers=headers)


class ManyTasks(Client):
    """A client with a thousand running tasks at the upstream that others use too: theirs must be polled in between."""

    name, proof = "many-tasks", "200"

    async def attack(self) -> None:
        async for number in self.pace(0.2):
            if number < 20:
                await self.register_all(
                    [(f"sim-never-many-{number}-{item}", "http://127.0.0.1:9/") for item in range(1000)]
                )


class ManyCreates(Client):
    """A client that creates tasks faster than the key may: others' creates must come through in between."""

    name, proof = "many-creates", "asked"

    async def attack(self) -> None:
        asking: set[asyncio.Task[Any]] = set()
        async for number in self.pace(60):
            if len(asking) < 100:
                asking.add(task := asyncio.create_task(self._create(number)))
                task.add_done_callback(asking.discard)

    async def _create(self, number: int) -> None:
        self.did["asked"] += 1
        with suppress(Exception):
            body = {"model": "m", "input": {"prompt": f"stolen {number}"}}
            await self.ask("POST", "/api/v1/jobs/createTask", json=body)


class EqualRequestIds(Client):
    """A client whose request ids are the innocent's: it must not get the innocent's tasks, nor the other way round."""

    name, proof, brief = "equal-request-ids", "asked", True

    async def attack(self) -> None:
        async for number in self.pace(20):
            self.did["asked"] += 1
            body = {"model": "m", "input": {"prompt": "stolen"}, "callBackUrl": "http://127.0.0.1:9/"}
            await self.ask("POST", "/api/v1/jobs/createTask", json=body, headers={"x-request-id": f"order-{number}"})


class Redeliveries(Client):
    """A client that has all its dead webhooks sent again, and cancels others, without end."""

    name, proof = "redeliveries", "202"

    async def attack(self) -> None:
        await self.register_all([("sim-success-0-again", f"http://127.0.0.1:9/{number}") for number in range(1000)])
        async for number in self.pace(5):
            await self.ask("POST", "/v1/redeliveries", json={"state": "dead", "since": "2020-01-01T00:00:00Z"})
            answer = await self.register("sim-never-cancelled", f"http://127.0.0.1:9/{number}")
            if answer.status_code == 201:
                await self.ask("DELETE", f"/v1/callbacks/{answer.json()['id']}")
                self.did["cancelled"] += 1


class Unreaders(Client):
    """Clients that ask for the largest lists in a pipeline and read nothing of what they get."""

    name, proof = "unreaders", "asked"

    async def attack(self) -> None:
        request = self.head("GET /v1/callbacks?limit=200 HTTP/1.1")
        open_ones: list[Any] = []
        try:
            async for _ in self.pace(5):
                _, writer = await self.connect(request * 60)
                open_ones.append(writer)
                self.did["asked"] += 60
                if len(open_ones) > 100:
                    open_ones.pop(0).transport.abort()
        finally:
            for writer in open_ones:
                writer.transport.abort()


class UnreadAttempts(Client):
    """A client that asks on hundreds of connections for attempts whose excerpts have six bytes a character."""

    name, proof = "unread-attempts", "asked"

    async def prepare(self) -> None:
        self._port = await self.listen(self._refuse)

    async def _refuse(self, reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        writer.write(plain(b"\x01" * 1024, "500 No"))
        await drained(writer)

    async def attack(self) -> None:
        answer = await self.register("sim-success-0-tried", f"http://127.0.0.1:{self._port}/")
        answer.raise_for_status()
        path = f"/v1/callbacks/{answer.json()['id']}"
        request = self.head(f"GET {path}/attempts HTTP/1.1")
        open_ones: list[Any] = []
        try:
            async for _ in self.pace(40):
                await self.ask("POST", f"{path}/redeliver")
                open_ones.append((await self.connect(request))[1])
                self.did["asked"] += 1
                if len(open_ones) > 300:
                    open_ones.pop(0).transport.abort()
        finally:
            for writer in open_ones:
                writer.transport.abort()


class UnwantedBodies(Client):
    """Clients that are refused and send their hundred megabytes all the same."""

    name, proof = "unwanted-bodies", "megabytes"

    async def attack(self) -> None:
        head = self.head("POST /v1/callbacks HTTP/1.1", "Content-Type: application/json", "Content-Length: 104857600")
        async for _ in self.pace(0.5):
            _, writer = await self.connect(head)
            try:
                for _ in range(100):
                    writer.write(bytes(1 << 20))
                    await drained(writer)
                    self.did["megabytes"] += 1
                    await asyncio.sleep(0.02)
            finally:
                writer.transport.abort()


class OddRequests(Client):
    """A tester's list: lengths, depths, cursors, ids, numbers and encodings that some part has not expected."""

    name, proof, brief = "odd-requests", "asked", True

    async def attack(self) -> None:
        bodies = [self._registration(f'{{"a": {value}}}') for value in self._values()]
        bodies += [
            b"",
            b"null",
            b"[]",
            b"\xff\xfe{}",
            b'{"taskId": 1e999}',
            b'{"taskId": "\\ud800"}',
            b"{" * 5000,
            b'"' * 5000,
        ]
        for body in bodies:
            length = [
                f"Content-Length: {len(body)}",
                f"Content-Length: {'0' * 5000}{len(body)}",
                f"Content-Length: {'9' * 30}",
            ]
            for field in length:
                await self._send(
                    self.head("POST /v1/callbacks HTTP/1.1", "Content-Type: application/json", field) + body
                )
        for target in self._targets():
            await self._send(self.head(f"GET {target} HTTP/1.1"))
            await self._send(self.head(f"DELETE {target} HTTP/1.1"))

    def _registration(self, metadata: str) -> bytes:
        return b'{"taskId": "sim-never-odd", "callbackUrl": "http://127.0.0.1:9/", "metadata": %b}' % metadata.encode(
            "utf-8", "surrogatepass"
        )

    def _values(self) -> list[str]:
        deep = [
            bracket * depth + end * depth
            for depth in (60, 500, 973, 1500, 4000)
            for bracket, end in (("[", "]"), ('{"a":', "}"))
        ]
        deep = [text.replace(":}", ":1}") for text in deep]
        return [*deep, "NaN", "1e400", "9" * 5000, '"\\u0000"', '"\ud800"', "-0", "01", '"' + "é" * 4000 + '"']

    def _targets(self) -> list[str]:
        forged = base64.urlsafe_b64encode(b'{"seq": -1}').decode()
        queries = [
            "limit=0",
            "limit=" + "9" * 5000,
            f"cursor={forged}",
            "cursor=%00",
            "state=%ff",
            "taskId=" + "a" * 60000,
            "limit=1&limit=2",
        ]
        tasks = ["x?wait=-1", "x?wait=1e9", "x?wait=nan", "%00", "%2e%2e", "a" * 300, "x%0d%0aX:%20y"]
        return (
            [f"/v1/callbacks?{query}" for query in queries]
            + [f"/v1/tasks/{task}" for task in tasks]
            + ["/v1/callbacks/cb_" + "z" * 9000]
        )

    async def _send(self, request: bytes) -> None:
        self.did["asked"] += 1
        reader, writer = await self.connect(request)
        try:
            async with asyncio.timeout(2):
                line = (await reader.readline()).decode("latin-1").strip()
        except TimeoutError:
            line = "no answer"  # it waits for the rest of a body
        finally:
            writer.transport.abort()
        self.did[line[9:12] or "closed"] += 1
        if " 500 " in line:
            self.found.append(f"500 for {request[:60]!r} … {request[-60:]!r}")


CLIENTS = (
    HungUpPolls,
    LargeBatches,
    TooMuchMetadata,
    WrongBatches,
    ManyTasks,
    ManyCreates,
    EqualRequestIds,
    Redeliveries,
    Unreaders,
    UnreadAttempts,
    UnwantedBodies,
    OddRequests,
)
