"""Standard Webhooks 1.0 signatures: secrets, signing, verifying.

Owns the form of secrets and keys, the signed content ``id.timestamp.body`` and the three ``webhook-…`` headers.
Pure: no I/O, no clock, no settings; the caller says what time it is. The deliverer signs with ``Signer``; the receiver
and people's own Python receivers call ``verify``.

The signature header is a list of ``version,signature`` entries. Each kind of key makes its own version of entry from
the same content: a shared secret (``whsec_``) ``v1``, a key pair (``whsk_`` and ``whpk_``, ``core.ed25519``) ``v1a``.
"""

import hashlib
import re
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from secrets import token_bytes
from types import ModuleType
from typing import ClassVar, Protocol

from itsdangerous.signer import HMACAlgorithm

from gateway.core.errors import SecretError, VerificationError

__all__ = [
    "ID_HEADER",
    "SIGNATURE_HEADER",
    "TIMESTAMP_HEADER",
    "Key",
    "Secret",
    "Signer",
    "VerifiedWebhook",
    "make_key_pair",
    "make_secret",
    "parse_secret",
    "parse_secrets",
    "verify",
]

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"

_PREFIX = "whsec_"
_SIGNING_PREFIX, _PUBLIC_PREFIX = "whsk_", "whpk_"
_MIN_KEY_BYTES, _MAX_KEY_BYTES = 24, 64
_NEW_KEY_BYTES = 32

# No full stop in the id: it separates id, timestamp and body, so with one in the id the same signature would also
# hold for another id, timestamp and body.
_ID = re.compile(r"[!-\-/-~]{1,255}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
# Room for about 80 signatures of the longest version; without a bound a sender decides how long verifying takes.
_MAX_LIST_CHARS = 8192

# Its default digest is SHA-1, hence the explicit one.
_hmac_sha256 = HMACAlgorithm(hashlib.sha256).get_signature


class Key(Protocol):
    """What signs or verifies, of whichever kind."""

    @property
    def version(self) -> str:
        """What its entries in the signature header begin with."""

    @property
    def signs(self) -> bool:
        """False for a key that verifies only."""

    def entry(self, content: bytes) -> str:
        """Sign the content as one entry of the signature header."""

    def matches(self, content: bytes, entries: Sequence[str]) -> bool:
        """Tell whether one of the entries, all of its version, is a signature of the content."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A key that sender and receiver share. Neither repr nor str shows it, so a log line cannot leak it."""

    version: ClassVar[str] = "v1"
    signs: ClassVar[bool] = True
    key: bytes = field(repr=False)

    def entry(self, content: bytes) -> str:
        return "v1," + b64encode(_hmac_sha256(self.key, content)).decode("ascii")

    def matches(self, content: bytes, entries: Sequence[str]) -> bool:
        """Tell whether one of the ``v1,…`` entries is this key's, in constant time."""
        # Whole entries are compared as text, never decoded: a malformed one is then just one that does not match, and
        # there is one spelling of each signature only.
        expected = self.entry(content).encode("ascii")
        matched = False
        for entry in entries:
            matched |= compare_digest(expected, entry.encode("utf-8", "replace"))
        return matched


def parse_secret(text: str) -> Key:
    """Read a secret: base64 of 24 to 64 bytes, padded or not, with or without ``whsec_`` before it.

    Or a key of a pair: ``whsk_`` and base64 of a 32-byte seed, with its public key after it or not, or ``whpk_`` and
    base64 of the public key. Raises SecretError, which says what is wrong without repeating any of the text.
    """
    text = text.strip()
    if text.startswith(_SIGNING_PREFIX):
        return _ed25519().read_signing_key(_decode(text, _SIGNING_PREFIX))  # type: ignore[no-any-return]
    if text.startswith(_PUBLIC_PREFIX):
        return _ed25519().read_public_key(_decode(text, _PUBLIC_PREFIX))  # type: ignore[no-any-return]
    key = _decode(text, _PREFIX)
    if not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
        raise SecretError(f"the secret has {len(key)} bytes; it must have {_MIN_KEY_BYTES} to {_MAX_KEY_BYTES}")
    return Secret(key)


def _decode(text: str, prefix: str) -> bytes:
    encoded = text.removeprefix(prefix).rstrip("=")
    if not encoded:
        raise SecretError("the secret is empty; `gateway make-secret` makes one")
    try:
        return a2b_base64(encoded + "=" * (-len(encoded) % 4), strict_mode=True)
    except ValueError:
        raise SecretError(f"the secret is not {prefix} followed by base64 (letters, digits, + and /)") from None


def _ed25519() -> ModuleType:
    try:
        from gateway.core import ed25519
    except ModuleNotFoundError as exc:
        raise SecretError(
            "keys that begin with whsk_ or whpk_ need a package that is not here: "
            "pip install 'cryptography>=45,<51' where the gateway is installed"
        ) from exc
    return ed25519


def parse_secrets(text: str) -> tuple[Key, ...]:
    """Read one or more secrets separated by white space; raises SecretError that says which one is wrong and why."""
    parts = text.split()
    if not parts:
        raise SecretError("the secret is empty; `gateway make-secret` makes one")
    secrets = []
    for number, part in enumerate(parts, start=1):
        try:
            secrets.append(parse_secret(part))
        except SecretError as error:
            if len(parts) == 1:
                raise
            raise SecretError(f"number {number} of {len(parts)}: {error.message}") from None
    return tuple(secrets)


def make_secret() -> str:
    """Make a new random secret in its written form."""
    return _PREFIX + b64encode(token_bytes(_NEW_KEY_BYTES)).decode("ascii")


def make_key_pair() -> tuple[str, str]:
    """Make a new random key pair in its written form: ``whsk_…``, which signs, and ``whpk_…``, which receivers get.

    Raises SecretError where the extra is not installed.
    """
    signing, public = _ed25519().make_key_pair()
    return _SIGNING_PREFIX + b64encode(signing).decode("ascii"), _PUBLIC_PREFIX + b64encode(public).decode("ascii")


class Signer:
    """Signs with every secret at once, so that receivers verify with the old or the new one while secrets rotate."""

    def __init__(self, secrets: Sequence[Key]) -> None:
        if not secrets:
            raise SecretError("no secret to sign with")
        if not all(secret.signs for secret in secrets):
            raise SecretError("a public key (whpk_) verifies only: put its whsk_ key here, and give whpk_ to receivers")
        self._secrets = tuple(secrets)

    def sign(self, webhook_id: str, timestamp_s: int, body: bytes) -> str:
        """Return the signature header's value: one entry for each secret, in their order.

        The id is printable ASCII without a full stop; the gateway's own ids are, and it is not checked again here.
        """
        content = b"%b.%d.%b" % (webhook_id.encode("ascii"), timestamp_s, body)
        return " ".join([secret.entry(content) for secret in self._secrets])

    def headers(self, webhook_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
        """Return the three headers of one attempt."""
        return {
            ID_HEADER: webhook_id,
            TIMESTAMP_HEADER: str(timestamp_s),
            SIGNATURE_HEADER: self.sign(webhook_id, timestamp_s, body),
        }


@dataclass(frozen=True, slots=True)
class VerifiedWebhook:
    """What a signature proved: a holder of a secret sent this id at this time with the body."""

    webhook_id: str
    """The same in every attempt and redelivery: what a receiver dedupes on."""
    timestamp_s: int


def verify(
    secrets: Sequence[Key],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_s: float,
    tolerance_s: float = 300,
) -> VerifiedWebhook:
    """Check that a holder of any of the secrets sent exactly this body, at most ``tolerance_s`` seconds from now.

    ``headers`` is the request's headers, names in any case; ``body`` its bytes as received, before any decoding.
    Signatures are compared in constant time. Raises VerificationError, and nothing else whatever the headers hold;
    ValueError for a tolerance that is negative or NaN.
    """
    if not secrets:
        raise SecretError("no secret to verify with")
    if not tolerance_s >= 0:  # NaN as well, which no age would exceed
        raise ValueError(f"tolerance_s is {tolerance_s}; it must be a number of seconds from 0 on")
    values = _webhook_headers(headers)
    webhook_id, timestamp, signatures = values[ID_HEADER], values[TIMESTAMP_HEADER], values[SIGNATURE_HEADER]
    if not _ID.fullmatch(webhook_id):
        raise VerificationError("webhook-id is not 1 to 255 printable ASCII characters without a full stop")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise VerificationError("webhook-timestamp is not a whole number of seconds")
    if len(signatures) > _MAX_LIST_CHARS:
        raise VerificationError(f"webhook-signature is longer than {_MAX_LIST_CHARS} characters")

    age_s = now_s - int(timestamp)
    if not -tolerance_s <= age_s <= tolerance_s:
        age = f"{-age_s:.0f} s in the future" if age_s < 0 else f"{age_s:.0f} s old"
        raise VerificationError(
            f"webhook-timestamp is {age}; at most {tolerance_s:g} s are accepted", "too_new" if age_s < 0 else "too_old"
        )

    versions = sorted({secret.version for secret in secrets})
    entries = {version: [e for e in signatures.split() if e.startswith(f"{version},")] for version in versions}
    if not any(entries.values()):
        raise VerificationError(f"webhook-signature has no {' or '.join(versions)} entry", "unsigned")
    content = f"{webhook_id}.{timestamp}.".encode("ascii") + body
    matched = False
    for secret in secrets:
        matched |= secret.matches(content, entries[secret.version])
    if not matched:
        raise VerificationError(
            "no signature matches: the secret is another, or the id, timestamp or body was changed", "no_match"
        )
    return VerifiedWebhook(webhook_id, int(timestamp))


def _webhook_headers(headers: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        if lower not in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER):
            continue
        # Taking either of two would let a proxy and the receiver disagree about which one was signed.
        if lower in found:
            raise VerificationError(f"{lower} is there more than once")
        found[lower] = value
    missing = [name for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER) if name not in found]
    if missing:
        raise VerificationError(f"{' and '.join(missing)} missing: the request is not a signed webhook", "unsigned")
    return found
