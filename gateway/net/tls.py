"""TLS towards a server: whose certificates are trusted, and the one that is shown to it.

Owns how contexts are made; each connection of a transport has the transport's. Called by ``webhook.receivers``, and at
the start for whoever checks settings.
"""

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from gateway.core.errors import GatewayError


class TlsFilesUnusable(GatewayError):
    """Certificates or a key cannot be used; ``part`` is the one of ``client_context``'s arguments that is wrong."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


def client_context(
    ca: str | None = None, client_cert: str | None = None, client_key: str | None = None
) -> ssl.SSLContext:
    """Make a context of texts in PEM: the authorities to trust, None: the system's; a certificate, and its key.

    Raises TlsFilesUnusable, whose message tells nothing of a key.
    """
    try:
        context = ssl.create_default_context(cadata=ca)
    except (ssl.SSLError, ValueError) as error:
        raise TlsFilesUnusable("ca", f"no certificate of an authority can be read in it ({_words(error)})") from None
    context.set_alpn_protocols(["http/1.1"])
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:  # as Debian 13's configuration of OpenSSL leaves it (RFC 8996)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client_cert is not None and client_key is not None:
        # Two calls would do for two files; of one text each error says which of the two it is about all the same.
        with _as_file(f"{client_cert}\n{client_key}\n") as path:
            try:
                context.load_cert_chain(path, password=_nobody_knows)
            except (ssl.SSLError, ValueError) as error:
                part = "client_cert" if "x509" in str(error).lower() and "mismatch" not in str(error) else "client_key"
                told = "it is not the certificate's key" if "MISMATCH" in str(error) else _words(error)
                raise TlsFilesUnusable(part, told) from None
    return context


def _nobody_knows() -> str:
    """Answer for a passphrase; without this OpenSSL would ask the terminal."""
    return ""


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """Yield a path that the text can be read from: OpenSSL's binding takes no other form of a certificate with its key.

    It is in memory alone where the system can do that, as a file system may be read-only, or on a disk.
    """
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("gateway-tls", os.MFD_CLOEXEC)
        try:
            os.write(file, text.encode())
            yield f"/proc/self/fd/{file}"
        finally:
            os.close(file)
    else:
        import tempfile  # late: seldom needed

        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as made:  # mode 0600
            made.write(text)
            made.flush()
            yield made.name


_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17


def ends_at(certificate: str) -> float:
    """Return until when the first certificate of a text in PEM is valid, in seconds since 1970.

    Raises ValueError where there is none. Python has no way to ask that of a certificate that is no authority's: this
    walks to ``tbsCertificate.validity.notAfter`` (RFC 5280 §4.1).
    """
    pem = _CERTIFICATE.search(certificate)
    if pem is None:
        raise ValueError("no certificate")
    der = ssl.PEM_cert_to_DER_cert(pem[0])
    try:
        _, at, _ = _field(der, _field(der, 0)[1])
        tag, _, end = _field(der, at)
        before_validity = 4 if tag == _VERSION else 3  # version (where it is there), serial number, signature, issuer
        for _ in range(before_validity - 1):
            _, _, end = _field(der, end)
        _, _, end = _field(der, _field(der, end)[1])
        tag, start, end = _field(der, end)
    except IndexError:
        raise ValueError("no certificate") from None
    text = der[start:end].decode("ascii")
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()


def _field(der: bytes, at: int) -> tuple[int, int, int]:
    """Return the tag of the field that begins there, and where its contents begin and end (X.690 §8.1)."""
    tag, length, start = der[at], der[at + 1], at + 2
    if length & 0x80:
        start += (octets := length & 0x7F)
        length = int.from_bytes(der[start - octets : start], "big")
    return tag, start, start + length


def _words(error: ssl.SSLError | ValueError) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()
