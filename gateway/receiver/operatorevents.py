"""What an operator event tells, typed, and how it is read from its body.

Owns its members. Pure; called by ``gateway.receiver.verifying``, once the signature has been checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

OperatorType = Literal[
    "callback.dead", "receiver.failing", "receiver.recovered", "upstream.refused", "upstream.recovered"
]
OPERATOR_TYPES: frozenset[str] = frozenset(get_args(OperatorType))


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorEvent:
    """Something that whoever runs the gateway should know; what its type does not tell is None."""

    webhook_id: str
    """The same in every attempt: a repetition is known by it."""
    sent_at: datetime
    """When this attempt was made."""
    happened_at: datetime
    type: OperatorType
    what_to_do: str
    manual: str
    """Where the manual tells more: a URL, or its path where the gateway does not know its own."""
    client: str | None
    receiver: str | None
    """Scheme, host and port; None also where the event is about several."""
    upstream: str | None
    count: int | None
    """Callbacks that have died, or receivers that fail."""
    callback_ids: tuple[str, ...]
    """The first of those that have died."""
    last_error: str | None
    failures: int | None
    """Attempts that failed in a row."""
    pending: int | None
    """Webhooks that are owed to the receiver; 10,000 may be more."""
    dead: int | None
    """Callbacks that have died since ``failed_since``."""
    tasks_waiting: int | None
    """Tasks that are to be polled."""
    failed_since: datetime | None
    dropped: int
    """Events before this one that there was no room for."""
    raw: Mapping[str, Any] = field(repr=False)
    """The whole body, decoded."""

    @property
    def recovered(self) -> bool:
        """Whether something is well again."""
        return self.type.endswith(".recovered")

    @property
    def about(self) -> str:
        """What it is about: the same when that fails and when it has recovered, as a key of an incident has to be."""
        return self.upstream or " ".join(filter(None, (self.client, self.receiver))) or "several receivers"


def read_operator_event(event: Any, webhook_id: str, sent_at: datetime) -> OperatorEvent:
    """Return what a decoded body says. Raises ValueError, TypeError or KeyError where it is none."""
    type_, data = event["type"], event["data"]
    if type_ not in OPERATOR_TYPES:
        raise ValueError(f"{type_!r} is no type of an operator event")
    since = data.get("failedSince")
    return OperatorEvent(
        webhook_id=webhook_id,
        sent_at=sent_at,
        happened_at=datetime.fromisoformat(event["timestamp"]),
        type=type_,
        what_to_do=str(data["whatToDo"]),
        manual=str(data["manual"]),
        client=data.get("client"),
        receiver=data.get("receiver"),
        upstream=data.get("upstream"),
        count=data.get("count"),
        callback_ids=tuple(data.get("callbackIds", ())),
        last_error=data.get("lastError"),
        failures=data.get("failures"),
        pending=data.get("pending"),
        dead=data.get("dead"),
        tasks_waiting=data.get("tasksWaiting"),
        failed_since=None if since is None else datetime.fromisoformat(since),
        dropped=data.get("dropped", 0),
        raw=event,
    )
