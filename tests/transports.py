"""Transports of the gateway's, as the tests make and ask them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from gateway.net.errors import ExchangeFailed
from gateway.net.transport import PooledTransport

__all__ = ["OK", "failing", "make", "post", "resolving"]


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def resolving(**names: list[str]):
    """A resolver that knows these names, with underscores for dots, and counts."""

    async def resolve(host: str, port: int) -> list[str]:
        resolve.asked += 1  # type: ignore[attr-defined]
        answer = names.get(host.replace(".", "_"))
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answer

    resolve.asked = 0  # type: ignore[attr-defined]
    return resolve


@pytest.fixture
async def make():
    """Make transports that are closed at the test's end."""
    made: list[PooledTransport] = []

    def new(**options) -> PooledTransport:
        options = {"guard": None, "resolve": resolving(), "limit": 10, **options}
        made.append(PooledTransport(**options))
        return made[-1]

    yield new
    for one in made:
        await one.aclose()


async def post(transport: httpx.AsyncBaseTransport, url: str, body: bytes = b"{}", **headers: str) -> httpx.Response:
    response = await transport.handle_async_request(httpx.Request("POST", url, content=body, headers=headers))
    try:
        await response.aread()
    finally:
        await response.aclose()
    return response


@contextmanager
def failing(reason: str, *, sent: bool = True) -> Iterator[pytest.ExceptionInfo[ExchangeFailed]]:
    """Expect a failure, its reason, and whether the server may have had the request."""
    with pytest.raises(ExchangeFailed) as caught:
        yield caught
    assert (caught.value.reason, caught.value.sent) == (reason, sent)
