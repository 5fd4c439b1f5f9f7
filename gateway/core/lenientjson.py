"""JSON as common readers take it: one lenient reader for all that the upstream sends, JSON in its strings included.

Owns what is taken beyond RFC 8259, and that what it returns can be encoded again; pure. Must not know what a value
means.

Taken are a byte order mark, UTF-16 and UTF-32, control characters within text, and what cannot be told again: half an
emoji and bytes that are no UTF-8 become U+FFFD; NaN, Infinity and numbers beyond a float become null. Where a value is
nested too deeply to be read, what stands below 64 levels becomes a string: its JSON text.
"""

import json
import math
import re
from typing import Any

import msgspec

_VALUE = 72  # bytes of the largest empty value, and of its place
# A text without an end takes all that is left: else each quote in it began a search.
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_MOST_TEXTS = 100_000  # that are looked at one by one
_MAX_DIGITS = 4300  # from there on int() refuses, and msgspec would not write it
_LEVELS = 64  # nobody's paths are as long
_MOST_BRACKETS = 150_000  # brackets, or rows of them: a tenth of a second; ordinary answers have some hundreds
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LIGHT = 4096  # values, or bytes: two milliseconds where each is looked at
_BRACKETS = re.compile(r'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+([\[{]++|[\]}]++)', re.DOTALL)


def is_light(data: bytes) -> bool:
    """Return whether decoding this takes no longer than an event loop may be held up, however odd it is."""
    return len(data) <= _LIGHT or _marks(data) <= _LIGHT


def cost(data: bytes) -> int:
    """Return about how many bytes of memory it takes at most to decode this, and to encode it again.

    A text takes what it takes, or four times as much where one character is beyond ASCII, and is there once more while
    JSON in it is read; each value is an object of its own, however short.
    """
    marks = _marks(data)
    wide = 0
    if not _is_plain(data):
        texts = [data] if marks > _MOST_TEXTS else (found[0] for found in _TEXT.finditer(data))
        wide = sum(len(text) for text in texts if not _is_plain(text))
    return 4 * (len(data) + wide) + _VALUE * marks


def _marks(data: bytes) -> int:
    return sum(map(data.count, (b",", b"[", b"{")))


def _is_plain(data: bytes) -> bool:
    return data.isascii() and b"\\u" not in data


def decode(data: bytes | str) -> Any:
    """Return the value. Raises ValueError with the reason."""
    return read(data)[0]


def read(data: bytes | str) -> tuple[Any, bool]:
    """Return the value, and whether it is all that stands there: JSON by RFC 8259. Raises as ``decode``."""
    try:
        return msgspec.json.decode(data), True
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _leniently(data), False


def _leniently(data: bytes | str) -> Any:
    text = data.decode(json.detect_encoding(data), "replace") if isinstance(data, bytes) else data
    text = text.removeprefix("\ufeff")
    try:
        try:
            return _read(text)
        except RecursionError:
            return _read(_shallow(text))
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    except json.JSONDecodeError as exc:
        reason = "it ends too early" if exc.pos >= len(exc.doc.rstrip()) else exc.msg[:1].lower() + exc.msg[1:]
        raise ValueError(f"JSON is malformed: {reason} (character {exc.pos})") from None


def _shallow(text: str) -> str:
    """Return JSON text whose innermost levels are strings. Raises ValueError where it has too many brackets."""
    done: list[str] = []
    depth = start = end = 0
    for _ in range(_MOST_BRACKETS):
        found = _BRACKETS.match(text, end)  # no search: behind the last bracket each further character would begin one
        if found is None:
            return "".join((*done, text[start:]))
        end = found.end()
        before = depth
        if text[found.start(1)] in "[{":
            depth += end - found.start(1)
            if before <= _LEVELS < depth:
                at = found.start(1) + _LEVELS - before
                done.append(text[start:at])
                start = at
        else:
            depth -= end - found.start(1)
            if depth <= _LEVELS < before:
                at = found.start(1) + before - _LEVELS
                done.append(json.dumps(text[start:at]))
                start = at
    raise ValueError("JSON is nested too deeply")


def _number(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _whole(text: str) -> int | None:
    return int(text) if len(text) - text.startswith("-") <= _MAX_DIGITS else None


_lenient = json.JSONDecoder(strict=False, parse_float=_number, parse_int=_whole, parse_constant=lambda _: None)


def _read(text: str) -> Any:
    value = _lenient.decode(text)
    return _mended(value) if _ESCAPED_SURROGATE.search(text) else value


def _mended(value: Any) -> Any:
    """Return a value without lone surrogates, which no encoding has."""
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(name): _mended(item) for name, item in value.items()}
    return value
