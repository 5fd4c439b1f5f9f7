"""Who has a place where there is none left for others, and that a request ends with its client, over real sockets."""

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest

from gateway.serve import inbound
from gateway.serve.places import Places
from tests.peer import BIG, GET, App, Hasty, Peer, served
from tests.waiting import until


class Patient(Hasty):
    """Nothing ends by time, and two clients are enough."""

    max_connections = 2
    reserved = 3
    head_s = body_s = read_s = linger_s = ended_s = 3600.0
    always_answered = frozenset({b"/health"})


class Roomy(Patient):
    max_connections = 100


class Soon(Roomy):
    ended_s = 0.1


HALF_BODY = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc"
LAZY = {
    "nothing said": b"",
    "idle": GET % b"in",
    "half a head": GET[:-4] % b"half",
    "half a body": HALF_BODY,
    "half a chunk": b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc",
    "answer unread": GET % b"big",
    "refused body unended": b"POST /refuse HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc",
}


@pytest.mark.parametrize("sent", LAZY.values(), ids=LAZY.keys())
async def test_whoever_is_waited_for_the_longest_gives_way(sent: bytes) -> None:
    """Whatever the clients are slow with, the next one is served, and it is the first of them that goes."""
    app = App()
    async with served(app, Patient) as connect:
        lazy = [await connect(), await connect()]
        for peer in lazy:
            if b"/big" in sent:
                peer.pause()
            before = len(app.seen)
            await peer.send(sent)
            if b"\r\n\r\n" in sent:
                await until(lambda: len(app.seen) > before)  # noqa: B023 - awaited here
            if b"/in " in sent or b"/refuse " in sent:
                await peer.answer()
        third = await connect()
        await third.send(GET % b"next")
        assert (await third.answer())[2] == b"/next"
        assert await lazy[0].rest() < BIG
        await third.send(GET % b"again")  # the second has kept its place, and so has the third
        assert (await third.answer())[2] == b"/again"
        fourth = await connect()
        await fourth.send(GET % b"next")
        assert (await fourth.answer())[2] == b"/next"
        assert await lazy[1].rest() < BIG


async def test_idle_connections_without_number_close_it_to_nobody() -> None:
    """However many come and say nothing, whoever asks is answered."""
    async with served(App(), Patient) as connect:
        for number in range(100):
            await connect()
            if number % 10 == 0:
                peer = await connect()
                await peer.send(GET % b"in")
                assert (await peer.answer())[0] == 200


async def test_health_is_answered_though_every_place_is_taken() -> None:
    """Beside requests that all are held, and newcomers that say nothing: its connection ends with the answer."""
    app = App()
    async with served(app, Patient) as connect:
        for _ in range(Patient.max_connections):
            app.held.clear()
            await (await connect()).send(GET % b"hold")
            await app.held.wait()
        for path in (b"health", b"health?x=1"):
            for _ in range(2 * Patient.reserved):
                await connect()
            peer = await connect()
            await peer.send(GET % path)
            status, headers, _ = await peer.answer()
            assert (status, headers["connection"]) == (200, "close")
            await peer.ended()
        other = await connect()
        await other.send(GET % b"healthy")
        await other.refused(503, "unavailable")
        assert app.cancelled == []


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections hold 100 kB together."""
    few = Places(100_000)
    monkeypatch.setattr(inbound, "places_of", lambda server: few)


LARGE = {
    "head": b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"h" * 30_000,
    "headers": b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 120,
    "url": b"GET /" + b"u" * 30_000,
    "trailer": b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx:" + b"t" * 60_000,
}


@pytest.mark.parametrize("sent", LARGE.values(), ids=LARGE.keys())
async def test_what_all_hold_together_is_bounded(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """Each within its limit, thousands could fill the memory: those that were waited for the longest give way."""
    narrow(monkeypatch)
    async with served(App(), Roomy) as connect:
        peers = []
        for _ in range(20):
            peers.append(await connect())
            await peers[-1].send(sent)
        await peers[0].rest()
        await peers[9].rest()
        peer = await connect()
        await peer.send(GET % b"in")
        assert (await peer.answer())[0] == 200
        await peers[-1].send(b"\r\n\r\n" if not sent.startswith(b"GET /u") else b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await peers[-1].answer())[0] == 200


async def test_what_was_held_and_is_served_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large head that has become a request takes from nobody what others may hold."""
    narrow(monkeypatch)
    async with served(App(), Roomy) as connect:
        first = await connect()
        await first.send(GET % b"in")
        await first.answer()
        second = await connect()
        for _ in range(20):
            await second.send(LARGE["head"])
            await second.send(b"\r\n\r\n" + (GET % b"a") * 10)
            assert [(await second.answer())[0] for _ in range(11)] == [200] * 11
        await first.send(GET % b"in")
        assert (await first.answer())[0] == 200


async def test_what_waits_behind_held_requests_is_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection may have many requests waiting, and all together not too many: then they may have to give way."""
    narrow(monkeypatch)
    app = App()
    async with served(app, Roomy) as connect:
        for _ in range(20):
            app.held.clear()
            await (await connect()).send(GET % b"hold" + GET % b"x" * 20)
            await app.held.wait()
        assert len(app.cancelled) >= 17
        peer = await connect()
        await peer.send(GET % b"in")
        assert (await peer.answer())[0] == 200


async def test_refused_newcomers_take_no_place_from_others() -> None:
    """Once a request is done there is a place again, however many were refused before and have not gone."""
    app = App()
    async with served(app, Patient) as connect:
        for _ in range(Patient.max_connections):
            app.held.clear()
            await (await connect()).send(GET % b"hold")
            await app.held.wait()
        early = await connect()  # there is none when it comes, and one when it asks
        for _ in range(10):
            peer = await connect()
            await peer.send(GET % b"out")
            await peer.refused(503, "unavailable")
        app.release.set()
        while True:
            peer = await connect()
            await peer.send(GET % b"in")
            if (await peer.answer())[0] == 200:
                break
        for one in (peer, early):
            await one.send(GET % b"in")
            assert (await one.answer())[0] == 200


# Clients that go


def reset(peer: Peer) -> None:
    """Close with a reset."""
    found = peer.writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.writer.transport.abort()


def close(peer: Peer) -> None:
    """Close as programs do."""
    peer.writer.transport.abort()


def half_close(peer: Peer) -> None:
    """End its side, and stay."""
    peer.writer.write_eof()


BEHIND = {"alone": b"", "pipelined": GET % b"1" + GET % b"2", "half a head behind": b"GET /x HTTP", "body": HALF_BODY}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND.keys())
@pytest.mark.parametrize("go", [reset, close, half_close])
async def test_a_request_ends_with_its_client(go: Callable[[Peer], None], behind: bytes) -> None:
    """What a client waited for that has gone is given up, and nothing that it had sent behind that is begun."""
    app = App()
    async with served(app, Soon) as connect:
        peer = await connect()
        await peer.send(GET % b"hold" + behind)
        await app.held.wait()
        go(peer)
        await until(lambda: bool(app.cancelled))
        if go is half_close:
            await peer.ended()
    assert (app.seen, app.cancelled) == (["/hold"], ["/hold"])


async def test_a_client_that_has_gone_gives_way_before_its_time() -> None:
    """Its end looks like that of one who still reads: so its request is held on, but in nobody's way."""
    app = App()
    async with served(app, Patient) as connect:
        for number in range(10):
            app.held.clear()
            peer = await connect()
            await peer.send(GET % b"hold")
            await app.held.wait()
            close(peer)
            await until(lambda: len(app.cancelled) >= number + 1 - Patient.max_connections)  # noqa: B023 - as above


async def test_a_request_that_is_done_is_not_cancelled() -> None:
    """A client that goes once it has its answer leaves nothing to end."""
    app = App()
    async with served(app, Roomy) as connect:
        for go in (reset, close):
            peer = await connect()
            await peer.send(GET % b"in")
            await peer.answer()
            go(peer)
        await (await connect()).send(GET % b"in")
    assert app.cancelled == []


async def test_a_body_that_comes_slowly_behind_others_is_read_with_them() -> None:
    """What is pipelined behind a held request is read on up to a bound, and all of it is answered."""
    app = App()
    async with served(app, Roomy) as connect:
        peer = await connect()
        size = 3 * Roomy.max_ahead_bytes
        post = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
        await peer.send(GET % b"hold" + post)
        await app.held.wait()
        sending = asyncio.create_task(peer.send(bytes(size), GET % b"last"))
        app.release.set()
        assert (await peer.answer())[2] == b"/hold"
        assert len((await peer.answer())[2]) == size
        assert (await peer.answer())[2] == b"/last"
        await sending
