"""The life of the process: sockets, signals and limits around a gateway that runs under uvicorn.

``serve`` listens first, so that a taken port is found before anything else happens; then the gateway opens its store
and starts its loops. Until then requests get 503. At the end requests that are held are answered, connections close
while the loops finish what is in flight, and the store goes last. It must not know what a gateway is made of. Called by
the command line.
"""

import asyncio
import ctypes
import resource
import signal
import socket
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType

import structlog
import uvicorn
import uvloop

from gateway.api.auth import PUBLIC
from gateway.app.build import build, own_files
from gateway.app.gateway import Gateway
from gateway.app.reload import Reloads
from gateway.config.settings import Settings
from gateway.core.clock import SystemClock, wait_for_event
from gateway.core.errors import GatewayError
from gateway.core.telemetry import name_spans
from gateway.serve.asgi import open_listener, server_config
from gateway.serve.garbage import look_seldom
from gateway.serve.inbound import InboundProtocol

_log = structlog.get_logger()

_TURN_S = 0.00002
"""So long the event loop's thread keeps the interpreter from the database's, which asks for it at each step of a
transaction. With a millisecond transactions of three rows took 30 to 50 ms among hundreds of attackers, and a create
has two; its p99 fell from 112 to 150 ms to 82 with a tenth of that, and its p95 from 91 to 73 with a fiftieth. Lives
are as many as with Python's own 5 ms, within the spread."""
_LAST_WORDS_S = 1.0  # for answers to requests that are cut short
_M_MMAP_THRESHOLD = -3  # of <malloc.h>
_M_ARENA_MAX = -8
_LARGE = 1024 * 1024


class _Inbound(InboundProtocol):
    """Operators and their machines hear how the gateway is, whoever keeps it busy."""

    always_answered = frozenset(path.encode("ascii") for path in PUBLIC)


class _Server(uvicorn.Server):
    """uvicorn with the gateway's life tied to its own; signals end it with exit status 0."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, reloads: Reloads, drain_s: float) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._reloads = reloads
        self._drain_s = drain_s
        self._exit = asyncio.Event()
        self.failure: GatewayError | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        try:
            await self._gateway.start()
        except GatewayError as exc:
            self.failure = exc
            self.should_exit = True
            return
        look_seldom(SystemClock().monotonic)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            _log.info("gateway.listening", url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.failure is None:
            _log.info("gateway.draining")
        # Held requests are answered, so that connections close, while the loops finish what is in flight.
        self._gateway.begin_drain()
        await self._reloads.stop()
        cut_short = asyncio.create_task(self._cut_short(), name="cut-short")
        await asyncio.gather(super().shutdown(sockets), self._gateway.drain())
        cut_short.cancel()
        await self._gateway.close()
        if self.failure is None:
            _log.info("gateway.stopped")

    async def _cut_short(self) -> None:
        """End what is left of requests when their time is over, and uvicorn's waiting for it.

        uvicorn would log it as an error; but a client may be slow, and that is none.
        """
        await asyncio.sleep(self._drain_s)
        if running := list(self.server_state.tasks):
            _log.info("requests.cut_short", requests=len(running))
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=_LAST_WORDS_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        self.force_exit = True

    async def main_loop(self) -> None:
        """Replace uvicorn's, which wakes ten times a second: once is enough for the Date header."""
        while not await self.on_tick(0):
            await wait_for_event(self._exit, 1.0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._exit.set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Replace uvicorn's, which dies of the signal once it has shut down: a drained gateway exits with 0."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGUSR1, self._gateway.backups.begin)
        loop.add_signal_handler(signal.SIGHUP, self._reloads.begin)
        try:
            yield
        finally:
            for number in (*signals, signal.SIGUSR1, signal.SIGHUP):
                loop.remove_signal_handler(number)
            for number in (signal.SIGUSR1, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # they never end a gateway, nor cut its end short


def serve(read: Callable[[], Settings], settings: Settings, environ: Mapping[str, str]) -> None:
    """Run a gateway until SIGTERM or SIGINT; raise GatewayError where it cannot start.

    ``read`` has read ``settings``, and reads them anew at each SIGHUP. ``environ``: as of ``build``.
    """
    _give_freed_memory_back()
    sys.setswitchinterval(_TURN_S)
    uvloop.run(_serve(read, settings, environ))


async def _serve(read: Callable[[], Settings], settings: Settings, environ: Mapping[str, str]) -> None:
    listener = _listen(settings.host, settings.port)
    try:
        connections = _connection_limit(own_files(len(settings.upstreams), len(settings.receivers)))
        gateway = build(settings, SystemClock(), environ, connections)
        if gateway.exporting is not None:
            name_spans()
        config = server_config(gateway, _Inbound, server_header=False, limit_concurrency=connections)
        server = _Server(config, gateway, Reloads(gateway, settings, read), settings.drain_s)
        try:
            await server.serve([listener])
        except BaseException:
            # A defect. The database's thread would keep the process from ending, and nothing would start it again.
            await gateway.close()
            raise
    finally:
        listener.close()
    if server.failure is not None:
        raise server.failure


def _give_freed_memory_back() -> None:
    """Have what is large returned to the system as soon as it is freed, where the C library is glibc.

    Left alone it takes the largest block that was ever freed, up to 32 MiB, for one of its ordinary ones, and keeps it:
    after one answer of 31 MB the process stayed 280 MB larger. And each thread would have 64 MiB of address space set
    aside, which a limit of that counts.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_ARENA_MAX, 2)


def _connection_limit(own_files: int) -> int:
    """Return how many clients may be connected, with as many open files allowed to the process as that takes.

    The usual limit of 1,024 files would be reached first, and then neither receivers nor the upstream either.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    own = own_files + InboundProtocol.reserved
    wanted = InboundProtocol.max_connections + own
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return InboundProtocol.max_connections
    return min(InboundProtocol.max_connections, max(soft // 4, soft - own))


def _listen(host: str, port: int) -> socket.socket:
    try:
        return open_listener(host, port, backlog=2048)
    except OSError as exc:
        raise GatewayError(
            f"Cannot listen on {host}:{port} ({exc.strerror or exc}). Set GATEWAY_HOST or GATEWAY_PORT to another."
        ) from exc
