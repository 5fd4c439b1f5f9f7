"""The transport's idle connections: how many there are, and for how long."""

import asyncio

from tests.transports import OK, post
from tests.waiting import until


async def closed_down_to(server, count: int) -> None:
    await until(lambda: len(server._tasks) <= count)  # the server has seen the ends of the others


async def anywhere(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_idle_connections_are_bounded(make, raw_server, answering) -> None:
    """However many receivers there were, only the connections to the last few are kept, and those are used again."""
    server = await raw_server(answering(OK))
    transport = make(resolve=anywhere, limit=20, limit_idle=8)
    urls = [server.url(host=f"receiver-{number}.test") for number in range(200)]
    for start in range(0, len(urls), 20):
        await asyncio.gather(*(post(transport, url) for url in urls[start : start + 20]))
        await closed_down_to(server, 8)
    assert server.connections == 200
    for url in urls[-8:]:
        await post(transport, url)
    assert server.connections == 200
    assert len(server._tasks) == 8
    await post(transport, urls[0])
    assert server.connections == 201
    await closed_down_to(server, 8)
    assert len(transport._idle) == 8


async def test_the_idle_connection_unused_for_longest_is_closed(make, raw_server, answering) -> None:
    """A receiver that gets webhooks all the time keeps its connection, however many others come and go."""
    server = await raw_server(answering(OK))
    transport = make(resolve=anywhere, limit_idle=2)
    for number in range(50):
        await post(transport, server.url(host="busy.test"))
        await post(transport, server.url(host=f"receiver-{number}.test"))
    assert server.connections == 51
    await closed_down_to(server, 2)


async def test_connections_in_use_are_not_idle(make, raw_server, read_request) -> None:
    """Requests under way are not bounded by what may be idle, and none of them is cut off for it."""
    arrived, release = 0, asyncio.Event()

    async def handle(reader, writer) -> None:
        nonlocal arrived
        while True:
            await read_request(reader)
            arrived += 1
            await release.wait()
            writer.write(OK)

    server = await raw_server(handle)
    transport = make(resolve=anywhere, limit=20, limit_idle=2)
    running = [asyncio.create_task(post(transport, server.url(host=f"r{number}.test"))) for number in range(20)]
    await until(lambda: arrived == 20)
    release.set()
    assert {(await task).content for task in running} == {b"ok"}
    await closed_down_to(server, 2)


async def test_idle_connections_grow_old(make, raw_server, answering) -> None:
    """A connection that was not used for its time is closed, and nothing of it is kept."""
    server = await raw_server(answering(OK))
    transport = make(keepalive_s=0.02)
    await asyncio.gather(*(post(transport, server.url()) for _ in range(3)))
    await until(lambda: not transport._idle)  # its time is over
    assert not transport._idle_at
    assert (await post(transport, server.url())).status_code == 200
