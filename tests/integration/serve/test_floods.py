"""A flood of small chunks in a request's body: others have their turn meanwhile, and nothing of it is lost or late."""

import asyncio
import errno
from unittest.mock import Mock

import pytest
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from gateway.serve.inbound import InboundProtocol
from tests.floods import (
    ANSWER,
    HEAD,
    LAST,
    MOST_TURNS,
    ONES,
    SIXTEEN,
    SMALLEST,
    STEP,
    connected,
    flood,
    one_step,
    until_written,
)
from tests.peer import GET, App, freed


@pytest.mark.parametrize(
    ("path", "chunk"), [(b"body", SMALLEST), (b"body", SIXTEEN), (b"early", SIXTEEN)], ids=["1", "16", "16-early"]
)
async def test_one_read_of_many_chunks_holds_up_nobody(path: bytes, chunk: bytes) -> None:
    """It is parsed in many turns, in order, no more is read before, and the request behind it is answered."""
    chunks, body = flood(chunk)
    app = App()
    protocol, wire = connected(app)
    protocol.data_received(HEAD % path + chunks[: len(chunks) // 2])
    protocol.data_received(chunks[len(chunks) // 2 :] + LAST + GET % b"next")
    turns, waited, before = 0, 0, protocol.parts
    while not wire.written.endswith(b"/next"):
        waited += wire.paused
        await asyncio.sleep(0)
        assert protocol.parts - before < 256 + STEP // 6 + 2, "too much in one turn"
        before = protocol.parts
        turns += 1
        assert turns < MOST_TURNS
    assert min(turns, waited) > 5
    assert not wire.paused
    assert app.seen == [f"/{path.decode()}", "/next"]
    first = wire.written.partition(b"\r\n\r\n")[2].partition(b"HTTP/1.1")[0]
    assert first.translate(None, b"x") == (body if path == b"body" else b"/early")
    wire.lose()


@pytest.mark.parametrize(("begin", "rest"), [(b"", ONES), (b"0\r\n", b"a:\r\n" * 2000)], ids=["chunks", "trailer"])
async def test_a_flood_that_was_refused_is_not_parsed_to_its_end(begin: bytes, rest: bytes) -> None:
    """Its client has its answer; the connection ends in stages, and what still comes is thrown away."""
    app = App()
    protocol, wire = connected(app)
    protocol.data_received(HEAD % b"early")
    await until_written(wire, b"/early")
    for data in (begin + rest, rest, rest, LAST + GET % b"next"):
        protocol.data_received(data)
    for _ in range(MOST_TURNS):
        if wire.half:
            break
        await asyncio.sleep(0)
    assert wire.half, "its side, so that the client may read on"
    assert protocol.parts <= 1024 + 256 + STEP // 4 + 2
    for _ in range(MOST_TURNS):
        await asyncio.sleep(0)
    assert not protocol._unparsed.reads
    assert app.seen == ["/early"]
    assert not wire.gone
    protocol.eof_received()
    wire.lose()


@pytest.mark.parametrize("size", [4096, 16_384])
async def test_an_upload_that_was_answered_early_may_go_on_in_large_chunks(size: int) -> None:
    """What is left of a chunk behind the steps in which it is parsed is no small part: the next request is served."""
    app = App()
    protocol, wire = connected(app)
    protocol.data_received(HEAD % b"early")
    await until_written(wire, b"/early")
    for _ in range(1100):
        protocol.data_received(b"%x\r\n%b\r\n" % (size, bytes(size)))
        assert not wire.paused
        await asyncio.sleep(0)
    protocol.data_received(LAST + GET % b"next")
    await until_written(wire, b"/next")
    wire.lose()


async def test_a_client_that_has_gone_before_its_connection_ends_in_stages() -> None:
    """The socket says so where its side is ended: nothing is raised, and the connection is given up."""
    protocol, wire = connected(App())
    wire.write_eof = Mock(side_effect=OSError(errno.ENOTCONN, "not connected"))  # type: ignore[method-assign]
    protocol.data_received(HEAD % b"early")
    await until_written(wire, b"/early")
    protocol.data_received(ONES)
    for _ in range(MOST_TURNS):
        await asyncio.sleep(0)
    assert wire.gone


async def test_no_more_is_read_while_a_part_waits() -> None:
    """An application that has not read a body, and has answered then, does not resume the transport."""
    chunks, body = flood(SIXTEEN)
    assert len(body) * 16 > HIGH_WATER_LIMIT
    resumed: list[bool] = []

    class Watched(InboundProtocol):
        def take(self, data: bytes) -> None:
            resumed.append(not wire.paused)
            super().take(data)

    app = App()
    protocol, wire = connected(app, Watched)
    protocol.data_received(HEAD % b"hold" + chunks + LAST + GET % b"next")
    for _ in range(MOST_TURNS):
        if protocol.flow.read_paused:
            break
        await asyncio.sleep(0)
    assert protocol._unparsed.reads
    app.release.set()
    await until_written(wire, b"/next")
    assert not any(resumed[resumed.index(False) :]), "read in the turn of the read itself alone"
    assert not wire.paused
    wire.lose()


async def test_a_long_trailer_holds_up_nobody() -> None:
    """Its lines are parts as chunks are: 15,000 of them, as many as a trailer may have, took 4 ms at once."""
    protocol, wire = connected(App())
    protocol.data_received(HEAD % b"body" + b"0\r\n" + b"a:\r\n" * 15_000 + b"\r\n" + GET % b"next")
    before = protocol.parts
    while not wire.written.endswith(b"/next"):
        await asyncio.sleep(0)
        assert protocol.parts - before <= 256 + STEP // 4, "too much in one turn"
        before = protocol.parts
    assert before >= 15_000
    wire.lose()


async def test_a_body_of_known_length_is_parsed_in_large_steps() -> None:
    """To its end; in those of what may hold small parts a body of megabytes took eight times as many."""
    taken: list[int] = []

    class Watched(InboundProtocol):
        def take(self, data: bytes) -> None:
            taken.append(len(data))
            super().take(data)

    protocol, wire = connected(App(), Watched)
    head = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n"
    protocol.data_received(head + bytes(100_000) + GET % b"next")
    assert taken == [STEP, 32_768, 32_768, 100_000 + len(head) - STEP - 2 * 32_768, len(GET % b"next")]
    await until_written(wire, b"/next")
    wire.lose()


async def test_large_chunks_wait_for_no_turn() -> None:
    """A body as clients send it is parsed as it comes."""
    protocol, wire = connected(App())
    protocol.data_received(HEAD % b"body" + b"8000\r\n%b\r\n" % bytes(0x8000) + LAST)
    assert not wire.paused
    await until_written(wire, bytes(0x8000))
    wire.lose()


async def test_what_came_before_the_clients_end_is_served() -> None:
    """A client that ends its side behind a flood still gets its answer."""
    protocol, wire = connected(App())
    protocol.data_received(HEAD % b"body" + ONES + LAST)
    assert wire.paused
    assert protocol.eof_received()
    await until_written(wire, ANSWER)
    assert wire.gone
    await asyncio.sleep(0)
    assert protocol._turns.size == 0


@pytest.mark.parametrize("path", [b"body", b"early"])
async def test_what_came_before_the_gateways_end_is_served(path: bytes) -> None:
    """Requests that had come when the server stops are answered, then their connection closes."""
    protocol, wire = connected(App())
    protocol.data_received(one_step(path) + GET % b"next")
    assert wire.paused
    protocol.shutdown()
    await until_written(wire, b"/next")
    assert wire.written.count(b"connection: close") == 1
    assert wire.gone


async def test_a_lost_connection_parses_nothing_more() -> None:
    """Nobody waits for the answer to what had come: its request ends."""
    app = App()
    protocol, wire = connected(app)
    protocol.data_received(HEAD % b"body" + ONES + LAST)
    await asyncio.sleep(0)
    found = protocol.parts
    wire.lose()
    assert protocol._turns.size == 0
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert protocol.parts == found < 6000
    assert not protocol.tasks


async def test_an_answer_that_closes_throws_the_rest_away() -> None:
    """Then it reads on, for the client's end: a reset would take the answer away."""
    protocol, wire = connected(App())
    protocol.data_received(HEAD % b"refuse" + ONES + LAST + GET % b"next")
    await until_written(wire, b"/refuse")
    assert (wire.half, wire.gone) == (True, False)
    found = protocol.parts
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert protocol.parts == found < 6000
    assert not wire.paused
    protocol.data_received(ONES)
    assert not protocol.eof_received()
    wire.lose()
    assert wire.written.endswith(b"/refuse")


async def test_an_answer_that_closes_between_two_requests_reads_on() -> None:
    """Also where the next one has come and nothing of it was parsed: its client may be sending more."""
    protocol, wire = connected(App())
    protocol.data_received(one_step(b"refuse") + GET % b"next")
    await until_written(wire, b"/refuse")
    assert (wire.half, wire.gone) == (True, False)
    await asyncio.sleep(0)
    assert not wire.paused
    assert wire.written.endswith(b"/refuse")
    wire.lose()


@pytest.mark.parametrize(("path", "chunks"), [(b"body", ONES), (b"early", flood(SIXTEEN)[0])], ids=["body", "early"])
async def test_a_client_is_not_late_with_what_has_come(path: bytes, chunks: bytes) -> None:
    """Its time for the body ends only while the gateway has parsed all there is."""

    class Short(InboundProtocol):
        body_s = head_s = 0.0

    protocol, wire = connected(App(), Short)
    protocol.data_received(HEAD % path + chunks + LAST + GET % b"next")
    await until_written(wire, b"/next")
    assert wire.written.count(b"HTTP/1.1 200 ") == 2
    assert 6000 <= protocol.parts < 6100, "and those that a step has cut"
    wire.lose()


@pytest.mark.parametrize("end", ["lost", "refused", "answered"])
async def test_an_ended_connection_is_freed_at_once(end: str) -> None:
    """What waits and its connection know each other; the garbage collector would come late for thousands of them."""
    async with freed(App()) as connect:
        peer = await connect()
        await peer.send(HEAD % b"body", ONES)
        if end == "refused":
            await peer.send(b"zz\r\n")
            await peer.refused(400, "invalid_request")
        elif end == "answered":
            await peer.send(LAST)
            assert (await peer.answer())[2] == b"x" * 6000
        peer.writer.transport.abort()
