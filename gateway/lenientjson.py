"""JSON as common readers take it: one lenient reader for all that the upstream sends, JSON in its strings included.

Owns what is taken beyond RFC 8259, and that what it returns can be encoded again; pure. What a value means is not known
here. Called by ``outcome`` for answers, and by the proxy for what goes on to the upstream.

Taken are a byte order mark, UTF-16 and UTF-32, control characters within text, and what cannot be told again: half an
emoji and bytes that are no UTF-8 become U+FFFD; NaN, Infinity and numbers beyond a float become null.
"""

import json
import math
from typing import Any

import msgspec

__all__ = ["decode"]

_MAX_DIGITS = 4300  # from there on int() refuses, and msgspec would not write it


def decode(data: bytes | str) -> Any:
    """Return the value. Raises ValueError with the reason, and RecursionError where it is nested too deeply."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    text = data.decode(json.detect_encoding(data), "replace") if isinstance(data, bytes) else data
    try:
        return _mended(_lenient.decode(text.removeprefix("\ufeff")))
    except json.JSONDecodeError as exc:
        reason = "it ends too early" if exc.pos >= len(exc.doc.rstrip()) else exc.msg[:1].lower() + exc.msg[1:]
        raise ValueError(f"JSON is malformed: {reason} (character {exc.pos})") from None


def _number(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _whole(text: str) -> int | None:
    return int(text) if len(text) <= _MAX_DIGITS else None


def _null(_constant: str) -> None:
    return None


_lenient = json.JSONDecoder(strict=False, parse_float=_number, parse_int=_whole, parse_constant=_null)


def _mended(value: Any) -> Any:
    """Return a value without lone surrogates, which no encoding has."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(name): _mended(item) for name, item in value.items()}
    return value
