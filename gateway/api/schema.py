"""Request bodies: what they may hold, and how they are read.

Owns their names on the wire, and what is said of a mistake in one. Used by the routes; answers are ``views``.
"""

import codecs
import json
import re
from contextlib import suppress
from functools import cache
from io import BytesIO
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from gateway.api.large import hold
from gateway.api.rawjson import items, members
from gateway.core.errors import (
    InvalidJson,
    InvalidRequest,
    RequestError,
    TooLarge,
    UnsupportedMediaType,
    without_frames,
)
from gateway.core.model import Format

DEFAULT_TIMEOUT_S = 86_400
MAX_BODY = 64 * 1024
"""Bytes of a body, but of a batch's."""
MAX_METADATA = 8 * 1024
MAX_DEPTH = 100
"""Objects and arrays within one another, in ``metadata``: many a receiver's reader takes few more."""
MAX_BATCH = 1000
COST = 4
"""A request takes at most so many times its size: itself, what is read of it, its answer; a batch's items more."""

T = TypeVar("T")

_EXPLAINED = 64 * 1024  # bytes of a body up to which it is looked at again to say what is wrong with it
_LENGTH_DIGITS = 18

_JSON_TYPE = re.compile(r"application/json\s*(;|$)", re.IGNORECASE)

# The clients of /openapi.json read patterns, too: ECMA-262 has no \Z, and Python's $ lets a last newline through.
END = r"(?![\s\S])"
TASK_ID_PATTERN = rf"^[!-~]+{END}"
TASK_ID = re.compile(r"[!-~]{1,255}")
TaskId = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=255,
        pattern=TASK_ID_PATTERN,
        description="The task's id at the upstream: printable ASCII characters without spaces.",
    ),
]
# RFC 3339, without leap seconds; where the zone might lead out of the years 1 to 9999, only in UTC.
_INSTANT = (
    r"^(?!0000|(?:0001|9999).{6}.*[+-])[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
    r"[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])" + END
)
_CLIENT = rf"^[a-z0-9][a-z0-9-]{{0,63}}{END}"
CLIENT = re.compile(_CLIENT)


def _instant(description: str) -> msgspec.Meta:
    return msgspec.Meta(pattern=_INSTANT, description=description, extra_json_schema={"format": "date-time"})


# A whole number may be written 3600.0, as JSON Schema has it.
Timeout = Annotated[
    float,
    msgspec.Meta(
        ge=1,
        le=2_592_000,
        multiple_of=1,
        description="How many seconds from now the task may take; with no end by then the webhook is task.abandoned. "
        "Without it 86,400.",
    ),
]
Model = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=255,
        description="Which model works on the task, in the upstream's words: the first poll is then made when it pays.",
    ),
]
CallbackUrl = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=2048,
        description="Where the webhook goes: http or https, without a user name or fragment, and allowed by the "
        "gateway's callback policy: without a setting https to public addresses on port 443. Letters beyond ASCII are "
        "taken, too, where a name or a path may have them.",
    ),
]
Metadata = Annotated[
    dict[str, Any],
    msgspec.Meta(
        description="Comes back in the webhook. At most 8 KiB as JSON, 100 objects and arrays within one another, no "
        "number that is too large for a receiver, such as 1e400."
    ),
]
Receiver = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=2048,
        description="A URL: only those whose callback URLs begin with it, by whole segments of the path; no query "
        "counts. Another text, which may have no path: only those of receivers with it in their name, which is scheme, "
        "host and port of a callback URL, or the `match` of the table [[receivers]] that it went by.",
    ),
]
DryRun = Annotated[bool, msgspec.Meta(description="Only say how many there are; redeliver none.")]


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """Never part of a cycle, metadata decoded from JSON included: the garbage collector need not look at it."""


class CallbackRequest(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/callbacks``."""

    task_id: TaskId
    callback_url: CallbackUrl
    # A member that is null is as if left out.
    metadata: Metadata | None = {}
    timeout_seconds: Timeout | None = DEFAULT_TIMEOUT_S
    upstream: Annotated[str, msgspec.Meta(description="The upstream that has the task.")] | None = None
    model: Model | None = None
    format: Format | None = Format.STANDARD


# Whatever an item is, it is judged by itself, and the call takes it. In a generated client an item is a CallbackRequest
# all the same, as no object with members is the other.
_Unread = Annotated[
    msgspec.Raw,
    msgspec.Meta(
        extra_json_schema={
            "anyOf": [
                {"$ref": "#/components/schemas/CallbackRequest"},
                {
                    "description": "Anything else is refused, with a status of 4xx in its place of the answer.",
                    "type": ["array", "boolean", "null", "number", "object", "string"],
                    "items": {},
                },
            ]
        }
    ),
]


class BatchRequest(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/callbacks/batch``; each item is decoded by itself."""

    callbacks: Annotated[list[_Unread], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class RedeliveriesRequest(Wire, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/redeliveries``."""

    state: Literal["dead"]
    since: Annotated[str, _instant("The first instant at which they died; without it from the first on.")] | None = None
    until: Annotated[str, _instant("The instant before which they died, after since; without it now.")] | None = None
    client: (
        Annotated[str, msgspec.Meta(pattern=_CLIENT, description="For the operator alone: one client's.")] | None
    ) = None
    receiver: Receiver | None = None
    dry_run: DryRun | None = None


def is_json(content_type: str) -> bool:
    """Whether a body calls itself JSON."""
    return _JSON_TYPE.match(content_type) is not None


async def read_body(request: Request, limit: int) -> bytes:
    """Return a JSON request's body, without a BOM. Raises UnsupportedMediaType, or TooLarge above ``limit`` bytes."""
    if not is_json(header_of(request.scope, b"content-type") or ""):
        raise UnsupportedMediaType("Send the body as content-type: application/json.")
    refuse_compressed(request)
    return (await read_any_body(request, limit)).removeprefix(codecs.BOM_UTF8)


def refuse_compressed(request: Request) -> None:
    """Return where a body comes as it is. Raises UnsupportedMediaType."""
    if (header_of(request.scope, b"content-encoding") or "").strip().lower() not in ("", "identity"):
        error = UnsupportedMediaType("The body is compressed (content-encoding); send it as it is.")
        error.headers["accept-encoding"] = "identity"  # RFC 9110 §15.5.16
        raise error


async def read_any_body(request: Request, limit: int) -> bytes:
    """Return a request's body, whatever it calls itself, with room for what is made of it. Raises TooLarge."""
    # Without zeros before it: Python reads no number of thousands of digits.
    announced = (header_of(request.scope, b"content-length") or "").lstrip("0")
    if announced.isdecimal() and (len(announced) > _LENGTH_DIGITS or int(announced) > limit):
        raise _too_large(limit)
    message = await request.receive()
    if message["type"] == "http.request" and not message["more_body"] and len(message["body"]) <= limit:
        body: bytes = message["body"]  # all of it at once, as most are
        await hold(request, COST * len(body))
        return body
    gathered = BytesIO()  # gives the whole without a copy, which of megabytes took 40 ms
    room = 0
    while message["type"] != "http.disconnect":
        gathered.write(message["body"])
        if (size := gathered.tell()) > limit:
            raise _too_large(limit)
        if size > room:
            # For half as much again: whoever only announces much, or stops in the middle, holds what it has sent.
            room = size * 3 // 2
            await hold(request, COST * room)
        if not message["more_body"]:
            return gathered.getvalue()
        message = await request.receive()
    raise ClientDisconnect


def header_of(scope: Scope, wanted: bytes) -> str | None:
    """Return a request's first header of that name, in lower case; Starlette's own way takes five times as long."""
    for name, value in scope["headers"]:
        if name == wanted:
            return value.decode("latin-1")  # type: ignore[no-any-return]
    return None


def _too_large(limit: int) -> TooLarge:
    error = TooLarge(f"The body may have at most {limit} bytes.")
    # What is not read must not be taken for the connection's next request.
    error.headers["connection"] = "close"
    return error


def decode(body: bytes | msgspec.Raw, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode a body; raise InvalidJson, or InvalidRequest that names the field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        field, message = _explain(str(exc))
        raise invalid(field, message) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _unreadable(bytes(body), exc) from None


def batch_items(body: bytes) -> list[msgspec.Raw]:
    """Return a batch's items unread, so that one that cannot be read is not the others' fault. Raises as ``decode``."""
    found = None
    parts: list[tuple[int, int]] = []
    try:
        found = _first_items().decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        with suppress(ValueError):
            *_, batch = (member for member in members(body, MAX_BATCH) if member.name == "callbacks")
            parts, (start, end) = items(body, batch, MAX_BATCH)
    if 0 < len(parts) <= MAX_BATCH:
        # What is around the items is still to be judged: so many nothings stand for them.
        decode(body[:start] + msgspec.json.encode([None] * len(parts)) + body[end:], _batch)
        return [msgspec.Raw(body[first:last]) for first, last in parts]
    if found is None and not parts:
        found = decode(body, _first_items())  # which says what is wrong
    made = [] if found is None else [item for item in msgspec.structs.astuple(found.callbacks) if item is not None]
    if not 0 < (count := len(parts) or len(made)) <= MAX_BATCH:
        decode(msgspec.json.encode({"callbacks": [None] * count}), _batch)
    return made


@cache
def _first_items() -> "msgspec.json.Decoder[Any]":
    """Return what decodes a batch and makes one item more than it may have: six million of a large one took 400 MB."""
    fields = [(f"item_{number}", msgspec.Raw, None) for number in range(MAX_BATCH + 1)]
    first = msgspec.defstruct("_FirstItems", fields, array_like=True, gc=False)
    return msgspec.json.Decoder(msgspec.defstruct("_Batch", [("callbacks", first)], forbid_unknown_fields=True))


def read_metadata(text: bytes) -> dict[str, Any] | None:
    """Read ``metadata`` that stands by itself. Raises as ``decode`` and ``encode_metadata``."""
    metadata = decode(text.removeprefix(codecs.BOM_UTF8), _metadata)
    encode_metadata(metadata)
    return metadata


def encode_metadata(metadata: dict[str, Any] | None) -> bytes:
    """Return the bytes to keep and echo. Raises InvalidRequest for too much or too deep."""
    if metadata is None:
        return b"{}"
    try:
        encoded = msgspec.json.encode(metadata)
    except RecursionError:
        raise invalid("metadata", _TOO_DEEP) from None
    if len(encoded) > MAX_METADATA:
        raise invalid("metadata", f"may have at most {MAX_METADATA} bytes as JSON, has {len(encoded)}")
    if encoded.count(b"{") + encoded.count(b"[") > MAX_DEPTH and _is_deeper(metadata, MAX_DEPTH):
        raise invalid("metadata", _TOO_DEEP)
    return encoded


def _is_deeper(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is not None and (depth == 0 or any(_is_deeper(one, depth - 1) for one in inner))


def invalid(field: str, message: str) -> InvalidRequest:
    """Return what is said of one mistaken member, or parameter; without a name, of the whole."""
    return InvalidRequest(f"{field}: {message}" if field else message, errors=[(field, message)])


def _unreadable(body: bytes, error: Exception) -> RequestError:
    """Say what is wrong with a body that the decoder stopped at: it may be JSON all the same."""
    if len(body) > _EXPLAINED:
        return InvalidJson(f"The body could not be read as JSON: {error}.")
    try:
        with suppress(RecursionError):
            _plain.decode(body.decode("utf-8"))
        for part in members(body):
            message = _fault(b"{%b}" % body[part.start : part.end])
            if message is not None:
                return invalid(part.name, message)
    except ValueError as exc:
        error = without_frames(exc)
    return InvalidJson(f"The body could not be read as JSON: {error}.")


def _fault(member: bytes) -> str | None:
    """Return what keeps a member that is JSON from being kept; None for a good one, and for one that is no JSON."""
    try:
        _any.decode(member)
    except RecursionError:
        return _TOO_DEEP
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            json.dumps(_plain.decode(member.decode("utf-8")), ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return _HALF
        except (ValueError, RecursionError):
            pass
    return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


_any = msgspec.json.Decoder()
_batch = msgspec.json.Decoder(BatchRequest)
_metadata: "msgspec.json.Decoder[dict[str, Any] | None]" = msgspec.json.Decoder(dict[str, Any] | None)
_plain = json.JSONDecoder(parse_constant=_refuse)
_HALF = "holds half of an emoji, a surrogate alone, which no text can hold; was something cut in its middle?"
_TOO_DEEP = f"may have at most {MAX_DEPTH} objects and arrays within one another"
_TOO_LARGE = "holds a number that is too large to be read, such as 1e400"

NO_INSTANT = "must be an instant with a zone as RFC 3339 has it, such as 2026-11-23T10:00:00Z"
NO_CLIENT = "must be a client's name: lower-case letters, digits and hyphens"

# Without a place: no request has an object with fixed members within another one.
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`$")
_MESSAGES = {
    f"Expected `str` matching regex {TASK_ID_PATTERN!r}": "must be printable ASCII without spaces",
    f"Expected `str` matching regex {_INSTANT!r}": NO_INSTANT,
    f"Expected `str` matching regex {_CLIENT!r}": NO_CLIENT,
    "Number out of range": _TOO_LARGE,
    "Integer value out of range": _TOO_LARGE,
}


def _explain(text: str) -> tuple[str, str]:
    """Split msgspec's message into the field's name and what is wrong with it."""
    if found := _UNKNOWN.match(text):  # first, as the name may look like a place
        return found["name"], "is not a member of this request; check its spelling"
    reason, _, where = text.partition(" - at `")
    # "$.metadata[...]" → "metadata": what is further inside has no name here
    parent = where.rstrip("`").removeprefix("$").lstrip(".").partition("[")[0]
    if found := _MISSING.match(reason):
        return ".".join(filter(None, (parent, found["name"]))), "is missing"
    if parent == "format":
        return parent, f"must be one of {', '.join(Format)}"
    if parent == "state":
        return parent, 'must be "dead": callbacks in another state are redelivered one by one'
    if parent == "timeoutSeconds":
        return parent, "must be a whole number from 1 to 2592000"
    return parent, _MESSAGES.get(reason) or reason[:1].lower() + reason[1:]
