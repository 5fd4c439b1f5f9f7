"""Outcome → the webhook's exact bytes.

Owns the shape of the body; pure. What differs between the callbacks of one task (its id and its metadata) is left open
in a template, so that the store can fill it in for all of them in one statement.
"""

import msgspec

from gateway.clock import to_iso
from gateway.model import Outcome, TaskState

__all__ = ["BodyTemplate", "body_template"]

_EVENT_TYPE = {
    TaskState.SUCCESS: "task.succeeded",
    TaskState.FAIL: "task.failed",
    TaskState.ABANDONED: "task.abandoned",
}


class BodyTemplate(msgspec.Struct, frozen=True):
    """A body is ``head + callback id + middle + metadata + tail``, the metadata being an encoded JSON object."""

    head: bytes
    middle: bytes
    tail: bytes

    def fill(self, callback_id: str, metadata: bytes) -> bytes:
        """Return one callback's body."""
        return b"".join((self.head, callback_id.encode(), self.middle, metadata, self.tail))


def body_template(outcome: Outcome, settled_at: int) -> BodyTemplate:
    """Return the body of every webhook that this outcome makes due; ``settled_at`` becomes its ``timestamp``."""
    head = f'{{"type":"{_EVENT_TYPE[outcome.state]}","timestamp":"{to_iso(settled_at)}","data":{{"callbackId":"'
    # outcome.data is an object with at least taskId: without its braces it is a list of members.
    return BodyTemplate(head.encode(), b'",' + outcome.data[1:-1] + b',"metadata":', b"}}")
