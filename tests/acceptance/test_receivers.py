"""What becomes of a webhook whose receiver is broken, hostile or badly set up: one table, one gateway process."""

import asyncio
import gzip
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.waiting import until

MB = 1_000_000
GROWTH_LIMIT = 20 * MB
RETRY_S, RETRY_AFTER_S = 600, 1200

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """A server on 127.0.0.1 whose every byte a handler decides; counts connections and what they carried off."""

    def __init__(self, handler: Handler) -> None:
        self.connections = 0
        self.port = 0
        self.sent = 0
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None) -> AsyncIterator["Receiver"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        written = writer.write

        def count(data: bytes) -> None:
            self.sent += len(data)
            written(data)

        writer.write = count  # type: ignore[method-assign]
        try:
            # A gateway that hangs up, and the end of the test, are how most of these connections are meant to end.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._handler(reader, writer)
        finally:
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)


async def read_request(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: (\d+)", head)
    assert found is not None
    await reader.readexactly(int(found[1]))


def answers(status: str, *headers: str, body: bytes = b"") -> Handler:
    """Answer every request in full."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    answer = "\r\n".join([*lines, "", ""]).encode() + body

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for start in range(0, len(answer), 100_000):  # in pieces: what is taken off is counted
                writer.write(answer[start : start + 100_000])
                await writer.drain()

    return handle


def sends(start: bytes, piece: bytes = b"", times: int = 0, every_s: float = 0.0) -> Handler:
    """Write the start, then a piece so many times, and wait for the gateway to go."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(start)
        for _ in range(times):
            await writer.drain()
            await asyncio.sleep(every_s)  # what a slow receiver is
            writer.write(piece)
        await writer.drain()
        await reader.read()

    return handle


def resets_after(start: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(start)
        await writer.drain()
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.transport.abort()

    return handle


async def closes_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def speaks_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    await reader.read()


@cache
def packed() -> bytes:
    """100 MB in 100 kB; it takes so long that it is not made where the tests are only collected."""
    return gzip.compress(bytes(100 * MB), 9)


def bomb(status: str) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answers(status, "content-encoding: gzip", body=packed())(reader, writer)

    return handle


class Case(NamedTuple):
    """A receiver, and what its one attempt comes to; ``word`` is part of the error (None: there is no error)."""

    name: str
    handler: Handler
    result: str
    status: int | None
    word: str | None
    scheme: str = "http"
    host: str = "127.0.0.1"
    certificate: str | None = None


def tls(name: str, certificate: str, word: str | None, host: str = "localhost") -> Case:
    result, status = ("delivered", 204) if word is None else ("retry", None)
    return Case(name, answers("204 No Content"), result, status, word, "https", host, certificate)


OK = b"HTTP/1.1 200 OK\r\n"
A_MB = b"x" * MB
METADATA = "location: http://169.254.169.254/latest/meta-data/"
LATE, CUT, ALIEN = "did not answer in full within 2 s", "closed the connection", "not valid HTTP/1.1"
MOVED = "redirects are never followed"

CASES = [
    Case("works", answers("204 No Content"), "delivered", 204, None),
    Case("never answers", sends(b""), "retry", None, LATE),
    Case("drips its head", sends(b"HTTP/1.1 2", b"0", 60, 1), "retry", None, LATE),
    Case("drips its body", sends(OK + b"content-length: 60\r\n\r\n", b"x", 60, 1), "retry", 200, LATE),
    Case("sends 100 MB", sends(OK + b"content-length: 100000000\r\n\r\n", A_MB, 100), "delivered", 200, None),
    Case("sends 100 MB without a length", sends(OK + b"\r\n", A_MB, 100), "delivered", 200, None),
    Case("refuses with 100 MB", sends(b"HTTP/1.1 500 No\r\n\r\n", A_MB, 100), "retry", 500, "answered 500"),
    Case("sends a gzip bomb", bomb("200 OK"), "delivered", 200, None),
    Case("refuses with a gzip bomb", bomb("500 No"), "retry", 500, "answered 500"),
    Case("resets after the status line", resets_after(OK), "retry", None, CUT),
    Case("resets within the body", resets_after(OK + b"content-length: 9\r\n\r\nx"), "retry", 200, CUT),
    Case("closes at once", closes_at_once, "retry", None, CUT),
    Case("redirects to the metadata address", answers("302 Found", METADATA), "retry", 302, MOVED),
    Case("redirects and keeps the method", answers("307 Go", METADATA), "retry", 307, MOVED),
    Case("speaks SSH", sends(b"SSH-2.0-OpenSSH_9.6\r\n"), "retry", None, ALIEN),
    Case("sends endless headers", sends(OK, b"x: y\r\n" * 10_000, 1000), "retry", None, ALIEN),
    Case("sends one endless header", sends(OK + b"x: ", A_MB, 100), "retry", None, ALIEN),
    Case("is gone", answers("410 Gone"), "dead", 410, "wants no more webhooks"),
    Case("is busy", answers("429 Slow", f"retry-after: {RETRY_AFTER_S}", body=b"busy"), "retry", 429, "for now"),
    tls("has a good certificate", "good", None),
    tls("has an expired certificate", "expired", "certificate has expired"),
    tls("has a self-signed certificate", "self-signed", "signed certificate"),
    tls("has another host's certificate", "wrong-host", "Hostname mismatch"),
    tls("has a name's certificate at an address", "good", "IP address mismatch", "127.0.0.1"),
    Case("speaks HTTP on its https port", speaks_at_once, "retry", None, "No secure connection", "https"),
]


class Authority:
    """Makes certificates, and is trusted by whoever reads ``bundle``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Authority")])
        self.bundle = folder / "authority.pem"
        own = self._certificate(self._name, self._key, self._name, self._key, None)
        self.bundle.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def server_tls(self, kind: str) -> ssl.SSLContext:
        """Return what serves with a certificate of this kind."""
        key = ec.generate_private_key(ec.SECP256R1())
        host = "other.example" if kind == "wrong-host" else "localhost"
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        issuer, signer = (name, key) if kind == "self-signed" else (self._name, self._key)
        made = self._certificate(name, key, issuer, signer, host, expired=kind == "expired")
        path = self._folder / f"{kind}.pem"
        path.write_bytes(
            made.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    @staticmethod
    def _certificate(
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Name,
        signer: ec.EllipticCurvePrivateKey,
        host: str | None,
        *,
        expired: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=-1 if expired else 1))
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if host is None:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            names: list[x509.GeneralName] = [x509.DNSName(host)]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(signer, hashes.SHA256())


def memory_bytes(pid: int, which: str) -> int:
    """Return VmRSS (resident now) or VmHWM (the most that ever was)."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("resident memory is read from /proc")
    found = re.search(rf"{which}:\s+(\d+) kB", status.read_text())
    assert found is not None
    return int(found[1]) * 1024


async def attempted(world: Any, client: httpx.AsyncClient, url: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Register a URL for a task that has ended; return the callback and its attempt once that is over."""
    callback = await world.register(client, "sim-success-0-done", callbackUrl=url)
    path = f"/v1/callbacks/{callback['id']}"

    async def told() -> Any:
        return (await client.get(f"{path}/attempts")).json()["data"]

    attempts = await until(told, 15)
    assert len(attempts) == 1
    return (await client.get(path)).json(), attempts[0]


async def test_what_broken_receivers_come_to(world: Any, tmp_path: Path) -> None:
    """Each gets its one bounded attempt with an error that says what is wrong; together they cost little memory."""
    packed()  # before anybody waits for it
    authority = Authority(tmp_path)
    environ = {
        "GATEWAY_ATTEMPT_TIMEOUT_S": "2",
        "GATEWAY_RETRY_SCHEDULE": f"0,{RETRY_S}",
        "GATEWAY_CALLBACK_ALLOW": "127.0.0.1,localhost",
        "SSL_CERT_FILE": str(authority.bundle),
    }
    async with AsyncExitStack() as stack:
        receivers = {
            case.name: await stack.enter_async_context(
                Receiver(case.handler).listening(case.certificate and authority.server_tls(case.certificate))
            )
            for case in CASES
        }
        urls = {case.name: f"{case.scheme}://{case.host}:{receivers[case.name].port}/hook" for case in CASES}
        gateway = await stack.enter_async_context(world.gateway(fresh=True, **environ))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=gateway.url, trust_env=False))
        # What the first use of everything costs stays: it is no receiver's doing.
        for name in ("works", "has a good certificate"):
            await attempted(world, client, f"{urls[name]}/first")
        before = memory_bytes(gateway.process.pid, "VmRSS")
        found = await asyncio.gather(*(attempted(world, client, urls[case.name]) for case in CASES))
        most = memory_bytes(gateway.process.pid, "VmHWM")
        assert await gateway.stop() == 0

    got = {
        case.name: (attempt["result"], attempt["statusCode"], _part(attempt["error"], case.word))
        for case, (_, attempt) in zip(CASES, found, strict=True)
    }
    assert got == {case.name: (case.result, case.status, case.word) for case in CASES}
    for case, (callback, attempt) in zip(CASES, found, strict=True):
        state = {"retry": "pending", "delivered": "delivered", "dead": "dead"}[case.result]
        assert (case.name, callback["state"]) == (case.name, state)
        assert attempt["durationMs"] < 4000, case.name
        assert len(attempt["excerpt"] or "") <= 1024, case.name
        # What the gateway's and this machine's buffers hold, and not the rest.
        assert receivers[case.name].sent < 10 * MB, case.name
        assert receivers[case.name].connections <= 3, case.name
    by_name = {case.name: item for case, item in zip(CASES, found, strict=True)}
    assert by_name["refuses with a gzip bomb"][1]["excerpt"].startswith("\x1f\ufffd\x08")
    callback, attempt = by_name["is busy"]
    assert attempt["excerpt"] == "busy"
    waits = datetime.fromisoformat(callback["nextAttemptAt"]) - datetime.fromisoformat(attempt["startedAt"])
    assert RETRY_AFTER_S <= waits.total_seconds() < RETRY_AFTER_S * 1.1
    assert most - before < GROWTH_LIMIT


async def test_no_redirect_is_followed(world: Any) -> None:
    """A redirect to a host that callbacks may reach is not followed either, whatever its status."""
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(Receiver(answers("204 No Content")).listening(None))
        to = f"location: http://127.0.0.1:{target.port}/"
        gateway = await stack.enter_async_context(world.gateway(GATEWAY_RETRY_SCHEDULE="0,600"))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=gateway.url, trust_env=False))
        for status in (301, 302, 303, 307, 308):
            receiver = await stack.enter_async_context(Receiver(answers(f"{status} Go", to)).listening(None))
            _, attempt = await attempted(world, client, f"http://127.0.0.1:{receiver.port}/")
            assert (attempt["result"], attempt["statusCode"]) == ("retry", status)
        assert target.connections == 0


def _part(text: str | None, word: str | None) -> str | None:
    """Return the word where the text has it, else the whole text, to be seen when a test fails."""
    return word if text is not None and word is not None and word in text else text
