"""Standard Webhooks 1.0 signatures: secrets, signing, verifying.

Owns the form of ``whsec_`` secrets, the signed content ``id.timestamp.body`` and the three ``webhook-…`` headers.
Pure: no I/O, no clock, no settings; the caller says what time it is. The deliverer signs with ``Signer``; the receiver
and people's own Python receivers call ``verify``.

The signature header is a list of ``version,signature`` entries. Each kind of key makes its own version of entry from
the same content, so another version is another key class with ``entry`` and a line in ``verify``.
"""

import hashlib
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from secrets import token_bytes

from itsdangerous.signer import HMACAlgorithm

from gateway.errors import SecretError, VerificationError

__all__ = [
    "ID_HEADER",
    "SIGNATURE_HEADER",
    "TIMESTAMP_HEADER",
    "Secret",
    "Signer",
    "VerifiedWebhook",
    "make_secret",
    "parse_secret",
    "parse_secrets",
    "verify",
]

ID_HEADER = "webhook-id"
TIMESTAMP_HEADER = "webhook-timestamp"
SIGNATURE_HEADER = "webhook-signature"

_PREFIX = "whsec_"
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


@dataclass(frozen=True, slots=True)
class Secret:
    """A key that sender and receiver share. Neither repr nor str shows it, so a log line cannot leak it."""

    key: bytes = field(repr=False)

    def entry(self, content: bytes) -> str:
        """Sign the content as one ``v1,…`` entry of the signature header."""
        return "v1," + b2a_base64(_hmac_sha256(self.key, content), newline=False).decode("ascii")


def parse_secret(text: str) -> Secret:
    """Read a secret: base64 of 24 to 64 bytes, padded or not, with or without ``whsec_`` before it.

    Raises SecretError, which says what is wrong without repeating any of the text.
    """
    encoded = text.strip().removeprefix(_PREFIX).rstrip("=")
    if not encoded:
        raise SecretError("the secret is empty; `gateway make-secret` makes one")
    try:
        key = a2b_base64(encoded + "=" * (-len(encoded) % 4), strict_mode=True)
    except ValueError:
        raise SecretError("the secret is not whsec_ followed by base64 (letters, digits, + and /)") from None
    if not _MIN_KEY_BYTES <= len(key) <= _MAX_KEY_BYTES:
        raise SecretError(f"the secret has {len(key)} bytes; it must have {_MIN_KEY_BYTES} to {_MAX_KEY_BYTES}")
    return Secret(key)


def parse_secrets(text: str) -> tuple[Secret, ...]:
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
    return _PREFIX + b2a_base64(token_bytes(_NEW_KEY_BYTES), newline=False).decode("ascii")


class Signer:
    """Signs with every secret at once, so that receivers verify with the old or the new one while secrets rotate."""

    def __init__(self, secrets: Sequence[Secret]) -> None:
        if not secrets:
            raise SecretError("no secret to sign with")
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
    secrets: Sequence[Secret],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_s: float,
    tolerance_s: float = 300,
) -> VerifiedWebhook:
    """Check that a holder of any of the secrets sent exactly this body, at most ``tolerance_s`` seconds from now.

    ``headers`` is the request's headers, names in any case; ``body`` its bytes as received, before any decoding.
    Signatures are compared in constant time. Raises VerificationError, and nothing else whatever the headers hold.
    """
    if not secrets:
        raise SecretError("no secret to verify with")
    values = _webhook_headers(headers)
    webhook_id, timestamp, signatures = values[ID_HEADER], values[TIMESTAMP_HEADER], values[SIGNATURE_HEADER]
    if not _ID.fullmatch(webhook_id):
        raise VerificationError("webhook-id is not 1 to 255 printable ASCII characters without a full stop")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise VerificationError("webhook-timestamp is not a whole number of seconds")
    if len(signatures) > _MAX_LIST_CHARS:
        raise VerificationError(f"webhook-signature is longer than {_MAX_LIST_CHARS} characters")

    age_s = now_s - int(timestamp)
    if age_s > tolerance_s:
        raise VerificationError(f"webhook-timestamp is {age_s:.0f} s old; at most {tolerance_s:g} s are accepted")
    if age_s < -tolerance_s:
        raise VerificationError(
            f"webhook-timestamp is {-age_s:.0f} s in the future; at most {tolerance_s:g} s are accepted"
        )

    # Whole entries are compared as text, never decoded: a malformed one is then just one that does not match, and
    # there is one spelling of each signature only.
    entries = [entry.encode("utf-8", "replace") for entry in signatures.split() if entry.startswith("v1,")]
    if not entries:
        raise VerificationError("webhook-signature has no v1 entry")
    content = f"{webhook_id}.{timestamp}.".encode("ascii") + body
    matched = False
    for secret in secrets:
        expected = secret.entry(content).encode("ascii")
        for entry in entries:
            matched |= compare_digest(expected, entry)
    if not matched:
        raise VerificationError("no signature matches: the secret is another, or the id, timestamp or body was changed")
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
        raise VerificationError(f"{' and '.join(missing)} missing: the request is not a signed webhook")
    return found
