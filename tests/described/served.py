"""A gateway over real sockets for those who know no more of it than ``/openapi.json``, with callbacks in every state.

Owns what it is made of: it takes every callback URL that is well formed, and yet sends nothing but to this process.
Called by the tests and by ``make describe``.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

from starlette.responses import Response

from gateway.app import build
from gateway.core.clock import SystemClock
from gateway.net import proxied
from gateway.net.guard import Target
from gateway.net.resolver import Resolver
from gateway.net.transport import PooledTransport
from gateway.serve.asgi import serve_asgi
from gateway.simulator import SimulatedUpstream
from gateway.simulator import serve as serve_simulator
from tests.running import LIMIT_S, Running, running

__all__ = ["TOKENS", "described"]

_EVERYWHERE = "0.0.0.0/0,::/0"
_TOKEN = "token-of-the-client-that-asks"
TOKENS = ({"GATEWAY_TOKEN": _TOKEN}, [f"Authorization: Bearer {_TOKEN}"])
"""The settings of a gateway that asks for one, and the headers to send."""


@asynccontextmanager
async def described(folder: Path, **environ: str) -> AsyncIterator[Running]:
    """Run it until the block ends."""
    receiver = Response(status_code=204)
    async with serve_simulator(SimulatedUpstream(SystemClock())) as upstream_url, serve_asgi(receiver) as receiver_url:
        with _nothing_leaves(upstream_url, receiver_url):
            own = {"GATEWAY_CALLBACK_ALLOW": _EVERYWHERE, "GATEWAY_RETRY_SCHEDULE": "0,0.05", "GATEWAY_POLL_MAX_S": "5"}
            async with running(folder, upstream_url, **own, **environ) as gateway:
                if "GATEWAY_TOKEN" in environ:
                    gateway.client.headers["authorization"] = f"Bearer {environ['GATEWAY_TOKEN']}"
                await _play(gateway, receiver_url)
                yield gateway


def _nothing_leaves(*urls: str) -> ExitStack:
    """Let gateways that are built now reach these servers and no others, and ask no name server."""
    places = {(parts.hostname, parts.port) for parts in map(urlsplit, urls)}

    class Here(PooledTransport):
        async def _connected_socket(self, destination: Target, addresses: Sequence[str], failures: Any) -> Any:
            if (destination.host, destination.port) not in places:
                raise OSError(errno.ENETUNREACH, "not from here")
            return await super()._connected_socket(destination, addresses, failures)

    stack = ExitStack()
    for module in (build, proxied):
        stack.enter_context(patch.object(module, "PooledTransport", Here))
    stack.enter_context(patch.object(build, "Resolver", partial(Resolver, nameservers=["127.0.0.1:9"])))
    return stack


async def _play(gateway: Running, receiver_url: str) -> None:
    """Bring callbacks into every state: whoever only reads finds some."""
    nowhere = f"{receiver_url.rpartition(':')[0]}:1"  # nothing listens there, and nothing is dialled
    for task_id, url in (
        ("sim-success-0-delivered", receiver_url),
        ("sim-fail-0-delivered", receiver_url),
        ("sim-success-0-dead", nowhere),
        ("sim-never-waiting", nowhere),
        ("sim-never-cancelled", nowhere),
    ):
        callback_id = await gateway.registered(task_id, url)
        if task_id.endswith("cancelled"):
            await gateway.client.delete(f"/v1/callbacks/{callback_id}")
            continue
        state = task_id.rpartition("-")[2]
        async with asyncio.timeout(LIMIT_S):
            await gateway.becomes(
                f"/v1/callbacks/{callback_id}", lambda found, state=state: found.json()["state"] == state
            )
