"""Outcome → the webhook's exact bytes.

Owns the shape of the body, in both formats; pure. Called by the deliverer for each attempt, and by the poller at the
end of a task, for what is given up and for format record.

What the deliverer makes of a task that the upstream has ended is not stored: it is made anew for each attempt. So its
bytes are fixed for good, and a receiver that has seen a webhook must get the same from every later version. So the
template of an API's own callbacks is stored with the task's record: its profile may change meanwhile.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from gateway.core import lenientjson
from gateway.core.claims import BodyParts
from gateway.core.clock import to_iso
from gateway.core.jsontemplate import filled
from gateway.core.model import Format, Outcome, TaskState

_EVENT_TYPE = {
    TaskState.SUCCESS: "task.succeeded",
    TaskState.FAIL: "task.failed",
    TaskState.ABANDONED: "task.abandoned",
}
_AFTER_ID = b'",'
_BEFORE_METADATA = b',"metadata":'
_TAIL = b"}}"
_RECORD_HEADS = {
    TaskState.SUCCESS: b'{"code":200,"msg":"Playground task completed successfully.","data":',
    TaskState.FAIL: b'{"code":501,"msg":"Playground task failed.","data":',
    TaskState.ABANDONED: b'{"code":408,"msg":"Playground task abandoned.","data":',
}
"""How the callbacks of the API family begin; its receivers look at the code. Source: its public documentation, but for
abandonment, which it does not know."""
_RECORD_TAIL = b"}"
_BAR = b"\0"
"""Stands before a template and behind it, where a record follows that a body is yet to be made of: in JSON it does not
occur."""


class BodyTemplate(msgspec.Struct, frozen=True):
    """A body is ``head + callback id + middle + metadata + tail``, the metadata being an encoded JSON object."""

    head: bytes
    members: memoryview
    """Those of ``data`` between the callback's id and its metadata: not a copy, as they may be many megabytes."""

    @property
    def frame(self) -> tuple[bytes, bytes, bytes]:
        """Head, middle and tail."""
        return self.head, b"".join((_AFTER_ID, self.members, _BEFORE_METADATA)), _TAIL

    def fill(self, callback_id: str, metadata: bytes) -> bytes:
        """Return one callback's body."""
        return b"".join(
            (self.head, callback_id.encode(), _AFTER_ID, self.members, _BEFORE_METADATA, metadata, _TAIL),
        )


def body_template(outcome: Outcome, settled_at: int) -> BodyTemplate:
    """Return the body of every webhook that an outcome makes due; ``settled_at`` becomes its ``timestamp``."""
    head = f'{{"type":"{_EVENT_TYPE[outcome.state]}","timestamp":"{to_iso(settled_at)}","data":{{"callbackId":"'
    # outcome.data is an object with at least taskId: without its braces it is a list of members.
    return BodyTemplate(head.encode(), memoryview(outcome.data)[1:-1])


def webhook_body(callback_id: str, body: BodyParts | bytes) -> bytes:
    """Return a callback's body, made of its parts where it is not stored."""
    if isinstance(body, bytes):
        return _callback(body) if _is_template(body) else body
    if body.format is Format.RECORD:
        return record_body(body.outcome.state, _record(body.outcome))
    return body_template(body.outcome, body.settled_at).fill(callback_id, body.metadata)


def is_light(body: BodyParts | bytes) -> bool:
    """Return whether making it takes no longer than an event loop may be held up."""
    return not _is_template(body) or lenientjson.is_light(body)


def cost(body: BodyParts | bytes) -> int:
    """Return about how many bytes making it takes beside itself: for a template its record is decoded."""
    return lenientjson.cost(body) if _is_template(body) else 0


def record_parts(state: TaskState, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the body of format record around a task's record, which is an encoded JSON object, in parts."""
    return _RECORD_HEADS[state], data, _RECORD_TAIL


def record_body(state: TaskState, data: bytes) -> bytes:
    """Return the same as a whole."""
    return b"".join(record_parts(state, data))


def callback_parts(template: Mapping[str, Any], data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return, in parts, what a body in the shape of an API's own callbacks is made of, for good."""
    return b"".join((_BAR, msgspec.json.encode(template), _BAR)), data, b""


def _is_template(body: BodyParts | bytes) -> TypeGuard[bytes]:
    return isinstance(body, bytes) and body.startswith(_BAR)


def _callback(parts: bytes) -> bytes:
    _, template, data = parts.split(_BAR, 2)
    return msgspec.json.encode(filled(msgspec.json.decode(template), msgspec.json.decode(data)))


def record_of(body: bytes) -> bytes:
    """Return the record in what is stored of a body of format record; what is none of these is itself the record."""
    if body.startswith(_BAR):
        return body.split(_BAR, 2)[2]
    for head in _RECORD_HEADS.values():
        if body.startswith(head):
            return body[len(head) : -len(_RECORD_TAIL)]
    return body


def _record(outcome: Outcome) -> bytes:
    """Return the record of an ended task as the API family would have it, where what it sent was not kept."""
    # Raw: numbers keep their digits, and what goes back into a text is its text already.
    told = msgspec.json.decode(outcome.data, type=dict[str, msgspec.Raw])
    members: dict[str, Any] = {
        "taskId": told["taskId"],
        "model": told.get("model"),
        "state": outcome.state,
        "param": _in_text(told, "param"),
        "resultJson": _in_text(told, "result"),
        "failCode": told.get("failCode"),
        "failMsg": told.get("failMsg"),
        "costTime": told.get("costTime"),
        "completeTime": told.get("completeTime"),
        "createTime": told.get("createTime"),
    }
    extra = msgspec.json.decode(told.get("extra", b"{}"), type=dict[str, msgspec.Raw])
    return msgspec.json.encode(members | {name: value for name, value in extra.items() if name not in members})


def _in_text(told: dict[str, msgspec.Raw], name: str) -> msgspec.Raw | None:
    """Return a decoded member as JSON within a text again, or the text that was no JSON."""
    if f"{name}Raw" in told:
        return told[f"{name}Raw"]
    value = bytes(told.get(name, b"null"))
    if value == b"null":
        return None
    # It is compact JSON: these are all the characters in it that a text cannot hold as they are. Decoded and encoded, a
    # large one would be there many times.
    return msgspec.Raw(b'"%b"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"'))
