"""The ids of callbacks, which nobody may foresee.

Owns how they are made. Called by who registers callbacks.
"""

import secrets
from functools import lru_cache

__all__ = ["new_callback_id"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: sorts as the number does
_RANDOM = _ALPHABET.encode() * 8  # what each byte stands for: its last five bits


def new_callback_id(now: int) -> str:
    """Make a callback id: ``cb_`` and 26 characters, 48 bits of ``now`` (ms) then 80 random bits.

    The layout is ULID's: ids sort by time, so that the id index grows at its end and stays compact.
    """
    return _id_of_time(now) + secrets.token_bytes(16).translate(_RANDOM).decode()


@lru_cache(maxsize=64)  # many are made within a millisecond
def _id_of_time(now: int) -> str:
    return "cb_" + "".join([_ALPHABET[(now >> 5 * place) & 31] for place in reversed(range(10))])
