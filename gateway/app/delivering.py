"""The wiring of the loop that sends webhooks. Called by ``build``."""

import random

from gateway.app.shared import Shared
from gateway.config.settings import Settings
from gateway.loops.deliverer import Deliverer
from gateway.loops.pauses import Pauses
from gateway.net.transport import PooledTransport
from gateway.webhook.headers import ClientHeaders
from gateway.webhook.receivers import Receivers
from gateway.webhook.retry import RetryPolicy
from gateway.webhook.sender import Sender


def deliverer(
    settings: Settings,
    shared: Shared,
    transport: PooledTransport,
    headers: ClientHeaders,
    pauses: Pauses,
    receivers: Receivers,
) -> Deliverer:
    """Return the loop, and let the metrics know what only it and the tables of receivers know."""
    shared.metrics.client_certificate_ends.set_function(lambda: receivers.certificate_ends_at)
    sender = Sender(
        transport,
        shared.clock,
        timeout_s=settings.attempt_timeout_s,
        names=transport,
        receivers=receivers,
    )
    return Deliverer(
        shared.store.outbox,
        sender,
        headers,
        RetryPolicy(settings.retry_schedule),
        shared.memory,
        shared.clock,
        shared.metrics,
        random.Random(),  # noqa: S311 - jitter, not a secret
        pauses,
        receivers.limits,
        shared.tracing,
    )
