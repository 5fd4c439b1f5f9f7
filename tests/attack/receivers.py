"""Hostile receivers: webhooks were registered for them, and they do the worst with each.

Many receivers are many addresses of this machine's own network, 127.x.y.z, or many ports.
"""

import asyncio
import socket
import struct
from collections.abc import Iterable

from tests.attack.attacker import Attacker, Reader, Writer, drained, read_request

__all__ = ["RECEIVERS"]


class Receiver(Attacker):
    """A receiver, or many; a subclass says how many, and how each answers."""

    role = "rasputin"
    proof = "webhooks"
    addresses = 1
    each = 20
    """Webhooks for each address in a round."""
    round_s = 10.0

    async def prepare(self) -> None:
        network = 10 + sum(map(ord, self.name)) % 200
        self.hosts = [f"127.{network}.{number // 250}.{number % 250 + 1}" for number in range(self.addresses)]
        port = 0
        for host in self.hosts:
            port = await self.listen(self._connected, host, port)
        self.port = port

    def urls(self) -> Iterable[str]:
        return [f"http://{host}:{self.port}" for host in self.hosts]

    async def attack(self) -> None:
        async for number in self.pace(1 / self.round_s):
            wishes = [f"{url}/{number}-{item}" for url in self.urls() for item in range(self.each)]
            await self.register_all([(f"sim-success-0-{self.name}-{number}", wish) for wish in wishes])
            self.did["registered"] += len(wishes)

    async def _connected(self, reader: Reader, writer: Writer) -> None:
        await read_request(reader)
        self.did["webhooks"] += 1
        await self.answer(reader, writer)

    async def answer(self, reader: Reader, writer: Writer) -> None:
        raise NotImplementedError


class Hanging(Receiver):
    """Three hundred receivers of one client that take each webhook and never answer: another's must not wait."""

    name, addresses, each, round_s = "hanging-receivers", 300, 5, 15.0

    async def answer(self, reader: Reader, writer: Writer) -> None:
        await reader.read()


class Dripping(Receiver):
    """Receivers that answer with a byte every now and then, for ever."""

    name, addresses = "dripping-receivers", 20

    async def answer(self, reader: Reader, writer: Writer) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 1000:
            writer.write(bytes([byte]))
            await drained(writer)
            await asyncio.sleep(0.3)


class Flooding(Receiver):
    """Receivers whose announcements, headers, trailers or bodies have no end."""

    name, addresses = "flooding-receivers", 4
    _BEGINNINGS = (
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"a:\r\n"),
        (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a:\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 64),
    )

    async def answer(self, reader: Reader, writer: Writer) -> None:
        beginning, rest = self.random.choice(self._BEGINNINGS)
        writer.write(beginning)
        for _ in range(200):
            writer.write(rest * (8192 // len(rest)))
            await writer.drain()
            await asyncio.sleep(0.001)


class Odd(Receiver):
    """Receivers that reset, redirect, speak another protocol, frame their answers twice, or ask for a day's wait."""

    name, addresses, each, brief = "odd-receivers", 5, 30, True
    _ANSWERS = (
        None,
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02",
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 204 N\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 429 Slow\r\nRetry-After: 99999999999999999999\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 No\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 500 \x1b[2J\x07\r\nX: \x1b]0;owned\x07\r\nContent-Length: 20\r\n\r\n\x1b[31m\r\n{"event":"x"}\n',
        b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    )

    async def answer(self, reader: Reader, writer: Writer) -> None:
        answer = self.random.choice(self._ANSWERS)
        if answer is None:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        writer.write(answer)
        await drained(writer)
        await asyncio.sleep(0.05)


class DeadNames(Receiver):
    """Hundreds of webhooks to names for which no server answers any more: healthy receivers' waited behind them."""

    name, proof, round_s = "dead-names", "dead", 10.0
    _NAMES = 200
    _TASK_S = 2

    async def prepare(self) -> None:
        """Nobody gets as far as to a receiver."""

    async def attack(self) -> None:
        async for number in self.pace(1 / self.round_s):
            names = [f"dead-{number}-{name}.example" for name in range(self._NAMES)]
            self.world.names.update(dict.fromkeys(names, ("127.0.0.1",)))
            task_id = f"sim-success-{self._TASK_S * 1000}-dead-{number}"
            await self.register_all([(task_id, f"http://{name}:9/{item}") for name in names for item in range(5)])
            for name in names:
                del self.world.names[name]
            self.did["dead"] += len(names)


class ManyAddresses(Receiver):
    """A name with as many addresses as one packet holds, where nobody listens: each was dialled, for each webhook."""

    name, proof, each, round_s, brief = "many-addresses", "registered", 40, 10.0, True

    async def prepare(self) -> None:
        self.world.names["many.example"] = [f"127.200.0.{number}" for number in range(1, 61)]

    def urls(self) -> Iterable[str]:
        return ["http://many.example:9"]


RECEIVERS = (Hanging, Dripping, Flooding, Odd, DeadNames, ManyAddresses)
