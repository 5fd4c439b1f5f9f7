"""Key pairs for webhooks: the ``v1a`` entries of the signature header (ed25519, RFC 8032).

Owns both kinds: ``whsk_`` signs and stays with the sender, ``whpk_`` verifies and forges nothing. Needs the package's
extra of the same name, so only ``gateway.signature`` imports it, where it meets such a key. Pure.
"""

from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.core.errors import SecretError

_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class PairKey:
    """Both keys of a pair, or the public one alone, which verifies only. Neither repr nor str shows them."""

    version: ClassVar[str] = "v1a"
    public: Ed25519PublicKey = field(repr=False)
    private: Ed25519PrivateKey | None = field(default=None, repr=False)

    @property
    def signs(self) -> bool:
        return self.private is not None

    def entry(self, content: bytes) -> str:
        """Raises SecretError for a public key."""
        if self.private is None:
            raise SecretError("a public key (whpk_) verifies only; sign with its whsk_ key")
        return "v1a," + b64encode(self.private.sign(content)).decode("ascii")

    def matches(self, content: bytes, entries: Sequence[str]) -> bool:
        return any(self._signed(content, entry.partition(",")[2]) for entry in entries)

    def _signed(self, content: bytes, encoded: str) -> bool:
        try:
            signature = a2b_base64(encoded, strict_mode=True)
            # Only one spelling of a signature counts, as with v1: base64 leaves some bits of its end open.
            if b64encode(signature).decode("ascii") != encoded:
                return False
            self.public.verify(signature, content)
        except (ValueError, InvalidSignature):
            return False
        return True


def read_signing_key(raw: bytes) -> PairKey:
    """Read the bytes of a ``whsk_`` key: a seed of 32, or the 64 of the seed and its public key.

    Raises SecretError for another length, or a public key that is not the seed's.
    """
    if len(raw) not in (_KEY_BYTES, 2 * _KEY_BYTES):
        raise SecretError(f"the whsk_ key has {len(raw)} bytes; it must have {_KEY_BYTES} or {2 * _KEY_BYTES}")
    key = Ed25519PrivateKey.from_private_bytes(raw[:_KEY_BYTES])
    public = key.public_key()
    if raw[_KEY_BYTES:] not in (b"", public.public_bytes_raw()):
        raise SecretError("the whsk_ key's second half is not the public key of its first")
    return PairKey(public, key)


def read_public_key(raw: bytes) -> PairKey:
    """Read the 32 bytes of a ``whpk_`` key; raises SecretError for another length."""
    if len(raw) != _KEY_BYTES:
        raise SecretError(f"the whpk_ key has {len(raw)} bytes; it must have {_KEY_BYTES}")
    return PairKey(Ed25519PublicKey.from_public_bytes(raw))


def make_key_pair() -> tuple[bytes, bytes]:
    """Make a new random pair: the bytes of the ``whsk_`` key (seed and public key) and of the ``whpk_`` key."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    return key.private_bytes_raw() + public, public
