"""What ``/openapi.json`` tells of operator events: the body of each, with an example.

Owns the types of the bodies. Called by ``openapi``; what is really sent ``core.eventledger`` and ``webhook.eventbody``
make, and a test holds it to this.
"""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

from gateway.api.views import Instant
from gateway.webhook.eventbody import MANUAL, WHAT_TO_DO

ABOUT = (
    "Goes to GATEWAY_EVENTS_URL, where that is set, signed with the gateway's own secret. It says what to do, and "
    "where the manual tells more. What would be told again and again is gathered."
)


class _Advice(TypedDict):
    """What each ends with."""

    whatToDo: str
    manual: str
    dropped: NotRequired[int]


class CallbackDeadData(_Advice, TypedDict):
    client: str | None
    receiver: str | None
    count: int
    callbackIds: list[str]
    lastError: str | None


class CallbackDeadEvent(TypedDict):
    """Callbacks have died: receiver and client are null where it is of several receivers."""

    type: Literal["callback.dead"]
    timestamp: Instant
    data: CallbackDeadData


class ReceiverFailingData(_Advice, TypedDict):
    client: str | None
    receiver: str | None
    count: int
    failures: NotRequired[int]
    pending: NotRequired[int]
    lastError: str | None


class ReceiverFailingEvent(TypedDict):
    """A receiver fails; or, with receiver and client null, so many more than are told of one by one."""

    type: Literal["receiver.failing"]
    timestamp: Instant
    data: ReceiverFailingData


class ReceiverRecoveredData(_Advice, TypedDict):
    client: str
    receiver: str
    failedSince: Instant
    dead: int
    pending: int


class ReceiverRecoveredEvent(TypedDict):
    """A receiver that was told of takes webhooks again."""

    type: Literal["receiver.recovered"]
    timestamp: Instant
    data: ReceiverRecoveredData


class UpstreamRefusedData(_Advice, TypedDict):
    upstream: str | None
    count: NotRequired[int]
    tasksWaiting: NotRequired[int]
    lastError: str | None


class UpstreamRefusedEvent(TypedDict):
    """An upstream refuses the key."""

    type: Literal["upstream.refused"]
    timestamp: Instant
    data: UpstreamRefusedData


class UpstreamRecoveredData(_Advice, TypedDict):
    upstream: str
    failedSince: Instant
    tasksWaiting: int


class UpstreamRecoveredEvent(TypedDict):
    """An upstream accepts the key again."""

    type: Literal["upstream.recovered"]
    timestamp: Instant
    data: UpstreamRecoveredData


EVENTS: Mapping[str, tuple[str, str, Any]] = {
    "callback.dead": ("callbackDead", "Callbacks have died", CallbackDeadEvent),
    "receiver.failing": ("receiverFailing", "A receiver fails", ReceiverFailingEvent),
    "receiver.recovered": ("receiverRecovered", "A receiver has recovered", ReceiverRecoveredEvent),
    "upstream.refused": ("upstreamRefused", "An upstream refuses the key", UpstreamRefusedEvent),
    "upstream.recovered": ("upstreamRecovered", "An upstream accepts the key again", UpstreamRecoveredEvent),
}
"""By its type: operationId, summary, and the body's type."""

_AT, _SINCE = "2026-11-23T10:05:00.000Z", "2026-11-23T10:00:00.000Z"
_LANE = {"client": "shop", "receiver": "https://app.example.com"}
_ERROR = "app.example.com answered 503: look into the receiver's log."
_REFUSED = "The upstream answered 401."
# fmt: off
_DATA: Mapping[str, dict[str, Any]] = {
    "callback.dead": {
        **_LANE, "count": 1, "callbackIds": ["cb_01m83xj8806rph1h63g1e98972"], "lastError": _ERROR,
    },
    "receiver.failing": {**_LANE, "count": 1, "failures": 5, "pending": 12, "lastError": _ERROR},
    "receiver.recovered": {**_LANE, "pending": 12, "failedSince": _SINCE, "dead": 0},
    "upstream.refused": {"upstream": "aigptimage", "tasksWaiting": 40, "lastError": _REFUSED},
    "upstream.recovered": {"upstream": "aigptimage", "tasksWaiting": 40, "failedSince": _SINCE},
}
# fmt: on
EXAMPLES: Mapping[str, Any] = {
    name: {
        "type": name,
        "timestamp": _AT,
        "data": {**data, "whatToDo": WHAT_TO_DO[name], "manual": f"https://gateway.example.com/manual/{MANUAL[name]}"},
    }
    for name, data in _DATA.items()
}
"""A body of each type."""
