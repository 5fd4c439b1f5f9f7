"""Contexts towards servers, made of texts; and until when a certificate is valid."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from gateway.net.tls import TlsFilesUnusable, client_context, ends_at

CA = trustme.CA()


@pytest.mark.parametrize("year", [2049, 2050, 2300])
def test_until_when_a_certificate_is_valid(year: int) -> None:
    """In either of the two forms that certificates have for an instant; the first one of a chain counts."""
    instant = datetime(year, 1, 2, 3, 4, 5, tzinfo=UTC)
    made = CA.issue_cert("client.example.com", not_after=instant)
    chain = "".join(one.bytes().decode() for one in (*made.cert_chain_pems, CA.cert_pem))
    assert ends_at(f"a comment\n{chain}") == instant.timestamp()


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate(text: str) -> None:
    """It has no end, and that is said."""
    with pytest.raises(ValueError, match="no certificate"):
        ends_at(text)


def test_a_key_touches_no_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A read-only file system is enough, and nothing stays open."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    made = CA.issue_cert("client.example.com")
    before = len(list(Path("/proc/self/fd").iterdir()))
    context = client_context(
        CA.cert_pem.bytes().decode(), made.cert_chain_pems[0].bytes().decode(), made.private_key_pem.bytes().decode()
    )
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_key_of_another_certificate() -> None:
    """The error says which of the files is wrong, and nothing of the key."""
    one, other = CA.issue_cert("a.example"), CA.issue_cert("b.example")
    with pytest.raises(TlsFilesUnusable) as caught:
        client_context(None, one.cert_chain_pems[0].bytes().decode(), other.private_key_pem.bytes().decode())
    assert (caught.value.part, caught.value.message) == ("client_key", "it is not the certificate's key")
