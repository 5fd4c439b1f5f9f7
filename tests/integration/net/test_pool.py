"""The pool of connections after ten thousand cancelled attempts."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gateway.core.clock import SystemClock
from gateway.net.guard import Netguard, parse_allow
from gateway.net.transport import PooledTransport
from gateway.webhook.sender import Sender

ATTEMPTS, LIMIT, AT_ONCE, AFTERWARDS = 10_000, 16, 48, 200


async def test_ten_thousand_cancelled_attempts_leave_the_pool_whole(
    raw_server: Callable[..., Awaitable[Any]],
    read_request: Callable[[asyncio.StreamReader], Awaitable[Any]],
) -> None:
    """Cancelled in the queue, the look-up, connecting, sending or reading: no place, waiter or socket is lost."""
    rng = random.Random(4)
    slow = True
    requests = 0

    async def turns(most: int) -> None:
        for _ in range(rng.randrange(most) if slow else 0):
            await asyncio.sleep(0)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        while True:
            await read_request(reader)
            requests += 1
            for piece in (b"HTTP/1.1 200 OK\r\n", b"content-length: 4\r\n\r\n", b"ok", b"ok"):
                await turns(6)
                writer.write(piece)

    async def resolve(host: str, port: int) -> Sequence[str]:
        await turns(6)
        return ["127.0.0.1"]

    server = await raw_server(handle)
    urls = [server.url(), *(server.url(host=f"{name}.test") for name in "abc")]
    guard = Netguard(parse_allow("127.0.0.1, a.test, b.test, c.test"))
    transport = PooledTransport(guard=guard, limit=LIMIT, limit_idle=LIMIT, resolve=resolve)
    sender = Sender(transport, SystemClock(), timeout_s=20)

    async def attempt() -> str | None:
        return (await sender.send(rng.choice(urls), {}, b"{}")).reason

    ends: Counter[str | None] = Counter()
    while ends["cancelled"] < ATTEMPTS:
        running = {asyncio.create_task(attempt()) for _ in range(AT_ONCE)}
        patience = rng.choice([3, 10, 30, 100])  # loop turns that an attempt has, on average
        while running:
            for task in running:
                if rng.random() < 1 / patience:
                    task.cancel()
            await asyncio.sleep(0)
            over = {task for task in running if task.done()}
            ends.update("cancelled" if task.cancelled() else task.result() for task in over)
            running -= over
    slow = False
    assert not transport._busy
    assert transport._places._value == LIMIT
    # Otherwise the moments were not as different as they have to be.
    assert ends.keys() == {"cancelled", None}
    assert ends[None] > 500
    assert requests > ends[None] + 500
    assert server.connections > 500

    async with asyncio.timeout(20):
        assert await asyncio.gather(*(attempt() for _ in range(AFTERWARDS))) == [None] * AFTERWARDS
        assert not transport._busy
        assert transport._places._value == LIMIT
        # The limit is of connections in use; as many again may be kept for the next webhook.
        idle = len(transport._idle)
        assert idle == sum(map(len, transport._idle_at.values())) <= LIMIT
        while len(server._tasks) > idle:  # noqa: ASYNC110 - until the server has seen the ends of the others
            await asyncio.sleep(0)
    await transport.aclose()
