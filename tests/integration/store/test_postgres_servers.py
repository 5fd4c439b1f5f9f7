"""Several servers, of which one can be written to; and TLS, as libpq names it."""

import asyncio
import contextlib
import datetime as dt
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from gateway.core.errors import StoreError, StoreUnusable
from gateway.store.engine import Run, Work
from gateway.store.postgres.database import PostgresDatabase
from gateway.store.postgres.url import Servers
from tests.life import until
from tests.postgres import Database, Server, from_wheel, running

PUT = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
REFUSES = "127.0.0.1:1"


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@contextlib.asynccontextmanager
async def serving(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    """Listen, and yield the port; all connections are closed in the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def put(value: bytes) -> Work[None]:
    yield Run(PUT, ("k", value))


@pytest.fixture
def standby(postgres_server: Server) -> Iterator[Server]:
    """A standby of ``postgres_server``."""
    with running(from_wheel(), create=False) as standby:
        standby.run(
            *("pg_basebackup", "-D", str(standby.data), "-R", "-X", "stream", "-c", "fast", "--no-sync"),
            *("-d", postgres_server.url("postgres", "postgres")),
        )
        standby.start()
        yield standby


def both(first: Server, second: Server, options: str = "") -> Servers:
    return Servers(f"postgresql://gateway@127.0.0.1:{first.port},127.0.0.1:{second.port}/gateway{options}")


@pytest.mark.parametrize("options", ["", "?target_session_attrs=primary"])
async def test_a_standby_is_promoted(postgres_server: Server, standby: Server, options: str) -> None:
    """The primary is found whichever is named first; when it dies and the standby takes over, that is found."""
    database = PostgresDatabase(both(standby, postgres_server, options), patience_s=0)
    await database.open()
    await database.transaction(lambda: put(b"1"))
    at = postgres_server.execute("SELECT pg_current_wal_flush_lsn()")
    await until(lambda: standby.execute(f"SELECT pg_last_wal_replay_lsn() >= '{at}'") == "t")
    postgres_server.kill()
    with pytest.raises(StoreError) as caught:
        await database.transaction(lambda: put(b"2"))
    assert caught.value.reason in ("promoted", "unreachable")
    with pytest.raises(StoreError) as caught:
        database.require()
    while database.lost != "the database's server is a standby, and no primary is found":
        with pytest.raises(StoreError):
            await database.transaction(lambda: put(b"2"))
        await asyncio.sleep(0.01)  # at most for the test's time limit
    database.met_another.clear()
    standby.run("pg_ctl", "promote", "-D", str(standby.data))
    with capture_logs() as log:
        while database.lost is not None:
            with contextlib.suppress(StoreError):
                await database.transaction(lambda: put(b"2"))
            await asyncio.sleep(0.01)
    assert database.met_another.is_set()
    (line,) = [line for line in log if line["event"] == "store.reconnected"]
    assert line["server"] == f"127.0.0.1:{standby.port}"
    assert await database.read("SELECT value FROM meta WHERE key = 'k'") == [(b"2",)]
    await database.close()


async def test_a_standby_alone(postgres_server: Server, standby: Server) -> None:
    """Its reads are answered; its writes say that it is a standby's, also where its database is there by itself."""
    database = PostgresDatabase(Servers(postgres_server.url()))
    await database.open()
    await database.close()
    at = postgres_server.execute("SELECT pg_current_wal_flush_lsn()")
    await until(lambda: standby.execute(f"SELECT pg_last_wal_replay_lsn() >= '{at}'") == "t")
    database = PostgresDatabase(Servers(standby.url()), patience_s=0)
    await database.open()
    assert await database.read("SELECT count(*) FROM tasks") == [(0,)]
    with pytest.raises(StoreError) as caught:
        await database.transaction(lambda: put(b"1"))
    assert caught.value.reason == "promoted"
    assert "Name all servers in GATEWAY_DATABASE_URL" in caught.value.message
    standby.run("pg_ctl", "promote", "-D", str(standby.data))
    await until(lambda: standby.execute("SELECT pg_is_in_recovery()") == "f")
    await database.transaction(lambda: put(b"1"))
    assert database.lost is None
    await database.close()


async def test_a_host_that_swallows_everything(
    postgres: Database, stack: contextlib.AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes connections and never answers does not keep the next one from being asked."""
    monkeypatch.setattr("gateway.store.postgres.session._CONNECT_LIMIT_S", 1.0)
    assert postgres.server is not None

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass

    port = await stack.enter_async_context(serving(swallow))
    urls = f"postgresql://gateway@{REFUSES},127.0.0.1:{port},127.0.0.1:{postgres.server.port}/gateway"
    database = PostgresDatabase(Servers(urls), patience_s=0)
    began = asyncio.get_running_loop().time()
    await database.open()
    assert asyncio.get_running_loop().time() - began < 10
    assert await database.read("SELECT 1") == [(1,)]
    began = asyncio.get_running_loop().time()
    await database.transaction(lambda: put(b"1"))
    assert asyncio.get_running_loop().time() - began < 2, "the one that answered is asked first from then on"
    await database.close()
    alone = PostgresDatabase(Servers(f"postgresql://gateway@{REFUSES},127.0.0.1:{port}/gateway"), patience_s=0)
    with pytest.raises(StoreError, match=rf"^{REFUSES}: .* 127\.0\.0\.1:{port}: .*no answer in time") as caught:
        await alone.open()
    assert caught.value.reason == "unreachable"


async def test_a_socket(postgres: Database) -> None:
    """A folder names the socket in it."""
    assert postgres.server is not None
    url = f"postgresql:///gateway?host={postgres.server.folder}&port={postgres.server.port}&user=gateway"
    database = PostgresDatabase(Servers(url), patience_s=0)
    await database.open()
    assert await database.read("SELECT inet_server_addr() IS NULL") == [(True,)]
    await database.close()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGQUIT])
async def test_a_start_waits_for_the_server(postgres_server: Server, end: signal.Signals) -> None:
    """A gateway that starts with its database, or before it, waits, and says so."""
    postgres_server.stop(end)
    database = PostgresDatabase(Servers(postgres_server.url()), patience_s=30)
    with capture_logs() as log:
        opening = asyncio.ensure_future(database.open())
        await until(lambda: "store.waiting" in [line["event"] for line in log])
        postgres_server.start()
        await opening
    await database.close()
    short = PostgresDatabase(Servers(f"postgresql://gateway@{REFUSES}/gateway"), patience_s=0.3)
    with pytest.raises(StoreError) as caught:
        await short.open()
    assert not isinstance(caught.value, StoreUnusable), "it may come: whoever runs the gateway starts it again"


# TLS: the wheel's server has none, so that something in front of it ends it.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost that signs itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=True, crl_sign=False, content_commitment=False,
                key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    path.with_suffix(".key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
async def tls_port(postgres: Database, certificate: Path, stack: contextlib.AsyncExitStack) -> int:
    """In front of the server: takes TLS, as PostgreSQL's protocol asks for it, and passes on what is in it."""
    assert postgres.server is not None
    server_port = postgres.server.port
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    context.set_alpn_protocols(["postgresql"])

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readexactly(8))[4:] == b"\x04\xd2\x16\x2f":
            writer.write(b"S")
            await writer.start_tls(context)
            inner, out = await asyncio.open_connection("127.0.0.1", server_port)
            await asyncio.gather(pass_on(reader, out), pass_on(inner, writer))

    return await stack.enter_async_context(serving(serve))


@pytest.mark.parametrize(
    ("host", "options"),
    [
        ("localhost", "sslmode=verify-full&sslrootcert={certificate}"),
        ("127.0.0.1", "sslmode=verify-ca&sslrootcert={certificate}"),
        ("127.0.0.1", "sslmode=require"),
        ("localhost", ""),
    ],
)
async def test_tls(tls_port: int, certificate: Path, host: str, options: str) -> None:
    """What is asked for is proven: who it is, who has signed that, or only that nobody else reads along."""
    url = f"postgresql://gateway@{host}:{tls_port}/gateway?{options.format(certificate=certificate)}"
    database = PostgresDatabase(Servers(url), patience_s=0)
    await database.open()
    assert await database.read("SELECT 1") == [(1,)]
    await database.close()


@pytest.mark.parametrize(
    ("host", "options", "words"),
    [
        (
            "127.0.0.1",
            "sslmode=verify-full&sslrootcert={certificate}",
            "its certificate does not prove that it is this",
        ),
        ("localhost", "sslmode=verify-full&sslrootcert=system", "its certificate does not prove that it is this host"),
        ("localhost", "sslmode=verify-full&sslrootcert={certificate}.none", "No such file or directory"),
    ],
)
async def test_tls_that_proves_nothing(tls_port: int, certificate: Path, host: str, options: str, words: str) -> None:
    """Another host's certificate, or one that nobody known has signed, ends the start."""
    url = f"postgresql://gateway@{host}:{tls_port}/gateway?{options.format(certificate=certificate)}"
    with pytest.raises(StoreUnusable, match=words):
        await PostgresDatabase(Servers(url), patience_s=0).open()


async def test_a_server_without_tls(postgres: Database) -> None:
    """Where TLS is asked for, nothing goes in the clear."""
    with pytest.raises(StoreError, match="rejected SSL upgrade"):
        await PostgresDatabase(Servers(f"{postgres.url}?sslmode=require"), patience_s=0).open()
