"""Hostile upstreams: each has a name in the gateway's settings, beside the good one, and watched tasks of its own."""

import asyncio
import json
import time
from typing import Any

from tests.attack.attacker import Attacker, Reader, Writer, as_json, drained, plain, read_request

__all__ = ["UPSTREAMS"]


class Upstream(Attacker):
    """An upstream with some watched tasks; a subclass says how it answers."""

    role = "brutus"
    proof = "answered"
    tasks = 20
    """New ones in each round."""
    callbacks = 1
    """For each task."""
    round_s = 15.0

    async def prepare(self) -> None:
        port = await self.listen(self._connected)
        self.world.upstreams[self.name] = f"http://127.0.0.1:{port}"
        self.receiver = await self.listen(self._received)

    async def attack(self) -> None:
        async for number in self.pace(1 / self.round_s):
            wishes = [
                (f"{self.name}-{number}-{task}", f"http://127.0.0.1:{self.receiver}/{number}-{task}-{callback}")
                for task in range(self.tasks)
                for callback in range(self.callbacks)
            ]
            await self.register_all(wishes, self.name)
            self.did["registered"] += len(wishes)

    async def _connected(self, reader: Reader, writer: Writer) -> None:
        while True:
            first, headers, _ = await read_request(reader)
            self.did["answered"] += 1
            task_id = first.split(" ")[1].partition("taskId=")[2]
            await self.answer(task_id, headers, reader, writer)
            await drained(writer)

    async def answer(self, task_id: str, headers: dict[str, str], reader: Reader, writer: Writer) -> None:
        raise NotImplementedError

    async def _received(self, reader: Reader, writer: Writer) -> None:
        while True:
            _, _, body = await read_request(reader)
            self.did["webhooks"] += 1
            self.look_at(body)
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    def look_at(self, body: bytes) -> None:
        """Judge a webhook that its own outcome has made."""


def ended(task_id: str, result: Any, state: str = "success", **members: Any) -> dict[str, Any]:
    """Return the envelope of a task that has ended."""
    now = int(time.time() * 1000)
    data = {
        "taskId": task_id,
        "model": "m",
        "state": state,
        "param": "{}",
        "resultJson": result,
        "createTime": now - 1000,
        "completeTime": now,
    }
    return {"code": 200, "msg": "success", "data": data | members}


class LargeOutcomes(Upstream):
    """Pictures within the answer: 1 MB for each of many tasks at once."""

    name, tasks, round_s = "large-outcomes", 60, 20.0

    async def answer(self, task_id: str, headers: dict[str, str], reader: Reader, writer: Writer) -> None:
        writer.write(as_json(ended(task_id, json.dumps({"b64": "A" * 1_000_000}))))


class ManyCallbacks(Upstream):
    """One outcome of 4 MB for which four hundred callbacks wait: 1.6 GB if each gets a copy."""

    name, tasks, callbacks, round_s = "many-callbacks", 1, 400, 30.0

    async def answer(self, task_id: str, headers: dict[str, str], reader: Reader, writer: Writer) -> None:
        writer.write(as_json(ended(task_id, json.dumps({"b64": "A" * 4_000_000}))))


class WrongLimits(Upstream):
    """Answers 429 with another window in each, among them one request a day."""

    name, brief = "wrong-limits", True

    async def answer(self, task_id: str, headers: dict[str, str], reader: Reader, writer: Writer) -> None:
        window = self.random.randrange(1, 86_401) if self.did["answered"] % 10 else 86_400
        data = {"retryAfter": 0, "limit": self.random.choice([1, 1, 10**8]), "windowSeconds": window}
        writer.write(as_json({"code": 429, "msg": "Slow down", "data": data}, "429 Too Many Requests"))


class ProxysNotFound(Upstream):
    """A proxy in front of it that has lost its route, and says so in JSON of its own."""

    name, brief = "proxys-not-found", True

    async def answer(self, task_id: str, headers: dict[str, str], reader: Reader, writer: Writer) -> None:
        words = self.random.choice(
            [{"message": "no Route matched with those values"}, {"detail": "Not Found"}, {"error": "not found"}]
        )
        writer.write(as_json(words, "404 Not Found"))


class HangingUpstream(Upstream):
    """Takes each request and never answers: another upstream's polls and creates must not wait for its places."""

    name, tasks = "hanging-upstream", 400

    async def answer(self, task_id: str, headers: dict[str, str], reader: Reader, writer: Writer) -> None:
        await reader.read()
        raise EOFError


class FloodingUpstream(Upstream):
    """Announcements, headers, chunks or bodies without end, or a byte now and then."""

    name = "flooding-upstream"
    _FLOODS = (
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 0.001),
        (b"HTTP/1.1 200 OK\r\n", b"a:\r\n", 0.001),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.01),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", b" ", 0.05),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"[" * 64, 0.01),
    )

    async def answer(self, task_id: str, headers: dict[str, str], reader: Reader, writer: Writer) -> None:
        beginning, rest, pause_s = self.random.choice(self._FLOODS)
        writer.write(beginning)
        for _ in range(300):
            writer.write(rest * (4096 // len(rest)))
            await writer.drain()
            await asyncio.sleep(pause_s)
        raise EOFError


class CostlyErrors(Upstream):
    """Errors of megabytes, nested as deeply as nobody reads, or made of numbers and brackets."""

    name, tasks = "costly-errors", 10

    async def prepare(self) -> None:
        await super().prepare()
        nested = b'{"code":500,"msg":' + b"[" * 900_000 + b"]" * 900_000 + b"}"
        halves = b'{"code":500,"msg":"' + b"\\ud800" * 600_000 + b'"}'
        pairs = b'{"code":500,"msg":[' + b"{}," * 1_200_000 + b"NaN]}"
        self._bodies = (nested, halves, pairs, b'{"a":' * 60_000, b'"' + b"\\" * 3_999_999)

    async def answer(self, task_id: str, headers: dict[str, str], reader: Reader, writer: Writer) -> None:
        writer.write(plain(self.random.choice(self._bodies), "500 Internal Server Error"))


class EchoedKey(Upstream):
    """Repeats the key that it was asked with wherever an answer has room: it must not reach a webhook."""

    name, brief = "echoed-key", True

    async def answer(self, task_id: str, headers: dict[str, str], reader: Reader, writer: Writer) -> None:
        key = headers.get("authorization", "")
        echo = {"key": key, key: [key, key.upper(), {"a": key.removeprefix("Bearer ")}]}
        state = self.random.choice(["success", "fail"])
        writer.write(
            as_json(ended(task_id, json.dumps(echo), state, failMsg=f"Bad key: {key}", failCode=key, echo=echo))
        )

    def look_at(self, body: bytes) -> None:
        if f"sk-of-{self.name}".encode() in body:
            self.did["told the key"] += 1
            self.found.append("the upstream's key is in a webhook")
            del self.found[1:]


class WrongTimes(Upstream):
    """Tasks that were created eight hours ago, or in a year, or took none or all the time in the world."""

    name, brief = "wrong-times", True

    async def answer(self, task_id: str, headers: dict[str, str], reader: Reader, writer: Writer) -> None:
        now = int(time.time() * 1000)
        created = self.random.choice([now - 8 * 3_600_000, now + 365 * 86_400_000, 0, -1, 10**30, 1e308, "yesterday"])
        writer.write(
            as_json(
                ended(task_id, "{}", createTime=created, completeTime=self.random.choice([now, 0, 10**30]), costTime=-1)
            )
        )


class OddAnswers(Upstream):
    """What no JSON reader likes, another task's state, and connections that end anywhere."""

    name, brief = "odd-answers", True

    async def answer(self, task_id: str, headers: dict[str, str], reader: Reader, writer: Writer) -> None:
        whole = as_json(ended(task_id, "not JSON \x00"))
        answer = self.random.choice(
            [
                whole[: self.random.randrange(len(whole))],
                as_json(ended("somebody-elses", "{}")),
                as_json({"code": 200, "data": {"taskId": task_id, "state": ["success"]}}),
                plain(b'{"code":"' + b"9" * 5000 + b'"}'),
                plain(b"<html>\x1b[2J" + b"A" * 100_000, "200 OK"),
                plain(json.dumps(ended(task_id, "[" * 5000)).encode("utf-16")),
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
                b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            ]
        )
        writer.write(answer)
        await drained(writer)
        raise EOFError


UPSTREAMS = (
    LargeOutcomes,
    ManyCallbacks,
    WrongLimits,
    ProxysNotFound,
    HangingUpstream,
    FloodingUpstream,
    CostlyErrors,
    EchoedKey,
    WrongTimes,
    OddAnswers,
)
