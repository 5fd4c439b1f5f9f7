"""Floods of small parts on many connections, or read by read: what all of them cost others, and what may wait."""

import asyncio

import pytest
from uvicorn.server import ServerState

from gateway.serve.inbound import InboundProtocol
from tests.floods import ANSWER, HEAD, LAST, MOST_TURNS, ONES, STEP, connected, until_written
from tests.peer import GET, App


async def most_in_a_turn(protocols: list[InboundProtocol], parts: int) -> int:
    """Return the most parts that were found in one turn since there were so many, until none waits."""
    most = 0
    while True:
        now = sum(protocol.parts for protocol in protocols)
        parts, most = now, max(most, now - parts)
        if not any(protocol._unparsed.reads for protocol in protocols):
            return most
        await asyncio.sleep(0)


async def test_no_flood_hides_within_the_step_of_a_body_of_known_length() -> None:
    """Steps of such a body are large, and end with it: thousands of small chunks behind its last byte took one turn."""
    server, length = ServerState(), 20_000
    floods = [connected(App(), server=server) for _ in range(8)]
    known = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % length + b"y" * (length - 1)
    for protocol, _ in floods:
        protocol.data_received(known)
    for number in range(3):
        parts = sum(protocol.parts for protocol, _ in floods)
        for protocol, wire in floods:
            assert not wire.paused
            protocol.data_received(b"y" + HEAD % b"body" + b"1\r\nx\r\n" * 5000 + LAST + known)
        assert all(protocol._unparsed.reads for protocol, _ in floods)
        most = await most_in_a_turn([protocol for protocol, _ in floods], parts)
        assert most <= (8 if not number else 3) * (STEP // 6 + 1), "a step of each that has not flooded, at most"
    for protocol, wire in floods:
        assert protocol.parts >= 15_000
        wire.lose()


async def test_many_floods_take_no_longer_turns_than_one() -> None:
    """Who is served meanwhile waits a turn for each of its steps, and for none of the others' floods."""
    server = ServerState()
    floods = [connected(App(), server=server) for _ in range(8)]
    for protocol, _ in floods:
        protocol.data_received(HEAD % b"body" + ONES + LAST)
    before, most = sum(protocol.parts for protocol, _ in floods), []
    while any(protocol._unparsed.reads for protocol, _ in floods):
        await asyncio.sleep(0)
        parts = sum(protocol.parts for protocol, _ in floods)
        most.append(parts - before)
        before = parts
    assert max(most) <= 2 * (STEP // 6 + 1)
    assert sum(most) / len(most) > STEP // 6 / 2, "and none is left out"
    for _, wire in floods:
        await until_written(wire, ANSWER)
        wire.lose()


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of hundreds of clients that flood some keep a read waiting: the connection with most of it ends.

    Of 160 that were parsed at once instead, a request waited for more than a second.
    """
    monkeypatch.setattr("gateway.net.unparsed._MOST_WAITING", 36_000)
    server = ServerState()
    (first, wire), (second, other) = connected(App(), server=server), connected(App(), server=server)
    first.data_received(HEAD % b"body" + ONES + LAST)
    second.data_received(HEAD % b"body" + ONES + ONES + LAST)
    assert 25_000 < first._turns.size <= 36_000
    assert (first.parts < 1000, second.parts < 1000, other.gone) == (True, True, True)
    await until_written(wire, ANSWER)
    assert first._turns.size == 0
    wire.lose()


async def test_whoever_brings_little_is_not_cut_off_for_others_floods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelined requests, JSON by its tokens, and an upload in chunks, though each is hundreds of parts."""
    server = ServerState()
    floods = [connected(App(), server=server) for _ in range(4)]
    for protocol, _ in floods:
        protocol.data_received(HEAD % b"body" + ONES * 4)
    monkeypatch.setattr("gateway.net.unparsed._MOST_WAITING", floods[0][0]._turns.size + 100)
    get = b"GET /next HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 14 + b"\r\n"
    chunk = b"3e8\r\n%b\r\n" % bytes(1000)
    for sent, end in (
        (get * 30, b"/next"),
        (HEAD % b"body" + b"14\r\n12345678901234567890\r\n" * 500 + LAST, b"12345678901234567890" * 500),
        (HEAD % b"body" + chunk * 250 + LAST, bytes(250_000)),
    ):
        protocol, wire = connected(App(), server=server)
        protocol.data_received(sent)
        await until_written(wire, end)
        assert not wire.gone
        wire.lose()
    for _, wire in floods:
        wire.lose()


async def test_others_uploads_cut_off_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for room in a turn and is no flood is bounded by itself: who is forgiven only slowly is not ended."""
    monkeypatch.setattr("gateway.net.unparsed._MOST_WAITING", 100_000)
    server = ServerState()
    slow, wire = connected(App(), server=server)
    slow._unparsed.found(100_000, 0)
    chunks = b"1\r\nx\r\n" * 10_000
    fresh = [connected(App(), server=server) for _ in range(5)]
    for protocol, _ in fresh:
        protocol.data_received(HEAD % b"body" + chunks)
    slow.data_received(GET % b"next")
    assert not wire.gone
    await until_written(wire, b"/next")
    ended = [one for _, one in fresh if one.gone]
    assert ended, "floods by now"
    for one in (wire, *(one for _, one in fresh)):
        one.lose()


async def test_an_upload_in_chunks_is_no_flood() -> None:
    """Of a kilobyte and more: beside forty floods one of 16 MB took four times as long as before it was one."""
    for size in (512, 1000, 4096, 8192, 32_768):
        protocol, wire = connected(App())
        chunk = b"%x\r\n%b\r\n" % (size, bytes(size))
        body = chunk * (2_000_000 // size)
        protocol.data_received(HEAD % b"early")
        for start in range(0, len(body), 262_144):
            protocol.data_received(body[start : start + 262_144])
            for _ in range(MOST_TURNS):
                if not protocol._unparsed.reads:
                    break
                await asyncio.sleep(0)
            assert not protocol._unparsed.floods, size
        wire.lose()


async def test_what_is_no_flood_goes_on_while_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of others' waits: neither a request, nor a body in one piece, loses its connection."""
    server = ServerState()
    _, flood = connected(App(), server=server)
    flood._protocol.data_received(HEAD % b"body" + ONES)
    monkeypatch.setattr("gateway.net.unparsed._MOST_WAITING", 1000)
    protocol, wire = connected(App(), server=server)
    protocol.data_received(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n" + b"x" * 100_000)
    await until_written(wire, b"x" * 100_000)
    protocol.data_received(GET % b"next")
    await until_written(wire, b"/next")
    for one in (flood, wire):
        one.lose()


async def test_a_flood_in_reads_of_one_step_waits_for_its_turn() -> None:
    """Though the next request's head follows in each: 64 such clients had each of their reads parsed as it came."""
    app = App()
    server = ServerState()
    clients = [connected(app, server=server) for _ in range(8)]
    for protocol, _ in clients:
        protocol.data_received(HEAD % b"body")
    read = b"1\r\nx\r\n" * 500 + LAST + HEAD % b"body"
    assert len(read) <= STEP
    for number in range(5):
        parts = sum(protocol.parts for protocol, _ in clients)
        for protocol, _ in clients:
            protocol.data_received(read)
        most = await most_in_a_turn([protocol for protocol, _ in clients], parts)
        assert not number or most <= 600
    assert all(protocol.parts >= 2500 for protocol, _ in clients)
    for _, wire in clients:
        wire.lose()


async def test_a_read_of_one_step_is_of_all_that_a_turn_may_have() -> None:
    """It is parsed as it comes, as most requests are; a longer one of another client's waits then."""
    server = ServerState()
    (first, wire), (second, other) = connected(App(), server=server), connected(App(), server=server)
    first.data_received(HEAD % b"body" + b"1\r\nx\r\n" * 300)
    second.data_received(HEAD % b"body" + ONES + LAST)
    assert (first.parts, second.parts) == (300, 0)
    await until_written(other, ANSWER)
    for one in (wire, other):
        one.lose()


async def test_reads_of_few_parts_make_up_for_one_of_more() -> None:
    """Of a client that brings fewer than a flood now and then nothing is left after a while."""
    protocol, wire = connected(App())
    for _ in range(20):
        protocol.data_received(HEAD % b"body" + b"1\r\nx\r\n" * 200 + LAST)
        for _ in range(6):
            protocol.data_received(GET % b"next")
            assert not protocol._unparsed.floods
        await until_written(wire, b"/next")
        wire.written.clear()
    wire.lose()


async def test_heads_of_many_requests_in_one_read_are_parts_too() -> None:
    """Sixty of them with 127 headers each took 3 ms; the first ones are as any request."""
    head = b"GET /hold HTTP/1.1\r\nhost: x\r\n" + b"a:\r\n" * 126 + b"\r\n"
    app = App()
    protocol, wire = connected(app)
    protocol.data_received(head)
    assert protocol.parts == 0
    protocol.data_received(head * 40)
    before = protocol.parts
    assert before <= 1024 + 127
    while protocol._unparsed.reads:
        await asyncio.sleep(0)
        assert protocol.parts - before <= 256 + 1024 + 127, "too much in one turn"
        before = protocol.parts
    assert before == 39 * 127  # of those behind another that waits
    app.release.set()
    for _ in range(MOST_TURNS):
        if len(app.seen) == 41:
            break
        await asyncio.sleep(0)
    await until_written(wire, b"/hold")
    wire.lose()


async def test_a_connection_that_flooded_once_is_forgiven() -> None:
    """A proxy's, say, that brought one client's JSON by its tokens: its next requests are parsed as they come again."""
    protocol, wire = connected(App())
    protocol.data_received(HEAD % b"body" + ONES + LAST)
    await until_written(wire, ANSWER)
    assert protocol._unparsed.floods
    asked = 0
    while protocol._unparsed.floods:
        protocol.data_received(GET % b"next")
        await until_written(wire, b"/next")
        wire.written.clear()
        asked += 1
    assert asked < 20
    wire.lose()


async def test_a_request_that_waits_for_its_turn_is_none_that_did_not_come() -> None:
    """The time that an idle connection has ends when its client asks, not when that is parsed."""
    protocol, wire = connected(App())
    protocol.data_received(HEAD % b"body" + ONES + LAST)
    await until_written(wire, ANSWER)
    assert protocol.timeout_keep_alive_task is not None
    protocol.data_received(GET % b"next")
    assert protocol._unparsed.reads
    assert protocol.timeout_keep_alive_task is None
    await until_written(wire, b"/next")
    assert protocol.timeout_keep_alive_task is not None
    wire.lose()
