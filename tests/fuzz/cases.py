"""Inputs that were misread once, or nearly; every ``make test`` looks at them.

A case that ``make fuzz`` prints is copied here once what it shows is mended.
"""

from typing import Any

from tests.fuzz import envelope, inbound, outbound, signing

__all__ = ["CASES"]

CASES: dict[str, list[Any]] = {
    "inbound": [
        # A trailer stood among the headers, whatever a proxy in front had made of those.
        inbound.Case(b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n\r\n"),
        inbound.Case(b"GET http://x/y HTTP/1.1\r\nAccept: */*\r\nHost: x\r\n\r\n"),
        inbound.Case(b"GET /#f HTTP/1.1\r\nHost: x\r\n\r\n", cuts=(5, 6)),
    ],
    "outbound": [
        outbound.Case(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\r\n", closes=False),
        outbound.Case(
            b"HTTP/1.1 103 E\r\nLink: </x>\r\n\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", closes=False
        ),
        outbound.Case(b"\r\n\rHTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n"),
        outbound.Case(b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", closes=False),
        outbound.Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", closes=False),
        # Not everybody reads an answer there.
        outbound.Case(b"HTTP/1.1 200 \x00OK\r\nContent-Length: 0\r\n\r\n", closes=False),
        # It ends a first line with two CR, too.
        outbound.Case(b"HTTP/1.1 200 OK\r\rServer: x\r\nContent-Length: 0\r\n\r\n", closes=False),
        outbound.Case(b"HTTP/1.1 200 OK\r\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", closes=False),
        outbound.Case(
            b"HTTP/1.1 100 C\r\r\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\r\r\r", cuts=(16,), closes=False
        ),
        # To the parser "close" with a tab behind it is another word.
        outbound.Case(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\t\r\n\r\n", closes=False),
        # What an announcement says of the connection, and of its length, says nothing of the answer.
        outbound.Case(
            b"HTTP/1.1 100 C\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        ),
        outbound.Case(
            b"HTTP/1.1 103 E\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", closes=False
        ),
        outbound.Case(b"HTTP/1.1 100 C\r\nContent-Length: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
    "envelope": [
        envelope.Case("aigptimage", b"-" + b"9" * 4300),
    ],
    "signature": [
        signing.Case(timestamp="0{}"),
        signing.Case(entries=("{}", "{}=")),
        signing.Case(entries=("x", "{}"), blank="\t"),
    ],
}
