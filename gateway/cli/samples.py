"""One webhook of each kind to try a receiver with: made, as all are, of a task's outcome.

Owns what tells it from a real one: its task's id, and its metadata. Called by ``sendtest``.
"""

from typing import Any, NamedTuple

import msgspec

from gateway.api.examples import WEBHOOKS
from gateway.config.profile import Profile
from gateway.core.claims import BodyParts, DueCallback
from gateway.core.ids import new_callback_id
from gateway.core.model import Format, Outcome, TaskState
from gateway.core.urls import receiver_of
from gateway.loops.endings import gave_up
from gateway.webhook.body import webhook_body

KINDS = {"succeeded": TaskState.SUCCESS, "failed": TaskState.FAIL, "abandoned": TaskState.ABANDONED}
_METADATA = b'{"sample":true}'
_NOT_OF_OUTCOME = ("callbackId", "metadata")


class Sample(NamedTuple):
    """A webhook that could be sent now."""

    claim: DueCallback
    body: bytes


def sample(kind: str, format_: Format, url: str, client: str, profile: Profile, now: int) -> Sample:
    """Return a new webhook of this kind for a URL; ``profile`` says how a given up task is told in format record."""
    callback_id, task_id, state = new_callback_id(now), f"sample-{kind}", KINDS[kind]
    parts: BodyParts | bytes
    if state is TaskState.ABANDONED and format_ is Format.RECORD:
        parts = b"".join(gave_up(profile, task_id, "timeout", now).record or ())
    else:
        event: dict[str, Any] = WEBHOOKS[f"task.{kind}"]
        told = {name: value for name, value in event["data"].items() if name not in _NOT_OF_OUTCOME}
        data = msgspec.json.encode(told | {"taskId": task_id})
        outcome = Outcome(state=state, data=data)
        parts = BodyParts(outcome=outcome, settled_at=now, metadata=_METADATA, format=format_)
    body = webhook_body(callback_id, parts)
    claim = DueCallback(
        seq=0,
        id=callback_id,
        task_id=task_id,
        client=client,
        url=url,
        receiver=receiver_of(url),
        format=format_,
        attempts=0,
        budget_used=0,
        redeliveries=0,
        due_at=now,
        fence=0,
        trace=None,
        body_bytes=len(body),
        body=None,
    )
    return Sample(claim, body)
