"""Answers of many small parts: they are parsed in turns of the event loop, in order, and hold up nobody.

What the parts may be is ``test_odd_answers``'; what waits for its turn is ``tests/unit/net/test_unparsed``'s.
"""

import asyncio
from unittest.mock import Mock

import pytest

from gateway.net.errors import ExchangeFailed
from gateway.net.http1 import Connection
from gateway.net.unparsed import ParsingTurns

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


async def _connected(turns: ParsingTurns | None = None) -> tuple[Connection, Mock]:
    connection, transport = (
        Connection(lambda _: None, ParsingTurns() if turns is None else turns),
        Mock(asyncio.Transport),
    )
    transport.get_write_buffer_size.return_value = 0
    connection.connection_made(transport)
    return connection, transport


async def _asked(turns: ParsingTurns | None = None) -> tuple[Connection, Mock]:
    """Return a connection whose answer in chunks has begun, and its transport."""
    connection, transport = await _connected(turns)
    asking = asyncio.create_task(connection.ask([], no_body=False))
    await asyncio.sleep(0)
    connection.data_received(OK + CHUNKED + b"\r\n")
    await asking
    return connection, transport


async def _body(connection: Connection) -> bytes:
    parts = []
    while part := await connection.read():
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("chunk", [b"1\r\n%d\r\n", b"10\r\n%d" + b"x" * 15 + b"\r\n", b"1 ;a\n%d\n"])
async def test_one_read_of_many_chunks_holds_up_nobody(chunk: bytes) -> None:
    """What one read brings of small chunks is parsed in many turns, in order, and no more is read before."""
    parts = [chunk % (number % 10) for number in range(6000)]
    connection, transport = await _asked()
    connection.data_received(b"".join(parts[:3000]))
    assert [call[0] for call in transport.method_calls].count("pause_reading") == 1
    connection.data_received(b"".join([*parts[3000:], b"0\r\n\r\n"]))  # what TLS had decrypted by then
    assert not connection.usable
    reading, turns = asyncio.create_task(_body(connection)), 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 5
    assert reading.result().translate(None, b"x") == b"".join(b"%d" % (number % 10) for number in range(6000))
    assert transport.method_calls[-1][0] == "resume_reading"


async def test_an_answer_that_ends_gives_the_others_no_more_turns() -> None:
    """It had found 6,000 parts, and as many more of others were parsed in that turn."""
    turns, connections = ParsingTurns(), []
    for last in (b"0\r\n\r\n", *[b""] * 10):
        connection, _ = await _asked(turns)
        connection.data_received(b"10\r\n" + b"x" * 16 + b"\r\n" + b"1\r\nx\r\n" * 6000 + last)
        connections.append(connection)
    most = 0
    while connections[0]._asking:
        before = sum(connection.parts for connection in connections)
        await asyncio.sleep(0)
        most = max(most, sum(connection.parts for connection in connections) - before)
    assert 0 < most < 1500


async def test_many_announcements_hold_up_nobody() -> None:
    """A read of them is parsed in several turns, up to the bound on a head."""
    connection, _ = await _connected()
    asking, turns = asyncio.create_task(connection.ask([], no_body=False)), 0
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 103 E\r\nA:\r\n\r\n" * 1300 + OK + b"Content-Length: 2\r\n\r\nok")
    while not asking.done():
        await asyncio.sleep(0)
        turns += 1
    assert (connection.status, turns > 3) == (200, True)
    assert await _body(connection) == b"ok"


@pytest.mark.parametrize("last", [b"0\r\n", b"0 \r\n"], ids=["strict", "odd"])
async def test_a_long_trailer_holds_up_nobody(last: bytes) -> None:
    """Its lines are parts as chunks are: 8,000 of them, as many as a trailer may have, took 6 ms at once."""
    connection, _ = await _asked()
    connection.data_received(last + b"a:\r\n" * 7500 + b"\r\n")
    reading, turns = asyncio.create_task(_body(connection)), 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert (reading.result(), turns > 10) == (b"", True)


async def test_what_waits_to_be_parsed_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of hundreds of peers that send small chunks some keep a read waiting: the connection with most of it ends."""
    monkeypatch.setattr("gateway.net.unparsed._MOST_WAITING", 36_000)
    row = ParsingTurns()
    (first, _), (second, cut) = await _asked(row), await _asked(row)
    first.data_received(b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")
    second.data_received(b"1\r\nx\r\n" * 6000 + b"0\r\n\r\n")
    assert first._unparsed in row
    assert 25_000 < row.size <= 36_000
    assert (len(first._chunks) < 1000, len(second._chunks) < 1000) == (True, True)
    cut.abort.assert_called_once_with()
    assert await _body(first) == b"x" * 5000
    assert first._unparsed not in row
    assert row.size == 0
    second.connection_lost(None)
    with pytest.raises(ExchangeFailed, match="more waits than there is room for"):
        await _body(second)


async def test_an_answer_that_was_cut_off_so_is_never_taken_for_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one that its connection's end would end, and nothing more is asked on that connection."""
    monkeypatch.setattr("gateway.net.unparsed._MOST_WAITING", 1000)
    connection, _ = await _connected()
    asking = asyncio.create_task(connection.ask([], no_body=False))
    await asyncio.sleep(0)
    connection.data_received(OK + b"\r\n" + b"x" * 100)
    await asking
    connection._unparsed.found(1000, 0)
    connection.data_received(bytes(20_000))
    assert not connection.usable
    connection.connection_lost(None)
    assert await connection.read() == b"x" * 100
    with pytest.raises(ExchangeFailed, match="more waits than there is room for"):
        await connection.read()


async def test_headers_and_announcements_take_turns() -> None:
    """Hundreds of headers are as much work as chunks are: seven announcements of 900 took 1.5 ms at once."""
    row = ParsingTurns()
    connection, _ = await _connected(row)
    asking, turns = asyncio.create_task(connection.ask([], no_body=False)), 0
    await asyncio.sleep(0)
    many = b"a:\r\n" * 900
    connection.data_received((b"HTTP/1.1 103 Early\r\n" + many + b"\r\n") * 7 + OK + many + b"\r\n")
    while not asking.done():
        before = connection.parts
        await asyncio.sleep(0)
        assert connection.parts - before <= 256 + 2048 // 4
        turns += 1
    assert (connection.status, len(connection.headers), turns > 10) == (200, 900, True)


async def test_an_odd_head_of_thousands_of_lines_is_refused_before_it_is_read() -> None:
    """To read 8,000 took 10 ms, and most of them may be no headers at all."""
    connection, _ = await _connected()
    asking = asyncio.create_task(connection.ask([], no_body=False))
    await asyncio.sleep(0)
    connection.data_received(b"HTTP/1.1 200 OK\n" + b"a\n" * 1001 + b"\n")
    with pytest.raises(ExchangeFailed, match="more than 1000 headers"):
        await asking


async def test_odd_heads_that_end_in_one_turn_take_turns() -> None:
    """Each is read when it ends, 900 lines in 1.4 ms: beside 160 peers that sent their ends together 0.5 s went by."""
    row = ParsingTurns()
    peers = [(await _connected(row))[0] for _ in range(10)]
    asking = [asyncio.create_task(peer.ask([], no_body=False)) for peer in peers]
    await asyncio.sleep(0)
    for peer in peers:
        peer.data_received(b"HTTP/1.1 200 OK\n" + b"a:\n" * 600)
    for _ in range(30):
        await asyncio.sleep(0)
    for peer in peers:
        peer.data_received(b"a:\n" * 300 + b"content-length: 0\n\n")
    turns = 0
    while not all(one.done() for one in asking):
        before = sum(peer.status == 200 for peer in peers)
        await asyncio.sleep(0)
        assert sum(peer.status == 200 for peer in peers) - before <= 2
        turns += 1
    assert turns >= 5


async def test_an_answer_of_many_headers_in_a_small_read_counts() -> None:
    """As one that is parsed in steps."""
    connection, _ = await _connected()
    asking = asyncio.create_task(connection.ask([], no_body=False))
    await asyncio.sleep(0)
    connection.data_received(OK + b"a:\r\n" * 300 + b"\r\n")
    await asking
    assert connection._unparsed.owes == 300 - 32 + 1 - 32


async def test_headers_of_announcements_count_whichever_head_they_are_in() -> None:
    """Of 226 announcements with 32 headers each 7,000 were parsed at once."""
    connection, _ = await _connected()
    asking, turns = asyncio.create_task(connection.ask([], no_body=False)), 0
    await asyncio.sleep(0)
    connection.data_received((b"HTTP/1.1 103 E\r\n" + b"a:\r\n" * 32 + b"\r\n") * 200 + OK + b"\r\n")
    while not asking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10


async def test_an_answer_of_one_step_is_of_all_that_a_turn_may_have() -> None:
    """It is parsed as it comes, as most are; a longer one of another peer's waits then."""
    row = ParsingTurns()
    (first, _), (second, _) = await _connected(row), await _asked(row)
    asking = asyncio.create_task(first.ask([], no_body=False))
    await asyncio.sleep(0)
    first.data_received(b"HTTP/1.1 100\r\n\r\n" * 120)
    second.data_received(b"1\r\nx\r\n" * 200)
    first.data_received(b"HTTP/1.1 100\r\n\r\n" * 120)
    before = second.parts
    second.data_received(b"1\r\nx\r\n" * 6000 + b"0\r\n\r\n")
    assert second.parts == before
    assert await _body(second) == b"x" * 6200
    asking.cancel()


async def test_large_chunks_are_parsed_as_they_come() -> None:
    """What is large of a body in chunks waits for no turns of the loop: most of these are read by nobody else."""
    connection, transport = await _asked()
    connection.data_received(b"8000\r\n%b\r\n" % bytes(0x8000) + b"0\r\n\r\n")
    transport.pause_reading.assert_not_called()
    assert await _body(connection) == bytes(0x8000)
    assert connection.usable


async def test_an_answer_that_has_come_is_whole_though_its_connection_ends() -> None:
    """An end of the connection while many chunks wait to be parsed takes none of them away."""
    connection, _ = await _asked()
    connection.data_received(b"1\r\nx\r\n" * 6000 + b"0\r\n\r\n")
    connection.connection_lost(None)
    assert not connection._unparsed.reads
    assert await _body(connection) == b"x" * 6000


async def test_a_closed_connection_parses_nothing_more() -> None:
    """Who gives up an answer of many chunks pays for none that has come and was not parsed."""
    connection, transport = await _asked()
    connection.data_received(b"1\r\nx\r\n" * 6000)
    connection.close()
    transport.resume_reading.reset_mock()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(connection._chunks) < 3000
    assert not connection._unparsed.reads
    transport.resume_reading.assert_not_called()
