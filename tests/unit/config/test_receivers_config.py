"""Tables [[receivers]] of the TOML file: what they may hold; every mistake in the one report, no secret shown."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from gateway.app.preflight import preflight, warnings
from gateway.config.egressproxy import EgressProxy, parse_proxy
from gateway.config.load import load
from gateway.config.receivers import told
from gateway.config.settings import RECEIVER_KEYS, ReceiverSettings
from gateway.core.errors import ConfigError
from gateway.core.ratelimit import RateWindow
from gateway.net.tls import ends_at
from gateway.signature import make_secret
from tests.manual import page

SECRET = make_secret()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates: ca.pem, client.pem with client.key, other.key."""
    folder = tmp_path_factory.mktemp("pem")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("client", "other"):
        made = ca.issue_cert("client.example.com")
        made.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        made.private_key_pem.write_to_path(folder / f"{name}.key")
    subprocess.run(
        ["openssl", "pkey", "-in", "client.key", "-aes256", "-passout", "pass:canary", "-out", "locked.key"],
        cwd=folder,
        check=True,
    )
    (folder / "secret").write_text(f"{SECRET}\n{make_secret()}\n")
    (folder / "no.pem").write_text("canary")
    return folder


@pytest.fixture
def toml(tmp_path: Path, pem: Path) -> Callable[[str], Path]:
    """Write a TOML file, PEM in it being the folder of certificates, and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "gateway.toml"
        path.write_text(text.replace("PEM", str(pem)), "utf-8")
        return path

    return write


def receivers(path: Path) -> list[ReceiverSettings]:
    return list(load({}, path).receivers)


def problems(path: Path) -> list[str]:
    """Return what a start would refuse, without the file's name."""
    environ = {"GATEWAY_UPSTREAM_URL": "http://127.0.0.1:1", "GATEWAY_DATABASE_URL": f"sqlite:///{path.parent}/db"}
    with pytest.raises(ConfigError) as caught:
        preflight(environ, path)
    assert "canary" not in str(caught.value)
    return [one.replace(f" in {path}", "") for one in caught.value.problems]


def test_every_key(toml: Any, pem: Path) -> None:
    """A table holds all that is particular to its receivers; neither its repr nor what is told of it shows a secret."""
    path = toml("""
        [[receivers]]
        match = "HTTPS://Hooks.Example.com:443/%6Frders/"
        headers = { Authorization = "Bearer canary" }
        secret_file = "PEM/secret"
        ca_file = "PEM/ca.pem"
        client_cert_file = "PEM/client.pem"
        client_key_file = "PEM/client.key"
        proxy = "http://user:can%40ary@proxy.internal:3128"
        concurrency = 4
        rate = ["10/1", "100/60"]
        timeout_s = 2.5
    """)
    settings = preflight({"GATEWAY_UPSTREAM_URL": "http://127.0.0.1:1"}, path)
    (one,) = settings.receivers
    assert one.match == "https://hooks.example.com/orders"
    assert one.headers == {"authorization": "Bearer canary"}
    assert one.secret is not None
    assert one.secret[0] == SECRET
    assert len(one.secret) == 2
    assert one.ca == (pem / "ca.pem").read_text()
    assert one.client_cert == (pem / "client.pem").read_text()
    assert one.client_key == (pem / "client.key").read_text()
    assert one.proxy == EgressProxy("proxy.internal", 3128, b"Basic dXNlcjpjYW5AYXJ5")
    assert (one.concurrency, one.timeout_s) == (4, 2.5)
    assert one.rate == (RateWindow(10, 1.0), RateWindow(100, 60.0))
    for shown in (repr(settings), repr(settings.receivers), " ".join(told(one))):
        assert "canary" not in shown
        assert SECRET not in shown
        assert "dXNlcjpjYW5AYXJ5" not in shown
    assert told(one)[0] == "headers authorization"
    assert "proxy proxy.internal:3128" in told(one)
    secrets = {str(path), str(pem / "secret"), str(pem / "client.key")}
    assert set(settings.secret_files) == secrets, "of these it is told where everybody may read them"


def test_the_block_of_the_manual(toml: Any) -> None:
    """It names each key, once; with files that are there it is taken as it stands."""
    blocks = re.findall(r"```toml\n(.+?)```", page("configuration"), re.DOTALL)
    (block,) = (one for one in blocks if "[[receivers]]" in one)
    assert sorted(re.findall(r"^(\w+) = ", block, re.MULTILINE)) == sorted({*RECEIVER_KEYS, "headers"})
    for path, there in {
        "/run/secrets/orders-webhooks": "secret",
        "/etc/gateway/example-ca.pem": "ca.pem",
        "/etc/gateway/gateway.pem": "client.pem",
        "/run/secrets/gateway-key.pem": "client.key",
    }.items():
        assert path in block
        block = block.replace(path, f"PEM/{there}")
    settings = preflight({"GATEWAY_UPSTREAM_URL": "http://127.0.0.1:1"}, toml(block.replace("…", "canary")))
    assert len(told(settings.receivers[0])) == len(RECEIVER_KEYS), "match is left out, headers are in"


def test_a_certificate_that_ends_soon(toml: Any, pem: Path) -> None:
    """It is told, by the file's name, two weeks before."""
    path = toml(f"[[receivers]]\n{MATCH}client_cert_file = 'PEM/client.pem'\nclient_key_file = 'PEM/client.key'")
    settings = preflight({"GATEWAY_UPSTREAM_URL": "http://127.0.0.1:1"}, path)
    ends_s = ends_at((pem / "client.pem").read_text())
    told_of = {
        days: [one for one in warnings(settings, ends_s - days * 86_400) if "ends" in one or "ended" in one]
        for days in (15, 3, -1)
    }
    assert told_of == {
        15: [],
        3: [f"receivers[1] in {path}: client_cert_file: {pem}/client.pem ends in 3 days; its receivers will refuse it"],
        -1: [f"receivers[1] in {path}: client_cert_file: {pem}/client.pem has ended; its receivers will refuse it"],
    }


def test_match_alone_is_a_table(toml: Any) -> None:
    """All other keys have a default: so what a shorter match says does not count for a longer one."""
    (one,) = receivers(toml('[[receivers]]\nmatch = "https://hooks.example.com"'))
    assert told(one) == []


@pytest.mark.parametrize(
    ("written", "match"),
    [
        ("https://hooks.example.com", "https://hooks.example.com"),
        ("https://hooks.example.com/", "https://hooks.example.com"),
        ("HTTP://EXAMPLE.com.:80/a/b/", "http://example.com/a/b"),
        ("https://bücher.example/ä", "https://xn--bcher-kva.example/%C3%A4"),
        ("https://[2001:DB8::0:1]:8443/a", "https://[2001:db8::1]:8443/a"),
        ("https://a.example/x/../y/%2E/z", "https://a.example/y/z"),
        ("https://a.example/%2f%7e", "https://a.example/%2F~"),
    ],
)
def test_a_match_is_written_one_way(toml: Any, written: str, match: str) -> None:
    """Host in small ASCII letters, no default port, escapes only where they are needed: as URLs are compared."""
    assert receivers(toml(f'[[receivers]]\nmatch = "{written}"'))[0].match == match


MATCH = 'match = "https://a.example"\n'


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ("concurrency = 1", "receivers[2]: match: missing"),
        ('match = "a.example"', "receivers[2]: match: got 'a.example'; write the beginning of URLs"),
        ('match = "ftp://a.example"', "receivers[2]: match: got 'ftp://a.example'; write the beginning"),
        (
            'match = "https://u:canary@a.example"',
            "receivers[2]: match: got 'https://***@a.example'; write the beginning",
        ),
        ('match = "https://a.example/?canary"', "receivers[2]: match: got 'https://a.example/?…'; write the beginning"),
        ('match = "https://a.example/#x"', "receivers[2]: match: got 'https://a.example/#x'; write the beginning"),
        ('match = "https://a.example:99999"', "receivers[2]: match: got 'https://a.example:99999'; write the"),
        ('match = "https://*.example"', "receivers[2]: match: got 'https://*.example'; write it without *, such as"),
        ('match = "https://a.example/b/*"', "receivers[2]: match: got 'https://a.example/b/*'; write it without *"),
        ('match = "https://FIRST.example/"', "receivers[2]: match: receivers[1] is about the same URLs"),
        (MATCH + "concurency = 1", "receivers[2]: concurency: no such setting; did you mean concurrency?"),
        (MATCH + "concurrency = 0", "receivers[2]: concurrency: got '0'; write a whole number from 1 to 256"),
        (MATCH + 'rate = "fast"', "receivers[2]: rate: got 'fast'; write requests/seconds"),
        (MATCH + "timeout_s = 0", "receivers[2]: timeout_s: got '0'; write a number of seconds"),
        (MATCH + "headers = { Host = 'canary' }", "receivers[2]: headers: Host: the gateway sets or forbids"),
        (MATCH + "headers = { Webhook-Id = 'canary' }", "receivers[2]: headers: Webhook-Id: the gateway sets"),
        (MATCH + "headers = { X-Webhook-Signature = 'canary' }", "receivers[2]: headers: X-Webhook-Signature: the"),
        (MATCH + "headers = { Content-Type = 'canary' }", "receivers[2]: headers: Content-Type: the gateway sets"),
        (MATCH + "headers = { Connection = 'canary' }", "receivers[2]: headers: Connection: the gateway sets"),
        (MATCH + 'headers = { A = "canary\\r\\nB: c" }', "receivers[2]: headers: A: write 1 to 4096 visible ASCII"),
        (MATCH + "headers = 'canary'", "receivers[2]: headers: got a value that is not shown here"),
        (MATCH + "secret_file = 'PEM/none'", "receivers[2]: secret_file: got 'PEM/none'; No such file"),
        (MATCH + "secret_file = 'whsec_canary'", "receivers[2]: secret_file: got a path that is not shown here"),
        (MATCH + "secret_file = 'PEM/no.pem'", "receivers[2]: secret_file: got 'PEM/no.pem'; the secret"),
        (MATCH + "ca_file = 'PEM/none'", "receivers[2]: ca_file: got 'PEM/none'; No such file"),
        (MATCH + "ca_file = 'PEM/no.pem'", "receivers[2]: ca_file: got 'PEM/no.pem'; there is no certificate"),
        (MATCH + "client_cert_file = 'PEM/client.pem'", "receivers[2]: client_key_file: missing"),
        (MATCH + "client_key_file = 'PEM/client.key'", "receivers[2]: client_cert_file: missing"),
        (
            MATCH + "client_cert_file = 'PEM/client.pem'\nclient_key_file = 'PEM/other.key'",
            "receivers[2]: client_key_file: got 'PEM/other.key'; it is not the certificate's key",
        ),
        (
            MATCH + "client_cert_file = 'PEM/client.pem'\nclient_key_file = 'PEM/locked.key'",
            "receivers[2]: client_key_file: got 'PEM/locked.key'; the key is encrypted",
        ),
        (
            MATCH + "client_cert_file = 'PEM/client.pem'\nclient_key_file = 'PEM/client.pem'",
            "receivers[2]: client_key_file: got 'PEM/client.pem'; there is no private key",
        ),
        (
            'match = "http://a.example"\nca_file = "PEM/ca.pem"',
            "receivers[2]: ca_file: these receivers are reached by http",
        ),
        (MATCH + "proxy = 'https://u:canary@p:1'", "receivers[2]: proxy: got a value that is not shown here; the"),
        (MATCH + "proxy = 'socks5://p:1'", "receivers[2]: proxy: got a value that is not shown here; the"),
        (MATCH + "proxy = 'http://p'", "receivers[2]: proxy: got a value that is not shown here; write http://host"),
        (MATCH + "proxy = 'canary'", "receivers[2]: proxy: got a value that is not shown here; write http://host"),
    ],
)
def test_a_mistake_is_named(toml: Any, pem: Path, table: str, found: str) -> None:
    """Each mistake names its table and key, and says what to write; what may be a secret is not repeated."""
    path = toml(f'[[receivers]]\nmatch = "https://first.example"\n\n[[receivers]]\n{table}\n')
    told_of = problems(path)
    assert any(one.startswith(found.replace("PEM", str(pem))) for one in told_of), told_of


def test_all_mistakes_come_in_one_report(toml: Any) -> None:
    """Those of several tables, of other settings too."""
    path = toml("""
        port = "x"
        [[receivers]]
        match = "https://a.example"
        rate = "x"
        ca_file = "PEM/none"
        [[receivers]]
        timeout_s = 1
    """)
    assert [one.split(";")[0].split(": got")[0] for one in problems(path)] == [
        "port",
        "receivers[1]: rate",
        "receivers[1]: ca_file",
        "receivers[2]: match: missing",
    ]


def test_something_else_than_tables(toml: Any) -> None:
    """[receivers.name] is not how these are written, and is not passed over."""
    assert problems(toml("[receivers.shop]\nmatch = 'https://a.example'")) == [
        "receivers: write a table [[receivers]] for each"
    ]


def test_a_ca_file_without_a_usable_certificate(toml: Any, pem: Path) -> None:
    """What only looks like a certificate is refused before anything is opened."""
    (pem / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\ncanary\n-----END CERTIFICATE-----\n")
    (one,) = problems(toml(f"[[receivers]]\n{MATCH}ca_file = 'PEM/broken.pem'"))
    assert one.startswith(f"receivers[1]: ca_file: got '{pem}/broken.pem'; no certificate of an authority")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("http://proxy:3128", "proxy", 3128), ("http://10.0.0.1:8080/", "10.0.0.1", 8080), ("http://[::1]:1", "::1", 1)],
)
def test_where_a_proxy_is(text: str, host: str, port: int) -> None:
    """A name or an address, always with its port."""
    assert parse_proxy(text) == EgressProxy(host, port, None)


def test_the_upstreams_proxy(toml: Any) -> None:
    """A setting for the default upstream, a key for each other; both at once for one are a mistake."""
    environ = {"GATEWAY_UPSTREAM_PROXY": "http://u:canary@proxy.internal:3128", "GATEWAY_UPSTREAM_API_KEY": "k"}
    path = toml('[upstreams.runway]\napi_key = "k"\nproxy = "http://other.internal:8080"')
    settings = load(environ, path)
    assert [str(one.proxy) for one in settings.upstreams] == ["proxy.internal:3128", "other.internal:8080"]
    assert "canary" not in repr(settings)
    with pytest.raises(ConfigError, match="got both proxy and GATEWAY_UPSTREAM_PROXY"):
        load(environ, toml('[upstreams.aigptimage]\nproxy = "http://other.internal:8080"'))
