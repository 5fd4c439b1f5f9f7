"""W3C Trace Context: a request's ``traceparent`` and ``tracestate`` → one text that is kept → the same two headers.

Owns what counts as valid (Recommendation of 23 November 2021, and level 2, which differs only in flags). What does not
is as if it were not there, never an error. Pure. Called by the API, which keeps it with a callback, and by who sends.

A *trace* is that text: traceparent, and where there is one a blank and tracestate. None: there is no trace.
"""

import re
from collections.abc import Iterable

_MOST_PARENT = 128
"""Of version 00 it has 55; a later version may have more."""
_MOST_STATE = 512
"""Characters that whoever passes a tracestate on must not drop (§3.3.1.5)."""
_LONG_MEMBER = 128
"""Members longer than this are dropped first where it has more."""
_MOST_MEMBERS = 32

_PARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<more>-.*)?"
)
_MEMBER = re.compile(
    r"[a-z0-9][a-z0-9_\-*/]{0,255}(@[a-z][a-z0-9_\-*/]{0,13})?=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


def trace_in(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the trace that a request's headers tell, whose names are in lower case."""
    parents, states = [], []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
    if len(parents) != 1:
        return None
    parent = parents[0].decode("latin-1").strip(" \t")
    found = _PARENT.fullmatch(parent)
    if found is None or len(parent) > _MOST_PARENT or not (parent.isascii() and parent.isprintable()):
        return None
    if " " in parent or (found["more"] and found["version"] == "00"):
        return None
    state = _state(b",".join(states).decode("latin-1")) if states else ""
    return f"{parent} {state}" if state else parent


def _state(text: str) -> str:
    """Return a tracestate as it is passed on; empty where it is not valid, or has nothing."""
    members = [member for each in text.split(",") if (member := each.strip(" \t"))]
    if len(members) > _MOST_MEMBERS or not all(map(_MEMBER.fullmatch, members)):
        return ""
    if _size(members) > _MOST_STATE:
        members = [member for member in members if len(member) <= _LONG_MEMBER]
    while _size(members) > _MOST_STATE:
        members.pop()  # the oldest stands last
    return ",".join(members)


def _size(members: list[str]) -> int:
    return sum(map(len, members)) + len(members) - 1


def headers_of(trace: str | None) -> dict[str, str]:
    """Return the headers that pass a trace on."""
    if trace is None:
        return {}
    parent, _, state = trace.partition(" ")
    return {"traceparent": parent, "tracestate": state} if state else {"traceparent": parent}
