"""Operator event → the exact bytes of its webhook, with what to do about it and where the manual tells more.

Owns the words; pure. Called by the loop that sends events. The words are kept with an event from its first attempt on,
and its body is made for each attempt anew: the same bytes each time, also after a restart with other words.
"""

from collections.abc import Mapping

import msgspec

from gateway.core.clock import to_iso
from gateway.core.eventledger import (
    CALLBACK_DEAD,
    RECEIVER_FAILING,
    RECEIVER_RECOVERED,
    UPSTREAM_RECOVERED,
    UPSTREAM_REFUSED,
    WaitingEvent,
)

WHAT_TO_DO: Mapping[str, str] = {
    CALLBACK_DEAD: "These webhooks are not sent again by themselves: mend their receiver, then redeliver them with "
    "`gateway redeliver --state dead`, or on the dashboard.",
    RECEIVER_FAILING: "Look whether the receiver runs and what it answers; meanwhile it is tried with one webhook at a "
    "time, by the retry schedule. Nothing is lost before a webhook's last attempt.",
    RECEIVER_RECOVERED: "What is pending is sent by itself. Redeliver what has died meanwhile, if it is still wanted.",
    UPSTREAM_REFUSED: "Look whether the upstream's key is the right one and still counts, put a new one into the "
    "settings, and send the gateway SIGHUP: no task is polled until the upstream accepts it.",
    UPSTREAM_RECOVERED: "Nothing: its tasks are polled again.",
}
MANUAL: Mapping[str, str] = {
    CALLBACK_DEAD: "troubleshooting#the-callback-is-dead",
    RECEIVER_FAILING: "troubleshooting#attempts-fail",
    RECEIVER_RECOVERED: "events#receiverrecovered",
    UPSTREAM_REFUSED: "troubleshooting#the-key-is-refused",
    UPSTREAM_RECOVERED: "events#upstreamrecovered",
}
"""The page of the manual, and the heading on it."""


def words_of(type_: str, manual: str) -> dict[str, str]:
    """Return what an event of a type says of itself; ``manual`` is where the manual is, without a slash at its end."""
    return {"whatToDo": WHAT_TO_DO[type_], "manual": f"{manual}/{MANUAL[type_]}"}


def event_body(event: WaitingEvent) -> bytes:
    """Return the body of an event that has its words."""
    return msgspec.json.encode({"type": event.type, "timestamp": to_iso(event.at), "data": event.data})
