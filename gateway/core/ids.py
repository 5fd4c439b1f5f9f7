"""Callback ids.

Pure but for chance, which nobody may foresee. Called by the API where a callback is registered.
"""

import secrets
from functools import lru_cache

__all__ = ["new_callback_id"]

_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: sorts as the number does
_ID_RANDOM = _ID_ALPHABET.encode() * 8  # what each byte stands for: its last five bits


def new_callback_id(now: int) -> str:
    """Make a callback id: ``cb_`` and 26 characters, 48 bits of ``now`` (ms) then 80 random bits.

    The layout is ULID's: ids sort by time, so that the id index grows at its end and stays compact.
    """
    return _id_of_time(now) + secrets.token_bytes(16).translate(_ID_RANDOM).decode()


@lru_cache(maxsize=64)  # many are made within a millisecond
def _id_of_time(now: int) -> str:
    return "cb_" + "".join([_ID_ALPHABET[(now >> 5 * place) & 31] for place in reversed(range(10))])
