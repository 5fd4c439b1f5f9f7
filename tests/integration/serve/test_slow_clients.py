"""How long a client may take for a request, and that no one is blamed for another's time."""

import asyncio

import pytest

from tests.peer import GET, LIMIT_S, App, Hasty, served


async def test_a_client_that_says_nothing_is_closed() -> None:
    """A connection without a byte ends without an answer: there is no request to answer."""
    async with served(App()) as connect:
        await (await connect()).ended()


async def test_empty_lines_do_not_keep_a_connection() -> None:
    """The empty line that RFC 9112 §2.2 lets a client send before a request starts its time."""
    async with served(App()) as connect:
        peer = await connect()
        await peer.send(b"\r\n")
        await peer.ended()


@pytest.mark.parametrize("first", [False, True], ids=["first-request", "later-request"])
async def test_a_head_that_stops_is_408(first: bool) -> None:
    """A head must be complete in time, on a new connection and on one that has been used."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        if not first:
            await peer.send(GET % b"a")
            await peer.answer()
        await peer.send(b"GET /b HTTP/1.1\r\nhost: x\r\nx: ")
        await peer.refused(408, "invalid_request")
    assert "/b" not in app.seen


async def test_a_head_that_trickles_is_408() -> None:
    """Each byte on time is not enough: the head as a whole has one deadline."""
    async with served(App()) as connect:
        peer = await connect()
        refused = asyncio.create_task(peer.refused(408, "invalid_request"))
        await peer.send(b"GET / HTTP/1.1\r\nx: ")
        while not refused.done():
            await peer.send(b"h")
            await asyncio.wait([refused], timeout=Hasty.head_s / 10)
        await refused


@pytest.mark.parametrize("sent", [b"", b"abc"], ids=["nothing", "a-part"])
async def test_a_body_that_stops_is_408(sent: bytes) -> None:
    """The application learns that its client is gone, the client what it owes."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n" + sent)
        await peer.refused(408, "invalid_request")
        await asyncio.wait_for(app.disconnected.wait(), LIMIT_S)


async def test_a_body_that_trickles_is_408() -> None:
    """Each byte on time is not enough: the body as a whole has one deadline."""
    async with served(App()) as connect:
        peer = await connect()
        refused = asyncio.create_task(peer.refused(408, "invalid_request"))
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        while not refused.done():
            await peer.send(b"b")
            await asyncio.wait([refused], timeout=Hasty.body_s / 10)
        await refused


async def test_a_body_that_comes_in_time_leaves_no_deadline_behind() -> None:
    """A request whose body came in parts, and in time, may then take longer than its body might have."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(b"POST /hold HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        await app.held.wait()
        await peer.send(b"def")
        overdue = asyncio.Event()
        asyncio.get_running_loop().call_later(2 * Hasty.body_s, overdue.set)
        await overdue.wait()
        app.release.set()
        assert (await peer.answer())[2] == b"/hold"


async def test_a_body_that_is_answered_while_it_comes_gets_the_shorter_deadline() -> None:
    """From its answer on the rest is not wanted, and has as long as any such body."""

    class Early(Hasty):
        body_s = 3600.0

    app = App()
    async with served(app, Early) as connect:
        peer = await connect()
        await peer.send(b"POST /hold HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        await app.held.wait()
        app.release.set()
        assert (await peer.answer())[2] == b"/hold"
        await peer.ended()


async def test_half_a_body_behind_a_request_that_waits_is_not_blamed() -> None:
    """Its time begins when the gateway reads on, and not while the request before it is held."""

    class Unhurried(Hasty):
        body_s = 1.0

    app = App()
    async with served(app, Unhurried) as connect:
        peer = await connect()
        await peer.send(GET % b"hold" + b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        await app.held.wait()
        most = asyncio.Event()
        asyncio.get_running_loop().call_later(0.9 * Unhurried.body_s, most.set)
        await most.wait()
        app.release.set()
        assert (await peer.answer())[2] == b"/hold"
        some = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3 * Unhurried.body_s, some.set)
        await some.wait()
        await peer.send(b"def")
        assert (await peer.answer())[2] == b"abcdef"


async def test_half_a_request_behind_one_that_waits_is_not_blamed() -> None:
    """While the gateway does not read, a pipelined head is late through no fault of its client."""
    app = App()
    async with served(app) as connect:
        peer = await connect()
        await peer.send(GET % b"hold" + GET % b"second" + b"GET /third HTTP/1.1\r\n")
        await app.held.wait()
        overdue = asyncio.Event()
        asyncio.get_running_loop().call_later(3 * Hasty.head_s, overdue.set)
        await overdue.wait()
        app.release.set()
        await peer.send(b"host: x\r\n\r\n")
        assert [(await peer.answer())[2] for _ in range(3)] == [b"/hold", b"/second", b"/third"]


async def test_a_body_that_is_not_complete_does_not_hold_the_shutdown() -> None:
    """Told to end, a connection has a moment for the rest of a body; a client that sends none hears why it goes."""
    told = asyncio.Event()

    class Ending(Hasty):
        body_s = 3600.0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not told.is_set():
                self.shutdown()  # as the server calls it when it ends
                told.set()

    app = App()
    async with served(app, Ending) as connect:
        for rest in (b"def", b""):
            told.clear()
            peer = await connect()
            await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
            await told.wait()
            await peer.send(rest)
            if rest:
                assert (await peer.answer())[2] == b"abcdef"
                await peer.ended()
            else:
                await peer.refused(503, "unavailable")
                await app.disconnected.wait()
