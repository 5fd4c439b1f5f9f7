"""Serve an ASGI application on a socket for as long as an ``async with`` block lasts.

Owns: listening, and a close that takes less than a second whatever the clients do. uvicorn's HTTP protocol is used
without ``uvicorn.Server``, which captures signals, exits the process when a port is taken and closes in steps of
100 ms. Must not know what it serves. The gateway itself
runs under ``uvicorn.Server``, and has only its socket and uvicorn's settings from here.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from gateway.serve.serverprotocol import ServerProtocol

_GRACE_S = 0.4
# Longer than the time between two polls of one task, so that the poller's connections are not cut under it.
_KEEP_ALIVE_S = 75


@asynccontextmanager
async def serve_asgi(
    app: Callable[..., Any],
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    protocol: type[ServerProtocol] = ServerProtocol,
) -> AsyncIterator[str]:
    """Yield the base URL (no slash at its end) once ``app`` is listening; stop serving when the block ends.

    Port 0 takes a free one. ``app`` gets no lifespan events. ``protocol`` is one connection's.
    Raises OSError where the address cannot be bound. At the end idle connections are closed at once, requests in
    flight get 0.4 s, then their connections are cut and what still runs is cancelled.
    """
    config = server_config(app, protocol)
    config.load()
    state = ServerState()
    connection = partial(protocol, config=config, server_state=state, app_state={})
    listener = open_listener(host, port, config.backlog)
    name = f"[{host}]" if ":" in host else host
    server = await asyncio.get_running_loop().create_server(connection, sock=listener, backlog=config.backlog)
    try:
        yield f"http://{name}:{listener.getsockname()[1]}"
    finally:
        server.close()
        await _close_connections(state)


def server_config(app: Callable[..., Any], protocol: type[ServerProtocol], **more: Any) -> uvicorn.Config:
    """Return uvicorn's settings without what is done here in another way, or not at all."""
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        log_level=logging.root.level,  # without one uvicorn makes two lines of each connection that nobody reads
        access_log=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        **more,
    )


def open_listener(host: str, port: int, backlog: int) -> socket.socket:
    """Return a socket that listens there. Raises OSError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=backlog)
    except UnicodeError as exc:  # such as a label of 64 characters
        raise OSError(errno.EINVAL, "it is no host's name") from exc
    # What it accepts inherits this. asyncio sets it only where a socket names its protocol, and this one does not: an
    # answer in two pieces would take 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _close_connections(state: ServerState) -> None:
    """Close idle connections now, busy ones after their answer or the grace time; returns when all are gone."""
    for connection in list(state.connections):
        connection.shutdown()
    for _ in range(round(_GRACE_S / 0.01)):
        if not state.connections:
            break
        await asyncio.sleep(0.01)
    for connection in list(state.connections):
        # A peer that reads nothing, or waits for an answer that is not coming, must not hold up the shutdown.
        if (transport := getattr(connection, "transport", None)) is not None:
            transport.abort()
    if running := list(state.tasks):
        _, stuck = await asyncio.wait(running, timeout=_GRACE_S)
        for task in stuck:
            task.cancel()
