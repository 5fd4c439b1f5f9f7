"""One POST over real sockets → SendResult: each way it can end, its reason, its words, its bounds."""

import asyncio
import gzip
import shutil
import socket
import ssl
import subprocess
from email.utils import formatdate
from typing import get_args

import httpx
import pytest

from gateway import __version__
from gateway.core.clock import SystemClock
from gateway.net import errors
from gateway.net.errors import ExchangeFailed
from gateway.net.guard import Netguard, parse_allow
from gateway.net.transport import PooledTransport
from gateway.webhook.sender import Sender
from tests.collector import nothing_left_to_the_collector

NOW = 1_800_000_000_000


class FixedClock:
    """A wall clock that stands still and a monotonic one that advances half a second per look."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def now(self) -> int:
        return NOW

    def monotonic(self) -> float:
        self._seconds += 0.5
        return self._seconds


async def unknown(host: str, port: int) -> list[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
async def make():
    """Make senders, by default free to reach 127.0.0.1, whose transports are closed at the test's end."""
    made: list[PooledTransport] = []

    def new(*, timeout_s: float = 5.0, allow: str = "127.0.0.0/8", clock=None, **options) -> Sender:
        transport = PooledTransport(guard=Netguard(parse_allow(allow)), **{"resolve": unknown, "limit": 10, **options})
        made.append(transport)
        return Sender(transport, clock or SystemClock(), timeout_s=timeout_s)

    yield new
    for transport in made:
        await transport.aclose()


def over(transport: httpx.AsyncBaseTransport) -> Sender:
    return Sender(transport, FixedClock(), timeout_s=5)


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_2xx_is_delivered(make, raw_server, answering, status: int) -> None:
    """Any 2xx that is read in time is delivered: no reason, no error."""
    server = await raw_server(answering(answer(f"{status} Fine", b"" if status == 204 else b"thanks")))
    result = await make(clock=FixedClock()).send(server.url("/hook?token=canary"), {"webhook-id": "cb_1"}, b"{}")
    assert (result.status_code, result.reason, result.error, result.retry_after_s) == (status, None, None, None)
    assert result.excerpt == (b"" if status == 204 else b"thanks")
    assert (result.started_at, result.duration_ms) == (NOW, 500)


async def test_what_the_receiver_sees(make, raw_server, read_request) -> None:
    """The caller's headers and body arrive, with identity encoding, our name and the URL's host."""
    seen = []

    async def handle(reader, writer) -> None:
        seen.append(await read_request(reader))
        writer.write(answer("200 OK"))

    server = await raw_server(handle)
    await make().send(server.url("/a?b=c"), {"content-type": "application/json", "webhook-id": "cb_1"}, b'{"a":1}')
    first, headers, body = seen[0]
    assert first == "POST /a?b=c HTTP/1.1"
    assert headers == {
        "host": server.netloc,
        "content-type": "application/json",
        "webhook-id": "cb_1",
        "user-agent": f"webhook-bridging-gateway/{__version__}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-length": "7",
    }
    assert body == b'{"a":1}'


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (301, "redirects are never followed"),
        (302, "redirects are never followed"),
        (307, "redirects are never followed"),
        (304, "redirects are never followed"),
        (400, "only 2xx counts"),
        (401, "the signature, or"),
        (403, "the signature, or"),
        (407, "the proxy before the receiver"),
        (404, "path"),
        (410, "no more webhooks"),
        (429, "for now"),
        (500, "log"),
        (503, "log"),
    ],
)
async def test_other_statuses_fail(make, raw_server, answering, status: int, hint: str) -> None:
    """Every other status is a failed attempt whose error says what it means; no redirect is followed."""
    elsewhere = await raw_server(answering(answer("200 OK")))
    body = b"" if status == 304 else b"why"
    server = await raw_server(answering(answer(f"{status} X", body, f"Location: {elsewhere.url()}")))
    result = await make().send(server.url("/hook?token=canary"), {}, b"{}")
    assert (result.status_code, result.reason, result.excerpt) == (status, "status", body)
    assert result.error is not None
    assert str(status) in result.error
    assert hint in result.error
    assert "canary" not in result.error
    assert elsewhere.connections == 0


async def test_connection_is_reused(make, raw_server, answering) -> None:
    """Successes and failures whose answers were read leave the connection for the next attempt."""
    server = await raw_server(answering(answer("500 Broken", b"x" * 5000)))
    sender = make()
    for _ in range(5):
        assert (await sender.send(server.url(), {}, b"{}")).status_code == 500
    assert server.connections == 1


async def test_a_kept_connection_that_ends_as_it_is_used(make, raw_server, read_request) -> None:
    """The webhook is sent once more, on a new one: its receiver knows it by its id."""

    async def handle(reader, writer) -> None:
        await read_request(reader)
        writer.write(answer("200 OK"))
        if server.connections == 1:
            await read_request(reader)
            writer.transport.abort()
            return
        await reader.read()

    server = await raw_server(handle)
    sender = make()
    for _ in range(2):
        assert (await sender.send(server.url(), {}, b"{}")).status_code == 200
    assert server.connections == 2


async def test_big_body_is_capped(make, raw_server, read_request) -> None:
    """Of an endless answer 64 KiB are read, 1 KiB is kept, and the connection is closed; the 2xx counts."""
    written = 0
    hung_up = asyncio.Event()

    async def handle(reader, writer) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                written += 65536
                await writer.drain()
        finally:
            hung_up.set()

    server = await raw_server(handle)
    result = await make().send(server.url(), {}, b"{}")
    assert (result.reason, result.excerpt) == (None, b"x" * 1024)
    async with asyncio.timeout(5):
        await hung_up.wait()
    assert written < 50_000_000


async def test_gzip_is_not_unpacked(make, raw_server, answering) -> None:
    """A compressed answer stays as it is: a small bomb cannot become a large one."""
    bomb = gzip.compress(b"\0" * 10_000_000)
    server = await raw_server(answering(answer("200 OK", bomb, "Content-Encoding: gzip")))
    result = await make().send(server.url(), {}, b"{}")
    assert result.excerpt == bomb[:1024]


@pytest.mark.parametrize(
    ("sent", "status_code", "reason"),
    [
        (b"", None, "timeout"),
        (b"HTTP/1.1 200 OK\r\nX-", None, "timeout"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", 200, "timeout"),
        (b"HTTP/1.1 200 OK\r\n\r\n", 200, "timeout"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", None, "timeout"),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 100\r\n\r\n", 410, "status"),
    ],
    ids=["silent", "head", "body", "until close", "interim", "410"],
)
async def test_dripping_server_hits_the_overall_limit(
    make, raw_server, read_request, sent: bytes, status_code: int | None, reason: str
) -> None:
    """A byte now and then does not extend the limit, wherever it comes; a status other than 2xx stands anyway."""

    async def handle(reader, writer) -> None:
        await read_request(reader)
        writer.write(sent)
        while True:
            writer.write(sent if sent.startswith(b"HTTP/1.1 1") else b"y" if sent else b"")
            await writer.drain()
            await asyncio.sleep(0.02)  # the drip itself: well below the limit

    server = await raw_server(handle)
    async with asyncio.timeout(5):
        result = await make(timeout_s=0.2).send(server.url("/?canary"), {}, b"{}")
    assert (result.status_code, result.reason) == (status_code, reason)
    assert 150 <= result.duration_ms < 2000
    assert result.error is not None
    assert "canary" not in result.error
    if reason == "timeout":
        assert "0.2 s" in result.error


async def test_slow_resolver_hits_the_overall_limit(make) -> None:
    """Looking the name up is part of the attempt's time."""

    async def resolve(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    result = await make(timeout_s=0.05, resolve=resolve).send("https://slow.example.test/", {}, b"{}")
    assert (result.status_code, result.reason) == (None, "timeout")


async def test_server_that_never_accepts_tls(make, raw_server) -> None:
    """A TLS handshake that hangs is part of the attempt's time."""

    async def handle(reader, writer) -> None:
        await asyncio.Event().wait()

    server = await raw_server(handle)
    result = await make(timeout_s=0.1).send(server.url(scheme="https"), {}, b"{}")
    assert result.reason == "timeout"


async def test_refused_port(make) -> None:
    """A closed port: refused."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    result = await make().send(f"http://127.0.0.1:{port}/?canary", {}, b"{}")
    assert (result.status_code, result.reason, result.excerpt) == (None, "refused", b"")
    assert result.error is not None
    assert f"127.0.0.1:{port} could not be reached (" in result.error
    assert "canary" not in result.error


async def test_unknown_name(make) -> None:
    """A name without an address: dns."""

    async def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    result = await make(resolve=resolve).send("https://gone.example.test/?canary", {}, b"{}")
    assert result.reason == "dns"
    assert result.error is not None
    assert "gone.example.test could not be resolved (Name or service not known)" in result.error
    assert "canary" not in result.error


async def test_blocked_address(make, raw_server, answering) -> None:
    """An address that the policy refuses: blocked, with its rule's words, and nothing connects."""
    server = await raw_server(answering(answer("200 OK")))
    for url in (server.url("/?canary"), "https://169.254.169.254/?canary", "not a url", "http://[::bad/"):
        result = await make(allow="").send(url, {}, b"{}")
        assert (result.status_code, result.reason) == (None, "blocked")
        assert result.error
        assert "canary" not in result.error
    assert server.connections == 0


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"], ids=["head", "body"])
@pytest.mark.parametrize("hard", [True, False], ids=["reset", "close"])
async def test_connection_lost(make, raw_server, read_request, sent: bytes, hard: bool) -> None:
    """A connection that ends before the answer does: reset, also after a 2xx status."""

    async def handle(reader, writer) -> None:
        await read_request(reader)
        writer.write(sent)
        await writer.drain()
        if hard:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            writer.transport.abort()

    server = await raw_server(handle)
    result = await make().send(server.url(), {}, b"{}")
    assert result.reason == "reset"
    assert result.status_code in ((200, None) if hard else (200 if sent else None,))


async def test_garbage_answer(make, raw_server, answering) -> None:
    """Something that does not speak HTTP: protocol."""
    server = await raw_server(answering(b"220 mail.example.com ESMTP\r\n"))
    result = await make().send(server.url(), {}, b"{}")
    assert (result.status_code, result.reason) == (None, "protocol")


async def test_tls_to_a_plain_port(make, raw_server) -> None:
    """https to a port that speaks plain HTTP: tls."""

    async def handle(reader, writer) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()

    server = await raw_server(handle)
    result = await make().send(server.url(scheme="https"), {}, b"{}")
    assert result.reason == "tls"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory):
    """Make a self-signed certificate for a name and a number of days; returns its path, key included."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")

    def make(name: str, days: int = 2):
        path = folder / f"{name}{days}.pem"
        if not path.exists():
            key, cert = folder / "key.pem", folder / "cert.pem"
            command = f"{openssl} req -x509 -newkey rsa:2048 -nodes -subj /CN={name} -addext subjectAltName=DNS:{name}"
            subprocess.run(
                [*command.split(), "-days", str(days), "-keyout", key, "-out", cert], check=True, capture_output=True
            )
            path.write_bytes(cert.read_bytes() + key.read_bytes())
        return path

    return make


def server_tls(path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def local(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_self_signed_certificate(make, raw_server, answering, certificate) -> None:
    """A certificate that no authority vouches for: tls, and the request is never sent."""
    server = await raw_server(answering(answer("200 OK")), tls=server_tls(certificate("hooks.test")))
    result = await make(resolve=local).send(server.url("/?canary", scheme="https", host="hooks.test"), {}, b"{}")
    assert (result.status_code, result.reason) == (None, "tls")
    assert result.error is not None
    assert "self-signed" in result.error or "self signed" in result.error
    assert "canary" not in result.error


async def test_trusted_certificate_with_its_name_in_sni(make, raw_server, answering, certificate) -> None:
    """Over TLS the URL's name is sent as SNI and checked, while the checked address is dialled."""
    names: list[str | None] = []
    path = certificate("hooks.test")
    tls = server_tls(path)
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    server = await raw_server(answering(answer("200 OK", b"secure")), tls=tls)
    trusting = ssl.create_default_context(cafile=path)
    result = await make(resolve=local, verify=trusting).send(server.url(scheme="https", host="hooks.test"), {}, b"{}")
    assert (result.reason, result.excerpt) == (None, b"secure")
    assert names == ["hooks.test"]


async def test_certificate_for_another_name(make, raw_server, answering, certificate) -> None:
    """A trusted certificate for another host: tls, and the error says what does not match."""
    path = certificate("other.test")
    server = await raw_server(answering(answer("200 OK")), tls=server_tls(path))
    trusting = ssl.create_default_context(cafile=path)
    result = await make(resolve=local, verify=trusting).send(server.url(scheme="https", host="hooks.test"), {}, b"{}")
    assert result.reason == "tls"
    assert "ostname mismatch" in (result.error or "")


async def test_cancellation_is_raised(make, raw_server, read_request) -> None:
    """A cancelled attempt raises CancelledError, before and within the answer, and the sender works on."""
    arrived = asyncio.Event()
    answers = [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 500 X\r\nContent-Length: 9\r\n\r\nx",
        answer("200 OK"),
    ]

    async def handle(reader, writer) -> None:
        await read_request(reader)
        writer.write(answers[server.connections - 1])
        await writer.drain()
        arrived.set()
        await reader.read()

    server = await raw_server(handle)
    sender = make(limit=1)
    for _ in answers[:-1]:
        arrived.clear()
        task = asyncio.create_task(sender.send(server.url(), {}, b"{}"))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await sender.send(server.url(), {}, b"{}")).reason is None


# --- over a transport of the test's own ----------------------------------------------------------------------------


class Raising(httpx.AsyncBaseTransport):
    def __init__(self, failure: BaseException) -> None:
        self.failure = failure

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        *(
            (ExchangeFailed("x?canary", reason, sent=sent, why="brief"), reason)
            for reason in get_args(errors.Reason)
            for sent in (False, True)
            if reason != "resources"
        ),
        (TimeoutError(), "timeout"),
        (httpx.InvalidURL("x?canary"), "blocked"),
    ],
)
async def test_every_transport_failure_has_a_reason(failure: BaseException, reason: str) -> None:
    """None leaves the sender: each keeps its reason, and gets a sentence with what is known and what to do."""
    result = await over(Raising(failure)).send("https://hooks.example.test/?canary", {}, b"{}")
    assert (result.status_code, result.reason) == (None, reason)
    assert result.error is not None
    assert result.error.endswith(".")
    told = reason in ("dns", "refused", "tls", "protocol") or reason.startswith("proxy_")
    assert ("brief" in result.error) == told
    assert "canary" not in result.error


async def test_bug_is_not_a_result() -> None:
    """An exception that no network can cause is not passed off as the receiver's failure."""
    with pytest.raises(ZeroDivisionError):
        await over(Raising(ZeroDivisionError())).send("https://hooks.example.test/", {}, b"{}")


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [
        (429, "120", 120.0),
        (503, "0", 0.0),
        (503, " 7 ", 7.0),
        (429, "9999999999", 9_999_999_999.0),
        (429, formatdate(NOW / 1000 + 90, usegmt=True), 90.0),
        (429, formatdate(NOW / 1000, usegmt=True), 0.0),
        (503, "Friday, 15-Jan-27 08:01:30 GMT", 90.0),
        (503, "Fri Jan 15 08:01:30 2027", 90.0),
        (429, formatdate(NOW / 1000 - 1, usegmt=True), None),
        (429, "-5", None),
        (429, "99999999999", 99_999_999_999.0),
        (429, "1.5", 1.5),
        (429, "120, 60", 120.0),
        (429, "soon", None),
        (429, "", None),
        (429, "٣", None),
        (429, "Fri, 99 Jan 2027 08:00:00 GMT", None),
        (429, "Fri, 15 Jan 99999 08:00:00 GMT", None),
        (500, "120", None),
        (200, "120", None),
        (301, "120", None),
    ],
)
async def test_retry_after(status: int, value: str, seconds: float | None) -> None:
    """Retry-After counts with 429 and 503 only, as seconds or any HTTP date; garbage and the past are nothing."""
    response = httpx.Response(status, headers=[(b"retry-after", value.encode())], content=b"")
    result = await over(httpx.MockTransport(lambda _: response)).send("https://hooks.example.test/", {}, b"{}")
    assert result.retry_after_s == seconds


async def test_retry_after_given_twice() -> None:
    """Of a repeated Retry-After the longest wait counts, as a date or a number; what cannot be read is passed over."""
    soon, later = formatdate(NOW / 1000 + 30, usegmt=True), formatdate(NOW / 1000 + 90, usegmt=True)
    for values, seconds in (
        (["60", "120"], 120.0),
        (["120", "soon"], 120.0),
        ([later, "60"], 90.0),
        ([soon, later], 90.0),
        (["soon", "-1"], None),
    ):
        headers = [(b"Retry-After", value.encode()) for value in values]
        transport = httpx.MockTransport(lambda _, headers=headers: httpx.Response(503, headers=headers))
        assert (await over(transport).send("https://hooks.example.test/", {}, b"{}")).retry_after_s == seconds


@pytest.mark.parametrize(
    "failing", ["refused", "cut before", "cut within", "garbage", "blocked", "too slow", "no name"]
)
async def test_failed_attempts_leave_nothing_to_the_collector(make, raw_server, read_request, failing: str) -> None:
    """What an error went through is freed with it: frames that held one another kept requests and their bodies."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write({"cut within": answer("200 OK", b"thanks")[:-1], "garbage": b"What?\r\n\r\n"}.get(failing, b""))
        await writer.drain()
        if failing == "too slow":
            await reader.read()

    server = await raw_server(handle)
    url = server.url(host="a.test") if failing == "no name" else server.url()
    sender = make(timeout_s=0.2 if failing == "too slow" else 5, allow="" if failing == "blocked" else "127.0.0.1")
    if failing == "no name":
        sender = Sender(sender._transport, SystemClock(), timeout_s=5, names=sender._transport)
    if failing == "refused":
        await server.stop()
    with nothing_left_to_the_collector():
        for _ in range(3):
            found = await sender.find(url) if failing == "no name" else None
            assert (await sender.send(url, {}, b"{}", found)).reason is not None
            del found
