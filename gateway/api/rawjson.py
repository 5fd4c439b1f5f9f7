"""JSON text taken apart unread: the members of an object and the items of an array, each where it stands in the bytes.

Pure. Whether a part is JSON whoever takes it finds out. Used where parts go on byte for byte, or where one must not
spoil the others: a decoder reads what it passes over, and stops at half an emoji or at a thousand brackets.
"""

import re
from typing import NamedTuple

from gateway.core import lenientjson

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_NEXT = re.compile(rb'(?:[^"\[\]{},]++|%b)*+[\[\]{},]' % _STRING, re.DOTALL)
_NEXT_INSIDE = re.compile(rb'(?:[^"\[\]{}]++|%b)*+[\[\]{}]' % _STRING, re.DOTALL)
_NAME = re.compile(rb"\s*+(%b)\s*+:" % _STRING, re.DOTALL)
_BEGINNING = re.compile(rb"(?:\xef\xbb\xbf)?\s*+")
_MOST_STEPS = 1_000_000  # a third of a second; ordinary requests need some thousands


class Member(NamedTuple):
    """One member of an object."""

    name: str
    start: int
    """Where it begins, after the comma or bracket before it; the value follows its name."""
    value: int
    """Where its value begins, blanks included."""
    end: int
    """Where it ends, at the comma or bracket that follows."""


def members(text: bytes, most: int = _MOST_STEPS) -> list[Member]:
    """Return an object's members in their order, one that stands twice twice.

    Raises ValueError where it is none, and where it has more than ``most``.
    """
    beginning = _BEGINNING.match(text)
    opening = 0 if beginning is None else beginning.end()
    if text[opening : opening + 1] != b"{":
        raise ValueError("this is no object")
    parts, end = _parts(text, opening, most)
    if len(parts) > most or text[end:].strip():
        raise ValueError("more follows the object")
    found = []
    for start, stop in parts:
        name = _NAME.match(text, start, stop)
        if name is None:
            raise ValueError("a member has no name")
        found.append(Member(str(lenientjson.decode(name[1])), start, name.end(), stop))
    return found


def items(text: bytes, member: Member, most: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Return where each item of a member's array stands, and where the array does. Raises ValueError as above.

    Of more than ``most`` items the first ones, and one more: nothing is said of the rest.
    """
    opening = text.find(b"[", member.value, member.end)
    if opening < 0 or text[member.value : opening].strip():
        raise ValueError("this is no array")
    parts, end = _parts(text, opening, most)
    if len(parts) <= most and text[end : member.end].strip():
        raise ValueError("more follows the array")
    return parts, (opening, end)


def _parts(text: bytes, opening: int, most: int) -> tuple[list[tuple[int, int]], int]:
    """Return what stands between the commas of the object or array that opens there, and where it has ended.

    Of more than ``most`` parts one more than these.
    """
    parts = []
    depth = 1
    start = at = opening + 1
    for _ in range(_MOST_STEPS):
        found = (_NEXT if depth == 1 else _NEXT_INSIDE).match(text, at)
        if found is None:
            break
        at = found.end()
        mark = text[at - 1]
        depth += (mark in b"[{") - (mark in b"]}")
        if depth == 0 or mark == ord(","):
            parts.append((start, at - 1))
            start = at
            if len(parts) > most:
                return parts, at
        if depth == 0:
            blank = [not text[first:last].strip() for first, last in parts]
            if text[at - 1] != text[opening] + 2 or (any(blank) and len(parts) > 1):
                break
            return ([] if blank[0] else parts), at
    raise ValueError("brackets and quotes do not match")
