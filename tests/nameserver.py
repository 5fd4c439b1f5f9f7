"""A DNS server on 127.0.0.1 whose every answer the test decides; what it does not know it leaves unanswered."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["NO_SUCH_NAME", "REFUSED", "SERVER_FAILURE", "Nameserver", "serve_names"]

SERVER_FAILURE, NO_SUCH_NAME, REFUSED = 2, 3, 5
_FAMILIES = {1: socket.AF_INET, 28: socket.AF_INET6}  # A and AAAA
_TTL_S = 600


class Nameserver(asyncio.DatagramProtocol):
    """Answers from ``names``: a name's addresses, or the code of a failure; counts what it is asked."""

    def __init__(self, names: Mapping[str, Sequence[str] | int]) -> None:
        self.names = dict(names)
        self.asked: Counter[str] = Counter()
        self.address = ""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        host, port = transport.get_extra_info("sockname")
        self.address = f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        labels, end = [], 12
        while data[end]:
            labels.append(data[end + 1 : end + 1 + data[end]])
            end += 1 + data[end]
        name = b".".join(labels).decode().lower()
        question = data[12 : end + 5]
        (kind,) = struct.unpack("!H", question[-4:-2])
        self.asked[name] += 1
        found = self.names.get(name)
        if found is None:
            return
        code, addresses = (found, []) if isinstance(found, int) else (0, found)
        records = [
            socket.inet_pton(_FAMILIES[kind], address)
            for address in addresses
            if kind in _FAMILIES and (":" in address) == (_FAMILIES[kind] is socket.AF_INET6)
        ]
        answer = data[:2] + struct.pack("!5H", 0x8180 | code, 1, len(records), 0, 0) + question
        for record in records:
            answer += struct.pack("!HHHIH", 0xC00C, kind, 1, _TTL_S, len(record)) + record
        self._transport.sendto(answer, addr)


@asynccontextmanager
async def serve_names(**names: Sequence[str] | int) -> AsyncIterator[Nameserver]:
    """Serve these names, with underscores for dots."""
    known = {name.replace("_", "."): found for name, found in names.items()}
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Nameserver(known), local_addr=("127.0.0.1", 0)
    )
    try:
        yield server
    finally:
        transport.close()
