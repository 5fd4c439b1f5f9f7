"""Clients' tokens and their hashes, as the TOML file has them: ``sha256:`` and the hex digest of the token. Pure.

SHA-256 without salt and stretching is enough for tokens that were made here, with 256 random bits: nobody finds them by
trying. It would not be for a password.
"""

import hashlib
import re
from secrets import token_urlsafe

_PREFIX = "sha256:"
_TOKEN_BYTES = 32


def make_token() -> str:
    """Make a new random token."""
    return f"gwt_{token_urlsafe(_TOKEN_BYTES)}"


def token_digest(token: str) -> bytes:
    """Return what is compared in the place of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def hash_line(token: str) -> str:
    """Return the written form of a token's hash."""
    return f"{_PREFIX}{token_digest(token).hex()}"


def parse_hashes(text: str) -> tuple[bytes, ...]:
    """Return the digests of at least one hash; the ValueError never repeats the text, which may be the token itself."""
    hashes = text.split()
    if not hashes or not all(re.fullmatch(rf"{_PREFIX}[0-9a-fA-F]{{64}}", word) for word in hashes):
        raise ValueError(
            "write sha256: and the 64 hex digits of the token's SHA-256; `gateway make-secret --token` prints it"
        )
    return tuple(bytes.fromhex(word.removeprefix(_PREFIX)) for word in hashes)
