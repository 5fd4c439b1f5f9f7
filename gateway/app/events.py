"""The wiring of operator events: the loop that tells them, and its own connections to whoever is told.

Makes nothing, and imports nothing of it, where GATEWAY_EVENTS_URL is not set. Called by ``build``.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from gateway.app.gateway import Watch
from gateway.app.shared import Shared
from gateway.config.settings import Settings
from gateway.loops.deliverer import Deliverer
from gateway.loops.supervisor import Loop
from gateway.net.guard import Netguard
from gateway.net.transport import PooledTransport
from gateway.webhook.explaining import OF_EVENTS
from gateway.webhook.headers import ClientHeaders
from gateway.webhook.receivers import Receivers
from gateway.webhook.retry import RetryPolicy, at_least_each
from gateway.webhook.sender import Sender

_LONGEST_WAIT_S = 1600.0
"""Between two attempts at an event, half an hour with its jitter: who was away for a day waits no ten hours more."""


class Telling(NamedTuple):
    """What tells the operator."""

    loop: Loop
    transport: PooledTransport
    receivers: Receivers
    """What a table [[receivers]] says of whoever is told, by way of connections of its own."""
    error: Callable[[], str | None]
    """Why what is told does not get through; None where it does."""

    @property
    def failing_proxies(self) -> list[str]:
        """The egress proxy before whoever is told, while it cannot be used; another replica may have got through."""
        return [] if self.error() is None else self.receivers.failing_proxies


def telling(
    settings: Settings, shared: Shared, deliverer: Deliverer, watches: Sequence[Watch], headers: ClientHeaders
) -> Telling | None:
    """Return what tells the operator; None where nobody is to be told."""
    url = settings.events_url
    if url is None:
        return None
    from gateway.loops.happenings import Happenings, PolledKey  # here: few have this, and all are to start fast
    from gateway.loops.operatorevents import OperatorEvents

    # Of its own: whom the operator wants told is no address that callbacks may reach, and waits behind none of them.
    guard = Netguard.for_url(url)
    transport = PooledTransport(guard=guard, resolve=shared.resolver.resolve, limit=1, limit_idle=1)
    receivers = Receivers(guard, shared.resolver.resolve, 1, shared.clock.monotonic)
    sender = Sender(
        transport,
        shared.clock,
        timeout_s=settings.attempt_timeout_s,
        receivers=receivers,
        peer=OF_EVENTS,
    )
    keys = [PolledKey(one.upstream.name, one.key, partial(_polls, one)) for one in watches]
    loop = OperatorEvents(
        shared.store.events,
        Happenings(shared.store.events, deliverer, keys, shared.clock),
        sender,
        headers,
        RetryPolicy(at_least_each(_LONGEST_WAIT_S, settings.retry_schedule)),
        shared.clock,
        shared.metrics,
        random.Random(),  # noqa: S311 - jitter, not a secret
        url=url,
        manual=f"{settings.url or settings.root_path}/manual",
    )
    return Telling(loop, transport, receivers, lambda: loop.error)


def _polls(watch: Watch) -> bool:
    """Whether this process polls the upstream."""
    return watch.poller.lease.lasts
