"""For receivers of webhooks written in Python: verify one, get a typed event, handle each once.

::

    from gateway.receiver import Succeeded, verify

    event = verify(request_body, request_headers, "whsec_…")  # raises VerificationError
    if isinstance(event, Succeeded):
        print(event.task_id, event.result_urls)

``verify_operator_event`` reads what GATEWAY_EVENTS_URL gets. For FastAPI and Starlette: ``gateway.receiver.starlette``.
Imports nothing of the server. The manual: Receivers.
"""

from gateway.core.errors import SecretError, VerificationError
from gateway.receiver.events import Abandoned, Event, Failed, Succeeded, UnknownBody
from gateway.receiver.operatorevents import OperatorEvent
from gateway.receiver.remembering import Busy, MemoryIds, SqliteIds, WebhookIds
from gateway.receiver.verifying import verify, verify_operator_event

__all__ = [
    "Abandoned",
    "Busy",
    "Event",
    "Failed",
    "MemoryIds",
    "OperatorEvent",
    "SecretError",
    "SqliteIds",
    "Succeeded",
    "UnknownBody",
    "VerificationError",
    "WebhookIds",
    "verify",
    "verify_operator_event",
]
