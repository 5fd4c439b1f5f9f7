"""Answers as hostile upstreams and receivers write them, for ``gateway.net.http1`` with ``oddanswers``.

What must hold: however its bytes are cut, an answer is read the same; one that h11 and Python's http.client both read,
and alike, is read so here; a connection is used again only where both of them mean that the answer ended there, so
that no answer can be slipped under the next request; nothing but ExchangeFailed is raised, with words that quote
nothing.
"""

import asyncio
import http.client
import io
import re
from dataclasses import dataclass

import h11
from hypothesis import strategies as st

from gateway.net.errors import ExchangeFailed
from gateway.net.http1 import Connection
from gateway.net.unparsed import ParsingTurns
from tests.fuzz.target import Target, mangled, pieces_of
from tests.fuzz.wire import Steps, Wire

__all__ = ["TARGET", "Case", "check"]

_ANNOUNCEMENT = re.compile(rb"HTTP/1\.1 1(?!01)[0-9]{2} .*?\r\n\r\n", re.DOTALL)
_MARK = b"kq7"  # in bodies and values; an error's words must not hold it


@dataclass(frozen=True)
class Case:
    """What a server answers, where its bytes are cut, and whether it closes the connection then."""

    data: bytes
    cuts: tuple[int, ...] = ()
    closes: bool = True


@dataclass
class _Read:
    status: int = 0
    reason: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    end: str = "open"
    """"complete", "open" while more is awaited, or an error's words."""
    usable: bool = False


def check(case: Case) -> None:
    """Read the same bytes whole, byte by byte and in the drawn pieces, and by two other readers."""
    whole = _ask(case, [case.data] if case.data else [], settle=True)
    for pieces, settle in (
        (pieces_of(case.data, case.cuts), True),
        (pieces_of(case.data, case.cuts), False),
        (pieces_of(case.data, tuple(range(len(case.data)))), True),
    ):
        cut = _ask(case, pieces, settle=settle)
        assert _apart_from_words(whole) == _apart_from_words(cut), (whole, cut)
    assert _MARK.decode() not in whole.end, "an error quotes what was sent"
    strict = _read_by_h11(case.data, closes=case.closes)
    common = _read_by_http_client(case.data) if case.closes else None
    ours = whole.status, whole.body
    if strict is not None and common is not None and strict[:2] == common:
        assert whole.end == "complete", (whole, strict)
        assert ours == common, (whole, common)
    if whole.usable:
        assert strict == (*ours, True), (whole, strict)


def _apart_from_words(read: _Read) -> _Read:
    """Return what must be the same however the bytes were cut: that it failed, but not what was found first."""
    if read.end in ("complete", "open"):
        return read
    return _Read(read.status, end="failed")


def _ask(case: Case, pieces: list[bytes], *, settle: bool) -> _Read:
    steps = Steps()
    connection = Connection(lambda _: None, ParsingTurns())
    wire = Wire(steps.loop, connection)
    read = _Read()
    asking = steps.loop.create_task(_read(connection, read))
    try:
        steps.settle()
        for piece in pieces:
            if not steps.feed(connection, wire, piece):
                break
            if settle:
                steps.settle()
        steps.settle()
        read.usable = connection.usable
        if case.closes:
            wire.lose()
        steps.settle()
        assert not steps.troubles, steps.troubles
        return read
    finally:
        asking.cancel()
        steps.settle()
        if asking.done() and not asking.cancelled() and (error := asking.exception()) is not None:
            raise error
        steps.close()


async def _read(connection: Connection, read: _Read) -> None:
    try:
        await connection.ask([b"GET / HTTP/1.1\r\n\r\n"], no_body=False)
        read.status, read.reason, read.headers = connection.status, connection.reason, tuple(connection.headers)
        while part := await connection.read():
            read.body += part
        read.end = "complete"
    except ExchangeFailed as exc:
        read.end = str(exc)
    except asyncio.CancelledError:
        read.end = "open"


def _without_empty_lines(data: bytes) -> bytes:
    """Return an answer without those before its heads, which common clients pass over and h11 does not."""
    data, at = data.lstrip(b"\r\n"), 0
    while announced := _ANNOUNCEMENT.match(data, at):
        at = announced.end()
        data = data[:at] + data[at:].lstrip(b"\r\n")
    return data


def _read_by_h11(data: bytes, *, closes: bool) -> tuple[int, bytes, bool] | None:
    """Return status, body and whether another request might follow; None where h11 does not read it to its end.

    Empty lines are passed over before a head, and so behind an answer.
    """
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    status, body, version = 0, b"", b""
    try:
        connection.receive_data(_without_empty_lines(data))
        if closes:
            connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status, version = event.status_code, bytes(event.http_version)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                again = connection.our_state is h11.DONE or version == b"1.0"  # it knows no keep-alive of those
                return status, body, again and not connection.trailing_data[0].strip(b"\r\n")
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.ProtocolError:
        return None


class _Socket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object, **__: object) -> io.BytesIO:
        return io.BytesIO(self._data)


def _read_by_http_client(data: bytes) -> tuple[int, bytes] | None:
    response = http.client.HTTPResponse(_Socket(data), method="GET")  # type: ignore[arg-type]
    try:
        response.begin()
        if response.status < 200:
            return None  # it takes any announcement but 100 for the answer
        return response.status, response.read()
    except (http.client.HTTPException, ValueError, OverflowError, OSError):
        return None
    finally:
        response.close()


_OK = b"HTTP/1.1 200 OK\r\n"
_TOKENS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b"\t", b":", b";", b",", b"\0", b"\x01", b"\xff", b"0", b"3",
    b"f" * 17, b"-1", b"+3",
    b"Content-Length: 3\r\n", b"Content-Length: 4\r\n", b"Content-Length: 3, 3\r\n", b"Content-Length:\r\n 3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding: chunked\t\r\n",
    b"Transfer-Encoding: identity\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"Trailer: X\r\n",
    b"3\r\nkq7\r\n", b"0\r\n\r\n", b"0\n\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\nX: \x01\n\n", _OK + b"\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.0", b"HTTP/2",
    b"ICY 200 OK\r\n",
]  # fmt: skip
_FIELDS = [
    b"Server: x", b"X: kq7", b"X-A:", b"X-A : a", b"Set-Cookie: a=\x01b", b"CSP: a;\r\n\tb", b"X\xe9: a", b": a",
    b"no colon", b"Connection: close",
    b"Connection: keep-alive", b"Keep-Alive: timeout=5", b"Upgrade: h2c", b"Connection: upgrade",
    b"Content-Encoding: gzip", b"Trailer: X",
]  # fmt: skip


@st.composite
def _answer(draw: st.DrawFn) -> bytes:
    announced = draw(
        st.sampled_from(
            [b""] * 6 + [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 E\r\nLink: </x>\r\n\r\n", b"\r\n"]
        )
    )
    fields = draw(st.lists(st.sampled_from(_FIELDS), max_size=3))
    body = draw(st.sampled_from([b"", _MARK, b'{"ok":1}', _MARK * 60]))
    framing = draw(st.sampled_from(["length", "length", "chunked", "chunked", "close", "both", "twice"]))
    if framing in ("length", "both", "twice"):
        fields.append(b"Content-Length: %d" % (len(body) + draw(st.sampled_from([0] * 8 + [1, -1, 1000]))))
    if framing == "twice":
        fields.append(b"Content-Length: %d" % len(body))
    if framing in ("chunked", "both"):
        fields.append(
            b"Transfer-Encoding: "
            + draw(st.sampled_from([b"chunked"] * 4 + [b"gzip, chunked", b"chunked, identity", b"CHUNKED"]))
        )
        size = draw(st.integers(1, 5))
        line = draw(
            st.sampled_from(
                [b"%x\r\n"] * 4 + [b"%x \r\n", b"%x;a=b\r\n", b"%x ; a\r\n", b"0%x\r\n", b"%x\n", b"%X\r\n"]
            )
        )
        behind = draw(st.sampled_from([b"\r\n"] * 5 + [b"\n"]))
        parts = [body[at : at + size] for at in range(0, min(len(body), 30), size)]
        body = b"".join(line % len(part) + part + behind for part in parts)
        body += draw(st.sampled_from([b"0\r\n"] * 3 + [b"0;x\r\n", b"000\r\n", b"0\n"]))
        body += draw(st.sampled_from([b""] * 4 + [b"X: a\r\n", b"X: a\r\n b\r\n", b"X: \x01\n"])) + b"\r\n"
    body += draw(st.sampled_from([b""] * 6 + [_OK + b"Content-Length: 0\r\n\r\n", b"\r\n", b"x"]))
    first = draw(st.sampled_from([_OK[:-2]] * 5 + [b"HTTP/1.1 503 kq7 busy", b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified",
                                                   b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1  200 OK",
                                                   b"http/1.1 200 OK", b"HTTP/1.1 600 kq7"]))  # fmt: skip
    end = draw(st.sampled_from([b"\r\n"] * 7 + [b"\n"]))
    return announced + end.join([first, *draw(st.permutations(fields)), b"", b""]) + body


TARGET = Target(
    "outbound",
    st.builds(
        Case,
        data=mangled(_answer(), _TOKENS),
        cuts=st.lists(st.integers(0, 500), max_size=5).map(tuple),
        closes=st.booleans(),
    ),
    check,
)
