"""``gateway listen``: a receiver on a socket that prints each webhook until SIGINT or SIGTERM. Called by ``cli``."""

import asyncio
import signal
from collections.abc import Sequence

import uvloop

from gateway.asgi_server import serve_asgi
from gateway.clock import SystemClock
from gateway.errors import GatewayError
from gateway.receiver import Answer, ReceivedWebhook, Receiver, pretty
from gateway.signature import Key

__all__ = ["run"]


def run(secrets: Sequence[Key], host: str, port: int, answers: Sequence[Answer], *, colour: bool) -> None:
    """Listen until told to stop; raise GatewayError where the address cannot be had."""
    try:
        uvloop.run(_run(secrets, host, port, answers, colour=colour))
    except OSError as exc:
        raise GatewayError(f"Cannot listen on {host}:{port} ({exc.strerror or exc}). Choose another --port.") from exc


async def _run(secrets: Sequence[Key], host: str, port: int, answers: Sequence[Answer], *, colour: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def show(webhook: ReceivedWebhook) -> None:
        print(pretty(webhook, colour=colour), end="\n\n", flush=True)

    async with serve_asgi(Receiver(secrets, SystemClock(), show, answers), host, port) as url:
        print(f"listening on {url}; register callbacks with this URL, any path. Ctrl-C ends.\n", flush=True)
        await stop.wait()
