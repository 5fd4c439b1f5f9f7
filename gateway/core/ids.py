"""The ids of callbacks and of operator events, which nobody may foresee.

Owns how they are made. Called by who makes them.
"""

import secrets
from functools import lru_cache

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: sorts as the number does
_RANDOM = _ALPHABET.encode() * 8  # what each byte stands for: its last five bits
_AT_ONCE = 64
_drawn: list[str] = []  # and not given to anybody yet


def new_callback_id(now: int) -> str:
    """Make a callback id: ``cb_`` and 26 characters, 48 bits of ``now`` (ms) then 80 random bits.

    The layout is ULID's: ids sort by time, so that the id index grows at its end and stays compact.
    """
    return "cb_" + _id_of_time(now) + _random_letters()


def new_event_id(now: int) -> str:
    """Make the id of an operator event: ``evt_``, and the same."""
    return "evt_" + _id_of_time(now) + _random_letters()


def _random_letters() -> str:
    """Return 16 letters of 5 random bits each. In any thread: the database's makes ids of events."""
    try:
        return _drawn.pop()
    except IndexError:
        pass
    # One call for many: each gives the interpreter's lock away.
    letters = secrets.token_bytes(16 * _AT_ONCE).translate(_RANDOM).decode()
    its, *others = [letters[start : start + 16] for start in range(0, len(letters), 16)]
    _drawn.extend(others)
    return its


@lru_cache(maxsize=64)  # many are made within a millisecond
def _id_of_time(now: int) -> str:
    return "".join([_ALPHABET[(now >> 5 * place) & 31] for place in reversed(range(10))])
