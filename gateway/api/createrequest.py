"""What the proxy reads of a create request, and what of it goes on to the upstream; no I/O.

All but the callback URL and its options goes on byte for byte, as the upstream may read what the gateway would not.
"""

import re
from typing import Any

import msgspec

from gateway.api.rawjson import Member, members
from gateway.config.profile import Proxy
from gateway.core import lenientjson
from gateway.core.errors import InvalidJson, InvalidRequest

_MODEL = re.compile(r"[ -~]{1,255}")


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A create request."""

    body: bytes
    """What goes on: the bytes that came, but for the callback's members."""
    content_type: str
    """What it goes on as."""
    model: str | None
    callback: tuple[str, str] | None
    """The member that names the callback URL, and the URL."""


def is_form(content_type: str) -> bool:
    """Whether a body calls itself a form with files."""
    return content_type.lower().startswith("multipart/")


def read_create(body: bytes, calls: Proxy, content_type: str) -> CreateRequest:
    """Take a create request apart. Raises InvalidJson and InvalidRequest.

    A form with files goes on as it is, whatever it holds; all else is JSON, whatever it calls itself.
    """
    if is_form(content_type):
        return CreateRequest(body=body, content_type=content_type, model=None, callback=None)
    parts = _members(body)
    named = [part for part in parts if part.name in calls.callback_members]
    found = [(part.name, url) for part in named if (url := _url(body, part)) is not None]
    if len({url for _, url in found}) > 1:
        names = " and ".join(dict.fromkeys(name for name, _ in found))
        raise InvalidRequest(f"{names} name different URLs; send one of them.")
    models = [_value(body, part) for part in parts if part.name == "model"]
    model = models[-1] if models else None  # of a member that stands twice the last counts
    if named:
        named += [part for part in parts if part.name in calls.callback_options]
    stand_in = calls.callback_stand_in if found else None
    return CreateRequest(
        body=_without(body, parts, named, stand_in) if named else body,
        content_type="application/json",
        model=model if isinstance(model, str) and _MODEL.fullmatch(model) else None,
        callback=found[0] if found else None,
    )


def _members(body: bytes) -> list[Member]:
    try:
        if not isinstance(lenientjson.decode(body), dict):
            raise InvalidRequest("The body must be a JSON object.")
    except ValueError as exc:
        raise InvalidJson(f"The body could not be read as JSON: {exc}.") from None
    try:
        return members(body)
    except ValueError as exc:
        raise InvalidJson(f"The body could not be read as JSON in UTF-8: {exc}.") from None


def _url(body: bytes, part: Member) -> str | None:
    value = _value(body, part)
    if value is None or value == "":
        return None  # some clients always send the member
    if not isinstance(value, str):
        raise InvalidRequest(f"{part.name}: must be a URL.")
    if "\ufffd" in value:
        raise InvalidJson(f"{part.name}: must be a URL, and holds half of an emoji or bytes that are not UTF-8.")
    return value


def _value(body: bytes, part: Member) -> Any:
    try:
        return lenientjson.decode(body[part.value : part.end])
    except ValueError:
        return ...  # neither absent nor of any use


def _without(body: bytes, parts: list[Member], left_out: list[Member], stand_in: str | None) -> bytes:
    """Return the body without some members; ``stand_in`` is written as the value of the first of these."""
    kept = [body[part.start : part.end] for part in parts if part not in left_out]
    if stand_in is not None:
        kept.append(body[left_out[0].start : left_out[0].value] + b'"%b"' % stand_in.encode())
    return body[: parts[0].start] + b",".join(kept) + body[parts[-1].end :]
