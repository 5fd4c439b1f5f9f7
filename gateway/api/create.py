"""What the proxy reads of a create request, and what of it goes on to the upstream.

Owns the taking out of the callback URL; no I/O. Used by the proxy.
"""

import re

import msgspec

from gateway.api.schema import decode
from gateway.errors import InvalidRequest

__all__ = ["CreateRequest", "read_create"]

_MODEL = re.compile(r"[ -~]{1,255}")

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any = msgspec.json.Decoder()


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A create request."""

    body: bytes
    """What goes on: as it came but for the callback members, every other value in its own text."""
    model: str | None
    callback: tuple[str, str] | None
    """The member that names the callback URL, and the URL."""


def read_create(body: bytes, callback_members: list[str]) -> CreateRequest:
    """Take a create request apart. Raises InvalidJson and InvalidRequest."""
    members = decode(body, _members)
    found: dict[str, str] = {}
    named = [name for name in callback_members if name in members]
    for name in named:
        value = decode(members.pop(name), _any)
        if value is None or value == "":
            continue  # some clients always send the member
        if not isinstance(value, str):
            raise InvalidRequest(f"{name}: must be a URL.")
        found[name] = value
    if len(set(found.values())) > 1:
        raise InvalidRequest(f"{' and '.join(found)} name different URLs; send one of them.")
    model = decode(members["model"], _any) if "model" in members else None
    return CreateRequest(
        body=msgspec.json.encode(members) if named else body,
        model=model if isinstance(model, str) and _MODEL.fullmatch(model) else None,
        callback=next(iter(found.items()), None),
    )
