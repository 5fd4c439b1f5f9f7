"""``gateway listen``: a receiver on a socket that prints each webhook until SIGINT or SIGTERM, or until nobody reads.

Owns the socket and the end; what a webhook is answered is for ``gateway.cli.receiver``. Called by ``commands``.
"""

import asyncio
import fcntl
import os
import signal
import stat
import sys
from collections.abc import Callable, Sequence

import uvloop

from gateway.api.webpages import PagesRefused
from gateway.cli.receiver import PlannedAnswer, ReceivedWebhook, Receiver, pretty
from gateway.core.clock import SystemClock
from gateway.core.errors import GatewayError, OutputError
from gateway.serve.asgi import serve_asgi
from gateway.signature import Key


def run(secrets: Sequence[Key], host: str, port: int, answers: Sequence[PlannedAnswer], *, colour: bool) -> None:
    """Listen until told to stop or nobody reads. Raises GatewayError where it cannot listen or print."""
    try:
        uvloop.run(_run(secrets, host, port, answers, colour=colour))
    except OSError as exc:
        raise GatewayError(
            f"Cannot listen on {host}:{port} ({exc.strerror or exc}). Choose another --host or --port."
        ) from exc


async def _run(secrets: Sequence[Key], host: str, port: int, answers: Sequence[PlannedAnswer], *, colour: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    failure: OutputError | None = None

    def show(webhook: ReceivedWebhook) -> None:
        nonlocal failure
        try:
            print(pretty(webhook, colour=colour), end="\n\n", flush=True)
        except OutputError as error:
            # Its sender is not to blame, and gets the usual answer; a further webhook could not be shown.
            failure = error
            stop.set()

    receiver = PagesRefused(Receiver(secrets, SystemClock(), show, answers))
    async with serve_asgi(receiver, host, port) as url:
        print(f"listening on {url}; register callbacks with this URL, any path. Ctrl-C ends.\n", flush=True)
        call_when_nobody_reads(stop.set)
        await stop.wait()
    if failure is not None:
        raise failure


def call_when_nobody_reads(callback: Callable[[], None]) -> None:
    """Watch a pipe's other end: without it ``listen | head`` would stay until the next webhook comes."""
    if sys.stdout is None:
        return
    output, loop = sys.stdout.fileno(), asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(output)  # it stays readable
        callback()

    # Only of the end of a pipe that is written to, "readable" means nothing but that its reader has gone.
    if stat.S_ISFIFO(os.fstat(output).st_mode) and fcntl.fcntl(output, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        loop.add_reader(output, gone)
