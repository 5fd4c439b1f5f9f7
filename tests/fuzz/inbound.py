"""Requests as hostile clients write them, for ``gateway.serve.inbound`` with ``serverprotocol``, httptools and uvicorn.

What must hold: however its bytes are cut, a connection serves the same requests and gives the same answers; what h11
reads as a request is the same request here, so that nothing in front of the gateway sees another one; every answer is
whole and one that the manual names; nothing is raised, left running or answered after the end.
"""

import re
from dataclasses import dataclass
from typing import Any

import h11
import uvicorn
from hypothesis import strategies as st
from uvicorn.server import ServerState

from gateway.serve.inbound import InboundProtocol
from tests.fuzz.target import Target, mangled, pieces_of
from tests.fuzz.wire import Steps, Wire

__all__ = ["TARGET", "Case", "check"]

_ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")
_LENGTH = re.compile(rb"content-length: (\d+)\r\n")
_STATUSES = {204, 400, 431, 503}  # time stands still: no 408

Request = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]


@dataclass(frozen=True)
class Case:
    """What a client sends, and where its bytes are cut."""

    data: bytes
    cuts: tuple[int, ...] = ()
    early: bool = False
    """Whether the application answers before it has read the body."""


@dataclass
class _Seen:
    requests: list[Request]
    statuses: list[int]
    gone: bool


class _Application:
    def __init__(self, *, early: bool) -> None:
        self.early = early
        self.requests: list[Request] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while not self.early:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        headers = tuple((name, value) for name, value in scope["headers"])
        self.requests.append((scope["method"].encode(), scope["raw_path"] + query, headers, body))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class _Resting(InboundProtocol):
    """Parses a few bytes in each turn of the loop, as if they were many parts."""

    step = 17

    def take(self, data: bytes) -> None:
        super().take(data)
        self.parts += 1000


def check(case: Case) -> None:
    """Read the same bytes whole, byte by byte and in the drawn pieces, in several turns of the loop, and by h11."""
    everything = [case.data] if case.data else []
    whole = _serve(case, everything, settle=True)
    for pieces, settle, protocol in (
        (pieces_of(case.data, case.cuts), True, InboundProtocol),
        (pieces_of(case.data, case.cuts), False, InboundProtocol),
        (pieces_of(case.data, tuple(range(len(case.data)))), False, InboundProtocol),
        (everything, False, _Resting),
    ):
        cut = _serve(case, pieces, protocol, settle=settle)
        if case.early:
            # What had been answered before the rest of its body was found to be broken differs with the cuts.
            both = min(len(whole.requests), len(cut.requests))
            assert whole.requests[:both] == cut.requests[:both], (whole, cut)
        else:
            assert whole == cut, (whole, cut)
    if not case.early:
        for ours, theirs in zip(whole.requests, _read_by_h11(case.data), strict=False):
            if theirs[1][:1] != b"/" or b"#" in theirs[1]:
                ours = ours[0], theirs[1], *ours[2:]  # of a whole URL its path is handed on, and its host in the header
            assert _comparable(ours) == _comparable(theirs), (ours, theirs)


def _serve(
    case: Case, pieces: list[bytes], protocol_class: type[InboundProtocol] = InboundProtocol, *, settle: bool
) -> _Seen:
    steps = Steps()
    application = _Application(early=case.early)
    config = uvicorn.Config(application, interface="asgi3", lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    protocol = protocol_class(config, state, app_state={}, _loop=steps.loop)
    wire = Wire(steps.loop, protocol)
    try:
        for piece in pieces:
            if not steps.feed(protocol, wire, piece):
                break
            if settle:
                steps.settle()
        steps.settle()
        gone = wire.gone or wire.half
        if not wire.gone and not protocol.eof_received():
            wire.close()
        steps.settle()
        wire.lose()
        steps.settle()
        assert not steps.troubles, steps.troubles
        assert not state.tasks, "a request still runs after its connection"
        assert not state.connections, "a connection is still counted after its end"
        return _Seen(application.requests, _answers(bytes(wire.written)), gone)
    finally:
        steps.close()


def _answers(written: bytes) -> list[int]:
    """Return the statuses of what was written, which must be whole answers one after the other."""
    statuses, at = [], 0
    while at < len(written):
        found = _ANSWER.match(written, at)
        assert found is not None, written[at:]
        at = found.end()
        if (length := _LENGTH.search(found[2])) is not None:
            at += int(length[1])
            assert at <= len(written), "an answer was cut short"
        status = int(found[1])
        if status != 100:
            assert status in _STATUSES, status
            statuses.append(status)
    assert all(status == 204 for status in statuses[:-1]), "answered on after a refusal"
    return statuses


def _read_by_h11(data: bytes) -> list[Request]:
    """Return the requests that h11 completes before it refuses to read on."""
    connection = h11.Connection(h11.SERVER)
    requests: list[Request] = []
    request, body = None, b""
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                headers = tuple((bytes(name), bytes(value)) for name, value in request.headers)
                requests.append((bytes(request.method), bytes(request.target), headers, body))
                connection.send(h11.Response(status_code=204, headers=[]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE:
                    return requests
                connection.start_next_cycle()
            else:
                return requests
    except h11.ProtocolError:
        return requests


def _comparable(request: Request) -> Request:
    """Return what both must agree on.

    Not on the headers that frame, which h11 changes, on an empty query, nor on the host where the target names one.
    """
    method, target, headers, body = request
    apart = {b"content-length", b"transfer-encoding"} | (set() if target[:1] == b"/" else {b"host"})
    kept = tuple(field for field in headers if field[0] not in apart)
    return method, target.removesuffix(b"?"), kept, body


_TOKENS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b";", b",", b"\0", b"\x0b", b"\x85", b"\xff", b"0", b"1",
    b"a", b"-1",
    b"+5", b"0x5", b"00005", b"99999999999999999999", b"Content-Length: 5\r\n", b"Content-Length: 6\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding : chunked\r\n", b"Transfer-Encoding:\r\n chunked\r\n", b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n",
    b"5;a=b\r\nhello\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.0", b"HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"%", b"%00",
    b"?", b"#", b"..",
]  # fmt: skip
_METHODS = [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"get", b"M-SEARCH", b"PRI", b"SOURCE"]
_TARGETS = [
    b"/",
    b"/v1/callbacks",
    b"/v1/tasks/t?wait=5",
    b"/a%2Fb?c=%zz",
    b"//x/y",
    b"*",
    b"http://x/y",
    b"x:443",
    b"/#f",
    b"/\xc3\xa9",
]
_FIELDS = [
    b"Host: x", b"host: y", b"Accept: */*", b"X: " + b"a" * 300, b"Expect: 100-continue", b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"Upgrade: websocket", b"X-A:", b"X-A:  a\tb  ", b": a",
    b"X A: a",
    b"X\xe9: a", b"X-B: \xff\xfe", b"Trailer: X", b"Keep-Alive: x", b"Proxy-Connection: close", b"TE: trailers",
]  # fmt: skip


@st.composite
def _request(draw: st.DrawFn) -> bytes:
    fields = draw(st.lists(st.sampled_from(_FIELDS), max_size=3))
    body = draw(st.sampled_from([b"", b"hello", b"GET /in HTTP/1.1\r\n\r\n", b"0\r\n\r\n", b"x" * 200]))
    framing = draw(st.sampled_from(["none", "none", "length", "chunked", "chunks", "both", "twice"]))
    if framing in ("length", "both", "twice"):
        fields.append(b"Content-Length: %d" % len(body))
    if framing == "twice":
        fields.append(b"Content-Length: %d" % draw(st.sampled_from([len(body), 0, 3])))
    if framing in ("chunked", "chunks", "both"):
        coding = draw(
            st.sampled_from(
                [b"chunked", b"chunked", b"Chunked", b"gzip, chunked", b"chunked, gzip", b"identity", b"chunked,"]
            )
        )
        fields.append(b"Transfer-Encoding: " + coding)
        parts = [body] if framing == "chunked" else [body[at : at + 2] for at in range(0, len(body[:9]), 2)]
        extension = draw(st.sampled_from([b"", b"", b";a", b' ; a="\r"', b" "]))
        trailer = draw(st.sampled_from([b"", b"", b"X: a\r\n", b"Content-Length: 3\r\n"]))
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts if part)
        body += b"0\r\n" + trailer + b"\r\n"
    elif framing == "none" and draw(st.booleans()):
        body = b""
    end = draw(st.sampled_from([b"\r\n"] * 6 + [b"\n"]))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/0.9", b""]))
    first = b" ".join([draw(st.sampled_from(_METHODS[:2] * 3 + _METHODS)), draw(st.sampled_from(_TARGETS)), version])
    return end.join([first, *draw(st.permutations(fields)), b"", b""]) + body


_wholes = st.lists(_request(), min_size=1, max_size=3).map(b"".join)
TARGET = Target(
    "inbound",
    st.builds(
        Case,
        data=mangled(_wholes, _TOKENS),
        cuts=st.lists(st.integers(0, 500), max_size=5).map(tuple),
        early=st.sampled_from([False, False, False, True]),
    ),
    check,
)
