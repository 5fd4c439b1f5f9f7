"""What is large of requests and of answers to them: room for it, and answers that are sent as they are read.

Owns that a client's large requests count against its part of the gateway's memory until they are answered, its slow
reading included. Used by the routes, which say what a request costs before they read or make it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.core.memory import SMALL, Memory

T = TypeVar("T")

_COST = 4  # an answer takes at most so many times its size while it is made: what it is made of, and itself
_NOBODY = "no client"
"""Who shows no token, where none is asked for: all of them are one owner. No client and no upstream is called so."""


async def hold(request: Request, size: int) -> None:
    """Wait for room for so many bytes, until the request is answered."""
    if size > SMALL:
        await _hold(request.scope, size)


def waiting(request: Request) -> AbstractContextManager[None]:
    """Say that a request goes on only after an asyncio task of its own, which may want room too."""
    return _memory(request.scope).waiting()


async def work(request: Request, function: Callable[..., T], *args: Any) -> T:
    """Run a function on something large where it holds up nobody."""
    return await _memory(request.scope).work(function, *args)


async def made_with_room(request: Request, make: Callable[[], Awaitable[Response]], likely: int = SMALL) -> Response:
    """Return an answer of whose size nothing is known before, but that ``likely`` bytes are enough for most.

    A large one for which there is no room now is made anew once there is: nobody keeps one that waits, however many do.
    Where others of its client's wait already, one that is likely to be large waits behind them before it is made.
    """
    memory, owner = _memory(request.scope), _owner(request.scope)
    if likely > SMALL and memory.waits(*owner):
        await memory.hold(_kept(likely), *owner)
    response = await make()
    size = len(response.body)
    if size > SMALL and not memory.hold_now(_kept(size), *owner):
        del response
        await _hold(request.scope, _COST * size)
        response = await make()
    return response


async def send_response(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an answer; a large one a part after the other, so that a connection never keeps a second copy.

    From then on the scope has ``answer_begun``: no other answer can be given.
    """
    if len(response.body) <= SMALL:
        scope["answer_begun"] = True
        await response(scope, receive, send)
        return
    await send_large(response, scope, send)


async def send_large(response: Response, scope: Scope, send: Send) -> None:
    """Send a large answer, once there is room for it."""
    body = response.body
    await _hold(scope, len(body))
    _memory(scope).keep(_kept(len(body)))  # its client may be slow
    scope["answer_begun"] = True
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    for start in range(0, len(body), SMALL):
        if start:
            await asyncio.sleep(0)  # a connection's buffers take megabytes at once, of many clients in one turn
        await send({"type": "http.response.body", "body": bytes(body[start : start + SMALL]), "more_body": True})
    # A server takes a message once its client has taken those before, but for 64 KiB: until then the room is held.
    await send({"type": "http.response.body", "body": b""})


def _kept(size: int) -> int:
    """Return what an answer takes once what it was made of has gone: the encoder leaves half as much unused behind."""
    return 3 * size // 2


async def _hold(scope: Scope, size: int) -> None:
    await _memory(scope).hold(size, *_owner(scope))


def _owner(scope: Scope) -> tuple[str, str]:
    # The operator's is "client None", which is no client's: their names are in small letters.
    return f"client {scope['client_name']}" if "client_name" in scope else _NOBODY, "requests"


def _memory(scope: Scope) -> Memory:
    memory: Memory = scope["app"].state.memory
    return memory
