"""Outcome → the webhook's exact bytes.

Owns the shape of the body; pure. Called by the deliverer for each attempt, and by the poller for what is given up.

What is written here of a task that the upstream has ended is not stored: it is made anew for each attempt. So its bytes
are fixed for good, and a receiver that has seen a webhook must get the same from every later version.
"""

import msgspec

from gateway.core.clock import to_iso
from gateway.core.model import BodyParts, Outcome, TaskState

__all__ = ["BodyTemplate", "body_template", "webhook_body"]

_EVENT_TYPE = {
    TaskState.SUCCESS: "task.succeeded",
    TaskState.FAIL: "task.failed",
    TaskState.ABANDONED: "task.abandoned",
}
_AFTER_ID = b'",'
_BEFORE_METADATA = b',"metadata":'
_TAIL = b"}}"


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
        return body
    return body_template(body.outcome, body.settled_at).fill(callback_id, body.metadata)
