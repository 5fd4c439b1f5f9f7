"""The tables [[receivers]] at work, each key against a real peer: TLS by a private authority, mTLS, a real proxy."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import trustme

from gateway.config.load import load
from gateway.core.claims import DueCallback
from gateway.core.clock import SystemClock
from gateway.core.errors import AddressNotAllowed
from gateway.core.model import Format
from gateway.net.guard import Netguard, parse_allow
from gateway.net.transport import PooledTransport
from gateway.signature import Signer, make_secret, parse_secrets
from gateway.webhook.headers import ClientHeaders, ClientWebhooks
from gateway.webhook.receivers import Receivers
from gateway.webhook.sender import Sender, SendResult
from tests.egressproxy import RunningProxy, egress_proxy
from tests.nouns import due_webhook
from tests.waiting import until

OK = b"HTTP/1.1 204 No Content\r\n\r\n"
USER = "gateway:p%40ss"
CA, OTHER_CA = trustme.CA(), trustme.CA()
SERVER, CLIENT = CA.issue_cert("127.0.0.1"), CA.issue_cert("gateway.example.com")
SECRET, CLIENTS_SECRET, RECEIVERS_SECRET = make_secret(), make_secret(), make_secret()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pem")
    CA.cert_pem.write_to_path(folder / "ca.pem")
    OTHER_CA.cert_pem.write_to_path(folder / "other-ca.pem")
    CLIENT.cert_chain_pems[0].write_to_path(folder / "client.pem")
    CLIENT.private_key_pem.write_to_path(folder / "client.key")
    (folder / "secret").write_text(RECEIVERS_SECRET)
    return folder


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A real proxy that wants a user and a password."""
    with egress_proxy(tmp_path_factory.mktemp("proxy"), "--basic-auth", "gateway:p@ss") as running:
        yield running


def tls_server(*, asks: bool = False) -> ssl.SSLContext:
    """Return the context of a server by the private authority; ``asks``: it wants a certificate of the client's."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    SERVER.configure_cert(context)
    if asks:
        CA.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Sending:
    """The common transport, the tables beside it, and a sender over both."""

    def __init__(self, folder: Path, pem: Path, allow: str) -> None:
        self.resolved: list[str] = []
        self._folder = folder
        self._pem = pem
        guard = Netguard(parse_allow(allow))
        self.receivers = Receivers(guard, self.resolve, 8, SystemClock().monotonic)
        self.transport = PooledTransport(guard=guard, resolve=self.resolve, limit=8)
        self.sender = Sender(
            self.transport,
            SystemClock(),
            timeout_s=10,
            names=self.transport,
            receivers=self.receivers,
        )
        self.headers = ClientHeaders(self.receivers)

    def use(self, tables: str) -> None:
        """Read the tables from a file, PEM in it being the folder of certificates, and go by them."""
        path = self._folder / "gateway.toml"
        path.write_text(tables.replace("PEM", str(self._pem)))
        self.receivers.use(load({}, path).receivers)

    async def resolve(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "there is no such name")
        if host == "silent.example":
            await asyncio.Event().wait()
        return ["127.0.0.1"]

    async def post(self, url: str) -> SendResult:
        found = await self.sender.find(url) if self.sender.must_look_up(url) else None
        return await self.sender.send(url, {"webhook-id": "cb_1"}, b"{}", found)


@pytest.fixture
async def sending(tmp_path: Path, pem: Path) -> AsyncIterator[Callable[[str], Sending]]:
    made: list[Sending] = []

    def make(tables: str, allow: str = "127.0.0.1, localhost") -> Sending:
        made.append(Sending(tmp_path, pem, allow))
        made[-1].use(tables)
        return made[-1]

    yield make
    for one in made:
        await one.receivers.aclose()
        await one.transport.aclose()


async def test_a_private_authority(sending: Any, raw_server: Any, answering: Any) -> None:
    """ca_file: a certificate by that authority is trusted there, and by the system's authorities nowhere else."""
    server = await raw_server(answering(OK), tls=tls_server())
    url = server.url("/hooks", scheme="https")
    tables = f'[[receivers]]\nmatch = "{url}"\nca_file = "PEM/ca.pem"'
    to = sending(tables)
    assert (await to.post(url)).status_code == 204
    elsewhere = await to.post(server.url("/else", scheme="https"))
    assert (elsewhere.reason, elsewhere.status_code) == ("tls", None), "it is trusted below the table's URL only"
    other = await sending(tables.replace("ca.pem", "other-ca.pem")).post(url)
    assert other.reason == "tls", "another authority's certificate is not trusted"


async def test_the_system_is_not_trusted_beside_a_ca_file(sending: Any) -> None:
    """ca_file stands in the place of the system's authorities: nobody else's certificate will do."""
    to = sending('[[receivers]]\nmatch = "https://a.example"\nca_file = "PEM/ca.pem"')
    context = to.receivers.of("https://a.example/x").transport._tls_context()
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_a_certificate_of_its_own(sending: Any, raw_server: Any, read_request: Any) -> None:
    """client_cert_file and client_key_file: a receiver that asks for a certificate gets it; without it it refuses."""
    seen = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        seen.append(writer.get_extra_info("peercert")["subjectAltName"])
        writer.write(OK)

    server = await raw_server(answer, tls=tls_server(asks=True))
    url = server.url("/hooks", scheme="https")
    without = f'[[receivers]]\nmatch = "{url}"\nca_file = "PEM/ca.pem"\n'
    shown = without + 'client_cert_file = "PEM/client.pem"\nclient_key_file = "PEM/client.key"'
    assert (await sending(shown).post(url)).status_code == 204
    assert seen == [(("DNS", "gateway.example.com"),)]
    refused = await sending(without).post(url)
    assert refused.status_code is None
    assert refused.reason in ("tls", "reset"), "TLS 1.3 tells it after the handshake"
    assert ("client_cert_file" in refused.error) == (refused.reason == "tls")


@contextmanager
def openssl_server(context: ssl.SSLContext) -> Iterator[str]:
    """Serve TLS as a program does that leaves it to OpenSSL, alerts included: asyncio's servers send none."""

    def answer(accepted: socket.socket) -> None:
        with context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as opened:
            try:
                opened.do_handshake()
            except ssl.SSLError:
                with socket.socket(fileno=opened.detach()) as plain:
                    plain.shutdown(socket.SHUT_WR)
                    while plain.recv(65536):  # as nginx does: else the rest of a request would reset the connection
                        pass
            else:
                opened.recv(65536)
                opened.sendall(OK)

    def serve() -> None:
        with suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                with suppress(OSError):
                    answer(accepted)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/hooks"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize("size", [2, 2_000_000])
@pytest.mark.parametrize(
    ("version", "shown", "alert"),
    [
        (ssl.TLSVersion.TLSv1_2, "none", "handshake failure"),
        (ssl.TLSVersion.TLSv1_3, "none", "certificate required"),
        (ssl.TLSVersion.TLSv1_2, "of another authority", "unknown ca"),
        (ssl.TLSVersion.TLSv1_3, "of another authority", "unknown ca"),
    ],
)
async def test_who_refuses_our_certificate_is_told_as_such(
    sending: Any, tmp_path: Path, version: Any, shown: str, alert: str, size: int
) -> None:
    """By the TLS alert, which comes within the handshake or, with TLS 1.3, in the place of an answer."""
    context = tls_server(asks=True)
    context.minimum_version = context.maximum_version = version
    files = ""
    if shown != "none":
        other = OTHER_CA.issue_cert("gateway.example.com")
        other.cert_chain_pems[0].write_to_path(tmp_path / "other.pem")
        other.private_key_pem.write_to_path(tmp_path / "other.key")
        files = f'client_cert_file = "{tmp_path}/other.pem"\nclient_key_file = "{tmp_path}/other.key"'
    with openssl_server(context) as url:
        to = sending(f'[[receivers]]\nmatch = "{url}"\nca_file = "PEM/ca.pem"\n{files}')
        sent = await to.sender.send(url, {"webhook-id": "cb_1"}, b"x" * size)
    assert (sent.reason, sent.status_code) == ("tls", None)
    assert f"ALERT {alert}".upper() in sent.error
    assert "client_cert_file" in sent.error


async def test_through_a_proxy(sending: Any, raw_server: Any, answering: Any, proxy: RunningProxy) -> None:
    """proxy: https and http receivers are connected to by it (CONNECT), by name: the gateway looks none up."""
    tables, urls, servers = "", [], []
    for scheme, tls in (("https", tls_server()), ("http", None)):
        servers.append(await raw_server(answering(OK), tls=tls))
        urls.append(servers[-1].url("/hooks", scheme=scheme))
        tables += f'[[receivers]]\nmatch = "{urls[-1]}"\nproxy = "http://{USER}@proxy.internal:{proxy.port}"\n'
        tables += 'ca_file = "PEM/ca.pem"\n' if tls else ""
    named = servers[1].url("/hooks", host="localhost")
    tables += f'[[receivers]]\nmatch = "{named}"\nproxy = "http://{USER}@proxy.internal:{proxy.port}"\n'
    to = sending(tables)
    for url in (*urls, *urls, named):
        assert (await to.post(url)).status_code == 204, url
    assert [server.connections for server in servers] == [1, 2], "a connection through a proxy is kept, too"
    assert set(to.resolved) == {"proxy.internal"}, "the proxy's own name is, and no receiver's"
    await to.receivers.aclose()
    await until(lambda: len(proxy.asked_for) >= 3)
    assert sorted(proxy.asked_for) == sorted([*(server.netloc for server in servers), f"localhost:{servers[1].port}"])


async def test_a_proxy_that_refuses_the_password(sending: Any, proxy: RunningProxy) -> None:
    """407 is the proxy's own: its reason says so, and neither words nor repr hold the password."""
    to = sending(f'[[receivers]]\nmatch = "http://127.0.0.1:9"\nproxy = "http://gateway:canary@127.0.0.1:{proxy.port}"')
    sent = await to.post("http://127.0.0.1:9/hooks")
    assert (sent.reason, sent.status_code) == ("proxy_auth", None)
    assert "407" in sent.error
    assert "canary" not in repr((sent, to.receivers.of("http://127.0.0.1:9/").settings))


async def test_a_receiver_that_the_proxy_cannot_reach(sending: Any, proxy: RunningProxy, unused_tcp_port: int) -> None:
    """What the proxy answers to CONNECT is no answer of the receiver's."""
    url = f"http://127.0.0.1:{unused_tcp_port}/hooks"
    to = sending(f'[[receivers]]\nmatch = "{url}"\nproxy = "http://{USER}@127.0.0.1:{proxy.port}"')
    sent = await to.post(url)
    assert (sent.reason, sent.status_code) == ("proxy_failed", None)


async def test_a_proxy_whose_name_does_not_resolve(sending: Any) -> None:
    """That is the proxy's, too: `dns` would send people to look at the receiver's name."""
    to = sending('[[receivers]]\nmatch = "http://127.0.0.1:9"\nproxy = "http://proxy.invalid:3128"')
    sent = await to.post("http://127.0.0.1:9/hooks")
    assert sent.reason == "proxy_unreachable"
    assert "no such name" in sent.error


async def test_a_proxy_that_is_not_there(sending: Any, unused_tcp_port: int) -> None:
    """Nobody listens: the proxy cannot be reached, which is not the receiver's fault, nor does it name the proxy."""
    to = sending(f'[[receivers]]\nmatch = "http://127.0.0.1:9"\nproxy = "http://127.0.0.1:{unused_tcp_port}"')
    sent = await to.post("http://127.0.0.1:9/hooks")
    assert sent.reason == "proxy_unreachable"
    assert str(unused_tcp_port) not in sent.error


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "proxy_failed"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "proxy_failed"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "proxy_failed"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "proxy_failed"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "proxy_failed"),
        (b"HTTP/1.1 200 " + b"x" * 40_000, "proxy_failed"),
        (b"", "proxy_failed"),
    ],
)
async def test_a_proxy_that_talks_nonsense(sending: Any, raw_server: Any, answer: bytes, reason: str) -> None:
    """Whatever it says to CONNECT but one clean 2xx: no webhook is sent, and nothing is taken for an answer to one."""
    asked = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(answer)
        await writer.drain()

    server = await raw_server(talk)
    to = sending(f'[[receivers]]\nmatch = "http://127.0.0.1:9"\nproxy = "http://{server.netloc}"')
    sent = await to.post("http://127.0.0.1:9/hooks")
    assert (sent.reason, sent.status_code) == (reason, None)
    assert asked == ["CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n"]


async def test_a_proxy_that_hangs(sending: Any, raw_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing: that is no slow receiver, and no word that the proxy works again."""
    monkeypatch.setattr("gateway.net.proxied._CONNECT_S", 0.05)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await raw_server(hang)
    to = sending(f'[[receivers]]\nmatch = "http://127.0.0.1:9"\nproxy = "http://{server.netloc}"')
    sent = await to.post("http://127.0.0.1:9/hooks")
    assert (sent.reason, sent.status_code) == ("proxy_timeout", None)
    assert "0.05 s" in sent.error
    assert to.receivers.failing_proxies == [], "it may be the receiver's fault"
    to.receivers.of("http://127.0.0.1:9/").proxy.fails(0.0)
    await to.post("http://127.0.0.1:9/hooks")
    assert to.receivers.failing_proxies == [server.netloc], "it was not known to work, and is not now"


@pytest.mark.parametrize(
    ("allow", "url", "rule"),
    [
        ("", "https://10.0.0.1/hooks", "private"),
        ("", "https://metadata.google.internal/hooks", "metadata"),
        ("169.254.0.0/16", "https://169.254.169.254/hooks", "metadata"),
        ("", "https://intranet/hooks", "local_name"),
        ("10.0.0.0/8", "http://public.example.com:8080/hooks", "scheme"),
        ("10.0.0.0/8", "https://intranet/hooks", "local_name"),
    ],
)
async def test_what_a_proxy_is_not_asked_for(sending: Any, raw_server: Any, allow: str, url: str, rule: str) -> None:
    """The policy goes by host and port: an entry of networks opens no name, as nobody here sees its address."""

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("it was asked")

    server = await raw_server(never)
    to = sending(f'[[receivers]]\nmatch = "{url}"\nproxy = "http://{server.netloc}"', allow)
    with pytest.raises(AddressNotAllowed) as refused:
        await to.receivers.check(url)
    assert refused.value.rule == rule
    sent = await to.post(url)
    assert (sent.reason, server.connections) == ("blocked", 0)


async def test_a_name_is_not_looked_up_when_a_proxy_will(sending: Any) -> None:
    """Registering asks no name server either, which it does where there is no proxy."""
    to = sending('[[receivers]]\nmatch = "https://a.example/x"\nproxy = "http://127.0.0.1:1"', "")
    await to.receivers.check("https://a.example/x/y")
    assert to.resolved == []
    with pytest.raises(AddressNotAllowed, match="resolves to"):
        await to.receivers.check("https://a.example/xy")
    assert to.resolved == ["a.example"]


async def test_a_proxy_that_takes_all_of_a_short_attempt(sending: Any, raw_server: Any) -> None:
    """However short an attempt's time is: who has used it up is the proxy, and no receiver is told to be faster."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await raw_server(silent)
    table = '[[receivers]]\nmatch = "https://a.example/{}"\nproxy = "http://{}"\ntimeout_s = 0.2\n'
    to = sending(table.format("asked", server.netloc) + table.format("dialled", "silent.example:3128"))
    asked, dialled = [await to.post(f"https://a.example/{path}") for path in ("asked", "dialled")]
    assert [asked.reason, dialled.reason] == ["proxy_timeout", "proxy_unreachable"]
    for sent in (asked, dialled):
        assert "it did not answer within the attempt's time" in sent.error
        assert "let the receiver" not in sent.error
    health = [to.receivers.of(f"https://a.example/{path}").proxy for path in ("asked", "dialled")]
    assert [one.failures for one in health] == [0, 1]


async def test_an_own_time_limit(sending: Any, raw_server: Any) -> None:
    """timeout_s: of an attempt there, all included; elsewhere the common one counts."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await raw_server(silent)
    to = sending(f'[[receivers]]\nmatch = "{server.url("/slow")}"\ntimeout_s = 0.05')
    sent = await to.post(server.url("/slow/hooks"))
    assert sent.reason == "timeout"
    assert "within 0.05 s" in sent.error


def claim(url: str, client: str = "default") -> DueCallback:
    return due_webhook(client=client, url=url, receiver="", format=Format.RECORD)


async def test_own_secret_and_headers(sending: Any) -> None:
    """secret_file signs in the place of the client's and the gateway's, headers come before a client's of that name."""
    to = sending(
        '[[receivers]]\nmatch = "https://a.example/x"\nsecret_file = "PEM/secret"\n'
        'headers = { Authorization = "Bearer receiver" }'
    )
    own = ClientWebhooks(Signer(parse_secrets(CLIENTS_SECRET)), {"authorization": "Bearer client", "x-team": "a"})
    to.headers.use(Signer(parse_secrets(SECRET)), {"shop": own}, (), "record-key")
    now_s = SystemClock().now() // 1000
    for url, client, secret, authorization in (
        ("https://a.example/x/hooks", "shop", RECEIVERS_SECRET, "Bearer receiver"),
        ("https://a.example/x/hooks", "default", RECEIVERS_SECRET, "Bearer receiver"),
        ("https://a.example/xyz", "shop", CLIENTS_SECRET, "Bearer client"),
        ("https://a.example/xyz", "default", SECRET, None),
    ):
        headers = to.headers.headers(claim(url, client), b"{}", now_s)
        standardwebhooks.Webhook(secret).verify("{}", headers)
        assert headers.get("authorization") == authorization, url
        assert headers.get("x-team") == ("a" if client == "shop" else None)
        assert headers["x-webhook-signature"], "format record's own is signed by GATEWAY_RECORD_HMAC_KEY as ever"
    assert to.headers.without_secrets(claim("https://a.example/x"), b"an echo") == b"", "it may repeat the headers"
    assert to.headers.without_secrets(claim("https://a.example/y"), b"an echo") == b"an echo"


async def test_very_many_tables(sending: Any) -> None:
    """Which one counts is found of each new URL before its callback is registered: it holds up all else meanwhile."""
    to = sending("\n".join(f'[[receivers]]\nmatch = "https://a.example/{number}"' for number in range(1000)))
    to.receivers.of("https://a.example/first")
    began = time.process_time()
    for number in range(100):
        assert to.receivers.of(f"https://a.example/{number}/x").settings.match == f"https://a.example/{number}"
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    "matches",
    list(
        permutations(("https://a.example/hooks", "https://a.example/", "https://a.example/hooks/x", "http://b.example"))
    ),
)
async def test_the_longest_match_counts_alone(sending: Any, matches: tuple[str, ...]) -> None:
    """Whole segments of the path, however it is spelt; host and port as URLs are compared; in whichever order."""
    to = sending("\n".join(f'[[receivers]]\nmatch = "{match}"' for match in matches))
    for url, match in {
        "https://a.example/": "https://a.example",
        "https://A.EXAMPLE.:443/hooksextra": "https://a.example",
        "https://a.example/hooks?x=/hooks/x": "https://a.example/hooks",
        "https://a.example/%68ooks/y": "https://a.example/hooks",
        "https://a.example/hooks/x/": "https://a.example/hooks/x",
        "https://a.example/hooks/%2e%2e/x": "https://a.example",
        "https://a.example:8443/hooks": None,
        "http://a.example/hooks": None,
        "http://b.example:80/z": "http://b.example",
        "https://sub.a.example/hooks": None,
    }.items():
        found = to.receivers.of(url)
        assert (found and found.settings.match) == match, url


async def test_connections_never_cross_settings(sending: Any, raw_server: Any, answering: Any) -> None:
    """One server under three tables, and what a reload changes: each way of connecting has connections of its own."""
    server = await raw_server(answering(OK), tls=tls_server())
    url = server.url("", scheme="https")

    def tables(first: str) -> str:
        return (
            f'[[receivers]]\nmatch = "{url}/a"\nca_file = "PEM/ca.pem"\n{first}\n'
            f'[[receivers]]\nmatch = "{url}/b"\nca_file = "PEM/ca.pem"\n'
            f'[[receivers]]\nmatch = "{url}/c"\nca_file = "PEM/other-ca.pem"\n'
        )

    certificate = 'client_cert_file = "PEM/client.pem"\nclient_key_file = "PEM/client.key"'
    to = sending(tables(certificate))
    for path, status, connections in (("/a", 204, 1), ("/a", 204, 1), ("/b", 204, 2), ("/b", 204, 2), ("/c", None, 2)):
        assert (await to.post(url + path)).status_code == status, path
        assert server.connections == connections, path
    to.use(tables(certificate + "\ntimeout_s = 3"))
    await to.post(f"{url}/a")
    assert server.connections == 2, "nothing of how it connects has changed"
    to.use(tables(""))
    await to.post(f"{url}/a")
    assert server.connections == 2, "it connects as another table does, whose connection serves"
    to.use(tables(certificate))
    await to.post(f"{url}/a")
    assert server.connections == 3, "what was retired serves no more"


async def test_nothing_particular_costs_nothing(sending: Any) -> None:
    """Without a table no URL is looked at."""
    to = sending("")
    assert to.receivers.of("not a URL") is None
    assert to.receivers.secrets == []
