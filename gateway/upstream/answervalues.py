"""One value of an upstream's answer, as it is meant: the family writes the same in many ways.

Owns which numbers, texts, ids and times are read, and which are none; pure. Must not know what they mean: that is for
``gateway.upstream.answer`` and ``endedtask``, which call it.
"""

from typing import Any, NamedTuple

import msgspec

from gateway.config.profile import Profile
from gateway.core import lenientjson
from gateway.core.clock import from_iso

_MAX_DIGITS = 19  # a longer number in a string is none; from 4,301 digits on, int() itself refuses
_MAX_WHOLE = 2**53  # beyond it floats are not exact


class Decoded(NamedTuple):
    """What a value says."""

    value: Any
    raw: str | None = None
    """The text, where that is no JSON."""
    error: str | None = None
    """Why it is none."""
    is_whole: bool = True
    """Whether nothing was lost of a text: of a number that JSON has not, or of half an emoji, something is."""


def decoded(value: Any, in_string: bool) -> Decoded:
    """Return what a value says, which may be JSON in a string."""
    if value == "" or not in_string or not isinstance(value, str):
        return Decoded(None if value == "" else value)
    try:
        found, is_whole = lenientjson.read(value)
    except ValueError as exc:
        return Decoded(None, value, str(exc))
    if found is None and value.strip() != "null":
        return Decoded(None, value, "it is a number that JSON cannot tell")
    return Decoded(found, is_whole=is_whole)


def as_text(value: Any) -> str | None:
    """Fold the family's variety: integer codes become strings, an empty string is no value."""
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else msgspec.json.encode(as_whole(value)).decode()


def as_number(value: Any) -> int | float | None:
    """Return a number, which may stand in a text; None for anything else, true and false too."""
    if type(value) is int:
        return value
    if isinstance(value, float):
        whole: int | float = as_whole(value)
        return whole
    if isinstance(value, str) and len(value) <= _MAX_DIGITS and (digits := value.removesuffix(".0")).isdecimal():
        return int(digits)
    return None


def as_whole(value: Any) -> Any:
    """Return 1 for 1.0: some languages know no whole numbers, and some serialisers write all of theirs so."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= _MAX_WHOLE:
        return int(value)
    return value


def as_id(value: Any) -> Any:
    """Return an id as the text that clients have, which may be a number in an answer; anything else as it is."""
    if isinstance(value, str):
        return value
    value = as_whole(value)
    return str(value) if type(value) is int else value


def to_ms(seconds: int | float | None) -> int | None:
    """Return milliseconds; None where there are none to tell."""
    # Nothing larger is a time, and a thousand times that may be too large to round.
    return round(seconds * 1000) if seconds is not None and abs(seconds) < 1e11 else None


def as_time(profile: Profile, value: Any) -> int | float | None:
    """Return an instant in milliseconds, None where it is not written as the profile says."""
    if profile.units.time == "ms":
        return as_number(value)
    if profile.units.time == "s":
        return to_ms(as_number(value))
    if not isinstance(value, str):
        return None
    for zone in ("", profile.units.zone):
        try:
            return None if zone is None else from_iso(value + zone)
        except (ValueError, OverflowError):
            continue
    return None


def as_instant(number: int | float | None) -> int | None:
    """Return a number that may be a time of creation; None for any other."""
    # Milliseconds between 2001 and 2286; anything else is not a creation time.
    return int(number) if number is not None and 1e12 <= number < 1e13 else None
