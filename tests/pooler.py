"""What hands out PostgreSQL's connections by the transaction: PgBouncer, and one of the tests' own.

The own one is there where PgBouncer is not, and harsher: no two transactions in a row have the same server, and what a
session has set or prepared is another client's next. ``GATEWAY_TEST_PGBOUNCER`` names a program off the path.
"""

import asyncio
import os
import secrets
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.postgres import OWNER, NotAvailable, Server, _free_port, _other_user

__all__ = ["pgbouncer", "pooler"]

_SERVERS = 3
_LIMIT_S = 10
_SSL, _CANCEL, _GSS = 80877103, 80877102, 80877104
_CONFIG = """
[databases]
* = host=127.0.0.1 port={server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {servers}
server_round_robin = 1
server_login_retry = 1
"""


@asynccontextmanager
async def pgbouncer(server: Server, servers: int = _SERVERS) -> AsyncIterator[str]:
    """Run PgBouncer in front of a server, with so many connections to that; yield the URL. Raises NotAvailable."""
    program = os.environ.get("GATEWAY_TEST_PGBOUNCER") or shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/bin")
    if program is None:
        raise NotAvailable("PgBouncer is not installed")
    port, folder = _free_port(), server.folder
    (folder / "users").write_text(f'"{OWNER}" ""\n', "utf-8")
    config = folder / "pgbouncer.ini"
    config.write_text(_CONFIG.format(server=server.port, port=port, folder=folder, servers=servers), "utf-8")
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen([program, config], cwd=folder, stdout=log, stderr=log, **_other_user())  # noqa: ASYNC220
    try:
        async with asyncio.timeout(_LIMIT_S):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert process.poll() is None, f"it ended; see {log.name}"
                await asyncio.sleep(0.01)
        yield f"postgresql://{OWNER}@127.0.0.1:{port}/{OWNER}"
    finally:
        process.kill()
        process.wait(_LIMIT_S)


@asynccontextmanager
async def pooler(server: Server) -> AsyncIterator[str]:
    """Run the tests' own in front of a server; yield the URL."""
    clients: set[asyncio.Task[None]] = set()
    pool = _Pool(server.port)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        try:
            with suppress(OSError, EOFError, asyncio.CancelledError):
                await _Client(reader, writer, pool).run()
        finally:
            clients.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    await pool.open()
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"postgresql://{OWNER}@127.0.0.1:{listener.sockets[0].getsockname()[1]}/{OWNER}"
    finally:
        listener.close()
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await pool.close()


class _Backend:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.greeting = b""
        """What the server has told of itself, for the clients."""


class _Pool:
    def __init__(self, port: int) -> None:
        self._port = port
        self._free: asyncio.Queue[_Backend] = asyncio.Queue()
        self._all: list[_Backend] = []

    async def open(self) -> None:
        for _ in range(_SERVERS):
            self._free.put_nowait(await self._connect())

    async def take(self) -> _Backend:
        return await self._free.get()

    def give_back(self, backend: _Backend) -> None:
        self._free.put_nowait(backend)  # to the end: the next transaction has another one

    async def replace(self, backend: _Backend) -> None:
        backend.writer.close()
        self._free.put_nowait(await self._connect())

    @property
    def greeting(self) -> bytes:
        return self._all[-1].greeting

    async def close(self) -> None:
        for backend in self._all:
            backend.writer.close()
            with suppress(OSError):
                await backend.writer.wait_closed()

    async def _connect(self) -> _Backend:
        backend = _Backend(*await asyncio.open_connection("127.0.0.1", self._port))
        self._all.append(backend)
        body = struct.pack("!i", 196608) + b"".join(
            part.encode() + b"\0" for part in ("user", OWNER, "database", OWNER, "client_encoding", "UTF8", "")
        )
        backend.writer.write(struct.pack("!i", len(body) + 4) + body)
        while True:
            kind, message = await _message(backend.reader)
            assert kind != b"E", message
            if kind == b"S":
                backend.greeting += message
            if kind == b"Z":
                return backend


class _Client:
    """One client: it has a server from its first message until that is in no transaction any more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pool: _Pool) -> None:
        self._reader, self._writer, self._pool = reader, writer, pool
        self._backend: _Backend | None = None
        self._unanswered = 0
        self._relaying: asyncio.Task[None] | None = None

    async def run(self) -> None:
        if not await self._start():
            return
        try:
            while True:
                kind, message = await _message(self._reader)
                if kind == b"X":
                    return
                if self._backend is None:
                    self._backend = await self._pool.take()
                    self._relaying = asyncio.ensure_future(self._relay(self._backend))
                self._unanswered += kind in b"QS"
                self._backend.writer.write(message)
        finally:
            if self._backend is not None:
                assert self._relaying is not None
                self._relaying.cancel()
                await self._pool.replace(self._backend)

    async def _start(self) -> bool:
        while True:
            length, code = struct.unpack("!ii", await self._reader.readexactly(8))
            await self._reader.readexactly(length - 8)
            if code == _CANCEL:
                return False
            if code not in (_SSL, _GSS):
                break
            self._writer.write(b"N")
        key = b"K" + struct.pack("!iI", 12, secrets.randbelow(2**31)) + secrets.token_bytes(4)
        self._writer.write(b"R" + struct.pack("!ii", 8, 0) + self._pool.greeting + key + b"Z\0\0\0\5I")
        return True

    async def _relay(self, backend: _Backend) -> None:
        while True:
            kind, message = await _message(backend.reader)
            if kind == b"Z":
                self._unanswered -= 1
                if message.endswith(b"I") and not self._unanswered:
                    self._backend = None
                    self._pool.give_back(backend)
                    self._writer.write(message)
                    return
            self._writer.write(message)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)
